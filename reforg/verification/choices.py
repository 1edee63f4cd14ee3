"""Choices of tokens that nothing shows by itself: of those that rounding allows, the one that agrees with what follows.

Where a candidate holds no row between a reorganization and the next attention, the reference's choice and order are taken first.
Attention mixes tokens but does not mind their order: its rows tell in which order they came, and several draws of scores within
rounding may tell which tokens they were. Where none agrees, what differs between the draws is not held against the candidate.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field

import numpy as np

from reforg.config import VitConfig
from reforg.verification.comparison import Comparison
from reforg.verification.replay import BROKEN, Key, Session, Step, run
from reforg.verification.rows import Indices, order_of
from reforg.verification.selection import NOT_SEEN, choosing
from reforg.verification.uncertain import Uncertain, Values

DRAWS = 16  # choices of tokens that rounding may lead to
FEWEST = 4  # draws that tell how far they are apart
REORGANIZE = "evit.reorganize"
Choice = tuple[int, Indices | None]  # the seed of a draw, the order of its rows


@dataclass
class Settled:
    """Choices by block, and by name the variances [B, ...] of values that no choice agrees with, of what choices make of them."""

    choices: dict[str, Choice] = field(default_factory=dict)
    allowed: dict[str, Values] = field(default_factory=dict)

    def __bool__(self) -> bool:
        return bool(self.choices or self.allowed)

    def session(self, session: Session, choices: Mapping[str, Choice] | None = None) -> Session:
        """The state before anything was replayed, with these choices and more."""
        known = self.choices | dict(choices or {})
        steps: dict[Key, Step] = {(REORGANIZE, path): choosing(*choice) for path, choice in known.items()}
        return session.alone(steps, allowed=self.allowed)


def settled(session: Session, images: Uncertain) -> Settled:
    """What keeps values of the candidate within their limits that are beyond them after a replay; nothing where that is not so."""
    found, given_up = Settled(), set[str]()
    while (where := _open(session, given_up)) is not None:
        name, paths = where
        trial = _agreeing(session, images, found, name, paths)
        session = trial or session
        if trial is None:
            given_up.add(name)
    return found


def _open(session: Session, given_up: set[str]) -> tuple[str, list[str]] | None:
    """The first value beyond its limit after a choice that nothing shows, and the blocks of such choices."""
    for entry in session.log:
        if not entry.passed and entry.name not in given_up and session.holds(entry.name):
            paths = [call.path for call in entry.calls if call.kind == REORGANIZE]
            unseen = [path for path in paths if path in session.selections and session.selections[path].verdict == NOT_SEEN]
            if unseen:
                return entry.name, unseen
    return None


def _agreeing(session: Session, images: Uncertain, found: Settled, name: str, paths: list[str]) -> Session | None:
    """A replay in which the value is within its limit, and so are those before it; what it takes is then among what was found."""
    tried: list[tuple[dict[str, Choice], Comparison]] = []
    for drawn in _draws(session, paths):
        choices: dict[str, Choice] | None = drawn
        while choices is not None:
            trial = _replayed(found.session(session, choices), images)
            comparison = _of(trial, name)
            if comparison is None or comparison.got.shape != comparison.predicted.shape:
                break
            if _agrees(trial, paths):
                found.choices |= choices
                return trial
            tried.append((choices, comparison))
            choices = _in_order(choices, paths[-1], comparison, session)
    return _undecided(session, images, found, name, tried)


def _draws(session: Session, paths: list[str]) -> Iterator[dict[str, Choice]]:
    """The reference's choice; then others that rounding allows, where it does."""
    seen = {path: session.selections[path] for path in paths}
    unsure = {path for path, one in seen.items() if np.any(np.asarray(one.margins) < np.asarray(one.limits))}
    for seed in range(1 + (DRAWS if unsure else 0)):
        yield {path: (seed if path in unsure else 0, None) for path in paths}


def _replayed(session: Session, images: Uncertain) -> Session:
    try:
        run(session, images)
    except BROKEN:
        session.log.clear()
    return session


def _of(session: Session, name: str) -> Comparison | None:
    return next((entry.comparison for entry in session.log if entry.supplied and entry.name == name), None)


def _agrees(session: Session, paths: list[str]) -> bool:
    """Whether everything from the choices to the next value that the candidate holds is within its limit."""
    return all(entry.passed for entry in session.log if any(call.kind == REORGANIZE and call.path in paths for call in entry.calls))


def _in_order(choices: dict[str, Choice], path: str, comparison: Comparison, session: Session) -> dict[str, Choice] | None:
    """The same choices, the last one's rows in the candidate's order; None where they have been, or where that does not show."""
    seed, order = choices[path]
    if order is not None or comparison.got.ndim != 3 or not isinstance(session.config, VitConfig):
        return None
    order = order_of(comparison.got, comparison.predicted.value, session.config.num_special)
    return choices | {path: (seed, order)}


def _undecided(
    session: Session, images: Uncertain, found: Settled, name: str, tried: list[tuple[dict[str, Choice], Comparison]]
) -> Session | None:
    """A replay that allows a value to be as far off as other choices have it, if that is far enough."""
    if len(tried) < FEWEST:
        return None
    choices, nearest = min(tried, key=lambda trial: trial[1].squares)
    values = [comparison.predicted.value for _, comparison in tried if comparison.got.shape == nearest.got.shape]
    variance = np.var(np.stack(values), axis=0, ddof=1)
    widest = np.max(variance.reshape(len(variance), -1), axis=1)
    allowed = found.allowed | {name: np.broadcast_to(widest.reshape(-1, *[1] * (variance.ndim - 1)), variance.shape)}
    trial = _replayed(Settled(found.choices, allowed).session(session, choices), images)
    comparison = _of(trial, name)
    if comparison is None or not comparison.passed:
        return None
    found.choices |= choices
    found.allowed = allowed
    return trial
