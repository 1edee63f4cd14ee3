"""Reports as verifications give them, made by hand of synthetic figures: what is tested is how they are shown.

python tests/tools/sample_reports.py FOLDER      writes each as text, JSON and HTML
"""

import sys
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np

from reforg.verification.findings import DIVERGES, EQUAL, FLIPPED, REORDERED, Difference, ErrorMap, Selection
from reforg.verification.report import Report

HOOKED = ("norm1", "attn.qkv", "attn.scores", "attn.probs", "attn.context", "attn.proj", "attn", "attended")
AFTER = ("norm2", "mlp.fc1", "mlp.act", "mlp.fc2", "mlp", "")
WIDTHS = {"attn.qkv": 1152, "mlp.fc1": 1536, "mlp.act": 1536}
TOKENS = {0: 197, 3: 140, 6: 101, 9: 73}  # tokens from that block's MLP on, at a keep rate of 0.7
LIMIT = 9.5e-7  # of a typical value in float32, as a share of the largest


def shape_of(name: str, images: int) -> tuple[int, ...]:
    if name in ("head", "logits"):
        return images, 1000
    if name == "patch_embed.proj":
        return images, 384, 14, 14
    path, _, rest = name.removeprefix("blocks.").partition(".")
    number = int(path) if path.isdigit() else 0
    if name == "norm":
        number = 11
    before = rest in HOOKED
    tokens = next(count for start, count in reversed(TOKENS.items()) if number >= start + before or start == 0)
    heads = {"attn.scores": (6, tokens, tokens), "attn.probs": (6, tokens, tokens), "attn.context": (6, tokens, 64)}
    return (images, *heads[rest]) if rest in heads else (images, tokens, WIDTHS.get(rest, 384))


def names_of(blocks: int) -> list[str]:
    inside = [f"blocks.{number}.{part}".rstrip(".") for number in range(blocks) for part in (*HOOKED, *AFTER)]
    return ["patch_embed.proj", "patch_embed", "embedded", *inside, "norm", "head", "logits"]


def innocent(name: str, images: int, random: np.random.Generator) -> Difference:
    """A value within its limit; one that was only moved has no error."""
    shape = shape_of(name, images)
    if name == "logits":
        return Difference(name, name, 0.0, 0.0, tuple(0 for _ in shape), shape, shape)
    limit = LIMIT * float(np.exp(random.normal(0, 0.6)))
    where = tuple(int(random.integers(side)) for side in shape)
    return Difference(name, name, limit * float(np.clip(random.normal(0.5, 0.09), 0.15, 0.9)), limit, where, shape, shape)


def differences(names: Sequence[str], images: int, seed: int) -> list[Difference]:
    random = np.random.default_rng(seed)
    return [innocent(name, images, random) for name in names]


def selections(images: int, seed: int, blocks: Sequence[int] = (3, 6, 9)) -> tuple[Selection, ...]:
    random = np.random.default_rng(seed)
    made = []
    for number in blocks:
        margins = tuple(float(value) for value in 10.0 ** random.uniform(-6.5, -4, images))
        limits = tuple(float(value) for value in 10.0 ** random.uniform(-8.6, -8.1, images))
        made.append(Selection(f"blocks.{number}", margins, limits, (0,) * images, False, EQUAL))
    return tuple(made)


def error_map(fault: Difference, seed: int, columns: slice = slice(None)) -> ErrorMap:
    """Errors that lie in some columns, on the floor of rounding elsewhere; the largest is the fault's own."""
    random = np.random.default_rng(seed)
    shape = (int(np.prod(fault.shape_wanted[:-1])), fault.shape_wanted[-1])
    rows, width = min(shape[0], 256), min(shape[1], 256)
    values = np.abs(random.normal(0, 0.16, (rows, width)))
    wrong = np.abs(random.lognormal(-2, 1.2, (rows, width)))
    wrong *= fault.worst / fault.limit / wrong[:, columns].max()
    values[:, columns] = np.maximum(values, wrong)[:, columns]
    return ErrorMap(fault.name, values.astype(np.float32), shape)


