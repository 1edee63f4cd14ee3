"""The pickle machine: opcodes that find too little, lengths beyond the file, and values that are no weights."""

import gzip
import pickletools
import struct
from functools import partial
from typing import Any

from hostile.archives import HONEST
from hostile.containers import DATA, MEGA, REBUILD, in_legacy, in_zip, legacy, state, tensor, zipped
from hostile.nesting import DEEP, LAUGHS, deep, laughing, long
from hostile.pickles import ORDERED, Build, Call, Found, Global, New, Op, Storage, pickled, spelled

ARGUMENTS = {
    "uint1": bytes(1), "uint2": bytes(2), "int4": bytes(4), "uint4": bytes(4), "uint8": bytes(8), "float8": bytes(8),
    "long1": bytes(1),
    "long4": bytes(4), "string1": bytes(1), "string4": bytes(4), "bytes1": bytes(1), "bytes4": bytes(4), "bytes8": bytes(8),
    "bytearray8": bytes(8), "unicodestring1": bytes(1), "unicodestring4": bytes(4), "unicodestring8": bytes(8),
    "decimalnl_short": b"0\n",
    "decimalnl_long": b"0L\n", "floatnl": b"0.0\n", "stringnl": b"'x'\n", "stringnl_noescape": b"x\n",
    "stringnl_noescape_pair": b"torch\nSize\n",
    "unicodestringnl": b"x\n",
}  # fmt: skip
"""The shortest argument of each kind that opcodes take."""


def opcodes() -> Found:
    """Every opcode where it finds too little: an empty stack, nothing after a mark, half its argument."""
    for it in pickletools.opcodes:
        code, argument = it.code.encode("latin1"), ARGUMENTS[it.arg.name] if it.arg else b""
        yield f"op-{it.name}-alone", partial(in_zip, b"\x80\x04" + code + argument + b".")
        if it.stack_before:
            yield f"op-{it.name}-marked", partial(in_zip, b"\x80\x04(" + code + argument + b".")
            yield f"op-{it.name}-of-one", partial(in_zip, b"\x80\x04N" + code + argument + b".")
            yield f"op-{it.name}-of-numbers", partial(in_zip, b"\x80\x04K\x01K\x02K\x03" + code + argument + b".")
            yield f"op-{it.name}-of-state", partial(in_zip, b"\x80\x04" + spelled(state()) + b"K\x02K\x03" + code + argument + b".")
        if argument:
            yield f"op-{it.name}-cut", partial(in_zip, b"\x80\x04" + code + argument[:-1])
    for code in (0x00, 0x01, 0x5A, 0x79, 0x7E, 0x7F, 0x99, 0xA0, 0xFF):
        yield f"op-unknown-{code:02x}", partial(in_zip, b"\x80\x04" + bytes([code]) + b"N.")


LENGTHS = {
    "BINSTRING": (b"T", "<i", (-1, -(2**31), 2**31 - 1)), "LONG4": (b"\x8b", "<i", (-1, -(2**31), 2**31 - 1)),
    "BINUNICODE": (b"X", "<I", (2**31, 2**32 - 1)), "BINBYTES": (b"B", "<I", (2**31, 2**32 - 1)),
    "BINUNICODE8": (b"\x8d", "<Q", (2**31, 2**40, 2**63 - 1, 2**63, 2**64 - 1)),
    "BINBYTES8": (b"\x8e", "<Q", (2**31, 2**40, 2**63 - 1, 2**64 - 1)),
    "BYTEARRAY8": (b"\x96", "<Q", (2**31, 2**40, 2**63 - 1, 2**64 - 1)),
    "FRAME": (b"\x95", "<Q", (2**31, 2**40, 2**63 - 1, 2**64 - 1)),
    "LONG1": (b"\x8a", "<B", (255,)), "SHORT_BINBYTES": (b"C", "<B", (255,)), "SHORT_BINUNICODE": (b"\x8c", "<B", (255,)),
}  # fmt: skip

