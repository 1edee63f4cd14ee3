"""The table of variants, by the kind of step that they replace."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

Step = Callable[..., Any]


class Inapplicable(ValueError):  # noqa: N818  said by a variant, never shown
    """A variant that is the step itself here, or that makes no sense for it."""


@dataclass(frozen=True)
class Variant:
    """One way to do a step otherwise. at: the inner name, after the step's path, where it departs (".scores"), if that is not the
    step's own. fitted: whether it takes a number from the candidate, so that it fits better than those that take none.
    """

    label: str
    step: Step
    at: str | None = None
    fitted: bool = False

    def operation(self, path: str) -> str:
        """The trace name of what is done otherwise."""
        if self.at is None:
            return path
        return f"{path}{self.at}" if self.at.startswith(".") else self.at


TABLE: dict[str, list[Variant]] = {}


def variant(kind: str, label: str, at: str | None = None, fitted: bool = False) -> Callable[[Step], Step]:
    """Enter a function as a variant of the steps of a kind ("gelu", "vit.block")."""

    def entered(step: Step) -> Step:
        TABLE.setdefault(kind, []).append(Variant(label, step, at, fitted))
        return step

    return entered
