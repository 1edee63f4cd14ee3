"""Arrays that have a shape and no values, with as much of the Array API standard as model files call outside of operations.

Shapes are computed as plain tuples. Whatever makes an array is a step of the ledger; what only looks at one is not.
"""

from collections.abc import Iterable, Sequence
from math import prod
from types import EllipsisType
from typing import Any

from reforg.arrays import OwnArray
from reforg.costs.ledger import Ledger, Shape
from reforg.errors import ShapeError

Index = int | slice | EllipsisType | None


class Shaped(OwnArray):
    """An array of the forward pass: its shape, and the number of the memory that it lies in; None for a weight's.

    The dtype is always the same: in which one the pass computes is told by the bytes of a value alone, and what an operation
    widens inside itself does not count.
    """

    __slots__ = ("ledger", "memory", "shape")
    dtype = "float64"

    def __init__(self, ledger: Ledger, shape: Shape, memory: int | None) -> None:
        self.ledger, self.shape, self.memory = ledger, shape, memory

    def __array_namespace__(self, api_version: str | None = None) -> type["Standard"]:
        return Standard

    @property
    def ndim(self) -> int:
        """How many axes there are."""
        return len(self.shape)

    def seen(self, shape: Shape) -> "Shaped":
        """The same memory in another shape: reshaped, transposed, sliced, broadcast or split."""
        return Shaped(self.ledger, shape, self.memory)

    def __getitem__(self, key: Index | tuple[Index, ...]) -> "Shaped":
        return self.seen(_indexed(self.shape, key if isinstance(key, tuple) else (key,)))

    def _with(self, other: Any) -> "Shaped":
        return elementwise(self, other)

    __add__ = __radd__ = __sub__ = __rsub__ = __mul__ = __rmul__ = __truediv__ = __rtruediv__ = __pow__ = _with

    def __neg__(self) -> "Shaped":
        return elementwise(self)


def memory_of(arrays: Iterable[Shaped]) -> tuple[int, ...]:
    """The numbers of the memory that arrays lie in; that of weights never counts."""
    return tuple([array.memory for array in arrays if array.memory is not None])


def made(shape: Shape, *reads: Shaped, item_bytes: int | None = None) -> Shaped:
    """What a step makes of the arrays that it reads."""
    ledger = reads[0].ledger
    (memory,) = ledger.step((shape,), memory_of(reads), item_bytes)
    return Shaped(ledger, shape, memory)


def elementwise(*values: Any) -> Shaped:
    """[...] of shapes that go together -> [...]: a sum, product or quotient, or any other function of the values one by one."""
    arrays = [value for value in values if isinstance(value, Shaped)]
    return made(_broadcast(arrays), *arrays)


def reduced(x: Shaped, /, *, axis: int | tuple[int, ...] | None = None, keepdims: bool = False) -> Shaped:
    """[...] -> [...] without `axis`, or with it of length 1: a mean, a sum or an extreme."""
    axes = range(x.ndim) if axis is None else axis if isinstance(axis, tuple) else (axis,)
    gone = {one % x.ndim for one in axes}
    return made(tuple(1 if place in gone else side for place, side in enumerate(x.shape) if keepdims or place not in gone), x)


class Standard:
    """The namespace of shaped arrays. A function that is not here is one that no forward pass has called so far."""

    float32, float64 = "float32", "float64"
    mean = sum = max = min = staticmethod(reduced)
    abs = exp = log = sqrt = tanh = clip = maximum = minimum = where = staticmethod(elementwise)

    @staticmethod
    def astype(x: Shaped, dtype: Any, /, *, copy: bool = True) -> Shaped:  # noqa: ARG004  there is but one dtype
        """The array itself: there is but one dtype."""
        return x

    @staticmethod
    def broadcast_to(x: Shaped, shape: Shape) -> Shaped:
        """[...] -> [*shape], the same memory read again and again."""
        return x.seen(tuple(shape))

    @staticmethod
    def permute_dims(x: Shaped, axes: tuple[int, ...]) -> Shaped:
        """[...] -> the same axes in another order."""
        return x.seen(tuple(x.shape[axis] for axis in axes))

    @staticmethod
    def matrix_transpose(x: Shaped) -> Shaped:
        """[..., M, N] -> [..., N, M]."""
        *rest, rows, columns = x.shape
        return x.seen((*rest, columns, rows))

    @staticmethod
    def reshape(x: Shaped, shape: Shape) -> Shaped:
        """[...] -> [*shape], of as many values."""
        if prod(x.shape) != prod(shape):
            raise ShapeError(f"cost: an array of shape {x.shape} cannot be seen in shape {shape}")
        return x.seen(tuple(shape))

    @staticmethod
    def concat(arrays: Sequence[Shaped], /, *, axis: int = 0) -> Shaped:
        """Arrays that differ in one axis only -> one behind the other along it."""
        shape = list(arrays[0].shape)
        shape[axis] = sum(array.shape[axis] for array in arrays)
        return made(tuple(shape), *arrays)


def _indexed(shape: Shape, keys: tuple[Index, ...]) -> Shape:
    """The shape of an array [...] under a key of slices, whole numbers, None and an ellipsis."""
    named = sum(key is not None and key is not ... for key in keys)
    sides, found = iter(shape), []
    for key in keys:
        if key is None:
            found.append(1)
        elif key is ...:
            found += [next(sides) for _ in range(len(shape) - named)]
        elif isinstance(key, slice):
            found.append(len(range(*key.indices(next(sides)))))
        else:
            next(sides)
    return (*found, *sides)


def _broadcast(arrays: Sequence[Shaped]) -> Shape:
    """The shape of what is computed value by value from arrays whose axes are equal, 1 or missing in front."""
    shape = arrays[0].shape
    for array in arrays[1:]:
        if array.shape == shape:
            continue
        most = max(len(shape), array.ndim)
        pairs = [((1,) * (most - len(one)) + one) for one in (shape, array.shape)]
        if any(1 not in sides and len(set(sides)) > 1 for sides in zip(*pairs, strict=True)):
            raise ShapeError(f"cost: arrays of shapes {shape} and {array.shape} do not go together")
        shape = tuple(theirs if own == 1 else own for own, theirs in zip(*pairs, strict=True))
    return shape