def with_faults(names: Sequence[str], images: int, faults: Sequence[Difference], seed: int) -> tuple[Difference, ...]:
    own = {fault.name: fault for fault in faults}
    return tuple(own.get(difference.name, difference) for difference in differences(names, images, seed))


def fault(name: str, images: int, worst: float, limit: float, where: tuple[int, ...] | None, **rest: object) -> Difference:
    shape = shape_of(name, images)
    return Difference(**{
        "name": name, "operation": name, "worst": worst, "limit": limit, "where": where, "shape_got": shape,
        "shape_wanted": shape, **rest,
    })  # fmt: skip


def passing() -> Report:
    names = names_of(12)
    return Report(
        "evit_small_patch16_224",
        "float32",
        "a torch module, hooked",
        2,
        EQUAL,
        (),
        tuple(differences(names, 2, 1)),
        selections(2, 2),
        notes=("each value was taken in the order that the module returned it",),
    )


def single_fault() -> Report:
    wrong = fault("blocks.0.mlp.act", 2, 4.7e-4, 1.2e-6, (1, 3, 77), explanation="GELU: tanh approximation")
    found = with_faults(names_of(12), 2, [wrong], 3)
    maps = [error_map(wrong, 4)]
    return replace(passing(), verdict=DIVERGES, faults=(wrong,), differences=found, maps=maps, selections=selections(2, 5))


def six_faults() -> Report:
    images = 4
    faults = (
        fault("patch_embed.proj", images, 8.1e-2, 7e-7, (0, 17, 3, 9), explanation="patches read column by column"),
        fault("blocks.1", images, 3.3e-1, 9e-7, (2, 5, 301), operation="blocks.1.ls1", explanation="LayerScale left out"),
        fault("blocks.3.norm2", images, 0.62, 1e-6, (3, 130, 8), operation="blocks.3.reorganized",
              explanation="fused token divided by the sum of the attentions"),
        fault("blocks.5.attn.qkv", images, 1.4e-6, 1.1e-6, None),
        fault("blocks.8.mlp.fc1", images, np.inf, 0.0, None, shape_got=(images, 101, 384), note="weights of fc2 perhaps"),
        fault("norm", images, np.inf, 0.0, (0, 1, 2), note="not finite"),
    )  # fmt: skip
    found = list(with_faults(names_of(12), images, faults, 6))
    found = [replace(each, worst=each.limit * 40) if each.name == "blocks.8.mlp.act" else each for each in found]
    maps = [error_map(each, number, slice(number * 40, None)) for number, each in enumerate(faults[1:4], 1)]
    wrong = replace(selections(images, 7)[1], flips=(0, 2, 0, 0), verdict=DIVERGES)
    chosen = (selections(images, 7)[0], wrong, replace(selections(images, 7)[2], verdict="not seen"))
    return Report(
        "evit_small_patch16_224",
        "float32",
        "a trace of 177 arrays from out.npz",
        images,
        DIVERGES,
        faults,
        tuple(found),
        chosen,
        unknown=("blocks.0.attn.drop", "total"),
        unseen=("blocks.0.attn.probs", "blocks.4.mlp"),
        maps=maps,
        notes=("q, k and v were joined into attn.qkv", "blocks.0.attn.scores: the mask was taken off"),
    )


def deep() -> Report:
    names = names_of(52)
    wrong = fault("blocks.31.attn.proj", 1, 2.2e-3, 1.1e-6, (0, 58, 12))
    found = with_faults(names, 1, [wrong], 8)
    maps = [error_map(wrong, 9, slice(0, 64))]
    return Report("deit_small_patch16_26x2", "float32", "an ONNX file", 1, DIVERGES, (wrong,), found, maps=maps)


