"""The one place that knows the families of models: what the type of a config stands for.

Every wing asks `family_of(config)` instead of looking at the type. What only one wing needs, such as other programs' names for
the same tensors, that wing keeps in a table of its own by the type of the config, and says less where it has no row.

A family is added by a model file and an entry of `FAMILIES`. Its forward pass is a pure function that takes every operation from
the `Ops` record and names every intermediate by the trace: from these come its costs, its plans and its verification.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import partial
from typing import Any

from reforg import shunted, vit
from reforg.arrays import Array
from reforg.config import Config, ShuntedConfig, VitConfig
from reforg.evit import Schedule
from reforg.parameters import Shapes, shunted_shapes, special_positions, trained, vit_img_size, vit_shapes


@dataclass(frozen=True)
class Positions:
    """How a family's weights depend on the image size.

    names: the tensors that do. img_size: (shapes by name, config) -> the side of the square images that these shapes are for,
    None where they do not tell. resampled: (weights, source, target) -> what is to take the place of the named tensors, which
    fit the config `source`, for `target`; empty where they do for both.
    """

    names: tuple[str, ...]
    img_size: Callable[[Mapping[str, tuple[int, ...]], Any], int | None]
    resampled: Callable[[Mapping[str, Array], Any, Any], dict[str, Array]]


def not_empty(config: Any, height: int, width: int) -> str:  # noqa: ARG001 - as whole_patches
    """What is wrong with images of a size where any other does, in words; empty where nothing is."""
    return "" if height and width else f"an image of {height}x{width} has no pixels"


def whole_patches(config: VitConfig, height: int, width: int) -> str:
    """What is wrong with images of a size that must be a multiple of the patches', in words; empty where nothing is."""
    patch = config.patch_size
    whole = height and width and height % patch == 0 and width % patch == 0
    return "" if whole else f"image {height}x{width} does not divide into {patch}x{patch} patches"


def not_told(config: Any, shapes: Mapping[str, tuple[int, ...]]) -> dict[str, int]:  # noqa: ARG001 - as tokens_by_block
    """The tokens of a family that does not tell what its parts are."""
    return {}


def tokens_by_block(config: VitConfig, shapes: Mapping[str, tuple[int, ...]]) -> dict[str, int]:
    """The patches and fused tokens that enter each block's MLP."""
    paths = [f"blocks.{number}" for number in range(config.depth)]
    return {path: shapes[f"{path}.norm2"][1] - config.num_special for path in paths}


def tokens_by_stage(config: ShuntedConfig, shapes: Mapping[str, tuple[int, ...]]) -> dict[str, int]:
    """The tokens that each stage has."""
    return {f"stage{stage}": shapes[f"norm{stage}"][1] for stage in range(1, len(config.depths) + 1)}


@dataclass(frozen=True)
class Family:
    """A family's functions, most of them as its model file has them, and what else the wings are told of it.

    shapes: config -> name -> shape of every tensor that a forward pass reads, in the official order.
    forward, features: (weights, images, config, ops, trace) -> logits, or tokens after the last norm.
    pooled, classify: (net, tokens, config) -> what the head reads, and the logits.
    pyramid: as features, -> the maps of every stage; None where the tokens have one size throughout.
    schedule: (config, keep_rate, tokens) -> what a call keeps, for a family whose config has these two fields and whose
    functions of images take them as further arguments; None where every token is kept.
    positions: how its weights depend on the image size; None where any size does.
    size_fault: (config, height, width) -> what is wrong with images of that size, in words.
    tokens: (config, shapes of a forward pass's operations by trace name) -> how many tokens its parts have, by their names.
    models: name -> values of the config, for models that are not in the catalog's own tables.
    """

    shapes: Callable[[Any], Shapes]
    forward: Callable[..., Array]
    features: Callable[..., Array]
    pooled: Callable[..., Array]
    classify: Callable[..., Array]
    pyramid: Callable[..., list[Array]] | None = None
    schedule: Callable[..., Schedule] | None = None
    positions: Positions | None = None
    size_fault: Callable[[Any, int, int], str] = not_empty
    tokens: Callable[[Any, Mapping[str, tuple[int, ...]]], dict[str, int]] = not_told
    models: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)


def _vit_resampled(weights: Mapping[str, Array], source: VitConfig, target: VitConfig) -> dict[str, Array]:
    """The position embedding of one config on another's grid of patches."""
    if source.grid == target.grid:
        return {}
    special = special_positions(source)
    return {"pos_embed": vit.resample_positions(weights["pos_embed"], special, source.grid, target.grid, target.antialias)}


FAMILIES: dict[type[Config], Family] = {
    VitConfig: Family(
        vit_shapes,
        vit.forward,
        vit.features,
        vit.pooled,
        vit.classify,
        schedule=Schedule,
        positions=Positions(("pos_embed",), vit_img_size, _vit_resampled),
        size_fault=whole_patches,
        tokens=tokens_by_block,
    ),
    ShuntedConfig: Family(
        shunted_shapes,
        shunted.forward,
        shunted.features,
        shunted.pooled,
        shunted.classify,
        pyramid=partial(shunted.features, pyramid=True),
        tokens=tokens_by_stage,
    ),
}


def family_of(config: Config) -> Family:
    """The family of a config, by its type."""
    return FAMILIES[type(config)]


def shapes(config: Config) -> Shapes:
    """Every tensor that a forward pass reads, name -> shape, under the official names and in the official order."""
    return family_of(config).shapes(config)


def num_params(config: Config) -> int:
    """Number of trained values, as sum(p.numel() for p in torch_model.parameters())."""
    return trained(shapes(config))
