"""A unit of a model, replayed as it stands or under some assumptions."""

from dataclasses import dataclass
from typing import Any

import numpy as np

from reforg.verification.error_model.comparison import INFINITE, Comparison
from reforg.verification.error_model.uncertain import Uncertain
from reforg.verification.findings import Difference
from reforg.verification.replay.observations import Call, Observation
from reforg.verification.replay.replay import BROKEN, Session

OUTPUTS = {"vit.embed": "embedded", "shunted.stem": "patch_embed1"}  # of units without a path of their own


@dataclass
class Attempt:
    """A unit replayed under some assumptions: the session in which it was, where its log begins, its result, its faults."""

    session: Session
    start: int
    result: Any
    whole: bool

    @property
    def faults(self) -> list[Observation]:
        """What is beyond its limit, in the order of execution."""
        return [observation for observation in self.session.log[self.start :] if not observation.passed]


def attempted(session: Session, call: Call) -> Attempt:
    """Take a step; shapes that do not go together end it, and that is a fault of its own where nothing else is."""
    start = len(session.log)
    try:
        return Attempt(session, start, session.take(call), whole=True)
    except BROKEN as error:
        attempt = Attempt(session, start, None, whole=False)
        if not attempt.faults:
            session.note(_broken(call, error))
        return attempt
    finally:
        session.stack = list(call.parents)


def _broken(call: Call, error: Exception) -> Comparison:
    name = call.path or OUTPUTS.get(call.kind, call.kind)
    difference = Difference(name, name, INFINITE, 0.0, None, (), (), note=f"cannot be replayed: {error!s:.200}")
    return Comparison(difference, np.zeros(0), Uncertain(np.zeros(0), None, None, 0.0))  # type: ignore[arg-type]
