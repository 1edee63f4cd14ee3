"""A reader of pickles that builds containers and stubs, and cannot do anything else.

The instructions of protocols 0 to 5, as Python's `pickletools` documents them, over plain lists, dictionaries and
tuples.
"""

import re
import struct
from collections.abc import Callable
from typing import Any

from reforg.errors import WeightsError
from reforg.weights.checkpoints import limits
from reforg.weights.checkpoints.limits import require
from reforg.weights.checkpoints.machine import CALL, INT32, UINT16, UINT32, UINT64, Calls, Machine, kind_of
from reforg.weights.checkpoints.stubs import Stub

STOP = ord(".")
# Text within quotes: every escape that Python writes, and none that it warns of.
QUOTED = rb"""(?:[^\\]|\\(?:[\\'"abfnrtv\n]|x[0-9a-fA-F]{2}|[0-3][0-7]{2}|[0-7]{1,2}))*"""
HALVES = re.compile("[\ud800-\udfff]")
Handler = Callable[[Machine], None]


def load(
    data: Any,
    start: int = 0,
    end: int | None = None,
    calls: Calls | None = None,
    persistent: Callable[[Any], Any] | None = None,
) -> tuple[Any, int]:
    """The object that a pickle in `data[start:end]` describes, and where it ends; WeightsError where it is more than an object.

    calls: what stands for a function, by its path. persistent: what stands for a persistent id, an object elsewhere in the file.
    """
    machine = Machine(data, start, len(data) if end is None else end, calls or {}, persistent)
    while (code := machine.byte()) != STOP:
        machine.steps -= 1
        handler = HANDLERS[code]
        if handler is None or machine.steps < 0:
            machine.spend(0)
            raise WeightsError(f"its pickle has an instruction {code:#04x}, which no checkpoint needs")
        handler(machine)
    return machine.result(), machine.position


# Numbers and text


def _decimal(machine: Machine) -> int:
    line = machine.line()
    if line in (b"00", b"01"):
        return line == b"01"
    digits = line.removesuffix(b"L")
    require(re.fullmatch(rb"[+-]?\d{1,600}", digits) is not None, "its pickle holds a number that is none")
    return int(digits)


def _integer(machine: Machine, length: int) -> int:
    require(0 <= length <= limits.INTEGER, f"its pickle holds an integer of {length:,} bytes")
    return int.from_bytes(machine.take(length), "little", signed=True)


def _float_text(machine: Machine) -> float:
    try:
        return float(machine.line()[:400])
    except ValueError as error:
        raise WeightsError("its pickle holds a number that is none") from error


def _text(machine: Machine, length: int) -> str | Stub:
    piece = machine.piece(length)
    return Stub("text") if piece is None else machine.decoded(piece, "utf-8")


def _data(machine: Machine, length: int) -> bytes | Stub:
    piece = machine.piece(length)
    return Stub("bytes") if piece is None else piece


def _old_text(machine: Machine, length: int) -> str | bytes | Stub:
    """Python 2's strings: text where they can be."""
    piece = machine.piece(length)
    return Stub("bytes") if piece is None else _as_text(piece)


def _as_text(piece: bytes) -> str | bytes:
    try:
        return piece.decode("utf-8")
    except UnicodeDecodeError:
        return piece


def _quoted(machine: Machine) -> str | bytes:
    line = machine.line().strip()
    inner = line[1:-1]
    quoted = len(line) >= 2 and line[:1] == line[-1:] and line[:1] in (b"'", b'"')
    require(quoted and re.fullmatch(QUOTED, inner, re.DOTALL) is not None, "its pickle holds text without its quotes")
    return _as_text(machine.decoded(inner, "unicode_escape").encode("latin-1"))


def _escaped(machine: Machine) -> str:
    text = machine.decoded(machine.line(), "raw_unicode_escape")
    require(HALVES.search(text) is None, "its pickle holds half a letter")
    return text


# Instructions that push what they read
PUSHED: dict[bytes, Callable[[Machine], Any]] = {
    b"N": lambda _: None,
    b"\x88": lambda _: True,
    b"\x89": lambda _: False,
    b"I": _decimal,
    b"L": _decimal,
    b"J": lambda machine: machine.number(INT32),
    b"K": lambda machine: machine.byte(),
    b"M": lambda machine: machine.number(UINT16),
    b"\x8a": lambda machine: _integer(machine, machine.byte()),
    b"\x8b": lambda machine: _integer(machine, machine.number(INT32)),
    b"F": _float_text,
    b"G": lambda machine: struct.unpack(">d", machine.take(8))[0],
    b"V": _escaped,
    b"X": lambda machine: _text(machine, machine.number(UINT32)),
    b"\x8c": lambda machine: _text(machine, machine.byte()),
    b"\x8d": lambda machine: _text(machine, machine.number(UINT64)),
    b"S": _quoted,
    b"T": lambda machine: _old_text(machine, machine.number(INT32)),
    b"U": lambda machine: _old_text(machine, machine.byte()),
    b"B": lambda machine: _data(machine, machine.number(UINT32)),
    b"C": lambda machine: _data(machine, machine.byte()),
    b"\x8e": lambda machine: _data(machine, machine.number(UINT64)),
    b"\x96": lambda machine: _data(machine, machine.number(UINT64)),
    b"]": lambda _: [],
    b"}": lambda _: {},
    b")": lambda _: (),
    b"\x8f": lambda _: Stub("builtins.set"),
    b"2": lambda machine: machine.top(),
    b"g": lambda machine: machine.recalled(machine.index()),
    b"h": lambda machine: machine.recalled(machine.byte()),
    b"j": lambda machine: machine.recalled(machine.number(UINT32)),
    b"c": lambda machine: machine.named(machine.word(), machine.word()),
}


