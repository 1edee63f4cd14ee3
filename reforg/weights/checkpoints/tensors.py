"""torch's tensors as its pickles describe them: a storage, an offset, sizes and strides, all checked against the storage."""

import math
import sys
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from reforg.errors import WeightsError
from reforg.weights.checkpoints import limits
from reforg.weights.checkpoints.dtypes import dtype_of
from reforg.weights.checkpoints.entry import Bytes, Entry, Values
from reforg.weights.checkpoints.limits import check_sides, require
from reforg.weights.checkpoints.machine import Calls
from reforg.weights.checkpoints.stubs import Global, Stub

STORAGES = {
    "Double": "float64", "Float": "float32", "Half": "float16", "BFloat16": "bfloat16", "Long": "int64", "Int": "int32",
    "Short": "int16", "Char": "int8", "Byte": "uint8", "Bool": "bool", "ComplexDouble": "complex128",
    "ComplexFloat": "complex64", "Untyped": "uint8",
}  # fmt: skip
STORAGE_PREFIXES = ("torch.", "torch.cuda.", "torch.storage.", "torch.storage._")


@dataclass(frozen=True)
class Storage:
    """`numel` elements of `dtype`, the first of them element `first` of the record `key`."""

    key: str
    dtype: np.dtype[Any]
    numel: int
    first: int = 0

    @property
    def nbytes(self) -> int:
        """Bytes of the elements."""
        return self.numel * self.dtype.itemsize


Opener = Callable[[str], tuple[Any, int]]  # key of a storage -> the bytes that hold it, and where they begin there
Copier = Callable[[int, Bytes], None]  # fills memory with a file's bytes from a position on


