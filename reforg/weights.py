"""Weights by their official names: where they come from, and whether they are a model's."""

import re
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from reforg import synthetic
from reforg.arrays import Array
from reforg.config import Config, VitConfig
from reforg.errors import WeightsError, nearest
from reforg.host import exported, on_host
from reforg.parameters import shapes
from reforg.vit import resample_positions

LISTED = 8  # how many names of a kind a message shows
PREFIX = "synthetic"
# LayerScale's gain: official spelling, timm's spelling.
GAINS = (
    (r"^(blocks\.\d+)\.gamma_(\d)(?:_(\d))?$", r"\1.ls\2\3.gamma"),
    (r"^(blocks\.\d+)\.ls(\d)(\d?)\.gamma$", r"\1.gamma_\2_\3"),
)


def load_weights(source: Any) -> dict[str, Any]:
    """Name -> NumPy array from a path to .safetensors or a mapping of arrays; bfloat16 as ml_dtypes.bfloat16 from a file.

    Raises WeightsError where it cannot be read.
    """
    found = _read(source)
    try:
        return {name: on_host(value) for name, value in found.items()}
    except ValueError as error:
        raise WeightsError(f"weights: a value of the mapping cannot be read: {error}") from error


def _read(source: Any) -> dict[str, Any]:
    if isinstance(source, Mapping):
        return dict(source)
    if not isinstance(source, str | Path):
        raise WeightsError(f"weights must be a path, a mapping or 'synthetic', got {type(source).__name__}")
    if str(source).partition(":")[0] == PREFIX:
        raise WeightsError(
            f"weights: {str(source)!r} needs a model, and a seed of at most 19 digits: create_model(name, weights='synthetic:7')"
        )
    path = Path(source)
    if path.suffix != ".safetensors":
        raise WeightsError(
            f"weights: {str(source)!r} is neither 'synthetic', 'synthetic:SEED' nor a .safetensors file{_hint(path)}"
        )
    import ml_dtypes  # noqa: F401  teaches NumPy, and so safetensors, bfloat16
    from safetensors import SafetensorError
    from safetensors.numpy import load_file

    try:
        return load_file(path)
    except FileNotFoundError as error:
        raise WeightsError(f"weights: there is no file {str(path)!r}") from error
    except (SafetensorError, OSError, KeyError, ValueError, TypeError) as error:
        raise WeightsError(f"weights: {str(path)!r} cannot be read as safetensors: {error}") from error


def _hint(path: Path) -> str:
    torch = path.suffix in (".pth", ".pt")
    return "; save the checkpoint's tensors with safetensors.torch.save_file where torch is" if torch else ""


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
    return fit({name: exported(value) for name, value in _read(source).items()}, config)


def fit(weights: Mapping[str, Array], config: Config) -> dict[str, Array]:
    """The same weights in the config's spelling and order, positions resampled to its image size; WeightsError lists what is amiss.

    Two kinds of entries may be there or not: `num_batches_tracked`, which no forward pass reads, and the classifiers
    where num_classes is 0.
    """
    for name in weights:
        if not isinstance(name, str):
            raise WeightsError(f"weights: names must be text, got {name!r}")
    found = respell({name: value for name, value in weights.items() if not name.endswith("num_batches_tracked")}, config)
    wanted = shapes(config)
    if not config.num_classes:  # asked for: pooled features, so the classifiers of the weights are of no use
        found = {name: value for name, value in found.items() if not name.startswith(("head.", "head_dist."))}
    if isinstance(config, VitConfig) and "pos_embed" in found:
        found["pos_embed"] = _fit_positions(found["pos_embed"], config, wanted["pos_embed"])
    complaints = [
        _listed("missing", [name + nearest(name, set(found) - set(wanted)) for name in wanted if name not in found]),
        _listed("left over", [name for name in found if name not in wanted]),
        _listed("wrongly shaped", [
            f"{name} {_shape(found[name])} instead of {shape}"
            for name, shape in wanted.items() if name in found and _shape(found[name]) != shape
        ]),
        _listed("not of a real dtype", [
            f"{name} {found[name].dtype}" for name in wanted if name in found and not _real(found[name])
        ]),
    ]  # fmt: skip
    if any(complaints):
        raise WeightsError(f"these weights do not fit this {config.family} config: " + "; ".join(filter(None, complaints)))
    return {name: found[name] for name in wanted}


def respell(weights: Mapping[str, Array], config: Config) -> dict[str, Array]:
    """LayerScale's gains under the names that the config's modules have, whichever of both spellings came."""
    if not isinstance(config, VitConfig):
        return dict(weights)
    pattern, wanted = GAINS[0] if config.modules == "timm" else GAINS[1]
    found: dict[str, Array] = {}
    for name, value in weights.items():
        spelled = re.sub(pattern, wanted, name)
        spelled = spelled.removesuffix("_") if spelled != name else name  # the only branch has no number
        if spelled in found:
            raise WeightsError(f"weights: {spelled} came in both its spellings")
        found[spelled] = value
    return found


def _fit_positions(table: Array, config: VitConfig, wanted: tuple[int, ...]) -> Array:
    """Positions of a square grid of another size, resampled in float64; anything else as it is."""
    special = 0 if config.no_embed_class else config.num_special
    shape = _shape(table)
    if shape == wanted or not _real(table) or len(shape) != 3 or shape[2] != wanted[2]:
        return table
    side = round((shape[1] - special) ** 0.5) if shape[1] > special else 0
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


def _shape(value: Any) -> tuple[int, ...]:
    try:
        return tuple(int(side) for side in value.shape)
    except (AttributeError, TypeError) as error:
        raise WeightsError(f"weights: {type(value).__name__} is no array") from error


def _listed(what: str, names: list[str]) -> str:
    rest = f" and {len(names) - LISTED} more" if len(names) > LISTED else ""
    return f"{len(names)} {what} ({', '.join(names[:LISTED])}{rest})" if names else ""


def _real(value: Any) -> bool:
    """Whether an array's dtype is one of real numbers, whichever library's it is."""
    return any(word in str(value.dtype) for word in ("float", "int", "bool")) or str(value.dtype)[1:] in ("f2", "f4", "f8")
