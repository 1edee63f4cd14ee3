"""Values nested so deep, so often or so long that reading them takes the stack, the memory or the time."""

import struct
from functools import partial

from hostile.containers import MEGA
from hostile.pickles import Build, Call, Global, Make, line, spelled


def laughing(make: bytes, depth: int, first: bytes = b"]") -> bytes:
    """Each level holds the level below twice: 2**depth things in `depth` levels."""
    return first + b"".join(b"q\x00" + b"0" + make.replace(b"X", b"h\x00") for _ in range(depth))


def colliding(count: int, value: bytes = b"") -> bytes:
    """Integers that all hash to 0, each with the same value behind it."""
    return b"".join(b"\x8a\x0c" + (at * (2**61 - 1)).to_bytes(12, "little") + value for at in range(count))


DEEP = 100_000
LAUGHS = {
    "lists": b"](XXe",
    "tuples": b"XX\x86",
    "dicts": b"}(K\x01XK\x02Xu",
    "ordered": b"ccollections\nOrderedDict\n)R(K\x01XK\x02Xu",
}
OBJECT = {"namespace": "argparse\nNamespace", "stub": "timm\nConfig", "ordered": "collections\nOrderedDict"}


def deep() -> dict[str, Make]:
    """Values nested so deep, or in themselves, that a recursion over them overflows; opcodes only, to stand beside weights."""
    pair, cfg = b"X\x01\x00\x00\x00k", b"ctimm\nConfig\n"
    return {
        "lists": lambda: b"]" * DEEP + b"a" * (DEEP - 1),
        "lists-by-memo": lambda: b"]q\x000" + b"]h\x00aq\x000" * DEEP + b"h\x00",
        "tuples": lambda: b")" + b"\x85" * 2 * DEEP,
        "tuples-by-mark": lambda: b"(" * DEEP + b"t" * DEEP,
        "tuples-by-memo": lambda: b")q\x000" + b"h\x00\x85q\x000" * DEEP + b"h\x00",
        "dicts": lambda: (b"}" + pair) * DEEP + b"N" + b"s" * DEEP,
        "dicts-by-memo": lambda: b"}q\x000" + (b"}" + pair + b"h\x00sq\x000") * DEEP + b"h\x00",
        "ordered": lambda: b"ccollections\nOrderedDict\nq\x010" + (b"h\x01)R" + pair) * DEEP + b"N" + b"s" * DEEP,
        "stubs": lambda: cfg + b"q\x010" + b"h\x01)\x81" * DEEP + b"N" + b"b" * DEEP,
        "stubs-of-stubs": lambda: cfg + b"q\x010" + b"N" + (b"\x85q\x000h\x01h\x00R") * DEEP,
        "namespaces": lambda: b"cargparse\nNamespace\nq\x010" + (b"h\x01)R}" + pair) * DEEP + b"N" + b"sb" * DEEP,
        "sets": lambda: b"c__builtin__\nfrozenset\nq\x010)" + b"q\x000h\x01](h\x00e\x85R" * DEEP,
        "deques": lambda: b"ccollections\ndeque\nq\x010)" + b"q\x000h\x01](h\x00e\x85R" * DEEP,
        "numpy": lambda: b"cnumpy\ndtype\nq\x010N" + b"\x85q\x000h\x01h\x00R" * DEEP,
        "itself-list": lambda: b"]q\x00h\x00a",
        "itself-dict": lambda: b"}q\x00X\x01\x00\x00\x00kh\x00s",
        "itself-tuple": lambda: b"]q\x00h\x00\x85a\x85",
        "itself-stub": lambda: b"ctimm\nConfig\n)\x81q\x00}X\x01\x00\x00\x00kh\x00sb",
        "itself-namespace": lambda: b"cargparse\nNamespace\n)Rq\x00}X\x01\x00\x00\x00kh\x00sb",
        "itself-ordered": lambda: b"ccollections\nOrderedDict\n)Rq\x00X\x01\x00\x00\x00kh\x00s",
        "itself-state": lambda: b"ctimm\nConfig\n)\x81q\x00h\x00b",
    }


def over_and_over(args: bytes, function: bytes) -> bytes:
    """A function called thousands of times on the same large argument."""
    return args + b"q\x000(" + (function + b"h\x00R") * 5_000 + b"t"


