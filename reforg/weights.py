"""Weights by their official names: read from anywhere, fitted to a model, written."""

import math
import re
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from reforg import checkpoints, containers, synthetic
from reforg.arrays import Array
from reforg.checkpoints import Entry
from reforg.config import Config, VitConfig
from reforg.errors import WeightsError
from reforg.files import replacing
from reforg.host import exported, on_host
from reforg.mismatch import complaint, is_real, shape_of, told
from reforg.parameters import shapes
from reforg.spellings import official, spelled
from reforg.vit import resample_positions

PREFIX = "synthetic"
UNCOUNTED = "num_batches_tracked"  # in a state dict, but no forward pass reads it
CLASSIFIERS = ("head.", "head_dist.", "pre_logits")
# LayerScale's gain: official spelling, timm's spelling.
GAINS = (
    (r"^(blocks\.\d+)\.gamma_(\d)(?:_(\d))?$", r"\1.ls\2\3.gamma"),
    (r"^(blocks\.\d+)\.ls(\d)(\d?)\.gamma$", r"\1.gamma_\2_\3"),
)


@dataclass(frozen=True)
class Loaded:
    """Weights under official names, and how they came to us: a file's kind, its container, its spelling, what was left aside."""

    weights: dict[str, Any]
    kind: str
    container: str
    spelling: str
    discarded: tuple[str, ...]


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


def load(source: Any, container: str | None = None) -> Loaded:
    """The same with its provenance; values of a mapping stay arrays of their library."""
    kind, content, where = _opened(source)
    found = containers.find(content, where, container)
    entries = {name: value for name, value in found.weights.items() if isinstance(value, Entry)}
    arrays = found.weights | _read(entries, where)
    named = official(arrays)
    unread = tuple(f"{name} (read by no forward pass)" for name in named.unread)
    return Loaded(named.weights, kind, found.container, named.source, (*found.discarded, *unread))


def _opened(source: Any) -> tuple[str, Any, str]:
    """What kind of source it is, its content, and how to call it in a sentence."""
    if isinstance(source, Mapping):
        return "mapping", {name: exported(value) for name, value in source.items()}, "the mapping"
    if not isinstance(source, str | Path):
        raise WeightsError(f"weights must be a path, a Hub id, a mapping or 'synthetic', got {type(source).__name__}")
    if str(source).partition(":")[0] == PREFIX:
        raise WeightsError(
            f"weights: {str(source)!r} needs a model, and a seed of at most 19 digits: create_model(name, weights='synthetic:7')"
        )
    checkpoint = checkpoints.opened(local_path(source))
    return checkpoint.kind, checkpoint.content, repr(str(source))


def local_path(source: str | Path) -> Path:
    """Where a file, or the weights of a Hub repository, lie on this machine; what is not there yet is fetched."""
    return Path(source)


def _read(entries: Mapping[str, Entry], where: str) -> dict[str, Any]:
    try:
        return dict(checkpoints.read(entries))
    except WeightsError as error:
        raise WeightsError(f"weights: {where} is refused: {error}") from error


def save_weights(
    weights: Mapping[str, Any], path: str | Path, spelling: str = "official", num_heads: int | None = None,
    metadata: Mapping[str, str] | None = None,
) -> None:  # fmt: skip
    """Write weights of any spelling, in the given one, to .safetensors or .npz; the file appears whole or not at all.

    spelling: "official", "timm", "transformers" (the names that save_pretrained writes), "transformers5" (those of
    version 5's own modules) or "jax" (Google's; num_heads is needed where the width is not one of the papers').
    metadata: text to text, in the header of .safetensors. Raises WeightsError.
    """
    path = Path(path)
    if path.suffix not in (".safetensors", ".npz"):
        raise WeightsError(f"weights: {str(path)!r} must end in .safetensors or .npz")
    named = spelled(load(weights).weights, spelling, num_heads)
    try:
        arrays = {name: np.ascontiguousarray(on_host(value)) for name, value in named.items()}
    except ValueError as error:
        raise WeightsError(f"weights: a value cannot be written: {error}") from error
    try:
        with replacing(path) as unfinished:
            _write(unfinished, arrays, {"format": "pt", **(metadata or {})})
    except OSError as error:
        raise WeightsError(f"weights: {str(path)!r} cannot be written: {error.strerror or error}") from error


