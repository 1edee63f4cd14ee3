"""Steps as the kernels read them: which units threads claim, and where everything lies."""

from collections.abc import Callable
from dataclasses import replace
from operator import index
from typing import Any

from reforg.plans.matrices import Matrix, Packed
from reforg.plans.steps import (
    Attention,
    Convolve,
    Depthwise,
    Embed,
    Linear,
    Mean,
    Norm,
    Pool,
    Product,
    Reorganize,
    Step,
    Take,
)
from reforg_numpy.numba_engine import codes
from reforg_numpy.numba_engine.packing import Weights
from reforg_numpy.numba_engine.shapes import CHUNK, DEPTH, HEIGHT, PANEL

ENDS = {
    "plain": codes.PLAIN, "gelu": codes.GELU, "relu": codes.RELU, "add": codes.ADD, "sum": codes.SUM,
    "gelu of sum": codes.GELU_OF_SUM, "more": codes.MORE,
}  # fmt: skip
ROWS = 408  # that a unit of a product reads: a chunk of them and their sums stay in a second-level cache
SUMS = 1 << 16  # that are gathered at a time: a quarter of a second-level cache
UNITS = 2  # of a step, for each thread: fewer leave a thread idle at its end, more read weights again


def together(steps: list[Step], threads: int) -> list[Step]:
    """Each norm, and depthwise convolution, in one step with the product behind it, where its units have all columns of their rows.

    It is then computed by the unit that reads it, and stays in its core's cache.
    """
    result: list[Step] = []
    for number, step in enumerate(steps):
        joined = _joined(result[-1], step, steps[number + 1 :], threads) if result else None
        if joined is None:
            result.append(step)
        else:
            result[-1] = joined
    return result


def _joined(before: Step, step: Step, later: list[Step], threads: int) -> Linear | None:
    """The two as one; None where the second is no product that reads the rows of the first, all of them, and has them to itself."""
    if not isinstance(step, Linear) or not isinstance(before, Norm | Depthwise) or step.source != before.target:
        return None
    if isinstance(before, Norm) and (before.group != before.tokens or before.end != "plain"):
        return None
    if isinstance(before, Depthwise) and before.end != "gelu of sum":
        return None
    if _read(before.target, later) or split(step, threads, True)[1] > 1:
        return None
    return replace(step, first=before)


def _read(matrix: Matrix, later: list[Step]) -> bool:
    """Whether a later step reads it."""
    for step in later:
        if any(other.start == matrix.start for other in step.others):
            return True
        if step.target.start == matrix.start:  # made anew: what comes after reads that
            break
    return False


def encode(step: Step, record: Any, weights: Weights, images: int, threads: int) -> int:
    """Fill in the record of a step -> floats of scratch that a thread needs for it."""
    target, (code, units) = step.target, KINDS[type(step)]
    record["kind"] = code
    record["target"], record["target_pitch"], record["target_leap"] = target.start, target.pitch, target.leap
    record["target_chunk"] = target.chunk
    record["rows"], record["columns"] = target.rows, target.columns
    for name, value in vars(step).items():
        if name not in ("name", "target", "source", "first"):
            record[name] = number(value, weights)
    if isinstance(step, Product):
        encode_inner(step, record)
    first = getattr(step, "first", None)
    if first is not None:
        encode_first(first, record, weights)
    source = getattr(step if first is None else first, "source", None)
    if source is not None:  # images lie elsewhere
        record["source"], record["source_pitch"], record["source_leap"] = source.start, source.pitch, source.leap
    return units(step, record, images, threads)


def number(value: Any, weights: Weights) -> int | float:
    """A field of a step as a number: of a matrix and of weights, where they begin, -1 for none; of a word, its code."""
    if isinstance(value, int | float):
        return value
    if isinstance(value, Matrix):
        return value.start
    if isinstance(value, Packed):
        return weights.place(value)
    if isinstance(value, str):
        return ENDS[value]
    return -1 if value is None else index(value)


def encode_inner(step: Product, record: Any) -> None:
    """How many numbers a product sums up, and what is made of its rows before it reads them; `encode_first` knows better."""
    record["inner"], record["before"] = step.inner, codes.ROWS
    if isinstance(step, Convolve):
        record["before"] = codes.PLANES if step.source is None else codes.MAPS


def encode_first(first: Norm | Depthwise, record: Any, weights: Weights) -> None:
    """What a product needs to know of the step that it takes along."""
    record["first_weight"], record["first_bias"] = number(first.weight, weights), number(first.bias, weights)
    if isinstance(first, Norm):
        record["before"], record["eps"] = codes.NORMED, first.eps
    else:
        record["before"], record["height"], record["width"] = codes.MIXED, first.height, first.width


