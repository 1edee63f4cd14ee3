"""Programs run by numba's kernels: weights packed once, steps as one array of records, threads that share every step."""

import math
import sys
from collections.abc import Hashable, Sequence
from dataclasses import dataclass, replace
from functools import cache
from typing import Any

import numpy as np
from numba.core.event import Listener, install_listener

from reforg_numpy.kernels import work
from reforg_numpy.kernels.attention import scratch_of_head
from reforg_numpy.kernels.depthwise import GELU_OF_SUM, MORE, SUM
from reforg_numpy.kernels.rows import ADD, GELU, PLAIN, RELU
from reforg_numpy.kernels.threads import SPACE
from reforg_numpy.kernels.tile import CHUNK, DEPTH, HEIGHT, PANEL
from reforg_numpy.program import LINE, Floats, FullError, Layout, Maps, Matrix, Packed, Program, Step, Tokens
from reforg_numpy.team import TEAM

LAYOUT = Layout(PANEL, CHUNK, DEPTH)
WORDS = {
    "end": {"plain": PLAIN, "gelu": GELU, "relu": RELU, "add": ADD, "sum": SUM, "gelu of sum": GELU_OF_SUM, "more": MORE},
    "before": {"rows": work.ROWS, "norm": work.NORMED, "pixels": work.MAPS, "planes": work.PLANES},
}  # fmt: skip
ROWS = 204  # that a unit of a product reads: a chunk of them and their sums stay in a second-level cache
AT_ONCE = 1 << 23  # bytes of the widest intermediate of a part, for each thread: it is in the cache when it is read
CONSTANTS = 1 << 24  # floats for what is made of weights: positions of other image sizes
UNITS = 4  # of a step, for each thread: fewer leave a thread idle at its end, more read weights again


def aligned(size: int) -> Floats:
    """Memory for so many floats, not touched, that begins with a line of the cache."""
    room = np.empty(size + 16, np.float32)
    start = -room.ctypes.data % 64 // 4
    return room[start : start + size]


