"""safetensors and npz files, and files that are neither."""

import bz2
import gzip
import io
import json
import random
import struct
import tarfile
from functools import partial
from pathlib import Path
from typing import Any

from hostile.archives import HONEST
from hostile.containers import (
    BOMB,
    DATA,
    MEGA,
    ZEROS,
    Entry,
    beside,
    deflated,
    described,
    end,
    in_zip,
    npy,
    npz,
    repeated,
    safetensors,
    state,
    zipped,
)
from hostile.nesting import DEEP
from hostile.pickles import Call, Found, Global, pickled


def safetensors_files() -> Found:
    one = described()
    for name, told in {
        "dtype-unknown": {"dtype": "F99"}, "dtype-none": {"dtype": None}, "dtype-int": {"dtype": 32},
        "dtype-object": {"dtype": "O"}, "dtype-missing": {},
        "dtype-longer": {"dtype": "F64"}, "dtype-shorter": {"dtype": "F16"},
        "dtype-list": {"dtype": ["F32"]},
        **{f"shape-{at}": {"shape": shape} for at, shape in enumerate((
            [-2, -2], [2, -2], [2**63, 2], [2**62, 4], [2**32, 2**32], [2**64], [10**30], [2.0, 2], ["2", 2], None, 4, "4",
                [[2, 2]], {"0": 2}, [True, 4], [3, 2], [1], [0], [2, 2, 2],
            [1] * 70 + [4], [0, 2**63], [0, 2**64], [None, 4], [5],
        ))},
        **{f"offsets-{at}": {"data_offsets": offsets} for at, offsets in enumerate((
            [0, 15], [0, 17], [-1, 15], [-16, 0], [16, 0], [16, 32], [0, 2**63], [2**63, 2**63 + 16], [0, 2**64], [0, 10**30],
                [0.0, 16.0], ["0", "16"], None, 16, [0], [0, 8, 16], [],
            [None, 16], [True, 16], {"begin": 0, "end": 16}, [2**64 - 16, 0], [[0, 16]], [1, 17],
        ))},
        "field-more": {"code": "import os"},
    }.items():  # fmt: skip
        entry = {key: value for key, value in described(**told).items() if name != "dtype-missing" or key != "dtype"}
        if name != "field-more":
            yield name, partial(safetensors, {"w": entry})
    lengths = {
        "0": 0,
        "1": 1,
        "beyond": 10**6,
        "99-mega": 99 * 10**6,
        "101-mega": 101 * 10**6,
        "2e31": 2**31,
        "2e32": 2**32,
        "2e62": 2**62,
        "2e63": 2**63,
        "2e64-1": 2**64 - 1,
        "less": 10,
    }
    for name, length in lengths.items():
        yield f"length-{name}", partial(safetensors, {"w": one}, length=length)
    headers: dict[str, Any] = {
        "empty": {}, "list": [1], "list-of-entries": [one], "text": "x", "none": None, "number": 7, "entry-list": {"w": [1]},
        "entry-none": {"w": None}, "entry-text": {"w": "x"}, "entry-empty": {"w": {}},
        "gap": {"w": described(), "x": described(data_offsets=[20, 36])}, "gap-first": {"w": described(data_offsets=[4, 20])},
        "overlap": {"w": one, "x": described(data_offsets=[8, 24])},
        "same-bytes": {"w": one, "x": one}, "inside": {"w": one, "x": described(shape=[1], data_offsets=[4, 8])},
        "metadata-numbers": {"__metadata__": {"a": 1}, "w": one}, "metadata-list": {"__metadata__": [1], "w": one},
        "metadata-nested": {"__metadata__": {"a": {"b": "c"}}, "w": one}, "metadata-tensor": {"__metadata__": one},
        "not-json": b"{w: 1}", "cut": json.dumps({"w": one}).encode()[:-2], "trailing": json.dumps({"w": one}).encode() + b"{}",
        "trailing-text": json.dumps({"w": one}).encode() + b" x", "not-utf8": b'{"\xff\xfe": {}}',
        "bom": b"\xef\xbb\xbf" + json.dumps({"w": one}).encode(), "nul": b"\0" * 64, "nan": b'{"w": NaN}',
        "infinity": b'{"w":{"dtype":"F32","shape":[2,2],"data_offsets":[0,1e999]}}', "quotes": b"{'w': {}}",
        "surrogate": b'{"\\ud800":' + json.dumps(one).encode() + b"}", "code": b"{__import__('os')}",
        "digits": b'{"w":{"dtype":"F32","shape":[' + b"9" * 100_000 + b'],"data_offsets":[0,16]}}',
        "twice": b'{"w":' + json.dumps(one).encode() + b',"w":' + json.dumps(one).encode() + b"}",
        "field-twice": b'{"w":{"dtype":"F32","dtype":"I32","shape":[2,2],"data_offsets":[0,16]}}',
        "shape-twice": b'{"w":{"dtype":"F32","shape":[2,2],"shape":[4],"data_offsets":[0,16]}}',
    }  # fmt: skip
    for name, header in headers.items():
        yield (
            name,
            partial(
                safetensors,
                header,
                data=bytes(36)
                if name.startswith("gap")
                else bytes(24)
                if name == "overlap"
                else bytes(20)
                if name == "gap-first"
                else DATA["0"],
            ),
        )
    yield "nested-lists", lambda: safetensors(b'{"w":' + b"[" * DEEP + b"]" * DEEP + b"}")
    yield "nested-objects", lambda: safetensors(b'{"w":' * DEEP + b"1" + b"}" * DEEP)
    yield "nested-open", lambda: safetensors(b"{" + b"[" * 5_000_000)
    yield "header-of-spaces", lambda: safetensors(b"{" + b" " * 99_000_000)
    yield (
        "tensors-200000",
        lambda: safetensors(
            b"{" + b",".join(b'"%d":{"dtype":"F32","shape":[0],"data_offsets":[0,0]}' % at for at in range(200_000)) + b"}", b""
        ),
    )
    yield (
        "metadata-200000",
        lambda: safetensors(b'{"__metadata__":{' + b",".join(b'"%d":"%d"' % (at, at) for at in range(200_000)) + b"}}", b""),
    )
    yield "shape-of-500000", lambda: safetensors({"w": described(shape=[1] * 500_000 + [4])})
    yield "trailing-byte", lambda: safetensors({"w": one}, DATA["0"] + b"x")
    yield "trailing-megabyte", lambda: safetensors({"w": one}, DATA["0"] + ZEROS)
    yield "data-short", lambda: safetensors({"w": one}, DATA["0"][:-1])
    yield "data-missing", lambda: safetensors({"w": one}, b"")
    yield "unaligned-length", lambda: safetensors({"w": described(shape=[1], data_offsets=[0, 5])}, bytes(5))
    yield (
        "unaligned-lengths",
        lambda: safetensors(
            {"w": described(shape=[3], data_offsets=[0, 13]), "x": described(shape=[1], data_offsets=[13, 17])}, bytes(17)
        ),
    )
    yield "only-length", lambda: struct.pack("<Q", 2)
    yield "seven-bytes", lambda: b"\x02" + bytes(6)
    yield "pickle-in-header", lambda: safetensors(pickled({"w": Call(Global("os", "system"), ("true",))}))


