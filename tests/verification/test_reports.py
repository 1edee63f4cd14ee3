"""A report as text, on a terminal, as JSON and as a page: what it says, what it withstands, and that it can be read."""

import base64
import errno
import io
import json
import math
import re
import shutil
import subprocess
from dataclasses import fields, replace
from html.parser import HTMLParser
from importlib import resources
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from rich.console import Console
from sample_reports import SAMPLES, deep, fault, flipped, hostile, passing, reordered, single_fault, six_faults

from reforg.cli.tables import show
from reforg.errors import ConfigError
from reforg.verification.findings import DIVERGES, Difference, ErrorMap, Selection
from reforg.verification.report import Report
from reforg.verification.show.documents import as_dict, write_html, write_json
from reforg.verification.show.page import chart as page_chart
from reforg.verification.show.page import map as page_map
from reforg.verification.show.page.chart import MOST, Column, Group, Scale, packed
from reforg.verification.show.page.document import report_page
from reforg.verification.show.screen import report_table
from reforg.verification.show.text import report_text
from reforg.verification.show.wording import closest, kind_of, parts, place, share, times

every_sample = pytest.mark.parametrize("sample", SAMPLES)
SCHEMA = json.loads(resources.files("reforg").joinpath("data", "verify.schema.json").read_text(encoding="utf-8"))
STYLE = resources.files("reforg").joinpath("data", "verify.css").read_text(encoding="utf-8")
BROWSER = next((found for name in ("chromium", "chromium-browser", "google-chrome") if (found := shutil.which(name))), "")
VOID = {"meta", "link", "br", "wbr", "rect", "path", "image", "circle"}


def difference(worst: float, limit: float, **rest: object) -> Difference:
    return replace(fault("blocks.0.mlp", 1, worst, limit, None), **rest)


# What the figures mean.


def test_kinds_tell_what_is_compared_or_why_nothing_can_be():
    assert kind_of(difference(1.0, 2.0)) == "within"
    assert kind_of(difference(0.0, 0.0)) == "within"
    assert kind_of(difference(3.0, 2.0, where=(0, 1, 2))) == "element"
    assert kind_of(difference(3.0, 2.0)) == "mean"
    assert kind_of(difference(math.inf, 0.0, shape_got=(1, 2))) == "shape"
    assert kind_of(difference(math.inf, 0.0, where=(0, 1, 2))) == "unbounded"
    assert kind_of(difference(math.nan, 1.0)) == "unbounded"


def test_a_share_is_the_error_in_units_of_its_limit():
    assert share(difference(3.0, 2.0)) == 1.5
    assert share(difference(0.0, 0.0)) == 0.0
    assert share(difference(1.0, math.inf)) == 0.0
    for worst, limit in ((1.0, 0.0), (math.inf, 0.0), (math.nan, 1.0), (1.0, math.nan)):
        assert share(difference(worst, limit)) == math.inf


@pytest.mark.parametrize(
    ("name", "where", "words"),
    [
        ("logits", (1, 207), "image 1, class 207"),
        ("blocks.3.attn.cls_attention", (0, 5), "image 0, token 5"),
        ("blocks.3.reorganized", (0, 5), "image 0, token 5"),
        ("fc_norm", (0, 5), "image 0, channel 5"),
        ("blocks.3", (1, 2, 3), "image 1, token 2, channel 3"),
        ("blocks.3.attn.scores", (0, 1, 2, 3), "image 0, head 1, query 2, key 3"),
        ("block1.0.attn.branches.0.context", (0, 1, 2, 3), "image 0, head 1, token 2, channel 3"),
        ("patch_embed.proj", (0, 1, 2, 3), "image 0, channel 1, row 2, column 3"),
        ("anything", (np.int64(4),), "axis 0: 4"),
        ("anything", None, ""),
    ],
)
def test_a_place_is_said_in_words(name, where, words):
    assert place(difference(1.0, 0.5, name=name, where=where)) == words


def test_the_closest_image_has_the_smallest_margin_in_units_of_its_limit():
    selection = Selection("blocks.3", (4.0, 3.0, 9.0), (1.0, 1.0, 9.0), (0, 0, 0), False, "equal")
    assert closest(selection) == 2
    assert closest(replace(selection, margins=(4.0, math.nan, 9.0))) == 1
    assert closest(replace(selection, limits=(0.0, 0.0, 0.0))) == 0
    assert closest(Selection("blocks.3", (), (), (), False, "equal")) is None


