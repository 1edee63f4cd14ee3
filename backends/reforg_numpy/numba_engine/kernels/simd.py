"""Vectors of float32 as values of compiled code, of as many lanes as the processor's registers have.

A kernel says with them what it wants and gets it on every processor: LLVM makes one instruction of an operation, or several
where registers are narrower. A loop that a compiler must first recognise may become slow without a word.
"""

import operator
from typing import Any

from llvmlite import ir
from numba import types
from numba.core import cgutils
from numba.extending import intrinsic, models, overload, register_model

from reforg_numpy.numba_engine.shapes import LANES

FLOAT, INT, INDEX = ir.FloatType(), ir.IntType(32), ir.IntType(64)
VECTOR = ir.VectorType(FLOAT, LANES)
INTS = ir.VectorType(INT, LANES)


class Lanes(types.Type):  # type: ignore[misc]
    """Numba's type of a vector."""

    def __init__(self) -> None:
        super().__init__(name=f"float32x{LANES}")


vector = Lanes()
array = types.Array(types.float32, 1, "C")


@register_model(Lanes)
class LanesModel(models.PrimitiveModel):  # type: ignore[misc]
    """A vector is LLVM's vector, and lives in a register."""

    def __init__(self, manager: Any, kind: Any) -> None:
        super().__init__(manager, kind, VECTOR)


def pointer(context: Any, builder: Any, kind: Any, value: Any, index: Any) -> Any:
    """The address of the element `index` of an array."""
    return builder.gep(context.make_array(kind)(context, builder, value).data, [index], inbounds=True)


def call(builder: Any, name: str, *arguments: Any) -> Any:
    """One of LLVM's own functions on vectors of one type."""
    kind = arguments[0].type
    suffix = f"v{LANES}f32" if kind == VECTOR else f"v{LANES}i32"
    signature = ir.FunctionType(kind, [argument.type for argument in arguments])
    return builder.call(cgutils.get_or_insert_function(builder.module, signature, f"llvm.{name}.{suffix}"), arguments)


def spread(builder: Any, value: Any, lanes: int = LANES) -> Any:
    """The same scalar in every lane."""
    empty = ir.Constant(ir.VectorType(value.type, lanes), ir.Undefined)
    first = builder.insert_element(empty, value, INT(0))
    return builder.shuffle_vector(first, empty, ir.Constant(ir.VectorType(INT, lanes), [0] * lanes))


@intrinsic
def load(_typing: Any, values: Any, index: Any) -> Any:
    """values[index : index + LANES], which need not be aligned."""

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        place = pointer(context, builder, signature.args[0], *arguments)
        return builder.load(builder.bitcast(place, VECTOR.as_pointer()), align=4)

    return vector(values, types.int64), generate


@intrinsic
def store(_typing: Any, values: Any, index: Any, lanes: Any) -> Any:
    """values[index : index + LANES] = lanes."""

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        place = pointer(context, builder, signature.args[0], *arguments[:2])
        builder.store(arguments[2], builder.bitcast(place, VECTOR.as_pointer()), align=4)
        return context.get_dummy_value()

    return types.void(values, types.int64, vector), generate


@intrinsic
def prefetch(_typing: Any, values: Any, index: Any) -> Any:
    """Bring the line of the cache with values[index] nearer, without waiting for it."""

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        place = builder.bitcast(pointer(context, builder, signature.args[0], *arguments), ir.IntType(8).as_pointer())
        kind = ir.FunctionType(ir.VoidType(), [place.type, INT, INT, INT])
        builder.call(cgutils.get_or_insert_function(builder.module, kind, "llvm.prefetch.p0"), [place, INT(0), INT(2), INT(1)])
        return context.get_dummy_value()

    return types.void(values, types.int64), generate


@intrinsic
def splat(_typing: Any, value: Any) -> Any:
    """The same number in every lane."""
    return vector(types.float32), lambda _context, builder, _signature, arguments: spread(builder, arguments[0])


def _operator(symbol: Any, instruction: str) -> None:
    """Give vectors an operator of Python's."""

    @intrinsic
    def apply(_typing: Any, _left: Any, _right: Any) -> Any:
        def generate(_context: Any, builder: Any, _signature: Any, arguments: Any) -> Any:
            return getattr(builder, instruction)(*arguments)

        return vector(vector, vector), generate

    @overload(symbol)  # no annotations: numba wants those of both functions alike, and a lambda has none
    def choose(left, right):
        return (lambda left, right: apply(left, right)) if left == right == vector else None


for _symbol, _instruction in ((operator.add, "fadd"), (operator.sub, "fsub"), (operator.mul, "fmul"), (operator.truediv, "fdiv")):
    _operator(_symbol, _instruction)


