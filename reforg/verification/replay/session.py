"""What is known in the course of one replay. This module holds the state and nothing that changes it: `changes` does that."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from reforg.config import Config
from reforg.ops import Network
from reforg.verification.error_model.uncertain import Rounding, Uncertain, Values
from reforg.verification.findings import Selection
from reforg.verification.replay.observations import Call, Key, Look, Memory, Observation, Step

Judge = Callable[["Session", Call], Any]
"""What decides on a unit's faults, and returns what the replay goes on from."""


@dataclass(frozen=True)
class Session:
    """One replay: what it was given, what it has put on record so far, and what it shares with the attempts that start from it.

    Given. values: the candidate's by trace name. judge: None where nothing is to be decided, as in an attempt. assumed: values
    inferred from what follows, by trace name. overrides: steps to be taken otherwise. allowed: more variance of some values, from
    choices of tokens that nothing shows. attempting: whether a unit is taken that may be taken again.

    Put on record. log: every comparison. latest: everything that was predicted. inputs: the arguments of every layer. pieces: the
    calls of every other step. selections, sharpness: by block, what was chosen and how sharply that is seen. stack: the steps that
    are not finished, the outermost first. since: the steps taken since the last value that the candidate holds. remarks: what a
    variant found that takes a number from the candidate.

    Shared. held: the candidate's values as steps read them, by name and layout, each one object. memory: pieces taken before.
    looks: comparisons for which elements were looked at more closely, by name.
    """

    config: Config
    rounding: Rounding
    weights: Mapping[str, Uncertain]
    values: Mapping[str, Values]
    batch: int
    judge: Judge | None = None
    assumed: Mapping[str, Uncertain] = field(default_factory=dict)
    overrides: Mapping[Key, Step] = field(default_factory=dict)
    allowed: Mapping[str, Values] = field(default_factory=dict)
    attempting: bool = False

    log: list[Observation] = field(default_factory=list)
    latest: dict[str, Any] = field(default_factory=dict)
    inputs: dict[str, tuple[Any, ...]] = field(default_factory=dict)
    pieces: dict[Key, Call] = field(default_factory=dict)
    selections: dict[str, Selection] = field(default_factory=dict)
    sharpness: dict[str, float] = field(default_factory=dict)
    stack: list[Call] = field(default_factory=list)
    since: list[Call] = field(default_factory=list)
    remarks: list[str] = field(default_factory=list)

    held: dict[tuple[str, str], Uncertain] = field(default_factory=dict)
    memory: dict[tuple[Any, ...], Memory] = field(default_factory=dict)
    looks: dict[str, list[Look]] = field(default_factory=dict)

    def holds(self, name: str) -> bool:
        """Whether the candidate has a value of that name."""
        return name in self.values


@dataclass(frozen=True, kw_only=True)
class Net(Network):
    """The layers of a replay, as every step is given them. See `performing.ReplayNetwork`."""

    session: Session
