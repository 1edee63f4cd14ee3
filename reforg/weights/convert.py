"""A checkpoint of any kind into one safetensors file: the weights alone, under plain names, with their origin."""

import hashlib
import json
import math
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from reforg.catalog.names import build_config, resolve
from reforg.errors import WeightsError
from reforg.version import __version__
from reforg.weights.fitting import fit
from reforg.weights.loading import check_target, load, local_path, save_weights
from reforg.weights.mismatch import guessed


@dataclass(frozen=True)
class Conversion:
    """What a conversion found and left aside. models: every name whose tensors these are; settings: what differs from it."""

    source: str
    sha256: str
    kind: str
    container: str
    spelling: str
    models: tuple[str, ...]
    settings: dict[str, Any]
    tensors: int
    values: int
    bytes: int
    discarded: tuple[str, ...]

    def as_dict(self) -> dict[str, Any]:
        """The same as plain values, for JSON."""
        return asdict(self)

    @property
    def metadata(self) -> dict[str, str]:
        """What goes into the file's header beside the tensors."""
        told = {
            "model": ", ".join(self.models), "source": self.source, "sha256": self.sha256, "kind": self.kind,
            "container": self.container, "spelling": self.spelling, "writer": f"reforg {__version__}",
            "config": json.dumps(self.settings) if self.settings else "",
        }  # fmt: skip
        return {key: value for key, value in told.items() if value}


def convert(
    source: str, output: Path, model: str | None = None, container: str | None = None, spelling: str = "official"
) -> Conversion:
    """Write the weights of `source` (a path or a Hub id) to `output`, whole or not at all.

    model: whose weights they are; by default it is found out. container, spelling: as in `load_weights` and
    `save_weights`. Raises WeightsError; ConfigError for an unknown model.
    """
    if model is not None:
        build_config(model)
    check_target(output)
    path = Path(local_path(source))
    if output.exists() and path.exists() and output.samefile(path):
        raise WeightsError(f"convert: {str(output)!r} is the source itself; give the output another name")
    loaded = load(source, container, thorough=True)
    names = guessed(loaded.weights)
    if model is not None:
        fit(loaded.weights, build_config(model))
        names = [(model, dict(names).get(resolve(model), {}))]
    found = Conversion(
        source=path.name if Path(source).exists() else source,
        sha256=_digest(path),
        kind=loaded.kind,
        container=loaded.container,
        spelling=spelling,
        models=tuple(name for name, _ in names),
        settings=names[0][1] if names else {},
        tensors=len(loaded.weights),
        values=sum(math.prod(value.shape) for value in loaded.weights.values()),
        bytes=sum(value.nbytes for value in loaded.weights.values()),
        discarded=loaded.discarded,
    )
    heads = getattr(build_config(found.models[0]), "num_heads", None) if found.models else None
    save_weights(loaded.weights, output, spelling, heads if isinstance(heads, int) else None, found.metadata)
    return found


def _digest(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
