"""Tensors that lie about their sizes, their strides and the storage that they look at."""

import struct
from collections.abc import Callable
from functools import partial
from typing import Any

from hostile.containers import DATA, MAGIC, MEGA, REBUILD, ZEROS, in_legacy, in_zip, legacy, state, tensor, zipped
from hostile.pickles import ORDERED, Call, Found, Global, Op, Storage, Writer, pickled, spelled

HUGE = {"2e31": 2**31, "2e62": 2**62, "2e63-1": 2**63 - 1, "2e63": 2**63, "2e64": 2**64, "1e30": 10**30}
NUMBERLESS = {"float": 2.0, "text": "2", "none": None, "true": True, "bytes": b"2", "list": [2], "nan": float("nan")}
LIES: dict[str, dict[str, Any]] = {
    **{f"offset-{name}": {"offset": it} for name,
    it in (HUGE | NUMBERLESS | {"1": 1, "4": 4, "-1": -1, "-2e63": -(2**63), "-1e30": -(10**30)}).items()},
    **{f"offset-{name}-of-nothing": {"offset": it, "size": (0,), "stride": (1,)} for name,
    it in {"-1": -1, "1e30": 10**30}.items()},
    **{f"size-{name}": {"size": (it, 2)} for name,
    it in (HUGE | NUMBERLESS | {"3": 3, "-2": -2, "-1": -1, "-1e30": -(10**30)}).items()},
    **{f"size-whole-{name}": {"size": it} for name,
    it in {"none": None, "int": 4, "text": "22", "dict": {2: 2}, "float": 4.0, "true": True}.items()},
    "size-two-negatives": {"size": (-2, -2)},
    "size-product-2e64": {"size": (2**32, 2**32), "stride": (0, 0)},
    "size-product-2e64-plus-4": {"size": (2**62 + 1, 4), "stride": (0, 1)},
    "size-zero-and-huge": {"size": (0, 2**63), "stride": (1, 1)},
    "size-zero-and-1e30": {"size": (0, 10**30), "stride": (1, 1)},
    "size-zero-and-negative": {"size": (0, -1), "stride": (1, 1)},
    "size-of-65": {"size": (1,) * 65, "stride": (1,) * 65},
    "size-of-100000": {"size": (1,) * 100_000, "stride": (1,) * 100_000},
    "size-of-41-twos": {"size": (2,) * 41, "stride": (0,) * 41},
    "size-nested": {"size": ((2, 2),), "stride": (1,)},
    "size-stub": {"size": (Global("timm", "Two"), 2)},
    **{f"stride-{name}": {"stride": (it, 1)} for name,
    it in (HUGE | NUMBERLESS | {"-2": -2, "-1": -1, "-2e63": -(2**63), "3": 3}).items()},
    **{f"stride-whole-{name}": {"stride": it} for name,
    it in {"none": None, "int": 2, "text": "21", "empty": (), "one": (1,), "three": (2, 1, 1)}.items()},
    "stride-wraps": {"size": (5, 1), "stride": (2**62, 1)},
    "stride-wraps-in-bytes": {"size": (2, 2), "stride": (2**62 - 1, 1)},
    "stride-0-4-terabytes": {"size": (10**6, 10**6), "stride": (0, 0)},
    "stride-0-one-axis": {"size": (2**40,), "stride": (0,)},
    "stride-0-rows": {"size": (10**10, 4), "stride": (0, 1)},
    "stride-0-and-offset-beyond": {"offset": 4, "size": (2, 2), "stride": (0, 0)},
    "no-axes-beyond": {"offset": 4, "size": (), "stride": ()},
    **{f"numel-{name}": {"numel": it} for name,
    it in (HUGE | NUMBERLESS | {"3": 3, "5": 5, "0": 0, "-1": -1, "-4": -4, "-1e30": -(10**30)}).items()},
    "numel-less-than-record": {"numel": 2, "size": (2,), "stride": (1,)},
    "numel-0-with-a-record": {"numel": 0, "size": (0,), "stride": (1,)},
    **{f"key-{name}": {"key": it} for name, it in {
        "int": 0, "none": None, "bytes": b"0", "tuple": ("0",), "missing": "1", "empty": "", "up": "../0", "up-up": "../../data/0",
        "absolute": "/0", "slash": "./0", "backslash": "..\\data\\0", "nul": "0\0", "drive": "C:0", "space": "0 ", "wide": "\uff10",
        "newline": "0\n", "megabytes": "0" * 2 * MEGA, "surrogate": "\ud800", "escape": "\x1b[2J", "pickle": "../data.pkl",
            "dot": ".",
    }.items()},
    **{f"kind-{name}": {"kind": name} for name in (
        "FooStorage", "QInt8Storage", "QUInt8Storage", "QInt32Storage", "QUInt4x2Storage", "Tensor", "float32", "load",
            "floatStorage", "Storage", "_C"
    )},
    **{f"kind-{name}": {"kind": it} for name, it in {
        "ordered": ORDERED, "none": None, "int": 4, "bytes": b"FloatStorage", "call": Call(Global("torch", "FloatStorage")),
            "cuda": Global("torch.cuda", "Nonsense"),
        "elsewhere": Global("numpy", "FloatStorage"), "tuple": (Global("torch", "FloatStorage"),),
    }.items()},
    "double-in-a-float-record": {"kind": "DoubleStorage"},
}  # fmt: skip

