"""Weight files that mean harm are refused in one sentence, at once, in little memory, and without running anything in them.

The files are loaded by workers of their own, one for each kind of file, so that what kills a worker is a failure with a name.
"""

import contextlib
import json
import os
import pickle
import re
import shutil
import socket
import subprocess
import sys
from collections.abc import Callable, Iterator
from functools import cache
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import hostile
import numpy as np
import pytest

SECONDS = 2.0
PEAK_MEGA = 1000
NAMES = list(hostile.corpus(Path("canary")))  # which do not depend on where the canary is
CONTROLS = hostile.controls()
EITHER = hostile.either()


@cache
def mutated() -> dict[str, dict[str, Callable[[], bytes]]]:
    """Changed files in two rooms: a fifth of the seeds, and the rest."""
    found: dict[str, dict[str, Callable[[], bytes]]] = {"mutated": {}, "mutated-more": {}}
    for name, make in hostile.mutated().items():
        found["mutated" if int(name.partition("-")[0]) < 20 else "mutated-more"][name] = make
    return found


def run(files: dict[str, Path], folder: Path, canary: Path) -> dict[str, dict[str, Any]]:
    """Every file's outcome; where a worker dies, the file that it was at is to blame, and another worker goes on behind it."""
    found: dict[str, dict[str, Any]] = {}
    environment = os.environ | {"OPENBLAS_NUM_THREADS": "1"}
    while left := [(name, str(path)) for name, path in files.items() if name not in found]:
        (folder / "results").unlink(missing_ok=True)
        done = subprocess.run(
            [sys.executable, str(Path(hostile.__file__).parent), str(folder), str(canary)],
            input=json.dumps(left),
            capture_output=True,
            text=True,
            env=environment,
            check=False,
        )
        results = folder / "results"
        lines = results.read_text(encoding="ascii").splitlines() if results.exists() else []
        assert lines or results.exists(), f"the worker does not start: {done.stderr}"
        found |= {told["name"]: told for told in map(json.loads, lines)}
        if len(lines) < len(left):
            found[left[len(lines)][0]] = {
                "outcome": f"the worker died (exit code {done.returncode})",
                "message": done.stderr[-3000:],
            }
    return found


def written(makes: dict[str, Callable[[], bytes]], folder: Path) -> dict[str, Path]:
    for name, make in makes.items():
        (folder / name).write_bytes(make())
    return {name: folder / name for name in makes}


def specials(folder: Path) -> dict[str, Path]:
    """Paths that are no files."""
    found = {
        "directory": folder / "directory.pth",
        "pipe": folder / "pipe.pth",
        "socket": folder / "socket.pth",
        "loop": folder / "loop.pth",
        "dangling": folder / "dangling.pth",
        "zeros": folder / "zeros.pth",
        "zeros-safetensors": folder / "zeros.safetensors",
        "zeros-npz": folder / "zeros.npz",
        "device": Path("/dev/zero"),
        "null": Path("/dev/null"),
        "random": Path("/dev/urandom"),
        "terminal": Path("/dev/tty"),
        "memory": Path("/proc/self/mem"),
        "absent": folder / "absent.pth",
        "below-a-file": folder / "lines\nin the name.pth" / "x.pth",
        "lines-in-the-name": folder / "lines\nin the name.pth",
        "nul-in-the-name": folder / "a\0b.pth",
        "surrogate-in-the-name": folder / "\udcff\ud800.pth",
        "long-name": folder / ("x" * 5000 + ".pth"),
        "folder": folder,
    }
    found["directory"].mkdir()
    os.mkfifo(found["pipe"])
    with socket.socket(socket.AF_UNIX) as unix, contextlib.chdir(folder):
        unix.bind("socket.pth")
    found["loop"].symlink_to(found["loop"])
    found["dangling"].symlink_to(folder / "nothing")
    for name in ("zeros", "zeros-safetensors", "zeros-npz"):
        found[name].symlink_to("/dev/zero")
    found["lines-in-the-name"].write_bytes(b"no weights")
    return found


SPECIALS = (
    *(
        "directory",
        "pipe",
        "socket",
        "loop",
        "dangling",
        "zeros",
        "zeros-safetensors",
        "zeros-npz",
        "device",
        "null",
        "random",
        "terminal",
    ),
    *("memory", "absent", "below-a-file", "lines-in-the-name", "nul-in-the-name", "surrogate-in-the-name", "long-name", "folder"),
)


def rooms(canary: Path) -> dict[str, dict[str, Callable[[], bytes]]]:
    """The files by their kinds."""
    found: dict[str, dict[str, Callable[[], bytes]]] = {}
    for name, make in hostile.corpus(canary).items():
        found.setdefault(name.partition("-")[0], {})[name] = make
    return found | {
        **mutated(),
        "either": {name: honest.make for name, honest in EITHER.items()},
        "controls": {name: honest.make for name, honest in CONTROLS.items()},
    }


