"""Bringing a candidate's value into the reference's layout: channels last, heads apart, batch missing, tokens first."""

from collections.abc import Iterator
from itertools import permutations
from math import prod

import numpy as np
import numpy.typing as npt

Values = npt.NDArray[np.float64]
Shape = tuple[int, ...]
LAYOUTS = ("3BHND", "3BNHD", "B3HND", "B3NHD", "BH3ND", "BHN3D")  # of queries, keys and values; BN3HD is the joint layer's own


def fitted(got: Values, wanted: Values) -> tuple[Values, str]:
    """The value in the layout of `wanted`, and what was done to it; the value itself where no known layout has that shape.

    Where several layouts have it, the one nearest to the wanted values is taken.
    """
    if got.shape == wanted.shape:
        return got, ""
    # Shapes alone may fit two layouts (as many heads as tokens). The nearer one is the value's: a wrong layout is as far off as
    # noise.
    found = [(moved, note) for moved, note in _layouts(got, wanted.shape) if moved.shape == wanted.shape]
    if not found:
        return got, ""
    return min(found, key=lambda pair: _distance(pair[0], wanted))


def turned(got: Values, wanted: Values) -> Iterator[tuple[Values, str]]:
    """The value with axes of equal length exchanged, which no shape tells."""
    for axes in permutations(range(got.ndim)):
        if axes != tuple(range(got.ndim)) and tuple(got.shape[axis] for axis in axes) == wanted.shape:
            yield got.transpose(axes), f"axes {axes}"


def _distance(got: Values, wanted: Values) -> float:
    return float(np.sum(np.square(got - wanted)))


def _layouts(got: Values, wanted: Shape) -> Iterator[tuple[Values, str]]:
    """Everything of the wanted shape that the value may be."""
    if got.size != prod(wanted):
        return
    if got.ndim == len(wanted):
        yield from turned(got, np.empty(wanted))
    squeezed = got.reshape([side for side in got.shape if side != 1])
    if squeezed.shape == tuple(side for side in wanted if side != 1):
        without = "no batch axis" if got.ndim < len(wanted) else "axes of one"
        yield squeezed.reshape(wanted), without
    if len(wanted) == 3 and got.ndim > 3:
        yield from _tokens(got, *wanted)
    if len(wanted) == 4 and got.ndim == 3:
        yield from _maps(got, *wanted)


def _tokens(got: Values, batch: int, count: int, width: int) -> Iterator[tuple[Values, str]]:
    """What has four or five axes as tokens [B, N, C]."""
    wanted = (batch, count, width)
    by_tokens = got.shape[:2] == (batch, count)
    if got.ndim == 4 and got.shape[:2] == (batch, width):
        yield np.matrix_transpose(got.reshape(batch, width, count)), "maps (B, C, H, W)"
    if got.ndim == 4 and got.shape[0] == batch and got.shape[3] == width:
        yield got.reshape(wanted), "maps (B, H, W, C)"
    if got.ndim == 4 and got.shape[0] == batch and got.shape[2] == count:
        yield got.transpose(0, 2, 1, 3).reshape(wanted), "heads apart (B, H, N, D)"
    if by_tokens:
        yield got.reshape(wanted), "heads apart (B, N, H, D)" if got.ndim == 4 else "parts and heads apart (B, N, 3, H, D)"
    if got.ndim == 4 and got.shape[1:3] == (batch, count):
        yield got.transpose(1, 2, 0, 3).reshape(wanted), "parts apart (3, B, N, C)"
    for names in LAYOUTS if got.ndim == 5 else ():
        axes = [names.index(axis) for axis in "BN3HD"]
        if (got.shape[axes[0]], got.shape[axes[1]]) == (batch, count):
            yield got.transpose(axes).reshape(wanted), f"parts and heads apart ({', '.join(names)})"


def _maps(got: Values, batch: int, width: int, height: int, breadth: int) -> Iterator[tuple[Values, str]]:
    """What has three axes as maps [B, C, H, W]."""
    if got.shape == (batch, height * breadth, width):
        yield np.matrix_transpose(got).reshape(batch, width, height, breadth), "tokens (B, N, C)"
    if got.shape == (batch, width, height * breadth):
        yield got.reshape(batch, width, height, breadth), "maps (B, C, N)"
