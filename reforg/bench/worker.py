"""A contestant's own process: makes its program, and runs it when it is asked to.

Standard input brings a question a line, as JSON; each is answered by a line on standard output. "do" says what is asked:

probe      import the program, try dtypes and device on a small model -> name, version
prepare    make the program for a case, compute the first batch, write its logits to a file
turn       call the program until `seconds` are over, at least once -> calls, seconds
memory     -> peak, the most memory that this process ever had, in MB
breakdown  run a program of reforg with a clock at each operation -> what reforg.bench.breakdown says

What goes wrong is answered by {"error": a sentence}. The process ends when its standard input does.
"""

import json
import os
import sys
import time
import traceback
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np

from reforg.errors import BackendError, ReforgError
from reforg.models import backend

Task = dict[str, Any]
MEGABYTE = 1e6


@dataclass
class Program:
    """A contestant at work: a function from images to logits, both on the host; the model, where it is one of reforg's."""

    run: Callable[[Any], Any]
    images: Any
    model: Any = None


def main() -> None:
    """Answer questions until there are no more."""
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # what a library prints is no answer
    program: Program | None = None
    for line in sys.stdin:
        task = json.loads(line)
        try:
            if task["do"] == "prepare":
                program = prepared(task)
                answer: dict[str, Any] = {}
            else:
                answer = ANSWERS[task["do"]](program, task)
        except Exception as error:  # whatever a program can raise
            traceback.print_exc()
            answer = {"error": sentence(task, error)}
        answers.write(json.dumps(answer) + "\n")
        answers.flush()


def sentence(task: Task, error: Exception) -> str:
    """What went wrong, for the user: reforg's own words, or who failed, and the first line of what it said."""
    if isinstance(error, ReforgError):
        return str(error)
    if isinstance(error, MemoryError):
        return f"{task['label']}: there is not enough memory"
    lines = str(error).strip().splitlines()
    return f"{task['label']}: {lines[0] if lines else type(error).__name__}"


def probed(_program: Program | None, task: Task) -> dict[str, Any]:
    """Whether a contestant can take part, and what it is called."""
    if task["kind"] == "backend":
        found = backend.load(task["name"])
        for dtype in task["dtypes"]:
            backend.check(found, dtype, task["device"])
        return {"name": found.name, "version": found.version()}
    from reforg.bench.peers import load

    peer = load(task["name"])
    for dtype in task["dtypes"]:
        _try(peer, dtype, task)
    return {"name": peer.name, "version": peer.version()}


def _try(peer: Any, dtype: str, task: Task) -> None:
    """BackendError where a peer cannot compute a small model in that dtype on that device."""
    from reforg.catalog import synthetic
    from reforg.config import VitConfig
    from reforg.families import shapes

    config = VitConfig(img_size=8, patch_size=8, embed_dim=4, depth=1, num_heads=1, num_classes=2)
    try:
        run = peer.build(config, synthetic.weights(shapes(config)), dtype, task["device"], task["threads"])
        run(np.zeros((1, 3, 8, 8), np.float32))
    except backend.REFUSALS as error:
        where = "" if task["device"] is None else f" on device {task['device']!r}"
        reason = sentence({"label": f"peer {task['name']!r} cannot compute in {dtype}{where}"}, error)
        raise BackendError(reason) from error


def prepared(task: Task) -> Program:
    """The program of a case, which has computed its first batch."""
    images = np.load(task["images"])
    program = _of_reforg(task, images) if task["kind"] == "backend" else _of_peer(task, images)
    np.save(task["logits"], np.asarray(program.run(images)).astype(np.float64))
    return program


def _of_reforg(task: Task, images: Any) -> Program:
    from reforg.models.creation import create_model

    model = create_model(
        task["model"], task["weights"], task["name"], task["dtype"], task["device"], task["ops"], **task["settings"]
    )
    return Program(lambda batch: model.backend.to_numpy(model(batch)), images, model)


def _of_peer(task: Task, images: Any) -> Program:
    from reforg.bench.peers import load
    from reforg.catalog.names import build_config
    from reforg.weights.fitting import obtain

    config = build_config(task["model"], **task["settings"])
    run = load(task["name"]).build(config, obtain(task["weights"], config), task["dtype"], task["device"], task["threads"])
    return Program(run, images)


def turned(program: Program, task: Task) -> dict[str, Any]:
    """One turn: as many calls as fill the time, at least one."""
    calls, start = 0, time.perf_counter()
    while True:
        program.run(program.images)
        calls, spent = calls + 1, time.perf_counter() - start
        if spent >= task["seconds"]:
            return {"calls": calls, "seconds": spent}


def peak(_program: Program | None, _task: Task) -> dict[str, Any]:
    """The most memory that was ever resident, in MB of a million bytes; None where the system does not tell."""
    try:  # Linux's own figure of this program; that of getrusage begins with the parent's
        with open("/proc/self/status", encoding="ascii") as file:  # noqa: PTH123 - one line of a system file
            kilobytes = next(int(line.split()[1]) for line in file if line.startswith("VmHWM"))
    except (OSError, StopIteration):
        return {"peak": _peak_of_usage()}
    return {"peak": kilobytes * 1024 / MEGABYTE}


def _peak_of_usage() -> float | None:
    try:
        import resource
    except ImportError:  # Windows
        return None
    size = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return size * (1 if sys.platform == "darwin" else 1024) / MEGABYTE


def broken_down(program: Program, task: Task) -> dict[str, Any]:
    """Where the time goes in one of reforg's programs."""
    from reforg.bench.breakdown import measured, planned
    from reforg.ops import REFERENCE

    if program.model.plans is not None:
        return planned(program.model, program.images, task["seconds"])
    ops = REFERENCE if task["ops"] == "reference" else program.model.backend.ops
    return measured(program.model, ops, program.images, task["seconds"])


ANSWERS: dict[str, Callable[[Any, Task], dict[str, Any]]] = {
    "probe": probed, "turn": turned, "memory": peak, "breakdown": broken_down,
}  # fmt: skip

if __name__ == "__main__":
    main()
