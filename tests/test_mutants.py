"""The mutation tool: which mutants a text has, what is in a sample, and who is killed."""

import json
from collections import Counter
from dataclasses import asdict, replace

import pytest
from mutants import score as mutants
from mutants.operators import Source, required_parameters
from mutants.operators import mutants as mutants_of
from mutants.run import AROUND, Outcome, Stage, copied, fingerprint, measured, rest, tried
from traps import MUTATIONS

TEXT = '''"""No 1 is "here"."""
import math
from typing import Any

Shape = tuple[int, 1]
__all__ = ["scaled"]


def scaled(x: Any, n: "int" = 1, *, flag: bool = True) -> Shape:
    """Not 2."""
    if n > 1 and flag:  # and more
        raise ValueError(f"{n} are 3")
    return x[: n] * -0.5  # half
'''
MUTANTS = """
9:31:number:1    n: "int" = 1, *  ->  n: "int" = 2, *
9:31:number:2    n: "int" = 1, *  ->  n: "int" = 0, *
9:50:truth:1     bool = True)     ->  bool = False)
11:8:comparison:1  n > 1          ->  n >= 1
11:8:comparison:2  n > 1          ->  n <= 1
11:8:condition:1 n > 1 and flag:  ->  True:
11:8:condition:2 n > 1 and flag:  ->  False:
11:8:boolean:1   n > 1 and flag   ->  n > 1 or flag
11:12:number:1   n > 1            ->  n > 2
11:12:number:2   n > 1            ->  n > 0
13:12:return:1   x[: n] * -0.5    ->  x
13:12:arithmetic:1  ] * -         ->  ] / -
13:12:arithmetic:2  ] * -         ->  ] + -
13:16:index:1    x[: n]           ->  x[: n + 1]
13:16:index:2    x[: n]           ->  x[: n - 1]
13:16:index:3    x[: n]           ->  x[: ]
13:21:sign:1     -0.5             ->  0.5
13:22:number:1   -0.5             ->  -0.505
13:22:number:2   -0.5             ->  -1.0
"""


def changed(expression: str, **required: set[str]) -> dict[str, list[str]]:
    """What becomes of `y = expression`, by kind."""
    found: dict[str, list[str]] = {}
    for mutant in mutants_of("a.py", f"y = {expression}\n", required):
        found.setdefault(mutant.kind, []).append(mutant.apply(f"y = {expression}\n")[4:-1])
    return found


def test_a_text_has_exactly_these_mutants():
    lines = [line.split(maxsplit=1) for line in MUTANTS.strip().splitlines()]
    expected = {f"a.py:{place}": [part.strip() for part in change.split("->")] for place, change in lines}
    found = {mutant.id: mutant for mutant in mutants_of("a.py", TEXT)}
    assert list(found) == list(expected)
    for name, (before, after) in expected.items():
        assert TEXT.count(before) >= 1
        assert found[name].apply(TEXT) in [
            TEXT[:place] + after + TEXT[place + len(before) :] for place in range(len(TEXT)) if TEXT.startswith(before, place)
        ]


@pytest.mark.parametrize(
    ("expression", "kind", "expected"),
    [
        ("a - b", "arithmetic", ["a + b"]),
        ("a + b * c", "arithmetic", ["a - b * c", "(a * (b * c))", "a + b / c", "a + (b + c)"]),
        ("(a + b) ** c", "arithmetic", ["(a + b) * c", "(a - b) ** c", "(a * b) ** c"]),
        ("a // b", "arithmetic", ["a / b", "a * b"]),
        ("a @ b", "arithmetic", ["a * b"]),
        ("a is  not b", "comparison", ["a is b"]),
        ("a < b == c", "comparison", ["a <= b == c", "a >= b == c", "a < b != c"]),
        ("a and b and not c", "boolean", ["a or b or not c", "a and b and c"]),
        ("a / (b + c)", "sign", ["a / (-(b + c))"]),
        ("-a", "sign", ["a"]),
        ("f(a + b, *c).d", "call", ["(a + b).d"]),
        ("a.f()", "call", ["a"]),
        ("f(a, (b), *c, d)", "argument", ["f(b, (a), *c, d)"]),
        ("f(net, a, b, 'c', d)", "argument", ["f(net, b, a, 'c', d)"]),
        ("max(a, b)", "argument", None),
        ("f('a')", "call", None),
        ("f(a, b=c, d=e)", "keyword", ["f(a, d=e)", "f(a, b=c)"]),
        ("known(b=c)", "keyword", None),
        ("f(a, axis=-1)", "axis", ["f(a, axis=-2)", "f(a, axis=-0)"]),
        ("max(a)", "function", ["min(a)"]),
        ("sum(a)", "function", None),
        ("n.sum(a)", "function", ["n.mean(a)"]),
        ("a[b:]", "index", ["a[b + 1:]", "a[b - 1:]", "a[:]"]),
        ("a[:, 0, b]", "index", ["a[0, :, b]", "a[:, 1, b]", "a[:, -1, b]", "a[:, b, 0]", "a[:, 0, b + 1]", "a[:, 0, b - 1]"]),
        ("(a, *b, c)", "order", ["(*b, a, c)", "(a, c, *b)"]),
        ("(1, 2)", "order", None),
        ("range(1, n)", "range", ["range(1, n + 1)", "range(1, n - 1)"]),
        ("[a for a in b if a]", "filter", ["[a for a in b if True]", "[a for a in b if False]"]),
        ("f'é{a[1]}' + c", "index", ["f'é{a[2]}' + c", "f'é{a[0]}' + c"]),
        ("f'é{a}' + c", "string", ["f'_é{a}' + c"]),
        ("0.0", "number", ["0.01", "1.0"]),
    ],
)  # fmt: skip
def test_what_becomes_of_an_expression(expression, kind, expected):
    assert changed(expression, known={"b"}).get(kind) == expected


