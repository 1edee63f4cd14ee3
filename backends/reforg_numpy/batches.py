"""A batch in parts: what arises on the way of a part stays in cache, and each thread computes parts of its own.

NumPy makes a new array at every step. Those of a whole batch pass through memory, and the largest are given back to the
system and asked for again each time; those of a few images stay where they are. Only BLAS uses more than one core, so parts
on threads of their own, with one BLAS thread each, keep all cores busy in the steps between matrix products too.
"""

import os
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from contextvars import copy_context
from functools import cache
from threading import Event, Lock, Thread
from typing import Any

import numpy as np
from threadpoolctl import ThreadpoolController

CACHED = 1 << 23  # bytes of the widest intermediate of a part: smaller ones cost more in calls than they save in memory
SMALL = 1 << 18  # bytes of the widest intermediate of a batch that is done before threads have started
KEPT = (1 << 25) - (1 << 16)  # bytes, a little below the most that glibc learns from

# Until a program has freed a large block, glibc gives back to the system what arrays of a megabyte leave free, and asks for it
# again at the next step, at a page fault for every 4 kB: a third of the time of DeiT-S's forward pass. One block, taken and freed
# untouched, teaches it to keep up to twice that size. (mallopt(3), "dynamic mmap threshold")
np.empty(KEPT, np.uint8)


def run(forward: Callable[[Any], Any], images: Any, bytes_per_image: int) -> Any:
    """[B, ...] -> what `forward` makes of them, an array or a tuple or list of arrays [B, ...], computed part by part.

    bytes_per_image: the size of the widest intermediate. BLAS has one thread meanwhile, and as many as before afterwards; who
    sets a limit of their own meanwhile, and lifts it later, gets back what was set when they did.
    """
    batch = images.shape[0]
    if batch * bytes_per_image < SMALL:
        return forward(images)
    workers = min(batch, threads())
    size = max(1, min(CACHED // bytes_per_image, -(-batch // workers)))
    parts = [images[start : start + size] for start in range(0, batch, size)]
    if workers == 1:
        return joined([forward(part) for part in parts])
    with ONE_BLAS_THREAD.held() as obeyed:
        return joined(on_threads(forward, parts, workers) if obeyed else [forward(part) for part in parts])


def threads() -> int:
    """How many threads the caller lets BLAS have, and no more than there are cores; 1 where BLAS cannot be asked."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    allowed = ONE_BLAS_THREAD.before or [library["num_threads"] for library in controller().info()]
    return min([cores, *allowed]) if allowed else 1


@cache
def controller() -> ThreadpoolController:
    """The BLAS libraries that NumPy has loaded."""
    return ThreadpoolController().select(user_api="blas")


class Held:
    """BLAS held to one thread while at least one call of ours runs, whichever threads the calls come from.

    A limit belongs to the thread that sets it, which alone can lift it: so a thread of its own sets and lifts it. Where
    another thread of the caller's has set a limit, that stays, and BLAS is not held.
    """

    def __init__(self) -> None:
        self._begin()

    def _begin(self) -> None:
        self._lock = Lock()
        self._calls = 0
        self.awaited, self._over = Event(), Event()
        self._keeper = Thread()
        self.before: list[int] = []

    @contextmanager
    def held(self) -> Iterator[bool]:
        """The first to enter holds BLAS, the last to leave lets it go; whether BLAS has one thread now."""
        with self._lock:
            if self._calls == 0:
                self._hold()
            self._calls += 1
        try:
            yield all(library["num_threads"] == 1 for library in controller().info())
        finally:
            with self._lock:
                self._calls -= 1
                if self._calls == 0:
                    self._let_go()

    def _hold(self) -> None:
        """All of it or nothing: an interruption on the way leaves BLAS as it was."""
        self.before = [library["num_threads"] for library in controller().info()]
        self.awaited, self._over = Event(), Event()
        self._keeper = Thread(target=_keep, args=(self.awaited, self._over), name="reforg-blas", daemon=True)
        try:
            self._keeper.start()
            self.awaited.wait()
        except BaseException:
            self._let_go()
            raise

    def _let_go(self) -> None:
        self.before = []
        self._over.set()
        if self._keeper.ident is not None:
            self._keeper.join()

    def forked(self) -> None:
        """In the child of a fork there are no keeper and no calls, only the limit that they had set: BLAS is let go."""
        before = self.before
        self._begin()  # a lock that another thread held at the fork would never be released
        for library, count in zip(controller().lib_controllers, before, strict=True) if before else ():
            library.set_num_threads(count)


def _keep(held: Event, over: Event) -> None:
    with controller().limit(limits=1):
        held.set()
        over.wait()


ONE_BLAS_THREAD = Held()
if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=ONE_BLAS_THREAD.forked)


def on_threads(forward: Callable[[Any], Any], parts: Sequence[Any], workers: int) -> list[Any]:
    """The results in the order of the parts; the first error stops those that have not begun. Each runs in the caller's context."""
    with ThreadPoolExecutor(workers, thread_name_prefix="reforg", initializer=_alone) as pool:
        try:
            running = [pool.submit(copy_context().run, forward, part) for part in parts]
            return [future.result() for future in running]
        except BaseException:
            pool.shutdown(wait=False, cancel_futures=True)
            raise


def _alone() -> None:
    """One BLAS thread for this thread, where the limit is each thread's own (OpenMP's); nothing where the keeper has set it."""
    controller().limit(limits=1)


def joined(results: Sequence[Any]) -> Any:
    """The results of the parts, one after the other, as the whole batch has them."""
    first = results[0]
    if isinstance(first, tuple | list):
        make = getattr(type(first), "_make", type(first))  # a named tuple's own way
        return make(np.concatenate(pieces) for pieces in zip(*results, strict=True))
    return np.concatenate(results)
