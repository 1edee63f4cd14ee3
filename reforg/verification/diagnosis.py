"""From differences to causes: what the reference makes of each unit of a model under several assumptions, and which explain most.

A unit is a block, an embedding, or a layer outside of both. It is replayed as it stands. Only where that shows a fault, values that
the candidate does not hold are recovered from those that follow, and the unit is replayed on them; the assumption with the fewest
faults holds. Then known variants take the place of each step in question, until one makes what the candidate has.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from reforg.config import VitConfig
from reforg.verification.comparison import INFINITE, MOST, Comparison, compared
from reforg.verification.observations import Call, Observation
from reforg.verification.recovery import after_attention, before_attention
from reforg.verification.replay import BROKEN, Session
from reforg.verification.report import Difference
from reforg.verification.uncertain import Uncertain
from reforg.verification.variants import TABLE, Variant

NEARER = 0.9  # of the squared error that was: what a variant leaves of it at most
SAME = 1.05  # squared errors that differ by less are of the same variant under two names
BLOCKS = ("vit.block", "shunted.block")
LAST_NORMS = {"vit.classify": "norm", "shunted.classify": "norm4"}
OUTPUTS = {"vit.embed": "embedded", "shunted.stem": "patch_embed1"}  # of units without a path of their own


class Stopped(Exception):  # noqa: N818  not an error: the rest cannot be looked at
    """A unit could not be replayed to its end, and the candidate does not hold what it should have made."""


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


def judge(session: Session, call: Call) -> Any:
    """Take a step that is a unit, put its faults on record, named and explained, and go on from the candidate's values."""
    result = _judged(session, call)
    session.forget()
    return result


def _judged(session: Session, call: Call) -> Any:
    plain = _attempt(session.fork(), call)
    if not plain.faults:
        session.adopt(plain.session)
        return _result(session, call, plain)
    pooled = _norm_of_pooled(session, call)
    if pooled is not None:
        session.adopt(pooled.session)
        return _result(session, call, pooled)
    attempts = [plain, *(_assuming(session, call, assumed) for assumed in _assumptions(session, call))]
    fewest = min(len(attempt.faults) for attempt in attempts)
    best = _most_explained([attempt for attempt in attempts if len(attempt.faults) == fewest], call)
    if len(best.faults) > 1:
        best = _single_cause(session, call, plain, len(best.faults)) or best
    _name(best, plain)
    session.adopt(best.session)
    return _result(session, call, best)


def _norm_of_pooled(session: Session, call: Call) -> Attempt | None:
    """The classifier where the last norm was taken of pooled tokens, as its shape tells: one cause for both."""
    norm = LAST_NORMS.get(call.kind)
    place = next((n for n, entry in enumerate(session.log) if entry.name == norm and not entry.passed), None)
    if place is None or session.log[place].comparison.got.ndim == 3:
        return None
    for variant in TABLE[call.kind]:
        trial = _attempt(session.fork(overrides={call.key: variant.step}), call)
        if variant.label.startswith("norm after pooling") and trial.whole and not trial.faults:
            entry, trial.session.overrides = trial.session.log[place], session.overrides
            trial.session.log[place] = replace(entry, comparison=entry.comparison.named(explanation=variant.label))
            return trial
    return None


def _result(session: Session, call: Call, attempt: Attempt) -> Any:
    """What the unit made; where it could not, what the candidate has in its place."""
    if attempt.whole:
        return attempt.result
    name = OUTPUTS.get(call.kind, call.path)
    if session.holds(name) and np.all(np.isfinite(session.values[name])):
        return session.rounding.exact(session.values[name])
    raise Stopped(name)


def _attempt(session: Session, call: Call) -> Attempt:
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


@dataclass(frozen=True)
class Assumption:
    """Values taken to be what follows says: by name, and what came into the unit."""

    hidden: Mapping[str, Uncertain]
    arrived: Uncertain | None = None


def _assumptions(session: Session, call: Call) -> Iterator[Assumption]:
    """What may be assumed of a block: its tokens after attention, the tokens that came into it, both."""
    if call.kind not in BLOCKS:
        return
    tokens = after_attention(session, call.path)
    if tokens is None:
        return
    hidden = {f"{call.path}.{'reorganized' if _reorganizes(session, call) else 'attended'}": tokens}
    yield Assumption(hidden)
    arrived = None if call.arguments[1].variance is None else before_attention(session, call.path)
    if arrived is not None and arrived.shape == call.arguments[1].shape:
        yield Assumption({}, arrived)
        yield Assumption(hidden, arrived)


