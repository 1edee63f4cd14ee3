"""A program on float32: steps, each of units that threads share, compiled as one function that holds no lock of Python's."""

from numba import njit

from reforg.plans.matrices import LINE
from reforg_numpy.numba_engine.codes import (
    ADD,
    ATTENTION,
    DEPTHWISE,
    EMBED,
    GELU_OF_SUM,
    LINEAR,
    MEAN,
    MIXED,
    NORM,
    NORMED,
    PLAIN,
    POOL,
    REORGANIZE,
    ROWS,
    TAKE,
)
from reforg_numpy.numba_engine.kernels.attention import attend_head
from reforg_numpy.numba_engine.kernels.depthwise import one_line
from reforg_numpy.numba_engine.kernels.functions import single
from reforg_numpy.numba_engine.kernels.rows import finish, norm_row, padded, part, place_of
from reforg_numpy.numba_engine.kernels.select import mean_scores, reorganize_image
from reforg_numpy.numba_engine.kernels.simd import load, prefetch, splat, store
from reforg_numpy.numba_engine.kernels.threads import fetch_add, meet, ticks
from reforg_numpy.numba_engine.kernels.tile import product
from reforg_numpy.numba_engine.kernels.windows import gather_windows
from reforg_numpy.numba_engine.shapes import CHUNK, DEPTH, HEIGHT, LANES, PANEL, SPACE


@njit
def embed(step, unit, memory, weights):
    """The tokens of one image: special ones as they are at `weight`, then patches plus their positions at `bias`."""
    pitch, count, wide = step.target_pitch, step.tokens, padded(step.columns)
    target = step.target + unit * (step.special + count) * pitch
    for row in range(step.special):
        for c in range(0, wide, LANES):
            store(memory, target + row * pitch + c, load(weights, step.weight + row * wide + c))
    for row in range(count):
        source, place = step.source + (unit * count + row) * step.source_pitch, target + (step.special + row) * pitch
        for c in range(0, wide, LANES):
            store(memory, place + c, load(memory, source + c) + load(weights, step.bias + row * wide + c))


