"""Variants of single layers: activations, norms, linear maps, convolutions."""

from functools import partial
from typing import Any

import numpy as np

from reforg.verification.diagnosis.variants.table import Inapplicable, Step, variant
from reforg.verification.error_model.precision import unit
from reforg.verification.error_model.rules import conv2d as convolved
from reforg.verification.error_model.rules import depthwise_conv2d as convolved_depthwise
from reforg.verification.error_model.rules import linear as mapped
from reforg.verification.error_model.uncertain import Uncertain
from reforg.verification.replay.changes import remark
from reforg.verification.replay.trends import BIAS

EPSILONS = (1e-5, 1e-6, 1e-12, 1e-3, 1e-7, 1e-8, 1.1e-5, 2e-5, 1.1e-6, 1e-4, 0.0)


def _elementwise(x: Uncertain, value: Any) -> Uncertain:
    """The values of another function of x, with the error that the exact GELU of x would have."""
    from reforg.verification.error_model.rules import gelu

    return Uncertain(value, gelu(x).variance, x.rounding)


@variant("gelu", "GELU: tanh approximation")
def gelu_tanh(net: Any, path: str, x: Uncertain) -> Any:
    """Hendrycks & Gimpel, section 2."""
    value = x.value
    return net.trace(path, _elementwise(x, 0.5 * value * (1 + np.tanh(0.7978845608028654 * (value + 0.044715 * value**3)))))


@variant("gelu", "GELU: sigmoid approximation, x sigmoid(1.702 x)")
def gelu_sigmoid(net: Any, path: str, x: Uncertain) -> Any:
    """Hendrycks & Gimpel, section 2."""
    return net.trace(path, _elementwise(x, x.value * _sigmoid(1.702 * x.value)))


@variant("gelu", "GELU: SiLU in its place")
def silu(net: Any, path: str, x: Uncertain) -> Any:
    """x sigmoid(x)."""
    return net.trace(path, _elementwise(x, x.value * _sigmoid(x.value)))


@variant("gelu", "GELU: ReLU in its place")
def relu_for_gelu(net: Any, path: str, x: Uncertain) -> Any:
    """max(x, 0)."""
    return net.trace(path, net.ops.relu(x))


@variant("relu", "ReLU: GELU in its place")
def gelu_for_relu(net: Any, path: str, x: Uncertain) -> Any:
    """The erf form."""
    return net.trace(path, net.ops.gelu(x))


@variant("gelu", "GELU missing")
@variant("relu", "ReLU missing")
@variant("layer_norm", "norm missing")
@variant("batch_norm", "batch norm missing")
def missing(net: Any, path: str, x: Uncertain, *_: Any) -> Any:
    """The layer's input."""
    return net.trace(path, x)


def _sigmoid(x: Any) -> Any:
    return 0.5 * (1 + np.tanh(0.5 * x))


def _layer_norm(net: Any, path: str, x: Uncertain, eps: float, instead: float) -> Any:
    if instead == eps:
        raise Inapplicable
    return net.trace(path, net.ops.layer_norm(x, *net.parameters(path), instead))


def _batch_norm(net: Any, path: str, x: Uncertain, eps: float = 1e-5, instead: float = 0.0) -> Any:
    if instead == eps:
        raise Inapplicable
    return net.trace(path, net.ops.batch_norm(x, *_statistics(net, path), instead))


def _statistics(net: Any, path: str) -> tuple[Any, ...]:
    return *net.parameters(path), net.weights[f"{path}.running_mean"], net.weights[f"{path}.running_var"]


def _spelled(number: float, digits: int = 5) -> str:
    """0.00001 -> "1e-5"."""
    mantissa, _, power = f"{number:.{digits}e}".partition("e")
    return f"{float(mantissa):g}e{int(power)}" if number else "0"


for _eps in EPSILONS:
    variant("layer_norm", f"epsilon {_spelled(_eps)}")(partial(_layer_norm, instead=_eps))
    variant("batch_norm", f"epsilon {_spelled(_eps)}")(partial(_batch_norm, instead=_eps))


