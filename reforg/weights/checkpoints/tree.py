"""What a pickle or an archive held, seen as containers: checked in time proportional to what there is."""

from typing import Any

from reforg.weights.checkpoints import limits
from reforg.weights.checkpoints.limits import require


def check_tree(root: Any) -> None:
    """WeightsError where containers nest too deep or contain themselves."""
    done: set[int] = set()
    path: set[int] = set()
    pending: list[tuple[Any, bool]] = [(item, False) for item in [root] if _is_full(item)]
    while pending:
        value, leaving = pending.pop()
        if leaving:
            path.discard(id(value))
            done.add(id(value))
        elif id(value) not in done:
            require(id(value) not in path, "it holds a container that contains itself")
            require(len(path) < limits.DEPTH, f"it nests containers deeper than {limits.DEPTH}")
            path.add(id(value))
            pending.append((value, True))
            pending.extend((item, False) for item in (value.values() if isinstance(value, dict) else value) if _is_full(item))


def _is_full(value: Any) -> bool:
    """Whether a value is a container with something in it; nothing else can go deeper."""
    return bool(value) and isinstance(value, dict | list | tuple)