def test_values_are_grouped_by_block():
    names = ["patch_embed.proj", "embedded", "blocks.0.norm1", "blocks.0", "blocks.10.norm1", "blocks", "norm", "logits"]
    assert parts(names) == [("patch_embed", [0, 1]), ("blocks.0", [2, 3]), ("blocks.10", [4]), ("head", [5, 6, 7])]
    names = ["patch_embed1", "block1.0.attn.q", "block1.0", "norm1", "patch_embed2.norm", "block2.0", "norm4"]
    assert [label for label, _ in parts(names)] == ["patch_embed1", "block1.0", "patch_embed2", "block2.0", "norm4"]


def test_factors_have_the_digits_that_matter():
    assert [times(value) for value in (0.0, 0.004, 0.7, 1.27, 12.4, 1234.5, 2.5e6, math.inf)] == [
        "0", "4.0e-03", "0.70", "1.27", "12", "1,234", "2.5e+06", "infinite",
    ]  # fmt: skip


# Text.


@every_sample
def test_the_text_is_one_screen_of_80_columns(sample):
    lines = report_text(SAMPLES[sample]()).splitlines()
    assert len(lines) <= 45
    assert all(line.isprintable() for line in lines)
    assert all(len(line) <= 80 or " " not in line.strip()[:78] for line in lines if sample != "hostile")
    assert lines[0].startswith(SAMPLES[sample]().verdict)


def test_the_text_of_a_fault_tells_all_that_is_known_of_it():
    text = str(six_faults())
    assert text.splitlines()[0] == "diverges: 6 faults, the first in patch_embed.proj"
    for said in (
        "1. patch_embed.proj: 1.2e+05 times its limit\n   error 8.10e-02, limit 7.00e-07, at image 0, channel 17, row 3, column 9\n"
        "   explained by: patches read column by column\n",
        "3. blocks.3.norm2, arising in blocks.3.reorganized: 6.2e+05 times its limit\n",
        "4. blocks.5.attn.qkv: 1.27 times its limit\n   root mean square 1.40e-06, limit 1.10e-06\n   no known variant explains it",
        "5. blocks.8.mlp.fc1: wrong shape\n   shape (4, 101, 384), wanted (4, 101, 1536)\n   weights of fc2 perhaps\n",
        "6. norm: beyond every limit\n   no finite error at image 0, token 1, channel 2\n   not finite\n",
        "blocks.6   diverges                          1.57e-06  4.75e-09      2\n",
        "blocks.9   not seen                          1.14e-05  5.08e-09      -\n",
        "  unknown    2 names: blocks.0.attn.drop, total\n",
        "note: q, k and v were joined into attn.qkv",
    ):
        assert said in text


def test_the_text_says_of_each_verdict_what_it_means():
    assert str(passing()).startswith("equal: 174 values compared, all within the rounding of float32\n")
    assert str(reordered()).startswith("equal up to token order: all is within the rounding of float32\n")
    assert str(flipped()).startswith("selection differs within rounding: the scores are too close to tell apart\n")
    assert str(replace(passing(), verdict=DIVERGES)).startswith("diverges\n")
    assert "  compared   1 value, within its limit (0.27 of it)\n" in str(SAMPLES["logits_passed"]())
    assert "174 values, all within their limits; nearest to it" in " ".join(str(passing()).split())


def test_a_limit_that_is_hardly_passed_is_not_called_one_times_the_limit():
    wrong = difference(1.004e-6, 1e-6, where=(0, 0, 0))
    assert "blocks.0.mlp: just above its limit\n" in str(replace(single_fault(), faults=(wrong,)))


def test_many_faults_and_selections_are_cut():
    report = six_faults()
    chosen = [replace(report.selections[0], path=f"blocks.{number}") for number in range(40)]
    chosen[37] = replace(chosen[37], verdict=DIVERGES)
    text = str(replace(report, faults=report.faults * 10, selections=tuple(chosen)))
    assert "\n54 more faults: patch_embed.proj, blocks.1.ls1, blocks.3.reorganized" in text
    assert "\nand 28 more\n" in text
    assert "blocks.37  diverges" in text
    assert len(text.splitlines()) < 60


# The terminal.