ORDERED_GLOBAL = b"ccollections\nOrderedDict\n"
BODIES: dict[str, bytes] = {
    "no-stop": HONEST[:-1], "nothing": b"", "only-protocol": b"\x80\x02", "only-stop": b".", "protocol-6": b"\x80\x06" + HONEST[2:],
    "protocol-255": b"\x80\xff" + HONEST[2:],
    **{f"get-{name}": code for name,
    code in {"missing": b"h\x07.", "long": b"j\x07\x00\x00\x00.", "text": b"g7\n.", "negative": b"g-1\n.", "nonsense": b"gx\n.",
        "long-2e32": b"j\xff\xff\xff\xff."}.items()},
    "put-negative": b"Np-1\n.", "put-nonsense": b"Npx\n.", "put-nothing": b"q\x00.", "pop-mark": b"N1.",
    **{f"int-{at}": b"I" + text + b"\n." for at,
    text in enumerate((b"", b"x", b"0x10", b"1_0", b" 1", b"\xef\xbc\x91", b"1.5", b"+", b"--1", b"1\0"))},
    **{f"float-{at}": b"F" + text + b"\n." for at,
    text in enumerate((b"", b"x", b"nan", b"inf", b"1_0", b"0x1p3", b"1e", b"\xff", b"1,5"))},
    **{f"string-{at}": b"S" + text + b"\n." for at,
    text in enumerate((b"", b"x", b"'", b"'x", b"x'", b"'\\x'", b"'\\", b"\"x'", b"'\xff'"))},
    "utf8-binunicode": b"X\x02\x00\x00\x00\xff\xfe.", "utf8-short": b"\x8c\x02\xff\xfe.",
    "utf8-8": b"\x8d\x02" + bytes(7) + b"\xff\xfe.", "utf8-overlong": b"\x8c\x02\xc0\xaf.",
    "utf8-as-name": b"}\x8c\x02\xff\xfe" + spelled(tensor()) + b"s.", "unicode-escape": b"V\\uZZZZ\n.",
    "unicode-escape-cut": b"V\\u12\n.", "unicode-escape-large": b"V\\Uffffffff\n.",
    "utf8-in-global": b"c\xff\xfe\nx\n.", "utf8-in-inst": b"(i\xff\xfe\nx\n.",
    **{f"global-{name}": code for name, code in {
        "no-newline": b"ctorch", "one-newline": b"ctorch\nSize", "empty": b"c\n\n.",
            "megabytes": b"cos\n" + b"a" * 2 * MEGA + b"\n.", "megabytes-module": b"c" + b"a." * MEGA + b"\nx\n)R.",
        "stack-ints": b"K\x01K\x02\x93.", "stack-none": b"NN\x93.", "stack-bytes": b"C\x02osC\x06system\x93.",
            "stack-lists": b"]]\x93.", "stack-stub": b"ctimm\nA\nctimm\nB\n\x93.", "stack-one": b"X\x02\x00\x00\x00os\x93.",
    }.items()},
    **{f"reduce-{name}": code + b")R." for name, code in {
        "text": b"X\x02\x00\x00\x00os", "none": b"N", "int": b"K\x01", "list": b"]", "dict": b"}", "tuple": b")",
            "stub-object": b"ctimm\nA\n)\x81", "ordered-object": ORDERED_GLOBAL + b")R", "tensor": bytes(spelled(tensor())),
    }.items()},
    **{f"reduce-args-{name}": ORDERED_GLOBAL + code + b"R." for name,
    code in {"none": b"N", "list": b"]", "text": b"X\x02\x00\x00\x00os", "int": b"K\x01", "dict": b"}",
        "numbers": b"K\x01K\x02K\x03\x87", "unpaired": b"](K\x01K\x02e\x85", "stub": b"ctimm\nA\n)\x81"}.items()},
    **{f"newobj-{name}": code + b"\x81." for name,
    code in {"text": b"X\x02\x00\x00\x00os)", "none": b"N)", "list": b"])", "args-list": b"ctimm\nA\n]",
        "args-none": b"ctimm\nA\nN", "object": b"ctimm\nA\n)\x81)"}.items()},
    **{f"newobj-ex-{name}": code + b"\x92." for name,
    code in {"kwargs-list": b"ctimm\nA\n)]", "kwargs-none": b"ctimm\nA\n)N", "args-list": b"ctimm\nA\n]}",
        "text": b"X\x02\x00\x00\x00os)}", "kwargs-ints": b"ctimm\nA\n)}K\x01K\x02s"}.items()},
    **{f"obj-{name}": b"(" + code + b"o." for name,
    code in {"text": b"X\x02\x00\x00\x00os", "none": b"N", "list": b"]", "object": b"ctimm\nA\n)\x81"}.items()},
    **{f"build-{name}": code + b"}b." for name,
    code in {"list": b"]", "text": b"X\x02\x00\x00\x00os", "int": b"K\x01", "none": b"N", "tuple": b")", "dict": b"}",
        "bytes": b"C\x01x", "set": b"\x8f", "true": b"\x88"}.items()},
    "append-to-dict": b"}Na.", "append-to-int": b"K\x01Na.", "append-to-text": b"\x8c\x01xNa.", "appends-to-dict": b"}(NNe.",
    "appends-to-none": b"N(NNe.",
    "setitem-on-list": b"]K\x00Ns.", "setitem-on-none": b"NK\x00Ns.", "setitems-on-list": b"](K\x00Nu.",
    "setitems-odd": b"}(K\x00NNu.", "dict-odd": b"(K\x00NNd.", "additems-to-list": b"](K\x00\x90.",
    "additems-to-dict": b"}(K\x00\x90.",
    "next-buffer": b"\x97.", "next-buffer-read-only": b"\x97\x98.", "read-only": b"N\x98.",
    "next-buffer-as-weights": b"}\x8c\x01w\x97s.",
    "key-list": b"}]Ns.", "key-dict": b"}}Ns.", "key-set": b"}\x8fNs.", "key-tensor": b"}" + spelled(tensor()) + b"Ns.",
    "key-bytearray": b"}\x96\x01" + bytes(7) + b"xNs.", "key-tuple-of-list": b"}]\x85Ns.",
    "keys-lists": b"}(]N]Nu.", "old-dict-key-list": b"(]Nd.", "set-of-lists": b"\x8f(]\x90.", "frozenset-of-lists": b"(]\x91.",
    "set-by-call-of-lists": b"c__builtin__\nset\n](]e\x85R.",

    "frame-of-frames": b"\x80\x04" + (b"\x95\x09" + bytes(7)) * 1000 + b"N.",
    "text-file": b"hello\n", "json": b'{"w": [1, 2]}', "gzip": gzip.compress(HONEST, mtime=0),
}  # fmt: skip

