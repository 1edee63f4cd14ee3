"""Programs run by NumPy's own calls, into memory that is taken once: each thread computes images of its own with one BLAS thread.

Few images at a time go through all steps, so that what is made is in the cache when it is read. A single part has all of BLAS'
threads instead.
"""

import time
from collections import deque
from collections.abc import Callable, Sequence
from typing import Any

from reforg.plans.matrices import Layout
from reforg.plans.program import Program
from reforg.plans.steps import label
from reforg_numpy.batches import ONE_BLAS_THREAD, on_threads
from reforg_numpy.memory import Floats
from reforg_numpy.numpy_engine.memory import Memory, Products
from reforg_numpy.numpy_engine.steps import STEPS

AT_ONCE = 1 << 22  # bytes of the widest intermediate of the images that a thread computes at once


class Bound:
    """A program bound to memory of its own: calls without arguments, and where images come in and results go out."""

    def __init__(self, program: Program, shape: tuple[int, ...], products: Products) -> None:
        self._program, self._memory = program, Memory(program, shape, products)
        self._calls: list[Callable[[], None]] = [STEPS[type(step)](step, self._memory) for step in program.steps]
        self._results: list[Floats] = [result.seen(self._memory.view(result.matrix)) for result in program.results]

    def run(self, images: Floats, watch: Any = None) -> list[Floats]:
        """[B, C, H, W] -> views of the results, until the next run."""
        self._memory.images[...] = images
        for step, call in zip(self._program.steps, self._calls, strict=True):
            start = time.perf_counter()
            call()
            if watch is not None:
                watch(label(step), time.perf_counter() - start, step.macs(self._program.images))
        return self._results


class Engine:
    """Runs the programs of one model."""

    layout = Layout()

    def __init__(self, weights: Any) -> None:  # noqa: ARG002 - a program's steps name those that they read
        """Matrices of products are brought into another order as steps ask for them, all else is read where it lies."""
        self._products = Products()

    def parts(self, batch: int, threads: int, bytes_per_image: int) -> int:
        """Into how many parts a batch goes: as many for each thread, where there are enough."""
        threads = min(threads, batch)
        rounds = -(-batch // (threads * max(1, AT_ONCE // bytes_per_image)))
        return min(batch, threads * rounds)

    def ready(self, program: Program, shape: tuple[int, ...], threads: int) -> "deque[Bound]":  # noqa: ARG002 - threads each bind it
        """Where those that are bound to it wait for their turn."""
        return deque()

    def run(
        self,
        parts: Sequence[tuple[Program, "deque[Bound]", slice]],
        images: Floats,
        results: Sequence[Floats],
        threads: int,
        watch: Any,
    ) -> None:
        """Fill the results, part by part."""
        workers = min(threads, len(parts))
        told = None if watch is None else lambda name, seconds, count: watch(name, seconds / workers, count)

        def compute(part: tuple[Program, "deque[Bound]", slice]) -> None:
            program, idle, rows = part
            try:
                bound = idle.pop()
            except IndexError:
                bound = Bound(program, images.shape[1:], self._products)
            for result, values in zip(results, bound.run(images[rows], told), strict=True):
                result[rows] = values
            idle.append(bound)

        if workers == 1:
            for part in parts:
                compute(part)
            return
        with ONE_BLAS_THREAD.held() as obeyed:
            if obeyed:
                on_threads(compute, parts, workers)
            else:
                for part in parts:
                    compute(part)
