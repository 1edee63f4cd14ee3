"""safetensors: checked by the format's own library, behind limits of ours, and mapped.

Beyond what the library refuses: headers that no model needs, names that come twice, and tensors that do not begin at a
multiple of their dtype's size, which could not be used where they lie.
"""

import json
import os
import struct
from typing import Any

import numpy as np

from reforg.errors import WeightsError
from reforg.weights.checkpoints import limits
from reforg.weights.checkpoints.dtypes import dtype_of
from reforg.weights.checkpoints.entry import Entry, Values
from reforg.weights.checkpoints.limits import check_sides, require

NAMES = {
    "F64": "float64", "F32": "float32", "F16": "float16", "BF16": "bfloat16", "I64": "int64", "I32": "int32", "I16": "int16",
    "I8": "int8", "U64": "uint64", "U32": "uint32", "U16": "uint16", "U8": "uint8", "BOOL": "bool", "C64": "complex64",
    "F8_E4M3": "float8_e4m3fn", "F8_E5M2": "float8_e5m2", "F8_E4M3FNUZ": "float8_e4m3fnuz", "F8_E5M2FNUZ": "float8_e5m2fnuz",
}  # fmt: skip
METADATA = "__metadata__"


def read_safetensors(path: str | os.PathLike[str], buffer: Any) -> dict[str, Entry]:
    """Name -> array."""
    from safetensors import SafetensorError, safe_open

    length = struct.unpack("<Q", buffer[:8])[0] if len(buffer) >= 8 else 0
    require(length <= limits.HEADER, f"it is no safetensors file: its header would take {length:,} bytes")
    try:
        with safe_open(os.fsdecode(path), framework="np"):
            pass
    except (SafetensorError, ValueError, KeyError, TypeError) as error:
        raise WeightsError(f"it is no safetensors file: {error!s:.300}") from error
    header = json.loads(buffer[8 : 8 + length], object_pairs_hook=_once)
    header.pop(METADATA, None)
    require(len(header) <= limits.RECORDS, f"it has {len(header):,} tensors")
    return {name: _entry(name, told, buffer, 8 + length) for name, told in header.items()}


def _once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    require(len(found) == len(pairs), "its header names something twice")
    return found


def _entry(name: str, told: dict[str, Any], buffer: Any, start: int) -> Entry:
    dtype, shape = dtype_of(NAMES.get(told["dtype"], "")), tuple(told["shape"])
    if dtype is None:
        raise WeightsError(f"its tensor {name!r} is of a dtype that is not read, {told['dtype']}")
    check_sides(shape, f"its tensor {name!r}")
    begin = told["data_offsets"][0]
    require(begin % dtype.itemsize == 0, f"its tensor {name!r} begins at byte {begin}, no multiple of the size of {dtype}")

    def view() -> Values:
        if dtype == np.bool_:  # any byte but 0 is true
            return np.asarray(np.not_equal(np.ndarray(shape, np.uint8, buffer, start + begin), 0))
        array: Values = np.ndarray(shape, dtype.newbyteorder("<"), buffer, start + begin)
        return array

    return Entry(shape, dtype, view)