def npz_files(canary: Path) -> Found:
    call = pickled(Call(Global("os", "system"), (f"touch {canary}",)), 3)
    descriptions = {
        "object": "|O", "object-8": "O8", "structured": [("a", "<f4"), ("b", "<i4")], "structured-object": [("a", "|O")],
        "structured-deep": [("a", [("b", [("c", "<f4")])])], "subarray": ("<f4", (4,)),
        "text": "<U4", "bytes": "|S4", "void": "|V4", "datetime": "<M8[s]", "timedelta": "<m8[D]", "huge-text": "|S2147483647",
        "huge-void": "|V99999999999", "zero-text": "|S0", "comma": "f4,f4",
        "number": 4, "none": None, "list": [], "empty": "", "nonsense": "x9", "code": "__import__('os')",
        "megabytes": "f4" * 100_000, "repeat": "(1000000000,)f4", "fields-many": [(str(at), "<f4") for at in range(20_000)],
    }  # fmt: skip
    for name, descr in descriptions.items():
        told = {"descr": descr, "fortran_order": False, "shape": (1,)}
        yield (
            f"dtype-{name}",
            partial(lambda told: npz(Entry("w.npy", npy(told, call if told["descr"] == "|O" else bytes(64)))), told),
        )
    shapes: tuple[Any, ...] = (
        (-2, -2), (2, -2), (2**63, 2), (2**62, 4), (2**32, 2**32), (2**64,), (10**30,), (2.0, 2), ("2", 2), None, 4, "4", ((2, 2),),
        [2, 2], (True, 4), (3, 2), (1,), (1,) * 65, (1,) * 100_000, (0, 2**63), (10**12,), (-1,), (5,), (0,), (),
    )  # fmt: skip
    for at, shape in enumerate(shapes):
        yield (
            f"shape-{at}",
            partial(lambda shape: npz(Entry("w.npy", npy({"descr": "<f4", "fortran_order": False, "shape": shape}))), shape),
        )
    good = "{'descr': '<f4', 'fortran_order': False, 'shape': (2, 2), }"
    headers = {
        "code": f"__import__('os').system('touch {canary}')",
        "code-in-descr": f"{{'descr': __import__('os').system('touch {canary}'), 'fortran_order': False, 'shape': (2, 2)}}",
        "code-in-shape": f"{{'descr': '<f4', 'fortran_order': False, 'shape': (open({str(canary)!r}, 'w'), 2)}}",
        "comprehension": "{'descr': '<f4', 'fortran_order': False, 'shape': tuple(2 for _ in range(2))}",
        "power": "{'descr': '<f4', 'fortran_order': False, 'shape': (9**9**9**9,)}",
        "product": "{'descr': '<f4' * 10**10, 'fortran_order': False, 'shape': (2, 2)}",
        "sum": "{'descr': '<f4', 'fortran_order': False, 'shape': (1+1, 2)}",
        "nested": "(" * 5000 + ")" * 5000, "nested-lists": "[" * DEEP + "]" * DEEP, "nested-minus": "-" * DEEP + "1",
        "nested-in-shape": "{'descr': '<f4', 'fortran_order': False, 'shape': " + "(" * 90 + ")" * 90 + "}",
        "empty": "", "list": "[]", "no-shape": "{'descr': '<f4', 'fortran_order': False}", "more-keys": good[:-1] + "'x': 1}",
        "order-text": good.replace("False", "'no'"), "order-number": good.replace("False", "2"),
        "cut": good[:20], "syntax": good[:-1], "nul": good[:20] + "\0" + good[20:],
        "digits": good.replace("(2, 2)", "(" + "9" * 8000 + ",)"), "large": " " * 20_000 + good, "larger": good + " " * 3 * MEGA,
        "keys-twice": good[:-1] + "'shape': (4, 4)}",
        **{f"digits-{count}": good.replace("(2, 2)", f"({'1' * count}") for count in (21, 41, 65, 200, 1281, 4301)},
        **{f"sides-{count}": good.replace("2, 2", "1, " * count + "x") for count in (30, 64, 65, 3000)},
        **{f"spaces-{at}": good.replace(old, new) for at, (old, new) in enumerate((
            (",", "," + " " * 3000), ("(2, 2)", "(2" + " " * 9000 + "!"), ("}", " " * 9000 + "!"),
                ("2, 2", "2L" * 4000),
            ("<f4", "<" * 9000), ("<f4", "f" + "4" * 9000), ("(2, 2)", "(" * 9000),
                ("2, 2", "2,," * 3000),
        ))},
        "unhashable": "{[]: 1}", "json": '{"descr": "<f4", "fortran_order": false, "shape": [2, 2]}', "two": good + good,
        "statement": "import os", "escape": good.replace("<f4", "\\x1b[2J"), "not-latin": good.replace("<f4", "\u4e2d"),
    }  # fmt: skip
    for name, header in headers.items():
        yield f"header-{name}", partial(lambda header: npz(Entry("w.npy", npy(header.encode(), version=b"\x02\x00"))), header)
    for name, length in {"0": 0, "1": 1, "less": 40, "more": 120, "65535": 65_535}.items():
        yield f"header-length-{name}", partial(lambda length: npz(Entry("w.npy", npy(length=length))), length)
    for length in (10**6, 2**31, 2**32 - 1):
        yield (
            f"header-length-{length}",
            partial(lambda length: npz(Entry("w.npy", npy(version=b"\x02\x00", length=length))), length),
        )
    for version in (b"\x00\x00", b"\x04\x00", b"\x09\x09", b"\xff\xff", b"\x01\x01"):
        yield f"version-{version.hex()}", partial(lambda version: npz(Entry("w.npy", npy(version=version))), version)
    whole, large = npy(), npy({"descr": "<f4", "fortran_order": False, "shape": (BOMB * MEGA // 4,)}, b"")
    for at in (0, 1, 5, 6, 8, 9, 10, 20, len(whole) - 16, len(whole) - 1):
        yield f"cut-{at}", partial(lambda at: npz(Entry("w.npy", whole[:at])), at)
    yield "bomb", lambda: npz(repeated("w.npy", ZEROS, BOMB, first=large))
    yield "bomb-understated", lambda: npz(repeated("w.npy", ZEROS, BOMB, first=large, size=144))
    yield "bomb-behind-a-small-array", lambda: npz(repeated("w.npy", ZEROS, BOMB, first=whole))
    yield "bomb-of-400", npz_of_many
    yield (
        "bomb-header",
        lambda: npz(repeated("w.npy", b" " * MEGA, BOMB, first=b"\x93NUMPY\x02\x00" + struct.pack("<I", BOMB * MEGA))),
    )
    yield "bomb-bz2", lambda: npz(Entry("w.npy", bz2.compress(bytes(8 * MEGA)), method=12, size=8 * MEGA))
    yield "overstated", lambda: npz(deflated("w.npy", large, size=BOMB * MEGA + len(large)))
    yield "stored-overstated", lambda: npz(Entry("w.npy", large, size=BOMB * MEGA, packed=BOMB * MEGA))
    yield "magic", lambda: npz(Entry("w.npy", b"\x93NUMPX" + whole[6:]))
    yield "pickle", lambda: npz(Entry("w.npy", call))
    yield "pickle-beside", lambda: npz(Entry("w.npy", whole), Entry("x.npy", call))
    yield (
        "object-beside",
        lambda: npz(Entry("w.npy", whole), Entry("x.npy", npy({"descr": "|O", "fortran_order": False, "shape": (1,)}, call))),
    )
    yield "text-inside", lambda: npz(Entry("w.npy", b"hello"))
    yield "torch-inside", lambda: npz(Entry("w.npy", zipped(state())))
    yield "npz-inside", lambda: npz(Entry("w.npy", npz(Entry("w.npy", whole))))
    yield "extra-data", lambda: npz(Entry("w.npy", whole + b"x"))
    yield "twice", lambda: npz(Entry("w.npy", whole), Entry("w.npy", whole))
    yield "twice-overlapping", lambda: npz(Entry("w.npy", whole), Entry("w.npy", at=0, size=len(whole), packed=len(whole)))
    yield "method", lambda: npz(Entry("w.npy", whole, method=99))
    yield "encrypted", lambda: npz(Entry("w.npy", whole, flags=1))
    yield "local-name", lambda: npz(Entry("w.npy", whole, local={"name": b"x.npy"}))
    yield "offset-beyond", lambda: npz(Entry("w.npy", whole, at=10**6))
    for name, title in {
        "up": "../w.npy",
        "absolute": "/w.npy",
        "nul": "w\0.npy",
        "drive": "C:\\w.npy",
        "backslash": "..\\w.npy",
        "newline": "w\n.npy",
    }.items():
        yield f"name-{name}", partial(lambda title: npz(Entry("v.npy", whole), Entry(title, whole)), title)
    yield "bare-npy", lambda: whole
    yield "bare-npy-object", lambda: npy({"descr": "|O", "fortran_order": False, "shape": (1,)}, call)


def npz_of_many(count: int = 400, mega: int = 16) -> bytes:
    """Arrays that are small one by one, and gigabytes together."""
    told = {"descr": "<f4", "fortran_order": False, "shape": (mega * MEGA // 4,)}
    one = repeated("w", ZEROS, mega, first=npy(told, b""))
    return npz(*(Entry(**{**vars(one), "name": f"w{at}.npy"}) for at in range(count)))


def tar_of_torch(canary: Path) -> bytes:
    """The tar archives of torch before 0.1.10: three members, each pickles."""
    call, buffer = pickled(Call(Global("os", "system"), (f"touch {canary}",))), io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as tar:
        for name in ("storages", "tensors", "pickle"):
            told = tarfile.TarInfo(name)
            told.size = len(call)
            tar.addfile(told, io.BytesIO(call))
    return buffer.getvalue()


def others(canary: Path) -> Found:
    texts: dict[str, bytes] = {
        "empty": b"", "one-byte": b"x", "one-nul": b"\0", "one-brace": b"{", "protocol": b"\x80", "protocol-2": b"\x80\x02",
        "none": b"\x80\x02N.", "stop": b".", "pk": b"PK", "pk-local": b"PK\x03\x04", "pk-end": b"PK\x05\x06",
        "end-alone": end(0, 0, 0), "text": b"these are no weights\n", "html": b"<!DOCTYPE html><html><body>404</body></html>",
        "pointer": b"version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 86\n",
        "json": b'{"w": [1, 2]}', "python": f"import os\nos.system('touch {canary}')\n".encode(),
        "png": b"\x89PNG\r\n\x1a\n" + bytes(64), "elf": b"\x7fELF\x02\x01\x01" + bytes(64),
        "hdf5": b"\x89HDF\r\n\x1a\n" + bytes(64),
        "nuls": bytes(64), "ones": b"\xff" * 64, "onnx": b"\x08\x07\x12\x07pytorch" + bytes(32),
        "seven-zip": b"7z\xbc\xaf\x27\x1c" + bytes(32), "newlines": b"\n" * MEGA, "gguf": b"GGUF\x03\0\0\0" + bytes(64),
        "gzip-of-zip": gzip.compress(in_zip(HONEST), mtime=0), "gzip-bomb": gzip.compress(bytes(64 * MEGA), mtime=0),
    }  # fmt: skip
    for name, text in texts.items():
        for ending in ("pth", "safetensors", "npz"):
            yield f"{name}.{ending}", partial(bytes, text)
    for seed, size in enumerate((1, 8, 9, 64, 1000, MEGA)):
        yield f"random-{size}.pth", partial(random.Random(seed).randbytes, size)
        yield f"random-pickle-{size}.pth", partial(lambda noise: in_zip(b"\x80\x04" + noise), random.Random(seed).randbytes(size))
        yield f"random-zip-{size}.pth", partial(lambda noise: b"PK\x03\x04" + noise, random.Random(seed).randbytes(size))
    yield "tar.pth", partial(tar_of_torch, canary)
    yield "torch-cut.safetensors", lambda: in_zip(HONEST)[:100]
    for ending in ("safetensors", "npz", "bin"):
        yield f"payload-named.{ending}", partial(zipped, beside(Call(Global("os", "system"), (f"touch {canary}",))))
        yield f"raw-payload-named.{ending}", partial(pickled, {"w": Call(Global("os", "system"), (f"touch {canary}",))})
