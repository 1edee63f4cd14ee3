"""The table of variants, by the kind of step that they replace."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any

from reforg.ops import bodies

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


def with_pieces(net: Any, pieces: Mapping[str, Step]) -> Any:
    """The net of a step in which some of the pieces that it calls are others."""
    # Only the net that the step was called with is changed: a step that the replay takes for itself gets the session's own again.
    return replace(net, ops=net.ops.replaced("variant", pieces))


def changed(kind: str, pieces: Mapping[str, Step]) -> Step:
    """A step as the model declares it, in which some of the pieces that it calls are others."""

    def step(net: Any, *arguments: Any) -> Any:
        return bodies()[kind](with_pieces(net, pieces), *arguments)

    return step
