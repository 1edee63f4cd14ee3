"""What a forward pass costs, from the config alone.

A multiply-accumulate counts for each multiplication of a linear layer, a convolution or one of the two attention
products; norms, softmax, biases and GELU do not count.
"""

from dataclasses import dataclass, replace
from typing import Any

from reforg.config import Config, ShuntedConfig, VitConfig, check_count, check_size
from reforg.errors import ShapeError
from reforg.evit import Schedule
from reforg.names import build_config, check_settings
from reforg.parameters import num_params


@dataclass(frozen=True)
class Cost:
    """params: trained values. macs: multiply-accumulates for the batch. by_block: the same for each part, in order.

    tokens: tokens without special ones that enter each block's MLP (ViT families), or that each stage has (Shunted).
    """

    params: int
    macs: int
    by_block: dict[str, int]
    tokens: dict[str, int]


def cost(model: Any, /, img_size: int | tuple[int, int] | None = None, batch: int = 1, **config: Any) -> Cost:
    """The cost of a model, or of a name with any fields of its config, for images of `img_size` (the config's unless given)."""
    settings = _settings(model, config)
    check_count("batch", batch, 1)
    side = settings.image_shape if img_size is None else img_size
    check_size(side)
    size = (side[0], side[1]) if isinstance(side, list | tuple) else (side, side)
    by_block, tokens = _vit(settings, size) if isinstance(settings, VitConfig) else _shunted(settings, size)
    by_block = {name: batch * macs for name, macs in by_block.items()}
    return Cost(num_params(settings), sum(by_block.values()), by_block, tokens)


def _settings(model: Any, changes: dict[str, Any]) -> Config:
    """The config of a model or of a name, or a config itself, with some fields changed."""
    own = getattr(model, "config", model)
    if not isinstance(own, VitConfig | ShuntedConfig):
        return build_config(model, **changes)
    check_settings(getattr(model, "name", own.family), own, changes)
    return replace(own, **changes)


def _vit(config: VitConfig, size: tuple[int, int]) -> tuple[dict[str, int], dict[str, int]]:
    if any(side % config.patch_size for side in size):
        raise ShapeError(f"cost: image {size[0]}x{size[1]} does not divide into {config.patch_size}x{config.patch_size} patches")
    patches, width, special = (size[0] // config.patch_size) * (size[1] // config.patch_size), config.embed_dim, config.num_special
    schedule, tokens = Schedule(config), {}
    macs = {"patch_embed": patches * _patch_macs(config)}
    for number in range(config.depth):
        before = patches + special
        count = schedule.count(number, patches)
        patches = patches if count == patches else count + config.fuse_token
        attention = before * 4 * width * width + 2 * before * before * width
        mlp = (patches + special) * 2 * width * config.hidden_dim
        macs[f"blocks.{number}"] = config.parallel * (attention + mlp)
        tokens[f"blocks.{number}"] = patches
    macs |= dict.fromkeys(config.heads, width * config.num_classes)
    return macs, tokens


def _patch_macs(config: VitConfig) -> int:
    """Multiplications for one patch."""
    width, inside = config.embed_dim, config.in_chans * config.patch_size**2
    if config.stem == "patch":
        return width * inside
    return (width // 4) * inside + 4 * (width // 4) * (width // 4) * 4 + width * (width // 4) * 4


def _shunted(config: ShuntedConfig, size: tuple[int, int]) -> tuple[dict[str, int], dict[str, int]]:
    macs: dict[str, int] = {}
    tokens: dict[str, int] = {}
    grid = size
    for stage, width in enumerate(config.embed_dims):
        if stage == 0:
            half = ((grid[0] - 1) // 2 + 1, (grid[1] - 1) // 2 + 1)
            grid = (half[0] // 2, half[1] // 2)
            _check_covered(f"patch_embed1.conv.{3 * config.num_conv + 3}", half, 2)
            count = half[0] * half[1] * (49 * config.in_chans + 9 * width * config.num_conv) * width
            macs["patch_embed1"] = count + grid[0] * grid[1] * 4 * width * width
        else:
            grid = ((grid[0] - 1) // 2 + 1, (grid[1] - 1) // 2 + 1)
            macs[f"patch_embed{stage + 1}"] = grid[0] * grid[1] * 9 * width * config.embed_dims[stage - 1]
        for number in range(config.depths[stage]):
            macs[f"block{stage + 1}.{number}"] = _shunted_block(config, stage, grid, f"block{stage + 1}.{number}.attn")
        tokens[f"stage{stage + 1}"] = grid[0] * grid[1]
    return macs | ({"head": width * config.num_classes} if config.num_classes else {}), tokens


def _shunted_block(config: ShuntedConfig, stage: int, grid: tuple[int, int], path: str) -> int:
    width, hidden, reductions = config.embed_dims[stage], config.hidden_dim(stage), config.reductions(stage)
    queries, group = grid[0] * grid[1], width // len(config.reductions(stage))
    macs = 2 * queries * width * width  # queries and the projection
    for branch, ratio in enumerate(reductions, 1):
        _check_covered(f"{path}.sr{branch}", grid, ratio)
        keys = (grid[0] // ratio) * (grid[1] // ratio)
        merged = keys * width * width * ratio * ratio if len(reductions) > 1 else 0
        macs += merged + keys * 2 * group * width + 9 * keys * group + 2 * queries * keys * group
    return macs + queries * hidden * (2 * width + 9)


def _check_covered(path: str, grid: tuple[int, int], ratio: int) -> None:
    """The forward pass refuses such an image, so it has no cost."""
    if min(grid) < ratio:
        raise ShapeError(f"shunted: {path} gets {grid[0]}x{grid[1]} and would leave nothing; the image is too small")
