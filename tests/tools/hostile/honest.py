"""Honest files of every make, files of which a reader may say either, and honest ones with a few bytes changed."""

import json
import random
import struct
import zlib
from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

import ml_dtypes
import numpy as np

from hostile.archives import HONEST, big_directory, swapped
from hostile.containers import (
    DATA,
    EXPECTED,
    REBUILD,
    VALUES,
    Entry,
    archive,
    beside,
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
from hostile.nesting import deep, heavy
from hostile.pickles import ORDERED, Build, Call, Global, Items, Make, New, Op, Storage, line, pickled, spelled


class Honest(NamedTuple):
    make: Make
    expected: dict[str, np.ndarray]


def numpy_dtype(code: str) -> Build:
    return Build(Call(Global("numpy", "dtype"), (code, False, True)), (3, "<", None, None, None, -1, -1, 0))


def numpy_array(count: int, code: str, multiarray: str = "numpy.core.multiarray") -> Build:
    empty = Call(Global(multiarray, "_reconstruct"), (Global("numpy", "ndarray"), (0,), b"b"))
    return Build(empty, (1, (count,), numpy_dtype(code), False, bytes(count * int(code[1:]))))


COSINE = Global("timm.scheduler.cosine_lr", "CosineLRScheduler")
STEPS = {"t_initial": 300, "warmup": [1, 2.5, None, True], "group": {"lr": 1e-3, 3: (4, 5)}}
BESIDE: dict[str, Any] = {
    "nothing": None,
    "numbers": [0, -1, 255, 256, 65_536, -70_000, 2**40, -(2**70), 1.5, float("inf"), True, False],
    "texts": ["", "\u00e9", "\u4e2d\u6587", "a\nb", "\\", "x" * 300],
    "containers": [(), (1,), (1, 2), (1, 2, 3), (1, 2, 3, 4), [], {}, {"a": {"b": [{}]}}, {1: 2, (3, 4): 5}],
    "bytes": b"\x00\xff raw",
    "namespace": Build(Call(Global("argparse", "Namespace")), {"lr": 0.1, "model": "deit_small", "betas": [0.9, 0.999]}),
    "namespace-new": Build(New(Global("argparse", "Namespace"), ()), {"lr": 0.1}),
    "simple-namespace": Build(Call(Global("types", "SimpleNamespace")), {"lr": 0.1}),
    "numpy-scalar": Call(Global("numpy.core.multiarray", "scalar"), (numpy_dtype("f8"), bytes(8))),
    "numpy-2-scalar": Call(Global("numpy._core.multiarray", "scalar"), (numpy_dtype("f8"), bytes(8))),
    "numpy-array": numpy_array(2, "f8"),
    "numpy-2-array": numpy_array(2, "f8", "numpy._core.multiarray"),
    "numpy-dtype": numpy_dtype("f8"),
    "numpy-random": Build(
        Call(Global("numpy.random._pickle", "__randomstate_ctor"), ("MT19937",)),
        {"bit_generator": "MT19937", "state": {"key": numpy_array(624, "u4"), "pos": 624}, "has_gauss": 0, "gauss": 0.0},
    ),
    "scheduler-new": Build(New(COSINE, ()), STEPS),
    "scheduler-reduce": Build(Call(COSINE, (1, "x")), STEPS),
    "scheduler-new-ex": Op(spelled(COSINE) + spelled((1,)) + spelled({"lr": 0.1}) + b"\x92" + spelled(STEPS) + b"b"),
    "scheduler-obj": Op(b"(" + spelled(COSINE) + spelled(1) + b"o" + spelled(STEPS) + b"b"),
    "scheduler-inst": Op(b"(" + spelled(1) + line(b"i", COSINE.module, COSINE.name) + spelled(STEPS) + b"b"),
    "scheduler-slots": Build(New(COSINE, ()), (None, STEPS)),
    "scheduler-both": Build(New(COSINE, ()), ({"a": 1}, STEPS)),
    "scheduler-class": COSINE,
    "config-filled": Items(Build(New(Global("omegaconf.dictconfig", "DictConfig"), ()), {"a": 1}), {"lr": 0.1}),
    "config-list": Items(Build(New(Global("omegaconf.listconfig", "ListConfig"), ()), {"a": 1}), [1, 2]),
    "config-inner": Op(spelled("mmengine") + spelled("Config.Inner") + b"\x93)\x81"),
    "reconstructed": Build(
        Call(Global("copyreg", "_reconstructor"), (Global("mmcv", "Config"), Global("builtins", "object"), None)), {"lr": 0.1}
    ),
    "path": Call(Global("pathlib", "PosixPath"), ("/", "data", "imagenet")),
    "path-of-windows": Call(Global("pathlib", "WindowsPath"), ("C:\\", "data")),
    "set": {1, 2, 3},
    "frozenset": frozenset({1, 2}),
    "defaultdict": Items(Call(Global("collections", "defaultdict"), (Global("builtins", "list"),)), {"a": [1], "b": []}),
    "defaultdict-of-dict": Items(Call(Global("collections", "defaultdict"), (Global("builtins", "dict"),)), {0: {"step": 3}}),
    "counter": Call(Global("collections", "Counter"), ({"a": 2},)),
    "deque": Items(Call(Global("collections", "deque"), ((), 10)), [1, 2, 3]),
    "ordered": Items(Call(ORDERED), {"a": 1, "b": {"version": 2}}),
    "ordered-with-attributes": Build(Items(Call(ORDERED), {"a": 1}), {"_metadata": Call(ORDERED)}),
    "complex": Call(Global("builtins", "complex"), (1.0, -2.0)),
    "bytearray": bytearray(b"abc"),
    "datetime": Call(Global("datetime", "datetime"), (b"\x07\xe8\x01\x02\x03\x04\x05\x00\x00\x00",)),
    "timedelta": Call(Global("datetime", "timedelta"), (1, 2, 3)),
    "optimizer": {"state": {0: {"step": 7, "exp_avg": tensor()}}, "param_groups": [{"lr": 0.1, "params": [0, 1]}]},
    "tensor": tensor(),
    "dtype": Global("torch", "float16"),
    "size": Call(Global("torch", "Size"), ((2, 3),)),
    "any": Global("typing", "Any"),
    "optional": Call(Global("_operator", "getitem"), (Global("typing", "Optional"), Global("builtins", "int"))),
    "anneal": Call(Global("builtins", "getattr"), (Global("torch.optim.lr_scheduler", "OneCycleLR"), "_annealing_cos")),
    "type-of-none": Call(Global("builtins", "type"), (None,)),
    "masked": Call(
        Global("numpy.ma.core", "_mareconstruct"),
        (Global("numpy.ma.core", "MaskedArray"), Global("numpy", "ndarray"), (0,), b"b"),
    ),
    "numpy-history": [Call(Global("numpy.core.multiarray", "scalar"), (numpy_dtype("f8"), bytes(8)))] * 8_000,
}

KINDS = {
    "FloatStorage": "float32", "DoubleStorage": "float64", "HalfStorage": "float16", "LongStorage": "int64", "IntStorage": "int32",
    "ShortStorage": "int16", "CharStorage": "int8", "ByteStorage": "uint8", "BoolStorage": "bool",
    "BFloat16Storage": ml_dtypes.bfloat16,
}  # fmt: skip


def of_every_kind(container: Callable[..., bytes]) -> Honest:
    arrays = {kind: np.array([[0, 1, 1], [1, 0, 1]], dtype) for kind, dtype in KINDS.items()}
    told = {kind: tensor(6, size=(2, 3), stride=(3, 1), kind=kind, key=str(at)) for at, kind in enumerate(KINDS)}
    raw = {str(at): array.tobytes() for at, array in enumerate(arrays.values())}
    counts = b"".join(struct.pack("<q", 6) + raw[key] for key in sorted(raw))
    return Honest(
        partial(container, state(**told), data=raw, **({"keys": sorted(raw), "storages": counts} if container is legacy else {})),
        arrays,
    )


def of_every_view(container: Callable[..., bytes]) -> Honest:
    """Views of one storage of six numbers: where they begin, how they run, which are none."""
    base = np.arange(6, dtype=np.float32)
    views: dict[str, tuple[int, tuple[int, ...], tuple[int, ...], np.ndarray]] = {
        "whole": (0, (2, 3), (3, 1), base.reshape(2, 3)),
        "transposed": (0, (3, 2), (1, 3), base.reshape(2, 3).T),
        "later": (2, (2, 2), (2, 1), base[2:].reshape(2, 2)),
        "stepped": (1, (3,), (2,), base[1::2]),
        "expanded": (1, (3, 2), (0, 1), np.broadcast_to(base[1:3], (3, 2))),
        "number": (5, (), (), base[5]),
        "none": (0, (0,), (1,), base[:0]),
        "none-of-two": (6, (2, 0), (1, 1), np.zeros((2, 0), np.float32)),
        "overlapping": (0, (4, 3), (1, 1), np.lib.stride_tricks.sliding_window_view(base, 3)),
    }
    told = {name: tensor(6, offset, size, stride) for name, (offset, size, stride, _) in views.items()}
    return Honest(
        partial(container, state(**told), data={"0": base.tobytes()}), {name: np.array(view[3]) for name, view in views.items()}
    )


def controls() -> dict[str, Honest]:
    """Files that must load, with their tensors."""
    makes: dict[str, Make] = {}
    for at, (name, it) in enumerate(BESIDE.items()):
        makes[f"beside-{name}-p{2 + at % 4}.pth"] = partial(zipped, beside(it), 2 + at % 4)
        makes[f"beside-{name}-legacy-p{2 + at % 4}.pth"] = partial(legacy, beside(it), 2 + at % 4)
    for protocol in range(2, 6):
        makes[f"everything-p{protocol}.pth"] = partial(zipped, beside(BESIDE), protocol)
        makes[f"everything-legacy-p{protocol}.pth"] = partial(legacy, beside(BESIDE), protocol)
        makes[f"before-p{protocol}.pth"] = partial(zipped, {"extra": BESIDE["scheduler-new"], "model": state()}, protocol)
        makes[f"bare-p{protocol}.pt"] = partial(zipped, state(), protocol)
        makes[f"bare-legacy-p{protocol}.pt"] = partial(legacy, state(), protocol)
    with_metadata = Build(state(), {"_metadata": Items(Call(ORDERED), {"": {"version": 1}})})
    makes |= {
        "plain-dict.pth": partial(zipped, {"w": tensor()}),
        "state-dict.pth.tar": partial(zipped, {"state_dict": state(), "epoch": 3}),
        "metadata.bin": partial(zipped, with_metadata),
        "metadata-legacy.bin": partial(legacy, {"model": with_metadata}),
        "other-prefix.pth": partial(zipped, state(), prefix="deit_small"),
        "prefix-of-a-time.pth": partial(zipped, state(), prefix="loss<1? 12:30:00 \u00e9\u00a0\u4e2d"),
        "extra-state.pth": partial(zipped, state(**{"w": tensor(), "norm._extra_state": None})),
        "described.pth": lambda: archive([Entry(it.name, it.data + b"PK\x07\x08" + struct.pack("<3L", zlib.crc32(it.data),
            len(it.data), len(it.data)), size=len(it.data), packed=len(it.data), crc=zlib.crc32(it.data), flags=8,
            local={"crc": 0, "packed": 0, "size": 0}) for it in records(HONEST)]),
        "cuda.pth": partial(zipped, state(w=tensor(device="cuda:0"))),
        "cuda-legacy.pth": partial(legacy, state(w=tensor(device="cuda:0"))),
        "requires-grad.pth": partial(zipped, state(w=Call(REBUILD, (Storage(), 0, (2, 2), (2, 1), True, Call(ORDERED))))),
        "keys-as-texts.pth": partial(zipped, state(w=tensor(key="17")), data={"17": DATA["0"]}),
        "deflated.pth": lambda: archive([deflated("archive/data.pkl", HONEST), deflated("archive/data/0", DATA["0"]),
            Entry("archive/version", b"3\n")]),
        "without-byteorder.pth": lambda: archive([it for it in records(HONEST) if it.name != "archive/byteorder"]),
        "more-records.pth": partial(zipped, state(),
        more=(Entry("archive/.format_version", b"1"), Entry("archive/.data/serialization_id", b"1" * 40),
            Entry("archive/.storage_alignment", b"64"))),
        "zip64.pth": big_directory,
        "one.safetensors": lambda: safetensors({"w": described()}),
        "metadata.safetensors": lambda: safetensors({"__metadata__": {"format": "pt"}, "w": described()}),
        "spaces.safetensors": lambda: safetensors(json.dumps({"w": described()}).encode() + b"   "),
        "stored.npz": lambda: npz(Entry("w.npy", npy())),
        "deflated.npz": lambda: npz(deflated("w.npy", npy())),
        "version-2.npz": lambda: npz(Entry("w.npy", npy(version=b"\x02\x00"))),
        "fortran.npz": lambda: npz(Entry("w.npy",
            npy({"descr": "<f4", "fortran_order": True, "shape": (2, 2)}, VALUES.T.tobytes()))),
        "npz-named.pth": lambda: npz(Entry("w.npy", npy())),
        "zip-named.safetensors": partial(zipped, state()),
        "safetensors-named.pth": lambda: safetensors({"w": described()}),
    }  # fmt: skip
    found = {name: Honest(make, EXPECTED) for name, make in makes.items()}
    for container in (zipped, legacy):
        found[f"every-kind-{container.__name__}.pth"] = of_every_kind(container)
        found[f"every-view-{container.__name__}.pth"] = of_every_view(container)
    return found


def extra(code: bytes) -> bytes:
    """Valid weights, and beside them what opcodes make."""
    return in_zip(b"\x80\x04}(" + spelled("model") + spelled(state()) + spelled("extra") + code + b"u.")


def either() -> dict[str, Honest]:
    """Files of which a reader may say either: refuse them, or give the weights without falling for what stands beside them."""
    swapped_bytes = VALUES.astype(">f4").tobytes()
    records_of = partial(records, HONEST)
    makes: dict[str, Make] = {
        f"beside-{name}.pth": partial(lambda make: extra(make()), make)
        for name, make in (deep() | heavy()).items()
        if not name.endswith("-by-memo")
    }
    makes |= {
        "big-endian.pth": lambda: archive([Entry("archive/byteorder", b"big"),
            *[it for it in records(HONEST, {"0": swapped_bytes}) if it.name != "archive/byteorder"]]),
        "behind-stop.pth": lambda: in_zip(HONEST + b"garbage"),
        "payload-behind-stop.pth": lambda: in_zip(HONEST + pickled(Call(Global("os", "system"), ("true",)))),
        "payload-in-a-record-unread.pth": lambda: archive([*records_of(),
            Entry("archive/extra.pkl", pickled(Call(Global("os", "system"), ("true",))))]),
        "before-archive.pth": lambda: archive(records_of(), first=b"#!/bin/sh\nexit 0\n"),
        "pickle-before-archive.pth": lambda: archive(records_of(), first=pickled({"a": 1})),
        "behind-archive.pth": lambda: in_zip(HONEST) + b"garbage",
        "behind-legacy.pth": lambda: legacy(state()) + b"garbage",
        "crc.pth": lambda: swapped("data/0", crc=1),
        "left-on-the-stack.pth": lambda: in_zip(b"\x80\x02NN" + HONEST[2:]),
        "memo-index.pth": lambda: in_zip(b"\x80\x02Nr\xff\xff\xff\x7f0" + HONEST[2:]),
        "shadowed.pth": lambda: zipped(Build(state(), {"items": None, "keys": 5, "__class__": "x"})),
        "attributes-of-dict.pth": lambda: zipped(beside(Build(Call(ORDERED), {"__class__": Global("timm", "A")}))),
        "built-class.pth": lambda: zipped(beside(Build(Global("argparse", "Namespace"), (None, {"__init__": 5})))),
        "built-stub-class.pth": lambda: zipped(beside(Build(COSINE, {"__call__": 5}))),
        "called-stub.pth": lambda: zipped(beside(Call(Call(COSINE, ())))),
        "function-uncalled.pth": lambda: zipped(beside(Global("torch.hub", "load"))),
        "device.pth": lambda: zipped(beside(Call(Global("torch", "device"), ("cuda", 0)))),
        "parameter.pth": lambda: zipped(state(w=Call(Global("torch._utils", "_rebuild_parameter"),
            (tensor(), True, Call(ORDERED))))),
        "rebuild-v1.pth": lambda: zipped(state(w=Call(Global("torch._utils", "_rebuild_tensor"), (Storage(), 0, (2, 2), (2, 1))))),
        "metadata-of-tensor.pth": lambda: zipped(state(w=Call(REBUILD,
            (Storage(), 0, (2, 2), (2, 1), False, Call(ORDERED), None)))),
        "number-beside.pth": lambda: zipped({"w": tensor(), "epoch": 5}),
        "text-beside.pth": lambda: zipped({"w": tensor(), "name": "deit"}),
        "numpy-objects.pth": lambda: zipped(beside(Build(Call(Global("numpy.core.multiarray", "_reconstruct"),
            (Global("numpy", "ndarray"), (0,), b"b")),
                (1, (1,), Call(Global("numpy", "dtype"), ("O8", False, True)), False, [1])))),
        "protocol-1.pth": lambda: zipped(state(), 1),
        "protocol-1-legacy.pth": lambda: legacy(state(), 1),
        "unaligned.safetensors": lambda: safetensors({"a": described(dtype="U8", shape=[1], data_offsets=[0, 1]),
            "w": described(data_offsets=[1, 17])}, b"x" + DATA["0"]),
        "codec.pth": lambda: zipped(beside(Call(Global("_codecs", "encode"), ("x", "zlib_codec")))),
        "rebuild-by-newobj.pth": lambda: zipped(state(w=New(REBUILD, (Storage(), 0, (2, 2), (2, 1), False, Call(ORDERED))))),
        "storage-of-zip-in-legacy.pth": lambda: in_legacy(pickled(state())),
        "storage-of-legacy-in-zip.pth": lambda: in_zip(pickled(state(), legacy=True)),
        "extra-beyond.pth": lambda: swapped("data/0", extra=struct.pack("<HH", 1, 60_000)),
        "frame-short.pth": lambda: in_zip(b"\x80\x04\x95\x01" + bytes(7) + HONEST[2:]),
        "big-endian.npz": lambda: npz(Entry("w.npy",
            npy({"descr": ">f4", "fortran_order": False, "shape": (2, 2)}, swapped_bytes))),
        "version-3.npz": lambda: npz(Entry("w.npy", npy(version=b"\x03\x00"))),
    }  # fmt: skip
    return {name: Honest(make, EXPECTED) for name, make in makes.items()}


def mutated(count: int = 100) -> dict[str, Make]:
    """Honest files with a few bytes changed: whatever comes of them, it is weights or a refusal."""
    everything = beside({name: it for name, it in BESIDE.items() if not isinstance(it, Op)})
    wholes = {
        "zip.pth": zipped(everything), "zip-pickle.pth": pickled(everything, 4), "legacy.pth": legacy(everything),
        "st.safetensors": safetensors({"__metadata__": {"a": "b"}, "w": described()}), "st.npz": npz(Entry("w.npy", npy())),
    }  # fmt: skip
    return {
        f"{seed}-{name}": partial(mutate, whole, seed, name == "zip-pickle.pth")
        for name, whole in wholes.items()
        for seed in range(count)
    }


def mutate(whole: bytes, seed: int, pack: bool) -> bytes:
    chance, changed = random.Random(seed), bytearray(whole)
    for _ in range(chance.randint(1, 4)):
        changed[chance.randrange(len(changed))] = chance.choice((0, 1, 0x2E, 0x52, 0x7F, 0x80, 0xFF, chance.randrange(256)))
    return in_zip(bytes(changed)) if pack else bytes(changed)
