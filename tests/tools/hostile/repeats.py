"""Small parts that are named thousands of times, and archives with something between their records."""

import struct
import zlib
from dataclasses import replace
from functools import partial

from hostile.archives import HONEST, swapped
from hostile.containers import (
    DATA,
    MEGA,
    Entry,
    archive,
    deflated,
    described,
    in_legacy,
    in_zip,
    legacy,
    npy,
    npz,
    records,
    safetensors,
    state,
    tensor,
    zipped,
)
from hostile.nesting import LAUGHS, deep, laughing
from hostile.pickles import Call, Found, Global, Op, Persistent, pickled, spelled


def named_often(make: bytes, count: int, first: bytes = b"w") -> bytes:
    """One value under `count` names, taken from the memo."""
    names = b"".join(spelled(str(at)) + b"h\x00" for at in range(count))
    return b"\x80\x04}(" + spelled(first.decode()) + make + b"q\x00" + names + b"u."


def in_levels(width: int, levels: int) -> bytes:
    """Dictionaries of `width` names for the same dictionary, level below level."""
    keys = [spelled(f"k{at}") for at in range(width)]
    body = b"}(" + b"".join(key + b"N" for key in keys) + b"u"
    for _ in range(levels):
        body += b"q\x000}(" + b"".join(key + b"h\x00" for key in keys) + b"u"
    return b"\x80\x04" + body + b"."


def sharing() -> Found:
    """Files of little size that would take gigabytes or hours where each name of a part counted anew."""
    square, mega = tensor(MEGA, size=(1024, 1024), stride=(1, 1024)), bytes(4 * MEGA)
    flags = tensor(MEGA, size=(MEGA,), stride=(1,), kind="BoolStorage")
    text = b"X" + struct.pack("<I", MEGA) + b"a" * MEGA
    yield "transposed.pth", lambda: in_zip(named_often(spelled(square), 3_000), {"0": mega})
    yield "flags.pth", lambda: in_zip(named_often(spelled(flags), 9_000), {"0": bytes(MEGA)})
    yield "google.pth", lambda: in_zip(named_often(spelled(square), 3_000, b"Transformer/encoder_norm/scale"), {"0": mega})
    yield "names.pth", lambda: in_zip(named_often(spelled(tensor()), 240_000))
    yield "levels.pth", lambda: in_zip(in_levels(1_000, 2))
    yield "sizes-of-text.pth", lambda: in_zip(b"\x80\x02" + text + b"q\x000](" + b"ctorch\nSize\nh\x00\x85R" * 2_000 + b"e.")
    rebuilt = b"ctorch._tensor\n_rebuild_from_type_v2\n(ctorch\nSize\nNh\x00\x85NtR"
    yield "sizes-by-type.pth", lambda: in_zip(b"\x80\x02](" + b"N" * 200_000 + b"eq\x000](" + rebuilt * 4_000 + b"e.")
    yield "deflated.pth", many_deflated
    key = Persistent(("storage", Global("torch", "FloatStorage"), "0" * MEGA, "cpu", 0, None))
    again = b"(" + spelled("storage") + b"ctorch\nFloatStorage\n" + text + spelled("cpu") + b"K\x00Ntq\x000" + b"h\x00Q0" * 2_000
    yield "storage-of-a-long-key.pth", lambda: legacy(key)
    yield "storages-of-a-long-key.pth", lambda: in_legacy(b"\x80\x02" + again + b"N.")
    yield "version-laughs.pth", lambda: legacy(state(), version=Op(laughing(LAUGHS["tuples"], 60, first=b")")))
    yield "version-deep.pth", lambda: legacy(state(), version=Op(deep()["tuples"]()))
    yield "keys-of-text.pth", lambda: legacy(state(), keys=Op(text + b"q\x000](" + b"h\x00" * 240_000 + b"e"))
    for name in ("stride", "stride-of-one"):
        shape = (2, 2) if name == "stride" else (1, 1)
        for number in (2**48, 2**62, 2**63, 2**70):
            yield f"{name}-{number}.pth", partial(zipped, state(w=tensor(size=shape, stride=(number, 1))))
            yield f"{name}-{number}-in-legacy.pth", partial(legacy, state(w=tensor(size=shape, stride=(number, 1))))
    for name, title in {"long": "a" * 400, "peeled": "module." * 149_000 + "w"}.items():
        yield f"name-{name}.pth", partial(zipped, {title: tensor()})
    yield "name-peeled.safetensors", lambda: safetensors({"module." * 500_000 + "w": described()})
    yield "steers-a-terminal.pth", partial(zipped, {"a\nb\x1b[31m": None})
    yield "view-in-zip.pth", lambda: in_zip(pickled(state(w=tensor(view=("1", 0, 4))), legacy=True))
    for name in ("query", "key", "value"):
        mixed = {part: "F16" if part == name else "BF16" for part in ("query", "key", "value")}
        yield f"{name}-of-another-dtype.safetensors", partial(apart, mixed)
    yield "google-without-elements.npz", of_google


