"""Attention of one head, a panel of queries at a time: scores and probabilities never leave the cache.

All of it is transposed: scores are keys times queries, [N, PANEL], so that each query has a lane, and its softmax needs nothing of
other lanes; and as they lie, they are the panel with which the transposed values are multiplied.
"""

import numpy as np
from numba import njit

from reforg_numpy.numba_engine.kernels.functions import exp, single
from reforg_numpy.numba_engine.kernels.rows import part, place_of
from reforg_numpy.numba_engine.kernels.simd import larger, load, splat, store, transpose
from reforg_numpy.numba_engine.kernels.tile import product
from reforg_numpy.numba_engine.shapes import CHUNK, DEPTH, HEIGHT, LANES, PANEL

LOWEST = single(-np.inf)
RUN = 32  # powers that are summed before they are added to the others: a sum of a thousand, one by one, is rounded as often
ABREAST = 4  # keys whose maxima are taken side by side, as each has to wait for the one before it


@njit
def panels(columns):
    """How many panels hold so many columns."""
    return (columns + PANEL - 1) // PANEL


@njit
def chunks(columns):
    """How many chunks hold so many columns."""
    return (columns + CHUNK - 1) // CHUNK


@njit
def turn(memory, source, pitch, rows, columns, target, target_pitch):
    """At most LANES rows -> columns of the target."""
    whole = columns // LANES * LANES if rows == LANES else 0
    for c in range(0, whole, LANES):
        transpose(memory, source + c, pitch, memory, target + c * target_pitch, target_pitch)
    for c in range(whole, columns):
        for row in range(rows):
            memory[target + c * target_pitch + row] = memory[source + row * pitch + c]


@njit
def pack_keys(memory, keys, pitch, count, depth, packed):
    """[N, D] as a product reads its rows: in chunks."""
    for row in range(count):
        for chunk in range(chunks(depth)):
            source, target = keys + row * pitch + chunk * CHUNK, packed + (chunk * count + row) * DEPTH
            for c in range(0, min(CHUNK, depth - chunk * CHUNK), LANES):
                store(memory, target + c, load(memory, source + c))


@njit
def pack_values(memory, values, pitch, count, depth, packed):
    """[N, D] -> [D, N] as a product reads its rows: in chunks."""
    for row in range(0, count, LANES):
        target = packed + row // CHUNK * depth * DEPTH + row % CHUNK
        turn(memory, values + row * pitch, pitch, min(LANES, count - row), depth, target, DEPTH)


@njit
def pack_queries(memory, queries, pitch, rows, depth, scale, packed):
    """At most PANEL of them [rows, D] -> scaled, a panel [D, PANEL]; the lanes of those that are missing are not read."""
    for row in range(0, rows, LANES):
        turn(memory, queries + row * pitch, pitch, min(LANES, rows - row), depth, packed + row, PANEL)
    for place in range(packed, packed + depth * PANEL, LANES):
        store(memory, place, load(memory, place) * splat(scale))


@njit
def multiply(memory, source, rows, inner, panel, target):
    """[rows, K], in chunks, times a panel [K, PANEL] -> [rows, PANEL]."""
    tiles = (rows + HEIGHT - 1) // HEIGHT
    for chunk in range(chunks(inner)):
        wide = min(CHUNK, inner - chunk * CHUNK)
        for tile in range(tiles):  # of almost equal heights, as low ones wait for themselves
            low, high = part(rows, tiles, 1, tile), part(rows, tiles, 1, tile + 1)
            product(
                memory, source + (chunk * rows + low) * DEPTH, memory, panel + chunk * CHUNK * PANEL, wide, memory,
                target + low * PANEL, PANEL, high - low, chunk, splat(single(0.0)), splat(single(0.0)),
            )  # fmt: skip


@njit
def softmax(memory, scores, count, sums):
    """exp(x - max x) over the keys, in place, of each lane; and where `sums` is, the sum."""
    for lane in range(0, PANEL, LANES):
        first = scores + lane
        a = b = c = d = splat(LOWEST)
        even = first + count // ABREAST * ABREAST * PANEL
        for place in range(first, even, ABREAST * PANEL):
            a, b = larger(load(memory, place), a), larger(load(memory, place + PANEL), b)
            c, d = larger(load(memory, place + 2 * PANEL), c), larger(load(memory, place + 3 * PANEL), d)
        for place in range(even, first + count * PANEL, PANEL):
            a = larger(load(memory, place), a)
        most, total = larger(larger(a, b), larger(c, d)), splat(single(0.0))
        end = first + count * PANEL
        for start in range(first, end, RUN * PANEL):
            some = splat(single(0.0))
            for place in range(start, min(start + RUN * PANEL, end), PANEL):
                power = exp(load(memory, place) - most)
                store(memory, place, power)
                some = some + power
            total = total + some
        store(memory, sums + lane, total)


@njit
def put_context(memory, mixed, sums, depth, rows, turned, target, leap, column):
    """[D, PANEL] over the sums -> the columns from `column` of each query's row in chunks; turned: room for [PANEL, D]."""
    wide = panels(depth) * PANEL
    for lane in range(0, PANEL, LANES):
        inverse = splat(single(1.0)) / load(memory, sums + lane)
        for place in range(mixed + lane, mixed + depth * PANEL, PANEL):
            store(memory, place, load(memory, place) * inverse)
    for d in range(0, depth, LANES):
        turn(memory, mixed + d * PANEL, PANEL, min(LANES, depth - d), PANEL, turned + d, wide)
    for row in range(rows):
        copy_columns(memory, turned + row * wide, depth, target + row * DEPTH, leap, column)


@njit
def copy_columns(memory, source, count, target, leap, column):
    """Numbers into the columns from `column` of a row in chunks."""
    c = 0
    while c < count:
        place = target + place_of(column + c, leap)
        if c + LANES <= count and (column + c) % CHUNK + LANES <= CHUNK:
            store(memory, place, load(memory, source + c))
            c += LANES
        else:
            memory[place] = memory[source + c]
            c += 1


@njit
def attend_head(
    memory, queries, query_pitch, keys, values, pitch, count, depth, scale, target, target_leap, column, scratch,
    attended, first, last,
):  # fmt: skip
    """Queries `first` to `last` of one head of one image; attended: where the first query's probabilities go, or -1."""
    packed_keys = scratch
    packed_values = packed_keys + chunks(depth) * count * DEPTH
    panel = packed_values + chunks(count) * depth * DEPTH
    scores = panel + depth * PANEL
    mixed = scores + count * PANEL
    turned = mixed + depth * PANEL
    sums = turned + panels(depth) * PANEL * PANEL
    pack_keys(memory, keys, pitch, count, depth, packed_keys)
    pack_values(memory, values, pitch, count, depth, packed_values)
    for query in range(first, last, PANEL):
        rows = min(PANEL, last - query)
        pack_queries(memory, queries + query * query_pitch, query_pitch, rows, depth, scale, panel)
        multiply(memory, packed_keys, count, depth, panel, scores)
        softmax(memory, scores, count, sums)
        if query == 0 and attended >= 0:
            for key in range(count):
                memory[attended + key] = memory[scores + key * PANEL] / memory[sums]
        multiply(memory, packed_values, depth, count, scores, mixed)
        put_context(memory, mixed, sums, depth, rows, turned, target + query * DEPTH, target_leap, column)
