"""What a replay puts on record: the steps that it took, and what it compared behind them."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np

from reforg.verification.error_model.comparison import Comparison
from reforg.verification.error_model.uncertain import Uncertain, Values

Step = Callable[..., Any]
Key = tuple[str, str]
UNITS = ("vit.embed", "vit.block", "vit.classify", "shunted.stem", "shunted.embed", "shunted.block", "shunted.classify")
"""The pieces whose faults are judged together; a layer outside of them is judged alone."""
PARTS = (
    "vit.attend", "vit.feed_forward", "vit.layer_scale", "evit.fused_token", "shunted.aggregate_tokens",
    "shunted.keys_and_values", "shunted.attend", "shunted.merge_groups",
)  # fmt: skip
"""Pieces that a replay takes as parts of the step that calls them. A variant of that step may replace them, and nothing else."""


@dataclass(frozen=True)
class Call:
    """A step that the replay took: an operation of a layer, or a piece of a model, with its arguments.

    kind: "layer_norm", "vit.mlp". path: the layer's or the piece's; empty for a piece that has none. parents: the steps
    that it was part of, the outermost first.
    """

    kind: str
    path: str
    step: Step
    arguments: tuple[Any, ...]
    parents: tuple["Call", ...]

    @property
    def key(self) -> Key:
        """What tells it from every other step."""
        return self.kind, self.path

    @property
    def carries(self) -> frozenset[Key]:
        """The steps that its arguments come from of which the candidate shows no result."""
        return frozenset[Key]().union(*(part.carries for part in self.arguments if isinstance(part, Uncertain)))


@dataclass(frozen=True)
class Observation:
    """A comparison, the steps taken since the last value that the candidate holds, and those that were not finished.

    supplied: whether the candidate holds the value; otherwise it was inferred from what follows. carries: the steps that the
    prediction comes from of which the candidate shows no result.
    """

    comparison: Comparison
    calls: tuple[Call, ...]
    stack: tuple[Call, ...]
    supplied: bool
    carries: frozenset[Key] = frozenset()

    @property
    def name(self) -> str:
        """Under which name it is reported."""
        return self.comparison.difference.name

    @property
    def unit(self) -> Key | None:
        """The unit that was not finished."""
        return self.stack[0].key if self.stack and self.stack[0].kind in UNITS else None

    @property
    def passed(self) -> bool:
        """Whether the value is within its limit."""
        return self.comparison.passed


@dataclass(frozen=True)
class Memory:
    """A piece that was taken: its result, and what it put on record. ended: whether the candidate holds a value in it."""

    result: Any
    log: list[Observation]
    latest: dict[str, Uncertain]
    since: list[Call]
    ended: bool


@dataclass(frozen=True)
class Look:
    """A comparison for which elements were looked at more closely, with the candidate's value and the prediction it is of."""

    got: Values
    predicted: Uncertain
    comparison: Comparison

    def is_of(self, got: Values, predicted: Uncertain) -> bool:
        """Whether these were compared: the same value, and a prediction with the same numbers."""
        own = self.predicted
        if got is not self.got or (own.variance is None) is not (predicted.variance is None):
            return False
        return np.array_equal(own.value, predicted.value) and np.array_equal(own.spread, predicted.spread)