class Weights:
    """Weights in the order in which the kernels read them, packed when a program first asks for them."""

    def __init__(self, weights: Any) -> None:
        largest = sum(_room(array) for array in weights.values())
        self.array = aligned(2 * largest + CONSTANTS)  # only what is touched takes memory; a matrix may be packed in parts, too
        self._used = 0
        self._packed: dict[Hashable, tuple[int, Any]] = {}

    def place(self, packed: Packed | None) -> int:
        """Where it begins; -1 for none. Raises FullError."""
        if packed is None:
            return -1
        if packed.key not in self._packed:
            rows = packed.array if packed.part is None else packed.array[slice(*packed.part)]
            start = PACK[packed.kind](self, np.asarray(rows, np.float32))
            self._packed[packed.key] = start, packed.array  # kept, so that its id stays its own
        return self._packed[packed.key][0]

    def _take(self, *shape: int) -> tuple[int, Floats]:
        start, size = self._used, math.prod(shape)
        if start + size > len(self.array):
            raise FullError
        self._used += -(-size // LINE) * LINE
        return start, self.array[start : start + size].reshape(shape)

    def row(self, array: Floats) -> int:
        """[O], filled up with zeros."""
        return self.rows(array[None, :])

    def rows(self, array: Floats) -> int:
        """[N, C], each row filled up with zeros."""
        count, columns = array.shape
        start, place = self._take(count, -(-columns // PANEL) * PANEL)
        place[:, :columns], place[:, columns:] = array, 0
        return start

    def product(self, array: Floats) -> int:
        """[O, K] -> panels of its transpose [O / PANEL, K, PANEL], filled up with zeros."""
        columns, inner = array.shape
        whole = columns // PANEL
        start, place = self._take(-(-columns // PANEL), inner, PANEL)
        place[:whole] = array[: whole * PANEL].reshape(whole, PANEL, inner).transpose(0, 2, 1)
        if whole < len(place):
            place[whole] = 0
            place[whole, :, : columns - whole * PANEL] = array[whole * PANEL :].T
        return start

    def planes(self, array: Floats) -> int:
        """[O, C, kh, kw] -> a product with windows whose columns are channels, lines, pixels."""
        return self.product(array.reshape(len(array), -1))

    def pixels(self, array: Floats) -> int:
        """[O, C, kh, kw] -> a product with windows whose columns are lines, pixels, channels."""
        return self.product(array.transpose(0, 2, 3, 1).reshape(len(array), -1))

    def taps(self, array: Floats) -> int:
        """[C, 1, 3, 3] -> a row of channels for each tap."""
        return self.rows(array.reshape(len(array), -1).T)


PACK = {
    "row": Weights.row, "rows": Weights.rows, "product": Weights.product, "planes": Weights.planes, "pixels": Weights.pixels,
    "taps": Weights.taps,
}  # fmt: skip


def _room(array: Any) -> int:
    rows = array.shape[0] if array.ndim else 1
    return -(-rows // PANEL) * PANEL * max(1, array.size // max(rows, 1)) + LINE


@dataclass(frozen=True)
class Ready:
    """A program whose steps, some of them together, are records.

    scratch: where each thread's begins; size: floats of memory with all of it.
    """

    program: Program
    steps: list[Step]
    records: Any
    scratch: list[int]
    size: int


class Engine:
    """Runs the programs of one model, one at a time: their memory is the same, as nothing is left in it for the next call."""

    name, layout = "numba", LAYOUT

    def __init__(self, weights: Any) -> None:
        self._weights = Weights(weights)
        self._memory = aligned(0)
        warm_up()
        self.clock = np.zeros(1, np.int64)

    def parts(self, batch: int, threads: int, bytes_per_image: int) -> int:
        """Into how many parts a batch goes, one after the other: of each, all threads compute every step together."""
        return -(-batch // max(1, AT_ONCE * threads // bytes_per_image))

    def ready(self, program: Program, shape: tuple[int, ...], threads: int) -> Ready:  # noqa: ARG002 - it is in the steps
        """The program's steps for so many threads, its weights packed."""
        steps = together(program.steps, threads)
        records = np.zeros(len(steps), work.STEP)
        records["norm_weight"] = -1
        needs = [encode(step, record, self._weights, program.images, threads) for step, record in zip(steps, records, strict=True)]
        room = -(-(max(needs) + 4 * LINE) // LINE) * LINE  # and a little more, so that threads share no line of the cache
        places = [program.size + thread * room for thread in range(threads)]
        return Ready(program, steps, records, places, program.size + threads * room)

    def run(
        self, parts: Sequence[tuple[Program, Ready, slice]], images: Floats, results: Sequence[Floats], threads: int  # noqa: ARG002
    ) -> None:
        """Fill the results, part by part."""
        for _, ready, rows in parts:
            for result, values in zip(results, self.compute(ready, images[rows]), strict=True):
                result[rows] = values

    def compute(self, ready: Ready, images: Floats) -> list[Floats]:
        """[B, C, H, W] -> views of the results, until the next call."""
        if len(self._memory) < ready.size:
            self._memory = aligned(ready.size)
        flat = np.require(images, np.float32, ("C", "W", "A")).reshape(-1)
        counters = np.zeros((len(ready.records) + 1) * SPACE, np.int64)
        clock = np.zeros(len(ready.records) + 1, np.int64)
        threads = len(ready.scratch)

        def share(thread: int) -> None:
            work.work(
                ready.records, self._memory, self._weights.array, flat, counters, clock, thread, threads, ready.scratch[thread]
            )

        TEAM.run(threads, share)
        self.clock = clock
        return [self._view(result) for result in ready.program.results]

    def _view(self, result: Tokens | Maps) -> Floats:
        """What stands in memory for an array."""
        tokens = result.tokens if isinstance(result, Maps) else result
        matrix = tokens.matrix
        rows = self._memory[matrix.start : matrix.start + matrix.rows * matrix.pitch].reshape(-1, matrix.pitch)
        array = rows[:, : matrix.columns].reshape(tokens.shape)
        return array.swapaxes(1, 2).reshape(result.shape) if isinstance(result, Maps) else array


class Announcer(Listener):  # type: ignore[misc]
    """Says, once, that numba compiles."""

    def __init__(self) -> None:
        self._told = False

    def on_start(self, event: Any) -> None:  # noqa: ARG002 - numba's signature
        """When the compilation of a function begins."""
        if not self._told:
            self._told = True
            kept = "once" if work.KEPT else "at every start, as numba finds no folder to keep them (NUMBA_CACHE_DIR names one)"
            sys.stderr.write(f"reforg: compiling kernels for this processor, which takes some seconds, {kept}\n")

    def on_end(self, event: Any) -> None:
        """When it ends."""


@cache
def warm_up() -> None:
    """Compile the kernels, or load what was compiled before."""
    counters, floats = np.zeros(SPACE, np.int64), aligned(LINE)
    with install_listener("numba:compile", Announcer()):
        work.work(np.zeros(0, work.STEP), floats, floats, floats, counters, np.zeros(1, np.int64), 0, 1, 0)


def together(steps: list[Step], threads: int) -> list[Step]:
    """Each norm in one step with the product behind it, where that product's units have all columns of their rows.

    The norm is then computed by the unit that reads it, and stays in its core's cache.
    """
    result: list[Step] = []
    for number, step in enumerate(steps):
        before = result[-1] if result else None
        if before is not None and before.kind == "norm" and step.kind == "linear" and _fits(before, step, steps[number + 1 :], threads):
            norm = {"norm_weight": before.fields["weight"], "norm_bias": before.fields["bias"], "eps": before.fields["eps"]}
            result[-1] = replace(step, fields=step.fields | norm | {"source": before.fields["source"], "before": "norm"})
        else:
            result.append(step)
    return result


def _fits(norm: Step, product: Step, later: list[Step], threads: int) -> bool:
    """Whether the product reads the norm's rows, all of them, and has them to itself."""
    if product.fields["before"] != "rows" or product.fields["source"] != norm.target:
        return False
    if norm.fields["group"] != norm.fields["tokens"] or norm.fields["end"] != "plain":
        return False
    for step in later:
        if any(isinstance(value, Matrix) and value.start == norm.target.start for value in step.fields.values()):
            return False
        if step.target.start == norm.target.start:
            break
    return split(product, threads, True)[1] == 1


def encode(step: Step, record: Any, weights: Weights, images: int, threads: int) -> int:
    """Fill in the record of a step -> floats of scratch that a thread needs for it."""
    target, fields = step.target, step.fields
    record["kind"] = work.KINDS.index(step.kind)
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
        elif name in ("eps", "scale") or isinstance(value, int):
            record[name] = value
        elif name in ("weight", "bias", "gain", "norm_weight", "norm_bias"):
            record[name] = weights.place(value)
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
    slabs = -(-panels // columns) if chunks > 1 else 1
    return most * PANEL * slabs + (most * chunks * DEPTH if made else 0)


def split(step: Step, threads: int, made: bool) -> tuple[int, int]:
    """made: whether a unit makes its rows first.

    Into how many parts of rows, that stay in a core's cache while the weights pass by, and of columns, where rows are few."""
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
    most = -(-fields["group"] // HEIGHT)
    parts = next((n for n in range(1, min(4, most) + 1) if units * n % threads == 0 or units * n >= 8 * threads), min(4, most))
    record["units"], record["parts"] = units * parts, parts
    keys, source = fields["keys"], fields["source"]
    record["key_pitch"] = keys.pitch
    record["key_step"], record["source_step"] = (m.leap if m.chunk == fields["depth"] else fields["depth"] for m in (keys, source))
    if fields["attended"] is not None:
        record["attended_pitch"] = fields["attended"].pitch
    return int(scratch_of_head(fields["key_count"], fields["depth"]))


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
