"""Weights for a model: from anywhere, in its spelling, of its shapes, with positions for its image size."""

import math
import re
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import numpy as np

from reforg.arrays import Array
from reforg.catalog import synthetic
from reforg.catalog.sources import seed_of
from reforg.config import Config, VitConfig
from reforg.errors import WeightsError
from reforg.host import on_host
from reforg.parameters import shapes
from reforg.vit import resample_positions
from reforg.weights.loading import load
from reforg.weights.mismatch import complaint, is_real, shape_of, told

UNCOUNTED = "num_batches_tracked"  # in a state dict, but no forward pass reads it
CLASSIFIERS = ("head.", "head_dist.", "pre_logits")
# LayerScale's gain: official spelling, timm's spelling.
GAINS = (
    (r"^(blocks\.\d+)\.gamma_(\d)(?:_(\d))?$", r"\1.ls\2\3.gamma"),
    (r"^(blocks\.\d+)\.ls(\d)(\d?)\.gamma$", r"\1.gamma_\2_\3"),
)


def obtain(source: Any, config: Config) -> dict[str, Any]:
    """Name -> array for a model of `config`, complete, of the right shapes and in its spelling."""
    seed = seed_of(source)
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
