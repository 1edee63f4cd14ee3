"""Golden outputs of the official PyTorch code, with their provenance: evidence that somebody else's program produced.

`cases()` lists them; `Case.arrays()` gives what was recorded. Values never come from reforg.
May import NumPy and safetensors, never reforg. Start with `cases`, below; `manifest.json` says of each case where it is from.
"""

import hashlib
import json
from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache
from importlib import resources
from typing import Any

import numpy as np
import numpy.typing as npt

SCHEMA = 1
RECIPES: dict[str, Callable[..., npt.NDArray[Any]]] = {  # how the manifest's `derived` makes an array from others, to the bit
    "same": lambda source: source,
    "relu": lambda source: np.maximum(source, 0.0),
    "tokens": lambda source: np.ascontiguousarray(source.reshape(*source.shape[:2], -1).transpose(0, 2, 1)),
    "sum": lambda x, attention, mlp: (x + attention) + mlp,
}


@dataclass(frozen=True)
class Case:
    """One recording. `entry` is its place in the manifest: model, config, weights, images, source, versions, limits, why."""

    id: str
    entry: dict[str, Any]

    def content(self) -> bytes:
        """The safetensors file; ValueError where it is not the one that the manifest describes."""
        content = resources.files(__name__).joinpath(self.entry["file"]).read_bytes()
        if hashlib.sha256(content).hexdigest() != self.entry["sha256"]:
            raise ValueError(f"golden case {self.id}: {self.entry['file']} is not the recorded file")
        return content

    def arrays(self) -> dict[str, npt.NDArray[Any]]:
        """Name -> recorded array: logits, logits_float32, kept_tokens.J, tap.PATH (float64 unless the name says float32)."""
        from safetensors.numpy import load

        arrays: dict[str, npt.NDArray[Any]] = load(self.content())
        for name, (how, *sources) in self.entry["derived"].items():
            if how not in RECIPES:
                raise ValueError(f"golden case {self.id}: {name} is derived by {how!r}; this reader knows {', '.join(RECIPES)}")
            arrays[name] = RECIPES[how](*(arrays[source] for source in sources))
        return arrays

    def taps(self) -> dict[str, npt.NDArray[Any]]:
        """Path of a module -> its recorded output."""
        return {name.removeprefix("tap."): value for name, value in self.arrays().items() if name.startswith("tap.")}

    def state_dict(self) -> dict[str, tuple[int, ...]]:
        """Name -> shape of the official module's state dict; empty where it was not recorded."""
        content = self.content()
        header = json.loads(content[8 : 8 + int.from_bytes(content[:8], "little")])
        shapes: dict[str, list[int]] = json.loads(header["__metadata__"]["state_dict"])
        return {name: tuple(shape) for name, shape in shapes.items()}


@lru_cache(maxsize=1)
def cases() -> tuple[Case, ...]:
    """Every case of the manifest, in its order."""
    manifest = json.loads(resources.files(__name__).joinpath("manifest.json").read_text(encoding="utf-8"))
    if manifest["schema"] != SCHEMA:
        raise ValueError(f"golden manifest has schema {manifest['schema']}, wanted {SCHEMA}")
    return tuple(Case(entry["id"], entry) for entry in manifest["cases"])
