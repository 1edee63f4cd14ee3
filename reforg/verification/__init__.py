"""Is this port right, and if not, which operation is wrong, and why?"""

from collections.abc import Mapping
from typing import Any

import numpy as np

from reforg.verification.comparison import error_map
from reforg.verification.diagnosis import Stopped, judge
from reforg.verification.precision import precision_of
from reforg.verification.replay import Session, run
from reforg.verification.report import DIVERGES, EQUAL, FLIPPED, REORDERED, Difference, ErrorMap, Report, Selection
from reforg.verification.uncertain import Rounding

LAYER = (".weight", ".bias", ".running_mean", ".running_var")

__all__ = ["Difference", "ErrorMap", "Report", "Selection", "verify"]


def verify(candidate: Any, model: Any, images: Any, dtype: str = "float32", rename: Any = None) -> Report:
    """Draft"""
    precision = precision_of(dtype)
    rounding = Rounding(precision)
    values = {k: np.asarray(v, np.float64) for k, v in candidate.items()}
    weights = {k: (rounding.exact if k.endswith(LAYER) else rounding.stored_once)(model.backend.to_numpy(v)) for k, v in model.weights.items()}
    session = Session(model.config, rounding, weights, values, len(images), judge)
    notes = []
    try:
        run(session, rounding.exact(images))
    except Stopped:
        notes.append("stopped")
    faults = [o for o in session.log if not o.passed]
    selections = tuple(session.selections.values())
    verdicts = {s.verdict for s in selections}
    verdict = DIVERGES if faults else FLIPPED if FLIPPED in verdicts else REORDERED if REORDERED in verdicts else EQUAL
    return Report(model.name, dtype, "trace", len(images), verdict, tuple(o.comparison.difference for o in faults),
        tuple(o.comparison.difference for o in session.log if o.supplied), selections, notes=tuple(notes),
        maps=tuple(m for o in faults if (m := error_map(o.comparison))))
