"""Weights for a model: from anywhere, in its spelling, of its shapes, with positions for its image size."""

import re
from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any

import numpy as np

from reforg.arrays import Array
from reforg.catalog import synthetic
from reforg.catalog.sources import seed_of
from reforg.config import Config, VitConfig
from reforg.errors import WeightsError
from reforg.families import family_of, shapes
from reforg.host import on_host
from reforg.parameters import Shapes
from reforg.weights.loading import load
from reforg.weights.mismatch import complaint, is_real, shape_of, whose

UNCOUNTED = "num_batches_tracked"  # in a state dict, but no forward pass reads it
CLASSIFIERS = ("head.", "head_dist.", "pre_logits")
# LayerScale's gain: official spelling, timm's spelling.
GAINS = (
    (r"^(blocks\.\d+)\.gamma_(\d)(?:_(\d))?$", r"\1.ls\2\3.gamma"),
    (r"^(blocks\.\d+)\.ls(\d)(\d?)\.gamma$", r"\1.gamma_\2_\3"),
)


def _gains(config: VitConfig) -> tuple[str, str]:
    """What the gains' names may be instead, and how the config's modules call them."""
    return GAINS[0] if config.modules == "timm" else GAINS[1]


SPELLED_TWICE: dict[type[Config], Callable[[Any], tuple[str, str]]] = {VitConfig: _gains}


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
    found |= _fit_positions(found, config, wanted)
    if complaints := complaint(found, wanted):
        raise WeightsError(f"these weights do not fit this {config.family} config: {complaints}{whose(weights, config.family)}")
    return {name: found[name] for name in wanted}


def respell(weights: Mapping[str, Array], config: Config) -> dict[str, Array]:
    """LayerScale's gains under the names that the config's modules have, whichever of both spellings came."""
    if type(config) not in SPELLED_TWICE:
        return dict(weights)
    pattern, wanted = SPELLED_TWICE[type(config)](config)
    found: dict[str, Array] = {}
    for name, value in weights.items():
        new = re.sub(pattern, wanted, name)
        new = new.removesuffix("_") if new != name else name  # the only branch has no number
        if new in found:
            raise WeightsError(f"weights: {new} came in both its spellings")
        found[new] = value
    return found


def _fit_positions(found: Mapping[str, Array], config: Config, wanted: Shapes) -> dict[str, Array]:
    """Positions of a square grid of another size, resampled in float64; none where they are as wanted, or cannot be."""
    positions = family_of(config).positions
    if positions is None:
        return {}
    there = {name: found[name] for name in positions.names if name in found}
    other = {name: shape_of(value) for name, value in there.items() if shape_of(value) != wanted[name]}
    side = positions.img_size(other, config)
    if side is None or not all(map(is_real, there.values())):
        return {}
    return resampled(there, replace(config, img_size=side), config)


def resampled(weights: Mapping[str, Array], source: Config, target: Config) -> dict[str, Array]:
    """What takes the place of the positions among weights that fit `source`, for `target`: NumPy arrays, computed in float64."""
    positions = family_of(source).positions
    if positions is None:
        return {}
    wide = {}
    for name in positions.names:
        try:
            wide[name] = on_host(weights[name]).astype(np.float64)
        except ValueError as error:
            raise WeightsError(f"weights: {name} cannot be resampled: {error}") from error
    return positions.resampled(wide, source, target)