def test_statements():
    text = "def f(self, path, x: Array):\n    x += 1\n    path.note(x)\n    return path\n"
    found = [(mutant.kind, mutant.after) for mutant in mutants_of("a.py", text)]
    assert [after for kind, after in found if kind == "statement"] == ["pass", "pass"]
    assert [after for kind, after in found if kind == "return"] == ["return x"]
    assert required_parameters({"a.py": "def f(a, b, c=1, *, d): ...\n"}) == {"f": {"a", "b"}}


@pytest.fixture(scope="module")
def sources():
    return mutants.texts(mutants.ROOT)


@pytest.fixture(scope="module")
def found(sources):
    return mutants.every(sources)


def test_every_mutant_changes_one_place_and_compiles(sources, found):
    assert len({mutant.id for mutant in found}) == len(found) > 2000
    assert {mutant.file for mutant in found} >= {"reforg/vit.py", "reforg/tokens.py", "reforg/ops/basic.py", "reforg/ops/conv.py"}
    for mutant in found:
        text = sources[mutant.file]
        changed = mutant.apply(text)
        assert changed != text
        assert (changed[: mutant.start], changed[mutant.start + len(mutant.text) :]) == (text[: mutant.start], text[mutant.end :])
    for mutant in found[::25]:  # each has been compiled with the statement it is in; some with all of their file
        compile(mutant.apply(sources[mutant.file]), mutant.id, "exec")


def test_what_is_not_the_programs_doing_has_no_mutants(sources, found):
    for file, text in sources.items():
        source = Source(text)
        prose = [source.span(part) for part in source.nodes() if id(part) in source.annotations]
        assert not prose, file
        assert not [mutant for mutant in found if mutant.file == file and mutant.before.startswith(("import ", "from ", "__all__"))]


def test_a_sample_is_fixed_by_its_seed_and_has_something_of_each_file(found):
    chosen = mutants.sample(found, 330, 0)
    assert chosen == mutants.sample(found, 330, 0) != mutants.sample(found, 330, 1)
    assert chosen == sorted(chosen, key=found.index)
    assert len(chosen) == 330
    all_of, share_of = Counter(mutant.file for mutant in found), Counter(mutant.file for mutant in chosen)
    assert all(share_of[file] >= min(10, size) for file, size in all_of.items())
    assert all(share_of[file] <= max(10, 1 + 0.13 * size) for file, size in all_of.items())


def test_a_line_that_moves_takes_its_mutants_along(found):
    moved = [replace(mutant, line=mutant.line + 7, start=mutant.start + 90, end=mutant.end + 90) for mutant in found]
    before, after = mutants.sample(found, 100, 0), mutants.sample(moved, 100, 0)
    assert [(mutant.kind, mutant.after) for mutant in before] == [(mutant.kind, mutant.after) for mutant in after]


PROGRAM = "def doubled(x):\n    return x * 2 if x is not None else 1 - 1\n"
TEST = "from reforg.program import doubled\n\n\ndef test_doubled():\n    assert doubled(3) == 6\n"


@pytest.fixture(scope="module")
def project(tmp_path_factory):
    """A copy of a small project, whose only test leaves a branch out."""
    root = tmp_path_factory.mktemp("project")
    files = {"reforg/__init__.py": "", "reforg/program.py": PROGRAM, "tests/test_program.py": TEST}
    for name, text in files.items():
        (root / name).parent.mkdir(exist_ok=True)
        (root / name).write_text(text)
    return copied(root, root / "copy")