def by_image(step: Step, record: Any, images: int, threads: int) -> int:
    """A unit for each image."""
    record["units"] = images
    return 0


def by_pair(step: Mean, record: Any, images: int, threads: int) -> int:
    """A unit for each image, which needs to know how far apart the two are."""
    record["branch_leap"] = step.other.start - step.source.start
    return by_image(step, record, images, threads)


def by_rows(step: Step, record: Any, images: int, threads: int) -> int:
    """A unit for some rows."""
    record["units"] = min(step.target.rows, threads * UNITS)
    return 0


def by_lines(step: Depthwise, record: Any, images: int, threads: int) -> int:
    """A unit for each line of each image's maps."""
    record["units"] = images * step.height
    return 0


def by_tiles(step: Linear | Convolve, record: Any, images: int, threads: int) -> int:
    """A unit for some rows and some columns of a product."""
    rows, inner, made = step.target.rows, step.inner, isinstance(step, Convolve) or step.first is not None
    panels, tiles, chunks = -(-step.target.columns // PANEL), -(-rows // HEIGHT), -(-inner // CHUNK)
    parts, columns = split(step, threads, made)
    record["row_parts"], record["column_parts"], record["units"] = parts, columns, parts * columns
    most = (-(-tiles // parts) + 1) * HEIGHT
    record["group"] = group = max(1, SUMS // (most * PANEL)) if chunks > 1 else 1
    return most * PANEL * min(panels, group) + (most * chunks * DEPTH if made else 0)


def split(step: Product, threads: int, made: bool) -> tuple[int, int]:
    """made: whether a unit makes its rows first.

    Into how many parts of rows, that stay in a core's cache while the weights pass by, and of columns, where rows are few.
    """
    rows, inner = step.target.rows, step.inner
    tiles, panels = -(-rows // HEIGHT), -(-step.target.columns // PANEL)
    most = max(4 * HEIGHT, ROWS * CHUNK // max(inner, CHUNK)) if made else ROWS
    parts = min(tiles, -(-rows // most))
    if parts >= threads * UNITS:
        return min(tiles, -(-parts // threads) * threads), 1
    return parts, min(panels, -(-threads * UNITS // parts))


def by_heads(step: Attention, record: Any, images: int, threads: int) -> int:
    """A unit for each head of each image, or for some of its queries where that leaves no thread idle."""
    units, most = images * step.heads, -(-step.group // PANEL)
    parts = next((n for n in range(1, min(4, most) + 1) if units * n % threads == 0 or units * n >= 8 * threads), min(4, most))
    record["units"], record["parts"] = units * parts, parts
    record["key_pitch"] = step.keys.pitch
    for name, matrix in (("key_step", step.keys), ("source_step", step.source)):  # from a head to the next
        record[name] = matrix.leap if matrix.chunk == step.depth else step.depth
    if step.attended is not None:
        record["attended_pitch"] = step.attended.pitch
    return scratch_of_head(step.key_count, step.depth)


def scratch_of_head(count: int, depth: int) -> int:
    """Floats that `kernels.attention.attend_head` needs."""
    packed = (-(-depth // CHUNK) * count + -(-count // CHUNK) * depth) * DEPTH
    return packed + (2 * depth + count + -(-depth // PANEL) * PANEL + 1) * PANEL


def by_reorganized(step: Reorganize, record: Any, images: int, threads: int) -> int:
    """A unit for each image, which needs its scores, their keys and their order."""
    record["units"] = images
    attended = step.attended
    record["attended_pitch"] = attended.pitch
    record["branch_leap"] = attended.rows // step.branches * attended.pitch
    return 3 * step.tokens


KINDS: dict[type[Step], tuple[int, Callable[[Any, Any, int, int], int]]] = {
    Embed: (codes.EMBED, by_image),
    Norm: (codes.NORM, by_rows),
    Linear: (codes.LINEAR, by_tiles),
    Convolve: (codes.LINEAR, by_tiles),
    Attention: (codes.ATTENTION, by_heads),
    Depthwise: (codes.DEPTHWISE, by_lines),
    Reorganize: (codes.REORGANIZE, by_reorganized),
    Take: (codes.TAKE, by_image),
    Pool: (codes.POOL, by_image),
    Mean: (codes.MEAN, by_pair),
}
"""Every kind of step -> its number, and what says which units of it threads claim."""
