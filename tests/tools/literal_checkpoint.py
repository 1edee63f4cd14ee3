"""What a checkpoint holds, by the standard library: zipfile and pickle's own interpreter in Python, element by element.

An independent and slow second opinion for the fuzz tests. Every class and function is an inert stand-in, so nothing
runs here either.
"""

import io
import itertools
import json
import pickle
import zipfile
from typing import Any

import numpy as np

TYPES = {
    "Double": "<f8", "Float": "<f4", "Half": "<f2", "BFloat16": "<u2", "Long": "<i8", "Int": "<i4", "Short": "<i2", "Char": "i1",
    "Byte": "u1", "Bool": "u1", "ComplexFloat": "<c8", "ComplexDouble": "<c16", "Untyped": "u1",
}  # fmt: skip
WIDE = {"uint16": "<u2", "uint32": "<u4", "uint64": "<u8", "float8_e4m3fn": "u1", "float8_e5m2": "u1"}


class Inert:
    """Anything that a pickle names, makes or changes."""

    path = ""

    def __init__(self, *_: Any) -> None:
        pass

    def __setstate__(self, state: Any) -> None:
        pass

    def __call__(self, *_: Any) -> "Inert":
        return Inert()

    def __setitem__(self, key: Any, value: Any) -> None:
        pass

    def append(self, value: Any) -> None:
        pass

    extend = add = append


class Tensor:
    """A tensor as its pickle describes it."""

    def __init__(self, storage: Any, offset: int, shape: Any, strides: Any, *rest: Any) -> None:
        self.key, self.kind, self.numel = storage
        self.offset, self.shape, self.strides = offset, tuple(shape), tuple(strides)
        wide = [WIDE[item.path] for item in rest if getattr(item, "path", "") in WIDE]
        self.dtype = np.dtype(wide[0] if wide else TYPES[self.kind])

    def bytes(self, data: bytes, swapped: bool) -> bytes:
        """The elements' bytes in order, little-endian."""
        width = self.dtype.itemsize
        found = bytearray()
        for index in itertools.product(*map(range, self.shape)):
            place = width * (self.offset + sum(i * step for i, step in zip(index, self.strides, strict=True)))
            element = data[place : place + width]
            found += np.frombuffer(element, self.dtype).byteswap().tobytes() if swapped else element
        return bytes(found)


class Reader(pickle._Unpickler):  # the interpreter in Python: its memo is a dictionary, which no index makes grow
    """Builds containers and tensors; everything else is inert."""

    def find_class(self, module: str, name: str) -> Any:
        path = f"{module}.{name}"
        if path in ("torch._utils._rebuild_tensor_v2", "torch._utils._rebuild_tensor_v3", "torch._utils._rebuild_tensor"):
            return Tensor
        if path.startswith("torch._utils._rebuild_parameter"):
            return lambda tensor, *_: tensor
        if path in ("collections.OrderedDict", "collections.defaultdict"):
            return lambda *arguments: Dictionary(arguments[0] if arguments and isinstance(arguments[0], list) else ())
        return type("Named", (Inert,), {"path": name})

    def persistent_load(self, pid: Any) -> Any:
        return pid[2], pid[1].path.removesuffix("Storage"), pid[4]


class Dictionary(dict):  # type: ignore[type-arg]
    """Takes torch's `_metadata`, as an OrderedDict does."""


def read(content: bytes) -> dict[str, tuple[tuple[int, ...], bytes]]:
    """Name -> shape and bytes of every tensor under "model" (or at the top); any exception where it cannot be read."""
    if content[:2] == b"PK":
        return _archive(content)
    if content[8:9] == b"{":
        return _safetensors(content)
    return _before_1_6(content)


def _archive(content: bytes) -> dict[str, tuple[tuple[int, ...], bytes]]:
    with zipfile.ZipFile(io.BytesIO(content)) as archive:
        records = {name: archive.read(name) for name in archive.namelist()}
    pickles = [name for name in records if name.endswith("data.pkl")]
    if not pickles:
        arrays = {name.removesuffix(".npy"): np.load(io.BytesIO(data), allow_pickle=False) for name, data in records.items()}
        native = {name: value.astype(value.dtype.newbyteorder("=")) for name, value in arrays.items()}
        return {name: (value.shape, value.tobytes()) for name, value in native.items()}
    prefix = pickles[0].removesuffix("data.pkl")
    swapped = records.get(f"{prefix}byteorder") == b"big"
    root = Reader(io.BytesIO(records[pickles[0]])).load()
    return {
        name: (tensor.shape, tensor.bytes(records[f"{prefix}data/{tensor.key}"], swapped)) for name, tensor in _model(root).items()
    }


def _before_1_6(content: bytes) -> dict[str, tuple[tuple[int, ...], bytes]]:
    file = io.BytesIO(content)
    *_, root, keys = [Reader(file).load() for _ in range(5)]
    model = _model(root)
    rest = content[file.tell() :]
    widths = _widths(content)
    places, position = {}, 0
    for key in keys:
        count = int.from_bytes(rest[position : position + 8], "little")
        places[key] = rest[position + 8 : position + 8 + count * widths[key]]
        position += 8 + count * widths[key]
    return {name: (tensor.shape, tensor.bytes(places[tensor.key], swapped=False)) for name, tensor in model.items()}


def _widths(content: bytes) -> dict[str, int]:
    """Key of each storage -> bytes of an element."""
    found: dict[str, int] = {}

    class Widths(Reader):
        def persistent_load(self, pid: Any) -> Any:
            found[pid[2]] = np.dtype(TYPES[pid[1].path.removesuffix("Storage")]).itemsize
            return super().persistent_load(pid)

    file = io.BytesIO(content)
    for _ in range(4):
        Widths(file).load()
    return found


def _safetensors(content: bytes) -> dict[str, tuple[tuple[int, ...], bytes]]:
    length = int.from_bytes(content[:8], "little")
    header = json.loads(content[8 : 8 + length])
    header.pop("__metadata__", None)
    data = content[8 + length :]
    return {name: (tuple(told["shape"]), data[slice(*told["data_offsets"])]) for name, told in header.items()}


def _model(root: Any) -> dict[str, Tensor]:
    model = root.get("model", root)
    return {name: value for name, value in model.items() if isinstance(value, Tensor)}
