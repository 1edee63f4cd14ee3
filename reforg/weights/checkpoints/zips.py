"""The records of a ZIP archive in memory; every figure of its directory is checked before one is used.

Written after PKWARE's APPNOTE.TXT 6.3.10, sections 4.3 and 4.5.3, for what torch and NumPy write: no comment, nothing
before or between the parts, no encryption, records stored or deflated.
"""

import re
import struct
import zlib
from typing import Any, NamedTuple

from reforg.errors import WeightsError
from reforg.weights.checkpoints import limits
from reforg.weights.checkpoints.limits import require

END = struct.Struct("<4s4H2LH")  # end of the central directory
END64 = struct.Struct("<4sQ2H2L4Q")
LOCATOR64 = struct.Struct("<4sLQL")
CENTRAL = struct.Struct("<4s6H3L5H2L")
LOCAL = struct.Struct("<4s5H3L2H")
DESCRIPTORS = struct.Struct("<3L"), struct.Struct("<L2Q")
FULL16, FULL32 = 0xFFFF, 0xFFFFFFFF  # "see the 64-bit field"
STORED, DEFLATED = 0, 8
MAPPED = 1 << 20  # bytes; to read a larger record for its checksum takes longer than to load the file
CONTROL = re.compile(r"[\x00-\x1f\x7f-\x9f]")
REFUSED_FLAGS = 0x2061  # encrypted, patched data, strong encryption, masked headers
LATER = 0x8  # the local header leaves checksum and sizes to a descriptor after the data


class Record(NamedTuple):
    """Where the bytes of one record lie, and how many there are of it in the file and inflated.

    described: whether a descriptor follows them.
    """

    name: str
    header: int
    start: int
    stored: int
    size: int
    deflated: bool
    crc: int
    described: bool


def records(buffer: Any) -> dict[str, Record]:
    """Name -> record of an archive; WeightsError where anything about it is not as it should be."""
    position, size, count = _directory(buffer)
    directory = position
    found: dict[str, Record] = {}
    stop = position + size
    for _ in range(count):
        record, position = _record(buffer, position, stop, directory)
        require(record.name not in found, f"its record {record.name!r} is there twice")
        found[record.name] = record
    require(position == stop, "its directory is longer than its records")
    _check_order(buffer, sorted(found.values(), key=lambda record: record.header), directory)
    inflated, most = sum(record.size for record in found.values()), limits.grown(len(buffer), limits.SHARING)
    require(inflated <= most, f"its records would take more than {most:,} bytes, the file has {len(buffer):,}")
    return found


def _check_order(buffer: Any, ordered: list[Record], directory: int) -> None:
    """WeightsError unless the records follow each other from the file's start to its directory, with nothing between."""
    position = 0
    for record in ordered:
        require(record.header >= position, f"its record {record.name!r} overlaps another")
        require(record.header == position, f"there is something before its record {record.name!r} that is no record")
        position = record.start + record.stored
        position += _descriptor(buffer, record, position) if record.described else 0
    require(position == directory, "there is something before its directory that is no record")


def _descriptor(buffer: Any, record: Record, position: int) -> int:
    """How long the data descriptor after a record is, which says again what the directory says. APPNOTE 4.3.9."""
    start = position + (4 if buffer[position : position + 4] == b"PK\x07\x08" else 0)
    figures = record.crc, record.stored, record.size
    for form in DESCRIPTORS[max(record.stored, record.size) > FULL32 :]:
        if buffer[start : start + form.size] == form.pack(*figures):
            return start + form.size - position
    raise WeightsError(f"what follows its record {record.name!r} contradicts the directory")


def contents(buffer: Any, record: Record) -> bytes:
    """A small record's bytes, inflated and with their checksum checked."""
    raw = buffer[record.start : record.start + record.stored]
    if record.deflated:
        machine = zlib.decompressobj(-zlib.MAX_WBITS)
        try:
            raw = machine.decompress(raw, record.size + 1)
        except zlib.error as error:
            require(False, f"its record {record.name!r} cannot be inflated: {error}")
        whole = machine.eof and not machine.unused_data and len(raw) == record.size
        require(whole, f"its record {record.name!r} is not as long as it says")
    check(raw, record)
    return bytes(raw)


def check(data: Any, record: Record) -> None:
    """WeightsError where a record's bytes are not those that were written; a checksum of 0 was never computed."""
    require(record.crc in (0, zlib.crc32(data)), f"its record {record.name!r} is damaged: its checksum differs")


def check_stored(buffer: Any, record: Record, thorough: bool) -> None:
    """The same for a record that is used where it lies; a large one, which is mapped and not read yet, only if thorough."""
    if thorough or record.stored <= MAPPED:
        with memoryview(buffer) as whole:
            check(whole[record.start : record.start + record.stored], record)


def _directory(buffer: Any) -> tuple[int, int, int]:
    """Where the central directory begins, its bytes, its records."""
    end = len(buffer) - END.size
    require(end >= 0, "it is no whole archive")
    mark, disk, first, here, count, size, start, comment = END.unpack(buffer[end:])
    require(mark == b"PK\5\6" and not comment, "its end is no archive's end: it is cut off, or something was added")
    require(not disk and not first and here == count, "it is one part of several")
    stop = end
    if end >= LOCATOR64.size and buffer[end - LOCATOR64.size : end][:4] == b"PK\6\7":
        stop, wide_count, wide_size, wide_start = _directory64(buffer, end - LOCATOR64.size)
        count = _wide(count, FULL16, wide_count)
        size = _wide(size, FULL32, wide_size)
        start = _wide(start, FULL32, wide_start)
    require(start + size == stop, "its directory is not where it says")
    require(count <= limits.RECORDS and size <= limits.HEADER, f"it has {count:,} records in a directory of {size:,} bytes")
    return start, size, count