# Instructions that work on the stack


def _pop(machine: Machine) -> None:
    if machine.stack:
        machine.stack.pop()
    else:
        machine.pop_to_mark()


def _pop_mark(machine: Machine) -> None:
    machine.pop_to_mark()


def _append(machine: Machine) -> None:
    item = machine.pop()
    machine.extend([item])


def _set_item(machine: Machine) -> None:
    value, key = machine.pop(), machine.pop()
    machine.assign([key, value])


def _dict(machine: Machine) -> None:
    items = machine.pop_to_mark()
    machine.push({})
    machine.assign(items)


def _frozen_set(machine: Machine) -> None:
    machine.pop_to_mark()
    machine.push(Stub("builtins.frozenset"))


def _stack_global(machine: Machine) -> None:
    name, module = machine.pop(), machine.pop()
    machine.push(machine.named(module, name))


def _instance(machine: Machine) -> None:
    function = machine.named(machine.word(), machine.word())
    arguments = tuple(machine.pop_to_mark())
    machine.push(machine.called(function, arguments))


def _object(machine: Machine) -> None:
    items = machine.pop_to_mark()
    require(bool(items), "its pickle takes more than it made")
    machine.push(machine.called(items[0], tuple(items[1:])))


def _reduce(machine: Machine) -> None:
    arguments, function = machine.pop(), machine.pop()
    machine.push(machine.called(function, arguments))


def _new_with_keywords(machine: Machine) -> None:
    keywords, arguments, function = machine.pop(), machine.pop(), machine.pop()
    require(isinstance(keywords, dict), "its pickle has keyword arguments that are none")
    machine.push(machine.called(function, arguments))


def _build(machine: Machine) -> None:
    """State of an object: a stub needs none, and an OrderedDict's (torch's `_metadata`) is no weight."""
    machine.pop()
    target = machine.top()
    require(isinstance(target, Stub | dict), f"it would change {kind_of(target)}")


def _persistent(machine: Machine) -> None:
    identifier = machine.pop()
    machine.spend(CALL)
    if machine.persistent is None:
        raise WeightsError("it refers to an object outside of itself")
    machine.push(machine.persistent(identifier))


def _protocol(machine: Machine) -> None:
    protocol = machine.byte()
    require(protocol <= 5, f"its pickle is of protocol {protocol}, and there are 0 to 5")


def _frame(machine: Machine) -> None:
    require(machine.number(UINT64) <= machine.end - machine.position, "its pickle ends in the middle")


WORKED: dict[bytes, Handler] = {
    b"(": lambda machine: machine.mark(),
    b"0": _pop,
    b"1": _pop_mark,
    b"l": lambda machine: machine.push(machine.pop_to_mark()),
    b"t": lambda machine: machine.push(tuple(machine.pop_to_mark())),
    b"\x85": lambda machine: machine.push(machine.popped(1)),
    b"\x86": lambda machine: machine.push(machine.popped(2)),
    b"\x87": lambda machine: machine.push(machine.popped(3)),
    b"d": _dict,
    b"\x91": _frozen_set,
    b"a": _append,
    b"e": lambda machine: machine.extend(machine.pop_to_mark()),
    b"\x90": lambda machine: machine.extend(machine.pop_to_mark()),
    b"s": _set_item,
    b"u": lambda machine: machine.assign(machine.pop_to_mark()),
    b"p": lambda machine: machine.remember(machine.index()),
    b"q": lambda machine: machine.remember(machine.byte()),
    b"r": lambda machine: machine.remember(machine.number(UINT32)),
    b"\x94": lambda machine: machine.remember(len(machine.memo)),
    b"\x93": _stack_global,
    b"i": _instance,
    b"o": _object,
    b"R": _reduce,
    b"\x81": _reduce,
    b"\x92": _new_with_keywords,
    b"b": _build,
    b"Q": _persistent,
    b"\x80": _protocol,
    b"\x95": _frame,
}


def _pushing(make: Callable[[Machine], Any]) -> Handler:
    def handler(machine: Machine) -> None:
        value = make(machine)  # which may change what the stack is
        machine.stack.append(value)

    return handler


HANDLERS: list[Handler | None] = [None] * 256
for _code, _make in PUSHED.items():
    HANDLERS[_code[0]] = _pushing(_make)
for _code, _handler in WORKED.items():
    HANDLERS[_code[0]] = _handler