STATES: dict[str, Any] = {
    **{f"key-{name}": {it: tensor()} for name,
    it in {"int": 1, "none": None, "tuple": ("a", "b"), "bytes": b"w", "float": 1.0, "true": True,
        "stub": Global("timm", "A")}.items()},
    **{f"keys-mixed-{name}": {"w": tensor(), it: tensor()} for name, it in {"int": 1, "none": None, "bytes": b"w"}.items()},
    **{f"value-{name}": {"w": it} for name, it in {
        "int": 5, "text": "x", "none": None, "float": 1.0, "list": [1.0, 2.0], "bytes": DATA["0"], "storage": Storage(),
            "stub": New(Global("timm", "A"), ()), "global": Global("torch", "Size"),
        "numpy": Call(Global("numpy.core.multiarray", "scalar"), (Call(Global("numpy", "dtype"), ("f8", False, True)), b"\0" * 8)),
            "rebuild": REBUILD,
    }.items()},
    **{f"whole-{name}": it for name, it in {
        "tensor": tensor(), "list": [tensor()], "tuple": (tensor(), tensor()), "set": {1, 2}, "none": None, "int": 7,
            "text": "weights", "bytes": DATA["0"], "true": True, "empty-dict": {},
        "empty-ordered": Call(ORDERED), "model-empty": {"model": {}}, "model-none": {"model": None},
            "model-list": {"model": [tensor()]}, "module": New(Global("torch.nn.modules.linear", "Linear"), ()),
        "storage": Storage(), "stub": Build(New(Global("timm.models", "ViT"), ()), {"w": tensor()}),
            "numpy": Global("numpy", "ndarray"), "namespace": Build(Call(Global("argparse", "Namespace")), {"w": tensor()}),
    }.items()},
}  # fmt: skip


def machine() -> Found:
    yield from opcodes()
    for name, (code, form, numbers) in LENGTHS.items():
        for number in numbers:
            yield f"length-{name}-{number}", partial(in_zip, b"\x80\x04" + code + struct.pack(form, number) + b"abc.")
    for name, body in BODIES.items():
        yield name, partial(in_zip, body)
        if len(body) < 1000:
            yield f"{name}-in-legacy", partial(in_legacy, body)
    for name, it in STATES.items():
        yield f"state-{name}", partial(zipped, it, 3)
        yield f"state-{name}-in-legacy", partial(legacy, it, 3)
    for name, make in long().items():
        yield f"whole-{name}", partial(lambda make: in_zip(b"\x80\x04" + make() + b"."), make)
    for name, make in deep().items():
        yield f"model-{name}", partial(lambda make: in_zip(b"\x80\x04}X\x05\x00\x00\x00model" + make() + b"s."), make)
    for name in LAUGHS:
        make = partial(laughing, LAUGHS[name], 60)
        yield f"model-laughs-{name}", partial(lambda make: in_zip(b"\x80\x04}X\x05\x00\x00\x00model" + make() + b"s."), make)
        yield f"weight-laughs-{name}", partial(lambda make: in_zip(b"\x80\x04}X\x01\x00\x00\x00w" + make() + b"s."), make)
    for name in ("lists", "tuples"):
        yield f"legacy-{name}", partial(lambda make: in_legacy(b"\x80\x04" + make() + b"."), deep()[name])
        yield f"key-{name}", partial(lambda make: in_zip(b"\x80\x04}" + make() + b"Ns."), deep()[name])
        yield f"argument-{name}", partial(lambda make: in_zip(b"\x80\x04ctimm\nA\n" + make() + b"\x85R."), deep()[name])
        yield f"persistent-{name}", partial(lambda make: in_zip(b"\x80\x04" + make() + b"Q."), deep()[name])
        yield f"size-{name}", partial(lambda make: in_zip(pickled(state(w=tensor(size=Op(make()))), 2)), deep()[name])
    yield "deep-model-keys", lambda: in_zip(b"\x80\x04" + b"}X\x05\x00\x00\x00model" * DEEP + HONEST[2:-1] + b"s" * DEEP + b".")
    yield "itself-through-model", lambda: in_zip(b"\x80\x04}q\x00X\x05\x00\x00\x00modelh\x00s.")
    yield (
        "itself-through-state-dict",
        lambda: in_zip(b"\x80\x04}q\x00X\x0a\x00\x00\x00state_dicth\x00sX\x05\x00\x00\x00modelh\x00s."),
    )
    yield "itself-in-state", lambda: in_zip(b"\x80\x04}q\x00X\x01\x00\x00\x00w" + spelled(tensor()) + b"sX\x01\x00\x00\x00xh\x00s.")
