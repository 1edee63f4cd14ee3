"""The error model: what every operation of the reference does to values and to the variance of a port's error.

Each rule adds up, as independent: the error that its inputs bring, through the operation's derivative; the rounding of what it
reads; that of its sums; that of its result. Derived in docs/exactness.md. u^2 / 3 of a format is `rounding.operand` and so on.
"""

import math
from typing import Any

import numpy as np
from numpy.lib.stride_tricks import sliding_window_view

from reforg.arrays import Array
from reforg.ops import REFERENCE, Ops, Trace, basic, conv, untraced
from reforg.ops.resize import resize
from reforg.verification.error_model import looks
from reforg.verification.error_model.uncertain import Rounding, Uncertain, Values, Variances

REACH = 64.0  # squared values in units of their variance that an error may turn to the other sign
STRAIGHT = 0.2  # relative error of a probability up to which it grows as its score's does
LARGEST = 80.0  # of an exponent
PASSES = 2.0  # roundings of a function's elementary operations, whose errors add up to about twice the result's own
OF_ERF = 2.0**-24  # half of erf's error in programs for float32 that pass for exact; torch's is at most 12 times as much
GAUSS = 1 / math.sqrt(2 * math.pi)


def _product(x: Uncertain, count: int, y: Values, apply: Any) -> Uncertain:
    """The result of a linear map of `count` terms; apply: the same map, with its weights squared, of variances."""
    rounding = x.rounding
    if rounding.plain:
        return Uncertain(y, None, rounding)
    # Each term is off by the rounding of its two factors, and each partial sum by its own. Errors of the terms are independent,
    # so their variances add up as the terms' squares do: one more product, with squared weights.
    share = rounding.kind(2 * rounding.operand + rounding.sums * count / 2)
    inner = rounding.squares(x.value) * share
    variance = apply(inner if x.variance is None else inner + x.variance)
    total = rounding.kind(rounding.product + rounding.shared + rounding.sums * count / 3) * rounding.squares(y)
    return Uncertain(y, variance + total, rounding)


def _shifted(y: Uncertain, bias: Uncertain | None, shape: tuple[int, ...], count: int) -> Uncertain:
    """y + bias, rounded as a product is. Sums of `count` terms may start from the bias, which is then in every partial sum."""
    if bias is None:
        return y
    rounding, term = y.rounding, bias.value.reshape(shape)
    own = rounding.squares(term) * rounding.kind(rounding.product + rounding.sums * count)
    return rounding.rounded(y.value + term, y.spread + own, rounding.product)


def linear(x: Uncertain, weight: Uncertain, bias: Uncertain | None = None) -> Uncertain:
    """[..., I], [O, I], [O] -> [..., O]."""
    squares = x.rounding.squares(weight.value)
    y = basic.linear(x.value, weight.value)
    result = _shifted(_product(x, weight.shape[1], y, lambda part: basic.linear(part, squares)), bias, (-1,), weight.shape[1])
    return looks.linear(result, x, weight.value, bias)


def conv2d(x: Uncertain, weight: Uncertain, bias: Uncertain | None = None, stride: int = 1, padding: int = 0) -> Uncertain:
    """[B, C, H, W], [O, C, kh, kw], [O] -> [B, O, H', W']."""
    squares = x.rounding.squares(weight.value)
    y = conv.conv2d(x.value, weight.value, None, stride, padding)
    count = math.prod(weight.shape[1:])
    found = _product(x, count, y, lambda part: conv.conv2d(part, squares, None, stride, padding))
    return looks.convolution(_shifted(found, bias, (-1, 1, 1), count), x, weight.value, bias, stride, padding)


def depthwise_conv2d(x: Uncertain, weight: Uncertain, bias: Uncertain | None = None, padding: int = 1) -> Uncertain:
    """[B, C, H, W], [C, 1, kh, kw], [C] -> [B, C, H', W']."""
    squares = x.rounding.squares(weight.value)
    y = conv.depthwise_conv2d(x.value, weight.value, None, padding)
    count = math.prod(weight.shape[2:])
    found = _product(x, count, y, lambda part: conv.depthwise_conv2d(part, squares, None, padding))
    return looks.convolution(_shifted(found, bias, (-1, 1, 1), count), x, weight.value, bias, 1, padding)