class Outcomes:
    """Outcomes of a kind of files, found when one of them is first asked for; its files are gone then."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.canary = folder / "canary"
        self.rooms = rooms(self.canary)
        self.known: dict[str, dict[str, dict[str, Any]]] = {}

    def of(self, room: str, name: str) -> dict[str, Any]:
        if room not in self.known:
            place = self.folder / room
            place.mkdir()
            files = specials(place) if room == "specials" else written(self.rooms[room], place)
            self.known[room] = run(files, self.folder, self.canary)
            shutil.rmtree(place)
        return self.known[room][name]


@pytest.fixture(scope="module")
def outcomes(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Outcomes]:
    found = Outcomes(tmp_path_factory.mktemp("hostile"))
    yield found
    assert not os.path.lexists(found.canary), "something in these files was executed"


def assert_harmless(told: dict[str, Any]) -> None:
    """Nothing was executed, and it took little time and memory."""
    assert "seconds" in told, f"{told['outcome']}\n{told['message']}"
    assert not told["executed"]
    assert told["seconds"] < SECONDS, f"{told['seconds']:.1f} s: {told['outcome']} {told['message'][:200]}"
    assert told["peak"] < PEAK_MEGA, f"{told['peak']:.0f} MiB: {told['outcome']} {told['message'][:200]}"


def assert_refused(told: dict[str, Any]) -> None:
    assert told["outcome"] == "WeightsError", f"{told['outcome']}: {told['message'][:500]} {str(told.get('tensors'))[:500]}"
    assert told["message"].strip()
    assert len(told["message"].splitlines()) == 1, f"several lines: {told['message'][:500]!r}"


def assert_weights(told: dict[str, Any], expected: dict[str, np.ndarray]) -> None:
    assert told["outcome"] == "loaded", f"{told['outcome']}: {told['message'][:500]}"
    found = {name: tuple(value) for name, value in told["tensors"].items() if name in expected}
    assert found == {name: (str(value.dtype), value.tolist()) for name, value in expected.items()}


def repeats(name: str) -> bool:
    """Whether a file says what another says too: in another protocol than torch's own, or in the format before 1.6."""
    return re.search(r"-p[01345]\b|-(in-)?legacy\b", name) is not None


@pytest.mark.parametrize("name", [pytest.param(name, marks=pytest.mark.full if repeats(name) else ()) for name in NAMES])
def test_a_harmful_file_is_refused(name, outcomes):
    told = outcomes.of(name.partition("-")[0], name)
    assert_harmless(told)
    assert_refused(told)


@pytest.mark.parametrize("name", SPECIALS)
def test_what_is_no_file_is_refused(name, outcomes):
    told = outcomes.of("specials", name)
    assert_harmless(told)
    assert_refused(told)


def test_a_file_that_may_not_be_read_is_refused(tmp_path):
    path = tmp_path / "closed.pth"
    path.write_bytes(hostile.in_zip(hostile.HONEST))
    path.chmod(0)
    if os.access(path, os.R_OK):
        pytest.skip("this user may read every file")
    assert_refused(hostile.attempt(str(path)))


@pytest.mark.parametrize("name", CONTROLS)
def test_an_honest_file_loads(name, outcomes):
    told = outcomes.of("controls", name)
    assert_harmless(told)
    assert_weights(told, CONTROLS[name].expected)
    assert set(told["tensors"]) == set(CONTROLS[name].expected)


@pytest.mark.parametrize("name", EITHER)
def test_a_doubtful_file_is_refused_or_gives_its_weights(name, outcomes):
    told = outcomes.of("either", name)
    assert_harmless(told)
    if told["outcome"] == "loaded":
        assert_weights(told, EITHER[name].expected)
    else:
        assert_refused(told)


@pytest.mark.parametrize("room", ["mutated", pytest.param("mutated-more", marks=pytest.mark.full)])
def test_changed_bytes_end_in_weights_or_a_refusal(room, outcomes):
    for name in mutated()[room]:
        told = outcomes.of(room, name)
        assert told["outcome"] in {"loaded", "WeightsError"}, f"{name}: {told}"
        assert_harmless(told)


def test_the_payloads_would_do_harm(tmp_path):
    """Each of them makes the canary where the standard library's pickle loads it: the tests above can fail."""
    canary = tmp_path / "canary"
    payloads = hostile.live(canary)
    code = "import pickle, sys; exec('try: pickle.load(sys.stdin.buffer)\\nexcept Exception as e: print(e, file=sys.stderr)')"
    silent = []
    for name, body in payloads.items():
        said = subprocess.run([sys.executable, "-I", "-c", code], input=body, capture_output=True, check=False).stderr.decode()
        found = list(tmp_path.glob("canary*"))
        silent += [] if found else [f"{name}: {said}"]
        for path in found:
            hostile.remove(path)
    assert not silent, "\n".join(silent)


class Lenient(pickle.Unpickler):
    """An unpickler that takes classes that are not installed for empty ones."""

    def find_class(self, module: str, name: str) -> Any:
        nothing = dict.fromkeys(("__init__", "__setitem__", "append", "extend"), lambda self, *args, **named: None)
        try:
            return super().find_class(module, name.replace("Windows", "PureWindows"))
        except (ImportError, AttributeError):
            return type(name, (), nothing)


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("name", [name for name in CONTROLS if "safetensors" not in name and "npz" not in name])
def test_torch_reads_the_same_in_the_honest_files(name, tmp_path):
    torch = pytest.importorskip("torch")
    honest = CONTROLS[name]
    (tmp_path / name).write_bytes(honest.make())
    lenient = SimpleNamespace(Unpickler=Lenient, load=pickle.load, __name__="pickle")
    whole = torch.load(tmp_path / name, map_location="cpu", weights_only=False, pickle_module=lenient)
    content = next((whole[key] for key in ("model", "state_dict") if key in whole), whole)
    state = {key: value for key, value in content.items() if isinstance(value, torch.Tensor)}
    assert set(state) == set(honest.expected)
    for key, value in honest.expected.items():
        np.testing.assert_array_equal(state[key].detach().to(torch.float64).numpy(), value.astype(np.float64))