def heavy() -> dict[str, Make]:
    """Values that cost far more time or memory than their bytes tell; opcodes only."""
    mega_of_text = struct.pack("<I", MEGA) + b"a" * MEGA
    found: dict[str, Make] = {
        **{f"laughs-{name}": partial(laughing, make, 60) for name, make in LAUGHS.items()},
        "laughs-tuple-key": lambda: b"}" + laughing(LAUGHS["tuples"], 60, first=b")") + b"Ns",
        "laughs-frozensets": lambda: b"cbuiltins\nfrozenset\nq\x010" + laughing(b"h\x01XX\x86\x85R", 60, first=b")"),
        "laughs-of-text": lambda: laughing(LAUGHS["lists"], 60, first=b"X\x00\x00\x10\x00" + b"a" * MEGA),
        "colliding-dict": lambda: b"}(" + colliding(60_000, b"N") + b"u",
        "colliding-ordered": lambda: b"ccollections\nOrderedDict\n)R(" + colliding(60_000, b"N") + b"u",
        "colliding-set": lambda: b"\x8f(" + colliding(60_000) + b"\x90",
        "colliding-frozenset": lambda: b"(" + colliding(60_000) + b"\x91",
        "colliding-set-by-call": lambda: b"c__builtin__\nset\n](" + colliding(60_000) + b"e\x85R",
        "colliding-counter": lambda: b"ccollections\nCounter\n](" + colliding(60_000) + b"e\x85R",
        "colliding-tuples": lambda: b"}(" + colliding(60_000, b"\x85N") + b"u",
        "colliding-old-dict": lambda: b"(" + colliding(60_000, b"N") + b"d",
        **{f"over-and-over-{name}": partial(over_and_over, b"](" + b"K\x01" * 200_000 + b"e\x85", line(b"c", *it)) for name, it in {
            "set": ("__builtin__", "set"), "frozenset": ("__builtin__", "frozenset"), "list": ("__builtin__", "list"),
                "tuple": ("__builtin__", "tuple"),
            "deque": ("collections", "deque"), "counter": ("collections", "Counter"), "bytearray": ("__builtin__", "bytearray"),
                "size": ("torch", "Size"),
            "stub": ("timm", "Config"), "namespace": ("argparse", "Namespace"),
        }.items()},
        "over-and-over-ordered": lambda: over_and_over(b"](" + b"K\x01N\x86" * 100_000 + b"e\x85", b"ccollections\nOrderedDict\n"),
        "over-and-over-text": lambda: over_and_over(b"X" + mega_of_text + b"X\x06\x00\x00\x00latin1\x86", b"c_codecs\nencode\n"),
        "over-and-over-bytes": lambda: over_and_over(b"B" + mega_of_text + b"\x85", b"c__builtin__\nbytearray\n"),
        "over-and-over-numpy": lambda: over_and_over(
            b"cnumpy\ndtype\nX\x08\x00\x00\x00V1048576\x85RB" + mega_of_text + b"\x86", b"cnumpy.core.multiarray\nscalar\n"
        ),
        **{f"allocates-{name}": partial(spelled, it) for name, it in {
            "bytearray": Call(Global("builtins", "bytearray"), (10**10,)), "bytes": Call(Global("builtins", "bytes"), (10**10,)),
            "deque": Call(Global("collections", "deque"), (Call(Global("builtins", "range"), (10**12,)), 10**9)),
            "list": Call(Global("builtins", "list"), (Call(Global("builtins", "range"), (10**12,)),)),
            "numpy": Call(Global("numpy.core.multiarray", "_reconstruct"), (Global("numpy", "ndarray"), (10**10,), b"b")),
            "numpy-shape": Build(Call(Global("numpy.core.multiarray", "_reconstruct"), (Global("numpy", "ndarray"), (0,), b"b")),
                (1, (10**10,), Call(Global("numpy", "dtype"), ("f8", False, True)), False, b"")),
            "numpy-dtype": Call(Global("numpy", "dtype"), ("V" + "9" * 9, False, True)),
            "numpy-ndarray": Call(Global("numpy", "ndarray"), ((10**10,),)),
            "storage": Call(Global("torch", "FloatStorage"), (10**11,)),
            "tensor": Call(Global("torch", "Tensor"), (10**6, 10**6)),
            "complex": Call(Global("builtins", "complex"), ("9" * MEGA,)),
            "int": Call(Global("builtins", "int"), ("9" * 3 * MEGA,)),
            "path": Call(Global("pathlib", "PosixPath"), ("a/" * MEGA,)),
        }.items()},
        "memo-2e31": lambda: b"Nr" + struct.pack("<I", 2**31 - 1),
        "memo-2e32": lambda: b"Nr" + struct.pack("<I", 2**32 - 1),
        "memo-text-1e30": lambda: b"Np1" + b"0" * 30 + b"\n",
        "int-of-a-million-digits": lambda: b"I" + b"9" * 1_000_000 + b"\n",
        "long-of-a-million-digits": lambda: b"L" + b"9" * 1_000_000 + b"L\n",
        "float-of-a-million-digits": lambda: b"F" + b"9" * 1_000_000 + b"\n",
        "float-1e999999": lambda: b"F1e999999\n",
        "long4-of-megabytes": lambda: b"\x8b" + struct.pack("<i", 4 * MEGA) + b"\x7f" * 4 * MEGA,
    }  # fmt: skip
    return found


def long() -> dict[str, Make]:
    """Millions of operations, none of which does much."""
    return {
        "memo-millions": lambda: b"N" + b"\x94" * 2_000_000,
        "nones": lambda: b"N0" * 1_500_000 + b"N",
        "marks": lambda: b"(" * 2_000_000 + b"1" * 2_000_000 + b"N",
        "duplicates": lambda: b"N" + b"2" * 2_000_000 + b"0" * 2_000_000,
        "empty-lists": lambda: b"](" + b"]" * 2_000_000 + b"e",
        "empty-dicts": lambda: b"](" + b"}" * 2_000_000 + b"e",
        "empty-sets": lambda: b"](" + b"\x8f" * 2_000_000 + b"e",
        "globals": lambda: b"](" + b"cA\nB\n" * 400_000 + b"e",
        "stubs": lambda: b"cA\nB\nq\x000](" + b"h\x00)\x81" * 500_000 + b"e",
    }
