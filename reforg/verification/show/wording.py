"""How a report's figures and places are said; text, terminal and page share it."""

import math
import re
from collections.abc import Sequence

from reforg.errors import printable
from reforg.verification.findings import DIVERGES, EQUAL, FLIPPED, REORDERED, Difference, Findings, Selection, counted

WITHIN, ELEMENT, MEAN, SHAPE, UNBOUNDED = "within", "element", "mean", "shape", "unbounded"
LONGEST = 200  # characters of a name; it may come from a file that means harm
BLOCK = re.compile(r"blocks\.\d+|block\d+\.\d+")
HEADS = ("head", "head_dist", "logits")
AXES_OF_FOUR = {
    "scores": ("image", "head", "query", "key"),
    "probs": ("image", "head", "query", "key"),
    "context": ("image", "head", "token", "channel"),
}
TOKENS_OF_TWO = ("cls_attention", "kept", "reorganized")


def share(difference: Difference) -> float:
    """The error in units of its limit; infinity where either is not told by a number."""
    worst, limit = difference.worst, difference.limit
    if not math.isfinite(worst) or math.isnan(limit):
        return math.inf
    if not worst:
        return 0.0
    return worst / limit if limit else math.inf


def kind_of(difference: Difference) -> str:
    """What is compared with the limit, or why nothing can be: one of the five words above; the JSON schema explains them."""
    if difference.passed:
        return WITHIN
    if not math.isfinite(difference.worst):
        return SHAPE if difference.shape_got != difference.shape_wanted else UNBOUNDED
    return MEAN if difference.where is None else ELEMENT


def headline(report: Findings) -> str:
    """The verdict in one line."""
    said = {
        EQUAL: f"{counted(len(report.differences), 'value')} compared, all within the rounding of {report.dtype}",
        REORDERED: f"all is within the rounding of {report.dtype}",
        FLIPPED: "the scores are too close to tell apart",
    }
    return f"{report.verdict}: {said[report.verdict]}" if report.verdict != DIVERGES else f"{DIVERGES}{_of_faults(report)}"


def _of_faults(report: Findings) -> str:
    if not report.faults:
        return ""
    first = name_of(report.faults[0].operation)
    return f": 1 fault, in {first}" if len(report.faults) == 1 else f": {len(report.faults)} faults, the first in {first}"


def summary(report: Findings) -> str:
    """How many values were compared, how many passed their limit, and which came nearest to it where none did."""
    beyond = sum(not difference.passed for difference in report.differences)
    told = counted(len(report.differences), "value")
    if beyond or not report.differences:
        return f"{told}, {beyond} beyond the limit"
    nearest = max(report.differences, key=share)
    if len(report.differences) == 1:
        return f"{told}, within its limit ({times(share(nearest))} of it)"
    return f"{told}, all within their limits; nearest to it {name_of(nearest.name)} ({times(share(nearest))})"


def cause(difference: Difference) -> str:
    """What the value is called, and the operation that it comes from where that is another."""
    name, operation = name_of(difference.name), name_of(difference.operation)
    return name if name == operation else f"{name}, arising in {operation}"


def extent(difference: Difference) -> str:
    """Error, limit and place as a sentence."""
    kind = kind_of(difference)
    at = f" at {place(difference)}" if difference.where else ""
    if kind == SHAPE:
        return shapes(difference)
    if kind == UNBOUNDED:
        return f"no finite error{at}"
    what = "root mean square" if kind == MEAN else "error"
    return f"{what} {figure(difference.worst)}, limit {figure(difference.limit)}{at and ','}{at}"


def excess(difference: Difference) -> str:
    """By how much the limit is passed, in words."""
    found = share(difference)
    if not math.isfinite(found):
        return "wrong shape" if kind_of(difference) == SHAPE else "beyond every limit"
    return "just above its limit" if found < 1.01 else f"{times(found)} times its limit"


