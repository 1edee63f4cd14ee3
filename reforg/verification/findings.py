"""What a verification found out, as plain values: everything above computes them, and `show` and `report` read them."""

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt

EQUAL, REORDERED, FLIPPED, DIVERGES = (
    "equal",
    "equal up to token order",
    "selection differs within rounding",
    "diverges",
)
NOT_SEEN = "not seen"  # of a selection: nothing that follows tells which tokens were kept


@dataclass(frozen=True)
class Difference:
    """One compared value: how far it is from what its operation makes of the candidate's own values before it.

    name: the trace name. operation: where the difference arises, a trace name too; the same unless that lies between this
    name and the names supplied before it ("blocks.3.reorganized").
    worst, limit: the error where it exceeds its limit most, or comes nearest to it, and the limit there, both in units of the
    largest wanted value; `where` is that element's index. Where no element passes its limit but their root mean square
    passes its own, these are that root mean square and its limit, and `where` is None. A value of the wrong shape, or one
    that holds NaN, has worst infinity.
    explanation: the known variant that reproduces the candidate there, or None. note: how the value was brought into the
    reference's layout ("channels last"), or what else there is to say of it.
    """

    name: str
    operation: str
    worst: float
    limit: float
    where: tuple[int, ...] | None
    shape_got: tuple[int, ...]
    shape_wanted: tuple[int, ...]
    explanation: str | None = None
    note: str = ""

    @property
    def passed(self) -> bool:
        """Whether the value is within its limit."""
        return self.worst <= self.limit


@dataclass(frozen=True)
class Selection:
    """One reorganization: which tokens the candidate kept, beside what the reference keeps given the candidate's values.

    path: the block's. margins (B,): the last kept score less the first dropped one, of each image. limits (B,): how far
    rounding can move that difference. flips (B,): how many kept tokens differ from the reference's. reordered: whether
    the kept tokens stand in another order than falling attention. verdict: "equal", "equal up to token order",
    "selection differs within rounding", "diverges"; "not seen" where nothing that follows tells which tokens were kept.
    """

    path: str
    margins: tuple[float, ...]
    limits: tuple[float, ...]
    flips: tuple[int, ...]
    reordered: bool
    verdict: str


@dataclass(frozen=True)
class ErrorMap:
    """Errors of one value in units of their limits: rows are tokens or pixels (of all images in turn), columns channels.

    values: coarsened to at most 256 rows and columns, each the largest of what it stands for. shape: before that.
    """

    name: str
    values: npt.NDArray[np.float32]
    shape: tuple[int, ...]


@dataclass(frozen=True)
class Findings:
    """What is told of one candidate; `reforg.verification.report.Report` can show it too.

    model, dtype: what was asked. candidate: what was given, in words. images: how many. faults: every independent fault, in
    the order of execution. differences: one for each compared name, in the order of execution. selections: one for each
    reorganization. unknown: names of the candidate that are no names of the trace. unseen: names of modules that the
    candidate does not hold, which a fault may hide behind. notes: sentences on what was assumed or cannot be told.
    maps: for each fault, the error map of its value.
    """

    model: str
    dtype: str
    candidate: str
    images: int
    verdict: str
    faults: tuple[Difference, ...]
    differences: tuple[Difference, ...]
    selections: tuple[Selection, ...] = ()
    unknown: tuple[str, ...] = ()
    unseen: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()
    maps: Sequence[ErrorMap] = field(default=(), repr=False)

    @property
    def passed(self) -> bool:
        """Whether nothing is wrong: the candidate computes this model, within the rounding of its dtype."""
        return self.verdict != DIVERGES

    @property
    def first(self) -> Difference | None:
        """The first fault in the order of execution."""
        return self.faults[0] if self.faults else None

    @property
    def explanation(self) -> str | None:
        """The first fault's explanation."""
        return self.faults[0].explanation if self.faults else None


def counted(number: int, word: str) -> str:
    """The number with its word: 1 value, 2 values."""
    return f"{number:,} {word}{'' if number == 1 else 's'}"
