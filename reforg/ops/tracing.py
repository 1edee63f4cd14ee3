"""Naming intermediates where they arise: `x = trace("blocks.3.norm1", layer_norm(x, ...))`."""

from collections.abc import Callable, Iterable
from fnmatch import fnmatchcase

from reforg.arrays import Array

Trace = Callable[[str, Array], Array]
"""Takes a name and a value and returns the value."""


def untraced(name: str, value: Array) -> Array:  # noqa: ARG001  the name is what a recording trace would keep
    """The trace that keeps nothing."""
    return value


class Recorder:
    """A trace that keeps values under their names, in the order of execution.

    `patterns` (fnmatch) chooses what is kept; None keeps everything. A name given twice keeps the last value.
    """

    def __init__(self, patterns: Iterable[str] | None = None) -> None:
        self.values: dict[str, Array] = {}
        self.seen: list[str] = []
        self._patterns = None if patterns is None else tuple(patterns)

    def __call__(self, name: str, value: Array) -> Array:
        """Keep the value, where its name is wanted, and return it."""
        self.seen.append(name)
        if self._patterns is None or any(fnmatchcase(name, pattern) for pattern in self._patterns):
            self.values[name] = value
        return value

    @property
    def unmatched(self) -> list[str]:
        """The patterns that no name has matched."""
        return [pattern for pattern in self._patterns or () if not any(fnmatchcase(name, pattern) for name in self.seen)]


def within(trace: Trace, path: str) -> Trace:
    """The same trace for names given relative to `path`."""
    return untraced if trace is untraced else lambda name, value: trace(f"{path}.{name}", value)
