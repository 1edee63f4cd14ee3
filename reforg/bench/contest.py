"""The contest: who takes part, the same images and weights for all, the same results, and then turns."""

import os
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from reforg.bench.material import Material
from reforg.bench.process import Worker
from reforg.bench.request import Case, Contestant, Request
from reforg.bench.statistics import Turn
from reforg.errors import BackendError, ReforgError

PAUSE = 0.1  # seconds between turns; a BLAS' threads spin for some milliseconds after their last product
# How far logits may lie apart, in units of the largest. Twelve blocks of random weights were seen to differ by 1e-5 in float32,
# 0.11 in float16 and 0.29 in bfloat16, in which EViT's choice of tokens changes, too; unrelated logits differ by about 1.
LIMITS = {"float64": 1e-9, "float32": 1e-3, "float16": 0.25, "bfloat16": 0.6}
Logits = npt.NDArray[np.float64]
Report = Callable[[str], None]


class DisagreementError(ReforgError):
    """Contestants that compute different things, so that their speeds say nothing."""


@dataclass(frozen=True)
class Entrant:
    """A contestant that can take part, with what its program is called and its version."""

    contestant: Contestant
    label: str
    version: str


@dataclass
class Result:
    """What was measured of one contestant in one case.

    start: seconds from the birth of its process to its first logits. peak: MB of memory, None where it is not known.
    difference: of its logits from the first contestant's, in units of the largest.
    """

    entrant: Entrant
    start: float
    difference: float = 0.0
    turns: list[Turn] = field(default_factory=list)
    peak: float | None = None
    breakdown: dict[str, Any] | None = None


@dataclass(frozen=True)
class Running:
    """A contestant in one case: its process, what is measured of it, and its first logits."""

    worker: Worker
    result: Result
    logits: Logits


@dataclass(frozen=True)
class Outcome:
    """All that a contest found out: results by case, and why some peers did not take part.

    load: how many processes were running on the average of the minute before it began; None where the system does not tell.
    """

    request: Request
    entrants: list[Entrant]
    absent: dict[str, str]
    cases: list[tuple[Case, list[Result]]]
    load: float | None = None

    @property
    def yardstick(self) -> Entrant:
        """What the others are measured by: the first peer, or the first contestant where there is no peer."""
        return next((entrant for entrant in self.entrants if entrant.contestant.kind == "peer"), self.entrants[0])


def run(request: Request, report: Report = lambda _: None) -> Outcome:
    """Measure everything that is asked for. Raises BackendError, DisagreementError; no worker outlives it."""
    load = os.getloadavg()[0] if hasattr(os, "getloadavg") else None
    entrants, absent = gathered(request, report)
    with tempfile.TemporaryDirectory(prefix="reforg-bench-") as folder:
        material = Material(Path(folder))
        cases = [(case, _measured(request, case, entrants, material, report)) for case in request.cases()]
    return Outcome(request, entrants, absent, cases, load)


def gathered(request: Request, report: Report) -> tuple[list[Entrant], dict[str, str]]:
    """Who takes part, and by name, why peers that nobody asked for do not.

    Importing all of them once also brings their files into the system's cache, so that no start-up has to wait for the disk.
    """
    programs: dict[tuple[str, str, str | None], dict[str, Any]] = {}
    absent: dict[str, str] = {}
    contestants = request.contestants()
    for contestant in contestants:
        if _key(contestant) in programs:
            continue
        report(f"looking for {contestant.kind} {contestant.name}")
        try:
            programs[_key(contestant)] = _probed(request, contestant)
        except BackendError as error:
            if contestant.kind == "backend" or request.against is not None:
                raise
            absent[contestant.name] = str(error)
    found = [(contestant, programs.get(_key(contestant))) for contestant in contestants]
    return [Entrant(who, _label(who, told["name"]), told["version"]) for who, told in found if told], absent


def _key(contestant: Contestant) -> tuple[str, str, str | None]:
    """What contestants have in common that need to be looked for but once."""
    return contestant.kind, contestant.name, contestant.device


def _label(contestant: Contestant, name: str) -> str:
    """What the tables call it."""
    return " ".join(filter(None, (name, contestant.ops, contestant.device and f"on {contestant.device}")))


