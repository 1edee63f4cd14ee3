"""What a closer look at single elements tells of their errors. It is taken only where one is beyond its limit, so it is kept as a
function of the elements in question, and goes with an array through whatever happens to that.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from math import prod
from typing import Any

import numpy as np
import numpy.typing as npt

Indices = npt.NDArray[np.intp]
Shape = tuple[int, ...]


@dataclass(frozen=True)
class Shared:
    """Errors that several elements have in common, such as one score's, which reaches all channels of a head.

    at: [n], places in what was asked for. effects: [n, M], by how far a deviation of each of M errors moves the element.
    group: [n]; elements with the same number share the same M errors. correlated: whether these M may go together, in any way.
    """

    at: Indices
    effects: npt.NDArray[np.float64]
    group: Indices
    correlated: bool

    def together(self, effects: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
        """[n, M] effects -> [n], their variance: the sum of their squares, or the square of their sum if they all go together."""
        total: npt.NDArray[np.float64] = np.sum(np.abs(effects), axis=1)
        return np.square(total) if self.correlated else np.sum(np.square(effects), axis=1)


def _none(_: Indices) -> list[Shared]:
    return []


@dataclass(frozen=True)
class Closer:
    """Of elements by their flat indices: the variance beyond the estimate, and the errors that they share with others."""

    more: Callable[[Indices], npt.NDArray[np.float64]]
    shared: Callable[[Indices], list[Shared]] = _none

    def moved(self, move: Callable[[Any], Any], shape: Shape) -> "Closer":
        """Of the array after a change that only moves elements of the given shape."""

        def places(flat: Indices) -> Indices:
            found: Indices = np.ravel(move(_numbered(shape)))[flat]
            return found

        return Closer(lambda flat: self.more(places(flat)), lambda flat: self.shared(places(flat)))


def through(parts: Sequence[tuple[Closer, Shape, Any]], shape: Shape) -> Closer:
    """Of a function, element by element, of arrays with closer looks and shapes of their own, and its slope by each of them."""

    def places(own: Shape, slope: Any, flat: Indices) -> tuple[Indices, npt.NDArray[np.float64]]:
        steep = np.ravel(np.broadcast_to(np.asarray(slope, np.float64), shape))[flat]
        return np.ravel(np.broadcast_to(_numbered(own), shape))[flat], steep

    def more(flat: Indices) -> npt.NDArray[np.float64]:
        total = np.zeros(len(flat))
        for closer, own, slope in parts:
            inner, steep = places(own, slope, flat)
            total += closer.more(inner) * steep * steep
        return total

    def shared(flat: Indices) -> list[Shared]:
        found = []
        for closer, own, slope in parts:
            inner, steep = places(own, slope, flat)
            found += [replace(one, effects=one.effects * steep[one.at, None]) for one in closer.shared(inner)]
        return found

    return Closer(more, shared)


def joined(parts: Sequence[tuple[Closer | None, Shape]], axis: int) -> Closer:
    """Of arrays one behind the other along an axis, some of them with a closer look."""

    def split(flat: Indices) -> list[tuple[Closer, Indices, Indices]]:
        number = np.ravel(np.concatenate([np.full(shape, n) for n, (_, shape) in enumerate(parts)], axis=axis))[flat]
        inner = np.ravel(np.concatenate([_numbered(shape) for _, shape in parts], axis=axis))[flat]
        own = [(closer, np.flatnonzero(number == n)) for n, (closer, _) in enumerate(parts)]
        return [(closer, at, inner[at]) for closer, at in own if closer is not None and len(at)]

    def more(flat: Indices) -> npt.NDArray[np.float64]:
        total = np.zeros(len(flat))
        for closer, at, inner in split(flat):
            total[at] = closer.more(inner)
        return total

    def shared(flat: Indices) -> list[Shared]:
        return [replace(one, at=at[one.at]) for closer, at, inner in split(flat) for one in closer.shared(inner)]

    return Closer(more, shared)


def _numbered(shape: Shape) -> Indices:
    """The flat index of every element of an array."""
    return np.arange(prod(shape)).reshape(shape)
