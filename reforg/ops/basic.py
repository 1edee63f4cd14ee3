"""Linear maps, norms, activations, softmax and attention, in calls of the Array API standard.

Shapes in brackets, `[...]` any leading axes. In float16 and bfloat16 every sum is formed in float32 and the
result is rounded once; in float32 and float64 everything is computed in the array's own dtype.
"""

import math
from collections.abc import Callable, Sequence

from reforg.arrays import Array, namespace, narrow, widen
from reforg.ops.tracing import Trace, untraced

# From golden/record/erf_coefficients.py; polynomials, lowest power first.
ERF_NEAR = (  # erf(x)/x in x^2 for |x| < 1; relative error 2e-17
    1.1283791670955126, -0.3761263890318375, 0.11283791670954879, -0.026866170645076792, 0.0052239776248180145,
    -0.000854832698083379, 0.0001205533111164271, -1.4925595266831182e-05, 1.6461000484121368e-06,
    -1.6350312701054695e-07, 1.4659775274047436e-08, -1.1372848856791674e-09, 5.957176147748911e-11,
)  # fmt: skip
ERFC_FAR = (  # exp(x^2) erfc(x) in (x - 3)/(x + 3) for 1 <= x <= 6; absolute error of erf 2e-19
    0.17900115118138996, -0.3262335600430372, 0.24560380171233087, -0.1501159365007772, 0.07166583719797825,
    -0.024392499318674116, 0.004269136332839387, 0.000707746439062207, -0.0005970619486416963,
    4.525529412129632e-05, 6.405655737002857e-05, -1.2860421831200831e-05, -7.978119385932173e-06,
    2.119283446053111e-06, 1.2519261188022667e-06, -2.902652004392866e-07, -2.2960836640172656e-07,
    2.1006932317945462e-08, 3.0997111248611914e-08,
)  # fmt: skip
ERF_SINGLE = (  # artanh(erf(x))/x in x^2 for |x| <= 4.2; relative error of erf 1e-7
    1.1283792742998642, 0.10276905589752681, -0.00019183101043852897, -0.0006197845406888921, 8.763730263114405e-05,
    -5.668473478017238e-06, 1.4185217883515686e-07,
)  # fmt: skip


def polynomial(x: Array, coefficients: Sequence[float]) -> Array:
    """[...] -> [...]: the polynomial with the given coefficients, lowest power first, by Horner's rule."""
    value = coefficients[-1] * x + coefficients[-2]
    for coefficient in reversed(coefficients[:-2]):
        value = value * x + coefficient
    return value


def erf(x: Array) -> Array:
    """[...] -> [...], 2/sqrt(pi) * integral of exp(-t^2) from 0 to x; absolute error 2e-16 in float64, 2e-7 in float32."""
    xp = namespace(x)
    return _erf_double(x) if x.dtype == xp.float64 else narrow(_erf_single(widen(x)), x)


def _erf_double(x: Array) -> Array:
    xp = namespace(x)
    small = xp.clip(x, -1.0, 1.0)
    near = small * polynomial(small * small, ERF_NEAR)
    size = xp.clip(xp.abs(x), 1.0, 6.0)  # erf(6) rounds to 1
    far = 1.0 - xp.exp(-size * size) * polynomial((size - 3.0) / (size + 3.0), ERFC_FAR)
    return xp.where(xp.abs(x) < 1.0, near, xp.sign(x) * far)


def _erf_single(x: Array) -> Array:
    xp = namespace(x)
    x = xp.clip(x, -4.2, 4.2)  # erf(4.2) rounds to 1
    return xp.tanh(x * polynomial(x * x, ERF_SINGLE))  # half the passes over memory of a quotient of polynomials


def gelu(x: Array, erf: Callable[[Array], Array] = erf) -> Array:
    """[...] -> [...], x * Phi(x) = x/2 * (1 + erf(x/sqrt(2))): the exact form, not the tanh approximation.

    Hendrycks & Gimpel, "Gaussian Error Linear Units", section 2.
    """
    wide = widen(x)
    return narrow(0.5 * wide * (1.0 + erf(wide * 0.7071067811865476)), x)


