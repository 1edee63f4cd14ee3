"""What a checkpoint holds besides weights, in words; in time that its size bounds, however often its parts are shared."""

from collections.abc import Iterable, Mapping
from itertools import islice
from typing import Any

from reforg.weights.checkpoints import Entry, Stub

LISTED = 50  # things that a report tells of
WORDS = 60  # characters of a value that it shows


def is_array(value: Any) -> bool:
    """Whether a value is a tensor, of a file or of any library."""
    return isinstance(value, Entry) or (hasattr(value, "shape") and hasattr(value, "dtype"))


def report(things: Iterable[tuple[Any, Any]]) -> tuple[str, ...]:
    """'name (what it is)' for each, a part that several share counted once; of very many, how many more."""
    every = list(things)
    seen: set[int] = set()
    lines = [f"{_name(key)} ({described(value, seen)})" for key, value in every[:LISTED]]
    return (*lines, f"and {len(every) - LISTED:,} more") if len(every) > LISTED else tuple(lines)


def described(value: Any, seen: set[int] | None = None) -> str:
    """What a value of a checkpoint is, in a few words. seen: parts that were counted before."""
    if isinstance(value, Entry):
        return f"a tensor {value.shape}"
    if isinstance(value, Stub):
        return f"an object of {value.path}"
    if isinstance(value, Mapping | list | tuple):
        return _of_container(value, set() if seen is None else seen)
    if isinstance(value, str):
        return repr(_short(value))
    if isinstance(value, int) and value.bit_length() > 64:
        return "a number"
    return repr(value) if isinstance(value, int | float | None) else type(value).__name__


def _of_container(value: Mapping[Any, Any] | list[Any] | tuple[Any, ...], seen: set[int]) -> str:
    kind = "mapping" if isinstance(value, Mapping) else "list"
    if not value:
        return f"an empty {kind}"
    if arrays := _arrays_in(value, seen):
        return f"{arrays:,} tensors"
    if kind == "list":
        return f"a list of {len(value):,}"
    return f"a mapping of {len(value):,}: {', '.join(_name(key, 40) for key in islice(value, 6))}"


def _arrays_in(value: Any, seen: set[int]) -> int:
    """How many tensors there are in a container and in the containers within it, those of `seen` left out."""
    count = 0
    pending = [value]
    while pending:
        item = pending.pop()
        if not isinstance(item, Mapping | list | tuple):
            count += is_array(item)
        elif item and id(item) not in seen:
            seen.add(id(item))
            pending.extend(item.values() if isinstance(item, Mapping) else item)
    return count


def _name(key: Any, most: int = WORDS) -> str:
    """A key, which is a plain value."""
    return _short(key if isinstance(key, str) else repr(key), most)


def _short(text: str, most: int = WORDS) -> str:
    return text if len(text) <= most else text[: most - 3] + "..."
