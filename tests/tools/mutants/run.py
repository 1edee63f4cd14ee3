"""One mutant at a time in a copy of the project: which test goes red first, if any does.

A copy is made once for each worker and repaired after each mutant. Two stages, each stopped at its first red test: the quick
one (traps, operations, golden outputs but those of large models; numpy and array-api-strict), then the other default tests
of models. What a test leaves running, or writes without end, or takes in memory, ends with its stage.
"""

import ast
import contextlib
import hashlib
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from dataclasses import dataclass, replace
from pathlib import Path

from mutants.operators import Mutant

COPIED = ("reforg", "backends", "golden", "tests", "docs", "pyproject.toml", "README.md", "LICENSE", "NOTICE", "Makefile")
LIMITED = 'ulimit -v 8388608; "$@"; exit $?'  # 8 GiB; the shell stays, as what is told of completion asks for one
SETTINGS = ["-x", "-q", "-p", "no:cacheprovider", "--hypothesis-profile=ci"]  # which makes every search the same at every run

SLOW = (  # golden outputs of large models, which find little that the micro models' intermediates do not
    "tests/golden/test_golden.py::test_float64_logits_are_the_official_ones",
    "tests/golden/test_golden.py::test_float32_is_as_near_to_the_truth_as_torch_is",
    "tests/golden/test_golden.py::test_trained_models_answer_as_the_official_ones_do",
)
QUICK = [
    "tests/test_traps.py", "tests/ops/test_ops.py", "tests/golden/test_golden.py", "--libraries", "numpy,strict",
    *(f"--deselect={test}" for test in SLOW),
]  # fmt: skip
EARLY = (
    "properties/test_selection.py", "properties/", "models/test_contract.py", "backends/test_backends.py", "costs/test_costs.py",
    "golden/test_golden.py", "ops/test_ops.py", "test_traps.py",
)  # fmt: skip
AROUND = {  # files, pictures, the command line: they cost most of the time, and a forward pass is what they are not about
    "bench/test_bench.py", "weights/test_checkpoints.py", "classification/test_classify.py", "cli/test_cli.py", "demo/test_demo.py",
    "docs/test_commands.py", "weights/test_fuzz.py", "weights/test_hostile.py", "weights/test_hub.py", "images/test_images.py",
    "cli/test_info.py", "catalog/test_labels.py", "catalog/test_published.py", "weights/test_spellings.py",
}  # fmt: skip
OF_THE_SOURCE = (  # what looks at the text of the source, at imports and their time, and at mutants, not at what a model does
    "tests/test_layering.py",
    "tests/test_mutants.py",
    "tests/docs/test_pages.py::test_includes_are_current",
)


@dataclass(frozen=True)
class Outcome:
    """What became of one mutant: the stage that killed it ("" where it survives), the first red test or the reason."""

    id: str
    source: str
    stage: str
    test: str
    seconds: float

    @property
    def timed_out(self) -> bool:
        return self.test == "timeout"


@dataclass(frozen=True)
class Stage:
    """Tests to run, and how many seconds they may take."""

    name: str
    tests: list[str]
    seconds: float = 3600.0


def fingerprint(text: str) -> str:
    """By which a result is known to be of this text."""
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def rest(folder: Path) -> list[str]:
    """The arguments of the second stage: likely killers first, then the other files."""
    tests = folder / "tests"
    files = [path.relative_to(tests).as_posix() for path in tests.rglob("test_*.py") if "oracle" not in path.parts]
    wanted = [f"tests/{file}" for file in sorted(set(files) - AROUND, key=lambda file: (_turn(file), file))]
    return [*(file for file in wanted if file not in OF_THE_SOURCE), *(f"--deselect={test}" for test in OF_THE_SOURCE)]


def _turn(file: str) -> int:
    early = [turn for turn, start in enumerate(EARLY) if file.startswith(start)]
    return early[0] if early else len(EARLY)


def copied(root: Path, folder: Path) -> Path:
    """The project in `folder`, with an empty folder for what the tests write."""
    for part in COPIED:
        if (root / part).is_dir():
            shutil.copytree(root / part, folder / part, ignore=shutil.ignore_patterns("__pycache__", ".hypothesis"))
        elif (root / part).exists():
            shutil.copy(root / part, folder / part)
    (folder / "temporary").mkdir()
    return folder


