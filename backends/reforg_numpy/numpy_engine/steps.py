"""Steps of a program as NumPy's calls on views of its memory, which are made once.

Each function of STEPS takes a step and the memory, and returns what computes it: a call without arguments.
"""

from collections.abc import Callable
from typing import Any

import numpy as np

from reforg.plans.matrices import Matrix
from reforg.plans.steps import (
    Attention,
    Convolve,
    Depthwise,
    Embed,
    Linear,
    Mean,
    Norm,
    Pool,
    Reorganize,
    Step,
    Take,
)
from reforg_numpy import coefficients
from reforg_numpy.memory import Floats
from reforg_numpy.numpy_engine.memory import Memory, in_place, weight
from reforg_numpy.numpy_engine.rows import read_rows

Run = Callable[[], None]
BLOCK = 1 << 18  # numbers of a block whose many passes stay in the cache
MINUS_TWICE_TANH = tuple(-2.0 * value for value in coefficients.ERF_TANH)  # exact
SPREAD = 64.0  # between the largest and the smallest score: exp(-64) times a value of 1e-10 is still a normal float32


def gelu(x: Floats, memory: Memory) -> None:
    """[...] in place, block by block: x Phi(x), Phi(x) = (1 + tanh t)/2 = 1/(1 + exp(-2 t)), which takes the fewest passes."""
    flat = x.reshape(-1)
    for start in range(0, flat.size, BLOCK):
        block = flat[start : start + BLOCK]
        square, power = (memory.room(name, block.size) for name in ("square", "power"))
        with np.errstate(over="ignore", under="ignore"):  # far out the power is infinite, and its exponential infinity or 0
            np.multiply(block, block, out=square)
            polynomial(square, MINUS_TWICE_TANH, power)
            power *= block
            np.exp(power, out=power)
        power += np.float32(1.0)
        block /= power


def polynomial(x: Floats, values: tuple[float, ...], out: Floats) -> None:
    """The polynomial with those coefficients, lowest power first."""
    np.multiply(x, np.float32(values[-1]), out=out)
    for value in values[-2:0:-1]:
        out += np.float32(value)
        out *= x
    out += np.float32(values[0])


def norm_rows(x: Floats, gain: Any, bias: Any, eps: float, out: Floats) -> None:
    """[rows, C] -> the same, normed."""
    mean = x @ np.ones(x.shape[1], np.float32)  # BLAS sums rows several times faster than a reduction does
    mean /= np.float32(x.shape[1])
    np.subtract(x, mean[:, None], out=out)
    variance = np.vecdot(out, out)
    variance /= np.float32(x.shape[1])
    variance += np.float32(eps)
    np.sqrt(variance, out=variance)
    np.divide(np.float32(1.0), variance, out=variance)
    out *= variance[:, None]
    out *= gain
    out += bias


def norm(step: Norm, memory: Memory) -> Run:
    """Layer norm of the first `group` of an image's `tokens` rows."""
    source, target, eps = memory.view(step.source), memory.view(step.target), step.eps
    wanted, there = step.group, step.tokens
    gain, bias, after = weight(step.weight), weight(step.bias), step.end == "gelu"
    rows = source if wanted == there else source.reshape(-1, there, source.shape[1])[:, :wanted]

    def run() -> None:
        norm_rows(rows if wanted == there else rows.reshape(target.shape), gain, bias, eps, target)
        if after:
            gelu(target, memory)

    return run


def product(step: Linear | Convolve, memory: Memory) -> Run:
    """A product, and what comes at its end, of rows as they lie or as they are gathered."""
    matrix, bias, gain = memory.products.matrix(step.weight), weight(step.bias), weight(step.gain)
    rows, target, end = read_rows(step, memory), memory.view(step.target), step.end
    adding = end == "add"

    def run() -> None:
        low = 0
        for source in rows():
            place = target[low : low + len(source)]
            low += len(source)
            out = np.matmul(source, matrix, out=memory.room("sums", *place.shape) if adding else place)
            if gain is not None and not adding:
                np.multiply(out, gain, out=out)
            if bias is not None:
                np.add(out, bias, out=out)
            if end == "gelu":
                gelu(out, memory)
            elif end == "relu":
                np.maximum(out, np.float32(0.0), out=out)
            elif adding:
                if gain is not None:
                    out *= gain
                np.add(place, out, out=place)

    return run


def attention(step: Attention, memory: Memory) -> Run:
    """All heads of all images; scores in one room, and the class token's probabilities kept where they are wanted."""
    images, heads, depth, group, count = memory.count, step.heads, step.depth, step.group, step.key_count

    def split(matrix: Matrix, rows: int) -> Floats:
        return (
            memory.view(matrix).reshape(images, rows, -1)[:, :, : heads * depth].reshape(images, rows, heads, depth).swapaxes(1, 2)
        )

    queries, keys, values = split(step.source, group), split(step.keys, count), split(step.values, count)
    column, whole = step.column, memory.view(step.target)
    target = whole[:, column : column + heads * depth].reshape(images, group, heads, depth).swapaxes(1, 2)
    attended = None if step.attended is None else memory.view(step.attended).reshape(images, heads, count)
    scale, ones = np.float32(step.scale), np.ones((count, 1), np.float32)

    def run() -> None:
        asked = np.multiply(queries, scale, out=memory.room("asked", *queries.shape))
        scores = np.matmul(asked, keys.swapaxes(2, 3), out=memory.room("scores", images, heads, group, count))
        below_largest(scores.reshape(images * heads, group, count))
        np.exp(scores, out=scores)
        sums = scores @ ones
        if attended is not None:
            np.divide(scores[:, :, 0], sums[:, :, 0], out=attended)
        mixed = np.matmul(scores, values, out=memory.room("mixed", images, heads, group, depth))
        np.divide(mixed, sums, out=target)

    return run


