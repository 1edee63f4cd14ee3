"""Programs run by NumPy's own calls, into memory that is taken once: each thread computes images of its own with one BLAS thread.

Few images at a time go through all steps, so that what is made is in the cache when it is read. A single part has all of BLAS'
threads instead.
"""

from collections import deque
from collections.abc import Callable, Sequence
from typing import Any

from reforg_numpy.batches import ONE_BLAS_THREAD, on_threads
from reforg_numpy.plain_steps import STEPS, Memory
from reforg_numpy.program import Floats, Layout, Maps, Program, Tokens

AT_ONCE = 1 << 22  # bytes of the widest intermediate of the images that a thread computes at once


class Bound:
    """A program bound to memory of its own: calls without arguments, and where images come in and results go out."""

    def __init__(self, program: Program, shape: tuple[int, ...]) -> None:
        self._program, self._memory = program, Memory(program, shape)
        self._calls: list[Callable[[], None]] = [STEPS[step.kind](step, self._memory) for step in program.steps]
        self._results = [self._view(result) for result in program.results]

    def _view(self, result: Tokens | Maps) -> Floats:
        tokens = result.tokens if isinstance(result, Maps) else result
        array = self._memory.view(tokens.matrix).reshape(tokens.shape)
        return array.swapaxes(1, 2).reshape(result.shape) if isinstance(result, Maps) else array

    def run(self, images: Floats) -> list[Floats]:
        """[B, C, H, W] -> views of the results, until the next run."""
        self._memory.images[...] = images
        for call in self._calls:
            call()
        return self._results


class Engine:
    """Runs the programs of one model."""

    name, layout = "numpy", Layout()

    def __init__(self, weights: Any) -> None:
        """Weights are read where they lie."""

    def parts(self, batch: int, threads: int, bytes_per_image: int) -> int:
        """Into how many parts a batch goes: as many for each thread, where there are enough."""
        threads = min(threads, batch)
        rounds = -(-batch // (threads * max(1, AT_ONCE // bytes_per_image)))
        return min(batch, threads * rounds)

    def ready(self, program: Program, shape: tuple[int, ...], threads: int) -> "deque[Bound]":  # noqa: ARG002 - threads each bind it
        """Where those that are bound to it wait for their turn."""
        return deque()

    def run(
        self, parts: Sequence[tuple[Program, "deque[Bound]", slice]], images: Floats, results: Sequence[Floats], threads: int
    ) -> None:
        """Fill the results, part by part."""

        def compute(part: tuple[Program, "deque[Bound]", slice]) -> None:
            program, idle, rows = part
            try:
                bound = idle.pop()
            except IndexError:
                bound = Bound(program, images.shape[1:])
            for result, values in zip(results, bound.run(images[rows]), strict=True):
                result[rows] = values
            idle.append(bound)

        if len(parts) == 1 or threads == 1:
            for part in parts:
                compute(part)
            return
        with ONE_BLAS_THREAD.held() as obeyed:
            if obeyed:
                on_threads(compute, parts, min(threads, len(parts)))
            else:
                for part in parts:
                    compute(part)
