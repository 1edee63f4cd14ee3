"""`reforg.verify`: a candidate's values, replayed, judged, and told as a report.

docs/verify-inside.md draws who calls whom, and says what a unit, a step, an attempt, a trial, a choice and a fault are.
"""

from collections.abc import Iterable
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np

from reforg.errors import ConfigError
from reforg.models.model import Model
from reforg.verification.candidate.recording import Recording, recorded
from reforg.verification.candidate.renaming import Rename
from reforg.verification.candidate.trace_names import module_names, trace_names
from reforg.verification.diagnosis.diagnosis import Stopped, judge
from reforg.verification.diagnosis.independence import independent
from reforg.verification.diagnosis.variants import TABLE
from reforg.verification.error_model.comparison import INFINITE, error_map
from reforg.verification.error_model.precision import precision_of
from reforg.verification.error_model.uncertain import Rounding
from reforg.verification.findings import DIVERGES, EQUAL, FLIPPED, NOT_SEEN, REORDERED, Difference, counted
from reforg.verification.replay.changes import from_the_start, judged_by, with_log
from reforg.verification.replay.choices import Settled, settled
from reforg.verification.replay.observations import UNITS, Observation
from reforg.verification.replay.performing import BROKEN, EVERYWHERE, replay
from reforg.verification.replay.session import Session
from reforg.verification.report import Report

LAYER = (".weight", ".bias", ".running_mean", ".running_var")
NEARER = 0.1  # of the squared error that was: what a variant everywhere leaves of it at most


def verify(candidate: Any, model: Model, images: Any, dtype: str = "float32", rename: Rename = None) -> Report:
    """Whether a candidate computes the model, within the rounding of `dtype`; if not, which operation is wrong, and why.

    candidate: a mapping of trace name -> array, a path to .npz or .safetensors of one, a function images -> logits or mapping, a
    torch.nn.Module, or a path to .onnx. Any part of a trace will do; more of it places a fault more closely. images: what the
    candidate was given, (B, C, H, W), preprocessed. dtype: what it computed in: "float64", "float32", "tf32", "bfloat16",
    "float16", "autocast-bfloat16", "autocast-float16". rename: their names -> trace names, a mapping (one "*" each) or a function.

    Each operation of the reference is replayed in float64 on the candidate's own values, so that no error is blamed on what
    follows it; limits follow from an error model (docs/exactness.md). Raises ConfigError, ShapeError, DtypeError, ImageError.
    """
    if not isinstance(model, Model):
        raise ConfigError(f"verify wants a model that create_model made, got {type(model).__name__}")
    precision = precision_of(dtype)
    given = model.on_host(images)
    size = (given.shape[2], given.shape[3])
    recording = recorded(candidate, model, given, precision, rename, trace_names(model.config, size))
    with np.errstate(all="ignore"):  # a candidate's values may be anything, and so may what variants make of them
        outcome = _best_outcome(_session(model, recording, Rounding(precision), len(given)), given)
        return _report(model, dtype, recording, outcome, given)


def _session(model: Model, recording: Recording, rounding: Rounding, batch: int) -> Session:
    """The model's weights and the candidate's values, before anything is replayed."""
    weights = {name: model.backend.to_numpy(value) for name, value in model.weights.items()}
    known = {
        name: rounding.exact(value) if name.endswith(LAYER) else rounding.stored_once(value) for name, value in weights.items()
    }
    values = {name: np.asarray(value, np.float64) for name, value in recording.values.items()}
    return Session(model.config, rounding, known, values, batch, judge)


@dataclass(frozen=True)
class _Outcome:
    """A replay: its session, what stopped it, what was assumed of choices that nothing shows."""

    session: Session
    stopped: str = ""
    settled: Settled = field(default_factory=Settled)

    @property
    def faults(self) -> list[Observation]:
        return independent(self.session.log)


def _best_outcome(session: Session, images: Any) -> _Outcome:
    """The replay; where it finds a fault after a choice of tokens that nothing shows, under another choice; where it finds one in
    values that are far apart, also with variants everywhere.
    """
    outcome = _outcome(session, images)
    # A reorganization took the reference's own choice wherever the candidate does not show its. If that was another one, an honest
    # port looks wrong behind it. So before a fault is believed, choices are looked for under which it is none.
    found = settled(outcome.session, session.rounding.exact(images)) if outcome.faults else Settled()
    if found:
        again = _outcome(judged_by(found.session(session), judge), images)
        better = len(again.faults) < len(outcome.faults)
        outcome, found = (again, found) if better else (outcome, Settled(doubtful=found.doubtful))
    outcome = replace(outcome, settled=found)
    # Of the logits alone, say, all units lie before the first value, and no single one explains what is wrong with them.
    far = next((fault for fault in outcome.faults if _is_far(fault)), None)
    return outcome if far is None else _explained_everywhere(outcome, far, images)


def _outcome(session: Session, images: Any) -> _Outcome:
    try:
        replay(session, session.rounding.exact(images))
    except Stopped as stop:
        return _Outcome(session, str(stop))
    except BROKEN:  # outside of every unit, where nobody judges: a value of another shape met one that it does not go with
        if all(entry.passed for entry in session.log):
            raise
        return _Outcome(session, session.log[-1].name)
    return _Outcome(session)


def _is_far(fault: Observation) -> bool:
    """Whether several units lie between the fault and the values before it, so that it cannot be placed."""
    difference = fault.comparison.difference
    return difference.explanation is None and len({call.key for call in fault.calls if call.kind in UNITS}) > 1


