"""Pickles: values and calls as small records, and a writer that spells them in the opcodes of a protocol."""

import struct
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

Make = Callable[[], bytes]
Found = Iterator[tuple[str, Make]]


class Op(bytes):
    """Opcodes as they stand, among values that the writer spells."""

    __slots__ = ()


@dataclass(frozen=True)
class Global:
    module: str
    name: str


@dataclass(frozen=True)
class Call:
    function: Any
    args: Any = ()


@dataclass(frozen=True)
class New:
    cls: Any
    args: Any = ()


@dataclass(frozen=True)
class Build:
    target: Any
    state: Any


@dataclass(frozen=True)
class Items:
    """An object that is made empty and then filled: a dictionary's items, or a list's."""

    target: Any
    items: dict[Any, Any] | list[Any]


@dataclass(frozen=True)
class Persistent:
    id: Any


@dataclass(frozen=True)
class Storage:
    numel: Any = 4
    kind: Any = "FloatStorage"
    key: Any = "0"
    device: Any = "cpu"
    view: Any = None  # what only pre-1.6 has


ORDERED = Global("collections", "OrderedDict")
PYTHON_2 = {"builtins": "__builtin__", "copyreg": "copy_reg"}  # as protocols 0 to 2 spell them


class Writer:
    """Spells a value in a pickle protocol; texts and globals that come again are taken from the memo, as torch does it."""

    def __init__(self, protocol: int = 2, legacy: bool = False, remembers: bool = True) -> None:
        self.protocol = protocol
        self.legacy = legacy
        self.remembers = remembers
        self.memo: dict[Any, int] = {}

    def value(self, it: Any) -> bytes:
        match it:
            case Op():
                return bytes(it)
            case None:
                return b"N"
            case bool():
                return (b"\x88" if it else b"\x89") if self.protocol >= 2 else b"I01\n" if it else b"I00\n"
            case int():
                return self.integer(it)
            case float():
                return b"G" + struct.pack(">d", it) if self.protocol else b"F" + repr(it).encode() + b"\n"
            case str():
                return self.remembered(it, self.text(it))
            case bytes():
                return self.raw(it)
            case bytearray():
                return self.value(Call(Global("builtins", "bytearray"), (bytes(it),)))
            case tuple():
                return self.tuple(it)
            case list():
                return self.filled(b"]" if self.protocol else b"(l", it)
            case dict():
                return self.filled(b"}" if self.protocol else b"(d", it)
            case set() | frozenset():
                return self.set(it)
            case _:
                return self.object(it)

    def object(self, it: Any) -> bytes:
        match it:
            case Global():
                return self.remembered(it, self.imported(it))
            case Call(function, args):
                return self.value(function) + self.value(args) + b"R"
            case New(cls, args):
                return self.value(cls) + self.value(args) + b"\x81"
            case Build(target, state):
                return self.value(target) + self.value(state) + b"b"
            case Items(target, items):
                return self.filled(self.value(target), items)
            case Persistent(id_):
                return self.value(id_) + b"Q"
            case Storage():
                kind = Global("torch", it.kind) if isinstance(it.kind, str) else it.kind
                return self.value(Persistent(("storage", kind, it.key, it.device, it.numel, *[it.view] * self.legacy)))
        raise TypeError(type(it))

    def integer(self, it: int) -> bytes:
        if self.protocol and 0 <= it < 256:
            return b"K" + bytes([it])
        if self.protocol and -(2**31) <= it < 2**31:
            return b"J" + struct.pack("<i", it)
        if self.protocol < 2:
            return b"L%dL\n" % it if abs(it) >= 2**31 else b"I%d\n" % it
        packed = it.to_bytes(it.bit_length() // 8 + 1, "little", signed=True)
        return b"\x8a" + bytes([len(packed)]) + packed

    def text(self, it: str) -> bytes:
        if not self.protocol:
            return b"V" + it.replace("\\", "\\u005c").replace("\n", "\\u000a").encode("raw_unicode_escape") + b"\n"
        coded = it.encode("utf-8", "surrogatepass")
        if self.protocol >= 4 and len(coded) < 256:
            return b"\x8c" + bytes([len(coded)]) + coded
        return b"X" + struct.pack("<I", len(coded)) + coded

    def raw(self, it: bytes) -> bytes:
        if self.protocol < 3:
            return self.value(Call(Global("_codecs", "encode"), (it.decode("latin1"), "latin1")))
        return b"C" + bytes([len(it)]) + it if len(it) < 256 else b"B" + struct.pack("<I", len(it)) + it

    def tuple(self, it: tuple[Any, ...]) -> bytes:
        content = b"".join(map(self.value, it))
        if self.protocol < 2:
            return b"(" + content + b"t"
        return content + (b")", b"\x85", b"\x86", b"\x87")[len(it)] if len(it) < 4 else b"(" + content + b"t"

    def set(self, it: Any) -> bytes:
        if self.protocol >= 4 and isinstance(it, set):
            return b"\x8f(" + b"".join(map(self.value, sorted(it))) + b"\x90"
        return self.value(Call(Global("builtins", type(it).__name__), (sorted(it),)))

    def filled(self, start: bytes, items: Any) -> bytes:
        flat = [part for item in items.items() for part in item] if isinstance(items, dict) else items
        single, many = (b"s", b"u") if isinstance(items, dict) else (b"a", b"e")
        if self.protocol:
            return start + (b"(" + b"".join(map(self.value, flat)) + many if flat else b"")
        width = 2 if isinstance(items, dict) else 1
        return start + b"".join(self.value(part) + (single if (at + 1) % width == 0 else b"") for at, part in enumerate(flat))

    def imported(self, it: Global) -> bytes:
        if self.protocol >= 4:
            return self.value(it.module) + self.value(it.name) + b"\x93"
        module = PYTHON_2.get(it.module, it.module) if self.protocol < 3 else it.module
        return line(b"c", module, it.name)

    def remembered(self, it: Any, spelled: bytes) -> bytes:
        if not self.remembers:
            return spelled
        if it in self.memo:
            at = self.memo[it]
            return b"g%d\n" % at if not self.protocol else b"h" + bytes([at]) if at < 256 else b"j" + struct.pack("<I", at)
        at = self.memo[it] = len(self.memo)
        if self.protocol >= 4:
            return spelled + b"\x94"
        return spelled + (b"p%d\n" % at if not self.protocol else b"q" + bytes([at]) if at < 256 else b"r" + struct.pack("<I", at))


def line(opcode: bytes, *texts: str) -> bytes:
    return opcode + b"".join(text.encode() + b"\n" for text in texts)


def spelled(it: Any) -> Op:
    """A value's opcodes without memo, for use inside any pickle."""
    return Op(Writer(3, remembers=False).value(it))


def pickled(it: Any, protocol: int = 2, legacy: bool = False) -> bytes:
    body = Writer(protocol, legacy).value(it) + b"."
    frame = b"\x95" + struct.pack("<Q", len(body)) if protocol >= 4 else b""
    return (b"\x80" + bytes([protocol]) if protocol >= 2 else b"") + frame + body