def below_largest(scores: Floats) -> None:
    """[heads, N, M] in place, so that exp() overflows nowhere and not all of a row underflows.

    A head's scores by their largest, which is found seven times as fast as each row's; where they spread far, row by row.
    """
    flat = scores.reshape(len(scores), -1)
    largest = flat.max(axis=1)
    for head in np.flatnonzero(~(largest - flat.min(axis=1) < SPREAD)):  # or one is not finite
        scores[head] -= scores[head].max(axis=1, keepdims=True)
        largest[head] = 0.0
    flat -= largest[:, None]


def depthwise(step: Depthwise, memory: Memory) -> Run:
    """Image by image: the nine taps, and what they are added to, in one call, which goes once over what it makes."""
    height, width, end = step.height, step.width, step.end
    taps, bias, channels = weight(step.weight), weight(step.bias), step.target.columns
    shape, factors, more = (memory.count, height, width, channels), taps.reshape(3, 3, channels).copy(), end == "more"
    if not more:
        factors[1, 1] += np.float32(1.0)  # the map itself
    source, target = (in_place(memory.view(matrix), shape) for matrix in (step.source, step.target))

    def run() -> None:
        padded = memory.room("padded", height + 2, width + 2, channels)
        padded[[0, -1]] = padded[:, [0, -1]] = 0
        windows = np.lib.stride_tricks.sliding_window_view(padded, (3, 3), (0, 1))
        for image, place in zip(source, target, strict=True):
            padded[1:-1, 1:-1] = image
            sums = memory.room("sums", height, width, channels) if more else place
            np.einsum("hwcyx,yxc->hwc", windows, factors, out=sums)
            if bias is not None:
                sums += bias
            if more:
                np.add(place, sums, out=place)
            if end == "gelu of sum":
                gelu(place, memory)

    return run


def embed(step: Embed, memory: Memory) -> Run:
    """Special tokens as they are, patches and their positions."""
    images, special, count = memory.count, step.special, step.tokens
    source = memory.view(step.source).reshape(images, count, -1)
    target = memory.view(step.target).reshape(images, special + count, -1)
    firsts, table = weight(step.weight), weight(step.bias)

    def run() -> None:
        target[:, :special] = firsts
        np.add(source, table, out=target[:, special:])

    return run


def reorganize(step: Reorganize, memory: Memory) -> Run:
    """Image by image: attentive tokens in their order, the others as one."""
    images, special, kept, fuse = memory.count, step.special, step.kept, step.fuse
    source = memory.view(step.source).reshape(images, step.tokens, -1)
    target = memory.view(step.target).reshape(images, step.group, -1)
    attended = memory.view(step.attended).reshape(step.branches, images, step.heads, -1)

    def run() -> None:
        scores = attended[..., special:].mean(axis=2).mean(axis=0)
        order = np.argsort(-scores, axis=-1, stable=True)
        target[:, :special] = source[:, :special]
        for image in range(images):
            candidates, first, others = source[image, special:], order[image, :kept], order[image, kept:]
            np.take(candidates, first, axis=0, out=target[image, special : special + kept])
            if fuse:
                np.matmul(scores[image, others], candidates[others], out=target[image, -1])

    return run


def take(step: Take, memory: Memory) -> Run:
    """The first `group` of an image's `tokens` rows."""
    source, target = memory.view(step.source), memory.view(step.target)
    rows = np.lib.stride_tricks.as_strided(
        source, (memory.count, step.group, source.shape[1]), (step.tokens * source.strides[0], *source.strides)
    )

    def run() -> None:
        target.reshape(rows.shape)[...] = rows

    return run


def pool(step: Pool, memory: Memory) -> Run:
    """The mean of an image's tokens but the special ones."""
    source = memory.view(step.source).reshape(memory.count, step.tokens, -1)[:, step.special :]
    target = memory.view(step.target)

    def run() -> None:
        np.mean(source, axis=1, out=target)

    return run


def mean(step: Mean, memory: Memory) -> Run:
    """The mean of two."""
    first, second, target = memory.view(step.source), memory.view(step.other), memory.view(step.target)

    def run() -> None:
        np.add(first, second, out=target)
        np.divide(target, np.float32(2.0), out=target)

    return run


STEPS: dict[type[Step], Callable[[Any, Memory], Run]] = {
    Norm: norm,
    Linear: product,
    Convolve: product,
    Attention: attention,
    Depthwise: depthwise,
    Embed: embed,
    Reorganize: reorganize,
    Take: take,
    Pool: pool,
    Mean: mean,
}
"""Every kind of step -> what binds one to memory."""