def _explained_everywhere(outcome: _Outcome, far: Observation, images: Any) -> _Outcome:
    """The outcome, in which a variant that explains everything if it stands in every place is told of the far fault.

    One image tells as much as all of them. Each variant is looked at without variances first.
    """
    # Replays of the whole model cost most of all. A first look, at one image and without variances, rules out nearly all variants.
    session, one = outcome.session, slice(1)
    others = {fault.name for fault in outcome.faults} - {far.name}
    before = _squares(from_the_start(session, {}, one, plain=True), far.name, images[one])
    for kind in dict.fromkeys(call.kind for call in far.calls):
        for variant in TABLE.get(kind, ()):
            places = {(kind, EVERYWHERE): variant.step}
            if not _squares(from_the_start(session, places, one, plain=True), far.name, images[one]) < NEARER * before:
                continue
            again = _outcome(from_the_start(session, places, one), images[one])
            if not again.stopped and {fault.name for fault in again.faults} <= others:
                explained = replace(far, comparison=far.comparison.named(explanation=f"{variant.label}, everywhere"))
                log = [explained if entry is far else entry for entry in session.log]
                return replace(outcome, session=with_log(session, log))
    return outcome


def _squares(session: Session, name: str, images: Any) -> float:
    """The squared errors of a value in a replay; infinite where the model has no place for a variant."""
    try:
        replay(session, session.rounding.exact(images))
    except BROKEN:
        return INFINITE
    return sum(entry.comparison.squares for entry in session.log if entry.name == name)


def _report(model: Model, dtype: str, recording: Recording, outcome: _Outcome, images: Any) -> Report:
    session, faults = outcome.session, outcome.faults
    compared = {name for name in session.latest if session.holds(name)}
    size = (images.shape[2], images.shape[3])
    layers = module_names(model.config, size)
    unseen = tuple(name for name in layers if name not in compared and not _shown_by_its_module(name, compared))
    unknown = (*recording.unknown, *(name for name in session.values if name not in session.latest and not name.endswith(".kept")))
    return Report(
        model=model.name,
        dtype=dtype,
        candidate=recording.kind,
        images=len(images),
        verdict=_verdict(outcome),
        faults=tuple(fault.comparison.difference for fault in faults),
        differences=tuple(_differences(session.log)),
        selections=tuple(session.selections.values()),
        unknown=unknown,
        unseen=unseen,
        notes=(*recording.notes, *_notes(outcome, unseen, compared)),
        maps=tuple(picture for fault in faults if (picture := error_map(fault.comparison)) is not None),
    )


def _differences(log: Iterable[Observation]) -> Iterable[Difference]:
    """One for each of the candidate's values; where what is wrong lies before it and shows in it alone, that."""
    inferred = {entry.name: entry.comparison.difference for entry in log if not entry.supplied and not entry.passed}
    for entry in log:
        if entry.supplied:
            yield inferred.get(entry.name, entry.comparison.difference) if entry.passed else entry.comparison.difference


def _shown_by_its_module(name: str, compared: set[str]) -> bool:
    """Whether the module that a layer ends is there instead: attn for attn.proj, mlp for mlp.fc2."""
    parent, _, last = name.rpartition(".")
    return last in ("proj", "fc2") and parent in compared


def _verdict(outcome: _Outcome) -> str:
    verdicts = {selection.verdict for selection in outcome.session.selections.values()}
    if outcome.faults or outcome.stopped:
        return DIVERGES
    if FLIPPED in verdicts:
        return FLIPPED
    return REORDERED if REORDERED in verdicts else EQUAL


def _notes(outcome: _Outcome, unseen: Iterable[str], compared: set[str]) -> Iterable[str]:
    """What cannot be told, and what was assumed."""
    missing = len(tuple(unseen))
    if outcome.stopped:
        yield f"the replay ends at {outcome.stopped}: what follows was not looked at"
    if missing:
        yield f"{missing} of the model's layers are not among the values: a fault in one is reported under the next value that is"
    differences = [entry.comparison.difference for entry in outcome.session.log if entry.supplied]
    if missing and differences and not outcome.faults:
        last = differences[-1]
        yield f"an error of {last.name} below {last.limit:.1g} of its largest value would not be seen"
    if "logits" not in compared and "head" not in compared:
        yield "the values do not reach the logits: what follows the last of them was not looked at"
    for path, selection in outcome.session.selections.items():
        if selection.verdict == NOT_SEEN:
            yield f"nothing shows which tokens {path} kept: the reference's choice was taken"
    wrong = {fault.name for fault in outcome.faults}
    behind = sum(not entry.passed and entry.supplied and entry.name not in wrong for entry in outcome.session.log)
    if behind:
        yield f"{counted(behind, 'more value')} beyond the limit can be due to these faults: what they read of them is not supplied"
    for path in outcome.settled.choices:
        yield f"which tokens {path} kept, and in what order, was inferred from values behind the next attention"
    for name in dict.fromkeys(fault.name for fault in outcome.faults):
        if paths := " and ".join(outcome.settled.doubtful.get(name, ())):
            yield f"{name} may also differ because rounding changed which tokens {paths} kept: nothing before it shows that"
    for name in outcome.settled.allowed:
        yield f"{name} is held against what choices within rounding make of it: an error smaller than that would not be seen"
