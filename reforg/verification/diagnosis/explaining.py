"""What makes a candidate's value what it is: known variants take the place of each step before it, until one has the same."""

from dataclasses import dataclass, replace

from reforg.verification.diagnosis.attempts import Attempt, attempted
from reforg.verification.diagnosis.variants import TABLE, Variant
from reforg.verification.error_model.comparison import MOST, Comparison
from reforg.verification.replay.changes import for_trial
from reforg.verification.replay.observations import Call, Observation

NEARER = 0.9  # of the squared error that was: what a variant leaves of it at most
SAME = 1.05  # squared errors that differ by less are of the same variant under two names


def explain_all(attempt: Attempt, call: Call) -> Attempt:
    """The attempt with what explains each of its faults, where something does."""
    log = list(attempt.session.log)
    for number in range(attempt.start, len(log)):
        observation = log[number]
        if not observation.passed:
            found = explained(attempt, observation, call)
            if found is not None:
                comparison = observation.comparison.named(explanation=found[0], operation=found[1])
                log[number] = replace(observation, comparison=comparison)
    return attempt.with_log(log)


def explained(attempt: Attempt, observation: Observation, unit: Call) -> tuple[str, str] | None:
    """What makes the candidate's value at the observation, and the name of what it changes.

    Of the steps before it, the latest first: the variant that comes nearest; of equally near ones the first in the table.
    """
    tried: set[tuple[str, str]] = set()
    # What is wrong lies between this value and the one before it, so only steps in between can be the cause. The innermost and
    # latest come first: a layer's own mistake is a better answer than a variant of its block which happens to do the same.
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
    # Some mistakes look the same on these values: epsilons far below the variance, say. What stands first in the table is the
    # likelier one. A number that is taken from the candidate always fits best, so such a variant must be better by more than
    # rounding is.
    best = min(plain or fitted, key=lambda trial: trial.error)
    best = next(trial for trial in plain or fitted if trial.error <= best.error * SAME)
    better = [trial for trial in fitted if (best.error - trial.error) * trial.count > MOST**2]
    return better[0] if better else best


def _trial(attempt: Attempt, observation: Observation, call: Call, variant: Variant, unit: Call) -> Trial | None:
    """The smallest step that holds the call and the observation, with the variant in place; None where it is no explanation."""
    scope = _scope(call, observation, unit)
    before = [fault for fault in attempt.faults if scope in fault.stack or scope is unit]
    session = for_trial(attempt.session, call.key, variant.step, scope.parents)
    outcome = attempted(session, scope)
    # The value must be within its limit now, and nothing else beyond its own that was not before. Where the candidate holds
    # nothing at the observation, all faults in scope must be gone, since then nothing tells how near the variant comes.
    remark = session.remarks[-1] if session.remarks else ""
    again = [entry for entry in session.log if entry.name == observation.name and entry.supplied == observation.supplied]
    if not outcome.whole or len(outcome.faults) >= max(len(before), 1) or not all(entry.passed for entry in again):
        return None
    if again and not _nearer(again[0].comparison, observation.comparison):
        return None
    if again:
        return Trial(variant, again[0].comparison.mean, again[0].comparison.got.size, remark)
    return None if observation.supplied or outcome.faults else Trial(variant, 1.0, 1, remark)


def _nearer(after: Comparison, before: Comparison) -> bool:
    """Whether a variant brings the prediction nearer to the candidate, and not merely widens its limit."""
    if before.got.shape != before.predicted.shape:
        return True
    return after.squares < NEARER * before.squares


def _scope(call: Call, observation: Observation, unit: Call) -> Call:
    """The smallest step that holds both a call and the observation."""
    if call in observation.stack and not observation.name.endswith(".kept"):  # a choice shows in the rows that follow
        return call
    shared = [parent for parent in call.parents if parent in observation.stack]
    return shared[-1] if shared else (call.parents[0] if call.parents else unit)