def _probed(request: Request, contestant: Contestant) -> dict[str, Any]:
    """The name and the version of a contestant's program; BackendError where it cannot take part."""
    label = f"{contestant.kind} {contestant.name!r}"
    with Worker(label, request.threads) as worker:
        return worker.ask({"do": "probe", **_who(request, contestant, label), "dtypes": list(request.dtypes)})


def _who(request: Request, contestant: Contestant, label: str) -> dict[str, Any]:
    return {
        "label": label,
        "kind": contestant.kind,
        "name": contestant.name,
        "ops": contestant.ops,
        "device": contestant.device,
        "threads": request.threads,
    }


def _measured(request: Request, case: Case, entrants: Sequence[Entrant], material: Material, report: Report) -> list[Result]:
    """All results of one case, in the order of the contestants."""
    report(f"{case.title}: weights and images")
    files = material.of(case)
    with ExitStack() as workers:
        running: list[Running] = []
        for entrant in entrants:
            report(f"{case.title}: {entrant.label} starts")
            running.append(_started(request, entrant, files, workers))
            wanted, own = running[0], running[-1]
            own.result.difference = compare(case, wanted.worker.label, wanted.logits, own.worker.label, own.logits)
        _take_turns(request, case, running, report)
        for entry in running:
            entry.result.peak = entry.worker.ask({"do": "memory"})["peak"]
        if request.breakdown:
            _break_down(request, case, running, report)
    return [entry.result for entry in running]


def _started(request: Request, entrant: Entrant, files: Mapping[str, Any], workers: ExitStack) -> Running:
    """A contestant that has computed its first logits."""
    question = {"do": "prepare", **_who(request, entrant.contestant, entrant.label), **files}
    start = time.perf_counter()
    worker = workers.enter_context(Worker(entrant.label, request.threads))
    worker.ask(question)
    return Running(worker, Result(entrant, time.perf_counter() - start), np.load(files["logits"]))


def _take_turns(request: Request, case: Case, running: Sequence[Running], report: Report) -> None:
    """The warm-up, whose turns nobody counts, and the rounds."""
    for number, order in enumerate(rounds(len(running), request.rounds)):
        stage = f"round {number} of {request.rounds}" if number else "warm-up"
        for index in order:
            worker, result = running[index].worker, running[index].result
            report(f"{case.title}: {stage}, {worker.label}")
            time.sleep(PAUSE)
            answer = worker.ask({"do": "turn", "label": worker.label, "seconds": request.seconds})
            if number:
                result.turns.append(Turn(answer["calls"], answer["seconds"]))


def rounds(count: int, number: int) -> Iterator[list[int]]:
    """The order of each round, a warm-up before them: forwards and backwards by turns, so that a steady drift falls on all."""
    for index in range(number + 1):
        order = list(range(count))
        yield order if index % 2 else order[::-1]


def _break_down(request: Request, case: Case, running: Sequence[Running], report: Report) -> None:
    for entry in running:
        contestant, label = entry.result.entrant.contestant, entry.worker.label
        if contestant.kind == "backend":
            report(f"{case.title}: breakdown, {label}")
            time.sleep(PAUSE)
            question = {"do": "breakdown", "label": label, "ops": contestant.ops, "seconds": request.seconds}
            entry.result.breakdown = entry.worker.ask(question)


def compare(case: Case, first: str, wanted: Logits, label: str, got: Logits) -> float:
    """The largest difference of logits, in units of the largest of `wanted`; DisagreementError where it is beyond the limit."""
    if not np.isfinite(got).all():
        raise DisagreementError(f"{case.title}: the logits of {label} are not finite, so nothing was measured")
    if got.shape != wanted.shape:
        shapes_ = f"{label} gives logits of shape {got.shape}, {first} of {wanted.shape}"
        raise DisagreementError(f"{case.title}: {shapes_}, so nothing was measured")
    difference = float(np.abs(got - wanted).max() / (np.abs(wanted).max() or 1.0))
    if difference > LIMITS[case.dtype]:
        raise DisagreementError(
            f"{case.title}: {label} and {first} compute different things: their logits differ by {difference:.2g} of the largest, "
            f"where {case.dtype} explains {LIMITS[case.dtype]:g}; nothing was measured"
        )
    return difference
