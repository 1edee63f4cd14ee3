"""What a pickle or an archive held, seen as containers: checked, and said in words."""

from typing import Any

from reforg.checkpoints import limits
from reforg.checkpoints.limits import require


def check_tree(root: Any) -> None:
    """WeightsError where containers nest too deep or contain themselves; in time proportional to what there is."""
    done: set[int] = set()
    path: set[int] = set()
    pending: list[tuple[Any, bool]] = [(root, False)]
    while pending:
        value, leaving = pending.pop()
        if leaving:
            path.discard(id(value))
            done.add(id(value))
        elif isinstance(value, dict | list | tuple) and id(value) not in done:
            require(id(value) not in path, "it holds a container that contains itself")
            require(len(path) < limits.DEPTH, f"it nests containers deeper than {limits.DEPTH}")
            path.add(id(value))
            pending.append((value, True))
            pending.extend((item, False) for item in (value.values() if isinstance(value, dict) else value))
