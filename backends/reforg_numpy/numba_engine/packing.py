"""Weights in the order in which the kernels read them."""

import math
from collections.abc import Hashable
from typing import Any

import numpy as np

from reforg.plans.matrices import LINE, Packed
from reforg_numpy.memory import Floats, FullError, aligned
from reforg_numpy.numba_engine.shapes import PANEL

CONSTANTS = 1 << 24  # floats for what is made of weights: positions of other image sizes


class Weights:
    """Weights, packed when a program first asks for them. more: floats of the largest of what is made of them, where known."""

    def __init__(self, weights: Any, more: int = 0) -> None:
        largest = sum(_room(array) for array in weights.values())
        self.array = aligned(2 * largest + CONSTANTS + 2 * more)  # twice, because a matrix may be packed in parts, too
        self._used = 0
        self._packed: dict[Hashable, tuple[int, Any]] = {}

    def place(self, packed: Packed | None) -> int:
        """Where it begins; -1 for none. Raises FullError."""
        if packed is None:
            return -1
        if packed.key not in self._packed:
            rows = packed.array if packed.part is None else packed.array[slice(*packed.part)]
            start: int = PACK[packed.kind](self, np.asarray(rows, np.float32))
            self._packed[packed.key] = start, packed.array  # kept, so that its id stays its own
        return self._packed[packed.key][0]

    def _take(self, *shape: int) -> tuple[int, Floats]:
        start, size = self._used, math.prod(shape)
        if start + size > len(self.array):
            raise FullError(size)
        self._used += -(-size // LINE) * LINE
        return start, self.array[start : start + size].reshape(shape)

    def row(self, array: Floats) -> int:
        """[O], filled up with zeros."""
        return self.rows(array[None, :])

    def rows(self, array: Floats) -> int:
        """[N, C], each row filled up with zeros."""
        count, columns = array.shape
        start, place = self._take(count, -(-columns // PANEL) * PANEL)
        place[:, :columns], place[:, columns:] = array, 0
        return start

    def product(self, array: Floats) -> int:
        """[O, K] -> panels of its transpose [O / PANEL, K, PANEL], filled up with zeros."""
        columns, inner = array.shape
        whole = columns // PANEL
        start, place = self._take(-(-columns // PANEL), inner, PANEL)
        place[:whole] = array[: whole * PANEL].reshape(whole, PANEL, inner).transpose(0, 2, 1)
        if whole < len(place):
            place[whole] = 0
            place[whole, :, : columns - whole * PANEL] = array[whole * PANEL :].T
        return start

    def planes(self, array: Floats) -> int:
        """[O, C, kh, kw] -> a product with windows whose columns are channels, lines, pixels."""
        return self.product(array.reshape(len(array), -1))

    def pixels(self, array: Floats) -> int:
        """[O, C, kh, kw] -> a product with windows whose columns are lines, pixels, channels."""
        return self.product(array.transpose(0, 2, 3, 1).reshape(len(array), -1))

    def taps(self, array: Floats) -> int:
        """[C, 1, 3, 3] -> a row of channels for each tap."""
        return self.rows(array.reshape(len(array), -1).T)


PACK = {
    "row": Weights.row, "rows": Weights.rows, "product": Weights.product, "planes": Weights.planes, "pixels": Weights.pixels,
    "taps": Weights.taps,
}  # fmt: skip


def _room(array: Any) -> int:
    rows = array.shape[0] if array.ndim else 1
    room: int = -(-rows // PANEL) * PANEL * max(1, array.size // max(rows, 1)) + LINE
    return room