def place(difference: Difference) -> str:
    """The worst element's index in words: "image 0, token 3, channel 77"; an empty text where there is none."""
    where = difference.where
    if where is None:
        return ""
    axes = _axes(difference.name, len(where))
    return ", ".join(f"{axis} {int(index)}" for axis, index in zip(axes, where, strict=True))


def _axes(name: str, rank: int) -> Sequence[str]:
    """What each axis of a trace's value counts."""
    last = name.rpartition(".")[2]
    if rank == 4:
        return AXES_OF_FOUR.get(last, ("image", "channel", "row", "column"))
    if rank == 3:
        return "image", "token", "channel"
    if rank == 2:
        return "image", "class" if last in HEADS else "token" if last in TOKENS_OF_TWO else "channel"
    return [f"axis {number}:" for number in range(rank)]


def axes_of_map(difference: Difference) -> tuple[str, str]:
    """What a row and a column of the value's error map stand for."""
    axes = _axes(difference.name, len(difference.shape_wanted))
    if len(axes) == 4:
        return f"{axes[2]} and {axes[3]} of each image", axes[1]
    return ("image", axes[-1]) if len(axes) < 3 else (f"{axes[-2]} of each image", axes[-1])


def closest(selection: Selection) -> int | None:
    """The image whose margin is smallest in units of its limit; None where there is no image."""
    pairs = list(enumerate(zip(selection.margins, selection.limits, strict=True)))
    return min(pairs, key=lambda pair: _clearance(*pair[1]))[0] if pairs else None


def _clearance(margin: float, limit: float) -> float:
    """A margin in units of its limit; one that is no number is the least clear of all."""
    if math.isnan(margin) or math.isnan(limit):
        return -math.inf
    return margin / limit if limit else math.inf


def parts(names: Sequence[str]) -> list[tuple[str, list[int]]]:
    """Names in the order of execution -> the blocks, and what stands between them, each with the numbers of its names."""
    found: list[tuple[str | None, list[int]]] = []
    for number, name in enumerate(names):
        block = BLOCK.match(name)
        path = block[0] if block else None
        if found and found[-1][0] == path:
            found[-1][1].append(number)
        else:
            found.append((path, [number]))
    return [(path or _between([names[number] for number in numbers]), numbers) for path, numbers in found]


def _between(names: Sequence[str]) -> str:
    """What values that belong to no block are called together: the embedding (of a stage), the head, or as the first of them."""
    starts = [name.partition(".")[0] for name in names]
    if any(head in starts for head in HEADS):
        return "head"
    return next((start for start in starts if start.startswith("patch_embed")), name_of(starts[0], 40))


def figure(value: float) -> str:
    """A number with three digits, in the power of ten that errors are read in."""
    if not math.isfinite(value):
        return "NaN" if math.isnan(value) else "infinite"
    return f"{value:.2e}" if value else "0"


def times(value: float) -> str:
    """A factor with as many digits as matter."""
    if not math.isfinite(value):
        return "infinite"
    if value >= 1e5 or 0 < value < 0.01:
        return f"{value:.1e}"
    return f"{value:,.0f}" if value >= 10 or not value else f"{value:.2f}"


def shapes(difference: Difference) -> str:
    """What came and what was wanted."""
    return f"shape {shape(difference.shape_got)}, wanted {shape(difference.shape_wanted)}"


def shape(sizes: Sequence[int]) -> str:
    """A shape as Python writes it."""
    return str(tuple(int(size) for size in sizes))


def name_of(text: str, most: int = LONGEST) -> str:
    """A text from elsewhere as one line that breaks nothing, cut where it is too long."""
    return printable(text if len(text) <= most else f"{text[: most - 3]}...")


def some(names: Sequence[str], most: int) -> str:
    """The first names, and how many more there are."""
    shown = ", ".join(name_of(name, 60) for name in names[:most])
    return shown if len(names) <= most else f"{shown} and {len(names) - most:,} more"
