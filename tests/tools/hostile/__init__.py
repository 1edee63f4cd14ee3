"""Weight files that mean harm, and honest ones to hold against them: bytes written by hand, without the frameworks that read them.

`corpus` are files that must be refused, `controls` files that must load, `either` files where both is right as long as it
is quick and gives the weights. Every file is a function that makes its bytes, so that a list of them costs nothing. Run as
a script (`python tests/tools/hostile FOLDER CANARY`), this package is the worker that loads them.
"""

from pathlib import Path

from hostile.archives import HONEST, zips
from hostile.containers import in_zip
from hostile.forms import live, payloads
from hostile.honest import controls, either, mutated
from hostile.lies import tensors
from hostile.opcodes import machine
from hostile.other_formats import npz_files, others, safetensors_files
from hostile.pickles import Found, Make
from hostile.repeats import between, sharing
from hostile.worker import attempt, remove

__all__ = ["HONEST", "attempt", "controls", "corpus", "either", "in_zip", "live", "mutated", "remove"]


def clean(name: str) -> str:
    """A name that is a file's, whatever the thing is called."""
    return "".join(letter if letter.isalnum() or letter in "-._+" else "_" for letter in name)


def corpus(canary: Path) -> dict[str, Make]:
    """Files that must be refused, under names that begin with their kind; executed, they would make the canary."""
    rooms: dict[str, tuple[Found, str]] = {
        "payload": (payloads(canary), ".pth"),
        "tensor": (tensors(), ".pth"),
        "zip": (zips(canary), ".pth"),
        "machine": (machine(), ".pth"),
        "safetensors": (safetensors_files(), ".safetensors"),
        "npz": (npz_files(canary), ".npz"),
        "other": (others(canary), ""),
        "shared": (sharing(), ""),
        "between": (between(), ""),
    }
    found: dict[str, Make] = {}
    for room, (files, ending) in rooms.items():
        for name, make in files:
            whole = f"{room}-{clean(name)}{ending}"
            if whole in found:
                raise ValueError(f"two files are called {whole}")
            found[whole] = make
    return found
