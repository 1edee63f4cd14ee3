"""Convolutions as matrix products, without a loop over batch, channels or pixels (only over a kernel's few taps).

Channels are brought to the last axis, where tokens have them: in a model whose maps are tokens seen as maps nothing is
copied for it, and each tap of a kernel is a run of whole tokens.
"""

import math

from reforg.arrays import Array, namespace, narrow, widen, zeros
from reforg.ops.basic import linear


def conv2d(x: Array, weight: Array, bias: Array | None = None, stride: int = 1, padding: int = 0) -> Array:
    """[B, C, H, W], [O, C, kh, kw], [O] -> [B, O, H', W'], H' = floor((H + 2 padding - kh) / stride) + 1.

    Cross-correlation with zero padding, as torch's Conv2d. Rows and columns that no kernel covers are left out.
    """
    xp = namespace(x, weight)
    *_, height, width = output_shape(x, weight, stride, padding)
    patches = _patches(pad(_channels_last(x), padding), weight.shape[2:], stride, (height, width))
    filters = xp.reshape(xp.permute_dims(weight, (0, 2, 3, 1)), (weight.shape[0], math.prod(weight.shape[1:])))
    return xp.permute_dims(linear(patches, filters, bias), (0, 3, 1, 2))


def depthwise_conv2d(x: Array, weight: Array, bias: Array | None = None, padding: int = 1) -> Array:
    """[B, C, H, W], [C, 1, kh, kw], [C] -> [B, C, H', W']: each channel with its own kernel, stride 1."""
    xp = namespace(x, weight)
    batch, channels, height, width = output_shape(x, weight, 1, padding)
    padded, kernel = pad(widen(_channels_last(x)), padding), widen(weight)
    y = zeros((batch, height, width, channels), like=padded) if bias is None else widen(bias)
    for row in range(weight.shape[2]):
        for column in range(weight.shape[3]):
            y = y + padded[:, row : row + height, column : column + width, :] * kernel[:, 0, row, column]
    return narrow(xp.permute_dims(y, (0, 3, 1, 2)), x)


def output_shape(x: Array, weight: Array, stride: int, padding: int) -> tuple[int, int, int, int]:
    """The shape (B, O, H', W') of the convolution of [B, C, H, W] with [O, I, kh, kw]; H' or W' below 1 means: empty."""
    height, width = (
        (size + 2 * padding - kernel) // stride + 1 for size, kernel in zip(x.shape[2:], weight.shape[2:], strict=True)
    )
    return x.shape[0], weight.shape[0], height, width


def pad(x: Array, padding: int) -> Array:
    """[B, H, W, C] -> [B, H + 2 padding, W + 2 padding, C], zeros around."""
    if padding == 0:
        return x
    xp = namespace(x)
    batch, height, width, channels = x.shape
    side = zeros((batch, height, padding, channels), like=x)
    band = zeros((batch, padding, width + 2 * padding, channels), like=x)
    return xp.concat([band, xp.concat([side, x, side], axis=2), band], axis=1)


def _channels_last(x: Array) -> Array:
    """[B, C, H, W] -> [B, H, W, C]."""
    return namespace(x).permute_dims(x, (0, 2, 3, 1))


def _patches(x: Array, kernel: tuple[int, int], stride: int, size: tuple[int, int]) -> Array:
    """[B, H, W, C] -> [B, H', W', kh kw C], a row for each position of the kernel."""
    xp = namespace(x)
    (kh, kw), (height, width), (batch, *_, channels) = kernel, size, x.shape
    if kh == kw == stride:  # no overlap: every pixel is in one patch, so a transposition does
        x = xp.reshape(x[:, : height * kh, : width * kw, :], (batch, height, kh, width, kw, channels))
        return xp.reshape(xp.permute_dims(x, (0, 1, 3, 2, 4, 5)), (batch, height, width, kh * kw * channels))
    taps = [
        x[:, row : row + stride * (height - 1) + 1 : stride, column : column + stride * (width - 1) + 1 : stride, :]
        for row in range(kh)
        for column in range(kw)
    ]
    return xp.concat(taps, axis=3)
