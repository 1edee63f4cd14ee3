"""Zip archives that lie about their records, and records that unpack to gigabytes."""

import bz2
import struct
from functools import partial
from pathlib import Path
from typing import Any

from hostile.containers import (
    BOMB,
    DATA,
    MEGA,
    ZEROS,
    Entry,
    archive,
    deflated,
    end,
    in_zip,
    records,
    repeated,
    state,
    tensor,
    zipped,
)
from hostile.pickles import Call, Found, Global, New, pickled

HONEST = pickled(state())


def swapped(name: str, **told: Any) -> bytes:
    """An honest checkpoint with one record's headers changed."""

    def change(entry: Entry) -> Entry:
        return Entry(**{**vars(entry), **told}) if entry.name == f"archive/{name}" else entry

    return archive([change(entry) for entry in records(HONEST)])


def directory(**told: Any) -> bytes:
    """An honest checkpoint with a last record that says something else; a number told, or a function of the truth."""

    def finish(count: int, size: int, at: int) -> bytes:
        truth = {"count": count, "size": size, "at": at}
        return end(
            **{name: told[name](value) if callable(told.get(name)) else told.get(name, value) for name, value in truth.items()},
            **{name: value for name, value in told.items() if name not in truth},
        )

    return archive(records(HONEST), finish)


def big_directory(**told: int) -> bytes:
    """The same with zip64's records, which say 64 bits."""

    def finish(count: int, size: int, at: int) -> bytes:
        it = {"count": count, "size": size, "at": at, "place": at + size, "length": 44} | told
        numbers = (it["length"], 45, 45, 0, 0, it["count"], it["count"], it["size"], it["at"])
        record = b"PK\x06\x06" + struct.pack("<QHHIIQQQQ", *numbers)
        return record + b"PK\x06\x07" + struct.pack("<IQI", 0, it["place"], 1) + end(0xFFFF, 0xFFFFFFFF, 0xFFFFFFFF)

    return archive(records(HONEST), finish)


def zip64_extra(*numbers: int) -> bytes:
    return struct.pack("<HH", 1, 8 * len(numbers)) + b"".join(struct.pack("<Q", number) for number in numbers)


