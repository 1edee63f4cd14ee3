"""Names and shapes of a model's tensors: the official state dict, derived from the config alone."""

import math
from collections.abc import Mapping

from reforg.config import ShuntedConfig, VitConfig

Shapes = dict[str, tuple[int, ...]]
BUFFERS = ("running_mean", "running_var")  # in the state dict, but not counted as parameters


def trained(shapes: Shapes) -> int:
    """How many values of tensors of these shapes are trained, as sum(p.numel() for p in torch_model.parameters())."""
    return sum(math.prod(shape) for name, shape in shapes.items() if not name.endswith(BUFFERS))


def _layer(path: str, out: int, *rest: int, bias: bool = True) -> Shapes:
    """A linear layer (rest: input width) or a convolution (rest: input channels, height, width)."""
    return {f"{path}.weight": (out, *rest), **({f"{path}.bias": (out,)} if bias else {})}


def _norm(path: str, width: int) -> Shapes:
    return _layer(path, width)


def _batch_norm(path: str, width: int) -> Shapes:
    return _norm(path, width) | {f"{path}.{buffer}": (width,) for buffer in BUFFERS}


def vit_shapes(config: VitConfig) -> Shapes:
    """The tensors of ViT, DeiT, DeiT III and EViT, in the official order."""
    width, positions = config.embed_dim, config.grid[0] * config.grid[1]
    positions += special_positions(config)
    first, *others = config.special_tokens
    found: Shapes = {first: (1, 1, width), "pos_embed": (1, positions, width)}
    found |= dict.fromkeys(others, (1, 1, width))
    found |= _patch_stem(config)
    for number in range(config.depth):
        found |= _vit_block(f"blocks.{number}", config)
    found |= _norm("fc_norm" if config.global_pool == "avg" else "norm", width)
    for head in config.heads:
        found |= _layer(head, config.num_classes, width)
    return found


def special_positions(config: VitConfig) -> int:
    """How many of the position embedding's rows, the first ones, are special tokens' and none of the patches'."""
    return 0 if config.no_embed_class else config.num_special


def vit_img_size(found: Mapping[str, tuple[int, ...]], config: VitConfig) -> int | None:
    """The side in pixels of the images that a position embedding among these shapes is for; None if it is of no square grid."""
    shape = found.get("pos_embed", ())
    if len(shape) != 3 or shape[2] != config.embed_dim:
        return None
    patches = shape[1] - special_positions(config)
    side = math.isqrt(max(patches, 0))
    return side * config.patch_size if side and side * side == patches else None


def _patch_stem(config: VitConfig) -> Shapes:
    path, width, channels = "patch_embed.proj", config.embed_dim, config.in_chans
    if config.stem == "patch":
        return _layer(path, width, channels, config.patch_size, config.patch_size)
    found: Shapes = {}
    for position, out, inside, side in ((0, width // 4, channels, 4), (3, width // 4, width // 4, 2), (6, width, width // 4, 2)):
        found |= _layer(f"{path}.{position}", out, inside, side, side) | _batch_norm(f"{path}.{position + 1}", out)
    return found


def _vit_block(path: str, config: VitConfig) -> Shapes:
    width, hidden, timm = config.embed_dim, config.hidden_dim, config.modules == "timm"
    found: Shapes = {} if timm else _gains(path, 1, config) | _gains(path, 2, config)
    for branch in config.branches:
        found |= _norm(f"{path}.norm1{branch}", width)
    for branch in config.branches:
        found |= _layer(f"{path}.attn{branch}.qkv", 3 * width, width, bias=config.qkv_bias)
        found |= _layer(f"{path}.attn{branch}.proj", width, width)
    found |= _gains(path, 1, config) if timm else {}
    for branch in config.branches:
        found |= _norm(f"{path}.norm2{branch}", width)
    for branch in config.branches:
        found |= _layer(f"{path}.mlp{branch}.fc1", hidden, width) | _layer(f"{path}.mlp{branch}.fc2", width, hidden)
    return found | (_gains(path, 2, config) if timm else {})


def _gains(path: str, number: int, config: VitConfig) -> Shapes:
    """LayerScale's gains after attention (1) or MLP (2): the official code's stand first in a block, timm's where they act."""
    if config.init_values is None:
        return {}
    return {config.gain(path, number, branch): (config.embed_dim,) for branch in config.branches}


def shunted_shapes(config: ShuntedConfig) -> Shapes:
    """The tensors of the Shunted Transformer, in the official order."""
    found: Shapes = {}
    for stage, width in enumerate(config.embed_dims):
        number = stage + 1
        if stage == 0:
            found |= _shunted_stem(config)
        else:
            found |= _layer(f"patch_embed{number}.proj", width, config.embed_dims[stage - 1], 3, 3)
            found |= _norm(f"patch_embed{number}.norm", width)
        for block in range(config.depths[stage]):
            found |= _shunted_block(f"block{number}.{block}", config, stage)
        found |= _norm(f"norm{number}", width)
    return found | (_layer("head", config.num_classes, config.embed_dims[-1]) if config.num_classes else {})


def _shunted_stem(config: ShuntedConfig) -> Shapes:
    path, width = "patch_embed1.conv", config.embed_dims[0]
    found = _layer(f"{path}.0", width, config.in_chans, 7, 7, bias=False) | _batch_norm(f"{path}.1", width)
    for number in range(1, config.num_conv + 1):
        found |= _layer(f"{path}.{3 * number}", width, width, 3, 3, bias=False) | _batch_norm(f"{path}.{3 * number + 1}", width)
    found |= _layer(f"{path}.{3 * config.num_conv + 3}", width, width, 2, 2)
    return found | _norm("patch_embed1.norm", width)


def _shunted_block(path: str, config: ShuntedConfig, stage: int) -> Shapes:
    width, hidden, reductions = config.embed_dims[stage], config.hidden_dim(stage), config.reductions(stage)
    attn, bias = f"{path}.attn", config.qkv_bias
    found = _norm(f"{path}.norm1", width)
    found |= _layer(f"{attn}.q", width, width, bias=bias) | _layer(f"{attn}.proj", width, width)
    if reductions == (1,):
        found |= _layer(f"{attn}.kv", 2 * width, width, bias=bias) | _layer(f"{attn}.local_conv", width, 1, 3, 3)
    else:
        for branch, ratio in enumerate(reductions, 1):
            found |= _layer(f"{attn}.sr{branch}", width, width, ratio, ratio) | _norm(f"{attn}.norm{branch}", width)
        for branch in (1, 2):
            found |= _layer(f"{attn}.kv{branch}", width, width, bias=bias)
        for branch in (1, 2):
            found |= _layer(f"{attn}.local_conv{branch}", width // 2, 1, 3, 3)
    found |= _norm(f"{path}.norm2", width) | _layer(f"{path}.mlp.fc1", hidden, width)
    found |= _layer(f"{path}.mlp.dwconv.dwconv", hidden, 1, 3, 3) | _layer(f"{path}.mlp.fc2", width, hidden)
    return found
