"""Errors that are small but all of one kind: a norm's epsilon shows in every token alike, where rounding averages out."""

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import numpy.typing as npt

from reforg.verification.error_model.comparison import MOST, Comparison, variance_of
from reforg.verification.error_model.precision import unit
from reforg.verification.error_model.uncertain import Values, Variances
from reforg.verification.replay.observations import Call
from reforg.verification.replay.session import Session

BIAS = 2.0  # unit roundoffs of the accumulators' format: by as much may an honest deviation be off in every token alike
FEWEST = 8  # tokens that a trend is told by, counted by how much they weigh


@dataclass(frozen=True)
class Trend:
    """How far the errors go in one direction: by `amount`, known to within `deviation`; effect: relative, in every token."""

    amount: float
    deviation: float
    effect: float


def trend(errors: Values, direction: Values, size: Values, variance: Variances) -> Trend | None:
    """Errors and their direction [..., C], of values of such a size; the deviation is that of tokens among themselves.

    Least squares, a token's weight the inverse of its variance. Each token's residual is what it would be without that token,
    and where a few tokens decide there is no trend.
    """
    rows, ways = (part.reshape(-1, part.shape[-1]) for part in (errors, direction))
    weights = 1 / np.mean(variance.reshape(rows.shape), axis=1, dtype=np.float64)
    along, lengths = weights * np.sum(rows * ways, axis=1), weights * np.sum(ways * ways, axis=1)
    total = float(lengths.sum())
    if not 0 < total < np.inf or total * total < FEWEST * float(np.sum(lengths * lengths)):
        return None
    amount = float(along.sum()) / total
    residuals = (along - amount * lengths) / (1 - lengths / total)
    deviation = float(np.sqrt(np.sum(residuals * residuals))) / total
    effect = abs(amount) * float(np.sqrt(np.sum(ways * ways) / max(float(np.sum(size * size)), 1e-300)))
    return Trend(amount, deviation, effect)


def of_epsilon(comparison: Comparison, session: Session, path: str, x: Any, eps: float) -> Trend | None:
    """By how much a norm's epsilon is another; the derivative of (x - mean)/sqrt(var + eps) g is that over -2 (var + eps)."""
    gain, bias = session.weights[f"{path}.weight"].value, session.weights[f"{path}.bias"].value
    scaled = comparison.predicted.value - bias
    spread = np.var(x.value, axis=-1, keepdims=True) + eps
    direction, variance = scaled / (-2 * spread), variance_of(comparison.predicted)
    # Rounding scatters the tokens' errors along this direction, and another epsilon moves them all to the same side of it.
    found = trend(comparison.got - comparison.predicted.value, direction, scaled, variance)
    if found is None or abs(found.amount) <= MOST * found.deviation:
        return None
    # Before it counts, whatever an honest port rounds alike in many tokens is added to the deviation, since that does not average
    # out.
    weights = np.asarray(1 / np.mean(variance, axis=-1, keepdims=True, dtype=np.float64))
    rounding = np.sqrt(3 * comparison.predicted.relative) * alike(comparison.got, direction, scaled, bias, weights)
    carried = 0.0 if x.variance is None else _carried(x, direction, np.asarray(gain / np.sqrt(spread)), weights)
    return replace(found, deviation=float(np.sqrt(found.deviation**2 + rounding**2 + carried**2)))


def alike(got: Values, direction: Values, scaled: Values, bias: Values, weights: Values) -> float:
    """The deviation of the amount, in unit roundoffs, by what several tokens have in common and is rounded alike in them.

    Gain and bias are the same in all tokens; a product and a result in those where the channel's result is the same.
    """
    rows, ways, sizes, shift = (part.reshape(-1, got.shape[-1]) for part in (got, weights * direction, scaled, bias))
    effects = [np.sum(ways * sizes, axis=0), np.sum(ways * shift, axis=0)]
    groups = _groups(rows)
    effects += [np.bincount(groups, (ways * size).ravel()) for size in (sizes, rows)]
    return float(np.sqrt(sum(float(np.sum(effect * effect)) for effect in effects) / 3)) / _total(direction, weights)


def _carried(x: Any, direction: Values, slope: Values, weights: Values) -> float:
    """The deviation of the amount where what the norm reads is in error itself, by something that all tokens have in common.

    Weights before it that were rounded, say. Such errors move each channel by the slope, and what the norm divides by.
    """
    errors = np.sqrt(x.spread, dtype=np.float64)
    effects = np.sum((weights * direction * slope * errors).reshape(-1, errors.shape[-1]), axis=0)
    centred = x.value - np.mean(x.value, axis=-1, keepdims=True)
    moved = 2 * np.sqrt(np.sum((centred * errors) ** 2, axis=-1, keepdims=True)) / errors.shape[-1]
    divided = float(np.sum(weights * direction * direction * moved))
    return float(np.sqrt(np.sum(effects * effects) + divided**2)) / _total(direction, weights)


def _total(direction: Values, weights: Values) -> float:
    return float(np.sum(weights * direction * direction))


def _groups(rows: Values) -> npt.NDArray[np.intp]:
    """For each element of (T, C), row by row, the number of its group: those of a channel that are equal."""
    order = np.argsort(rows, axis=0, kind="stable")
    ordered = np.take_along_axis(rows, order, axis=0)
    new = np.ones(rows.shape, dtype=np.intp)
    new[1:] = ordered[1:] != ordered[:-1]
    numbers = np.empty(rows.shape, dtype=np.intp)
    np.put_along_axis(numbers, order, np.cumsum(new.T).reshape(new.T.shape).T - 1, axis=0)
    return numbers.ravel()


DIRECTIONS: dict[str, Callable[..., Trend | None]] = {"layer_norm": of_epsilon}


def sharpened(comparison: Comparison, call: Call, session: Session) -> Comparison:
    """The comparison, which fails for a trend that no rounding makes even where each error by itself is within its limit."""
    if call.kind not in DIRECTIONS or call.path != comparison.difference.name or not comparison.passed:
        return comparison
    found = DIRECTIONS[call.kind](comparison, session, *call.arguments)
    allowed = BIAS * unit(session.rounding.precision.sums)
    if found is None or abs(found.amount) <= MOST * found.deviation or found.effect <= allowed:
        return comparison
    scale = float(np.max(np.abs(comparison.predicted.value))) or 1.0
    error = float(np.sqrt(np.mean(np.square(comparison.got - comparison.predicted.value)))) / scale
    share = max(MOST * found.deviation / abs(found.amount), allowed / found.effect)
    difference = replace(comparison.difference, worst=error, limit=error * share, where=None, note="the same in every token")
    return replace(comparison, difference=difference)