def _directory64(buffer: Any, locator: int) -> tuple[int, int, int, int]:
    """Where the 64-bit end record begins, and the directory's records, bytes and start by it."""
    _, disk, position, disks = LOCATOR64.unpack(buffer[locator : locator + LOCATOR64.size])
    require(not disk and disks <= 1 and position + END64.size == locator, "its directory is not where it says")
    mark, length, _, _, disk, first, here, count, size, start = END64.unpack(buffer[position:locator])
    require(mark == b"PK\6\6" and length == END64.size - 12, "its directory is not where it says")
    require(not disk and not first and here == count, "it is one part of several")
    return position, count, size, start


def _wide(narrow: int, full: int, wide: int) -> int:
    """The 64-bit figure, which the narrow one must not contradict."""
    require(narrow in (full, wide), "its directory contradicts itself")
    return wide


def _record(buffer: Any, position: int, stop: int, directory: int) -> tuple[Record, int]:
    """The record whose entry in the directory is at `position`, and where the next entry is."""
    require(position + CENTRAL.size <= stop, "its directory ends in the middle")
    (mark, _, _, flags, method, _, _, crc, stored, size, name_length, extra_length, comment_length, disk, _, _, header) = (
        CENTRAL.unpack(buffer[position : position + CENTRAL.size])
    )
    after = position + CENTRAL.size + name_length + extra_length + comment_length
    require(mark == b"PK\1\2" and after <= stop and not disk, "its directory ends in the middle")
    raw = buffer[position + CENTRAL.size : position + CENTRAL.size + name_length]
    extra = buffer[position + CENTRAL.size + name_length : after - comment_length]
    size, stored, header = _extended(extra, (size, stored, header))
    name = _name(raw)
    require(not flags & REFUSED_FLAGS and method in (STORED, DEFLATED), f"its record {name!r} is packed in an unknown way")
    start, described = _start(buffer, header, directory, raw, flags, (method, crc, stored, size))
    require(start + stored <= directory, f"its record {name!r} is longer than the file")
    require(method == DEFLATED or stored == size, f"its record {name!r} is not as long as it says")
    require(
        size <= max(stored, limits.grown(stored, limits.INFLATION)),
        f"its record {name!r} would grow from {stored:,} to {size:,} bytes",
    )
    return Record(name, header, start, stored, size, method == DEFLATED, crc, described), after


def _extended(extra: bytes, figures: tuple[int, ...]) -> list[int]:
    """Figures of a header, by the 64-bit extra field where they are too large for their own. APPNOTE 4.5.3."""
    missing = [index for index, figure in enumerate(figures) if figure == FULL32]
    found = list(figures)
    position = 0
    while position + 4 <= len(extra):
        kind, length = struct.unpack_from("<2H", extra, position)
        require(length <= len(extra) - position - 4, "a record has an extra field that ends in the middle")
        if kind == 1 and missing:
            require(8 * len(missing) <= length, "a record has an extra field that ends in the middle")
            for index, value in zip(missing, struct.unpack_from(f"<{len(missing)}Q", extra, position + 4), strict=True):
                found[index] = value
            missing = []
        position += 4 + length
    require(position == len(extra), "a record has an extra field that ends in the middle")
    require(not missing, "a record lacks its size")
    return found


def _name(raw: bytes) -> str:
    """A record's name: relative, without a way up. It begins with the name of the file that torch.save was told."""
    try:
        name = raw.decode("utf-8")
    except UnicodeDecodeError:
        name = ""
    elsewhere = name.startswith("/") or "\\" in name or re.match(r"[A-Za-z]:(/|$)", name) or ".." in name.split("/")
    require(0 < len(name) <= 1000 and not elsewhere and not CONTROL.search(name), f"it has a record named {raw[:60]!r}")
    return name


def _start(
    buffer: Any, header: int, directory: int, raw: bytes, flags: int, central: tuple[int, int, int, int]
) -> tuple[int, bool]:
    """Where a record's data begins by its local header, which must agree with the directory; and whether a descriptor follows."""
    require(header + LOCAL.size <= directory, "a record begins beyond the file's end")
    mark, _, local_flags, method, _, _, crc, stored, size, name_length, extra_length = LOCAL.unpack(
        buffer[header : header + LOCAL.size]
    )
    named = header + LOCAL.size + name_length
    start: int = named + extra_length
    size, stored = _extended(buffer[named:start], (size, stored))
    described = bool(local_flags & LATER)
    figures = (crc, stored, size)
    same = mark == b"PK\3\4" and method == central[0] and (local_flags ^ flags) & ~LATER == 0
    same = same and buffer[header + LOCAL.size : named] == raw
    same = same and all(here == there or (described and not here) for here, there in zip(figures, central[1:], strict=True))
    require(same, f"the directory contradicts the record {raw[:60]!r}")
    return start, described