def _reorganizes(session: Session, call: Call) -> bool:
    if not isinstance(session.config, VitConfig):
        return False
    _, x, config, count = call.arguments
    return bool(count < x.shape[1] - config.num_special)


def _assuming(session: Session, call: Call, assumption: Assumption) -> Attempt:
    """The unit replayed under an assumption; what came in otherwise than predicted is a fault of what made it."""
    fork = session.fork(assumed=assumption.hidden)
    start = len(fork.log)
    if assumption.arrived is not None:
        path, x, *rest = call.arguments
        name = _maker(session, call)
        made = compared(name, assumption.arrived.value, x, assumption.arrived.spread)
        fork.assumed[name] = assumption.arrived
        fork.log.append(Observation(made, tuple(fork.since), _makers(session, name), supplied=False))
        call = replace(call, arguments=(path, assumption.arrived, *rest))
    attempt = _attempt(fork, call)
    attempt.start = start
    return attempt


def _maker(session: Session, call: Call) -> str:
    """The trace name of what comes into a block."""
    head, _, number = call.path.rpartition(".")
    if int(number):
        return f"{head}.{int(number) - 1}"
    return "embedded" if isinstance(session.config, VitConfig) else f"patch_embed{head.removeprefix('block')}"


def _makers(session: Session, name: str) -> tuple[Call, ...]:
    """The unit that made a value."""
    keys = [("vit.embed", ""), ("shunted.stem", ""), ("shunted.embed", name), ("vit.block", name), ("shunted.block", name)]
    wanted = [key for key in keys if OUTPUTS.get(key[0], key[1]) == name]
    return tuple(session.pieces[key] for key in wanted if key in session.pieces)


def _most_explained(attempts: list[Attempt], call: Call) -> Attempt:
    """Of attempts with equally many faults the first whose faults are explained best; its faults carry their explanations."""
    for attempt in attempts:
        _explain_all(attempt, call)
    return max(attempts, key=lambda attempt: sum(fault.comparison.difference.explanation is not None for fault in attempt.faults))


def _explain_all(attempt: Attempt, call: Call) -> None:
    for number in range(attempt.start, len(attempt.session.log)):
        observation = attempt.session.log[number]
        if not observation.passed:
            found = explained(attempt, observation, call)
            if found is not None:
                changed = observation.comparison.named(explanation=found[0], operation=found[1])
                attempt.session.log[number] = replace(observation, comparison=changed)


def explained(attempt: Attempt, observation: Observation, unit: Call) -> tuple[str, str] | None:
    """What makes the candidate's value at the observation, and the name of what it changes.

    Of the steps before it, the latest first: the variant that comes nearest; of equally near ones the first in the table.
    """
    tried: set[tuple[str, str]] = set()
    root = observation.stack[0] if observation.stack else unit
    near = [call for call in reversed(observation.calls) if root in (call, *call.parents)]
    for call in (*near, *reversed(observation.stack)):
        if call.key not in tried:
            tried.add(call.key)
            found = [trial for variant in TABLE.get(call.kind, ()) if (trial := _trial(attempt, observation, call, variant, unit))]
            if found:
                best = _nearest(found)
                return best.remark or best.variant.label, best.variant.operation(call.path)
    return None


@dataclass(frozen=True)
class Trial:
    """A variant that leaves no fault at an observation: its mean squared error there in units of the variance, and its remark."""

    variant: Variant
    error: float
    count: int
    remark: str


def _nearest(trials: list[Trial]) -> Trial:
    """The best of the trials; one that takes a number from the candidate only if no other comes as near."""
    plain, fitted = ([trial for trial in trials if trial.variant.fitted is which] for which in (False, True))
    best = min(plain or fitted, key=lambda trial: trial.error)
    best = next(trial for trial in plain or fitted if trial.error <= best.error * SAME)
    better = [trial for trial in fitted if (best.error - trial.error) * trial.count > MOST**2]
    return better[0] if better else best


