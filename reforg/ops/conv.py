"""Convolutions as matrix products, without a loop over batch, channels or pixels (only over a kernel's few taps)."""

import math

from reforg.arrays import Array, namespace, narrow, widen, zeros


def conv2d(x: Array, weight: Array, bias: Array | None = None, stride: int = 1, padding: int = 0) -> Array:
    """[B, C, H, W], [O, C, kh, kw], [O] -> [B, O, H', W'], H' = floor((H + 2 padding - kh) / stride) + 1.

    Cross-correlation with zero padding, as torch's Conv2d. Rows and columns that no kernel covers are left out.
    """
    xp = namespace(x, weight)
    batch, _, height, width = output_shape(x, weight, stride, padding)
    patches = _patches(pad(widen(x), padding), weight.shape[2:], stride, (height, width))
    filters = xp.reshape(widen(weight), (weight.shape[0], math.prod(weight.shape[1:])))
    y = xp.reshape(filters @ patches, (batch, weight.shape[0], height, width))
    return narrow(y if bias is None else y + widen(bias)[:, None, None], x)


def depthwise_conv2d(x: Array, weight: Array, bias: Array | None = None, padding: int = 1) -> Array:
    """[B, C, H, W], [C, 1, kh, kw], [C] -> [B, C, H', W']: each channel with its own kernel, stride 1."""
    batch, channels, height, width = output_shape(x, weight, 1, padding)
    padded, kernel = pad(widen(x), padding), widen(weight)
    y = zeros((batch, channels, height, width), like=padded) if bias is None else widen(bias)[:, None, None]
    for row in range(weight.shape[2]):
        for column in range(weight.shape[3]):
            window = padded[:, :, row : row + height, column : column + width]
            y = y + window * kernel[:, :, row, column][..., None]
    return narrow(y, x)


def output_shape(x: Array, weight: Array, stride: int, padding: int) -> tuple[int, int, int, int]:
    """The shape (B, O, H', W') of the convolution of [B, C, H, W] with [O, I, kh, kw]; H' or W' below 1 means: empty."""
    height, width = (
        (size + 2 * padding - kernel) // stride + 1 for size, kernel in zip(x.shape[2:], weight.shape[2:], strict=True)
    )
    return x.shape[0], weight.shape[0], height, width


def pad(x: Array, padding: int) -> Array:
    """[B, C, H, W] -> [B, C, H + 2 padding, W + 2 padding], zeros around."""
    if padding == 0:
        return x
    xp = namespace(x)
    batch, channels, height, width = x.shape
    side = zeros((batch, channels, height, padding), like=x)
    band = zeros((batch, channels, padding, width + 2 * padding), like=x)
    return xp.concat([band, xp.concat([side, x, side], axis=3), band], axis=2)


def _patches(x: Array, kernel: tuple[int, int], stride: int, size: tuple[int, int]) -> Array:
    """[B, C, H, W] -> [B, C kh kw, H' W'], a column for each position of the kernel."""
    xp = namespace(x)
    (kh, kw), (height, width), (batch, channels) = kernel, size, x.shape[:2]
    if kh == kw == stride:  # no overlap: every pixel is in one patch, so a transposition does
        x = xp.reshape(x[:, :, : height * kh, : width * kw], (batch, channels, height, kh, width, kw))
        return xp.reshape(xp.permute_dims(x, (0, 1, 3, 5, 2, 4)), (batch, channels * kh * kw, height * width))
    taps = [
        x[:, :, row : row + stride * (height - 1) + 1 : stride, column : column + stride * (width - 1) + 1 : stride]
        for row in range(kh)
        for column in range(kw)
    ]
    return xp.reshape(xp.stack(taps, axis=2), (batch, channels * kh * kw, height * width))
