"""The kernels as object code: a C function of addresses, which whoever has LLVM can load, and numba is no longer needed for."""

import re
from collections.abc import Iterator
from typing import Any

import llvmlite.binding as llvm
from numba import carray, cfunc, from_dtype, types

from reforg_numpy.numba_engine.codes import STEP
from reforg_numpy.numba_engine.kernels.threads import YIELD
from reforg_numpy.numba_engine.kernels.work import work
from reforg_numpy.numba_engine.shapes import SPACE

WHOLE, FLOATS, WHOLES = types.int64, types.CPointer(types.float32), types.CPointer(types.int64)
SIGNATURE = types.void(
    types.CPointer(from_dtype(STEP)), WHOLE, FLOATS, WHOLE, FLOATS, WHOLE, FLOATS, WHOLE, WHOLES, WHOLES, WHOLE, WHOLE, WHOLE
)  # fmt: skip
LINKED = {YIELD, "memset", "memcpy", "memmove"}  # what every process has
RUNTIME = re.compile("_?Py|NRT_|_?numba_")  # of Python's and numba's: how numba would raise exceptions, and make arrays


def entry(
    steps, count, memory, memory_size, weights, weights_size, images, images_size, counters, clock, thread, threads, scratch
):  # fmt: skip
    """`work`, whose arrays are addresses and sizes."""
    work(
        carray(steps, (count,)), carray(memory, (memory_size,)), carray(weights, (weights_size,)), carray(images, (images_size,)),
        carray(counters, ((count + 1) * SPACE,)), carray(clock, (count + 1,)), thread, threads, scratch,
    )  # fmt: skip


def object_code(name: str, machine: Any) -> bytes:
    """Compiled for a machine of LLVM's, with the function under that name."""
    compiled = cfunc(SIGNATURE, error_model="numpy")(entry)
    module = llvm.parse_assembly(compiled.inspect_llvm())
    module.link_in(llvm.parse_assembly("\n".join(stubs(module))))
    for value in (*module.functions, *module.global_variables):
        if not value.is_declaration:
            value.linkage = "internal"
    function = next(function for function in module.functions if function.name.startswith("cfunc."))
    function.linkage, function.name = "external", name
    code: bytes = machine.emit_object(module)
    return code


def stubs(module: Any) -> Iterator[str]:
    """What stands for numba's runtime and for Python's: no kernel raises an exception, and one that did would end the process.

    Raises ValueError for a function of anybody else's, which kernels are not written to need.
    """
    yield f'target triple = "{module.triple}"\ndeclare void @llvm.trap()'
    for function in module.functions:
        if function.is_declaration and function.name not in LINKED and not function.name.startswith("llvm."):
            if not RUNTIME.match(function.name):
                raise ValueError(f"the kernels call {function.name}, which a process may not have")
            yield f'define void @"{function.name}"() {{ call void @llvm.trap() unreachable }}'
    for variable in module.global_variables:
        if variable.is_declaration:
            yield f'@"{variable.name}" = global ptr null'
