"""From differences to causes: what the reference makes of each unit of a model under several assumptions, and which explain most.

A unit is a block, an embedding, or a layer outside of both. It is replayed as it stands. Only where that shows a fault, values that
the candidate does not hold are recovered from those that follow, and the unit is replayed on them; the assumption with the fewest
faults holds. Then known variants take the place of each step in question, until one makes what the candidate has.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from reforg.verification.diagnosis.attempts import Attempt, attempted
from reforg.verification.diagnosis.explaining import explain_all
from reforg.verification.diagnosis.variants import TABLE
from reforg.verification.error_model.comparison import compared
from reforg.verification.error_model.uncertain import Uncertain
from reforg.verification.replay.changes import adopt, for_attempt, forget, record_arrival
from reforg.verification.replay.observations import Call, Observation
from reforg.verification.replay.recovery import after_attention, before_attention
from reforg.verification.replay.session import Session
from reforg.verification.replay.structures import BLOCKS, LAST_NORMS, OUTPUTS, structure_of


class Stopped(Exception):  # noqa: N818  not an error: the rest cannot be looked at
    """A unit could not be replayed to its end, and the candidate does not hold what it should have made."""


def judge(session: Session, call: Call) -> Any:
    """Take a step that is a unit, put its faults on record, named and explained, and go on from the candidate's values."""
    attempt = _best_attempt(session, call)
    adopt(session, attempt.session)
    forget(session)
    return _result(session, call, attempt)


def _best_attempt(session: Session, call: Call) -> Attempt:
    """The attempt at a unit that accounts for the candidate's values with the fewest faults, these named and explained."""
    plain = attempted(for_attempt(session), call)
    if not plain.faults:
        return plain
    pooled = _norm_of_pooled(session, call)
    if pooled is not None:
        return pooled
    # A fault may show in many values: tokens that no module returns are wrong, say, and so is every sum that they are in. Where
    # these tokens can be recovered from what follows, the replay goes on from them, and only the step that made them is at fault.
    # So the assumption that leaves the fewest faults is the likeliest story, and of equal ones that with the most explanations.
    attempts = [plain, *(_assuming(session, call, assumption) for assumption in _assumptions(session, call))]
    fewest = min(len(attempt.faults) for attempt in attempts)
    best = _most_explained([attempt for attempt in attempts if len(attempt.faults) == fewest], call)
    # What is still several faults may have one cause that lies in no single step between two values: one variant for all of them.
    if len(best.faults) > 1:
        best = _single_cause(session, call, plain, len(best.faults)) or best
    return _with_names(best, plain)


def _norm_of_pooled(session: Session, call: Call) -> Attempt | None:
    """The classifier where the last norm was taken of pooled tokens, as its shape tells: one cause for both."""
    norm = LAST_NORMS.get(call.kind)
    place = next((n for n, entry in enumerate(session.log) if entry.name == norm and not entry.passed), None)
    if place is None or session.log[place].comparison.got.ndim == 3:
        return None
    for variant in TABLE[call.kind]:
        attempt = attempted(for_attempt(session, overrides={call.key: variant.step}), call)
        if variant.label.startswith("norm after pooling") and attempt.whole and not attempt.faults:
            log = list(attempt.session.log)
            log[place] = replace(log[place], comparison=log[place].comparison.named(explanation=variant.label))
            return attempt.with_log(log)
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
    tokens, structure = after_attention(session, call.path), structure_of(session.config)
    if tokens is None:
        return
    drops = structure is not None and structure.drops(call.arguments)
    hidden = {f"{call.path}.{'reorganized' if drops else 'attended'}": tokens}
    yield Assumption(hidden)
    arrived = None if call.arguments[1].variance is None else before_attention(session, call.path)
    if arrived is not None and arrived.shape == call.arguments[1].shape:
        yield Assumption({}, arrived)
        yield Assumption(hidden, arrived)


def _assuming(session: Session, call: Call, assumption: Assumption) -> Attempt:
    """The unit replayed under an assumption; what came in otherwise than predicted is a fault of what made it."""
    structure = structure_of(session.config)
    if assumption.arrived is None or structure is None:
        return attempted(for_attempt(session, assumed=assumption.hidden), call)
    path, predicted, *rest = call.arguments
    name = structure.before(path)
    own = for_attempt(session, assumed={**assumption.hidden, name: assumption.arrived})
    start = len(own.log)
    record_arrival(own, compared(name, assumption.arrived.value, predicted, assumption.arrived.spread), _makers(session, name))
    attempt = attempted(own, replace(call, arguments=(path, assumption.arrived, *rest)))
    return replace(attempt, start=start)


