"""torch's tensors as its pickles describe them: a storage, an offset, sizes and strides, all checked against the storage."""

import math
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import ml_dtypes
import numpy as np

from reforg.checkpoints import limits
from reforg.checkpoints.entry import Entry, Values
from reforg.checkpoints.limits import require
from reforg.checkpoints.machine import Calls
from reforg.checkpoints.stubs import Global, Stub
from reforg.errors import WeightsError

DTYPES: dict[str, np.dtype[Any]] = {
    name: np.dtype(kind)
    for name, kind in {
        "float64": np.float64, "float32": np.float32, "float16": np.float16, "bfloat16": ml_dtypes.bfloat16,
        "int64": np.int64, "int32": np.int32, "int16": np.int16, "int8": np.int8, "bool": np.bool_,
        "uint64": np.uint64, "uint32": np.uint32, "uint16": np.uint16, "uint8": np.uint8,
        "complex128": np.complex128, "complex64": np.complex64,
        "float8_e4m3fn": ml_dtypes.float8_e4m3fn, "float8_e5m2": ml_dtypes.float8_e5m2,
        "float8_e4m3fnuz": ml_dtypes.float8_e4m3fnuz, "float8_e5m2fnuz": ml_dtypes.float8_e5m2fnuz,
    }.items()
}  # fmt: skip
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


@dataclass
class Tensors:
    """What torch's pickles call, with the storages of one file. `opened` finds a storage's bytes when they are wanted.

    swapped: whether the file is of the other byte order than little-endian machines'.
    """

    size: int
    opened: Opener
    swapped: bool = False
    storages: dict[str, Storage] = field(default_factory=dict)
    described: int = 0  # bytes of all tensors together

    @property
    def calls(self) -> Calls:
        """torch's functions by the names that its pickles know them by; the rest of them make stubs."""
        return {
            "torch._utils._rebuild_tensor": self.tensor,
            "torch._utils._rebuild_tensor_v2": self.tensor,
            "torch._utils._rebuild_tensor_v3": self.tensor_of_dtype,
            "torch._utils._rebuild_parameter": lambda tensor, *_: tensor,
            "torch._utils._rebuild_parameter_with_state": lambda tensor, *_: tensor,
            "torch._tensor._rebuild_from_type_v2": self.subclass,
            "torch.Size": lambda sizes: tuple(sizes),
        }

    def storage(self, key: str, kind: Any, numel: Any) -> Storage:
        """The storage `key` of so many elements; always the same for the same key."""
        require(type(numel) is int and 0 <= numel, f"its storage {key!r} has a size that is no number")
        name = kind.path if isinstance(kind, Global) else ""
        word = next((name.removeprefix(prefix) for prefix in reversed(STORAGE_PREFIXES) if name.startswith(prefix)), "")
        known = STORAGES.get(word.removesuffix("Storage"))
        require(
            known is not None and word.endswith("Storage"), f"its storage {key!r} is of a kind that is not read, {name or 'none'}"
        )
        storage = Storage(key, DTYPES[str(known)], numel)
        require(storage.nbytes <= self.size, f"its storage {key!r} of {storage.nbytes:,} bytes is larger than the file")
        require(self.storages.setdefault(key, storage) == storage, f"its storage {key!r} is described in two ways")
        return storage

    def tensor(self, storage: Any, offset: Any, shape: Any, strides: Any, *_: Any) -> Entry:
        """Elements of a storage, by their offset, sizes and strides, all counted in elements."""
        require(isinstance(storage, Storage), "it has a tensor without a storage")
        return self._entry(storage, storage.dtype, offset, shape, strides)

    def tensor_of_dtype(
        self, storage: Any, offset: Any, shape: Any, strides: Any, _grad: Any, _hooks: Any, dtype: Any, *_: Any
    ) -> Entry | Stub:
        """The same, of a dtype that storages do not have a class for."""
        require(isinstance(storage, Storage) and isinstance(dtype, Global), "it has a tensor without a storage")
        known = DTYPES.get(dtype.path.removeprefix("torch."))
        return Stub(f"{dtype} tensor") if known is None else self._entry(storage, known, offset, shape, strides)

    def subclass(self, function: Any, _kind: Any, arguments: Any, _state: Any) -> Any:
        """A tensor of a class of its own, or with attributes: the tensor."""
        require(isinstance(function, Global) and isinstance(arguments, tuple), "it has a tensor without a storage")
        call = self.calls.get(function.path)
        return Stub(function.path) if call is None else call(*arguments)

    def _entry(self, storage: Storage, dtype: np.dtype[Any], offset: Any, shape: Any, strides: Any) -> Entry:
        check_layout(offset, shape, strides, storage.nbytes // dtype.itemsize)
        count = math.prod(shape)
        self.described += count * dtype.itemsize
        most = limits.grown(self.size, limits.SHARING)
        require(self.described <= most, f"its tensors would take more than {most:,} bytes, the file has {self.size:,}")
        return Entry(tuple(shape), dtype, lambda: self._view(storage, dtype, offset, tuple(shape), tuple(strides)))

    def _view(
        self, storage: Storage, dtype: np.dtype[Any], offset: int, shape: tuple[int, ...], strides: tuple[int, ...]
    ) -> Values:
        order = ">" if self.swapped else "<"
        if not math.prod(shape):
            return np.zeros(shape, dtype)
        buffer, start = self.opened(storage.key)
        start += storage.first * storage.dtype.itemsize + offset * dtype.itemsize
        steps = tuple(stride * dtype.itemsize for stride in strides)
        if dtype == np.bool_:  # any byte but 0 is true; a NumPy array of truths holds 0 and 1 only
            return np.not_equal(np.ndarray(shape, np.uint8, buffer, start, steps), 0)
        return np.ndarray(shape, dtype.newbyteorder(order), buffer, start, steps)


def check_layout(offset: Any, shape: Any, strides: Any, numel: int) -> None:
    """WeightsError unless every element of the tensor lies in a storage of `numel` elements."""
    for figures in (shape, strides):
        require(
            isinstance(figures, tuple | list) and all(type(figure) is int and 0 <= figure for figure in figures),
            "it has a tensor whose sizes or strides are no numbers from 0 on",
        )
    require(type(offset) is int and 0 <= offset, "it has a tensor whose offset is no number from 0 on")
    require(len(shape) == len(strides), "it has a tensor with not as many strides as sizes")
    require(len(shape) <= limits.DIMENSIONS, f"it has a tensor of {len(shape)} dimensions")
    last = offset + sum((side - 1) * stride for side, stride in zip(shape, strides, strict=True)) if all(shape) else offset - 1
    require(last < numel, f"it has a tensor {_told(shape)} that reaches beyond its storage of {numel:,} elements")


def _told(shape: Any) -> str:
    return str(tuple(shape)) if len(shape) <= 8 and all(side < 1 << 63 for side in shape) else f"of {len(shape)} dimensions"


def identifier(value: Any) -> tuple[str, Any, Any, Any]:
    """Key, kind, number of elements and view of the storage that a persistent id of torch's stands for."""
    fits = isinstance(value, tuple) and len(value) in (5, 6) and value[0] == "storage"
    if not fits or not isinstance(value[2], str) or not value[2].isascii() or not value[2].isdigit():
        raise WeightsError("it refers to an object that is no storage of its own")
    return value[2], value[1], value[4], value[5] if len(value) == 6 else None
