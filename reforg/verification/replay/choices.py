"""Choices of tokens that nothing shows by itself: of those that rounding allows, the one that agrees with what follows.

Where a candidate holds no row between a reorganization and the next attention, the reference's choice and order are taken first.
Attention mixes tokens but does not mind their order: its rows tell in which order they came, and several draws of scores within
rounding may tell which tokens they were. Where none agrees, what differs between the draws is not held against the candidate.
"""

import math
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass, field

import numpy as np

from reforg.verification.error_model.comparison import Comparison
from reforg.verification.error_model.uncertain import Uncertain, Values
from reforg.verification.findings import NOT_SEEN
from reforg.verification.replay.changes import from_the_start, with_log
from reforg.verification.replay.observations import Key, Step
from reforg.verification.replay.performing import BROKEN, replay
from reforg.verification.replay.rows import SHARP, Indices, order_of
from reforg.verification.replay.selection import choosing
from reforg.verification.replay.session import Session
from reforg.verification.replay.structures import structure_of

DRAWS = 16  # choices of tokens that rounding may lead to
FEWEST = 4  # draws that tell how far they are apart
REORGANIZE = "evit.reorganize"
BEFORE = ("patch_embed", "pos_embed", "embedded")  # what the blocks read


@dataclass(frozen=True)
class Choice:
    """Of every image the seed of a draw [B], 0 for the reference's choice; the order [B, K'] of its rows, where that is another."""

    seeds: Indices
    order: Indices | None = None


@dataclass
class Settled:
    """Choices by block; by name the variances [B, ...] that choices make in values which none agrees with; values that remain
    beyond their limits, each with the blocks whose choice may be the cause.
    """

    choices: dict[str, Choice] = field(default_factory=dict)
    allowed: dict[str, Values] = field(default_factory=dict)
    doubtful: dict[str, list[str]] = field(default_factory=dict)

    def __bool__(self) -> bool:
        return bool(self.choices or self.allowed)

    def session(self, session: Session, choices: Mapping[str, Choice] | None = None) -> Session:
        """The state before anything was replayed, with these choices and more."""
        known = self.choices | dict(choices or {})
        steps: dict[Key, Step] = {(REORGANIZE, path): choosing(choice.seeds, choice.order) for path, choice in known.items()}
        return from_the_start(session, steps, allowed=self.allowed)


def settled(session: Session, images: Uncertain) -> Settled:
    """What keeps values of the candidate within their limits that are beyond them after a replay; nothing where that is not so."""
    # Each round takes the first value that is wrong behind a choice which nothing shows. Either a choice is found that agrees with
    # it, and the next round goes on behind it, or the value is doubtful and never looked at again: so the rounds come to an end.
    found = Settled()
    while (where := _open(session, found.doubtful)) is not None:
        name, paths = where
        agreed = _agreeing(session, images, found, name, paths)
        session = agreed or session
        if agreed is None:
            found.doubtful[name] = [path for path in paths if _unsure(session, path)]
    return found


def _open(session: Session, given_up: Collection[str]) -> tuple[str, list[str]] | None:
    """The first value beyond its limit after a choice that nothing shows sharply, and the blocks of such choices."""
    unseen = [path for path, sharpness in session.sharpness.items() if sharpness < SHARP]
    for entry in session.log:
        before = [path for path in unseen if _block(path) < _block(entry.name)]
        if before and not entry.passed and entry.name not in given_up and session.holds(entry.name):
            return entry.name, before
    return None


def _block(name: str) -> float:
    """The number of the block that a value is of; -1 before the first, infinity after the last."""
    head, _, rest = name.partition(".")
    number = rest.partition(".")[0]
    if head == "blocks" and number:
        return int(number)
    return -1 if head in BEFORE else math.inf


def _agreeing(session: Session, images: Uncertain, found: Settled, name: str, paths: list[str]) -> Session | None:
    """A replay in which the value is within its limit, and so are those before it; what it takes is then among what was found."""
    search = _Search(session, images, found, name)
    # First other draws of the scores. Each is followed once more with its rows in the order in which the candidate's stand.
    for drawn in _draws(session, paths):
        choices: dict[str, Choice] | None = drawn
        while choices is not None:
            comparison = search.take(choices)
            if search.agreed is not None or comparison is None:
                break
            choices = _in_order(choices, paths[-1], comparison, session)
        if search.agreed is not None:
            return search.agreed
    # Each image chose for itself. Where no draw was right for all of them, the best of each may be.
    if len(search.tried) > 1:
        search.take(_mixed(search.tried, paths))
    return search.agreed or search.undecided()