REBUILDS: dict[str, Any] = {
    **{f"arity-{count}": Call(REBUILD, (Storage(), 0, (2, 2), (2, 1), False, Call(ORDERED), None, 8, 9)[:count]) for count in (0, 1,
        2, 3, 8, 9)},
    **{f"storage-{name}": Call(REBUILD, (it, 0, (2, 2), (2, 1), False, Call(ORDERED))) for name, it in {
        "none": None, "text": "0", "tensor": tensor(), "bytes": DATA["0"], "list": [0.0] * 4, "tuple": ("storage", "0"),
            "stub": Call(Global("torch", "FloatStorage"), (4,)),
    }.items()},
    "args-list": Call(REBUILD, [Storage(), 0, (2, 2), (2, 1), False, Call(ORDERED)]),
    "args-none": Call(REBUILD, None),
    "quantized": Call(Global("torch._utils", "_rebuild_qtensor"),
    (Storage(), 0, (2, 2), (2, 1), (Global("torch", "per_tensor_affine"), 0.1, 0), False, Call(ORDERED))),
    "sparse": Call(Global("torch._utils", "_rebuild_sparse_tensor"), (Global("torch", "sparse_coo"), (tensor(), tensor(), (2, 2)))),
    "nested": Call(Global("torch._utils", "_rebuild_nested_tensor"), (tensor(), tensor(), tensor(), tensor())),
    "meta": Call(Global("torch._utils", "_rebuild_meta_tensor_no_storage"), (Global("torch", "float32"), (2**40,), (1,), False)),
    "numpy": Call(Global("torch._utils", "_rebuild_device_tensor_from_numpy"), (None, Global("torch", "float32"), "cpu", False)),
    "function-itself": REBUILD,
    "storage-itself": Storage(),
}  # fmt: skip


def many_views(container: Callable[..., bytes], count: int, size: tuple[int, ...], stride: tuple[int, ...]) -> bytes:
    """Views on one storage of a megabyte: small in the file, terabytes where each is copied."""
    numel = MEGA // 4
    one = spelled(Call(REBUILD, (Op(b"h\xfe"), 0, size, stride, False, Op(b"h\xfd"))))
    named = b"".join(b"X" + struct.pack("<I", 6) + b"%06d" % at + one for at in range(count))
    storage = Writer(2, legacy=container is in_legacy, remembers=False).value(Storage(numel))
    start = storage + b"q\xfe0" + spelled(Call(ORDERED)) + b"q\xfd0"
    return container(b"\x80\x02" + start + b"}(" + named + b"u.", {"0": ZEROS})