@variant("layer_norm", "another epsilon", fitted=True)
def fitted_epsilon(net: Any, path: str, x: Uncertain, eps: float) -> Any:
    """The epsilon that fits the candidate's values best, where it is none of the usual ones."""
    got = net.session.values.get(path)
    if got is None or got.shape != x.shape:
        raise Inapplicable
    weight, bias = net.parameters(path)
    # A norm is a fixed direction times 1/sqrt(var + eps). Least squares find that factor for each token, and it tells the epsilon.
    centred = x.value - x.value.mean(axis=-1, keepdims=True)
    scaled = centred * weight.value
    ratio = np.sum((got - bias.value) * scaled, axis=-1) / np.maximum(np.sum(scaled * scaled, axis=-1), 1e-300)
    spread = np.mean(centred * centred, axis=-1)
    found = float(np.median(1 / np.maximum(ratio, 1e-150) ** 2 - spread))
    unsure = 2 * BIAS * unit(x.rounding.precision.sums) * float(np.median(spread + eps))  # by honest rounding of the deviation
    # Within rounding of a usual one it is that one, and the variant that takes no number from the candidate says so.
    if any(abs(found - usual) < unsure for usual in EPSILONS):
        raise Inapplicable
    remark(net.session, f"epsilon about {_spelled(found, 2)}")
    return _layer_norm(net, path, x, eps, max(found, 0.0))


@variant("layer_norm", "unbiased variance, over C - 1")
def unbiased(net: Any, path: str, x: Uncertain, eps: float) -> Any:
    """torch.var's default."""
    count = x.shape[-1]
    weight, bias = net.parameters(path)
    # The same as the usual norm with a smaller weight and a smaller epsilon, whose error is known.
    factor = np.sqrt((count - 1) / count) if count > 1 else 1.0
    plain = net.ops.layer_norm(x, weight.moved(lambda part: part * factor), bias, eps * (count - 1) / count)
    return net.trace(path, plain)


@variant("layer_norm", "weight and bias missing")
def without_affine(net: Any, path: str, x: Uncertain, eps: float) -> Any:
    """The normed values alone."""
    one = x.rounding.exact(np.ones(x.shape[-1]))
    return net.trace(path, net.ops.layer_norm(x, one, x.rounding.exact(np.zeros(x.shape[-1])), eps))


@variant("layer_norm", "bias dropped")
def norm_without_bias(net: Any, path: str, x: Uncertain, eps: float) -> Any:
    """Weight only."""
    return net.trace(path, net.ops.layer_norm(x, net.parameters(path)[0], x.rounding.exact(np.zeros(x.shape[-1])), eps))


@variant("layer_norm", "mean not subtracted (RMS norm)")
def root_mean_square(net: Any, path: str, x: Uncertain, eps: float) -> Any:
    """x / sqrt(mean x^2 + eps)."""
    weight, bias = net.parameters(path)
    scale = np.sqrt(np.mean(x.value**2, axis=-1, keepdims=True) + eps)
    plain = net.ops.layer_norm(x, weight, bias, eps)
    return net.trace(path, Uncertain(x.value / scale * weight.value + bias.value, plain.variance, x.rounding))


@variant("batch_norm", "statistics of the batch instead of the running ones")
def of_the_batch(net: Any, path: str, x: Uncertain, eps: float = 1e-5) -> Any:
    """As in training mode."""
    axes = (0, 2, 3)
    mean, spread = x.rounding.exact(x.value.mean(axis=axes)), x.rounding.exact(x.value.var(axis=axes))
    return net.trace(path, net.ops.batch_norm(x, *net.parameters(path), mean, spread, eps))


@variant("batch_norm", "recorded after ReLU overwrote it (the hook does not copy)")
def overwritten(net: Any, path: str, x: Uncertain, eps: float = 1e-5) -> Any:
    """What a module in place leaves in the memory of its input."""
    return net.trace(path, net.ops.relu(net.ops.batch_norm(x, *_statistics(net, path), eps)))


