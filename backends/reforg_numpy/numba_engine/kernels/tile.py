"""The product of a few rows with one panel of a packed matrix, all of whose sums stay in registers.

Everything fast is made of it. A panel is PANEL columns of a matrix [K, columns], stored row after row, so that its rows come one
after the other as they are needed. For each k the rows' k-th numbers are spread over vectors and multiplied with the panel's k-th
row: HEIGHT * WIDTH multiply-adds for HEIGHT + WIDTH loads. That many sums fill the registers and hide each other's latency.

The rows lie in chunks: of a matrix [rows, K], first the columns 0 to CHUNK of all rows, DEPTH floats from one to the next, then
the columns from CHUNK, and so on. With a distance that the compiler knows, one register addresses all rows of a tile.
"""

from typing import Any

from numba import njit, types
from numba.extending import intrinsic

from reforg_numpy.numba_engine.kernels.simd import INDEX, VECTOR, call, pointer, spread, vector
from reforg_numpy.numba_engine.shapes import DEPTH, HEIGHT, LANES, PANEL, WIDTH

UNROLLED = 2  # steps of k in a turn of the loop


@intrinsic
def multiply_tile(
    _typing: Any, source: Any, start: Any, panel: Any, place: Any, steps: Any, target: Any, corner: Any, pitch: Any,
    rows: Any, more: Any, _left: Any, _right: Any,
) -> Any:  # fmt: skip
    """target[corner + r * pitch + c] (+)= sum over k < steps of source[start + r * DEPTH + k] * panel[place + k * PANEL + c].

    For r < rows, which is 1 to HEIGHT, and c < PANEL. more: whether the sums are added to what is there. left, right: what the
    sums of each row begin with.
    """
    whole = types.int64
    signature = types.void(source, whole, panel, whole, whole, target, whole, whole, whole, whole, vector, vector)

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        source, start, panel, place, steps, target, corner, pitch, rows, more, *starts = arguments
        first = pointer(context, builder, signature.args[0], source, start)
        packed = pointer(context, builder, signature.args[2], panel, place)
        result = pointer(context, builder, signature.args[5], target, corner)
        end = builder.append_basic_block("end")
        cases = builder.switch(rows, end)
        for height in range(1, HEIGHT + 1):
            block = builder.append_basic_block(f"rows{height}")
            cases.add_case(INDEX(height), block)
            builder.position_at_end(block)
            sums = _sums(builder, height, first, packed, steps, starts)
            _put(builder, height, sums, result, pitch, more)
            builder.branch(end)
        builder.position_at_end(end)
        return context.get_dummy_value()

    return signature, generate


def _sums(builder: Any, height: int, first: Any, packed: Any, steps: Any, starts: list[Any]) -> list[Any]:
    """The sums of all steps: a loop of UNROLLED steps a turn, then those that are left over one by one."""
    lines = [builder.gep(first, [INDEX(DEPTH * row)]) for row in range(height)]
    even = builder.and_(steps, INDEX(-UNROLLED))
    sums = _loop(builder, lines, packed, INDEX(0), even, UNROLLED, starts * height)
    return _loop(builder, lines, packed, even, steps, 1, sums)


def _loop(builder: Any, lines: list[Any], packed: Any, low: Any, high: Any, step: int, sums: list[Any]) -> list[Any]:
    """`sums` and the products of the steps from low to high, `step` of them in a turn."""
    before = builder.block
    head, body, after = (builder.append_basic_block(name) for name in ("head", "body", "after"))
    builder.branch(head)
    builder.position_at_end(head)
    k = builder.phi(INDEX)
    k.add_incoming(low, before)
    carried = [builder.phi(VECTOR) for _ in sums]
    for phi, value in zip(carried, sums, strict=True):
        phi.add_incoming(value, before)
    builder.cbranch(builder.icmp_signed("<", k, high), body, after)
    builder.position_at_end(body)
    current = list(carried)
    for ahead in range(step):
        current = _step(builder, lines, packed, builder.add(k, INDEX(ahead)), current)
    k.add_incoming(builder.add(k, INDEX(step)), body)
    for phi, value in zip(carried, current, strict=True):
        phi.add_incoming(value, body)
    builder.branch(head)
    builder.position_at_end(after)
    return carried


def _step(builder: Any, lines: list[Any], packed: Any, k: Any, sums: list[Any]) -> list[Any]:
    """Every row's k-th number times the panel's k-th row, added to the sums."""
    row = builder.gep(packed, [builder.mul(k, INDEX(PANEL))])
    vectors = [_vector(builder, row, part) for part in range(WIDTH)]
    result = []
    for line, height in zip(lines, range(0, len(sums), WIDTH), strict=True):
        number = spread(builder, builder.load(builder.gep(line, [k])))
        result += [call(builder, "fmuladd", number, vectors[part], sums[height + part]) for part in range(WIDTH)]
    return result


def _put(builder: Any, height: int, sums: list[Any], result: Any, pitch: Any, more: Any) -> None:
    """Store the sums, or add them to what is there."""
    adding = builder.icmp_signed("!=", more, INDEX(0))
    with builder.if_else(adding) as (then, otherwise):
        for branch, add in ((then, True), (otherwise, False)):
            with branch:
                for row in range(height):
                    line = builder.gep(result, [builder.mul(pitch, INDEX(row))])
                    for part in range(WIDTH):
                        value, place = sums[row * WIDTH + part], _place(builder, line, part)
                        builder.store(builder.fadd(builder.load(place, align=4), value) if add else value, place, align=4)


def _place(builder: Any, line: Any, part: int) -> Any:
    return builder.bitcast(builder.gep(line, [INDEX(part * LANES)]), VECTOR.as_pointer())


def _vector(builder: Any, row: Any, part: int) -> Any:
    return builder.load(_place(builder, row, part), align=4)


@njit
def product(source, start, panel, place, steps, target, corner, pitch, rows, more, left, right):
    """`multiply_tile`, compiled once for all who call it."""
    multiply_tile(source, start, panel, place, steps, target, corner, pitch, rows, more, left, right)
