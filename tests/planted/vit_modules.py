"""ViT, DeiT, DeiT III and EViT as torch modules in the official style, every step a method that a fault can replace.

Written from the papers and the documented facts, with the official parameter names and nothing in common with reforg but configs.
"""

import math
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

Grid = tuple[int, int]


class Attention(nn.Module):
    """Returns its output and how much the class token attends to each patch."""

    def __init__(self, width: int, heads: int, special: int, bias: bool) -> None:
        super().__init__()
        self.heads, self.special, self.scale = heads, special, (width // heads) ** -0.5
        self.qkv = nn.Linear(width, 3 * width, bias=bias)
        self.attn_drop = nn.Dropout(0.0)
        self.proj = nn.Linear(width, width)
        self.proj_drop = nn.Dropout(0.0)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        queries, keys, values = self.split(self.qkv(x))
        scores = self.scores(queries, keys)
        probabilities = scores.softmax(dim=-1)
        context = self.mix(queries, keys, values, self.attn_drop(probabilities))
        return self.proj_drop(self.proj(self.merge(context))), self.ranking(scores, probabilities)

    def split(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """(B, N, 3 C) -> three times (B, H, N, D)."""
        batch, count, width = x.shape
        parts = x.reshape(batch, count, 3, self.heads, width // (3 * self.heads)).permute(2, 0, 3, 1, 4)
        return parts[0], parts[1], parts[2]

    def scores(self, queries: Tensor, keys: Tensor) -> Tensor:
        return (queries @ keys.transpose(-2, -1)) * self.scale

    def mix(self, queries: Tensor, keys: Tensor, values: Tensor, probabilities: Tensor) -> Tensor:
        return probabilities @ values

    def merge(self, context: Tensor) -> Tensor:
        """(B, H, N, D) -> (B, N, C)."""
        batch, heads, count, depth = context.shape
        return context.transpose(1, 2).reshape(batch, count, heads * depth)

    def ranking(self, scores: Tensor, probabilities: Tensor) -> Tensor:
        """(B, H, N, N) twice -> (B, N - S)."""
        return probabilities[:, :, 0, self.special :].mean(dim=1)


class Mlp(nn.Module):
    def __init__(self, width: int, hidden: int) -> None:
        super().__init__()
        self.fc1, self.act, self.fc2 = nn.Linear(width, hidden), nn.GELU(), nn.Linear(hidden, width)
        self.drop = nn.Dropout(0.0)

    def forward(self, x: Tensor) -> Tensor:
        return self.drop(self.fc2(self.drop(self.act(self.fc1(x)))))


class LayerScale(nn.Module):
    """timm's: a module of its own."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.gamma = nn.Parameter(torch.ones(width))

    def forward(self, x: Tensor) -> Tensor:
        return x * self.gamma


class Block(nn.Module):
    """Attention, reorganization, MLP; with two branches: norm1 and norm11, attn and attn1, gamma_1 and gamma_1_1."""

    def __init__(self, config: Any, rate: float) -> None:
        super().__init__()
        width = config.embed_dim
        self.special, self.rate, self.fuses = config.num_special, rate, config.fuse_token
        self.suffixes, self.scaled = config.branches, config.init_values is not None
        self.last: tuple[Tensor, Tensor] | None = None
        for suffix in self.suffixes:
            self.add_module(f"norm1{suffix}", nn.LayerNorm(width, eps=1e-6))
            self.add_module(f"attn{suffix}", Attention(width, config.num_heads, self.special, config.qkv_bias))
            self.add_module(f"norm2{suffix}", nn.LayerNorm(width, eps=1e-6))
            self.add_module(f"mlp{suffix}", Mlp(width, config.hidden_dim))
            for number in (1, 2) if self.scaled else ():
                self.register_parameter(gain(number, suffix), nn.Parameter(torch.ones(width)))

    def forward(self, x: Tensor) -> Tensor:
        before = x
        x, scores = self.attended(x)
        count = self.count(scores.shape[1])
        if count < scores.shape[1]:
            x = self.reorganized(before, x, scores, count)
        return self.fed_forward(x)

    def attended(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """x plus every branch's attention (B, S + N, C), and the class token's attention (B, N)."""
        outputs = [self.part("attn", suffix)(self.part("norm1", suffix)(x)) for suffix in self.suffixes]
        updates = [self.layer_scale(1, suffix, output[0]) for suffix, output in zip(self.suffixes, outputs, strict=True)]
        scores = [output[1] for output in outputs]
        return self.join1(x, updates), scores[0] if len(scores) == 1 else torch.stack(scores).mean(dim=0)

    def fed_forward(self, x: Tensor) -> Tensor:
        outputs = [self.part("mlp", suffix)(self.part("norm2", suffix)(x)) for suffix in self.suffixes]
        return self.join2(x, [self.layer_scale(2, suffix, output) for suffix, output in zip(self.suffixes, outputs, strict=True)])

    def part(self, name: str, suffix: str) -> nn.Module:
        return self.get_submodule(name + suffix)

    def layer_scale(self, number: int, suffix: str, x: Tensor) -> Tensor:
        return self.get_parameter(gain(number, suffix)) * x if self.scaled else x

    def join1(self, x: Tensor, updates: list[Tensor]) -> Tensor:
        return sum(updates, x)

    def join2(self, x: Tensor, updates: list[Tensor]) -> Tensor:
        return sum(updates, x)

    def count(self, candidates: int) -> int:
        return math.ceil(self.rate * candidates)

    def chosen(self, scores: Tensor, count: int) -> Tensor:
        return scores.topk(count, dim=1, largest=True, sorted=True).indices

    def gathered(self, before: Tensor, patches: Tensor, kept: Tensor) -> Tensor:
        """(B, N, C) from before attention, (B, N, C), (B, K) -> (B, K, C)."""
        return patches.gather(1, kept[:, :, None].expand(-1, -1, patches.shape[2]))

    def fused(self, patches: Tensor, scores: Tensor, kept: Tensor) -> Tensor:
        """(B, N, C), (B, N), (B, K) -> (B, 1, C)."""
        dropped = torch.ones_like(scores).scatter(1, kept, 0.0)
        return (patches * (scores * dropped)[:, :, None]).sum(dim=1, keepdim=True)

    def reorganized(self, before: Tensor, x: Tensor, scores: Tensor, count: int) -> Tensor:
        """The special tokens, the `count` most attended by falling attention, and the others' weighted sum last."""
        special, patches = x[:, : self.special], x[:, self.special :]
        kept = self.chosen(scores, count)
        self.last = scores, kept
        parts = [special, self.gathered(before[:, self.special :], patches, kept)]
        return torch.cat([*parts, self.fused(patches, scores, kept)] if self.fuses else parts, dim=1)


def gain(number: int, suffix: str) -> str:
    return f"gamma_{number}_{suffix}" if suffix else f"gamma_{number}"


class PatchEmbed(nn.Module):
    def __init__(self, config: Any) -> None:
        super().__init__()
        channels, width, patch = config.in_chans, config.embed_dim, config.patch_size
        hybrid = config.stem == "hmlp"
        self.proj = hybrid_stem(channels, width) if hybrid else nn.Conv2d(channels, width, patch, patch)

    def forward(self, images: Tensor) -> Tensor:
        return self.ordered(self.proj(images))

    def ordered(self, maps: Tensor) -> Tensor:
        """(B, C, H, W) -> (B, H W, C), row by row."""
        return maps.flatten(2).transpose(1, 2)


def hybrid_stem(channels: int, width: int) -> nn.Sequential:
    """Patches of 4, 8 and 16 pixels, a batch norm after each, GELU between."""
    quarter = width // 4
    return nn.Sequential(
        nn.Conv2d(channels, quarter, 4, 4),
        nn.BatchNorm2d(quarter),
        nn.GELU(),
        nn.Conv2d(quarter, quarter, 2, 2),
        nn.BatchNorm2d(quarter),
        nn.GELU(),
        nn.Conv2d(quarter, width, 2, 2),
        nn.BatchNorm2d(width),
    )


class VisionTransformer(nn.Module):
    """Of a reforg config; timm's has its blocks in a Sequential, the official ones in a ModuleList."""

    def __init__(self, config: Any) -> None:
        super().__init__()
        width, classes = config.embed_dim, config.num_classes
        self.grid, self.patch, self.special = config.grid, config.patch_size, config.num_special
        self.bare_class, self.timm = config.no_embed_class, config.modules == "timm"
        self.resampling = {"mode": "bicubic", "align_corners": False, "antialias": config.antialias}
        self.cls_token = nn.Parameter(torch.zeros(1, 1, width))
        self.dist_token = nn.Parameter(torch.zeros(1, 1, width)) if config.distilled else None
        entries = self.grid[0] * self.grid[1] + (0 if self.bare_class else self.special)
        self.pos_embed = nn.Parameter(torch.zeros(1, entries, width))
        self.patch_embed, self.pos_drop = PatchEmbed(config), nn.Dropout(0.0)
        blocks = [Block(config, rate) for rate in config.keep_rates]
        self.blocks = nn.Sequential(*blocks) if self.timm else nn.ModuleList(blocks)
        self.norm = nn.LayerNorm(width, eps=1e-6)
        self.head = nn.Linear(width, classes)
        self.head_dist = nn.Linear(width, classes) if config.distilled else None

    def forward(self, images: Tensor) -> Tensor:
        return self.classified(self.encoded(self.pos_drop(self.embedded(self.prepared(images)))))

    def prepared(self, images: Tensor) -> Tensor:
        return images

    def encoded(self, x: Tensor) -> Tensor:
        if self.timm:
            return self.blocks(x)
        for block in self.blocks:
            x = block(x)
        return x

    def embedded(self, images: Tensor) -> Tensor:
        positions = self.positions((images.shape[2] // self.patch, images.shape[3] // self.patch))
        return self.joined(self.specials(len(images)), self.patch_embed(images), positions)

    def specials(self, batch: int) -> Tensor:
        """(B, S, C)."""
        tokens = [token for token in (self.cls_token, self.dist_token) if token is not None]
        return torch.cat(tokens, dim=1).expand(batch, -1, -1)

    def joined(self, special: Tensor, patches: Tensor, positions: Tensor) -> Tensor:
        if self.bare_class:
            return torch.cat([special, patches + positions], dim=1)
        return torch.cat([special, patches], dim=1) + positions

    def positions(self, grid: Grid) -> Tensor:
        """Resampled to another grid of patches, by timm in float32 at least; positions of special tokens stay."""
        if grid == self.grid:
            return self.pos_embed
        special = 0 if self.bare_class else self.special
        table = self.pos_embed.float() if self.resampling["antialias"] and self.pos_embed.itemsize < 4 else self.pos_embed
        maps = table[:, special:].transpose(1, 2).unflatten(2, self.grid)
        maps = functional.interpolate(maps, size=grid, **self.resampling)
        return torch.cat([table[:, :special], maps.flatten(2).transpose(1, 2)], dim=1).to(self.pos_embed.dtype)

    def classified(self, x: Tensor) -> Tensor:
        return self.answer(self.states(self.norm(x)))

    def states(self, x: Tensor) -> list[Tensor]:
        """(B, N, C) -> (B, C) for each head."""
        return [x[:, token] for token in range(self.special)]

    def answer(self, states: list[Tensor]) -> Tensor:
        if self.head_dist is None:
            return self.head(states[0])
        return (self.head(states[0]) + self.head_dist(states[1])) / 2