@njit
def norm(step, unit, memory, weights):
    """Layer norm of some rows: of `tokens` rows of each image, the first `group`."""
    for row in range(part(step.rows, step.units, 1, unit), part(step.rows, step.units, 1, unit + 1)):
        source = step.source + (row // step.group * step.tokens + row % step.group) * step.source_pitch
        target = step.target + row * step.target_pitch
        norm_row(memory, source, step.columns, target, step.target_leap, weights, step.weight, step.bias, step.eps, step.end)


@njit
def linear(step, unit, memory, weights, images, scratch):
    """Some rows times some panels, and the end of it. What is made of the rows first goes into the scratch.

    The sums of several chunks are gathered in the scratch, too: a chunk of the rows stays in the cache for all panels.
    """
    low = part(step.rows, step.row_parts, HEIGHT, unit // step.column_parts)
    high = part(step.rows, step.row_parts, HEIGHT, unit // step.column_parts + 1)
    panels, chunks = (step.columns + PANEL - 1) // PANEL, (step.inner + CHUNK - 1) // CHUNK
    first = part(panels, step.column_parts, 1, unit % step.column_parts)
    last = part(panels, step.column_parts, 1, unit % step.column_parts + 1)
    source, leap = step.source + low * DEPTH, step.source_leap
    if step.before != ROWS:
        source, leap = scratch, (high - low) * DEPTH
        prepare(step, memory, weights, images, low, high, source, leap)
        scratch += chunks * leap
    slab = (high - low) * PANEL if chunks > 1 else 0
    group = step.group if chunks > 1 else 1  # panels whose sums are gathered at a time
    for start in range(first, last, group):
        for chunk in range(chunks):
            for panel in range(start, min(start + group, last)):
                sums = scratch + (panel - start) * slab
                multiply_panel(
                    step, memory, weights, source + chunk * leap, high - low, low, panel, chunk, chunk == chunks - 1,
                    panel + 1 < last, sums,
                )  # fmt: skip


@njit
def prepare(step, memory, weights, images, low, high, target, leap):
    """Rows as the product reads them."""
    if step.before == MIXED:
        mix_rows(step, memory, weights, low, high, target, leap)
    elif step.before == NORMED:
        for row in range(low, high):
            source, place = step.source + row * step.source_pitch, target + (row - low) * DEPTH
            norm_row(memory, source, step.inner, place, leap, weights, step.first_weight, step.first_bias, step.eps, PLAIN)
    else:
        gather_windows(step, memory, images, low, high, target, leap)


@njit
def mix_rows(step, memory, weights, low, high, target, leap):
    """Pixels mixed with their neighbours."""
    across, row = step.width, low
    while row < high:
        y, x = row // across % step.height, row % across
        end = min(across, x + high - row)
        first = row - y * across - x  # of the image
        one_line(
            memory, step.source + first * step.source_pitch, step.source_pitch, y, x, end, step.height, across, weights,
            step.first_weight, step.first_bias, step.inner, target + (first - low) * DEPTH, DEPTH, leap, GELU_OF_SUM,
        )  # fmt: skip
        row += end - x


@njit
def multiply_panel(step, memory, weights, source, count, low, panel, chunk, ending, more, sums):
    """`count` rows times a chunk of a panel, added to the sums of earlier chunks.

    ending: whether it is the last chunk. more: whether another panel follows, whose weights each tile brings nearer.
    """
    wide = min(CHUNK, step.inner - chunk * CHUNK)
    place = step.weight + (panel * step.inner + chunk * CHUNK) * PANEL
    following, ahead = place + step.inner * PANEL, wide * PANEL * HEIGHT // count // LINE * LINE + LINE
    column = panel * PANEL
    target = step.target + column // step.target_chunk * step.target_leap + column % step.target_chunk + low * step.target_pitch
    bias = step.bias + column if step.bias >= 0 else -1
    gain = step.gain + column if step.gain >= 0 else -1
    scaled = gain >= 0 and step.end != ADD  # a batch norm, whose bias comes behind its gain
    left = right = splat(single(0.0))
    if bias >= 0 and chunk == 0 and not scaled:
        left, right = load(weights, bias), load(weights, bias + LANES)
    whole = ending and chunk == 0 and gain < 0 and (step.end == PLAIN or step.end == ADD)  # the sums need no more than a place
    for row in range(0, count, HEIGHT):
        rows, tile, end = min(HEIGHT, count - row), sums + row * PANEL, target + row * step.target_pitch
        if more:
            for line in range(0, ahead, LINE):
                prefetch(weights, following + row // HEIGHT * ahead + line)
        if step.end == ADD and ending:
            for line in range(rows):
                for c in range(0, PANEL, LINE):
                    prefetch(memory, end + line * step.target_pitch + c)
        if whole:
            adding = 1 if step.end == ADD else 0
            product(memory, source + row * DEPTH, weights, place, wide, memory, end, step.target_pitch, rows, adding, left, right)
        else:
            product(memory, source + row * DEPTH, weights, place, wide, memory, tile, PANEL, rows, chunk, left, right)
            if ending:
                finish(memory, tile, rows, end, step.target_pitch, weights, bias, gain, step.end)


@njit
def attention(step, unit, memory, scratch):
    """Some queries of one head of one image."""
    head, piece = unit // step.parts, unit % step.parts
    image, head = head // step.heads, head % step.heads
    first, last = part(step.group, step.parts, PANEL, piece), part(step.group, step.parts, PANEL, piece + 1)
    attended = step.attended + (image * step.heads + head) * step.attended_pitch if step.attended >= 0 else -1
    shift = image * step.key_count * step.key_pitch + head * step.key_step
    attend_head(
        memory, step.source + image * step.group * step.source_pitch + head * step.source_step, step.source_pitch,
        step.keys + shift, step.values + shift, step.key_pitch, step.key_count, step.depth, step.scale,
        step.target + image * step.group * DEPTH, step.target_leap, step.column + head * step.depth, scratch, attended, first, last,
    )  # fmt: skip


@njit
def depthwise(step, unit, memory, weights):
    """A line of one image's maps."""
    image, y = unit // step.height, unit % step.height
    pixels = image * step.height * step.width
    source, target = step.source + pixels * step.source_pitch, step.target + pixels * step.target_pitch
    one_line(
        memory, source, step.source_pitch, y, 0, step.width, step.height, step.width, weights, step.weight, step.bias,
        step.columns, target, step.target_pitch, step.target_leap, step.end,
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
            store(memory, target + place_of(c, step.target_leap), load(memory, source + c))


@njit
def pool(step, unit, memory):
    """The mean of an image's tokens but the special ones."""
    count = step.tokens - step.special
    for c in range(0, step.columns, LANES):
        sums = splat(single(0.0))
        for row in range(step.special, step.tokens):
            sums = sums + load(memory, step.source + (unit * step.tokens + row) * step.source_pitch + c)
        place = step.target + unit * step.target_pitch + place_of(c, step.target_leap)
        store(memory, place, sums / splat(single(count)))


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
        linear(step, unit, memory, weights, images, scratch)
    elif step.kind == ATTENTION:
        attention(step, unit, memory, scratch)
    elif step.kind == NORM:
        norm(step, unit, memory, weights)
    elif step.kind == REORGANIZE:
        reorganize(step, unit, memory, scratch)
    elif step.kind == DEPTHWISE:
        depthwise(step, unit, memory, weights)
    elif step.kind == EMBED:
        embed(step, unit, memory, weights)
    elif step.kind == TAKE:
        take(step, unit, memory)
    elif step.kind == POOL:
        pool(step, unit, memory)
    elif step.kind == MEAN:
        mean(step, unit, memory)


@njit(nogil=True, error_model="numpy")
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