def bombs() -> Found:
    def with_record(name: str, entry: Entry, body: bytes = HONEST) -> bytes:
        return archive([*(it for it in records(body) if it.name != f"archive/{name}"), entry])

    big = pickled(state(w=tensor(BOMB * MEGA // 4, size=(BOMB * MEGA // 4,), stride=(1,))))
    record, pickle = "archive/data/0", "archive/data.pkl"
    yield "bomb-data", lambda: with_record("data/0", repeated(record, ZEROS, BOMB), big)
    yield "bomb-data-understated", lambda: with_record("data/0", repeated(record, ZEROS, BOMB, size=16))
    yield "bomb-data-overstated", lambda: with_record("data/0", deflated(record, DATA["0"], size=BOMB * MEGA), big)
    yield (
        "bomb-data-stored-overstated",
        lambda: with_record("data/0", Entry(record, DATA["0"], size=BOMB * MEGA, packed=BOMB * MEGA), big),
    )
    yield "bomb-data-4-gigabytes", lambda: with_record("data/0", deflated(record, DATA["0"], size=2**32 - 1), big)
    yield "bomb-unused-record", lambda: with_record("data/1", repeated("archive/data/1", ZEROS, BOMB), big)
    for name in ("byteorder", "version", ".format_version", ".data/serialization_id", "constants.pkl"):
        yield f"bomb-{name}", partial(lambda name: with_record(name, repeated(f"archive/{name}", b" " * MEGA, BOMB), big), name)
    blocks = {
        "nones": b"N0" * (MEGA // 2),
        "lists": b"]" * MEGA,
        "marks": b"(" * MEGA,
        "memo": b"\x94" * MEGA,
        "zeros": ZEROS,
        "protocols": b"\x80\x02" * (MEGA // 2),
    }
    for name, block in blocks.items():
        yield (
            f"bomb-pickle-{name}",
            partial(lambda block: with_record("data.pkl", repeated(pickle, block, BOMB, first=b"\x80\x04N")), block),
        )
        yield (
            f"bomb-pickle-{name}-understated",
            partial(lambda block: with_record("data.pkl", repeated(pickle, block, BOMB, b"\x80\x04N", size=99)), block),
        )
    text = b"\x80\x02X" + struct.pack("<I", BOMB * MEGA)
    yield "bomb-pickle-text", lambda: with_record("data.pkl", repeated(pickle, b"a" * MEGA, BOMB, first=text))
    yield "bomb-bz2", lambda: with_record("data/0", Entry(record, bz2.compress(bytes(8 * MEGA)), method=12, size=8 * MEGA))
    yield "bomb-in-bomb", lambda: with_record("data.pkl", deflated(pickle, archive([repeated(pickle, ZEROS, BOMB)])))
    yield "bomb-of-400", bomb_of_many
    yield "bomb-deflate-nonsense", lambda: with_record("data/0", Entry(record, b"\xff" * 64, method=8, size=16))
    yield "bomb-deflate-cut", lambda: with_record("data/0", Entry(record, deflated(record, DATA["0"]).data[:-3], method=8, size=16))
    yield "bomb-deflate-short", lambda: with_record("data/0", deflated(record, DATA["0"][:8], size=16))
    yield "bomb-deflate-long", lambda: with_record("data/0", deflated(record, DATA["0"] + b"x", size=16))


def bomb_of_many(count: int = 400, mega: int = 16) -> bytes:
    """Records that are small one by one, and gigabytes together."""
    numel = mega * MEGA // 4
    body = pickled(state(**{f"w{at}": tensor(numel, size=(numel,), stride=(1,), key=str(at)) for at in range(count)}))
    one = repeated("x", ZEROS, mega)
    return archive([*records(body, {}), *(Entry(**{**vars(one), "name": f"archive/data/{at}"}) for at in range(count))])


def zips(canary: Path) -> Found:
    yield from bombs()
    names = {
        "up": "../evil", "up-in": "archive/../../evil", "absolute": "/etc/evil", "backslash": "archive\\..\\..\\evil",
        "nul": "archive/data/0\0.txt",
        "drive": "C:/evil", "empty": "", "escape": "archive/\x1b[2J", "newline": "archive/a\nb", "long": "a" * 65_000,
    }  # fmt: skip
    for name, title in names.items():
        yield f"name-{name}", partial(zipped, state(), more=(Entry(title, b"x"),))
    yield "name-not-utf8", partial(zipped, state(), more=(Entry(b"archive/\xff\xfe", b"x", flags=0x800),))
    keys = {"up": "../../0", "absolute": "/0", "nul": "0\0", "drive": "C:\\0", "pickle": "../data.pkl"}
    for name, key in keys.items():
        yield f"key-{name}", partial(zipped, state(w=tensor(key=key)), data={key: DATA["0"]})
    for record in ("data.pkl", "data/0", "version"):
        yield (
            f"twice-{record}",
            partial(zipped, state(), more=(Entry(f"archive/{record}", HONEST if record == "data.pkl" else DATA["0"]),)),
        )
    yield "twice-by-nul", partial(zipped, state(), more=(Entry("archive/data.pkl\0", HONEST),))
    for method in (1, 6, 9, 12, 14, 93, 95, 99, 0xFFFF):
        yield f"method-{method}", partial(swapped, "data/0", method=method)
    yield "method-of-pickle", partial(swapped, "data.pkl", method=99)
    for flag in (0x1, 0x41, 0x20, 0x2000):
        yield f"flag-{flag:x}", partial(swapped, "data/0", flags=flag)
    yield "flag-1-in-directory", partial(swapped, "data.pkl", flags=1, local={"flags": 0})
    yield "flag-1-in-record", partial(swapped, "data.pkl", local={"flags": 1})
    yield "local-name", partial(swapped, "data/0", local={"name": b"archive/data/1"})
    yield "local-name-of-pickle", partial(swapped, "data.pkl", local={"name": b"archive/evil.pkl"})
    yield "local-name-longer", partial(swapped, "data.pkl", local={"name": b"archive/data.pkl" + b"x" * 60_000})
    for at in (0, 1, 64, 2**31, 2**32 - 2):
        yield f"offset-{at}", partial(swapped, "data/0", at=at)
    yield (
        "overlap-by-offset",
        partial(zipped, state(w=tensor(), x=tensor(key="1")), more=(Entry("archive/data/1", DATA["0"], at=0),)),
    )
    yield "overlap-by-length", partial(swapped, "byteorder", size=6 + 64, packed=6 + 64)
    yield "overlap-of-thousands", overlapping
    yield "size-beyond-file", partial(swapped, "version", size=10_000, packed=10_000)
    yield "size-and-packed-differ", partial(swapped, "data/0", size=32)
    yield "zip64-size", partial(swapped, "data/0", size=0xFFFFFFFF, packed=0xFFFFFFFF, extra=zip64_extra(2**63, 2**63))
    yield "zip64-all-ones", partial(swapped, "data/0", size=0xFFFFFFFF, packed=0xFFFFFFFF, extra=zip64_extra(2**64 - 1, 2**64 - 1))
    yield "zip64-offset", partial(swapped, "data/0", at=0xFFFFFFFF, extra=zip64_extra(2**63))
    yield "zip64-no-extra", partial(swapped, "data/0", size=0xFFFFFFFF, packed=0xFFFFFFFF)
    yield "zip64-short-extra", partial(swapped, "data/0", size=0xFFFFFFFF, packed=0xFFFFFFFF, extra=struct.pack("<HHI", 1, 16, 0))
    for name, number in {"beyond": 2**40, "2e63": 2**63, "2e64-1": 2**64 - 1}.items():
        yield f"zip64-directory-{name}", partial(big_directory, at=number)
        yield f"zip64-directory-size-{name}", partial(big_directory, size=number)
        yield f"zip64-count-{name}", partial(big_directory, count=number)
        yield f"zip64-place-{name}", partial(big_directory, place=number)
    for name, told in {
        "at-beyond": {"at": 10**6}, "at-huge": {"at": 2**32 - 2}, "at-0": {"at": 0}, "at-less": {"at": lambda at: at - 1},
        "at-more": {"at": lambda at: at + 1},
        "size-huge": {"size": 2**32 - 2}, "size-0": {"size": 0}, "size-less": {"size": lambda size: size - 1},
        "size-more": {"size": lambda size: size + 1},
        "count-0": {"count": 0}, "count-less": {"count": 1}, "count-more": {"count": 60_000}, "disk": {"disk": 1},
        "comment-longer": {"length": 1000}, "comment-cut": {"comment": b"abc", "length": 2},
    }.items():  # fmt: skip
        yield f"directory-{name}", partial(directory, **told)
    whole = in_zip(HONEST)
    yield "comment-with-an-end", partial(directory, comment=end(0, 0, 0))
    yield "comment-with-an-archive", lambda: directory(comment=zipped({"w": Call(Global("os", "system"), (f"touch {canary}",))}))
    yield "comment-with-signatures", partial(directory, comment=b"PK\x05\x06" * 10_000)
    yield "entries-200000", partial(empty_entries, 200_000)
    for name, at in {
        "4": 4,
        "30": 30,
        "pickle": 150,
        "half": len(whole) // 2,
        "end": len(whole) - 22,
        "last": len(whole) - 1,
    }.items():
        yield f"cut-{name}", partial(whole.__getitem__, slice(at))
    yield "cut-front", lambda: whole[1:]
    yield "two-prefixes", lambda: archive([*records(HONEST, prefix="a"), *records(HONEST, prefix="b")])
    yield "two-pickles", lambda: archive([*records(HONEST), Entry("archive/x/data.pkl", HONEST)])
    yield "no-pickle", lambda: archive(records(HONEST)[1:])
    yield "no-prefix", lambda: archive([Entry("data.pkl", HONEST), Entry("data/0", DATA["0"]), Entry("version", b"3\n")])
    yield "pickle-is-a-folder", lambda: archive([Entry("archive/data.pkl/"), *records(HONEST)[1:]])
    yield "pickle-is-empty", partial(in_zip, b"")
    yield "no-records", partial(archive, [])
    yield "only-text", lambda: archive([Entry("readme.txt", b"hello")])
    yield (
        "torchscript",
        lambda: archive(
            [*records(HONEST), Entry("archive/constants.pkl", pickled(())), Entry("archive/code/__torch__.py", b"import os")]
        ),
    )
    yield (
        "torchscript-object",
        partial(zipped, New(Global("__torch__.torch.nn", "Linear"), ()), more=(Entry("archive/constants.pkl", pickled(())),)),
    )
    for name, text in {
        "nonsense": b"middle",
        "empty": b"",
        "nul": b"little\0",
        "bytes": b"\xff\xfe",
        "megabytes": b"little" * MEGA,
        "case": b"LITTLE?",
    }.items():
        yield (
            f"byteorder-{name}",
            partial(lambda text: archive([Entry("archive/byteorder", text), records(HONEST)[0], *records(HONEST)[2:]]), text),
        )


def overlapping(count: int = 4000) -> bytes:
    """Thousands of names for one record of a megabyte."""
    body = pickled(state(**{f"w{at}": tensor(MEGA // 4, size=(MEGA // 4,), stride=(1,), key=str(at)) for at in range(count)}))
    first = Entry("archive/data/0", ZEROS)
    return archive(
        [first, *records(body, {}), *(Entry(f"archive/data/{at}", at=0, size=MEGA, packed=MEGA) for at in range(1, count))]
    )


def empty_entries(count: int) -> bytes:
    """An honest checkpoint, and then names with nothing in them; more than fit the directory's count, so that zip64 says it."""
    entries = records(HONEST)
    whole = archive(entries, lambda count, size, at: b"")
    at = whole.index(b"PK\x01\x02")
    numbers = struct.pack("<5H3IHH", 20, 0, 0, 0, 33, 0, 0, 0, 6, 0)
    local = [b"PK\x03\x04" + numbers + b"%06d" % name for name in range(count)]
    named = [
        b"PK\x01\x02\x14\x00" + numbers + struct.pack("<HHHII", 0, 0, 0, 0, at + 36 * name) + b"%06d" % name
        for name in range(count)
    ]
    listing = whole[at:] + b"".join(named)
    start = at + 36 * count
    record = b"PK\x06\x06" + struct.pack("<QHHIIQQQQ", 44, 45, 45, 0, 0, *[count + len(entries)] * 2, len(listing), start)
    locator = b"PK\x06\x07" + struct.pack("<IQI", 0, start + len(listing), 1)
    return whole[:at] + b"".join(local) + listing + record + locator + end(0xFFFF, len(listing), start)