def layer_norm(x: Uncertain, weight: Uncertain, bias: Uncertain, eps: float) -> Uncertain:
    """[..., C], [C], [C] -> [..., C]. Mean and variance are sums over C, in the accumulators' format."""
    rounding, count = x.rounding, x.shape[-1]
    kind = rounding.kind
    mean = x.value.mean(axis=-1, keepdims=True)
    centred = x.value - mean
    variance = np.mean(centred * centred, axis=-1, keepdims=True)
    deviation = np.sqrt(variance + eps)
    normed = centred / deviation
    scaled = normed * weight.value
    of_mean = rounding.sums * (variance / 2 + mean * mean * (0.5 + count / 3))
    ratio = np.minimum(mean * mean / (variance + eps), 1e6)  # where the mean is large, E[x^2] - E[x]^2 loses as much
    of_deviation = rounding.sums * (count / 3 * (1 + ratio) ** 2 / 4 + 3)
    own, through = x.read, np.mean(rounding.squares(normed) * x.read, axis=-1, keepdims=True)
    of_mean = of_mean + own.mean(axis=-1, keepdims=True) / count  # each error of x is also one of the mean and the deviation
    of_deviation = of_deviation + through / (count * deviation * deviation)
    of_centred = own + rounding.squares(centred) * kind(rounding.sums) + of_mean.astype(kind)
    slope = weight.value / deviation
    spread = rounding.squares(scaled) * (of_deviation.astype(kind) + kind(2 * rounding.stored))
    spread += of_centred * rounding.squares(slope) + rounding.squares(bias.value) * kind(rounding.stored)
    result = rounding.rounded(scaled + bias.value, spread, x.relative)  # torch on a CPU returns what it reads
    return result.following((x, slope))


def batch_norm(x: Uncertain, weight: Uncertain, bias: Uncertain, mean: Uncertain, variance: Uncertain, eps: float) -> Uncertain:
    """[B, C, H, W] and four times [C] -> [B, C, H, W]; as x gain + (bias - mean gain), whose terms may cancel."""
    rounding = x.rounding
    kind = rounding.kind
    gain = (weight.value / np.sqrt(variance.value + eps))[:, None, None]
    shift = bias.value[:, None, None] - mean.value[:, None, None] * gain
    terms = rounding.squares(x.value * gain) + rounding.squares(mean.value[:, None, None] * gain)
    own = terms * kind(4 * rounding.sums + 2 * rounding.operand) + rounding.squares(shift) * kind(rounding.stored)
    if x.variance is not None:
        own = own + x.variance * rounding.squares(gain)
    return rounding.rounded(x.value * gain + shift, own, rounding.product).following((x, gain))


def gelu(x: Uncertain) -> Uncertain:
    """[...] -> [...]; 1 + erf cancels for negative x, so its error is one of x, not of the result."""
    rounding = x.rounding
    y = basic.gelu(x.value)
    of_erf = rounding.product if rounding.precision.name == "float64" else max(rounding.product, OF_ERF**2)
    own, slope = rounding.squares(x.value) * rounding.kind(of_erf), None
    if x.variance is not None:
        narrow: Variances = x.value.astype(rounding.kind)
        density = narrow * np.exp(narrow * narrow * -0.5) * rounding.kind(GAUSS)
        share = np.divide(y, x.value, out=np.full_like(y, 0.5), where=x.value != 0)
        slope = share.astype(rounding.kind) + density
        own += np.maximum(x.variance * np.square(slope), _bent(x, y))
    return rounding.rounded(y, own, PASSES * rounding.product).following((x, slope))


def _bent(x: Uncertain, y: Values) -> Any:
    """Variance of GELU where its input is so uncertain that its slope is not the same all over that: by how far y may go."""
    rounding = x.rounding
    if float(np.max(x.spread, initial=0.0)) ** 2 < rounding.stored:
        return rounding.kind(0)
    far = np.sqrt(REACH * x.spread, dtype=np.float64)
    moved = np.maximum(np.abs(basic.gelu(x.value + far) - y), np.abs(basic.gelu(x.value - far) - y))
    return rounding.squares(moved) / rounding.kind(REACH)


def relu(x: Uncertain) -> Uncertain:
    """[...] -> [...], exact; what is negative by no more than its error may be positive in the port."""
    value = np.maximum(x.value, 0)
    if x.variance is None:
        return Uncertain(value, None, x.rounding, x.relative)
    passed = (x.value > 0) | (x.rounding.squares(x.value) < REACH * x.variance)
    return Uncertain(value, x.variance * passed, x.rounding, x.relative).following((x, passed))


def erf(x: Uncertain) -> Uncertain:
    """[...] -> [...]."""
    rounding = x.rounding
    own = None if x.variance is None else x.variance * rounding.squares(2 / math.sqrt(math.pi) * np.exp(-x.value * x.value))
    return rounding.rounded(basic.erf(x.value), own, PASSES * rounding.product)


def softmax(x: Uncertain) -> Uncertain:
    """[..., N] -> [..., N]; dp_i = p_i (ds_i - sum p_j ds_j), so a probability near 1 hardly heeds its own score."""
    rounding = x.rounding
    kind = rounding.kind
    shifted = x.value - x.value.max(axis=-1, keepdims=True)
    powers = np.exp(shifted)
    y = powers / powers.sum(axis=-1, keepdims=True)
    relative = (rounding.squares(shifted) + kind(6 + x.shape[-1] / 3)) * kind(rounding.sums)
    if x.variance is not None:
        of_sum = np.sum(rounding.squares(y) * x.variance, axis=-1, keepdims=True)
        relative += np.maximum(x.variance * (1 - 2 * y).astype(kind) + of_sum, 0)  # which cancels where y is 1
    return rounding.rounded(y, _grown(y, relative, rounding), PASSES * rounding.product)