def printed(report: Report, capsys: pytest.CaptureFixture[str]) -> str:
    show(report_table(report))
    return capsys.readouterr().out


@every_sample
def test_a_pipe_gets_80_columns_without_colours(sample, capsys):
    lines = printed(SAMPLES[sample](), capsys).splitlines()
    assert max(map(len, lines)) <= 80
    assert all(line.isprintable() for line in lines)
    assert lines[0].startswith(SAMPLES[sample]().verdict)


def test_the_terminal_shows_faults_selections_and_a_bar_for_each_block(capsys):
    text = printed(six_faults(), capsys)
    rows = [" ".join(line.split()) for line in text.splitlines()]
    for row in (
        "1 patch_embed.proj 8.10e-02 7.00e-07 1.2e+05 0, 17, 3, 9", "patches read column by column", "in blocks.1.ls1",
        "4 blocks.5.attn.qkv 1.40e-06 1.10e-06 1.27 rms", "5 blocks.8.mlp.fc1 shape", "6 norm unbounded 0, 1, 2",
        "blocks.6 diverges 1.57e-06 4.75e-09 2", "blocks.9 not seen 1.14e-05 5.08e-09 -",
        "note: q, k and v were joined into attn.qkv",
    ):  # fmt: skip
        assert row in rows
    bars = re.findall(r"(\S+) +[\u2588\u2591]{5} +(\S+)", text)
    assert dict(bars)["blocks.5"] == "1.27"
    assert dict(bars)["blocks.8"] == "beyond"
    assert len(bars) == 14


def test_a_bar_is_as_long_as_the_error_is_of_its_limit(capsys):
    given = [difference(worst, 1.0, name=f"blocks.{number}") for number, worst in enumerate((0.0, 0.1, 0.5, 1.0, 1.001))]
    text = printed(replace(passing(), differences=tuple(given), selections=()), capsys)
    lengths = {name: bar.count("\u2588") for name, bar in re.findall(r"(blocks\.\d+) +([\u2588\u2591]{5})", text)}
    assert lengths == {"blocks.0": 0, "blocks.1": 1, "blocks.2": 3, "blocks.3": 5, "blocks.4": 5}


def test_a_terminal_without_unicode_gets_letters():
    stream = io.TextIOWrapper(io.BytesIO(), encoding="ascii")
    Console(file=stream, width=80).print(report_table(six_faults()))
    stream.flush()
    assert b"blocks.4     ####." in stream.buffer.getvalue()


def test_the_verdict_has_its_colour():
    for report, colour in ((passing(), "32"), (reordered(), "33"), (flipped(), "33"), (six_faults(), "31")):
        console = Console(force_terminal=True, color_system="standard", width=80, file=io.StringIO())
        console.print(report_table(report))
        assert console.file.getvalue().startswith(f"\x1b[1;{colour}m{report.verdict}")


def test_a_name_is_no_markup(capsys):
    wrong = replace(single_fault().faults[0], name="[red]x[/red]", note="[/]", explanation="[link=a]b")
    text = printed(replace(single_fault(), faults=(wrong,), model="[bold]m"), capsys)
    assert all(name in text for name in ("[red]x[/red]", "[/]", "[link=a]b", "[bold]m"))


# JSON.


def violations(value: object, schema: dict, path: str = "$") -> list[str]:
    """Where a value is not what the schema says; of JSON Schema, the words that ours uses."""
    known = {"type", "const", "enum", "anyOf", "$ref", "items", "properties", "required", "additionalProperties", "minimum"}
    assert set(schema) <= known | {"description", "title", "$schema", "$id", "$defs"}
    if "$ref" in schema:
        return violations(value, SCHEMA["$defs"][schema["$ref"].rpartition("/")[2]], path)
    if "anyOf" in schema:
        return [] if any(not violations(value, other, path) for other in schema["anyOf"]) else [f"{path}: none of anyOf"]
    types = {
        "string": str,
        "boolean": bool,
        "null": type(None),
        "array": list,
        "object": dict,
        "integer": int,
        "number": (int, float),
    }
    wanted = [schema["type"]] if isinstance(schema.get("type"), str) else schema.get("type", list(types))
    if not any(isinstance(value, types[name]) and (name == "boolean") >= isinstance(value, bool) for name in wanted):
        return [f"{path}: {value!r} is no {wanted}"]
    found = []
    if ("const" in schema and value != schema["const"]) or ("enum" in schema and value not in schema["enum"]):
        found.append(f"{path}: {value!r} is not allowed")
    if isinstance(value, int | float) and value < schema.get("minimum", -math.inf):
        found.append(f"{path}: {value!r} is too small")
    if isinstance(value, list):
        found += [
            each for number, item in enumerate(value) for each in violations(item, schema.get("items", {}), f"{path}[{number}]")
        ]
    if isinstance(value, dict):
        found += [f"{path}.{name} is missing" for name in schema["required"] if name not in value]
        found += [f"{path}.{name} is unknown" for name in value if name not in schema["properties"]]
        for name in value.keys() & schema["properties"].keys():
            found += violations(value[name], schema["properties"][name], f"{path}.{name}")
    return found