def outcome_of(project, after, seconds=60.0):
    (mutant,) = (mutant for mutant in mutants_of("reforg/program.py", PROGRAM) if mutant.after == after)
    outcome = tried(project, mutant, [Stage("quick", ["tests/test_program.py"], seconds)])
    assert (project / "reforg" / "program.py").read_text() == PROGRAM
    assert outcome.id == mutant.id
    return outcome.stage, outcome.test


def test_a_mutant_is_killed_by_the_first_red_test(project):
    assert outcome_of(project, "return x / 2 if x is not None else 1 - 1") == ("quick", "test_program.py::test_doubled")


def test_a_mutant_that_no_test_sees_survives(project):
    assert outcome_of(project, "return x * 2 if x is not None else 1 + 1") == ("", "")


def test_time_kills(project):
    assert outcome_of(project, "return x * 2 if x is not None else 1 + 1", seconds=0.01) == ("quick", "timeout")


def test_a_test_that_reads_the_source_is_found_out(project, monkeypatch):
    monkeypatch.setattr("mutants.run.QUICK", ["tests/test_reads.py"])
    reads = "def test_text():\n    with open('reforg/program.py') as file:\n        assert '# here' in file.read()\n"
    (project / "tests" / "test_reads.py").write_text(reads)
    (project / "reforg" / "program.py").write_text(PROGRAM + "# here\n")
    assert measured(project, ["reforg/program.py"]) == ([], "test_reads.py::test_text in the quick stage")
    assert (project / "reforg" / "program.py").read_text() == PROGRAM + "# here\n"


def test_the_second_stage_has_every_test_but_those_of_the_source_and_of_what_is_around_models():
    names = [name for name in rest(mutants.ROOT) if not name.startswith("--deselect=")]
    every = {path.relative_to(mutants.ROOT).as_posix() for path in (mutants.ROOT / "tests").rglob("test_*.py")}
    around = {f"tests/{name}" for name in AROUND}
    assert around < every
    left_out = {"tests/test_layering.py", "tests/test_mutants.py"} | around
    assert {name for name in every if "/oracle/" not in name} - set(names) == left_out
    assert len(names) == len(set(names))
    assert names.index("tests/models/test_contract.py") < names.index("tests/docs/test_pages.py")


def test_results_are_kept_while_their_file_stays_as_it_was(tmp_path):
    found = mutants_of("a.py", "y = 1\n")
    output = tmp_path / "results.jsonl"
    first, second = (Outcome(found[0].id, fingerprint("y = 1\n"), stage, "", 1.0) for stage in ("quick", ""))
    other = Outcome(found[1].id, fingerprint("y = 3\n"), "", "", 1.0)
    output.write_text("".join(json.dumps(asdict(outcome)) + "\n" for outcome in (first, other, second)))
    assert mutants.read(output, found, {"a.py": "y = 1\n"}) == {found[0].id: second}


def test_the_report_counts_equivalent_mutants_apart_and_wants_a_reason_for_each_survivor(monkeypatch):
    found = mutants_of("a.py", "y = f(1, b=2.0)\n")
    outcomes = {mutant.id: Outcome(mutant.id, "", "quick", "test_a.py::test", 1.0) for mutant in found}
    last = found[-1]
    outcomes[last.id] = replace(outcomes[last.id], stage="")
    assert not mutants.Tally(found, outcomes).passed
    assert "**no reason given**" in mutants.report(found, found, outcomes, 0)
    monkeypatch.setitem(mutants.REASONS, ("a.py", last.kind, last.before, last.after), ("equivalent", "b is not read"))
    tally = mutants.Tally(found, outcomes)
    assert (tally.score, tally.passed, tally.equivalent) == (1.0, True, 1)
    assert f"`{last.id}` equivalent: b is not read" in mutants.report(found, found, outcomes, 0)
    monkeypatch.setitem(mutants.REASONS, ("a.py", last.kind, last.before, last.after), ("accepted", "b is a matter of taste"))
    assert mutants.stale(found) == []
    assert mutants.stale(found[:-1]) == [("a.py", last.kind, last.before, last.after)]
    assert not mutants.Tally(found, outcomes).passed  # one in eight is more than five in a hundred


def test_every_known_trap_has_its_place_in_the_source():
    for trap, what, file, source, _ in MUTATIONS:
        text = (mutants.ROOT / "reforg" / file).read_text(encoding="utf-8")
        assert text.count(source) == 1, f"trap {trap}, {what}: {file} has changed"