@dataclass
class Tensors:
    """What torch's pickles call, with the storages of one file. `opened` finds a storage's bytes when they are wanted.

    swapped: whether the file is of the other byte order than little-endian machines'. copied: a way to the file's bytes
    around its mapping, where they are not aligned and so will be copied.
    """

    size: int
    opened: Opener
    swapped: bool = False
    copied: Copier | None = None
    storages: dict[str, Storage] = field(default_factory=dict)
    described: int = 0  # bytes of all tensors together

    @property
    def calls(self) -> Calls:
        """Torch's functions by the names that its pickles know them by; the rest of them make stubs."""
        return {
            "torch._utils._rebuild_tensor": self.tensor,
            "torch._utils._rebuild_tensor_v2": self.tensor,
            "torch._utils._rebuild_tensor_v3": self.tensor_of_dtype,
            "torch._utils._rebuild_parameter": lambda tensor, *_: tensor,
            "torch._utils._rebuild_parameter_with_state": lambda tensor, *_: tensor,
            "torch._tensor._rebuild_from_type_v2": self.subclass,
            "torch.Size": _size,
        }

    def storage(self, key: str, kind: Any, numel: Any) -> Storage:
        """The storage `key` of so many elements; always the same for the same key."""
        require(type(numel) is int and numel >= 0, f"its storage {key!r} has a size that is no number")
        name = kind.path if isinstance(kind, Global) else ""
        word = next((name.removeprefix(prefix) for prefix in reversed(STORAGE_PREFIXES) if name.startswith(prefix)), "")
        known = STORAGES.get(word.removesuffix("Storage"))
        dtype = dtype_of(known) if known and word.endswith("Storage") else None
        if dtype is None:
            raise WeightsError(f"its storage {key!r} is of a kind that is not read, {name or 'none'}")
        storage = Storage(key, dtype, numel)
        require(storage.nbytes <= self.size, f"its storage {key!r} of {storage.nbytes:,} bytes is larger than the file")
        require(self.storages.setdefault(key, storage) == storage, f"its storage {key!r} is described in two ways")
        return storage

    def tensor(
        self, storage: Any, offset: Any, shape: Any, strides: Any, _grad: Any = None, _hooks: Any = None, metadata: Any = None
    ) -> Entry:
        """Elements of a storage, by their offset, sizes and strides, all counted in elements."""
        require(isinstance(storage, Storage), "it has a tensor without a storage")
        require(isinstance(metadata, dict | None), "it has a tensor whose metadata are no mapping")
        return self._entry(storage, storage.dtype, offset, shape, strides)

    def tensor_of_dtype(
        self, storage: Any, offset: Any, shape: Any, strides: Any, _grad: Any, _hooks: Any, dtype: Any, metadata: Any = None
    ) -> Entry | Stub:
        """The same, of a dtype that storages do not have a class for."""
        require(isinstance(storage, Storage) and isinstance(dtype, Global), "it has a tensor without a storage")
        require(isinstance(metadata, dict | None), "it has a tensor whose metadata are no mapping")
        known = dtype_of(dtype.path.removeprefix("torch."))
        return Stub(f"tensor of {dtype}") if known is None else self._entry(storage, known, offset, shape, strides)

    def subclass(self, function: Any, _kind: Any, arguments: Any, _state: Any) -> Any:
        """A tensor of a class of its own, or with attributes: the tensor."""
        require(isinstance(function, Global) and isinstance(arguments, tuple), "it has a tensor without a storage")
        call = self.calls.get(function.path) if function.path.startswith("torch._utils._rebuild_") else None
        return Stub(function.path) if call is None else call(*arguments)

    def _entry(self, storage: Storage, dtype: np.dtype[Any], offset: Any, shape: Any, strides: Any) -> Entry:
        check_layout(offset, shape, strides, storage.nbytes // dtype.itemsize)
        count = math.prod(shape)
        self.described += count * dtype.itemsize
        most = limits.grown(self.size, limits.SHARING)
        require(self.described <= most, f"its tensors would take more than {most:,} bytes, the file has {self.size:,}")
        start = storage.first * storage.dtype.itemsize + offset * dtype.itemsize
        shape, strides, copied = tuple(shape), tuple(strides), self.copied
        copy = None
        if copied is not None and dtype != np.bool_ and sys.byteorder == "little" and _in_order(shape, strides):
            copy = lambda target: copied(self.opened(storage.key)[1] + start, target)  # noqa: E731
        return Entry(shape, dtype, lambda: self._view(storage.key, dtype, start, shape, strides), copy)

    def _view(self, key: str, dtype: np.dtype[Any], start: int, shape: tuple[int, ...], strides: tuple[int, ...]) -> Values:
        if not math.prod(shape):
            return np.zeros(shape, dtype)
        buffer, begin = self.opened(key)
        steps = tuple(stride * dtype.itemsize for stride in strides)
        if dtype == np.bool_:  # any byte but 0 is true; a NumPy array of truths holds 0 and 1 only
            return np.asarray(np.not_equal(np.ndarray(shape, np.uint8, buffer, begin + start, steps), 0))
        view: Values = np.ndarray(shape, dtype.newbyteorder(">" if self.swapped else "<"), buffer, begin + start, steps)
        return view


def _size(sides: Any = ()) -> tuple[Any, ...]:
    """torch.Size."""
    require(isinstance(sides, tuple | list), "it has a size that is no list")
    return tuple(sides)


def _in_order(shape: tuple[int, ...], strides: tuple[int, ...]) -> bool:
    """Whether the elements lie in C order without gaps."""
    step = 1
    for side, stride in zip(reversed(shape), reversed(strides), strict=True):
        if side != 1 and stride != step:
            return False
        step *= side
    return True


def check_layout(offset: Any, shape: Any, strides: Any, numel: int) -> None:
    """WeightsError unless every element of the tensor lies in a storage of `numel` elements."""
    for figures in (shape, strides):
        require(
            isinstance(figures, tuple | list) and all(type(figure) is int and figure >= 0 for figure in figures),
            "it has a tensor whose sizes or strides are no numbers from 0 on",
        )
    require(type(offset) is int and offset >= 0, "it has a tensor whose offset is no number from 0 on")
    require(len(shape) == len(strides), "it has a tensor with not as many strides as sizes")
    check_sides(shape, "a tensor")
    require(all(stride < 1 << 48 for stride in strides), "a tensor has impossible strides")
    last = offset + sum((side - 1) * stride for side, stride in zip(shape, strides, strict=True)) if all(shape) else offset - 1
    require(last < numel, f"it has a tensor {_shape_in_words(shape)} that reaches beyond its storage of {numel:,} elements")


def _shape_in_words(shape: Any) -> str:
    return str(tuple(shape)) if len(shape) <= 8 and all(side < 1 << 63 for side in shape) else f"of {len(shape)} dimensions"


def is_key(key: Any) -> bool:
    """Whether a value can be the key of a storage: a number in digits."""
    return isinstance(key, str) and len(key) <= limits.KEY and key.isascii() and key.isdigit()


def identifier(value: Any) -> tuple[str, Any, Any, Any]:
    """Key, kind, number of elements and view of the storage that a persistent id of torch's stands for."""
    fits = isinstance(value, tuple) and len(value) in (5, 6) and value[0] == "storage"
    if not fits or not is_key(value[2]):
        raise WeightsError("it refers to an object that is no storage of its own")
    return value[2], value[1], value[4], value[5] if len(value) == 6 else None
