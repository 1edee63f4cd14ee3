"""Everything that changes a session, and everything that makes one of another. No other module writes into a session.

The first part makes sessions: an attempt starts from one of its own, and is forgotten or adopted. The second part writes down what
a replay does, in the session that does it.
"""

from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any, TypeVar

from reforg.verification.error_model.comparison import Comparison
from reforg.verification.error_model.uncertain import Rounding, Uncertain, Values
from reforg.verification.findings import Selection
from reforg.verification.replay.observations import Call, Key, Look, Memory, Observation, Step
from reforg.verification.replay.session import Judge, Session

Name = TypeVar("Name")
Found = TypeVar("Found")

# Sessions made of others.


def for_attempt(
    session: Session, assumed: Mapping[str, Uncertain] | None = None, overrides: Mapping[Key, Step] | None = None
) -> Session:
    """The same state, in which nothing is judged, with more values assumed or more steps taken otherwise.

    What is put on record there leaves the session that it was made of as it is.
    """
    return replace(
        session,
        judge=None,
        assumed={**session.assumed, **(assumed or {})},
        overrides={**session.overrides, **(overrides or {})},
        attempting=True,
        log=list(session.log),
        latest=dict(session.latest),
        inputs=dict(session.inputs),
        pieces=dict(session.pieces),
        selections=dict(session.selections),
        sharpness=dict(session.sharpness),
        stack=list(session.stack),
        since=list(session.since),
        remarks=[],
    )


def for_trial(session: Session, key: Key, step: Step, parents: Iterable[Call]) -> Session:
    """A session for an attempt inside of `parents` with one more step taken otherwise, and nothing on record yet."""
    return replace(for_attempt(session, overrides={key: step}), log=[], since=[], stack=list(parents))


def from_the_start(
    session: Session,
    overrides: Mapping[Key, Step],
    images: slice = slice(None),
    plain: bool = False,
    allowed: Mapping[str, Values] | None = None,
) -> Session:
    """The state before anything was replayed, of some of the images, for a replay of the whole model in which nothing is judged.

    What is to be done otherwise and allowed in this session is so there too. plain: without variances, for a first look.
    """
    values = {name: value[images] if len(value) == session.batch else value for name, value in session.values.items() if value.ndim}
    rounding, weights = session.rounding, session.weights
    if plain:
        rounding = Rounding(rounding.precision, plain=True)
        weights = {name: rounding.exact(weight.value) for name, weight in weights.items()}
    count = len(range(session.batch)[images])
    wider = {name: variance[images] for name, variance in {**session.allowed, **(allowed or {})}.items()}
    return Session(session.config, rounding, weights, values, count, overrides={**session.overrides, **overrides}, allowed=wider)


def judged_by(session: Session, judge: Judge) -> Session:
    """The same state, in which every unit's faults are decided on."""
    return replace(session, judge=judge)


def with_log(session: Session, log: Iterable[Observation]) -> Session:
    """The same state with another log: faults explained, named otherwise, or left out."""
    return replace(session, log=list(log))


# What a replay writes into its own session.


def adopt(session: Session, attempt: Session) -> None:
    """Go on from where an attempt has arrived. What it assumed and what it did otherwise stays behind with it."""
    session.log[:], session.since[:] = attempt.log, attempt.since
    _replace(session.latest, attempt.latest)
    _replace(session.inputs, attempt.inputs)
    _replace(session.pieces, attempt.pieces)
    _replace(session.selections, attempt.selections)
    _replace(session.sharpness, attempt.sharpness)


def _replace(own: dict[Name, Found], found: dict[Name, Found]) -> None:
    own.clear()
    own.update(found)


def forget(session: Session) -> None:
    """Let go of what only the steps of one unit need to know: large arrays, which nothing behind the unit asks for."""
    session.latest.update(dict.fromkeys(session.latest))
    for path in [path for path in session.inputs if "." in path]:
        del session.inputs[path]
    session.held.clear()
    session.memory.clear()
    session.looks.clear()


def record(session: Session, comparison: Comparison, supplied: bool, carries: frozenset[Key] = frozenset()) -> None:
    """Put a comparison on record, with the steps that led to it. supplied: whether the candidate holds the value itself."""
    session.log.append(Observation(comparison, tuple(session.since), tuple(session.stack), supplied, carries))
    if supplied:
        session.since.clear()


def record_look(session: Session, name: str, got: Values, predicted: Uncertain, comparison: Comparison) -> None:
    """Keep a comparison that took a closer look, so that trials of variants that predict the same do not look again."""
    session.looks.setdefault(name, []).append(Look(got, predicted.looked_at(), comparison))


def record_arrival(session: Session, comparison: Comparison, makers: tuple[Call, ...]) -> None:
    """Put on record what must have come into a unit. It is a value of the units that made it, which are finished."""
    session.log.append(Observation(comparison, tuple(session.since), makers, supplied=False))


def record_prediction(session: Session, name: str, predicted: Uncertain) -> None:
    """Keep what the reference makes of the candidate's values under a name of the trace."""
    session.latest[name] = predicted


def record_layer(session: Session, call: Call) -> None:
    """Keep what a layer reads."""
    session.inputs[call.path] = call.arguments


def record_piece(session: Session, call: Call) -> None:
    """Keep the call of a piece."""
    session.pieces[call.key] = call


def record_selection(session: Session, selection: Selection) -> None:
    """Keep what a block chose."""
    session.selections[selection.path] = selection


def record_sharpness(session: Session, path: str, sharpness: float) -> None:
    """Keep how sharply a block's choice is seen, in units of what rounding allows."""
    session.sharpness[path] = sharpness


def remark(session: Session, text: str) -> None:
    """Keep what a variant found out about the candidate: "epsilon about 3.3e-6"."""
    session.remarks.append(text)


@contextmanager
def entered(session: Session, call: Call) -> Iterator[None]:
    """While a step is being taken, whatever is compared is compared inside of it."""
    session.since.append(call)
    session.stack.append(call)
    try:
        yield
    finally:
        session.stack.pop()


def held(session: Session, comparison: Comparison) -> Uncertain:
    """The candidate's value, the same object every time: by it, `Memory` knows steps that read the very same values."""
    key = (comparison.difference.name, comparison.difference.note)
    if key not in session.held:
        session.held[key] = Uncertain(comparison.got, None, session.rounding, comparison.predicted.relative)
    return session.held[key]


@dataclass(frozen=True)
class Mark:
    """A place in what is on record: how long it was, and which names it had."""

    log: int
    since: int
    names: frozenset[str]


def mark(session: Session) -> Mark:
    """Where a session's record stands now."""
    return Mark(len(session.log), len(session.since), frozenset(session.latest))


def remember(session: Session, key: tuple[Any, ...], call: Call, result: Any, begun: Mark) -> None:
    """Keep a piece's result with everything that was put on record from `begun` on."""
    log = session.log[begun.log :]
    ended = any(entry.supplied for entry in log)
    made = {name: x for name, x in session.latest.items() if name not in begun.names or name.startswith(f"{call.path}.")}
    session.memory[key] = Memory(result, log, made, session.since[0 if ended else begun.since :], ended)


def repeat(session: Session, known: Memory) -> Any:
    """Put on record once more what a remembered piece did; its result."""
    session.log.extend(known.log)
    session.latest.update(known.latest)
    if known.ended:
        session.since.clear()
    session.since.extend(known.since)
    return known.result
