"""What steps by NumPy's calls stand on: a program's memory, rooms for what arises within a step, and weights as they are read."""

from typing import Any

import numpy as np

from reforg_numpy.matrices import Floats, Matrix, Packed, aligned
from reforg_numpy.program import Program


class Memory:
    """A program's memory, the images that it is given, and rooms for what arises within a step."""

    def __init__(self, program: Program, shape: tuple[int, ...]) -> None:
        self.images: Floats = np.zeros((program.images, *shape), np.float32)
        self._floats = aligned(program.size)
        self._rooms: dict[str, Floats] = {}
        self.count = program.images

    def view(self, matrix: Matrix) -> Floats:
        """[rows, columns], as it lies."""
        rows = self._floats[matrix.start : matrix.start + matrix.rows * matrix.pitch - (matrix.pitch - matrix.columns)]
        return np.lib.stride_tricks.as_strided(
            rows, (matrix.rows, matrix.columns), (matrix.pitch * rows.itemsize, rows.itemsize), writeable=True
        )

    def room(self, name: str, *shape: int) -> Floats:
        """Memory of some shape; of the same name, the same memory: so only within a step."""
        size = int(np.prod(shape))
        if name not in self._rooms or self._rooms[name].size < size:
            self._rooms[name] = aligned(size)
        return self._rooms[name][:size].reshape(shape)


def weight(packed: Packed | None) -> Any:
    """As a step reads it: [O, K], or a row; None for none."""
    if packed is None:
        return None
    array = packed.array if packed.part is None else packed.array[slice(*packed.part)]
    if packed.kind == "pixels":
        return np.ascontiguousarray(array.transpose(0, 2, 3, 1)).reshape(len(array), -1)
    if packed.kind == "taps":
        return np.ascontiguousarray(array.reshape(len(array), -1).T)
    return array.reshape(len(array), -1) if packed.kind == "planes" else array


def in_place(rows: Floats, shape: tuple[int, ...]) -> Floats:
    """[B * H * W, C], whose rows may lie apart -> a view of it [B, H, W, C]."""
    pitch, step = rows.strides
    _, height, width, _ = shape
    return np.lib.stride_tricks.as_strided(rows, shape, (height * width * pitch, width * pitch, pitch, step), writeable=True)
