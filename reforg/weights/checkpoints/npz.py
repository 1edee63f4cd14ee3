"""Arrays of numpy.savez: Google's checkpoints of ViT. NumPy's .npy format, version 1.0 to 3.0, without objects."""

import re
import struct
from typing import Any

import numpy as np

from reforg.errors import WeightsError
from reforg.weights.checkpoints import limits, zips
from reforg.weights.checkpoints.dtypes import dtype_of
from reforg.weights.checkpoints.entry import Entry, Values
from reforg.weights.checkpoints.limits import check_sides, require

SUFFIX = ".npy"
HEADER = re.compile(
    rb"\{\s*'descr':\s*'(?P<dtype>[<>|=]?[a-zA-Z]\d{1,3})',\s*'fortran_order':\s*(?P<fortran>True|False),"
    rb"\s*'shape':\s*\((?P<shape>(?:\d{1,20}L?(?:, ?\d{1,20}L?){0,63},?)?)\),?\s*\}\s*"
)
KINDS = "biufc"
LONGEST = 10_000  # bytes of a header


def is_npz(records: dict[str, zips.Record]) -> bool:
    """Whether an archive is one of NumPy's."""
    return bool(records) and all(name.endswith(SUFFIX) for name in records)


def read_npz(buffer: Any, records: dict[str, zips.Record], thorough: bool) -> dict[str, Entry]:
    """Name -> array. bfloat16, which NumPy writes as two bytes of no type, is read as such."""
    total = sum(record.size for record in records.values())
    most = limits.grown(len(buffer), limits.SHARING)
    require(total <= most, f"its arrays would take more than {most:,} bytes, the file has {len(buffer):,}")
    return {name.removesuffix(SUFFIX): _entry(buffer, record, thorough) for name, record in records.items()}


def _entry(buffer: Any, record: zips.Record, thorough: bool) -> Entry:
    inflated = zips.contents(buffer, record) if record.deflated else None
    start = record.start if inflated is None else 0
    source = buffer if inflated is None else bytearray(inflated)
    dtype, fortran, shape, length = _header(bytes(source[start : start + LONGEST + 12][: record.size]), record.name)
    count = 1
    for side in shape:
        count *= side
    require(length + count * dtype.itemsize == record.size, f"its array {record.name!r} has not the bytes that {shape} need")

    def view() -> Values:
        if inflated is None:
            zips.check_stored(buffer, record, thorough)
        return np.ndarray(shape, dtype, source, start + length, order="F" if fortran else "C")

    return Entry(shape, dtype.newbyteorder("="), view)


def _header(raw: bytes, name: str) -> tuple[np.dtype[Any], bool, tuple[int, ...], int]:
    """Dtype, whether in Fortran's order, shape, and the bytes before the data."""
    wide = raw[6:7] in (b"\2", b"\3")
    require(raw[:6] == b"\x93NUMPY" and raw[6:8] in (b"\1\0", b"\2\0", b"\3\0") and len(raw) >= 12, f"{name!r} is no array")
    start = 12 if wide else 10
    length = struct.unpack("<I" if wide else "<H", raw[8:start])[0]
    found = HEADER.fullmatch(raw[start : start + length]) if length <= LONGEST else None
    if found is None or start + length > len(raw):
        raise WeightsError(f"its array {name!r} is no plain array of numbers")
    dtype = _dtype(found["dtype"].decode(), name)
    shape = tuple(int(side.rstrip(b"L ")) for side in found["shape"].split(b",") if side.strip())
    check_sides(shape, f"its array {name!r}")
    return dtype, found["fortran"] == b"True", shape, start + length


def _dtype(code: str, name: str) -> np.dtype[Any]:
    bfloat16 = dtype_of("bfloat16") if code[1:] == "V2" else None
    if bfloat16 is not None:
        return bfloat16
    try:
        dtype = np.dtype(code)
    except TypeError:
        dtype = np.dtype(object)
    require(dtype.kind in KINDS, f"its array {name!r} is of {code}, no numbers")
    return dtype
