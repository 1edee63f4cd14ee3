"""How several threads share the steps of a program: they claim units of a step, and wait for each other at its end."""

import os
from typing import Any

import llvmlite.binding as llvm
from llvmlite import ir
from numba import njit, types
from numba.core import cgutils
from numba.extending import intrinsic

from reforg_numpy.numba_engine.kernels.simd import INDEX, pointer

SPINS = 2000  # looks at the counter before the core is left to others
YIELD = "SwitchToThread" if os.name == "nt" else "sched_yield"


@intrinsic
def fetch_add(_typing: Any, counters: Any, _index: Any, _amount: Any) -> Any:
    """Add to a counter, at once for all threads -> what it was before."""

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        place = pointer(context, builder, signature.args[0], *arguments[:2])
        return builder.atomic_rmw("add", place, arguments[2], "acq_rel")

    return types.int64(counters, types.int64, types.int64), generate


@intrinsic
def current(_typing: Any, counters: Any, _index: Any) -> Any:
    """What a counter is now."""

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        place = pointer(context, builder, signature.args[0], *arguments)
        return builder.load_atomic(place, "acquire", 8)

    return types.int64(counters, types.int64), generate


@intrinsic
def give_way(_typing: Any) -> Any:
    """Let another thread of the system have the core."""

    def generate(_context: Any, builder: Any, _signature: Any, _arguments: Any) -> Any:
        function = cgutils.get_or_insert_function(builder.module, ir.FunctionType(ir.IntType(32), []), YIELD)
        builder.call(function, [])
        return _context.get_dummy_value()

    return types.void(), generate


@intrinsic
def ticks(_typing: Any) -> Any:
    """The processor's counter of time, of a steady rate. That of ARM's cycles, LLVM's choice there, is the system's alone."""

    def generate(_context: Any, builder: Any, _signature: Any, _arguments: Any) -> Any:
        kind = ir.FunctionType(INDEX, [])
        if llvm.get_process_triple().startswith(("aarch64", "arm64")):
            return builder.asm(kind, "mrs $0, cntvct_el0", "=r", (), side_effect=True)
        return builder.call(cgutils.get_or_insert_function(builder.module, kind, "llvm.readcyclecounter"), [])

    return types.int64(), generate


@njit
def meet(counters, threads, round_):
    """Wait until all threads have come here for the `round_`-th time, counted from 1."""
    fetch_add(counters, 0, 1)
    looks = 0
    while current(counters, 0) < threads * round_:
        looks += 1
        if looks > SPINS:
            give_way()
