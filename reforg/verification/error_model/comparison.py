"""One value against what its operation makes of the candidate's own values: the error in units of its standard deviation."""

from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt

from reforg.verification.error_model.closer import Closer
from reforg.verification.error_model.layouts import fitted, turned
from reforg.verification.error_model.uncertain import Rounding, Uncertain, Values
from reforg.verification.findings import Difference, ErrorMap

MOST = 8.0  # standard deviations of an error of rounding; of 10^12 errors that are normal, none passes it
MEAN = 2.0  # root mean square of very many errors, in standard deviations; the model's own estimate is 1
WIDEST = 32.0  # times its limit: so far off, no element is looked at more closely, since no order of a sum makes up for that
CHUNKS = (1, 64, 512)  # elements that are looked at together, the worst first; the last size goes on
SHORT = 6.0  # by how much that of a single one may be larger; of n, by a square root of n less
INFINITE = float("inf")
COARSE = 256  # rows and columns of an error map


@dataclass(frozen=True)
class Comparison:
    """A compared value: the difference as it is reported, the value in the reference's layout, and what was predicted.

    looked: whether elements beyond their limits were looked at more closely; the prediction then has what was found.
    """

    difference: Difference
    got: Values
    predicted: Uncertain
    looked: bool = False

    @property
    def passed(self) -> bool:
        """Whether the value is within its limit."""
        return self.difference.passed

    @property
    def squares(self) -> float:
        """The sum of the squared errors."""
        return float(np.sum(np.square(self.got - self.predicted.value))) if self.got.shape == self.predicted.shape else INFINITE

    @property
    def mean(self) -> float:
        """The mean squared error in units of the variance; 1 for what is no value."""
        if self.got.shape != self.predicted.shape or not self.got.size:
            return 1.0
        return float(np.mean(np.square(self.got - self.predicted.value) / variance_of(self.predicted)))

    def named(self, name: str = "", operation: str = "", explanation: str = "") -> "Comparison":
        """The same, reported under another name, of another operation, or with an explanation; what is empty stays as it is."""
        own = self.difference
        changed = replace(
            own, name=name or own.name, operation=operation or own.operation, explanation=explanation or own.explanation
        )
        return replace(self, difference=changed)


def compared(name: str, got: Values, predicted: Uncertain, own: npt.NDArray[np.floating] | None = None) -> Comparison:
    """A candidate's value against the prediction. own: variance of the candidate's value, where that was inferred."""
    value, note = fitted(got, predicted.value)
    result = _against_limits(name, value, predicted, own, note)
    if result.passed or value.shape != predicted.shape:
        return result
    # No shape tells whether two axes of one length are exchanged. Only a value that is wrong as it stands is turned, since a right
    # one must not be read in another way that happens to fit as well.
    for other, exchanged in turned(value, predicted.value):
        again = _against_limits(name, np.ascontiguousarray(other), predicted, own, exchanged)
        if again.passed:
            return again
    return result


def _against_limits(name: str, got: Values, predicted: Uncertain, own: npt.NDArray[np.floating] | None, note: str) -> Comparison:
    wanted = predicted.value
    shapes = got.shape, wanted.shape
    if got.shape != wanted.shape:
        return Comparison(Difference(name, name, INFINITE, 0.0, None, *shapes, note=note), got, predicted)
    if not np.all(np.isfinite(got)):
        place = tuple(int(axis) for axis in np.argwhere(~np.isfinite(got))[0])
        found = Difference(name, name, INFINITE, 0.0, place, *shapes, note=note or "not finite")
        return Comparison(found, got, predicted)
    scale = float(np.max(np.abs(wanted), initial=0.0)) or 1.0
    errors, rounding = got - wanted, predicted.rounding
    worst, limit, where = _extreme(errors, variance_of(predicted, own), rounding)
    # Before an element is called wrong, its own terms are looked at: a port adds them up in some order, not in a random one.
    closer, more = predicted.closer, None
    if closer is not None and where is not None and limit < worst <= WIDEST * limit:
        more = _found(closer, errors, variance_of(predicted, own))
    predicted = predicted.looked_at(more)
    if more is not None:
        worst, limit, where = _extreme(errors, variance_of(predicted, own), rounding)
    found = Difference(name, name, worst / scale, limit / scale, where, *shapes, note=note)
    return Comparison(found, got, predicted, more is not None)


