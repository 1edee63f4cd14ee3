"""Steps as the kernels read them: which units threads claim, and where everything lies."""

from dataclasses import replace
from operator import index
from typing import Any

from reforg_numpy import codes
from reforg_numpy.matrices import Matrix, Packed
from reforg_numpy.packing import Weights
from reforg_numpy.program import Step
from reforg_numpy.shapes import CHUNK, DEPTH, HEIGHT, PANEL

WORDS = {
    "end": {
        "plain": codes.PLAIN, "gelu": codes.GELU, "relu": codes.RELU, "add": codes.ADD, "sum": codes.SUM,
        "gelu of sum": codes.GELU_OF_SUM, "more": codes.MORE,
    },
    "before": {
        "rows": codes.ROWS, "norm": codes.NORMED, "depthwise": codes.MIXED, "pixels": codes.MAPS, "planes": codes.PLANES,
    },
}  # fmt: skip
JOINED = {"norm": ("source", "eps"), "depthwise": ("source", "height", "width")}  # what a product behind them needs of their fields
ROWS = 408  # that a unit of a product reads: a chunk of them and their sums stay in a second-level cache
SUMS = 1 << 16  # that are gathered at a time: a quarter of a second-level cache
UNITS = 2  # of a step, for each thread: fewer leave a thread idle at its end, more read weights again


def together(steps: list[Step], threads: int) -> list[Step]:
    """Each norm, and depthwise convolution, in one step with the product behind it, where its units have all columns of their rows.

    It is then computed by the unit that reads it, and stays in its core's cache.
    """
    result: list[Step] = []
    for number, step in enumerate(steps):
        before = result[-1] if result else None
        if before is not None and step.kind == "linear" and _fits(before, step, steps[number + 1 :], threads):
            kept = {name: before.fields[name] for name in JOINED[before.kind]}
            own = {"first_weight": before.fields["weight"], "first_bias": before.fields["bias"], "before": before.kind}
            result[-1] = replace(step, fields=step.fields | kept | own)
        else:
            result.append(step)
    return result


def _fits(before: Step, product: Step, later: list[Step], threads: int) -> bool:
    """Whether the product reads the rows of what is before it, all of them, and has them to itself."""
    if before.kind not in JOINED or product.fields["before"] != "rows" or product.fields["source"] != before.target:
        return False
    fields = before.fields
    if before.kind == "norm" and (fields["group"] != fields["tokens"] or fields["end"] != "plain"):
        return False
    if before.kind == "depthwise" and fields["end"] != "gelu of sum":
        return False
    for step in later:
        if any(isinstance(value, Matrix) and value.start == before.target.start for value in step.fields.values()):
            return False
        if step.target.start == before.target.start:
            break
    return split(product, threads, True)[1] == 1


def encode(step: Step, record: Any, weights: Weights, images: int, threads: int) -> int:
    """Fill in the record of a step -> floats of scratch that a thread needs for it."""
    target, fields = step.target, step.fields
    record["kind"] = codes.KINDS.index(step.kind)
    record["target"], record["target_pitch"], record["target_leap"] = target.start, target.pitch, target.leap
    record["target_chunk"] = target.chunk
    record["rows"], record["columns"] = target.rows, target.columns
    for name, value in fields.items():
        if isinstance(value, Matrix):
            record[name] = value.start
        elif name in WORDS:
            record[name] = WORDS[name][value]
        elif value is None:
            record[name] = -1
        elif isinstance(value, Packed):
            record[name] = weights.place(value)
        elif isinstance(value, float):
            record[name] = value
        else:
            record[name] = index(value)
    if "source" in fields:
        source = fields["source"]
        record["source_pitch"], record["source_leap"] = source.pitch, source.leap
    return SPLIT.get(step.kind, by_image)(step, record, images, threads)


def by_image(step: Step, record: Any, images: int, threads: int) -> int:
    """A unit for each image."""
    record["units"] = images
    if step.kind == "mean":
        record["branch_leap"] = step.fields["other"].start - step.fields["source"].start
    return 0


def by_rows(step: Step, record: Any, images: int, threads: int) -> int:
    """A unit for some rows."""
    record["units"] = min(step.target.rows, threads * UNITS)
    return 0


def by_lines(step: Step, record: Any, images: int, threads: int) -> int:
    """A unit for each line of each image's maps."""
    record["units"] = images * step.fields["height"]
    return 0


def by_tiles(step: Step, record: Any, images: int, threads: int) -> int:
    """A unit for some rows and some columns of a product."""
    rows, inner, made = step.target.rows, step.fields["inner"], step.fields["before"] != "rows"
    panels, tiles, chunks = -(-step.target.columns // PANEL), -(-rows // HEIGHT), -(-inner // CHUNK)
    parts, columns = split(step, threads, made)
    record["row_parts"], record["column_parts"], record["units"] = parts, columns, parts * columns
    most = (-(-tiles // parts) + 1) * HEIGHT
    record["group"] = group = max(1, SUMS // (most * PANEL)) if chunks > 1 else 1
    return most * PANEL * min(panels, group) + (most * chunks * DEPTH if made else 0)


def split(step: Step, threads: int, made: bool) -> tuple[int, int]:
    """made: whether a unit makes its rows first.

    Into how many parts of rows, that stay in a core's cache while the weights pass by, and of columns, where rows are few.
    """
    rows, inner = step.target.rows, step.fields["inner"]
    tiles, panels = -(-rows // HEIGHT), -(-step.target.columns // PANEL)
    most = max(4 * HEIGHT, ROWS * CHUNK // max(inner, CHUNK)) if made else ROWS
    parts = min(tiles, -(-rows // most))
    if parts >= threads * UNITS:
        return min(tiles, -(-parts // threads) * threads), 1
    return parts, min(panels, -(-threads * UNITS // parts))


def by_heads(step: Step, record: Any, images: int, threads: int) -> int:
    """A unit for each head of each image, or for some of its queries where that leaves no thread idle."""
    fields = step.fields
    units = images * fields["heads"]
    most = -(-fields["group"] // PANEL)
    parts = next((n for n in range(1, min(4, most) + 1) if units * n % threads == 0 or units * n >= 8 * threads), min(4, most))
    record["units"], record["parts"] = units * parts, parts
    keys, source = fields["keys"], fields["source"]
    record["key_pitch"] = keys.pitch
    record["key_step"], record["source_step"] = (m.leap if m.chunk == fields["depth"] else fields["depth"] for m in (keys, source))
    if fields["attended"] is not None:
        record["attended_pitch"] = fields["attended"].pitch
    return scratch_of_head(fields["key_count"], fields["depth"])


def scratch_of_head(count: int, depth: int) -> int:
    """Floats that `kernels.attention.attend_head` needs."""
    packed = (-(-depth // CHUNK) * count + -(-count // CHUNK) * depth) * DEPTH
    return packed + (2 * depth + count + -(-depth // PANEL) * PANEL + 1) * PANEL


def by_reorganized(step: Step, record: Any, images: int, threads: int) -> int:
    """A unit for each image, which needs its scores, their keys and their order."""
    record["units"] = images
    attended = step.fields["attended"]
    record["attended_pitch"] = attended.pitch
    record["branch_leap"] = attended.rows // step.fields["branches"] * attended.pitch
    return 3 * int(step.fields["tokens"])


SPLIT = {
    "depthwise": by_lines, "norm": by_rows, "linear": by_tiles, "attention": by_heads, "reorganize": by_reorganized,
}  # fmt: skip