@intrinsic
def fma(_typing: Any, _factor: Any, _other: Any, _summand: Any) -> Any:
    """Factor * other + summand, rounded once where the processor can, else twice."""
    return vector(vector, vector, vector), lambda _c, builder, _s, arguments: call(builder, "fmuladd", *arguments)


@intrinsic
def root(_typing: Any, _value: Any) -> Any:
    """The square root of every lane."""
    return vector(vector), lambda _c, builder, _s, arguments: call(builder, "sqrt", *arguments)


@intrinsic
def larger(_typing: Any, _left: Any, _right: Any) -> Any:
    """Left where left > right, else right; so of a NaN on the left nothing is left, and one on the right stays."""

    def generate(_context: Any, builder: Any, _signature: Any, arguments: Any) -> Any:
        return builder.select(builder.fcmp_ordered(">", *arguments), *arguments)

    return vector(vector, vector), generate


@intrinsic
def smaller(_typing: Any, _left: Any, _right: Any) -> Any:
    """Left where left < right, else right."""

    def generate(_context: Any, builder: Any, _signature: Any, arguments: Any) -> Any:
        return builder.select(builder.fcmp_ordered("<", *arguments), *arguments)

    return vector(vector, vector), generate


@intrinsic
def leading(_typing: Any, _values: Any, _count: Any) -> Any:
    """The first `count` lanes as they are, 0 in the others."""

    def generate(_context: Any, builder: Any, _signature: Any, arguments: Any) -> Any:
        values, count = arguments
        numbers = ir.Constant(INTS, list(range(LANES)))
        wanted = builder.icmp_signed("<", numbers, spread(builder, builder.trunc(count, INT)))
        return builder.select(wanted, values, ir.Constant(VECTOR, [0.0] * LANES))

    return vector(vector, types.int64), generate


@intrinsic
def power_of_two(_typing: Any, _exponent: Any) -> Any:
    """2 ** exponent of whole numbers between -126 and 127; 0 of -127."""

    def generate(_context: Any, builder: Any, _signature: Any, arguments: Any) -> Any:
        whole = builder.fptosi(arguments[0], INTS)
        biased = builder.add(whole, ir.Constant(INTS, [127] * LANES))
        return builder.bitcast(builder.shl(biased, ir.Constant(INTS, [23] * LANES)), VECTOR)

    return vector(vector), generate


@intrinsic
def transpose(_typing: Any, source: Any, _start: Any, _stride: Any, _target: Any, _place: Any, _pitch: Any) -> Any:
    """A square of LANES rows, `stride` apart from `start`, to LANES rows `pitch` apart from `place`, as its transpose.

    By halves: rows that lie half the square apart exchange every other half, then quarters, and so on.
    """

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        source, start, stride, target, place, pitch = arguments
        first = pointer(context, builder, signature.args[0], source, start)
        rows = []
        for row in range(LANES):
            line = builder.gep(first, [builder.mul(stride, INDEX(row))])
            rows.append(builder.load(builder.bitcast(line, VECTOR.as_pointer()), align=4))
        distance = LANES // 2
        while distance:
            rows = _exchanged(builder, rows, distance)
            distance //= 2
        result = pointer(context, builder, signature.args[3], target, place)
        for row in range(LANES):
            line = builder.gep(result, [builder.mul(pitch, INDEX(row))])
            builder.store(rows[row], builder.bitcast(line, VECTOR.as_pointer()), align=4)
        return context.get_dummy_value()

    return types.void(source, types.int64, types.int64, source, types.int64, types.int64), generate


def _exchanged(builder: Any, rows: list[Any], distance: int) -> list[Any]:
    """Rows `distance` apart, of which one gives its upper blocks of that width for the other's lower ones."""
    result = list(rows)
    for row in range(LANES):
        if row & distance == 0:
            low, high = rows[row], rows[row + distance]
            for place, shift in ((row, 0), (row + distance, distance)):
                lanes = [(c - c % (2 * distance) + c % distance + shift) + (LANES if c & distance else 0) for c in range(LANES)]
                result[place] = builder.shuffle_vector(low, high, ir.Constant(INTS, lanes))
    return result


@intrinsic
def total(_typing: Any, _values: Any) -> Any:
    """The sum of all lanes."""

    def generate(_context: Any, builder: Any, _signature: Any, arguments: Any) -> Any:
        values, width = arguments[0], LANES
        while width > 1:  # the upper half on the lower one
            width //= 2
            halves = [ir.Constant(ir.VectorType(INT, width), list(range(low, low + width))) for low in (0, width)]
            low, high = (builder.shuffle_vector(values, values, half) for half in halves)
            values = builder.fadd(low, high)
        return builder.extract_element(values, INT(0))

    return types.float32(vector), generate