def refuse(word: str) -> None:
    raise AssertionError(f"{word} is no JSON")


@every_sample
def test_the_json_is_what_its_schema_says(sample, tmp_path):
    report = SAMPLES[sample]()
    report.to_json(tmp_path / "report.json")
    content = (tmp_path / "report.json").read_bytes()
    value = json.loads(content, parse_constant=refuse)
    assert content.isascii()
    assert value == report.as_dict()
    assert violations(value, SCHEMA) == []


def test_the_check_of_the_schema_finds_violations():
    value = as_dict(six_faults())
    for change in (
        {"schema": 2}, {"images": True}, {"images": -1}, {"verdict": "fine"}, {"notes": [1]}, {"first": {}}, {"more": 1},
        {"faults": [value["first"] | {"worst": "large"}]},
    ):  # fmt: skip
        assert violations(value | change, SCHEMA), change
    assert violations({name: value[name] for name in value if name != "dtype"}, SCHEMA)


def test_the_schema_is_a_schema():
    jsonschema = pytest.importorskip("jsonschema")
    validator = jsonschema.Draft202012Validator
    validator.check_schema(SCHEMA)
    for made in SAMPLES.values():
        validator(SCHEMA).validate(as_dict(made()))


def test_every_field_is_in_the_schema_and_described():
    derived = {"schema", "reforg", "passed", "first", "explanation"}
    assert set(SCHEMA["properties"]) == {field.name for field in fields(Report)} - {"maps"} | derived
    assert set(SCHEMA["$defs"]["difference"]["properties"]) == {field.name for field in fields(Difference)} | {
        "passed", "kind", "share",
    }  # fmt: skip
    assert set(SCHEMA["$defs"]["selection"]["properties"]) == {field.name for field in fields(Selection)}
    for kind in (SCHEMA, *SCHEMA["$defs"].values()):
        assert kind["required"] == list(kind["properties"])
        assert all(len(field["description"]) > 8 for field in (kind, *kind["properties"].values()))


def test_what_is_no_number_is_null_and_has_its_kind():
    *_, wrong_shape, not_finite = as_dict(six_faults())["faults"]
    assert (wrong_shape["kind"], wrong_shape["worst"], wrong_shape["share"], wrong_shape["where"]) == ("shape", None, None, None)
    assert wrong_shape["shape_got"] == [4, 101, 384]
    assert (not_finite["kind"], not_finite["worst"], not_finite["where"]) == ("unbounded", None, [0, 1, 2])
    (odd,) = as_dict(hostile())["selections"]
    assert (odd["margins"], odd["limits"], odd["flips"]) == ([None, None, 0.0], [None, 0.0, 0.0], [1, 2, 3])


def test_numpy_scalars_become_plain_values():
    one = np.float32(1.0)
    found = difference(one, one * 2, where=(np.int64(1),), shape_got=(np.int64(2),))
    chosen = Selection("blocks.3", (one,), (np.float64(2),), (np.int64(3),), np.bool_(True), "equal")
    text = json.dumps(as_dict(replace(passing(), images=np.int64(2), differences=(found,), selections=(chosen,))), allow_nan=False)
    assert json.loads(text)["selections"][0] == {
        "path": "blocks.3", "verdict": "equal", "reordered": True, "margins": [1.0], "limits": [2.0], "flips": [3],
    }  # fmt: skip


def test_names_come_back_as_they_were_but_for_halves_of_characters():
    value = as_dict(hostile())
    assert value["unseen"] == ["</details>"]
    assert value["unknown"][0] == hostile().unknown[0].replace("\ud800", "\\ud800")
    assert len(value["unknown"][1]) == 100_000


