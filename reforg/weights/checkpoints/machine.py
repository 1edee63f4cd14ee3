"""The state of a pickle machine: a stack, marks, a memo, and what may be taken from the file or made out of it.

A class is a name that is never imported; a call is looked up in a table of our own functions, or makes an inert stub,
or refuses the file. The number of steps, the open marks, every length and all text together are limited.
"""

import re
import struct
from collections.abc import Callable, Mapping
from typing import Any

from reforg.errors import WeightsError
from reforg.weights.checkpoints import limits
from reforg.weights.checkpoints.imports import is_data, named
from reforg.weights.checkpoints.limits import require
from reforg.weights.checkpoints.stubs import Global, Stub

Calls = Mapping[str, Callable[..., Any]]
ENDS = "its pickle ends in the middle"
CALL, STUB = 10, 2  # steps that a name or a call counts for, and a call that makes a stub
EMPTY = "its pickle takes more than it made"
UINT16, UINT32, UINT64, INT32 = (struct.Struct(form) for form in ("<H", "<I", "<Q", "<i"))
INT64 = 1 << 63
KEYS = (str, bytes, float, bool, type(None))


class Machine:
    """What the instructions of one pickle in `data[start:end]` work on; `position` is the next of them.

    calls: what stands for a function, by its path; any other call makes a stub or is refused.
    persistent: what stands for a persistent id, an object that lies elsewhere in the file.
    """

    def __init__(self, data: Any, start: int, end: int, calls: Calls, persistent: Callable[[Any], Any] | None) -> None:
        self.data, self.position, self.end = data, start, end
        self.calls: Calls = {**CONTAINERS, **FUNCTIONS, **calls}
        self.persistent = persistent
        self.stack: list[Any] = []
        self.below_marks: list[list[Any]] = []  # what lies under each open mark
        self.memo: dict[int, Any] = {}  # a dictionary, so that no index can make it grow
        self.steps = limits.OPERATIONS
        self.room = limits.TEXT
        self.unused: set[str] = set()  # functions that were named and not yet called as an honest checkpoint does

    def spend(self, steps: int) -> None:
        """Count work done."""
        self.steps -= steps
        if self.steps < 0:
            raise WeightsError(f"its pickle takes more than {limits.OPERATIONS:,} steps")

    # The stack

    def push(self, value: Any) -> None:
        """Put a value on top."""
        self.stack.append(value)

    def pop(self) -> Any:
        """Take the top value off."""
        if not self.stack:
            raise WeightsError(EMPTY)
        return self.stack.pop()

    def popped(self, count: int) -> tuple[Any, ...]:
        """The top values, taken off, lowest first."""
        require(len(self.stack) >= count, EMPTY)
        items = tuple(self.stack[-count:])
        del self.stack[-count:]
        return items

    def top(self) -> Any:
        """The top value, which stays."""
        if not self.stack:
            raise WeightsError(EMPTY)
        return self.stack[-1]

    def mark(self) -> None:
        """Remember this height of the stack."""
        require(len(self.below_marks) < limits.MARKS, f"its pickle nests deeper than {limits.MARKS} marks")
        self.below_marks.append(self.stack)
        self.stack = []

    def pop_to_mark(self) -> list[Any]:
        """Everything above the last mark, taken off together with the mark."""
        require(bool(self.below_marks), EMPTY)
        items, self.stack = self.stack, self.below_marks.pop()
        return items

    def remember(self, index: int) -> None:
        """Keep the top value in the memo."""
        self.memo[index] = self.top()

    def recalled(self, index: int) -> Any:
        """A value of the memo."""
        if index not in self.memo:
            raise WeightsError("its pickle refers to what it never made")
        return self.memo[index]

    # What an instruction reads

    def byte(self) -> int:
        """The next byte."""
        position = self.position
        if position >= self.end:
            raise WeightsError(ENDS)
        self.position = position + 1
        value: int = self.data[position]
        return value

    def take(self, length: int) -> bytes:
        """The next bytes."""
        start, self.position = self.position, self.position + length
        if self.position > self.end:
            raise WeightsError(ENDS)
        taken: bytes = self.data[start : self.position]
        return taken

    def number(self, form: struct.Struct) -> int:
        """An integer of that form."""
        start, self.position = self.position, self.position + form.size
        if self.position > self.end:
            raise WeightsError(ENDS)
        value: int = form.unpack_from(self.data, start)[0]
        return value

    def line(self) -> bytes:
        """Up to the next line feed, without it."""
        self.spend(2)
        stop = self.data.find(b"\n", self.position, min(self.end, self.position + limits.LINE))
        require(stop >= 0, "its pickle has a line without end")
        self.read(stop - self.position)
        return self.take(stop + 1 - self.position)[:-1]

    def word(self) -> str:
        """A line as text."""
        return self.decoded(self.line(), "utf-8")

    def index(self) -> int:
        """A line as an index of the memo."""
        line = self.line()
        require(re.fullmatch(rb"\d{1,10}", line) is not None, "its pickle has an index that is no number")
        return int(line)

    def piece(self, length: int) -> bytes | None:
        """Bytes of text or data; None, passed over, where they are too many to be a name."""
        require(0 <= length <= self.end - self.position, ENDS)
        if length > limits.PIECE:
            self.position += length
            return None
        self.read(length)
        return self.take(length)

    def read(self, length: int) -> None:
        """Count text read."""
        self.room -= length
        require(self.room >= 0, "its pickle holds more text than any checkpoint")

    def named(self, module: Any, name: Any) -> Global:
        """The stand-in for a class or function."""
        self.spend(CALL)
        found = named(module, name)
        if found.path in FUNCTIONS:
            self.unused.add(found.path)
        return found

    def decoded(self, text: bytes, encoding: str) -> str:
        """Bytes as text."""
        try:
            return text.decode(encoding)
        except UnicodeDecodeError as error:
            raise WeightsError(f"its pickle holds text that is not {encoding}") from error

    # What an instruction makes

    def extend(self, items: list[Any]) -> None:
        """Add items to the list on top; a stub forgets them."""
        target = self.top()
        if isinstance(target, list):
            target.extend(items)
        else:
            require(isinstance(target, Stub), f"it would add items to {kind_of(target)}")

    def assign(self, pairs: list[Any]) -> None:
        """Set keys and values, given by turns, of the dictionary on top; a stub forgets them."""
        target = self.top()
        require(len(pairs) % 2 == 0, "its pickle has a key without a value")
        require(isinstance(target, dict | Stub), f"it would set items of {kind_of(target)}")
        if isinstance(target, dict):
            fill(target, pairs)

    def called(self, function: Any, arguments: Any) -> Any:
        """The result of one of our functions, or a stub for an object; WeightsError for any other call."""
        if not isinstance(function, Global):
            raise WeightsError(f"it would call {kind_of(function)}")
        if not isinstance(arguments, tuple):
            raise WeightsError(f"it would call {function} with {kind_of(arguments)} for arguments")
        if function.path not in self.calls:
            self.spend(STUB)
            require(is_data(function.path), f"it would call {function}, which no honest checkpoint needs")
            return Stub(function.path)
        self.spend(CALL + sum(len(argument) for argument in arguments if isinstance(argument, list | dict | tuple)))
        self.unused.discard(function.path)
        try:
            return self.calls[function.path](*arguments)
        except TypeError as error:
            raise WeightsError(f"it gives {function} arguments that do not fit") from error

    def result(self) -> Any:
        """What the pickle describes, at its end; WeightsError where it named a function that is of use only to be called."""
        for path in self.unused:
            raise WeightsError(f"it would import {path}, which no honest checkpoint needs")
        return self.pop()