@variant("linear", "bias dropped")
def linear_without_bias(net: Any, path: str, x: Uncertain) -> Any:
    """x W^T."""
    return net.trace(path, mapped(x, net.weights[f"{path}.weight"]))


@variant("linear", "weight transposed")
def transposed(net: Any, path: str, x: Uncertain) -> Any:
    """x W where W is square; else the weight's values read in the order of its transpose."""
    weight, bias = net.parameters(path)
    rows, columns = weight.shape
    turned = weight.moved(lambda part: part.T if rows == columns else part.reshape(columns, rows).T)
    return net.trace(path, mapped(x, turned, bias))


@variant("linear", "weight transposed, bias dropped")
def transposed_without_bias(net: Any, path: str, x: Uncertain) -> Any:
    """Both."""
    weight = net.weights[f"{path}.weight"]
    return net.trace(path, mapped(x, weight.moved(lambda part: part.T)))


def _with_kernel(turn: Any, bias: bool = True) -> tuple[Step, Step]:
    """Convolution and depthwise convolution with another kernel [O, I, kh, kw]."""

    def dense(net: Any, path: str, x: Uncertain, stride: int, padding: int = 0) -> Any:
        weight, own = net.parameters(path)
        return net.trace(path, convolved(x, weight.moved(turn), own if bias else None, stride, padding))

    def depthwise(net: Any, path: str, x: Uncertain) -> Any:
        weight, own = net.parameters(path)
        return net.trace(path, convolved_depthwise(x, weight.moved(turn), own if bias else None, 1))

    return dense, depthwise


def _channels_last(kernel: Any) -> Any:
    """The values of a kernel [O, I, kh, kw] read as those of one [O, kh, kw, I]."""
    return kernel.reshape(len(kernel), *kernel.shape[2:], -1).transpose(0, 3, 1, 2)


for _label, _turn, _bias in (
    ("bias dropped", lambda part: part, False),
    ("kernel rows and columns swapped", lambda part: part.swapaxes(2, 3), True),
    ("kernel flipped (a convolution, not a correlation)", lambda part: part[:, :, ::-1, ::-1], True),
    ("kernel flipped vertically", lambda part: part[:, :, ::-1], True),
    ("kernel flipped horizontally", lambda part: part[:, :, :, ::-1], True),
    ("kernel stored channels last (O, kh, kw, I)", _channels_last, True),
):
    for _kind, _step in zip(("conv2d", "depthwise_conv2d"), _with_kernel(_turn, _bias), strict=True):
        variant(_kind, _label)(_step)


@variant("conv2d", "channels of the input reversed (BGR for RGB)")
def channels_reversed(net: Any, path: str, x: Uncertain, stride: int, padding: int = 0) -> Any:
    """The first convolution of images read by another library."""
    return net.trace(path, net.ops.conv2d(x[:, ::-1], *net.parameters(path), stride, padding))


def _padded(net: Any, path: str, x: Uncertain, stride: int, padding: int = 0, instead: int = 0) -> Any:
    if instead == padding:
        raise Inapplicable
    return net.trace(path, net.ops.conv2d(x, *net.parameters(path), stride, instead))


for _padding in (0, 1, 2, 3):
    variant("conv2d", f"padding {_padding}")(partial(_padded, instead=_padding))


@variant("conv2d", "padded at the far side only (TensorFlow's SAME)")
def far_side(net: Any, path: str, x: Uncertain, stride: int, padding: int = 0) -> Any:
    """Where the stride is 2, SAME pads one less before than behind."""
    kernel = net.weights[f"{path}.weight"].shape[2]
    total = max(kernel - stride, 0) if padding else 0
    before = total // 2
    pads = ((0, 0), (0, 0), (before, total - before), (before, total - before))
    return net.trace(path, net.ops.conv2d(x.moved(lambda part: np.pad(part, pads)), *net.parameters(path), stride, 0))
