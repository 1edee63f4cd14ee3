"""What a planted fault does, measured in float64: which output is the first that it changes, and by how much.

Until there, the values of a faulty and of a clean module are the same, so their difference there is that of the operation alone.
"""

from functools import cache
from typing import Any

import numpy as np

from faults.cases import CASES, built
from faults.recording import AUTOCAST, record
from faults.registry import Fault

UNITS = {"float64": 2.0**-53, "float32": 2.0**-24, "bfloat16": 2.0**-8, "float16": 2.0**-11}
VISIBLE = 16  # unit roundoffs of the largest value
SAME = 1e-12  # of the largest value: what float64 makes of the same operations in another order

Values = dict[str, np.ndarray[Any, Any]]


@cache
def clean(case: str) -> Values:
    """What the module records without a fault, in float64."""
    return record(built(case), CASES[case].images)


def faulty(fault: Fault, place: str, dtype: str = "float64") -> Values:
    """What the module records with the fault."""
    module = built(fault.case)
    fault.plant(module, place)
    return record(module, CASES[fault.case].images, dtype, fault.copies)


def changes(values: Values, case: str) -> dict[str, float]:
    """For each output that is not the clean module's, in the order of execution, the difference in units of the largest value."""
    expected = clean(case)
    found = {name: _difference(values[name], wanted) for name, wanted in expected.items() if name in values}
    return {name: size for name, size in found.items() if size > SAME}


def _difference(got: np.ndarray[Any, Any], wanted: np.ndarray[Any, Any]) -> float:
    if got.shape != wanted.shape:
        return np.inf
    return float(np.max(np.abs(got - wanted)) / np.max(np.abs(wanted)))


@cache
def effect(fault: Fault, place: str) -> tuple[str, float]:
    """The first output that the fault changes, and by how much."""
    return next(iter(changes(faulty(fault, place), fault.case).items()), ("", 0.0))


def is_visible(fault: Fault, place: str, dtype: str) -> bool:
    """Whether the fault's own effect exceeds the rounding of a format."""
    unit = UNITS[dtype.removeprefix(AUTOCAST)]
    return effect(fault, place)[1] > VISIBLE * unit
