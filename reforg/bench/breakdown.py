"""Where a forward pass spends its time: a clock at every operation of the record, and what the products alone would take.

Time is exclusive: what runs inside an operation through the record is counted there and not twice. A piece of a model that
no backend replaced ("vit.block") has the time of its own body: residuals, splitting and merging of heads. What is outside of
all of them is "between". Where several threads compute at once, each moment is shared out among what they do, so that the
times sum to the wall time. An operation's result is waited for before its clock stops, because some libraries only begin it.
"""

import math
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from threading import Lock, get_ident
from types import MappingProxyType
from typing import Any

import numpy as np

from reforg.costs.cost import cost
from reforg.models.model import Model
from reforg.ops import Ops, bodies, operations

SIDE, PRODUCTS = 1536, 5  # of the square matrices whose product tells the peak, and how many times


@dataclass
class Part:
    """What an operation has taken: its share of the wall time in seconds, calls, multiply-accumulates where they are known."""

    seconds: float = 0.0
    calls: int = 0
    macs: int | None = None


class Stopwatch:
    """Wraps functions so that each one's own time is added up under its name, whichever threads call them.

    settle waits until a result is there; clock tells seconds.
    """

    def __init__(self, settle: Callable[[Any], None], clock: Callable[[], float] = time.perf_counter) -> None:
        self.parts: dict[str, Part] = {}
        self._settle, self._clock, self._lock = settle, clock, Lock()
        self._running: dict[int, list[str]] = {}  # by thread: the functions that it is in, the innermost last
        self._since = clock()  # when one of them was last entered or left

    def timed(self, name: str, function: Callable[..., Any]) -> Callable[..., Any]:
        """The same function under the clock."""

        def run(*arguments: Any, **settings: Any) -> Any:
            self._enter(name)
            try:
                result = function(*arguments, **settings)
                self._settle(result)
            finally:
                self._leave()
            if name in MACS:
                self._count(name, MACS[name](arguments, result))
            return result

        return run

    def add(self, name: str, seconds: float, macs: int | None) -> None:
        """Add what somebody else has measured: a share of the wall time."""
        with self._lock:
            part = self.parts.setdefault(name, Part())
            part.seconds, part.calls = part.seconds + seconds, part.calls + 1
            part.macs = part.macs if macs is None else (part.macs or 0) + macs

    def _enter(self, name: str) -> None:
        with self._lock:
            self._share_out()
            self.parts.setdefault(name, Part()).calls += 1
            self._running.setdefault(get_ident(), []).append(name)

    def _leave(self) -> None:
        with self._lock:
            self._share_out()
            self._running[get_ident()].pop()

    def _count(self, name: str, macs: int) -> None:
        with self._lock:
            self.parts[name].macs = (self.parts[name].macs or 0) + macs

    def _share_out(self) -> None:
        """Give the time since the last change to what every thread was doing, to each the same."""
        now = self._clock()
        doing = [names[-1] for names in self._running.values() if names]
        for name in doing:
            self.parts[name].seconds += (now - self._since) / len(doing)
        self._since = now

    def record(self, ops: Ops) -> Ops:
        """The record with every operation and every piece under the clock."""
        fine: dict[str, Any] = {name: self.timed(name, getattr(ops, name)) for name in operations()}
        coarse = {name: self.timed(name, ops.coarse.get(name, body)) for name, body in bodies().items()}
        return replace(ops, **fine, coarse=MappingProxyType(coarse))


def _convolution(arguments: Any, result: Any) -> int:
    """Every output of [B, O, H, W] is a sum over one filter."""
    batch, _, height, width = result.shape
    return int(batch * height * width * math.prod(arguments[1].shape))


# Multiply-accumulates of a call, from its arguments and its result; counted as reforg.cost counts them.
MACS: dict[str, Callable[[Any, Any], int]] = {
    "linear": lambda arguments, _: math.prod(arguments[0].shape) * arguments[1].shape[0],
    "conv2d": _convolution,
    "depthwise_conv2d": _convolution,
    "attention": lambda arguments, _: 2 * math.prod(arguments[0].shape) * arguments[1].shape[-2],
}


