"""The Shunted Transformer as torch modules under the official names, in small methods that a fault can replace one at a time.

Written from the paper and the documented facts alone; it has nothing in common with reforg.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

Grid = tuple[int, int]
Source = tuple[Tensor, Grid]  # tokens [B, M, C] over a grid
Seen = tuple[Tensor, Tensor, Tensor | None, Grid]  # keys, values, what is added to the output, each [B, M, h D], over a grid


@dataclass(frozen=True)
class Stage:
    """Channels, blocks, heads, width of the MLP's hidden layer, reduction of the coarser half of the heads."""

    width: int
    depth: int
    heads: int
    hidden: int
    ratio: int


def tokens_of(maps: Tensor) -> Tensor:
    """[B, C, H, W] -> [B, H W, C]."""
    return maps.flatten(2).transpose(1, 2)


def maps_of(tokens: Tensor, grid: Grid) -> Tensor:
    """[B, H W, C] -> [B, C, H, W]."""
    return tokens.transpose(1, 2).unflatten(2, grid)


def size_of(maps: Tensor) -> Grid:
    return maps.shape[2], maps.shape[3]


class DepthwiseConv(nn.Module):
    def __init__(self, width: int) -> None:
        super().__init__()
        self.dwconv = nn.Conv2d(width, width, 3, padding=1, groups=width)

    def forward(self, x: Tensor, grid: Grid) -> Tensor:
        return tokens_of(self.dwconv(maps_of(x, grid)))


class Mlp(nn.Module):
    """fc2(gelu(y + dwconv(y))), y = fc1(x)."""

    def __init__(self, width: int, hidden: int) -> None:
        super().__init__()
        self.fc1, self.fc2 = nn.Linear(width, hidden), nn.Linear(hidden, width)
        self.dwconv, self.act = DepthwiseConv(hidden), nn.GELU()

    def forward(self, x: Tensor, grid: Grid) -> Tensor:
        return self.fc2(self.hidden(self.fc1(x), grid))

    def hidden(self, y: Tensor, grid: Grid) -> Tensor:
        return self.act(y + self.dwconv(y, grid))


