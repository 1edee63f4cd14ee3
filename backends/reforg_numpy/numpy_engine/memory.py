"""What steps by NumPy's calls stand on: a program's memory, rooms for what arises within a step, and weights as they are read."""

from typing import Any

import numpy as np

from reforg.plans.matrices import Matrix, Packed
from reforg.plans.program import Program
from reforg_numpy.memory import Floats, aligned

SMALL = 1 << 16  # numbers of a matrix


class Products:
    """The matrices of products as [K, O], made when a step first asks for them, for all that compute with them in any thread.

    OpenBLAS brings panels of both matrices into an order of its own at every call, and finds them side by side then: with few
    rows to multiply, as one image's, that is a tenth of the time and more. Small matrices it multiplies as they are, and sums in
    more parts, so more exactly, with [O, K]: they stay.
    """

    def __init__(self) -> None:
        self._made: dict[tuple[int | str, str], tuple[Any, Floats]] = {}

    def matrix(self, packed: Packed) -> Floats:
        """Of [O, K], or of the windows of "planes" or "pixels"; a part of the rows is a view of the whole."""
        key = packed.name or id(packed.array), packed.kind
        if key not in self._made:  # no lock, which a fork could leave held: at worst two threads make it, and one's is kept
            self._made.setdefault(key, (packed.array, _transposed(packed)))  # the array too, so that its id stays its own
        whole = self._made[key][1]
        return whole if packed.part is None else whole[:, slice(*packed.part)]


def _transposed(packed: Packed) -> Floats:
    array = packed.array.transpose(0, 2, 3, 1) if packed.kind == "pixels" else packed.array
    matrix: Floats = array.reshape(len(array), -1).T
    return matrix if matrix.size < SMALL else np.ascontiguousarray(matrix)


class Memory:
    """A program's memory, the images that it is given, the matrices of its products, and rooms for what arises within a step."""

    def __init__(self, program: Program, shape: tuple[int, ...], products: Products) -> None:
        self.products = products
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
    """What is no product's matrix, as a step reads it: a row, rows, or [kh kw, C] of "taps"; None for none."""
    if packed is None:
        return None
    array = packed.array if packed.part is None else packed.array[slice(*packed.part)]
    return np.ascontiguousarray(array.reshape(len(array), -1).T) if packed.kind == "taps" else array


def in_place(rows: Floats, shape: tuple[int, ...]) -> Floats:
    """[B * H * W, C], whose rows may lie apart -> a view of it [B, H, W, C]."""
    pitch, step = rows.strides
    _, height, width, _ = shape
    return np.lib.stride_tricks.as_strided(rows, shape, (height * width * pitch, width * pitch, pitch, step), writeable=True)