def relu(x: Array) -> Array:
    """[...] -> [...], max(x, 0)."""
    return namespace(x).clip(x, 0.0)


def linear(x: Array, weight: Array, bias: Array | None = None) -> Array:
    """[..., I], [O, I], [O] -> [..., O]: x W^T + b, W stored as torch stores it."""
    xp = namespace(x, weight)
    rows = xp.reshape(widen(x), (math.prod(x.shape[:-1]), x.shape[-1]))
    y = rows @ xp.matrix_transpose(widen(weight))
    y = y if bias is None else y + widen(bias)
    return narrow(xp.reshape(y, (*x.shape[:-1], weight.shape[0])), x)


def layer_norm(x: Array, weight: Array, bias: Array, eps: float) -> Array:
    """[..., C], [C], [C] -> [..., C]: (x - mean)/sqrt(var + eps) * weight + bias, biased variance over the last axis.

    Ba et al., "Layer Normalization", eq. 4.
    """
    xp = namespace(x)
    wide = widen(x)
    centred = wide - xp.mean(wide, axis=-1, keepdims=True)
    variance = xp.mean(centred * centred, axis=-1, keepdims=True)
    return narrow(centred / xp.sqrt(variance + eps) * widen(weight) + widen(bias), x)


def batch_norm(x: Array, weight: Array, bias: Array, mean: Array, variance: Array, eps: float) -> Array:
    """[B, C, H, W] and four times [C] -> [B, C, H, W], with the running statistics (inference)."""
    xp = namespace(x)
    gain = widen(weight) / xp.sqrt(widen(variance) + eps)
    shift = widen(bias) - widen(mean) * gain
    return narrow(widen(x) * gain[:, None, None] + shift[:, None, None], x)


def softmax(x: Array) -> Array:
    """[..., N] -> [..., N]: exp(x) / sum exp(x) over the last axis, shifted by the maximum so that nothing overflows."""
    xp = namespace(x)
    wide = widen(x)
    powers = xp.exp(wide - xp.max(wide, axis=-1, keepdims=True))
    return narrow(powers / xp.sum(powers, axis=-1, keepdims=True), x)


def matmul(a: Array, b: Array, scale: float = 1.0) -> Array:
    """[..., N, K], [..., K, M] -> [..., N, M], times `scale`."""
    product = widen(a) @ widen(b)
    return narrow(product if scale == 1.0 else product * scale, a)


def mean(x: Array, axis: int) -> Array:
    """[...] -> [...] without `axis`: the arithmetic mean."""
    return narrow(namespace(x).mean(widen(x), axis=axis), x)


def mean_of(arrays: Sequence[Array]) -> Array:
    """Arrays of one shape -> their arithmetic mean; the array itself where there is but one."""
    if len(arrays) == 1:
        return arrays[0]
    return narrow(sum(map(widen, arrays[1:]), widen(arrays[0])) / len(arrays), arrays[0])


def attention(
    queries: Array,
    keys: Array,
    values: Array,
    scale: float,
    trace: Trace = untraced,
    softmax: Callable[[Array], Array] = softmax,
) -> tuple[Array, Array]:
    """[B, H, N, D], [B, H, M, D], [B, H, M, D] -> context [B, H, N, D], probabilities [B, H, N, M].

    softmax(Q K^T * scale) V. Vaswani et al., "Attention Is All You Need", eq. 1. Traced: scores, probs, context.
    In float16 and bfloat16 softmax reads the scores as they are before they are rounded: they may pass float16's 65504.
    """
    scores = matmul(widen(queries), namespace(keys).matrix_transpose(widen(keys)), scale)
    if trace is not untraced:
        trace("scores", narrow(scores, queries))
    probabilities = trace("probs", narrow(softmax(scores), queries))
    return trace("context", matmul(probabilities, values)), probabilities