class Attention(nn.Module):
    """Groups of heads that see keys at their own scale: ratio and ratio / 2, or all heads every token where the ratio is 1.

    `numbers` ends the names of a group's layers.
    """

    def __init__(self, width: int, heads: int, ratio: int, bias: bool) -> None:
        super().__init__()
        self.numbers = ("1", "2") if ratio > 1 else ("",)
        self.group, self.whole = heads // len(self.numbers), ratio == 1
        part = width // len(self.numbers)
        self.q, self.proj = nn.Linear(width, width, bias), nn.Linear(width, width)
        if not self.whole:
            self.act = nn.GELU()
        for number, size in zip(self.numbers, (ratio, ratio // 2), strict=False):
            if not self.whole:
                self.add_module(f"sr{number}", nn.Conv2d(width, width, size, size))
                self.add_module(f"norm{number}", nn.LayerNorm(width, eps=1e-5))
            self.add_module(f"kv{number}", nn.Linear(width, 2 * part, bias))
            self.add_module(f"local_conv{number}", nn.Conv2d(part, part, 3, padding=1, groups=part))

    def forward(self, x: Tensor, grid: Grid) -> Tensor:
        queries = self.parts(self.q(x))
        sources = self.sources(x, grid)
        pairs = self.pairs(sources)
        seen = self.seen([self.enhanced(*group) for group in zip(self.numbers, pairs, sources, strict=True)])
        return self.proj(self.joined([self.mixed(*group) for group in zip(queries, seen, strict=True)]))

    def sources(self, x: Tensor, grid: Grid) -> list[Source]:
        """What each group's keys and values are made of."""
        return [(x, grid)] if self.whole else [self.reduced(number, maps_of(x, grid)) for number in self.numbers]

    def parts(self, queries: Tensor) -> Sequence[Tensor]:
        """[B, N, C] -> each group's [B, N, h D]."""
        return queries.chunk(len(self.numbers), dim=2)

    def reduced(self, number: str, maps: Tensor) -> Source:
        """[B, C, H, W] -> merged tokens [B, M, C], their grid."""
        merged = getattr(self, f"sr{number}")(maps)
        return self.finished(number, tokens_of(merged)), size_of(merged)

    def finished(self, number: str, merged: Tensor) -> Tensor:
        """Norm and GELU after the merging convolution."""
        return self.act(getattr(self, f"norm{number}")(merged))

    def pairs(self, sources: Sequence[Source]) -> list[tuple[Tensor, Tensor]]:
        """What each group sees -> its keys and values, each [B, M, h D]."""
        layers = [getattr(self, f"kv{number}") for number in self.numbers]
        return [self.halves(layer(source)) for layer, (source, _) in zip(layers, sources, strict=True)]

    def halves(self, kv: Tensor) -> tuple[Tensor, Tensor]:
        """[B, M, 2 h D] -> keys and values."""
        keys, values = kv.chunk(2, dim=2)
        return keys, values

    def enhanced(self, number: str, pair: tuple[Tensor, Tensor], source: Source) -> Seen:
        """A group's keys and values with the local convolution where it belongs."""
        local = tokens_of(getattr(self, f"local_conv{number}")(maps_of(self.detailed(*pair), source[1])))
        return *self.placed(number, *pair, local), source[1]

    def detailed(self, keys: Tensor, values: Tensor) -> Tensor:
        """What the local convolution reads."""
        return values

    def placed(self, number: str, keys: Tensor, values: Tensor, local: Tensor) -> tuple[Tensor, Tensor, Tensor | None]:
        """The local convolution belongs to V where keys are reduced, else to the output."""
        return (keys, values, local) if self.whole else (keys, values + local, None)

    def seen(self, groups: list[Seen]) -> list[Seen]:
        """What each group of heads sees."""
        return groups

    def mixed(self, queries: Tensor, seen: Seen) -> Tensor:
        """[B, N, h D], and what the group sees -> [B, N, h D]."""
        keys, values, beside, grid = seen
        heads = (part.unflatten(2, (self.group, -1)).transpose(1, 2) for part in (queries, keys, values))
        context = self.merged(self.context(*heads))
        return context if beside is None else context + self.fitted(beside, grid, context)

    def context(self, queries: Tensor, keys: Tensor, values: Tensor) -> Tensor:
        """[B, h, N, D], [B, h, M, D] twice -> [B, h, N, D]."""
        scores = queries @ keys.transpose(2, 3) * self.scale(queries.shape[3])
        return scores.softmax(dim=3) @ values

    def scale(self, depth: int) -> float:
        return depth**-0.5

    def merged(self, context: Tensor) -> Tensor:
        """[B, h, N, D] -> [B, N, h D]."""
        return context.transpose(1, 2).flatten(2)

    def fitted(self, beside: Tensor, grid: Grid, context: Tensor) -> Tensor:
        """What is added to the context, which has as many tokens."""
        return beside

    def joined(self, mixed: Sequence[Tensor]) -> Tensor:
        """Each group's [B, N, h D] -> [B, N, C]."""
        return torch.cat(list(mixed), dim=2)


class Block(nn.Module):
    def __init__(self, stage: Stage, bias: bool) -> None:
        super().__init__()
        self.norm1, self.norm2 = nn.LayerNorm(stage.width, eps=1e-6), nn.LayerNorm(stage.width, eps=1e-6)
        self.attn = Attention(stage.width, stage.heads, stage.ratio, bias)
        self.mlp = Mlp(stage.width, stage.hidden)

    def forward(self, x: Tensor, grid: Grid) -> Tensor:
        x = self.added(x, self.attn(self.norm1(x), grid))
        return self.added(x, self.mlp(self.norm2(x), grid), last=True)

    def added(self, x: Tensor, update: Tensor, last: bool = False) -> Tensor:
        """A residual sum: attention's, or the MLP's, which is the last."""
        return x + update


class Stem(nn.Module):
    """7x7 of stride 2, then 3x3s, each with batch norm and ReLU in place and no bias; then 2x2 of stride 2 with one."""

    def __init__(self, channels: int, width: int, convolutions: int) -> None:
        super().__init__()
        layers: list[nn.Module] = [nn.Conv2d(channels, width, 7, 2, 3, bias=False), nn.BatchNorm2d(width), nn.ReLU(inplace=True)]
        for _ in range(convolutions):
            layers += [nn.Conv2d(width, width, 3, 1, 1, bias=False), nn.BatchNorm2d(width), nn.ReLU(inplace=True)]
        self.conv = nn.Sequential(*layers, nn.Conv2d(width, width, 2, 2))
        self.norm = nn.LayerNorm(width, eps=1e-5)

    def forward(self, images: Tensor) -> tuple[Tensor, Grid]:
        maps = self.conv(images)
        return self.norm(tokens_of(maps)), size_of(maps)


class PatchEmbedding(nn.Module):
    """Overlapping patches: 3x3 of stride 2."""

    def __init__(self, before: int, width: int) -> None:
        super().__init__()
        self.proj, self.norm = nn.Conv2d(before, width, 3, 2, 1), nn.LayerNorm(width, eps=1e-5)

    def forward(self, maps: Tensor) -> tuple[Tensor, Grid]:
        maps = self.proj(maps)
        return self.norm(tokens_of(maps)), size_of(maps)


class ShuntedTransformer(nn.Module):
    def __init__(self, channels: int, classes: int, stages: Sequence[Stage], convolutions: int, bias: bool = True) -> None:
        super().__init__()
        widths = [stage.width for stage in stages]
        for number, stage in enumerate(stages, 1):
            first = number == 1
            embedding = Stem(channels, widths[0], convolutions) if first else PatchEmbedding(widths[number - 2], stage.width)
            self.add_module(f"patch_embed{number}", embedding)
            self.add_module(f"block{number}", nn.ModuleList(Block(stage, bias) for _ in range(stage.depth)))
            self.add_module(f"norm{number}", nn.LayerNorm(stage.width, eps=1e-6))
        self.stages = len(stages)
        self.head = nn.Linear(widths[-1], classes) if classes else nn.Identity()

    def forward(self, images: Tensor) -> Tensor:
        maps = images
        for number in range(1, self.stages + 1):
            x, grid = self.get_submodule(f"patch_embed{number}")(maps)
            for block in self.get_submodule(f"block{number}").children():
                x = block(x, grid)
            x = self.get_submodule(f"norm{number}")(x)
            maps = maps_of(x, grid)
        return self.head(self.pooled(x))

    def pooled(self, x: Tensor) -> Tensor:
        """[B, N, C] -> [B, C]."""
        return x.mean(dim=1)
