"""Resampling of images and of position embeddings, tap for tap as torch's interpolate(align_corners=False)."""

import math
from collections.abc import Callable
from functools import lru_cache

from reforg.arrays import Array, constant, index_array, namespace, narrow, widen

Taps = tuple[tuple[tuple[int, ...], tuple[float, ...]], ...]
"""For each tap: the source index and the weight of it at every output position."""


def resize(x: Array, size: tuple[int, int], method: str = "bicubic", antialias: bool = False) -> Array:
    """[B, C, H, W] -> [B, C, *size]; `method` is "bicubic" or "bilinear".

    Bicubic is the kernel of Keys, "Cubic convolution interpolation for digital image processing", 1981, a = -0.75
    without antialiasing and -0.5 with it; pixel centres lie at half integers. Without antialiasing the border is
    repeated; with it the kernel widens by the shrinking factor, is cut at the border, and its weights are divided by
    their sum. Columns are resampled first, then rows.
    """
    wide = _resample(widen(x), size[1], method, antialias, axis=3)
    return narrow(_resample(wide, size[0], method, antialias, axis=2), x)


def _resample(x: Array, size: int, method: str, antialias: bool, axis: int) -> Array:
    """[B, C, H, W] -> the same with `size` along `axis`: a sum over the kernel's taps."""
    xp = namespace(x)
    if x.shape[axis] == size:
        return x
    shape = tuple(size if a == axis else 1 for a in range(4))
    total = None
    for indices, weights in taps(x.shape[axis], size, method, antialias):
        part = xp.take(x, index_array(indices, like=x), axis=axis)
        part = part * xp.reshape(constant(weights, like=x), shape)
        total = part if total is None else total + part
    return total


@lru_cache(maxsize=256)
def taps(source: int, target: int, method: str, antialias: bool) -> Taps:
    """Source indices and weights by which `target` positions are computed from `source` ones."""
    one = _antialiased if antialias else _plain
    positions = [one(source, target, index, method) for index in range(target)]
    most = max(len(indices) for indices, _ in positions)
    rows = [  # padded with weight zero to the widest position
        ([*indices, *[indices[-1]] * (most - len(indices))], [*weights, *[0.0] * (most - len(weights))])
        for indices, weights in positions
    ]
    return tuple((tuple(row[0][k] for row in rows), tuple(row[1][k] for row in rows)) for k in range(most))


def _plain(source: int, target: int, index: int, method: str) -> tuple[list[int], list[float]]:
    centre = (index + 0.5) * (source / target) - 0.5
    if method == "bilinear":
        centre = max(centre, 0.0)
    first = math.floor(centre)
    reach = range(-1, 3) if method == "bicubic" else range(2)
    kernel = _kernel(method, -0.75)
    weights = [kernel(first + step - centre) for step in reach]
    return [min(max(first + step, 0), source - 1) for step in reach], weights


def _antialiased(source: int, target: int, index: int, method: str) -> tuple[list[int], list[float]]:
    scale = source / target
    stretch = max(scale, 1.0)
    support = (2.0 if method == "bicubic" else 1.0) * stretch
    centre = (index + 0.5) * scale
    low, high = max(int(centre - support + 0.5), 0), min(int(centre + support + 0.5), source)
    kernel = _kernel(method, -0.5)
    weights = [kernel((position - centre + 0.5) / stretch) for position in range(low, high)]
    total = sum(weights)
    return list(range(low, high)), [weight / total for weight in weights]


def _kernel(method: str, a: float) -> Callable[[float], float]:
    return (lambda x: _cubic(abs(x), a)) if method == "bicubic" else (lambda x: max(0.0, 1.0 - abs(x)))


def _cubic(x: float, a: float) -> float:
    """Keys' cubic convolution kernel at distance x >= 0."""
    if x < 1.0:
        return ((a + 2.0) * x - (a + 3.0)) * x * x + 1.0
    return (((x - 5.0) * x + 8.0) * x - 4.0) * a if x < 2.0 else 0.0
