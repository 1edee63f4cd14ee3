"""A program on float32: steps, each of units that threads share, compiled as one function that holds no lock of Python's."""

import numpy as np
from numba import njit

from reforg_numpy.kernels.attention import attend_head, scratch_of_head
from reforg_numpy.kernels.functions import single
from reforg_numpy.kernels.rows import ADD, PLAIN, finish, norm_row, part
from reforg_numpy.kernels.select import copy_row, mean_scores, reorganize_image
from reforg_numpy.kernels.simd import LANES, load, splat, store
from reforg_numpy.kernels.threads import SPACE, fetch_add, meet, ticks
from reforg_numpy.kernels.tile import CHUNK, DEPTH, HEIGHT, PANEL, multiply_tile

KINDS = ("patches", "embed", "norm", "linear", "attention", "reorganize", "take", "pool", "mean")
PATCHES, EMBED, NORM, LINEAR, ATTENTION, REORGANIZE, TAKE, POOL, MEAN = range(len(KINDS))

WHOLE = (
    "kind", "units", "source", "source_pitch", "source_leap", "target", "target_pitch", "target_leap", "rows", "inner", "columns",
    "row_parts", "column_parts", "weight", "bias", "gain", "end", "residual", "residual_pitch", "keys", "values", "key_pitch",
    "key_count", "tokens", "group", "heads", "depth", "attended", "attended_pitch", "branches", "branch_leap", "special", "kept",
    "fuse", "patch", "channels", "height", "width", "parts", "other",
)  # fmt: skip
STEP = np.dtype([*((name, np.int64) for name in WHOLE), ("eps", np.float32), ("scale", np.float32)])


@njit
def patches(step, unit, memory, images):
    """A row of patches of one image: each patch a row, its numbers in the order of a convolution's weights."""
    size, across, down = step.patch, step.width // step.patch, step.height // step.patch
    image, line = unit // down, unit % down
    for channel in range(step.channels):
        for y in range(size):
            source = ((image * step.channels + channel) * step.height + line * size + y) * step.width
            column = (channel * size + y) * size
            target = step.target + (image * down + line) * across * DEPTH
            if column // CHUNK == (column + size - 1) // CHUNK:
                place = target + column // CHUNK * step.target_leap + column % CHUNK
                for patch in range(across):
                    for x in range(size):
                        memory[place + patch * DEPTH + x] = images[source + patch * size + x]
            else:
                for patch in range(across):
                    for x in range(size):
                        place = target + (column + x) // CHUNK * step.target_leap + (column + x) % CHUNK
                        memory[place + patch * DEPTH] = images[source + patch * size + x]


@njit
def embed(step, unit, memory, weights):
    """The tokens of one image: special ones as they are at `weight`, then patches plus their positions at `bias`."""
    pitch, count = step.target_pitch, step.tokens
    target = step.target + unit * (step.special + count) * pitch
    for row in range(step.special):
        for c in range(0, pitch, LANES):
            store(memory, target + row * pitch + c, load(weights, step.weight + row * pitch + c))
    for row in range(count):
        source, place = step.source + (unit * count + row) * step.source_pitch, target + (step.special + row) * pitch
        for c in range(0, pitch, LANES):
            store(memory, place + c, load(memory, source + c) + load(weights, step.bias + row * pitch + c))