# Files.

WRITERS = {"json": write_json, "html": write_html}
every_writer = pytest.mark.parametrize("writer", WRITERS.values(), ids=WRITERS)


@every_writer
def test_a_file_appears_whole_and_replaces_what_was_there(writer, tmp_path):
    path = tmp_path / "report"
    path.write_text("old")
    writer(passing(), str(path))
    assert path.stat().st_size > 10_000
    assert list(tmp_path.iterdir()) == [path]


@every_writer
def test_where_no_file_can_be_one_sentence_says_so(writer, tmp_path):
    (tmp_path / "link").symlink_to("elsewhere")
    for path, sentence in (
        (tmp_path, f"report: {str(tmp_path)!r} is a folder"),
        (tmp_path / "none" / "a", f"report: '{tmp_path}/none/a' cannot be written: there is no folder '{tmp_path}/none'"),
        (tmp_path / "link", f"report: '{tmp_path}/link' is a link, a pipe or a device: give the name of a file"),
        ("a\0b", "report: 'a\\x00b' cannot be written: no name holds a null byte"),
        (3, "report: the name of a file is wanted, got int"),
        (b"a", "report: the name of a file is wanted, got bytes"),
        (None, "report: the name of a file is wanted, got NoneType"),
    ):
        with pytest.raises(ConfigError, match=f"^{re.escape(sentence)}$"):
            writer(passing(), path)


@every_writer
def test_a_full_disk_leaves_what_was_there(writer, tmp_path, monkeypatch):
    def full(self, content):
        with self.open("wb") as file:
            file.write(content[:10])
        raise OSError(errno.ENOSPC, "No space left on device")

    path = tmp_path / "report"
    path.write_text("old")
    monkeypatch.setattr(Path, "write_bytes", full)
    with pytest.raises(ConfigError, match=r"cannot be written: No space left on device$"):
        writer(passing(), path)
    assert path.read_text() == "old"
    assert list(tmp_path.iterdir()) == [path]


# The page.


