"""`load_weights` and `save_weights`: weights from any source under their official names, and back into files."""

import os
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from reforg.catalog.sources import is_hub_id, is_synthetic
from reforg.errors import WeightsError
from reforg.files import check_place
from reforg.host import exported, on_host
from reforg.weights import checkpoints, containers
from reforg.weights.array_files import ENDINGS, write_arrays
from reforg.weights.checkpoints import Checkpoint, Entry
from reforg.weights.contents import report
from reforg.weights.spellings import official, spelled

if TYPE_CHECKING:  # reading weights needs no pathlib, whose import takes a third as long as reading a file of 90 MB
    from pathlib import Path


class Loaded(NamedTuple):
    """Weights under official names, and how they came to us: a file's kind, its container, its spelling, what was left aside."""

    weights: dict[str, Any]
    kind: str
    container: str
    spelling: str
    aside: tuple[tuple[Any, Any], ...]
    unread: tuple[str, ...]

    @property
    def discarded(self) -> tuple[str, ...]:
        """What was left aside, in words."""
        return (*report(self.aside), *(f"{name} (read by no forward pass)" for name in self.unread))


def load_weights(source: Any, container: str | None = None) -> dict[str, Any]:
    """Name -> NumPy array, under the official names; bfloat16 as ml_dtypes.bfloat16. Nothing in a file is ever executed.

    source: a path to .safetensors, to torch's .pth or .pt (of any version, read without torch) or to Google's .npz; a Hub
    id "hf-hub:owner/name"; or a mapping from name to array. Of a training checkpoint, its model; container names another
    part of it ("model_ema"). Names in timm's, transformers' or Google's spelling become the official ones.

    Arrays of a file map its pages where they lie as NumPy needs them: writing to one changes no file, but the file must
    not be overwritten in place while they are used. Raises WeightsError.
    """
    found = load(source, container)
    try:
        return {name: on_host(value) for name, value in found.weights.items()}
    except ValueError as error:
        raise WeightsError(f"weights: a value of the mapping cannot be read: {error}") from error


def load(source: Any, container: str | None = None, thorough: bool = False) -> Loaded:
    """The same with its provenance; values of a mapping stay arrays of their library.

    thorough: check every checksum, also of the large tensors that are otherwise mapped without being read.
    """
    checkpoint, where = _opened(source, thorough)
    found = containers.find(checkpoint.content, where, container)
    entries = {name: value for name, value in found.weights.items() if isinstance(value, Entry)}
    arrays = found.weights | _read(entries, checkpoint.size, where)
    named = official(arrays)
    return Loaded(named.weights, checkpoint.kind, found.container, named.source, found.aside, named.unread)


def _opened(source: Any, thorough: bool) -> tuple[Checkpoint, str]:
    """What a source holds, and how to call it in a sentence."""
    if isinstance(source, Mapping):
        return Checkpoint("mapping", {name: exported(value) for name, value in source.items()}, 0), "the mapping"
    if not isinstance(source, str | os.PathLike):
        raise WeightsError(f"weights must be a path, a Hub id, a mapping or 'synthetic', got {type(source).__name__}")
    if is_synthetic(source):
        raise WeightsError(
            f"weights: {str(source)!r} needs a model, and a seed of at most 19 digits: create_model(name, weights='synthetic:7')"
        )
    return checkpoints.open_checkpoint(local_path(source), thorough), repr(str(source))


def local_path(source: str | os.PathLike[str]) -> str | os.PathLike[str]:
    """Where a file, or the weights of a Hub repository, lie on this machine; what is not there yet is fetched."""
    if not is_hub_id(source):
        return source
    from reforg.weights import hub

    return hub.fetch(str(source)).weights


def _read(entries: Mapping[str, Entry], size: int, where: str) -> dict[str, Any]:
    try:
        return dict(checkpoints.read(entries, size))
    except WeightsError as error:
        raise WeightsError(f"weights: {where} is refused: {error}") from error


def save_weights(
    weights: Mapping[str, Any],
    path: str | os.PathLike[str],
    spelling: str = "official",
    num_heads: int | None = None,
    metadata: Mapping[str, str] | None = None,
) -> None:
    """Write weights of any spelling, in the given one, to .safetensors or .npz; the file appears whole or not at all.

    spelling: "official", "timm", "transformers" (the names that save_pretrained writes), "transformers5" (those of
    version 5's own modules) or "jax" (Google's; num_heads is needed where the width is not one of the papers').
    metadata: text to text, in the header of .safetensors. Raises WeightsError.
    """
    from pathlib import Path

    path = Path(path)
    check_target(path)
    named = spelled(load(weights).weights, spelling, num_heads)
    try:
        arrays = {name: np.ascontiguousarray(on_host(value)) for name, value in named.items()}
    except ValueError as error:
        raise WeightsError(f"weights: a value cannot be written: {error}") from error
    write_arrays(path, arrays, {"format": "pt", **(metadata or {})}, "weights:", WeightsError)


def check_target(path: "Path") -> None:
    """WeightsError where weights cannot be written."""
    check_place(path, "weights:", WeightsError, ENDINGS)
