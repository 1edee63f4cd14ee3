"""Attention of one head, a tile of queries at a time: scores and probabilities never leave the cache."""

import numpy as np
from numba import njit

from reforg_numpy.kernels.functions import exp, single
from reforg_numpy.kernels.simd import LANES, larger, largest, load, splat, store, total, transpose
from reforg_numpy.kernels.tile import CHUNK, DEPTH, HEIGHT, PANEL, product

LOWEST = single(-np.inf)


@njit
def panels(columns):
    """How many panels hold so many columns."""
    return (columns + PANEL - 1) // PANEL


@njit
def chunks(columns):
    """How many chunks hold so many columns."""
    return (columns + CHUNK - 1) // CHUNK


@njit
def pack_keys(memory, keys, pitch, count, depth, packed):
    """[N, D] -> panels of its transpose [D, N], zeros where keys are missing."""
    for panel in range(panels(count)):
        base, first = packed + panel * depth * PANEL, panel * PANEL
        for lane in range(0, PANEL, LANES):
            source, there = keys + (first + lane) * pitch, min(LANES, count - first - lane)
            whole = depth // LANES * LANES if there == LANES else 0
            for d in range(0, whole, LANES):
                transpose(memory, source + d, pitch, memory, base + d * PANEL + lane, PANEL)
            for d in range(whole, depth):
                for c in range(LANES):
                    memory[base + d * PANEL + lane + c] = memory[source + c * pitch + d] if c < there else single(0.0)


@njit
def pack_values(memory, values, pitch, count, depth, packed):
    """[N, D] -> its panels, zeros where columns are missing."""
    for panel in range(panels(depth)):
        base = packed + panel * count * PANEL
        first = panel * PANEL
        wide = min(PANEL, depth - first)
        for row in range(count):
            source, target = values + row * pitch + first, base + row * PANEL
            if wide == PANEL:
                for c in range(0, PANEL, LANES):
                    store(memory, target + c, load(memory, source + c))
            else:
                for c in range(PANEL):
                    memory[target + c] = memory[source + c] if c < wide else single(0.0)


@njit
def softmax_row(memory, row, leap, count):
    """exp(x - max x) of `count` numbers in place, in chunks `leap` apart, and 1 / their sum."""
    most = splat(LOWEST)
    for chunk in range(chunks(count)):
        start, wide = row + chunk * leap, min(CHUNK, count - chunk * CHUNK)
        for c in range(wide, (wide + LANES - 1) // LANES * LANES):
            memory[start + c] = LOWEST
        for c in range(0, wide, LANES):
            most = larger(load(memory, start + c), most)
    highest = splat(largest(most))
    sums = splat(single(0.0))
    for chunk in range(chunks(count)):
        start, wide = row + chunk * leap, min(CHUNK, count - chunk * CHUNK)
        for c in range(0, wide, LANES):
            power = exp(load(memory, start + c) - highest)
            store(memory, start + c, power)
            sums = sums + power
    return single(1.0) / total(sums)


@njit
def copy_queries(memory, queries, pitch, rows, depth, scale, target):
    """A tile of queries, scaled, as a product reads its rows: in chunks."""
    for row in range(rows):
        for chunk in range(chunks(depth)):
            source = queries + row * pitch + chunk * CHUNK
            place = target + (chunk * HEIGHT + row) * DEPTH
            for c in range(0, min(CHUNK, depth - chunk * CHUNK), LANES):
                store(memory, place + c, load(memory, source + c) * splat(scale))


@njit
def score_tile(memory, queries, packed, rows, count, depth, scores):
    """[rows, D] times the keys -> [rows, N], in chunks."""
    for panel in range(panels(count)):
        column = panel * PANEL
        target = scores + column // CHUNK * HEIGHT * DEPTH + column % CHUNK
        for chunk in range(chunks(depth)):
            source, place = queries + chunk * HEIGHT * DEPTH, packed + (panel * depth + chunk * CHUNK) * PANEL
            product(memory, source, memory, place, min(CHUNK, depth - chunk * CHUNK), memory, target, DEPTH, rows, chunk)


@njit
def mix_tile(memory, scores, packed, rows, count, depth, target):
    """[rows, N] times the values -> [rows, D], a panel's rows PANEL * panels apart."""
    pitch = panels(depth) * PANEL
    for panel in range(panels(depth)):
        for chunk in range(chunks(count)):
            place = packed + panel * count * PANEL + chunk * CHUNK * PANEL
            wide = min(CHUNK, count - chunk * CHUNK)
            source = scores + chunk * HEIGHT * DEPTH
            product(memory, source, memory, place, wide, memory, target + panel * PANEL, pitch, rows, chunk)


@njit
def put_context(memory, source, depth, factor, target, leap, column):
    """A row of the context times `factor` into the columns from `column` of a row in chunks."""
    c = 0
    while c < depth:
        place = target + (column + c) // CHUNK * leap + (column + c) % CHUNK
        if c + LANES <= depth and (column + c) % CHUNK + LANES <= CHUNK:
            store(memory, place, load(memory, source + c) * splat(factor))
            c += LANES
        else:
            memory[place] = memory[source + c] * factor
            c += 1


@njit
def attend_head(
    memory, queries, query_pitch, keys, values, pitch, count, depth, scale, target, target_leap, column, scratch,
    attended, first, last,
):  # fmt: skip
    """Queries `first` to `last` of one head of one image; attended: where the first query's probabilities go, or -1."""
    packed_keys = scratch
    packed_values = packed_keys + panels(count) * PANEL * depth
    tile = packed_values + panels(depth) * PANEL * count
    scores = tile + chunks(depth) * HEIGHT * DEPTH
    mixed = scores + chunks(count) * HEIGHT * DEPTH
    factors = mixed + HEIGHT * panels(depth) * PANEL
    pack_keys(memory, keys, pitch, count, depth, packed_keys)
    pack_values(memory, values, pitch, count, depth, packed_values)
    for query in range(first, last, HEIGHT):
        rows = min(HEIGHT, last - query)
        copy_queries(memory, queries + query * query_pitch, query_pitch, rows, depth, scale, tile)
        score_tile(memory, tile, packed_keys, rows, count, depth, scores)
        for row in range(rows):
            memory[factors + row] = softmax_row(memory, scores + row * DEPTH, HEIGHT * DEPTH, count)
        if query == 0 and attended >= 0:
            for key in range(count):
                place = scores + key // CHUNK * HEIGHT * DEPTH + key % CHUNK
                memory[attended + key] = memory[place] * memory[factors]
        mix_tile(memory, scores, packed_values, rows, count, depth, mixed)
        for row in range(rows):
            source, place = mixed + row * panels(depth) * PANEL, target + (query + row) * DEPTH
            put_context(memory, source, depth, memory[factors + row], place, target_leap, column)


def scratch_of_head(count: int, depth: int) -> int:
    """Floats that `attend_head` needs."""
    keys, values = -(-count // PANEL) * PANEL, -(-depth // PANEL) * PANEL
    tiles = (-(-depth // CHUNK) + -(-count // CHUNK)) * HEIGHT * DEPTH
    return keys * depth + values * count + tiles + HEIGHT * values + PANEL