class Clocked:
    """A backend whose operations, and whose ways in and out, are under a stopwatch; else the backend itself."""

    def __init__(self, backend: Any, ops: Ops, watch: Stopwatch) -> None:
        self._backend = backend
        self.ops = watch.record(ops)
        self.asarray = watch.timed("asarray", backend.asarray)
        self.to_numpy = watch.timed("to_numpy", backend.to_numpy)
        self.plans = None  # which would run without them

    def __getattr__(self, name: str) -> Any:
        return getattr(self._backend, name)


def measured(model: Model, ops: Ops, images: Any, seconds: float) -> dict[str, Any]:
    """The breakdown of a batch, averaged over as many passes as fill the time, as plain values (see reforg.bench.report).

    ops: the record that the model computes with, operation by operation.
    """
    backend = model.backend

    def settle(result: Any) -> None:
        for array in result if isinstance(result, tuple) else (result,):
            if shape := getattr(array, "shape", ()):
                backend.to_numpy(array[(0,) * len(shape)])

    watch = Stopwatch(settle)
    clocked = Clocked(backend, ops, watch)
    watched = Model(model.name, model.config, model.weights, clocked, model.dtype, model.device, "auto", model.check_finite)
    return repeated(model, lambda: clocked.to_numpy(watched(images)), watch, ops.table(), seconds)


def planned(model: Model, images: Any, seconds: float) -> dict[str, Any]:
    """The same of a model with plans, which tell of every step themselves."""
    plans, watch = model.plans, Stopwatch(lambda _: None)
    if plans is None:
        raise ValueError(f"{model.name} has no plans")
    plans.watch = watch.add
    try:
        model(images)
        runner = next(iter(plans.table().values()))
        return repeated(model, lambda: model(images), watch, dict.fromkeys(watch.parts, runner), seconds)
    finally:
        plans.watch = None


def repeated(
    model: Model, run: Callable[[], Any], watch: Stopwatch, providers: Mapping[str, str], seconds: float
) -> dict[str, Any]:
    """Run once to warm up, then until the time is over, and tell what the stopwatch has found."""
    before = fastest_product(model)
    batch = len(run())
    watch.parts.clear()
    passes, start = 0, time.perf_counter()
    while True:
        run()
        passes, wall = passes + 1, time.perf_counter() - start
        if wall >= seconds:
            break
    peak = max(before, fastest_product(model))  # what else runs on the machine rarely disturbs both
    floor = 2 * cost(model, batch=batch).macs / peak
    return {**per_pass(watch.parts, providers, passes, wall), "peak_gflops": peak / 1e9, "floor_ms": 1e3 * floor}


def per_pass(parts: dict[str, Part], providers: Mapping[str, str], passes: int, wall: float) -> dict[str, Any]:
    """What a stopwatch has added up over `passes` that took `wall` seconds, for one pass."""
    rows = [
        {
            "operation": name,
            "run_by": providers.get(name),
            "calls": part.calls / passes,
            "ms": 1e3 * part.seconds / passes,
            "share": part.seconds / wall,
            "gmacs": None if part.macs is None else part.macs / passes / 1e9,
            "gflops": None if part.macs is None else 2 * part.macs / part.seconds / 1e9,
        }
        for name, part in sorted(parts.items(), key=lambda item: -item[1].seconds)
    ]
    between = wall - sum(part.seconds for part in parts.values())
    return {
        "passes": passes,
        "wall_ms": 1e3 * wall / passes,
        "parts": rows,
        "between_ms": 1e3 * between / passes,
        "between_share": between / wall,
    }


def fastest_product(model: Model) -> float:
    """Floating-point operations a second of the best of a few large matrix products of the model's backend.

    In float64 for a model of float64, else in float32, in which reforg forms the sums of narrower dtypes.
    """
    backend, dtype = model.backend, "float64" if model.dtype == "float64" else "float32"
    square = np.random.default_rng(0).standard_normal((SIDE, SIDE)).astype(dtype)
    matrix = backend.asarray(square, backend.dtype(dtype), model.device)
    best = math.inf
    for _ in range(PRODUCTS):
        start = time.perf_counter()
        backend.to_numpy((matrix @ matrix)[0, 0])
        best = min(best, time.perf_counter() - start)
    return 2 * SIDE**3 / best
