"""Shunted Transformer in torch. Ren et al., "Shunted Self-Attention via Multi-Scale Token Aggregation", CVPR 2022.

Written from the paper and the recorded outputs. Tokens [B, N, C] seen as maps [B, C, H, W] have channels last in memory, so
that no convolution begins or ends with a copy.
"""

from typing import Any

import torch
from torch.nn import functional

from reforg.config import ShuntedConfig
from reforg_torch.peer.vit import Forward, Weights, layer, norm

EMBED_EPS = 1e-5


def build(config: ShuntedConfig, weights: Weights) -> Forward:
    """A function [B, in_chans, H, W] -> logits [B, num_classes]."""
    weights = {name: value.contiguous(memory_format=_format(value)) for name, value in weights.items()}
    stages = [[Block(config, weights, stage, number) for number in range(config.depths[stage])] for stage in range(4)]

    def forward(images: Any) -> Any:
        maps = images
        for stage, blocks in enumerate(stages, 1):
            maps = stem(config, weights, maps) if stage == 1 else embed(weights, f"patch_embed{stage}", maps)
            grid = maps.shape[2:]
            x = norm(weights, f"patch_embed{stage}.norm", to_tokens(maps), EMBED_EPS)
            for block in blocks:
                x = block(x, grid)
            x = norm(weights, f"norm{stage}", x, config.norm_eps)
            maps = to_maps(x, grid)
        pooled = x.mean(dim=1)
        return functional.linear(pooled, *layer(weights, "head")) if config.num_classes else pooled

    return forward


def _format(value: Any) -> Any:
    return torch.channels_last if value.dim() == 4 else torch.contiguous_format


def to_maps(x: Any, grid: tuple[int, int]) -> Any:
    """[B, N, C] -> [B, C, H, W], a view."""
    return x.transpose(1, 2).unflatten(2, grid)


def to_tokens(maps: Any) -> Any:
    """[B, C, H, W] -> [B, N, C]."""
    return maps.flatten(2).transpose(1, 2)


def stem(config: ShuntedConfig, weights: Weights, images: Any) -> Any:
    """[B, in_chans, H, W] -> [B, C, H / 4, W / 4]: convolutions with batch norm and ReLU, then one of stride 2."""
    x, path = images.contiguous(memory_format=torch.channels_last), "patch_embed1.conv"
    for number in range(config.num_conv + 1):
        stride, padding = (2, 3) if number == 0 else (1, 1)
        x = functional.conv2d(x, *layer(weights, f"{path}.{3 * number}"), stride=stride, padding=padding)
        bn = f"{path}.{3 * number + 1}"
        x = functional.batch_norm(x, weights[f"{bn}.running_mean"], weights[f"{bn}.running_var"], *layer(weights, bn)).relu_()
    return functional.conv2d(x, *layer(weights, f"{path}.{3 * config.num_conv + 3}"), stride=2)


def embed(weights: Weights, path: str, maps: Any) -> Any:
    """[B, C, H, W] -> [B, C', H / 2, W / 2]."""
    return functional.conv2d(maps, *layer(weights, f"{path}.proj"), stride=2, padding=1)


class Block:
    """One block: shunted attention, then the MLP with its depthwise convolution."""

    def __init__(self, config: ShuntedConfig, weights: Weights, stage: int, number: int) -> None:
        self.weights, self.path, self.eps = weights, f"block{stage + 1}.{number}", config.norm_eps
        self.heads, self.reductions = config.num_heads[stage], config.reductions(stage)

    def __call__(self, x: Any, grid: tuple[int, int]) -> Any:
        """[B, N, C] -> [B, N, C]."""
        x = x + self.attention(norm(self.weights, f"{self.path}.norm1", x, self.eps), grid)
        return x + self.mlp(norm(self.weights, f"{self.path}.norm2", x, self.eps), grid)

    def layer(self, name: str) -> tuple[Any, Any]:
        """Weight and bias of a layer of this block."""
        return layer(self.weights, f"{self.path}.{name}")

    def attention(self, x: Any, grid: tuple[int, int]) -> Any:
        """[B, N, C] -> [B, N, C]: each group of heads attends to tokens merged by its own ratio."""
        queries = self.split(functional.linear(x, *self.layer("attn.q")), self.heads)
        if self.reductions == (1,):
            context = self.attend("", queries, x, grid)
        else:
            sources = [self.merge(number, ratio, x, grid) for number, ratio in enumerate(self.reductions, 1)]
            halves = zip(queries.chunk(2, dim=1), sources, strict=True)
            context = torch.cat([self.attend(str(number), q, *source) for number, (q, source) in enumerate(halves, 1)], dim=2)
        return functional.linear(context, *self.layer("attn.proj"))

    def merge(self, number: int, ratio: int, x: Any, grid: tuple[int, int]) -> tuple[Any, tuple[int, int]]:
        """[B, N, C] -> [B, N / r^2, C] and its grid: a convolution of r by r tokens, layer norm, GELU."""
        maps = functional.conv2d(to_maps(x, grid), *self.layer(f"attn.sr{number}"), stride=ratio)
        normed = norm(self.weights, f"{self.path}.attn.norm{number}", to_tokens(maps), EMBED_EPS)
        return functional.gelu(normed), maps.shape[2:]

    def attend(self, suffix: str, queries: Any, source: Any, grid: tuple[int, int]) -> Any:
        """[B, h, N, D], [B, M, C] -> [B, N, h D], with the local convolution of the values on their grid."""
        keys, values = functional.linear(source, *self.layer(f"attn.kv{suffix}")).chunk(2, dim=2)
        weight, bias = self.layer(f"attn.local_conv{suffix}")
        local = to_tokens(functional.conv2d(to_maps(values, grid), weight, bias, padding=1, groups=len(weight)))
        group, reduced = queries.shape[1], self.reductions != (1,)
        heads = self.split(values + local if reduced else values, group)
        context = functional.scaled_dot_product_attention(queries, self.split(keys, group), heads)
        merged = context.transpose(1, 2).flatten(2)
        return merged if reduced else merged + local

    def split(self, x: Any, heads: int) -> Any:
        """[B, N, h D] -> [B, h, N, D]."""
        return x.unflatten(2, (heads, -1)).transpose(1, 2)

    def mlp(self, x: Any, grid: tuple[int, int]) -> Any:
        """[B, N, C] -> [B, N, C]."""
        y = functional.linear(x, *self.layer("mlp.fc1"))
        weight, bias = self.layer("mlp.dwconv.dwconv")
        detail = to_tokens(functional.conv2d(to_maps(y, grid), weight, bias, padding=1, groups=len(weight)))
        return functional.linear(functional.gelu(y + detail), *self.layer("mlp.fc2"))
