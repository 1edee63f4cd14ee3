"""The honest checkpoint that everything varies, and the containers that it may lie in."""

import json
import struct
import zlib
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from hostile.pickles import ORDERED, Call, Global, Items, Storage, pickled

VALUES = np.arange(4, dtype=np.float32).reshape(2, 2)
DATA = {"0": VALUES.tobytes()}
EXPECTED = {"w": VALUES}
REBUILD = Global("torch._utils", "_rebuild_tensor_v2")


def tensor(numel: Any = 4, offset: Any = 0, size: Any = (2, 2), stride: Any = (2, 1), **storage: Any) -> Call:
    return Call(REBUILD, (Storage(numel, **storage), offset, size, stride, False, Call(ORDERED)))


def state(**tensors: Any) -> Items:
    return Items(Call(ORDERED), tensors or {"w": tensor()})


def beside(it: Any) -> dict[str, Any]:
    """A checkpoint of valid weights with one more thing in it."""
    return {"model": state(), "extra": it}


@dataclass(frozen=True)
class Entry:
    """A record of a zip archive; whatever is given replaces the truth in its headers."""

    name: str | bytes
    data: bytes = b""  # as it lies in the archive
    method: int = 0
    size: int | None = None
    packed: int | None = None
    crc: int | None = None
    flags: int = 0
    at: int | None = None  # where the directory says that the record lies
    extra: bytes = b""  # in the directory
    disk: int = 0
    local: dict[str, Any] = field(default_factory=dict)  # what the record's own header says otherwise

    @property
    def title(self) -> bytes:
        return self.name.encode() if isinstance(self.name, str) else self.name

    def fields(self, **other: Any) -> tuple[bytes, bytes]:
        """What both headers say, and the name."""
        told = {
            "name": self.title,
            "method": self.method,
            "flags": self.flags,
            "crc": zlib.crc32(self.data) if self.crc is None else self.crc,
            "packed": len(self.data) if self.packed is None else self.packed,
            "size": len(self.data) if self.size is None else self.size,
        } | other
        name = told["name"]
        numbers = (20, told["flags"], told["method"], 0, 33, told["crc"], told["packed"], told["size"], len(name))
        return struct.pack("<5H3IH", *numbers), name


def deflated(name: str | bytes, data: bytes, **other: Any) -> Entry:
    packer = zlib.compressobj(9, wbits=-15)
    packed = packer.compress(data) + packer.flush()
    return Entry(name, packed, **{"method": 8, "size": len(data), "crc": zlib.crc32(data)} | other)


def repeated(name: str, block: bytes, times: int, first: bytes = b"", **other: Any) -> Entry:
    """A deflated record of `first` and then a block, over and over: gigabytes in megabytes, made in no time.

    A full flush makes the packed blocks independent, so that one can be copied.
    """
    packer = zlib.compressobj(9, wbits=-15)
    start = packer.compress(first) + packer.flush(zlib.Z_FULL_FLUSH)
    packed = packer.compress(block) + packer.flush(zlib.Z_FULL_FLUSH)
    size = len(first) + len(block) * times
    return Entry(name, start + packed * times + packer.flush(), **{"method": 8, "size": size} | other)


MEGA = 1 << 20
ZEROS = bytes(MEGA)
BOMB = 1200  # MiB, more than a reader may ever hold


def end(count: int, size: int, at: int, comment: bytes = b"", **told: int) -> bytes:
    """A zip archive's last record."""
    disk = told.get("disk", 0)
    numbers = (
        disk,
        disk,
        min(count, 0xFFFF),
        min(count, 0xFFFF),
        size & 0xFFFFFFFF,
        at & 0xFFFFFFFF,
        told.get("length", len(comment)),
    )
    return b"PK\x05\x06" + struct.pack("<4H2IH", *numbers) + comment


def archive(entries: list[Entry], finish: Callable[[int, int, int], bytes] = end, first: bytes = b"") -> bytes:
    """A zip archive; records begin at multiples of 64 bytes, as torch writes them."""
    parts, directory, at = [first], [], len(first)
    for entry in entries:
        numbers, name = entry.fields(**entry.local)
        padding = -(at + 30 + len(name) + 4) % 64
        extra = b"FB" + struct.pack("<H", padding) + b"Z" * padding
        parts += [b"PK\x03\x04", numbers, struct.pack("<H", len(extra)), name, extra, entry.data]
        numbers, name = entry.fields()
        rest = struct.pack("<4HI", len(entry.extra), 0, entry.disk, 0, 0)
        place = struct.pack("<I", at if entry.at is None else entry.at)
        directory += [b"PK\x01\x02\x14\x00", numbers, rest, place, name, entry.extra]
        at += sum(map(len, parts[-6:]))
    listing = b"".join(directory)
    return b"".join(parts) + listing + finish(len(entries), len(listing), at)


def records(body: bytes, data: dict[str, bytes] = DATA, prefix: str = "archive") -> list[Entry]:
    storages = [Entry(f"{prefix}/data/{key}", raw) for key, raw in data.items()]
    return [
        Entry(f"{prefix}/data.pkl", body),
        Entry(f"{prefix}/byteorder", b"little"),
        *storages,
        Entry(f"{prefix}/version", b"3\n"),
    ]


def in_zip(body: bytes, data: dict[str, bytes] = DATA, more: tuple[Entry, ...] = (), prefix: str = "archive") -> bytes:
    return archive([*records(body, data, prefix), *more])


def zipped(it: Any, protocol: int = 2, **other: Any) -> bytes:
    return in_zip(pickled(it, protocol), **other)


MAGIC = 0x1950A86A20F9469CFC6C
SYSTEM = {"protocol_version": 1001, "little_endian": True, "type_sizes": {"short": 2, "int": 4, "long": 4}}


def in_legacy(body: bytes, data: dict[str, bytes] = DATA, protocol: int = 2, **told: Any) -> bytes:
    """A file of torch before 1.6; what is `told` replaces one of its pickles' objects, or the storages' bytes."""
    head = [told.get("magic", MAGIC), told.get("version", 1001), told.get("system", SYSTEM)]
    storages = b"".join(struct.pack("<q", len(raw) // 4) + raw for raw in data.values())
    keys = pickled(told.get("keys", list(data)), protocol)
    return b"".join(pickled(it, protocol) for it in head) + body + keys + told.get("storages", storages)


def legacy(it: Any, protocol: int = 2, **other: Any) -> bytes:
    return in_legacy(pickled(it, protocol, legacy=True), protocol=protocol, **other)


def safetensors(header: Any, data: bytes = DATA["0"], length: int | None = None) -> bytes:
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    return struct.pack("<Q", len(text) if length is None else length) + text + data


def described(**told: Any) -> dict[str, Any]:
    """One safetensors header entry."""
    return {"dtype": "F32", "shape": [2, 2], "data_offsets": [0, 16]} | told


def npy(header: Any = None, data: bytes = DATA["0"], version: bytes = b"\x01\x00", length: int | None = None) -> bytes:
    text = (
        header if isinstance(header, bytes) else repr(header or {"descr": "<f4", "fortran_order": False, "shape": (2, 2)}).encode()
    )
    text += b" " * (-(len(text) + 11) % 64) + b"\n"
    if version == b"\x01\x00" and len(text) >= 2**16:
        version = b"\x02\x00"
    width = "<H" if version == b"\x01\x00" else "<I"
    return b"\x93NUMPY" + version + struct.pack(width, len(text) if length is None else length) + text + data


def npz(*entries: Entry) -> bytes:
    return archive(list(entries))
