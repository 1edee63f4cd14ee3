"""Medians and quartiles of rounds."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True)
class Spread:
    """The median of some rounds between their quartiles, in the unit of the rounds."""

    low: float
    median: float
    high: float

    @property
    def relative(self) -> float:
        """Half the distance of the quartiles, as a share of the median."""
        return (self.high - self.low) / 2 / self.median


@dataclass(frozen=True)
class Turn:
    """What a contestant did in one round: `calls` forward passes in `seconds`."""

    calls: int
    seconds: float


def spread(values: Sequence[float]) -> Spread:
    """Quartiles, interpolated between the two values that are nearest; of one value, itself."""
    return Spread(*np.quantile(values, (0.25, 0.5, 0.75)).tolist())


def rates(turns: Sequence[Turn], batch: int) -> list[float]:
    """Images a second of each round."""
    return [batch * turn.calls / turn.seconds for turn in turns]


def ratios(own: Sequence[float], others: Sequence[float]) -> list[float]:
    """Round by round, how many times as fast as the other: what slows a whole round down falls on both."""
    return [mine / other for mine, other in zip(own, others, strict=True)]