def _makers(session: Session, name: str) -> tuple[Call, ...]:
    """The unit that made a value."""
    keys = [("vit.embed", ""), ("shunted.stem", ""), ("shunted.embed", name), ("vit.block", name), ("shunted.block", name)]
    wanted = [key for key in keys if OUTPUTS.get(key[0], key[1]) == name]
    return tuple(session.pieces[key] for key in wanted if key in session.pieces)


def _most_explained(attempts: list[Attempt], call: Call) -> Attempt:
    """Of attempts with equally many faults the first whose faults are explained best; its faults carry their explanations."""
    explained = [explain_all(attempt, call) for attempt in attempts]
    return max(explained, key=lambda attempt: sum(fault.comparison.difference.explanation is not None for fault in attempt.faults))


def _single_cause(session: Session, call: Call, plain: Attempt, most: int) -> Attempt | None:
    """The unit with one variant in place that explains two of its `most` faults or more, all of them if one does."""
    steps = {step.key: step for fault in plain.faults for step in (*fault.calls, *fault.stack)}
    known, best = {fault.name for fault in plain.faults}, None
    for step in steps.values():
        for variant in TABLE.get(step.kind, ()):
            attempt = attempted(for_attempt(session, overrides={step.key: variant.step}), call)
            if not attempt.whole or len(attempt.faults) > most - 2 or not {fault.name for fault in attempt.faults} <= known:
                continue
            best, most = (attempt, variant.label, variant.operation(step.path)), len(attempt.faults) + 1
            if not attempt.faults:
                return _with_one_fault(call, plain, *best)
    return best and _with_one_fault(call, plain, *best)


def _with_one_fault(call: Call, plain: Attempt, attempt: Attempt, label: str, operation: str) -> Attempt:
    """The attempt in which a variant explains several faults, with the first of these on its record; the others explained."""
    explained = explain_all(attempt, call)
    left = {fault.name for fault in explained.faults}
    first = next((fault for fault in plain.faults if fault.name not in left), plain.faults[0])
    fault = replace(first, comparison=first.comparison.named(explanation=label, operation=operation))
    log = [entry for n, entry in enumerate(explained.session.log) if n < explained.start or entry.name != first.name]
    after = _following(plain.session.log, first)
    place = next((n for n in range(explained.start, len(log)) if log[n].name == after), explained.start)
    return explained.with_log([*log[:place], fault, *log[place:]])


def _following(log: list[Observation], observation: Observation) -> str | None:
    """The first of the candidate's values that comes after an observation."""
    place = next(n for n, entry in enumerate(log) if entry is observation)
    return next((entry.name for entry in log[place + 1 :] if entry.supplied), None)


def _with_names(best: Attempt, plain: Attempt) -> Attempt:
    """The attempt with each fault that no value of the candidate shows under the first of its values that is wrong for it."""
    log = best.session.log
    wrong = [fault.name for fault in plain.faults if fault.supplied]
    named = list(log)
    for number in range(best.start, len(log)):
        observation = log[number]
        if not observation.supplied and not observation.passed:
            following = [entry.name for entry in log[number:] if entry.supplied]
            named[number] = _under_a_name_that_is_held(best.session, observation, following, wrong)
    return best.with_log(named)


def _under_a_name_that_is_held(session: Session, observation: Observation, following: list[str], wrong: list[str]) -> Observation:
    """An inferred fault, under the name of a value that the candidate holds. following: such names behind it. wrong: those beyond
    their limits in the unit as it stands.
    """
    inner = observation.comparison.difference
    nearest = next(iter(following), observation.name)
    chosen = inner.name.endswith(".kept")
    if chosen:  # the nearest value shows a choice of tokens, right or wrong, and is held against that choice
        name = inner.name if session.holds(inner.name) else nearest
    else:
        name = next((name for name in following if name in wrong), nearest)
    operation = inner.operation if inner.explanation or inner.operation != inner.name else observation.name
    return replace(observation, comparison=observation.comparison.named(name=name, operation=operation))
