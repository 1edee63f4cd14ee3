"""Depthwise 3x3 convolution of maps whose pixels are rows, with padding 1: a line of pixels at a time, four pixels at once."""

from numba import njit

from reforg_numpy.numba_engine.codes import GELU_OF_SUM, MORE
from reforg_numpy.numba_engine.kernels.functions import gelu, single
from reforg_numpy.numba_engine.kernels.rows import padded, place_of
from reforg_numpy.numba_engine.kernels.simd import fma, load, splat, store
from reforg_numpy.numba_engine.shapes import LANES

BLOCK = 4  # pixels that share what is loaded of the three lines


@njit
def finish_pixel(memory, value, source, target, leap, column, end):
    """What becomes of one vector of one pixel's result."""
    place = target + place_of(column, leap)
    if end == MORE:
        store(memory, place, load(memory, place) + value)
    elif end == GELU_OF_SUM:
        store(memory, place, gelu(load(memory, source + column) + value))
    else:
        store(memory, place, load(memory, source + column) + value)


@njit
def one_pixel(memory, source, pitch, y, x, height, width, weights, taps, bias, channels, target, target_pitch, leap, end):
    """A pixel at the border, or what four at once leave over."""
    own = source + (y * width + x) * pitch
    wide = target + (y * width + x) * target_pitch
    for c in range(0, channels, LANES):
        value = load(weights, bias + c) if bias >= 0 else splat(single(0.0))
        for line in range(max(0, y - 1), min(height, y + 2)):
            for pixel in range(max(0, x - 1), min(width, x + 2)):
                tap = taps + ((line - y + 1) * 3 + pixel - x + 1) * padded(channels) + c
                value = fma(load(memory, source + (line * width + pixel) * pitch + c), load(weights, tap), value)
        finish_pixel(memory, value, own, wide, leap, c, end)


@njit
def four_pixels(memory, source, pitch, y, x, height, width, weights, taps, bias, channels, target, target_pitch, leap, end):
    """Pixels x to x + 3, none of them at the left or the right border."""
    own, place, wide = source + (y * width + x) * pitch, target + (y * width + x) * target_pitch, padded(channels)
    for c in range(0, channels, LANES):
        first = load(weights, bias + c) if bias >= 0 else splat(single(0.0))
        second, third, fourth = first, first, first
        for line in range(max(0, y - 1), min(height, y + 2)):
            at = source + (line * width + x - 1) * pitch + c
            tap = taps + (line - y + 1) * 3 * wide + c
            left, middle, right = load(weights, tap), load(weights, tap + wide), load(weights, tap + 2 * wide)
            a, b, d = load(memory, at), load(memory, at + pitch), load(memory, at + 2 * pitch)
            e, f, g = load(memory, at + 3 * pitch), load(memory, at + 4 * pitch), load(memory, at + 5 * pitch)
            first = fma(d, right, fma(b, middle, fma(a, left, first)))
            second = fma(e, right, fma(d, middle, fma(b, left, second)))
            third = fma(f, right, fma(e, middle, fma(d, left, third)))
            fourth = fma(g, right, fma(f, middle, fma(e, left, fourth)))
        finish_pixel(memory, first, own, place, leap, c, end)
        finish_pixel(memory, second, own + pitch, place + target_pitch, leap, c, end)
        finish_pixel(memory, third, own + 2 * pitch, place + 2 * target_pitch, leap, c, end)
        finish_pixel(memory, fourth, own + 3 * pitch, place + 3 * target_pitch, leap, c, end)


@njit
def one_line(memory, source, pitch, y, first, last, height, width, weights, taps, bias, channels, target, target_pitch, leap, end):
    """The pixels first to last of a line."""
    x = first
    while x < last:
        if x > 0 and x + BLOCK < width and x + BLOCK <= last:
            four_pixels(memory, source, pitch, y, x, height, width, weights, taps, bias, channels, target, target_pitch, leap, end)
            x += BLOCK
        else:
            one_pixel(memory, source, pitch, y, x, height, width, weights, taps, bias, channels, target, target_pitch, leap, end)
            x += 1