@njit
def norm(step, unit, memory, weights):
    """Layer norm of some rows: of `tokens` rows of each image, the first `group`."""
    for row in range(part(step.rows, step.units, 1, unit), part(step.rows, step.units, 1, unit + 1)):
        source = step.source + (row // step.group * step.tokens + row % step.group) * step.source_pitch
        target = step.target + row * step.target_pitch
        norm_row(memory, source, step.columns, target, step.target_leap, weights, step.weight, step.bias, step.eps)


@njit
def linear(step, unit, memory, weights, scratch):
    """Some rows times some panels, and the end of it; the sums of a panel are gathered, chunk by chunk, in the scratch."""
    low = part(step.rows, step.row_parts, HEIGHT, unit // step.column_parts)
    high = part(step.rows, step.row_parts, HEIGHT, unit // step.column_parts + 1)
    panels, chunks = (step.columns + PANEL - 1) // PANEL, (step.inner + CHUNK - 1) // CHUNK
    first = part(panels, step.column_parts, 1, unit % step.column_parts)
    last = part(panels, step.column_parts, 1, unit % step.column_parts + 1)
    for panel in range(first, last):
        column = panel * PANEL
        target = step.target + column // CHUNK * step.target_leap + column % CHUNK
        bias = step.bias + column if step.bias >= 0 else -1
        gain = step.gain + column if step.gain >= 0 else -1
        for chunk in range(chunks):
            source, wide = step.source + chunk * step.source_leap, min(CHUNK, step.inner - chunk * CHUNK)
            place = step.weight + (panel * step.inner + chunk * CHUNK) * PANEL
            for row in range(low, high, HEIGHT):
                rows, tile = min(HEIGHT, high - row), scratch + (row - low) * PANEL
                multiply_tile(memory, source + row * DEPTH, weights, place, wide, memory, tile, PANEL, rows, chunk)
                if chunk == chunks - 1:
                    finish(
                        memory, tile, rows, target + row * step.target_pitch, step.target_pitch, weights, bias, gain,
                        step.residual + row * step.residual_pitch + column, step.residual_pitch, step.end,
                    )  # fmt: skip


@njit
def attention(step, unit, memory, scratch):
    """Some queries of one head of one image."""
    head, piece = unit // step.parts, unit % step.parts
    image, head = head // step.heads, head % step.heads
    first, last = part(step.group, step.parts, HEIGHT, piece), part(step.group, step.parts, HEIGHT, piece + 1)
    attended = step.attended + (image * step.heads + head) * step.attended_pitch if step.attended >= 0 else -1
    shift = head * step.depth
    attend_head(
        memory, step.source + image * step.group * step.source_pitch + shift, step.source_pitch, step.group,
        step.keys + image * step.key_count * step.key_pitch + shift,
        step.values + image * step.key_count * step.key_pitch + shift, step.key_pitch, step.key_count, step.depth, step.scale,
        step.target + image * step.group * DEPTH, step.target_leap, shift, scratch, attended, first, last,
    )  # fmt: skip


@njit
def reorganize(step, unit, memory, scratch):
    """One image's tokens."""
    candidates = step.tokens - step.special
    keys, order = scratch + candidates, scratch + 2 * candidates
    attended = step.attended + unit * step.heads * step.attended_pitch
    mean_scores(
        memory, attended, step.attended_pitch, step.heads, step.branches, step.branch_leap, step.special, candidates, scratch
    )
    reorganize_image(
        memory, step.source + unit * step.tokens * step.source_pitch, step.source_pitch, step.special, candidates, step.kept,
        step.fuse, scratch, keys, order, step.target + unit * step.group * step.target_pitch,
    )  # fmt: skip


@njit
def take(step, unit, memory):
    """The first `group` of an image's `tokens` rows."""
    for row in range(step.group):
        source = step.source + (unit * step.tokens + row) * step.source_pitch
        target = step.target + (unit * step.group + row) * step.target_pitch
        for c in range(0, step.columns, LANES):
            store(memory, target + c // CHUNK * step.target_leap + c % CHUNK, load(memory, source + c))


@njit
def pool(step, unit, memory):
    """The mean of an image's tokens but the special ones."""
    count = step.tokens - step.special
    for c in range(0, step.target_pitch, LANES):
        sums = splat(single(0.0))
        for row in range(step.special, step.tokens):
            sums = sums + load(memory, step.source + (unit * step.tokens + row) * step.source_pitch + c)
        store(memory, step.target + unit * step.target_pitch + c, sums / splat(single(count)))


@njit
def mean(step, unit, memory):
    """The mean of two rows, which lie `branch_leap` apart."""
    for c in range(0, step.target_pitch, LANES):
        place = step.source + unit * step.source_pitch + c
        value = load(memory, place) + load(memory, place + step.branch_leap)
        store(memory, step.target + unit * step.target_pitch + c, value / splat(single(2.0)))


@njit
def compute(step, unit, memory, weights, images, scratch):
    """One unit of a step."""
    if step.kind == LINEAR:
        linear(step, unit, memory, weights, scratch)
    elif step.kind == ATTENTION:
        attention(step, unit, memory, scratch)
    elif step.kind == NORM:
        norm(step, unit, memory, weights)
    elif step.kind == REORGANIZE:
        reorganize(step, unit, memory, scratch)
    elif step.kind == PATCHES:
        patches(step, unit, memory, images)
    elif step.kind == EMBED:
        embed(step, unit, memory, weights)
    elif step.kind == TAKE:
        take(step, unit, memory)
    elif step.kind == POOL:
        pool(step, unit, memory)
    elif step.kind == MEAN:
        mean(step, unit, memory)


@njit(nogil=True, cache=True, error_model="numpy")
def work(steps, memory, weights, images, counters, clock, thread, threads, scratch):
    """A thread's share of all steps. counters: zeros; clock: where thread 0 notes the time at the end of every step."""
    clock[0] = ticks()
    for number in range(len(steps)):
        step = steps[number]
        while True:
            unit = fetch_add(counters, (number + 1) * SPACE, 1)
            if unit >= step.units:
                break
            compute(step, unit, memory, weights, images, scratch)
        meet(counters, threads, number + 1)
        if thread == 0:
            clock[number + 1] = ticks()