def many_deflated(count: int = 1_500) -> bytes:
    """Storages that are small as they lie, and gigabytes together, of which a number each is looked at."""
    zeros = deflated("", bytes(MEGA - 256))
    many = {f"t{at}": tensor(MEGA // 4 - 64, size=(1,), stride=(1,), key=str(at)) for at in range(count)}
    packed = [replace(zeros, name=f"archive/data/{at}") for at in range(count)]
    return archive([deflated("archive/data.pkl", pickled(many)), *packed])


def apart(dtypes: dict[str, str]) -> bytes:
    """Queries, keys and values in transformers' spelling, of two bytes an element."""
    layer = "vit.encoder.layer.0.attention.attention"
    told = {
        f"{layer}.{part}.bias": described(dtype=dtype, shape=[4], data_offsets=[8 * at, 8 * at + 8])
        for at, (part, dtype) in enumerate(dtypes.items())
    }
    return safetensors(told, bytes(24))


def of_google() -> bytes:
    """A query kernel of Google's without elements, whose two sides cannot be told from its size; keys and values are missing."""
    name = "Transformer/encoderblock_0/MultiHeadDotProductAttention_1/query/kernel.npy"
    return npz(Entry(name, npy({"descr": "<f4", "fortran_order": False, "shape": (0, 1, 1)}, b"")))


def between() -> Found:
    """Archives with bytes that belong to no record, and records whose headers, descriptors and data disagree."""
    told, pickle = swapped, pickled({"w": Call(Global("os", "system"), ("true",))})
    hidden = archive([Entry("archive/data.pkl", pickle)])[: -22 - 46 - len("archive/data.pkl")]
    data = Entry("archive/data/0", DATA["0"])
    packed = deflated("archive/data/0", DATA["0"])
    for name, entry in {
        "hidden-record": Entry("archive/version", b"3\n" + hidden, size=2, packed=2, crc=zlib.crc32(b"3\n")),
        "bytes-between": Entry("archive/version", b"3\nxx", size=2, packed=2, crc=zlib.crc32(b"3\n")),
        "local-crc": Entry("archive/version", b"3\n", local={"crc": 12345}),
        "descriptor-missing": Entry("archive/version", b"3\n", flags=8, local={"crc": 0, "packed": 0, "size": 0}),
        "descriptor-lies": Entry("archive/version", b"3\nPK\x07\x08" + struct.pack("<3L", 1, 2, 3), size=2, packed=2,
            crc=zlib.crc32(b"3\n"), flags=8, local={"crc": 0, "packed": 0, "size": 0}),
        "local-size-without-field": Entry("archive/version", b"3\n", local={"packed": 0xFFFFFFFF, "size": 0xFFFFFFFF}),
    }.items():  # fmt: skip
        yield f"{name}.pth", partial(lambda entry: archive([*records(HONEST)[:-1], entry]), entry)
    yield "behind-the-deflated.pth", lambda: told("data/0", data=packed.data + b"behind", method=8, size=len(data.data))
    yield "extra-cut.pth", partial(told, "data/0", extra=b"\x01\x00\xff")