class Tree(HTMLParser):
    """Tags of a page with their attributes, text by tag, and whether every tag is closed where it should be."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.tags: list[tuple[str, dict[str, str]]] = []
        self.texts: list[tuple[str, str]] = []
        self.feed(text)
        self.close()
        assert self.open == []

    def handle_starttag(self, tag, attributes):
        self.tags.append((tag, dict(attributes)))
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag, attributes):
        self.tags.append((tag, dict(attributes)))

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, text):
        self.texts.append((self.open[-1] if self.open else "", text))

    def all(self, tag: str, look: str | None = None) -> list[dict[str, str]]:
        return [found for name, found in self.tags if name == tag and (look is None or found.get("class") == look)]

    def text(self, tag: str) -> list[str]:
        return [text for name, text in self.texts if name == tag]


@every_sample
def test_the_page_needs_no_script_and_nothing_from_elsewhere(sample):
    tree = Tree(report_page(SAMPLES[sample]()))
    assert not tree.all("script")
    for tag, attributes in tree.tags:
        assert not [name for name in attributes if name.startswith("on")]
        for name in ("src", "href", "xlink:href", "data", "action"):
            assert attributes.get(name, "data:").startswith("data:"), tag
    assert "url(" not in STYLE
    assert "@import" not in STYLE
    policy = tree.all("meta")[1]
    assert (policy["http-equiv"], policy["content"].split(";")[0]) == ("Content-Security-Policy", "default-src 'none'")


@every_sample
def test_the_page_is_accessible(sample):
    tree = Tree(report_page(SAMPLES[sample]()))
    assert tree.all("html") == [{"lang": "en"}]
    assert len(tree.all("h1")) == len(tree.all("main")) == 1
    assert all(each["role"] == "img" and len(each["aria-label"]) > 20 for each in tree.all("svg"))
    assert all(len(each["aria-label"]) > 20 for each in tree.all("table"))
    assert all(each["scope"] in ("col", "row") for each in tree.all("th"))
    assert all(each["tabindex"] == "0" and each["aria-label"] for each in tree.all("div", "scroll"))
    assert all(tree.text("title"))


def test_texts_of_strangers_are_only_text():
    text = report_page(hostile())
    tree = Tree(text)
    assert "<script" not in text
    assert text.count("</style>") == text.count("</body>") == 1
    assert "\x1b" not in text
    assert "\u202e" not in text
    assert text.encode("utf-8")
    assert "<script>alert(1)</script>" in "".join(tree.text("h1"))
    assert "</style></svg>" in tree.text("li")
    assert "and 4,702 more" in tree.text("li")
    assert "n" * 1000 not in text
    assert "n" * 1000 not in str(hostile())


@every_sample
def test_the_chart_has_every_value_in_the_order_of_execution(sample):
    report = SAMPLES[sample]()
    titles = [text.partition(": ")[0] for text in Tree(report_page(report)).text("title")[1:]]
    wanted = [found.name for found in report.differences]
    assert sample == "hostile" or titles[: len(wanted)] == wanted
    assert len(titles) == len(wanted) + sum(len(selection.margins) for selection in report.selections)


def test_the_chart_shows_faults_limits_and_what_is_beyond_it():
    tree = Tree(report_page(six_faults()))
    assert len(tree.all("rect", "fault")) == 6 + 1  # with the selection's image
    assert len(tree.all("rect", "beyond")) == 1
    assert re.findall(r'<text class="mark"[^>]*>(\d+)<', report_page(six_faults())) == list("123456")
    assert "beyond its limit, not a fault of its own" in tree.text("li")
    assert "beyond its limit, not a fault of its own" not in Tree(report_page(single_fault())).text("li")
    height = {
        title.partition(": ")[0]: float(bar["height"])
        for title, bar in zip(
            tree.text("title")[1:],
            [found for tag, found in tree.tags if found.get("class") in ("fault", "within", "beyond") and tag == "rect"],
            strict=True,
        )
    }
    assert height["norm"] == height["blocks.8.mlp.fc1"] == page_chart.HEIGHT
    assert height["blocks.8.mlp.act"] > height["blocks.5.attn.qkv"] > height["blocks.0.norm1"]


def test_the_page_tells_the_explanation_first():
    tree = Tree(report_page(single_fault()))
    assert "".join(tree.text("h1")).strip().endswith("diverges: 1 fault, in blocks.0.mlp.act")
    assert tree.text("strong") == ["GELU: tanh approximation"] * 3
    assert [found["class"] for found in tree.all("header")] == ["bad"]
    looks = [Tree(report_page(report)).all("header")[0]["class"] for report in (passing(), reordered(), flipped())]
    assert looks == ["good", "warn", "warn"]


def test_the_table_of_all_differences_has_them_all():
    text = report_page(deep())
    assert text.count('<th scope="row" class="name">') == 734 + 1
    assert "<summary>All differences (734)</summary>" in text


@pytest.mark.parametrize(
    ("sizes", "most"),
    [
        ([1], [1]), ([126], [126]), ([127], [126, 1]), ([1] * 500, [125] * 4), ([100] * 3, [100] * 3), ([63, 63, 1], [63, 64]),
        ([13] * 52, [117] * 5 + [91]), ([3, *[14] * 12, 3], [87, 87]),
    ],
)  # fmt: skip
def test_rows_of_a_chart_are_few_and_about_equally_long(sizes, most):
    numbers = iter(range(sum(sizes)))
    groups = [Group(str(count), [Column(next(numbers), "within", "") for _ in range(count)]) for count in sizes]
    rows = packed(groups)
    counts = [sum(len(group.columns) for group in row) for row in rows]
    assert [column.value for row in rows for group in row for column in group.columns] == list(range(sum(sizes)))
    assert counts == most
    assert max(counts) <= MOST


def test_heights_are_logarithmic_and_stay_on_the_chart():
    scale = Scale(-2, 2)
    heights = [scale.height(value) for value in (0.0, math.nan, 1e-9, 0.01, 0.1, 1.0, 10.0, 100.0, 1e9, math.inf)]
    assert heights == pytest.approx([height * page_chart.HEIGHT for height in (0, 0, 0, 0, 0.25, 0.5, 0.75, 1, 1, 1)])
    assert scale.ticks() == [-2, -1, 0, 1, 2]
    assert Scale(-4, 9).ticks() == [-3, 0, 3, 6, 9]


def pixels(text: str) -> np.ndarray:
    """The first picture of a page, (R, C, 4)."""
    content = base64.b64decode(re.search(r"data:image/png;base64,([^\"]+)", text)[1])
    return np.asarray(Image.open(io.BytesIO(content)).convert("RGBA")).astype(int)


def test_the_error_map_is_faint_within_the_limit_and_coloured_beyond_it():
    values = np.array([[0.0, 0.01, 0.9, 1.5], [10.0, 100.0, 1000.0, np.inf]], dtype=np.float32)
    picture = pixels(page_map.drawn(fault("blocks.0", 1, 1.0, 1e-3, (0, 1, 2)), ErrorMap("blocks.0", values, (2, 4))))
    assert picture.shape == (2, 4, 4)
    opacity = picture[..., 3].ravel()
    assert opacity[0] == 0
    assert list(opacity[:4]) == sorted(set(opacity[:4]))
    assert set(opacity[3:]) == {255}
    red, blue = picture[0, :, 0], picture[0, :, 2]
    assert (blue > red)[1:3].all()
    assert red[3] > blue[3]
    assert tuple(picture[1, 2, :3]) == tuple(picture[1, 3, :3]) == page_map.BEYOND[-1]


@pytest.mark.parametrize("shape", [(1, 1), (1, 1000), (256, 1), (256, 256), (788, 384)])
def test_error_maps_of_any_shape_are_drawn_with_their_axes(shape):
    values = np.full((min(shape[0], 256), min(shape[1], 256)), 2.0, dtype=np.float32)
    tree = Tree(page_map.drawn(fault("blocks.0", 4, 1.0, 0.5, None), ErrorMap("blocks.0", values, shape)))
    assert (
        pixels(page_map.drawn(fault("blocks.0", 4, 1.0, 0.5, None), ErrorMap("blocks.0", values, shape))).shape[:2] == values.shape
    )
    assert tree.text("text")[-3:] == ["0.001", "1, the limit", "10"]
    assert "image 0" in tree.text("text")
    assert ("image 3" in tree.text("text")) == (shape[0] % 4 == 0)


def test_the_ring_is_around_the_largest_error():
    values = np.ones((10, 20), dtype=np.float32)
    values[4, 15] = 7
    found = Tree(page_map.drawn(fault("blocks.0", 1, 1.0, 0.5, None), ErrorMap("blocks.0", values, (10, 20)))).all("circle", "ring")
    height = page_map.CELL * 10
    assert [(float(ring["cx"]), float(ring["cy"])) for ring in found] == [
        (page_map.LEFT + page_map.WIDTH * 15.5 / 20, page_map.TOP + height * 4.5 / 10)
    ]


def test_a_fault_without_a_map_leaves_the_place_to_the_next_one():
    text = report_page(six_faults())
    assert "Fault 2, blocks.1: 788 rows, one for each token of each image, 384 columns, one for each channel" in text
    assert text.count("data:image/png") == 2 * 3
    assert "data:image/png" not in report_page(replace(six_faults(), maps=()))


def test_an_empty_report_is_shown_too(capsys):
    empty = replace(passing(), differences=(), selections=(), notes=(), images=0)
    assert str(empty).startswith("equal: 0 values")
    assert printed(empty, capsys).startswith("equal: 0 values")
    assert Tree(report_page(empty)).all("h1")
    assert violations(as_dict(empty), SCHEMA) == []
    no_image = replace(passing(), selections=(Selection("blocks.3", (), (), (), False, "equal"),))
    assert "blocks.3" in str(no_image)
    assert "blocks.3" in printed(no_image, capsys)
    assert Tree(report_page(no_image)).all("table")


# Colours.


def luminance(colour: str) -> float:
    parts = [int(colour[place : place + 2], 16) / 255 for place in (1, 3, 5)]
    linear = [part / 12.92 if part <= 0.04045 else ((part + 0.055) / 1.055) ** 2.4 for part in parts]
    return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]


def contrast(one: str, other: str) -> float:
    dark, light = sorted((luminance(one), luminance(other)))
    return (light + 0.05) / (dark + 0.05)


@pytest.mark.parametrize("look", [0, 1, 2], ids=["light", "dark", "print"])
def test_text_and_bars_stand_out_from_their_ground(look):
    block = re.findall(r":root \{(.*?)\}", STYLE, re.DOTALL)[look]
    colours = dict(re.findall(r"--([a-z]+): (#[0-9a-f]{6});", block))
    for ground in ("paper", "band", "tint"):
        for text in ("ink", "soft", "good", "bad", "warn"):
            assert contrast(colours[text], colours[ground]) >= 4.5, (text, ground)
        for bar in ("bar", "beyond", "bad"):
            assert contrast(colours[bar], colours[ground]) >= 3, (bar, ground)


# A browser.

in_browser = pytest.mark.skipif(not BROWSER, reason="needs Chromium or Chrome on the path to look at the page with")


def browse(folder: Path, address: str, *arguments: str) -> tuple[str, list[str], list[str]]:
    """What headless Chromium prints, what its console says, and what the page asked to be fetched."""
    log, profile = folder / "net.json", folder / "profile"
    done = subprocess.run(
        [
            BROWSER,
            "--headless",
            "--no-sandbox",
            "--disable-gpu",
            "--no-first-run",
            "--hide-scrollbars",
            f"--user-data-dir={profile}",
            "--disable-background-networking",
            "--host-resolver-rules=MAP * ~NOTFOUND",
            "--enable-logging=stderr",
            f"--log-net-log={log}",
            *arguments,
            address,
        ],
        check=True,
        capture_output=True,
        text=True,
        timeout=120,
    )
    events = json.loads(log.read_text(encoding="utf-8"))["events"]
    asked = [event["params"] for event in events if "initiator" in event.get("params", {})]
    return (
        done.stdout,
        [line for line in done.stderr.splitlines() if ":CONSOLE" in line],
        [request["url"] for request in asked if request["initiator"] != "not an origin"],  # those are the browser's own
    )


@in_browser
def test_the_browser_would_notice(tmp_path):
    bad = tmp_path / "bad.html"
    bad.write_text('<!doctype html><img src="http://example.invalid/a.png"><script>console.error("wrong")</script>')
    _, console, asked = browse(tmp_path, bad.as_uri(), f"--screenshot={tmp_path / 'bad.png'}")
    assert "wrong" in console[0]
    assert asked == ["http://example.invalid/a.png"]


@in_browser
@pytest.mark.parametrize("sample", ["passing", "six_faults", "deep", "logits_only", "hostile"])
@pytest.mark.parametrize("dark", [False, True], ids=["light", "dark"])
def test_a_browser_shows_the_page_without_errors_or_requests(sample, dark, tmp_path):
    path, picture = tmp_path / "report.html", tmp_path / "page.png"
    SAMPLES[sample]().to_html(path)
    theme = f"--blink-settings=preferredColorScheme={0 if dark else 1}"
    _, console, asked = browse(tmp_path, path.as_uri(), theme, "--window-size=1000,2000", f"--screenshot={picture}")
    assert console == []
    assert asked == []
    seen = np.asarray(Image.open(picture).convert("RGB"))
    assert len(np.unique(seen.reshape(-1, 3), axis=0)) > 50
    ground = re.findall(r"--paper: #(..)(..)(..)", STYLE)[dark]
    assert tuple(seen[-1, 0]) == tuple(int(part, 16) for part in ground)


@in_browser
@pytest.mark.parametrize("width", [320, 800])
def test_nothing_is_wider_than_the_page(width, tmp_path):
    """Measured in a frame of that width, with everything opened: wide tables and charts scroll in boxes of their own."""
    frames = []
    for made in SAMPLES.values():
        text = report_page(made()).replace("<details>", "<details open>").replace("Content-Security-Policy", "none")
        frames.append(
            f'<iframe width="{width}" height="900" srcdoc="{text.replace("&", "&amp;").replace(chr(34), "&quot;")}"></iframe>'
        )
    script = (
        "onload = () => document.title = [...document.querySelectorAll('iframe')].map(f => f.contentDocument).map(d =>"
        " [d.body.innerText.length, d.documentElement.scrollWidth, d.documentElement.clientWidth].join(' ')).join(';')"
    )
    whole = tmp_path / "frames.html"
    whole.write_text(f'<!doctype html><meta charset="utf-8">{"".join(frames)}<script>{script}</script>', encoding="utf-8")
    dom, _, _ = browse(tmp_path, whole.as_uri(), "--dump-dom", "--virtual-time-budget=5000")
    measured = [tuple(map(int, each.split())) for each in re.search(r"<title>(.*?)</title>", dom)[1].split(";")]
    assert len(measured) == len(SAMPLES)
    assert all(letters > 100 and wide <= inside for letters, wide, inside in measured), measured
