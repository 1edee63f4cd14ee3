"""The table of planted faults: what is done to a module, where, and what a verification should say of it."""

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from torch import nn

from faults.cases import CASES

Plant = Callable[[Any, str], None]
Places = Mapping[str, Sequence[str]]


@dataclass(frozen=True)
class Fault:
    """One fault in one model.

    id: "evit/gelu-tanh". plant: changes the module in place, at a place, which is a module's path. places: where it is tried.
    first: the earliest hooked output that is wrong given the values before it; "{}" stands for the place. explained: a pattern
    that a right explanation matches. also: further outputs that the same fault makes wrong given the values before them, which
    may be reported too. copies: whether the hooks copy.
    """

    id: str
    label: str
    case: str
    plant: Plant
    places: tuple[str, ...]
    first: str
    explained: str
    also: tuple[str, ...] = ()
    copies: bool = True

    @property
    def family(self) -> str:
        """The case's."""
        return CASES[self.case].family

    def name(self, place: str) -> str:
        """The expected `first.name`."""
        return self.first.format(place)

    def allowed(self, place: str) -> set[str]:
        """Every name that may be reported."""
        return {self.name(place), *(name.format(place) for name in self.also)}

    def is_explained(self, explanation: str | None) -> bool:
        """Whether an explanation is a right one."""
        return explanation is not None and re.search(self.explained, explanation, re.IGNORECASE) is not None


FAULTS: list[Fault] = []


def fault(
    slug: str, label: str, places: Places, first: str, explained: str, also: tuple[str, ...] = (), copies: bool = True
) -> Callable[[Plant], Plant]:
    """Enter a function that plants a fault, once for each case in `places`."""

    def entered(plant: Plant) -> Plant:
        for case, where in places.items():
            name = f"{case.replace(' ', '-')}/{slug}"
            FAULTS.append(Fault(name, label, case, plant, tuple(where), first, explained, also, copies))
        return plant

    return entered