def fill(target: dict[Any, Any], pairs: list[Any]) -> None:
    """Set keys and values, given by turns. Keys that are no plain scalars are left out: no weights are under them.

    Hashing a tuple of tuples has no bound, and integers of any size can be made to collide.
    """
    for position in range(0, len(pairs), 2):
        key = pairs[position]
        if type(key) in KEYS or (type(key) is int and -INT64 <= key < INT64):
            target[key] = pairs[position + 1]


def kind_of(value: Any) -> str:
    """A word for what a value is, for a sentence."""
    return str(value) if isinstance(value, Stub | Global) else f"a {type(value).__name__}"


def _mapping(pairs: Any = ()) -> dict[Any, Any]:
    """OrderedDict and Counter: empty, of a dictionary, or of a list of pairs."""
    if isinstance(pairs, dict):
        return dict(pairs)
    target: dict[Any, Any] = {}
    for pair in pairs if isinstance(pairs, list | tuple) else [pairs]:
        require(isinstance(pair, list | tuple) and len(pair) == 2, "it makes a dictionary of something else than pairs")
        fill(target, list(pair))
    return target


def _default_mapping(*_: Any) -> dict[Any, Any]:
    return {}


def _attribute(target: Any, name: Any) -> Global | Stub:
    """getattr, with which a pickle of protocol 2 names what is within a class: the same policy as for a name of its own."""
    if isinstance(target, Global) and isinstance(name, str):
        return named(target.path, name)
    plain = isinstance(target, Stub) and isinstance(name, str) and not name.startswith("_")
    require(plain, f"it would read an attribute of {kind_of(target)}")
    return Stub("attribute")


def _item(target: Any, _: Any) -> Stub:
    """operator.getitem, with which a pickle spells Optional[int]."""
    require(isinstance(target, Global) and target.path.startswith("typing."), f"it would read an item of {kind_of(target)}")
    return Stub("typing")


def _type(of: Any) -> Stub:
    """type(None), which a pickle cannot name."""
    require(of is None or isinstance(of, Global), f"it would ask for the type of {kind_of(of)}")
    return Stub("builtins.type")


FUNCTIONS: Calls = {"builtins.getattr": _attribute, "_operator.getitem": _item, "builtins.type": _type}
CONTAINERS: Calls = {
    "collections.OrderedDict": _mapping,
    "collections.Counter": _mapping,
    "collections.defaultdict": _default_mapping,
}
