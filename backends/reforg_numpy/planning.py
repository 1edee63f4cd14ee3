"""Plans of one model: programs recorded from its own forward pass, for a number of images of one size, and run by an engine.

What records them is `reforg.plans`; the engines are found by name in `ENGINES`.
"""

import importlib.util
import os
from collections import OrderedDict
from collections.abc import Callable, Hashable, Mapping
from functools import cache
from itertools import pairwise
from typing import Any
from weakref import WeakValueDictionary

import numpy as np

from reforg.plans.program import Program
from reforg.plans.recording import RUN_BY_PLANS, record
from reforg.plans.symbols import UnrecordableError
from reforg_numpy.batches import threads as threads_allowed
from reforg_numpy.memory import Floats, FullError
from reforg_numpy.team import TEAM

KEPT = 8  # programs remembered: a few batch sizes, each with what is left over of a batch
Watch = Callable[[str, float, int | None], None]
"""Is told of every step what it is called, its share of the wall time in seconds, and its multiply-accumulates."""


class Plans:
    """The plans of a model whose weights are float32; safe for calls from several threads, which take turns.

    watch: None, or who is told of every step.
    """

    def __init__(self, weights: Mapping[str, Any], engine: str) -> None:
        self._weights = weights
        self._name = engine
        self._engine: Any = None
        self._programs: OrderedDict[Hashable, tuple[Program, Any]] = OrderedDict()
        self._refused: set[Hashable] = set()  # calls that cannot be recorded, so that it is not tried again
        self.watch: Watch | None = None

    def table(self) -> Mapping[str, str]:
        """What the programs run."""
        return dict.fromkeys(RUN_BY_PLANS, self._name)

    def run(self, call: Any, images: Floats) -> Any:
        """[B, C, H, W] -> what `call.forward` makes of them; None where there are no images, or where it cannot be recorded."""
        batch, *rest = images.shape
        refusal = call.key, *rest
        if not batch or refusal in self._refused:
            return None
        with TEAM.lock:
            try:
                return self._run(call, images, batch, tuple(rest))
            except UnrecordableError:
                self._refused.add(refusal)
                return None

    def _run(self, call: Any, images: Floats, batch: int, rest: tuple[int, ...]) -> Any:
        threads, engine = threads_allowed(), self._started()
        count = engine.parts(batch, threads, call.bytes_per_image)
        bounds = [batch * part // count for part in range(count + 1)]
        parts = self._parts(call, bounds, rest, threads)
        if self._engine is not engine:  # which was full, so that the first parts were made for nothing
            parts = self._parts(call, bounds, rest, threads)
        program = parts[0][0]
        results = [np.empty((batch, *result.shape[1:]), np.float32) for result in program.results]
        self._engine.run(parts, images, results, threads, self.watch)
        return program.kind(results)

    def _started(self) -> Any:
        if self._engine is None:
            self._engine = ENGINES[self._name]()(self._weights)
        return self._engine

    def _parts(self, call: Any, bounds: list[int], rest: tuple[int, ...], threads: int) -> list[tuple[Program, Any, slice]]:
        return [(*self._program(call, end - start, rest, threads), slice(start, end)) for start, end in pairwise(bounds)]

    def _program(self, call: Any, batch: int, rest: tuple[int, ...], threads: int) -> tuple[Program, Any]:
        key = call.key, batch, rest, threads
        if key not in self._programs:
            try:
                self._programs[key] = self._made(call, (batch, *rest), threads)
            except FullError as error:  # the positions of many image sizes, or of a large one: begin anew
                self._engine = type(self._engine)(self._weights, error.size)
                self._programs.clear()
                self._programs[key] = self._made(call, (batch, *rest), threads)
            if len(self._programs) > KEPT:
                self._programs.popitem(last=False)
        self._programs.move_to_end(key)
        return self._programs[key]

    def _made(self, call: Any, shape: tuple[int, ...], threads: int) -> tuple[Program, Any]:
        engine = self._started()
        program = record(call.forward, self._weights, shape, engine.layout, call.only_logits)
        return program, engine.ready(program, shape[1:], threads)


def _numba() -> Any:
    from reforg_numpy.numba_engine.engine import Engine

    return Engine


def _numpy() -> Any:
    from reforg_numpy.numpy_engine.engine import Engine

    return Engine


ENGINES = {"numba": _numba, "numpy": _numpy}
_MADE: "WeakValueDictionary[tuple[Any, ...], Plans]" = WeakValueDictionary()


@cache
def installed(engine: str) -> bool:
    """Whether what an engine stands on is there, and numba allowed to compile."""
    allowed = engine != "numba" or os.environ.get("NUMBA_DISABLE_JIT", "") in ("", "0")
    return allowed and importlib.util.find_spec(engine) is not None


def plans(weights: Mapping[str, Any], dtype: str, engine: str | None = None) -> Plans | None:
    """Plans for float32, by an engine of that name or the fastest that is installed; None where there are none.

    Models that share their weights share their plans, and what is packed for them. Raises ValueError for an engine that is
    asked for and cannot run.
    """
    if engine is not None and dtype != "float32":
        raise ValueError(f"ops {engine!r} compute in float32 only")
    if engine is not None and not installed(engine):
        raise ValueError(f"ops {engine!r} need the package {engine!r}, which is not installed: pip install 'reforg[cpu]'")
    if dtype != "float32":
        return None
    name = engine or next(name for name in ENGINES if installed(name))
    key = name, *((name, id(array)) for name, array in weights.items())
    return _MADE.setdefault(key, Plans(weights, name))