@dataclass
class _Search:
    """Choices tried for the sake of one value, each with what the value is compared with under it."""

    session: Session
    images: Uncertain
    found: Settled
    name: str
    tried: list[tuple[dict[str, Choice], Comparison]] = field(default_factory=list)
    agreed: Session | None = None

    def take(self, choices: dict[str, Choice]) -> Comparison | None:
        """The comparison under these choices, which are what was looked for if it and those before it are within their limits."""
        again = _replayed_whole(self.found.session(self.session, choices), self.images)
        comparison = self._of(again)
        if comparison is None or comparison.got.shape != comparison.predicted.shape:
            return None
        self.tried.append((choices, comparison))
        # A choice that mends this value and breaks one before it is none that the candidate can have made.
        if self._faults(again) <= self._faults(self.session) - {self.name}:
            self.found.choices |= choices
            self.agreed = again
        return comparison

    def undecided(self) -> Session | None:
        """A replay that allows the value to be as far off as other choices have it, if that is far enough."""
        if len(self.tried) < FEWEST:
            return None
        choices, _ = min(self.tried, key=lambda pair: pair[1].squares)
        # Draws by rounding differ from each other about as much as the candidate differs from any: their variance is what an honest
        # choice may do to this value. A mistake smaller than that would not be seen, and a note of the report says so.
        variance = np.var(np.stack([comparison.predicted.value for _, comparison in self.tried]), axis=0, ddof=1)
        widest = np.max(variance.reshape(len(variance), -1), axis=1)
        wider = np.broadcast_to(widest.reshape(-1, *[1] * (variance.ndim - 1)), variance.shape)
        found = Settled(self.found.choices | choices, self.found.allowed | {self.name: wider})
        again = _replayed_whole(found.session(self.session), self.images)
        comparison = self._of(again)
        if comparison is None or not comparison.passed:
            return None
        self.found.choices, self.found.allowed = found.choices, found.allowed
        return again

    def _of(self, session: Session) -> Comparison | None:
        return next((entry.comparison for entry in session.log if entry.supplied and entry.name == self.name), None)

    def _faults(self, session: Session) -> set[str]:
        """What is beyond its limit, up to and with the value."""
        last = next(number for number, entry in enumerate(session.log) if entry.name == self.name and session.holds(self.name))
        return {entry.name for entry in session.log[: last + 1] if not entry.passed}


def _replayed_whole(session: Session, images: Uncertain) -> Session:
    """The session after the whole model; without a record where values of a wrong shape ended it."""
    try:
        replay(session, images)
    except BROKEN:
        return with_log(session, [])
    return session


def _draws(session: Session, paths: list[str]) -> Iterator[dict[str, Choice]]:
    """The reference's choices where nothing shows others; then other ones that rounding allows, in the last block or in all."""
    unseen = [path for path in paths if session.selections[path].verdict == NOT_SEEN or path == paths[-1]]
    unsure = [path for path in paths if _unsure(session, path)]
    for seed in range(1 + (DRAWS if unsure else 0)):
        drawn = (unsure if seed % 2 else unsure[-1:]) if seed else []
        yield {path: Choice(np.full(session.batch, seed if path in drawn else 0)) for path in paths if path in unseen + drawn}


def _unsure(session: Session, path: str) -> bool:
    """Whether rounding may change what a block keeps."""
    choice = session.selections[path]
    return bool(np.any(np.asarray(choice.margins) < np.asarray(choice.limits)))


def _in_order(choices: dict[str, Choice], path: str, comparison: Comparison, session: Session) -> dict[str, Choice] | None:
    """The same choices, the last one's rows in the candidate's order; None where they have been, or where that does not show."""
    structure = structure_of(session.config)
    special = None if structure is None else structure.special(session.config)
    if choices[path].order is not None or comparison.got.ndim != 3 or special is None:
        return None
    order = order_of(comparison.got, comparison.predicted.value, special)
    return choices | {path: Choice(choices[path].seeds, order)}


def _mixed(tried: list[tuple[dict[str, Choice], Comparison]], paths: list[str]) -> dict[str, Choice]:
    """For each image the choices that come nearest in it."""
    errors = [np.square(comparison.got - comparison.predicted.value) for _, comparison in tried]
    best = np.argmin([error.reshape(len(error), -1).sum(axis=1) for error in errors], axis=0)
    taken = [path for path in paths if all(path in tried[number][0] for number in best)]
    return {path: _of_images([tried[number][0][path] for number in best]) for path in taken}


def _of_images(chosen: list[Choice]) -> Choice:
    """One choice of those for each image in turn."""
    seeds = np.stack([choice.seeds[image] for image, choice in enumerate(chosen)])
    count = next((choice.order.shape[1] for choice in chosen if choice.order is not None), None)
    if count is None:
        return Choice(seeds)
    rows = [np.arange(count) if choice.order is None else choice.order[image] for image, choice in enumerate(chosen)]
    return Choice(seeds, np.stack(rows))