def _grown(y: Values, relative: Variances, rounding: Rounding) -> Variances:
    """Variance of probabilities whose scores have the given one; where they may be several times as large, by how far they may go.

    None goes beyond 0 or 1, and the differences of two distributions add up to no more than 2.
    """
    plain: Variances = rounding.squares(y) * relative
    if float(np.max(relative, initial=0.0)) * REACH < STRAIGHT**2:
        return plain
    far = np.minimum(y * np.expm1(np.minimum(np.sqrt(REACH * relative, dtype=np.float64), LARGEST)), np.maximum(y, 1 - y))
    wide = np.maximum(REACH * plain, rounding.squares(far))
    wide *= np.minimum(1, 4 / np.maximum(np.sum(wide, axis=-1, keepdims=True), 1))
    return wide / rounding.kind(REACH)


def attention(
    queries: Uncertain, keys: Uncertain, values: Uncertain, scale: float, trace: Trace = untraced, softmax: Any = softmax
) -> tuple[Uncertain, Array]:
    """[B, H, N, D], [B, H, M, D] twice -> context [B, H, N, D], probabilities [B, H, N, M]."""
    rounding = queries.rounding
    products = _matmul(queries, keys.moved(np.matrix_transpose))
    factor = rounding.kind(scale * scale)
    scaled = rounding.rounded(products.value * scale, products.spread * factor, PASSES * rounding.product)
    scores = trace("scores", scaled.following((products, scale)))
    probabilities = trace("probs", softmax(scores))
    # What scores are made from may be hidden, and then its errors are in all scores of a query.
    hidden = queries.variance is not None or keys.variance is not None
    context = looks.context(_matmul(probabilities, values), scores, probabilities, values, hidden)
    return trace("context", context), probabilities


def _matmul(a: Uncertain, b: Uncertain) -> Uncertain:
    """[..., N, K], [..., K, M] -> [..., N, M]."""
    rounding, y = a.rounding, a.value @ b.value
    squares = rounding.squares(b.value)
    result = _product(a, a.shape[-1], y, lambda part: part @ squares)
    if b.variance is not None and not rounding.plain:
        result = Uncertain(y, result.spread + rounding.squares(a.value) @ b.variance, rounding)
    return looks.product(result, a, b)


def resampled(x: Uncertain, size: tuple[int, int], method: str = "bicubic", antialias: bool = False) -> Uncertain:
    """[B, C, H, W] -> [B, C, *size]; in float32 at best, because timm resamples in float32 whatever the model's dtype."""
    rounding = x.rounding
    y = resize(x.value, size, method, antialias)
    relative = max(rounding.stored, 2.0**-48 / 3)
    squares = rounding.squares(x.value)
    near: Variances = resize(squares * rounding.kind(16 * relative) + 2 * x.spread, size, "bilinear", antialias)
    slope: Variances = resize(_around(squares), size, "bilinear", antialias)
    moved = _of_coordinates(x.shape[2:], size) * max(rounding.sums, 2.0**-48 / 3)
    return rounding.rounded(y, near + slope * moved.astype(rounding.kind), relative)


def _around(squares: Variances) -> Variances:
    """[B, C, H, W] -> the same, each the largest of what lies within one step of it: what a kernel of four taps reads there."""
    for axis in (2, 3):
        padded = np.pad(squares, [(1, 1) if axis == other else (0, 0) for other in range(4)])
        squares = sliding_window_view(padded, 3, axis).max(axis=-1)
    return squares


def _of_coordinates(source: tuple[int, ...], size: tuple[int, int]) -> Values:
    """(H', W'): squared source coordinates of both axes, times the squared slope of the kernel between its neighbours.

    A program rounds the ratio of the sizes, its product with the target's coordinate and their difference: three roundings of a
    number as large as the coordinate, each of which moves the point where the table is read.
    """
    rows, columns = (3 * ((np.arange(new) + 0.5) * (old / new) + 1) ** 2 for old, new in zip(source, size, strict=True))
    return 4 * (rows[:, None] + columns)


def rank(scores: Uncertain) -> Any:
    """[B, N] -> [B, N], the indices of each row by falling score."""
    return np.argsort(-scores.value, axis=-1, stable=True)


def gather(tokens: Uncertain, indices: Any) -> Uncertain:
    """[B, N, ...], [B, K] -> [B, K, ...]."""
    at = indices.reshape(*indices.shape, *(1,) * (len(tokens.shape) - 2))
    return tokens.moved(lambda part: np.take_along_axis(part, at, axis=1))


OPERATIONS: Ops = REFERENCE.replaced(
    "error model",
    {
        "linear": linear,
        "layer_norm": layer_norm,
        "batch_norm": batch_norm,
        "erf": erf,
        "gelu": gelu,
        "relu": relu,
        "softmax": softmax,
        "attention": attention,
        "conv2d": conv2d,
        "depthwise_conv2d": depthwise_conv2d,
        "resize": resampled,
        "rank": rank,
        "gather": gather,
    },
)
"""Every operation of the reference on uncertain arrays."""

__all__ = ["OPERATIONS", "Rounding"]
