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
from reforg.verification.diagnosis.attempts import OUTPUTS, Attempt, attempted
from reforg.verification.diagnosis.explaining import explain_all
from reforg.verification.diagnosis.variants import TABLE
from reforg.verification.error_model.comparison import compared
from reforg.verification.error_model.uncertain import Uncertain
from reforg.verification.replay.observations import Call, Observation
from reforg.verification.replay.recovery import after_attention, before_attention
from reforg.verification.replay.replay import Session

BLOCKS = ("vit.block", "shunted.block")
LAST_NORMS = {"vit.classify": "norm", "shunted.classify": "norm4"}


class Stopped(Exception):  # noqa: N818  not an error: the rest cannot be looked at
    """A unit could not be replayed to its end, and the candidate does not hold what it should have made."""


def judge(session: Session, call: Call) -> Any:
    """Take a step that is a unit, put its faults on record, named and explained, and go on from the candidate's values."""
    result = _judged(session, call)
    session.forget()
    return result


def _judged(session: Session, call: Call) -> Any:
    plain = attempted(session.fork(), call)
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
        trial = attempted(session.fork(overrides={call.key: variant.step}), call)
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
    attempt = attempted(fork, call)
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
        explain_all(attempt, call)
    return max(attempts, key=lambda attempt: sum(fault.comparison.difference.explanation is not None for fault in attempt.faults))


def _single_cause(session: Session, call: Call, plain: Attempt, most: int) -> Attempt | None:
    """The unit with one variant in place that explains two of its `most` faults or more, all of them if one does."""
    steps = {step.key: step for fault in plain.faults for step in (*fault.calls, *fault.stack)}
    known, best = {fault.name for fault in plain.faults}, None
    for step in steps.values():
        for variant in TABLE.get(step.kind, ()):
            trial = attempted(session.fork(overrides={step.key: variant.step}), call)
            if not trial.whole or len(trial.faults) > most - 2 or not {fault.name for fault in trial.faults} <= known:
                continue
            best, most = (trial, variant.label, variant.operation(step.path)), len(trial.faults) + 1
            if not trial.faults:
                return _with_one_fault(session, call, plain, *best)
    return best and _with_one_fault(session, call, plain, *best)


def _with_one_fault(session: Session, call: Call, plain: Attempt, trial: Attempt, label: str, operation: str) -> Attempt:
    """The attempt in which a variant explains several faults, with the first of these on its record; the others explained."""
    explain_all(trial, call)
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
