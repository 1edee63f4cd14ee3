"""Checkpoints of torch.save: archives, and the format of before 1.6, which timm's releases still have."""

from typing import Any

from reforg.errors import WeightsError
from reforg.weights.checkpoints import limits, pickles, zips
from reforg.weights.checkpoints.limits import require
from reforg.weights.checkpoints.tensors import Copier, Storage, Tensors, identifier, is_key

MAGIC, PROTOCOL = 0x1950A86A20F9469CFC6C, 1001
PICKLE = "data.pkl"


def is_archive(records: dict[str, zips.Record]) -> bool:
    """Whether an archive is one of torch's."""
    return any(name.endswith(f"/{PICKLE}") or name == PICKLE for name in records)


def read_archive(buffer: Any, records: dict[str, zips.Record], thorough: bool) -> Any:
    """What torch.save wrote into an archive: NAME/data.pkl, and NAME/data/KEY for each storage."""
    pickled = [name for name in records if name.rpartition("/")[2] == PICKLE]
    require(len(pickled) == 1 and pickled[0].count("/") == 1, "it has not exactly one pickle NAME/data.pkl")
    prefix = pickled[0].removesuffix(PICKLE)
    if any(name.startswith(f"{prefix}code/") for name in records):
        raise WeightsError("it is a TorchScript program, not a checkpoint; save its state_dict() with torch.save")
    order = zips.contents(buffer, records[f"{prefix}byteorder"]) if f"{prefix}byteorder" in records else b"little"
    require(order in (b"little", b"big"), f"its byte order is {order[:20]!r}, neither little nor big")
    data = f"{prefix}data/"
    stored = {name.removeprefix(data): record for name, record in records.items() if name.startswith(data)}
    opened = _Storages(buffer, stored, thorough)
    tensors = Tensors(len(buffer), opened, swapped=order == b"big")

    def persistent(value: Any) -> Storage:
        key, kind, numel, view = identifier(value)
        require(view is None, f"its storage {key!r} has a view, as only the format of before 1.6 knows them")
        storage = tensors.storage(key, kind, numel)
        require(key in stored, f"it lacks the data of its storage {key!r}")
        size = stored[key].size
        require(size == storage.nbytes, f"its storage {key!r} has {size:,} bytes instead of {storage.nbytes:,}")
        return storage

    record = records[pickled[0]]
    require(record.size <= limits.PICKLE, f"its pickle has {record.size:,} bytes, more than any checkpoint's")
    source = zips.contents(buffer, record)
    root, end = pickles.load(source, calls=tensors.calls, persistent=persistent)
    require(end == len(source), f"its pickle goes on for {len(source) - end:,} bytes after its end")
    return root


class _Storages:
    """Finds the bytes of an archive's storages, checking each once."""

    def __init__(self, buffer: Any, records: dict[str, zips.Record], thorough: bool) -> None:
        self.buffer, self.records, self.thorough = buffer, records, thorough
        self.checked: dict[str, tuple[Any, int]] = {}

    def __call__(self, key: str) -> tuple[Any, int]:
        found = self.checked.get(key)
        if found is None:
            record = self.records[key]
            if record.deflated:
                found = bytearray(zips.contents(self.buffer, record)), 0
            else:
                zips.check_stored(self.buffer, record, self.thorough)
                found = self.buffer, record.start
            self.checked[key] = found
        return found


def is_before_1_6(buffer: Any) -> bool:
    """Whether a file begins as torch.save did before 1.6: with its magic number, pickled."""
    try:
        return bool(pickles.load(buffer, 0, min(len(buffer), 64))[0] == MAGIC)
    except WeightsError:
        return False


def read_before_1_6(buffer: Any, copied: Copier | None) -> Any:
    """What torch.save wrote before 1.6: five pickles, then of each storage its number of elements and its bytes.

    The bytes are little-endian whatever machine wrote them; the number was, on some, of the machine's own order.
    """
    position, end = 0, len(buffer)
    starts: dict[str, int] = {}
    tensors = Tensors(end, lambda key: (buffer, starts[key]), copied=copied)
    for wanted in (MAGIC, PROTOCOL):
        value, position = pickles.load(buffer, position)
        require(type(value) is int and value == wanted, "its format has another version than torch ever wrote")
    system, position = pickles.load(buffer, position)
    require(isinstance(system, dict), "it does not say what machine wrote it")
    root, position = pickles.load(buffer, position, calls=tensors.calls, persistent=lambda value: _storage(tensors, value))
    keys, position = pickles.load(buffer, position)
    require(isinstance(keys, list) and all(is_key(key) for key in keys), "its list of storages is none")
    same = len(keys) == len(tensors.storages) and set(keys) == set(tensors.storages)
    require(same, "its list of storages is not that of its tensors")
    for key in keys:
        storage = tensors.storages[key]
        count = bytes(buffer[position : position + 8])
        written = {storage.numel.to_bytes(8, "little"), *_swapped(storage, system)}
        require(count in written, f"its storage {key!r} is not of {storage.numel:,} elements")
        starts[key] = position + 8
        position += 8 + storage.nbytes
        require(position <= end, f"its storage {key!r} is cut off")
    require(position == end, f"it goes on for {end - position:,} bytes after its last storage")
    return root


def _swapped(storage: Storage, system: dict[Any, Any]) -> list[bytes]:
    return [storage.numel.to_bytes(8, "big")] if system.get("little_endian") is False else []


def _storage(tensors: Tensors, value: Any) -> Storage:
    key, kind, numel, view = identifier(value)
    whole = tensors.storage(key, kind, numel)
    if view is None:
        return whole
    require(isinstance(view, tuple) and len(view) == 3, f"its storage {key!r} has a view that is none")
    _, first, count = view
    fits = type(first) is int and type(count) is int and first >= 0 and count >= 0 and first + count <= whole.numel
    require(fits, f"its storage {key!r} has a view that reaches beyond it")
    return Storage(key, whole.dtype, count, first)