def _write(path: Path, arrays: Mapping[str, Any], metadata: dict[str, str]) -> None:
    from safetensors import SafetensorError
    from safetensors.numpy import save_file

    if path.suffix == ".npz":
        np.savez(path, **arrays)  # type: ignore[arg-type]
        return
    try:
        save_file(dict(arrays), path, metadata)
    except (SafetensorError, KeyError, TypeError) as error:
        raise WeightsError(f"weights: cannot be written as safetensors: {error}") from error


def seed_of(source: str) -> int | None:
    """The seed that "synthetic" or "synthetic:7" names; None where the text names something else."""
    word, colon, seed = source.partition(":")
    if word != PREFIX or (colon and not re.fullmatch(r"\d{1,19}", seed)):
        return None
    return int(seed or 0)


def obtain(source: Any, config: Config) -> dict[str, Any]:
    """Name -> array for a model of `config`, complete, of the right shapes and in its spelling."""
    seed = seed_of(source) if isinstance(source, str) else None
    if seed is not None:
        return dict(synthetic.weights(shapes(config), seed))
    return fit(load(source).weights, config)


def fit(weights: Mapping[str, Array], config: Config) -> dict[str, Array]:
    """The same weights in the config's spelling and order, positions resampled to its image size; WeightsError lists what is amiss.

    Two kinds of entries may be there or not: `num_batches_tracked`, which no forward pass reads, and the classifiers
    where num_classes is 0.
    """
    found = respell({name: value for name, value in weights.items() if not name.endswith(UNCOUNTED)}, config)
    wanted = shapes(config)
    if not config.num_classes:  # asked for: pooled features, so the classifiers of the weights are of no use
        found = {name: value for name, value in found.items() if not name.startswith(CLASSIFIERS)}
    if isinstance(config, VitConfig) and "pos_embed" in found:
        found["pos_embed"] = _fit_positions(found["pos_embed"], config, wanted["pos_embed"])
    if complaints := complaint(found, wanted):
        raise WeightsError(f"these weights do not fit this {config.family} config: {complaints}{told(weights, config.family)}")
    return {name: found[name] for name in wanted}


def respell(weights: Mapping[str, Array], config: Config) -> dict[str, Array]:
    """LayerScale's gains under the names that the config's modules have, whichever of both spellings came."""
    if not isinstance(config, VitConfig):
        return dict(weights)
    pattern, wanted = GAINS[0] if config.modules == "timm" else GAINS[1]
    found: dict[str, Array] = {}
    for name, value in weights.items():
        new = re.sub(pattern, wanted, name)
        new = new.removesuffix("_") if new != name else name  # the only branch has no number
        if new in found:
            raise WeightsError(f"weights: {new} came in both its spellings")
        found[new] = value
    return found


def _fit_positions(table: Array, config: VitConfig, wanted: tuple[int, ...]) -> Array:
    """Positions of a square grid of another size, resampled in float64; anything else as it is."""
    special = 0 if config.no_embed_class else config.num_special
    shape = shape_of(table)
    if shape == wanted or not is_real(table) or len(shape) != 3 or shape[2] != wanted[2]:
        return table
    side = math.isqrt(max(shape[1] - special, 0))
    if side < 1 or side * side != shape[1] - special:
        return table
    return resampled(table, replace(config, img_size=side * config.patch_size), config.grid, config.antialias)


def resampled(table: Array, config: VitConfig, grid: tuple[int, int], antialias: bool) -> Array:
    """The positions `table`, which fit `config`, on another grid of patches: a NumPy array, computed in float64."""
    special = 0 if config.no_embed_class else config.num_special
    try:
        wide = on_host(table).astype(np.float64)
    except ValueError as error:
        raise WeightsError(f"weights: pos_embed cannot be resampled: {error}") from error
    return resample_positions(wide, special, config.grid, grid, antialias)
