"""What is done row by row: norm, and the ends of products.

Matrices lie in one array `memory`. Their columns come in chunks: column c of row r is at `start + (c // CHUNK) * leap + r * pitch
+ c % CHUNK`. Rows of x, of queries and of values are whole (leap = CHUNK); what a product reads is not (pitch = DEPTH). Every row
is filled up to a whole panel, with zeros or with what nobody reads.
"""

from numba import njit

from reforg_numpy.numba_engine.codes import ADD, GELU, RELU
from reforg_numpy.numba_engine.kernels.functions import gelu, single
from reforg_numpy.numba_engine.kernels.simd import fma, larger, leading, load, root, splat, store, total
from reforg_numpy.numba_engine.shapes import CHUNK, LANES, PANEL


@njit
def part(count, parts, size, index):
    """Where part `index` of `count` begins, in steps of `size`."""
    return min(count, (count + size - 1) // size * index // parts * size)


@njit
def padded(columns):
    """Numbers of a row of weights, which is filled up to whole panels; one of the memory may be longer."""
    return (columns + PANEL - 1) // PANEL * PANEL


@njit
def place_of(column, leap):
    """Where a column is in a row in chunks."""
    return column // CHUNK * leap + column % CHUNK


@njit
def norm_row(memory, source, columns, target, leap, weights, weight, bias, eps, end):
    """Layer norm of a whole row, in two passes as the reference's: the mean, then the squares of the distances from it.

    end: PLAIN, or GELU of the result.
    """
    sums = splat(single(0.0))
    for c in range(0, columns, LANES):
        sums = sums + leading(load(memory, source + c), columns - c)
    mean = splat(total(sums) / single(columns))
    squares = splat(single(0.0))
    for c in range(0, columns, LANES):
        centred = leading(load(memory, source + c) - mean, columns - c)
        squares = fma(centred, centred, squares)
    deviation = root(splat(total(squares) / single(columns) + eps))
    inverse = splat(single(1.0)) / deviation
    for c in range(0, columns, LANES):
        centred = (load(memory, source + c) - mean) * inverse
        value = fma(centred, load(weights, weight + c), load(weights, bias + c))
        store(memory, target + place_of(c, leap), gelu(value) if end == GELU else value)


@njit
def finish(memory, tile, rows, target, pitch, weights, bias, gain, end):
    """End a tile of a product, whose sums began with its bias, and to its place. gain: -1 where there is none.

    ADD adds it, times its gain, to what is there; else a gain makes it value * gain + bias, a batch norm.
    """
    for row in range(rows):
        for c in range(0, PANEL, LANES):
            value = load(memory, tile + row * PANEL + c)
            if gain >= 0 and end != ADD:  # a batch norm: value * gain + bias
                value = fma(value, load(weights, gain + c), load(weights, bias + c))
            if end == GELU:
                value = gelu(value)
            elif end == RELU:
                value = larger(splat(single(0.0)), value)
            elif end == ADD:
                before = load(memory, target + row * pitch + c)
                value = before + (value * load(weights, gain + c) if gain >= 0 else value)
            store(memory, target + row * pitch + c, value)