def _trial(attempt: Attempt, observation: Observation, call: Call, variant: Variant, unit: Call) -> Trial | None:
    """The smallest step that holds the call and the observation, with the variant in place; None where it is no explanation."""
    scope = _scope(call, observation, unit)
    before = [fault for fault in attempt.faults if scope in fault.stack or scope is unit]
    session = attempt.session.fork(overrides={call.key: variant.step})
    session.log, session.since, session.stack, session.remark = [], [], list(scope.parents), ""
    outcome = _attempt(session, scope)
    again = [entry for entry in session.log if entry.name == observation.name and entry.supplied == observation.supplied]
    if not outcome.whole or len(outcome.faults) >= max(len(before), 1) or not all(entry.passed for entry in again):
        return None
    if again and not _nearer(again[0].comparison, observation.comparison):
        return None
    if again:
        return Trial(variant, again[0].comparison.mean, again[0].comparison.got.size, session.remark)
    return None if observation.supplied or outcome.faults else Trial(variant, 1.0, 1, session.remark)


def _nearer(trial: Comparison, before: Comparison) -> bool:
    """Whether a variant brings the prediction nearer to the candidate, and not merely widens its limit."""
    if before.got.shape != before.predicted.shape:
        return True
    return trial.squares < NEARER * before.squares


def _scope(call: Call, observation: Observation, unit: Call) -> Call:
    """The smallest step that holds both a call and the observation."""
    if call in observation.stack and not observation.name.endswith(".kept"):  # a choice shows in the rows that follow
        return call
    shared = [parent for parent in call.parents if parent in observation.stack]
    return shared[-1] if shared else (call.parents[0] if call.parents else unit)


def _single_cause(session: Session, call: Call, plain: Attempt, most: int) -> Attempt | None:
    """The unit with one variant in place that explains two of its `most` faults or more, all of them if one does."""
    steps = {step.key: step for fault in plain.faults for step in (*fault.calls, *fault.stack)}
    known, best = {fault.name for fault in plain.faults}, None
    for step in steps.values():
        for variant in TABLE.get(step.kind, ()):
            trial = _attempt(session.fork(overrides={step.key: variant.step}), call)
            if not trial.whole or len(trial.faults) > most - 2 or not {fault.name for fault in trial.faults} <= known:
                continue
            best, most = (trial, variant.label, variant.operation(step.path)), len(trial.faults) + 1
            if not trial.faults:
                return _with_one_fault(session, call, plain, *best)
    return best and _with_one_fault(session, call, plain, *best)


def _with_one_fault(session: Session, call: Call, plain: Attempt, trial: Attempt, label: str, operation: str) -> Attempt:
    """The attempt in which a variant explains several faults, with the first of these on its record; the others explained."""
    _explain_all(trial, call)
    left = {fault.name for fault in trial.faults}
    first = next((fault for fault in plain.faults if fault.name not in left), plain.faults[0])
    fault = replace(first, comparison=first.comparison.named(explanation=label, operation=operation))
    log = [entry for n, entry in enumerate(trial.session.log) if n < trial.start or entry.name != first.name]
    after = _following(plain.session.log, first)
    place = next((n for n in range(trial.start, len(log)) if log[n].name == after), trial.start)
    trial.session.log = [*log[:place], fault, *log[place:]]
    trial.session.overrides = session.overrides
    return trial


def _following(log: list[Observation], observation: Observation) -> str | None:
    """The first of the candidate's values that comes after an observation."""
    place = next(n for n, entry in enumerate(log) if entry is observation)
    return next((entry.name for entry in log[place + 1 :] if entry.supplied), None)


def _name(best: Attempt, plain: Attempt) -> None:
    """Report each fault that no value of the candidate shows under the first of its values that is wrong for it."""
    log = best.session.log
    wrong = [fault.name for fault in plain.faults if fault.supplied]
    for number in range(best.start, len(log)):
        observation = log[number]
        if observation.supplied or observation.passed:
            continue
        following = [entry.name for entry in log[number:] if entry.supplied]
        inner = observation.comparison.difference
        nearest = next(iter(following), observation.name)  # which shows a choice of tokens, and is held against that choice
        chosen = inner.name.endswith(".kept")
        if chosen and best.session.holds(inner.name):
            name = inner.name
        else:
            name = nearest if chosen else next((name for name in following if name in wrong), nearest)
        operation = inner.operation if inner.explanation or inner.operation != inner.name else observation.name
        log[number] = replace(observation, comparison=observation.comparison.named(name=name, operation=operation))