def _found(closer: Closer, errors: Values, variance: npt.NDArray[np.floating]) -> npt.NDArray[np.floating]:
    """What a closer look adds to the variance of elements beyond their limits: the worst first, up to one that stays wrong."""
    more, squares, known = np.zeros(errors.size), np.ravel(np.square(errors)), np.ravel(np.broadcast_to(variance, errors.shape))
    shares, first = squares / known, 0
    beyond = np.flatnonzero(shares > MOST**2)
    beyond = beyond[np.argsort(-shares[beyond], kind="stable")]
    while first < len(beyond):
        size = next((size for size in CHUNKS if size > first), CHUNKS[-1])
        part = beyond[first : first + size]
        more[part] = closer.more(part)
        if np.any(squares[part] > MOST**2 * (known[part] + more[part])):
            break
        first += size
    return more.reshape(errors.shape)


def variance_of(predicted: Uncertain, own: npt.NDArray[np.floating] | None = None) -> npt.NDArray[np.floating]:
    """The variance of an error of the candidate's value; of what was only moved, that of storing it once more."""
    rounding = predicted.rounding
    variance = predicted.variance
    if variance is None:
        variance = rounding.squares(predicted.value) * rounding.kind(rounding.stored)
    total: npt.NDArray[np.floating] = variance + rounding.kind(max(rounding.floor, float(np.finfo(rounding.kind).tiny)))
    return total if own is None else total + own


def _extreme(errors: Values, variance: npt.NDArray[np.floating], rounding: Rounding) -> tuple[float, float, tuple[int, ...] | None]:
    """The error that comes nearest to its limit or passes it most, that limit, and where; or both root mean squares."""
    if not errors.size:
        return 0.0, 0.0, None
    squares = rounding.squares(errors)
    with np.errstate(over="ignore"):
        shares = squares / variance
    flat = int(np.argmax(shares))
    most, mean = float(np.sqrt(shares.flat[flat])), float(np.sqrt(np.mean(shares, dtype=np.float64)))
    # Two tests. One element far beyond its own deviation is a fault, and so are many elements that are each within it but too far
    # from zero together: a mistake that is spread thinly over the whole value.
    allowed = MEAN + SHORT / np.sqrt(shares.size)
    if mean > allowed and most <= MOST:
        error = float(np.sqrt(np.mean(squares, dtype=np.float64)))
        return error, error * allowed / mean, None
    error = abs(float(errors.flat[flat]))
    limit = MOST * float(np.sqrt(np.broadcast_to(variance, errors.shape).flat[flat]))
    return error, limit, tuple(int(axis) for axis in np.unravel_index(flat, errors.shape))


def error_map(comparison: Comparison) -> ErrorMap | None:
    """Errors of a value in units of their limits, tokens by channels; None where the shapes differ."""
    got, predicted = comparison.got, comparison.predicted
    if got.shape != predicted.shape or got.ndim < 2:
        return None
    shares = np.abs(got - predicted.value) / (MOST * np.sqrt(variance_of(predicted)))
    shares = np.moveaxis(shares, 1, -1) if shares.ndim == 4 else shares
    rows = np.nan_to_num(shares.reshape(-1, shares.shape[-1]).astype(np.float32), nan=np.inf)
    return ErrorMap(comparison.difference.name, _coarse(rows), rows.shape)


def _coarse(rows: npt.NDArray[np.float32]) -> npt.NDArray[np.float32]:
    """At most COARSE rows and columns, each the largest of what it stands for."""
    for axis in (0, 1):
        if rows.shape[axis] > COARSE:
            starts = np.linspace(0, rows.shape[axis], COARSE, endpoint=False).astype(int)
            rows = np.maximum.reduceat(rows, starts, axis=axis)
    return rows
