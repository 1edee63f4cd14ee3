"""Programs run by numba's kernels: weights packed once, steps as one array of records, threads that share every step."""

import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from reforg.plans.matrices import LINE, Layout, Matrix
from reforg.plans.program import Program
from reforg.plans.steps import Step, label
from reforg_numpy.memory import Floats, aligned
from reforg_numpy.numba_engine.codes import STEP
from reforg_numpy.numba_engine.library import kernels
from reforg_numpy.numba_engine.packing import Weights
from reforg_numpy.numba_engine.records import encode, together
from reforg_numpy.numba_engine.shapes import CHUNK, DEPTH, PANEL, SPACE
from reforg_numpy.team import TEAM

LAYOUT = Layout(PANEL, CHUNK, DEPTH)
AT_ONCE = 1 << 23  # bytes of the widest intermediate of a part, for each thread: it is in the cache when it is read


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

    layout = LAYOUT

    def __init__(self, weights: Any, more: int = 0) -> None:
        self._weights = Weights(weights, more)
        self._memory = aligned(0)
        self._kernels = kernels()
        self.clock = np.zeros(1, np.int64)

    def parts(self, batch: int, threads: int, bytes_per_image: int) -> int:
        """Into how many parts a batch goes, one after the other: of each, all threads compute every step together."""
        return -(-batch // max(1, AT_ONCE * threads // bytes_per_image))

    def ready(self, program: Program, shape: tuple[int, ...], threads: int) -> Ready:  # noqa: ARG002 - it is in the steps
        """The program's steps for so many threads, its weights packed."""
        steps = together(program.steps, threads)
        records = np.zeros(len(steps), STEP)
        records["first_bias"] = -1
        needs = [encode(step, record, self._weights, program.images, threads) for step, record in zip(steps, records, strict=True)]
        room = -(-(max(needs) + 4 * LINE) // LINE) * LINE  # and a little more, so that threads share no line of the cache
        places = [program.size + thread * room for thread in range(threads)]
        return Ready(program, steps, records, places, program.size + threads * room)

    def run(
        self, parts: Sequence[tuple[Program, Ready, slice]], images: Floats, results: Sequence[Floats], threads: int, watch: Any
    ) -> None:
        """Fill the results, part by part. threads: is in the steps."""
        del threads
        for _, ready, rows in parts:
            start = time.perf_counter()
            for result, values in zip(results, self.compute(ready, images[rows]), strict=True):
                result[rows] = values
            if watch is not None:
                self._tell(ready, time.perf_counter() - start, watch)

    def _tell(self, ready: Ready, seconds: float, watch: Any) -> None:
        """Share out the time of a part by the processor's ticks at the end of every step."""
        ticks = np.diff(self.clock)
        for step, share in zip(ready.steps, ticks / max(1, ticks.sum()), strict=True):
            watch(label(step), seconds * float(share), step.macs(ready.program.images))

    def compute(self, ready: Ready, images: Floats) -> list[Floats]:
        """[B, C, H, W] -> views of the results, until the next call."""
        if len(self._memory) < ready.size:
            self._memory = aligned(ready.size)
        flat = np.require(images, np.float32, ("C", "W", "A")).reshape(-1)
        counters = np.zeros((len(ready.records) + 1) * SPACE, np.int64)
        clock = np.zeros(len(ready.records) + 1, np.int64)
        arrays = ready.records, self._memory, self._weights.array, flat
        threads = len(ready.scratch)

        def share(thread: int) -> None:  # it holds the arrays whose addresses it gives away
            sized = (number for array in arrays for number in (at(array), len(array)))
            self._kernels(*sized, at(counters), at(clock), thread, threads, ready.scratch[thread])

        TEAM.run(threads, share)
        self.clock = clock
        return [result.seen(self._rows(result.matrix)) for result in ready.program.results]

    def _rows(self, matrix: Matrix) -> Floats:
        """A matrix of whole rows as it lies in memory."""
        return self._memory[matrix.start : matrix.start + matrix.rows * matrix.pitch].reshape(-1, matrix.pitch)[:, : matrix.columns]


def at(array: Any) -> int:
    """The address of an array."""
    address: int = array.ctypes.data
    return address
