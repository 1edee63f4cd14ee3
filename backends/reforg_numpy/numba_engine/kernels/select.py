"""Token reorganization of one image: attentive tokens in their order, the others as one, in one pass over the tokens."""

import numpy as np
from numba import njit

from reforg_numpy.numba_engine.kernels.functions import single
from reforg_numpy.numba_engine.kernels.simd import fma, load, splat, store
from reforg_numpy.numba_engine.shapes import LANES


@njit
def sort_key(value, bits):
    """A whole number that orders as float32 do, of which `bits` are one's own: NaN below everything, 0 and -0 alike."""
    if value != value:
        return np.int32(-(2**31))
    return np.int32(0) if value == single(0.0) else np.int32(bits ^ ((bits >> 31) & 0x7FFFFFFF))


@njit
def mean_scores(memory, attended, pitch, heads, branches, leap, special, count, scores):
    """Class attention of `count` candidates: the mean over the heads, then over parallel branches `leap` apart."""
    for c in range(count):
        memory[scores + c] = single(0.0)
    for branch in range(branches):
        for head in range(heads):
            row = attended + branch * leap + head * pitch + special
            for c in range(count):
                memory[scores + c] += memory[row + c]
    for c in range(count):
        memory[scores + c] /= single(heads * branches)


@njit
def ranks(memory, scores, count, keys, result):
    """How many come before each: larger ones, and equal ones of a lower index. keys, result: whole numbers in place of float32."""
    whole = memory.view(np.int32)
    for c in range(count):
        whole[keys + c] = sort_key(memory[scores + c], whole[scores + c])
    for c in range(count):
        own, before = whole[keys + c], np.int32(0)
        for other in range(c):
            before += np.int32(whole[keys + other] >= own)
        for other in range(c, count):
            before += np.int32(whole[keys + other] > own)
        whole[result + c] = before


@njit
def reorganize_image(memory, tokens, pitch, special, candidates, kept, fuse, scores, keys, order, target):
    """[S + N, C] -> [S + kept (+ 1), C]; the rows of both `pitch` apart."""
    whole = memory.view(np.int32)
    ranks(memory, scores, candidates, keys, order)
    fused = target + (special + kept) * pitch
    if fuse:
        for c in range(0, pitch, LANES):
            store(memory, fused + c, splat(single(0.0)))
    for row in range(special):
        copy_row(memory, tokens + row * pitch, target + row * pitch, pitch)
    for row in range(candidates):
        source, place = tokens + (special + row) * pitch, whole[order + row]
        if place < kept:
            copy_row(memory, source, target + (special + place) * pitch, pitch)
        elif fuse:
            weight = splat(memory[scores + row])
            for c in range(0, pitch, LANES):
                store(memory, fused + c, fma(weight, load(memory, source + c), load(memory, fused + c)))


@njit
def copy_row(memory, source, target, columns):
    """One row to another place."""
    for c in range(0, columns, LANES):
        store(memory, target + c, load(memory, source + c))
