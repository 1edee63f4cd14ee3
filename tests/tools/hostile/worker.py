"""The worker, which loads files and tells what came of it."""

import contextlib
import faulthandler
import gc
import json
import os
import resource
import shutil
import sys
from pathlib import Path
from typing import Any

import clock

from hostile.honest import controls

ADDRESSES = 3 << 30  # what a worker may map
PATIENCE = 10  # seconds after which a worker gives a file up, and itself


def status(field: str) -> float:
    """A line of /proc/self/status, in MiB; 0 where there is no such thing."""
    with contextlib.suppress(OSError):
        for line in Path("/proc/self/status").read_text(encoding="ascii").splitlines():
            if line.startswith(field):
                return int(line.split()[1]) / 1024
    return 0.0


def forget_peak() -> None:
    with contextlib.suppress(OSError):
        Path("/proc/self/clear_refs").write_text("5", encoding="ascii")


def peak() -> float:
    return status("VmHWM") or resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def attempt(path: str) -> dict[str, Any]:
    """What loading a file comes to: the class and text of what was raised, or the tensors."""
    import reforg

    try:
        found = reforg.load_weights(path)
    except BaseException as error:
        return {"outcome": type(error).__name__, "message": str(error)}
    told = {name: [str(value.dtype), value.tolist() if value.size < 100 else None] for name, value in found.items()}
    return {"outcome": "loaded", "message": "", "tensors": told}


def examined(path: str, canary: Path) -> dict[str, Any]:
    forget_peak()
    before, begin = status("VmRSS"), clock.now()
    told = attempt(path)
    told |= {"seconds": clock.now() - begin, "peak": peak(), "grown": peak() - before, "executed": os.path.lexists(canary)}
    if told["executed"]:
        remove(canary)
    return told


def remove(canary: Path) -> None:
    shutil.rmtree(canary) if canary.is_dir() and not canary.is_symlink() else canary.unlink()


def work(folder: Path, canary: Path) -> None:
    """Loads what the standard input names, and writes a line of JSON for each to `results`."""
    files = json.load(sys.stdin)
    resource.setrlimit(resource.RLIMIT_AS, (ADDRESSES, ADDRESSES))
    faulthandler.enable()
    for name, honest in controls().items():  # what is imported once is no file's time
        if name in {"plain-dict.pth", "one.safetensors", "stored.npz"}:
            (folder / "warm").write_bytes(honest.make())
            attempt(str(folder / "warm"))
    gc.freeze()
    with (folder / "results").open("w", encoding="ascii") as results:
        for name, path in files:
            faulthandler.dump_traceback_later(PATIENCE, exit=True)
            print(json.dumps({"name": name} | examined(path, canary)), file=results, flush=True)
            faulthandler.cancel_dump_traceback_later()