def tensors() -> Found:
    for container in (zipped, legacy):
        name = container.__name__
        for lie, told in LIES.items():
            yield f"{lie}-{name}", partial(container, state(w=tensor(**told)), protocol=3)
        for lie, it in REBUILDS.items():
            yield f"rebuild-{lie}-{name}", partial(container, state(w=tensor(), x=it))
        pairs = {"dtypes": {"kind": "IntStorage"}, "sizes": {"numel": 2}, "widths": {"kind": "DoubleStorage", "numel": 2}}
        for what, told in pairs.items():
            other = tensor(**told, size=(2,), stride=(1,)) if "numel" in told else tensor(**told)
            yield f"one-key-two-{what}-{name}", partial(container, state(w=tensor(), x=other))
        lengths = {"empty": 0, "short": 15, "shorter": 4, "long": 17, "longer": 1000}
        for what, length in lengths.items():
            yield f"record-{what}-{name}", partial(container, state(), data={"0": bytes(length)})
        yield f"record-missing-{name}", partial(container, state(), data={})
        yield f"record-other-{name}", partial(container, state(), data={"1": DATA["0"]})
    for container in (in_zip, in_legacy):
        name, all_of_it = container.__name__, MEGA // 4
        yield f"views-of-64-mega-{name}", partial(many_views, container, 15_000, (64, all_of_it), (0, 1))
        yield f"views-of-all-{name}", partial(many_views, container, 15_000, (all_of_it,), (1,))
        yield f"views-that-slide-{name}", partial(many_views, container, 10, (all_of_it // 2, all_of_it // 2), (1, 1))
    yield from legacy_only()


def legacy_only() -> Found:
    one = struct.pack("<q", 4) + DATA["0"]
    told: dict[str, dict[str, Any]] = {
        **{f"count-{count}": {"storages": struct.pack("<q", count) + DATA["0"]} for count in (0, 1, 3, 5, -1, -4, 2**31, 2**62,
            2**63 - 1, -(2**63))},
        **{f"cut-{length}": {"storages": one[:length]} for length in (0, 1, 7, 8, 9, 23)},
        **{f"keys-{name}": {"keys": keys} for name, keys in {
            "none": None, "int": 1, "text": "0", "tuple": ("0",), "dict": {"0": 0}, "empty": [], "unknown": ["1"],
                "unknown-too": ["0", "1"],
            "ints": [0], "nested": [["0"]], "missing": ["2"], "tensor": [tensor()],
        }.items()},
        "keys-twice": {"keys": ["0", "0"], "storages": one * 2},
        "keys-a-million": {"keys": Op(b"](" + b"X\x01\x00\x00\x000" * 400_000 + b"e"), "storages": one},
        "keys-deep": {"keys": Op(b"]" * 200_000 + b"a" * 199_999)},
        **{f"magic-{name}": {"magic": it} for name,
        it in {"off-by-one": MAGIC + 1, "text": str(MAGIC), "float": float(MAGIC), "negative": -MAGIC, "none": None,
            "true": True}.items()},
        **{f"version-{name}": {"version": it} for name,
        it in {"1000": 1000, "1002": 1002, "text": "1001", "none": None, "huge": 10**30}.items()},
        **{f"system-{name}": {"system": it} for name, it in {"none": None, "list": [1], "text": "x"}.items()},
    }  # fmt: skip
    for name, swapped in told.items():
        yield f"legacy-{name}", partial(legacy, state(), **swapped)
    views = {
        "beyond": ("v", 2, 4),
        "negative": ("v", -1, 2),
        "huge": ("v", 0, 2**62),
        "1e30": ("v", 10**30, 4),
        "arity": ("v",),
        "text": "v",
        "float": ("v", 0.0, 4.0),
        "int": 1,
    }
    for name, view in views.items():
        yield f"legacy-view-{name}", partial(legacy, state(w=tensor(view=view)))
    whole = legacy(state())
    for part in range(1, 20):
        yield f"legacy-cut-{part}-of-20", partial(whole.__getitem__, slice(len(whole) * part // 20))
    yield "legacy-two-storages-one-cut", lambda: legacy(state(w=tensor(), x=tensor(key="1")), data=DATA | {"1": DATA["0"]})[:-1]
    yield "legacy-magic-alone", lambda: pickled(MAGIC)
