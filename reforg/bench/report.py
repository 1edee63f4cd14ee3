"""What a contest found out, as plain values: the JSON of `reforg bench --json`.

{
  "schema": 1,
  "reforg", "python", "machine", "system", "blas", "backends", "packages", "environment": as `reforg env --json` tells them,
  "threads": as asked for, null where each program was left to its own choice,
  "load": average number of running processes in the minute before, null where the system does not tell,
  "rounds": number, "seconds": of a turn,
  "yardstick": the contestant that `ratio` compares with, "absent_peers": {name: why it did not take part},
  "contestants": [{"label", "kind": "backend" or "peer", "name", "ops": of a backend, "device": as asked for, "version"}],
  "cases": [{
    "model", "settings", "dtype", "batch", "image": [height, width], "params", "macs": multiply-accumulates of an image,
    "fastest_peer": the label of the peer with the most images a second, null where there is no peer,
    "results": [{
      "contestant": its label,
      "images_per_second", "ms_per_batch", "ratio": {"low", "median", "high"}, quartiles over the rounds,
      "ratios": {label of a peer: {"low", "median", "high"}}, the same as `ratio` for every peer,
      "gmacs_per_second": of the median, "peak_memory_mb": of its process (not of a device), a million bytes each, or null,
      "start_seconds": from the start of its process to its first logits,
      "difference": of its logits from the first contestant's, in units of the largest,
      "rounds": [{"calls", "seconds"}],
      "breakdown": null, or {
        "passes", "wall_ms": of one pass, "parts": [{"operation", "run_by", "calls", "ms", "share", "gmacs", "gflops"}],
        "between_ms", "between_share", "peak_gflops": of a large matrix product, "floor_ms": of all multiply-accumulates at it
      }
    }]
  }]
}

Of a breakdown, ms, calls and gmacs are of one pass; gmacs and gflops are null where multiply-accumulates are not known.
"""

import os
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

from reforg.bench.contest import Entrant, Outcome, Result
from reforg.bench.request import Case
from reforg.bench.statistics import Spread, rates, ratios, spread
from reforg.costs.cost import cost
from reforg.models import environment

SCHEMA = 1
SLOWING = ("OPENBLAS_CORETYPE", "OPENBLAS_L2_SIZE")  # they choose NumPy's kernels and their blocks, for better or worse


@dataclass(frozen=True)
class Figures:
    """One contestant's figures in one case. ratio: images a second, in units of the yardstick's in the same round.

    ratios: the same in units of every peer's, by its label.
    """

    images_per_second: Spread
    ms_per_batch: Spread
    ratio: Spread
    ratios: dict[str, Spread]
    gmacs_per_second: float


def figures(case: Case, results: Sequence[Result], yardstick: Entrant) -> list[Figures]:
    """The figures of every result of a case, in their order."""
    speeds = {result.entrant: rates(result.turns, case.batch) for result in results}
    peers = [entrant for entrant in speeds if entrant.contestant.kind == "peer"]
    macs = cost(case.config).macs
    found = []
    for result in results:
        own = speeds[result.entrant]
        batches = [1e3 * turn.seconds / turn.calls for turn in result.turns]
        of_peers = {peer.label: spread(ratios(own, speeds[peer])) for peer in peers}
        of_yardstick = spread(ratios(own, speeds[yardstick]))
        found.append(Figures(spread(own), spread(batches), of_yardstick, of_peers, macs * spread(own).median / 1e9))
    return found


def fastest_peer(results: Sequence[Result], found: Sequence[Figures]) -> str | None:
    """The label of the peer with the most images a second; None where there is no peer."""
    speeds = {
        result.entrant.label: own.images_per_second.median
        for result, own in zip(results, found, strict=True)
        if result.entrant.contestant.kind == "peer"
    }
    return max(speeds, key=lambda label: speeds[label], default=None)


def as_dict(outcome: Outcome) -> dict[str, Any]:
    """The schema above."""
    request = outcome.request
    return {
        "schema": SCHEMA,
        **environment.report(),
        "threads": request.threads,
        "load": outcome.load,
        "rounds": request.rounds,
        "seconds": request.seconds,
        "yardstick": outcome.yardstick.label,
        "absent_peers": outcome.absent,
        "contestants": [
            {"label": entrant.label, **asdict(entrant.contestant), "version": entrant.version} for entrant in outcome.entrants
        ],
        "cases": [_case(case, results, outcome.yardstick) for case, results in outcome.cases],
    }


def slowing() -> dict[str, str]:
    """The variables of the environment that can halve NumPy's speed, where they are set."""
    return {name: os.environ[name] for name in SLOWING if name in os.environ}


def _case(case: Case, results: Sequence[Result], yardstick: Entrant) -> dict[str, Any]:
    spent, found = cost(case.config), figures(case, results, yardstick)
    return {
        "model": case.model,
        "settings": dict(case.settings),
        "dtype": case.dtype,
        "batch": case.batch,
        "image": list(case.config.image_shape),
        "params": spent.params,
        "macs": spent.macs,
        "fastest_peer": fastest_peer(results, found),
        "results": [
            {"contestant": result.entrant.label, **asdict(own), **_rest(result)} for result, own in zip(results, found, strict=True)
        ],
    }


def _rest(result: Result) -> dict[str, Any]:
    """What is measured once, and all rounds."""
    return {
        "peak_memory_mb": result.peak,
        "start_seconds": result.start,
        "difference": result.difference,
        "rounds": [asdict(turn) for turn in result.turns],
        "breakdown": result.breakdown,
    }