def logits_only() -> Report:
    wrong = fault("logits", 2, 3.1e-2, 4.1e-5, (1, 207))
    rows = np.abs(np.random.default_rng(10).normal(0, 200, (2, 250))).astype(np.float32)
    unseen = tuple(names_of(12)[:-1])
    return Report(
        "deit3_small_patch16_224",
        "float32",
        "a function",
        2,
        DIVERGES,
        (wrong,),
        (wrong,),
        unseen=unseen,
        maps=[ErrorMap("logits", rows, (2, 1000))],
        notes=("only the logits were given: which operation is wrong cannot be told",),
    )


def logits_passed() -> Report:
    right = replace(fault("logits", 2, 1.1e-5, 4.1e-5, (1, 207)))
    return replace(logits_only(), verdict=EQUAL, faults=(), differences=(right,), maps=(), notes=())


def block_outputs() -> Report:
    """Twelve values, each a block of its own."""
    names = [f"blocks.{number}" for number in range(12)]
    return replace(passing(), differences=tuple(differences(names, 2, 11)), candidate="a trace of 12 arrays")


def shunted() -> Report:
    depths = (1, 2, 4, 1)
    parts = ("norm1", "attn.q", "attn.sr1", "attn.branches.0.context", "attn.branches.1.context", "attn.proj", "attn", "mlp.fc1",
             "mlp.dwconv.dwconv", "mlp", "")  # fmt: skip
    names = []
    for stage, depth in enumerate(depths, 1):
        names += [f"patch_embed{stage}.proj", f"patch_embed{stage}.norm", f"patch_embed{stage}"]
        names += [f"block{stage}.{number}.{part}".rstrip(".") for number in range(depth) for part in parts]
        names.append(f"norm{stage}")
    found = tuple(
        replace(each, name=name, operation=name)
        for name, each in zip(names, differences([f"blocks.0.{name}" for name in names], 1, 12), strict=True)
    )
    return Report("shunted_t", "tf32", "a torch module, hooked", 1, EQUAL, (), found)


def flipped(images: int = 32) -> Report:
    close = selections(images, 13)
    margins = tuple(1e-9 if number in (3, 20) else margin for number, margin in enumerate(close[0].margins))
    flips = tuple(int(number in (3, 20)) for number in range(images))
    first = replace(close[0], margins=margins, flips=flips, reordered=True, verdict=FLIPPED)
    return replace(passing(), verdict=FLIPPED, images=images, selections=(first, *close[1:]))


def reordered() -> Report:
    chosen = tuple(replace(each, reordered=True, verdict=REORDERED) for each in selections(2, 2))
    return replace(passing(), verdict=REORDERED, selections=chosen)


def hostile() -> Report:
    """Every text that a stranger's file can bring, and figures that are none."""
    bad = "<script>alert(1)</script>\"'&\n\x1b[31m\u202e\ud800"
    wrong = Difference(bad, bad, np.nan, np.nan, (0,), (1,), (1,), explanation=bad, note=bad)
    odd = Selection(bad, (np.nan, np.inf, 0.0), (np.inf, 0.0, 0.0), (1, 2, 3), True, DIVERGES)
    holes = np.array([[np.nan, np.inf], [0.0, 1e30]], dtype=np.float32)
    return Report(
        bad,
        "float32",
        bad,
        3,
        DIVERGES,
        (wrong,),
        (wrong,),
        (odd,),
        unknown=(bad, "n" * 100_000, *map(str, range(5000))),
        unseen=("</details>",),
        notes=(bad, "</style></svg>"),
        maps=[ErrorMap(bad, holes, (2, 2))],
    )


SAMPLES: dict[str, Callable[[], Report]] = {
    made.__name__: made
    for made in (
        passing, single_fault, six_faults, deep, logits_only, logits_passed, block_outputs, shunted, flipped, reordered, hostile
    )
}  # fmt: skip


def main(folder: Path) -> None:
    for name, made in SAMPLES.items():
        report = made()
        folder.joinpath(f"{name}.txt").write_text(f"{report}\n", encoding="utf-8")
        report.to_json(folder / f"{name}.json")
        report.to_html(folder / f"{name}.html")


if __name__ == "__main__":
    main(Path(sys.argv[1]))
