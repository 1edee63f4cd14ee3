"""A unit of a model, replayed as it stands or under some assumptions."""

from collections.abc import Iterable
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from reforg.verification.error_model.comparison import INFINITE, Comparison
from reforg.verification.findings import Difference
from reforg.verification.replay.changes import record, with_log
from reforg.verification.replay.observations import Call, Observation
from reforg.verification.replay.performing import BROKEN, take
from reforg.verification.replay.session import Session
from reforg.verification.replay.structures import OUTPUTS


@dataclass(frozen=True)
class Attempt:
    """A unit replayed under some assumptions: the session in which it was, where its log begins, its result, its faults.

    whole: whether the unit came to its end.
    """

    session: Session
    start: int
    result: Any
    whole: bool

    @property
    def faults(self) -> list[Observation]:
        """What is beyond its limit, in the order of execution."""
        return [observation for observation in self.session.log[self.start :] if not observation.passed]

    def with_log(self, log: Iterable[Observation]) -> "Attempt":
        """The same, told otherwise."""
        return replace(self, session=with_log(self.session, log))


def attempted(session: Session, call: Call) -> Attempt:
    """Take a step in a session made for that; shapes that do not go together end it, which is a fault where nothing else is."""
    start = len(session.log)
    try:
        return Attempt(session, start, take(session, call), whole=True)
    except BROKEN as error:
        attempt = Attempt(session, start, None, whole=False)
        if not attempt.faults:
            record(session, _broken(session, call, error), supplied=False)
        return attempt


def _broken(session: Session, call: Call, error: Exception) -> Comparison:
    name = call.path or OUTPUTS.get(call.kind, call.kind)
    difference = Difference(name, name, INFINITE, 0.0, None, (), (), note=f"cannot be replayed: {error!s:.200}")
    return Comparison(difference, np.zeros(0), session.rounding.exact(np.zeros(0)))