def environment(folder: Path) -> dict[str, str]:
    """Nothing of the caller's but the checkpoints that pages are tried on; the copy comes before any installed reforg."""
    shared = os.environ.get("REFORG_SHARED", Path(__file__).parents[4] / "shared")
    return {
        "PYTHONPATH": os.pathsep.join(str(folder / part) for part in (".", "backends", "golden")),
        "PATH": "/usr/bin:/bin",
        "HOME": str(folder / "temporary"),
        "TMPDIR": str(folder / "temporary"),
        "OPENBLAS_NUM_THREADS": "1",
        "REFORG_CACHE": str(folder.parent / "kernels"),  # compiled once, not for every mutant
        "PYTHONDONTWRITEBYTECODE": "1",
        "PYTHONHASHSEED": "0",
        "REFORG_SHARED": str(shared),
    }


def first_red(folder: Path, stage: Stage) -> str | None:
    """The first test that fails there, "timeout", or how pytest ended where no test is to blame; None where all is green."""
    command = ["bash", "-c", LIMITED, "bash", sys.executable, "-m", "pytest", *SETTINGS, *stage.tests]
    told = folder / "told.txt"
    with told.open("w") as output:
        process = subprocess.Popen(
            command,
            cwd=folder,
            env=environment(folder),
            stdout=output,
            stderr=output,
            stdin=subprocess.DEVNULL,
            start_new_session=True,
        )
        try:
            code = process.wait(stage.seconds)
        except subprocess.TimeoutExpired:
            return "timeout"
        finally:
            _end(process)
    if code == 0:
        return None
    text = told.read_text(errors="replace")
    found = re.search(r"^(?:FAILED|ERROR) tests/(.+?)(?: - |$)", text, re.MULTILINE)
    return found[1] if found else f"pytest ended with {code}"


def _end(process: subprocess.Popen[bytes]) -> None:
    """End the tests and whatever they have started."""
    with contextlib.suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)
    process.wait()


def tried(folder: Path, mutant: Mutant, stages: list[Stage]) -> Outcome:
    """Put the mutant into the copy, run the stages until one is red, and take it out again."""
    path = folder / mutant.file
    source = path.read_text(encoding="utf-8")
    began = time.monotonic()
    path.write_text(mutant.apply(source), encoding="utf-8")
    try:
        for stage in stages:
            if test := first_red(folder, stage):
                return Outcome(mutant.id, fingerprint(source), stage.name, test, round(time.monotonic() - began, 1))
    finally:
        path.write_text(source, encoding="utf-8")
        _clear(folder)
    return Outcome(mutant.id, fingerprint(source), "", "", round(time.monotonic() - began, 1))


def _clear(folder: Path) -> None:
    """Leave nothing behind of what tests wrote, bytecode of a mutant above all."""
    for left in (folder / "temporary", *folder.rglob("__pycache__")):
        shutil.rmtree(left, ignore_errors=True)
    (folder / "temporary").mkdir(exist_ok=True)


def measured(folder: Path, files: list[str]) -> tuple[list[Stage], str | None]:
    """The two stages with their time limits, six times what they took without a mutant, and the test that is red even so.

    The files are written anew from their trees for this run: a test that is green then does not look at the source's text,
    and a mutant that it kills is one that computes, refuses or says something else.
    """
    texts = {file: (folder / file).read_text(encoding="utf-8") for file in files}
    for file, text in texts.items():
        (folder / file).write_text(ast.unparse(ast.parse(text)), encoding="utf-8")
    stages = []
    try:
        for stage in (Stage("quick", QUICK), Stage("rest", rest(folder))):
            began = time.monotonic()
            if red := first_red(folder, stage):
                return [], f"{red} in the {stage.name} stage"
            seconds = time.monotonic() - began
            print(f"without a mutant the {stage.name} stage takes {seconds:.0f} s", file=sys.stderr, flush=True)
            stages.append(replace(stage, seconds=max(60.0, 6 * seconds)))
    finally:
        for file, text in texts.items():
            (folder / file).write_text(text, encoding="utf-8")
        _clear(folder)
    return stages, None
