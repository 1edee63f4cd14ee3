"""ViT, DeiT, DeiT III and EViT as torch modules with the official module paths, in steps small enough to be replaced one by one.

Written from the papers and the documented facts of the official programs; nothing in common with reforg. Shapes: B images, N tokens,
C channels, H heads of D channels.
"""

import math
from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional

Grid = tuple[int, int]


def tokens_of(maps: Tensor) -> Tensor:
    """[B, C, H, W] -> [B, N, C], row by row."""
    return maps.flatten(2).transpose(1, 2)


def maps_of(tokens: Tensor, grid: Grid) -> Tensor:
    """[B, N, C] -> [B, C, H, W]."""
    return tokens.transpose(1, 2).reshape(tokens.shape[0], tokens.shape[2], *grid)


class Attention(nn.Module):
    """Multi-head self-attention."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads, self.scale = heads, (width // heads) ** -0.5
        self.qkv, self.attn_drop = nn.Linear(width, 3 * width), nn.Dropout(0.0)
        self.proj, self.proj_drop = nn.Linear(width, width), nn.Dropout(0.0)

    def forward(self, x: Tensor) -> Tensor:
        return self.attend(x)[0]

    def attend(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """[B, N, C] -> [B, N, C], scores and probabilities [B, H, N, N]."""
        q, k, v = self.split(self.qkv(x))
        scores = self.score(q, k)
        probabilities = self.attn_drop(self.normalise(scores))
        return self.proj_drop(self.proj(self.merge(probabilities @ v))), scores, probabilities

    def split(self, qkv: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """[B, N, 3 C] -> three [B, H, N, D]."""
        batch, count, _ = qkv.shape
        q, k, v = qkv.reshape(batch, count, 3, self.heads, -1).permute(2, 0, 3, 1, 4)
        return q, k, v

    def score(self, q: Tensor, k: Tensor) -> Tensor:
        return q @ k.transpose(-2, -1) * self.scale

    def normalise(self, scores: Tensor) -> Tensor:
        return scores.softmax(dim=-1)

    def merge(self, context: Tensor) -> Tensor:
        """[B, H, N, D] -> [B, N, C]."""
        return context.transpose(1, 2).flatten(2)


class Mlp(nn.Module):
    def __init__(self, width: int, hidden: int) -> None:
        super().__init__()
        self.fc1, self.act, self.drop1 = nn.Linear(width, hidden), nn.GELU(), nn.Dropout(0.0)
        self.fc2, self.drop2 = nn.Linear(hidden, width), nn.Dropout(0.0)

    def forward(self, x: Tensor) -> Tensor:
        return self.drop2(self.fc2(self.drop1(self.act(self.fc1(x)))))


class Block(nn.Module):
    """x + attention(norm1(x)), then x + MLP(norm2(x)); joins and gains stand in methods of their own."""

    def __init__(self, width: int, heads: int, hidden: int) -> None:
        super().__init__()
        self.norm1, self.norm2 = nn.LayerNorm(width, eps=1e-6), nn.LayerNorm(width, eps=1e-6)
        self.attn, self.mlp, self.drop_path = Attention(width, heads), Mlp(width, hidden), nn.Identity()

    def forward(self, x: Tensor) -> Tensor:
        x = self.join1(x, self.drop_path(self.gain1(self.attn(self.norm1(x)))))
        return self.join2(x, self.drop_path(self.gain2(self.mlp(self.norm2(x)))))

    def gain1(self, update: Tensor) -> Tensor:
        return update

    def gain2(self, update: Tensor) -> Tensor:
        return update

    def join1(self, x: Tensor, update: Tensor) -> Tensor:
        return x + update

    def join2(self, x: Tensor, update: Tensor) -> Tensor:
        return x + update


class ScaledBlock(Block):
    """DeiT III's: LayerScale on both updates."""

    def __init__(self, width: int, heads: int, hidden: int) -> None:
        super().__init__(width, heads, hidden)
        self.gamma_1, self.gamma_2 = nn.Parameter(torch.ones(width)), nn.Parameter(torch.ones(width))

    def gain1(self, update: Tensor) -> Tensor:
        return self.gamma_1 * update

    def gain2(self, update: Tensor) -> Tensor:
        return self.gamma_2 * update


class ParallelBlock(nn.Module):
    """DeiT III's with two branches: both attentions are added to the same x, then both MLPs."""

    def __init__(self, width: int, heads: int, hidden: int) -> None:
        super().__init__()
        for suffix in ("", "1"):
            self.add_module(f"norm1{suffix}", nn.LayerNorm(width, eps=1e-6))
            self.add_module(f"attn{suffix}", Attention(width, heads))
            self.add_module(f"norm2{suffix}", nn.LayerNorm(width, eps=1e-6))
            self.add_module(f"mlp{suffix}", Mlp(width, hidden))
        for name in ("gamma_1", "gamma_1_1", "gamma_2", "gamma_2_1"):
            self.register_parameter(name, nn.Parameter(torch.ones(width)))

    def forward(self, x: Tensor) -> Tensor:
        return self.feed(self.attend(x))

    def attend(self, x: Tensor) -> Tensor:
        return x + self.gamma_1 * self.attn(self.norm1(x)) + self.gamma_1_1 * self.attn1(self.norm11(x))

    def feed(self, x: Tensor) -> Tensor:
        return x + self.gamma_2 * self.mlp(self.norm2(x)) + self.gamma_2_1 * self.mlp1(self.norm21(x))


class EvitAttention(Attention):
    """EViT's: beside its output it returns the class token's attention [B, N - 1], which tokens are kept by."""

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        x, scores, probabilities = self.attend(x)
        return x, self.attentiveness(scores, probabilities)

    def attentiveness(self, scores: Tensor, probabilities: Tensor) -> Tensor:
        return probabilities[:, :, 0, 1:].mean(dim=1)


class EvitBlock(Block):
    """EViT's: tokens are reorganized between attention and MLP where its keep rate is below 1."""

    def __init__(self, width: int, heads: int, hidden: int, keep_rate: float, fuse: bool) -> None:
        super().__init__(width, heads, hidden)
        self.attn, self.keep_rate, self.fuse = EvitAttention(width, heads), keep_rate, fuse

    def forward(self, x: Tensor) -> Tensor:
        update, attention = self.attn(self.norm1(x))
        x = self.reorganize(x, self.join1(x, self.drop_path(update)), attention)
        return self.finish(x)

    def finish(self, x: Tensor) -> Tensor:
        return self.join2(x, self.drop_path(self.mlp(self.norm2(x))))

    def reorganize(self, before: Tensor, x: Tensor, attention: Tensor) -> Tensor:
        """[B, N, C], before and after attention was added, and [B, N - 1] -> [B, N', C]."""
        count = self.count(attention.shape[1])
        return x if count == attention.shape[1] else self.select(x, attention, count)

    def count(self, candidates: int) -> int:
        return math.ceil(self.keep_rate * candidates)

    def select(self, x: Tensor, attention: Tensor, count: int) -> Tensor:
        """The class token, the kept tokens by falling attention, the fused one."""
        order = self.order(attention)
        kept, dropped = order[:, :count], order[:, count:]
        fused = [self.fused(x[:, 1:], attention, kept, dropped)] if self.fuse else []
        return self.arrange(x[:, :1], self.kept(x, kept), fused, kept)

    def order(self, attention: Tensor) -> Tensor:
        return attention.argsort(dim=1, descending=True, stable=True)

    def kept(self, x: Tensor, kept: Tensor) -> Tensor:
        return gathered(x[:, 1:], kept)

    def fused(self, patches: Tensor, attention: Tensor, kept: Tensor, dropped: Tensor) -> Tensor:
        """[B, N - 1, C] -> [B, 1, C]: the dropped tokens, each times its attention."""
        return weighted(patches, attention, dropped)

    def arrange(self, first: Tensor, kept: Tensor, fused: list[Tensor], indices: Tensor) -> Tensor:
        return torch.cat([first, kept, *fused], dim=1)


def gathered(tokens: Tensor, indices: Tensor) -> Tensor:
    """[B, N, C], [B, K] -> [B, K, C]."""
    return tokens.gather(1, indices.unsqueeze(2).expand(-1, -1, tokens.shape[2]))


def weighted(patches: Tensor, attention: Tensor, indices: Tensor) -> Tensor:
    """[B, N, C], [B, N], [B, K] -> [B, 1, C]."""
    return (gathered(patches, indices) * attention.gather(1, indices).unsqueeze(2)).sum(dim=1, keepdim=True)


class PatchEmbed(nn.Module):
    def __init__(self, width: int, patch: int, stem: str) -> None:
        super().__init__()
        self.proj = hmlp_stem(width) if stem == "hmlp" else nn.Conv2d(3, width, patch, patch)
        self.norm = nn.Identity()

    def forward(self, images: Tensor) -> Tensor:
        return self.norm(self.ordered(self.proj(images)))

    def ordered(self, maps: Tensor) -> Tensor:
        return tokens_of(maps)


def hmlp_stem(width: int) -> nn.Sequential:
    """Patches of 4, 8 and 16 pixels, a batch norm after each, GELU between."""
    quarter = width // 4
    layers: list[nn.Module] = []
    for before, after, side in ((3, quarter, 4), (quarter, quarter, 2), (quarter, width, 2)):
        layers += [nn.Conv2d(before, after, side, side), nn.BatchNorm2d(after), nn.GELU()]
    return nn.Sequential(*layers[:-1])


class VisionTransformer(nn.Module):
    """All of them: `blocks` tells the family. sequential: whether blocks are called as one module, as timm does."""

    def __init__(
        self, grid: Grid, patch: int, width: int, classes: int, blocks: Sequence[nn.Module], sequential: bool = False,
        distilled: bool = False, bare_class: bool = False, stem: str = "patch", antialias: bool = False,
    ) -> None:  # fmt: skip
        super().__init__()
        self.grid, self.patch, self.bare_class, self.antialias = grid, patch, bare_class, antialias
        self.cls_token = nn.Parameter(torch.zeros(1, 1, width))
        self.dist_token = nn.Parameter(torch.zeros(1, 1, width)) if distilled else None
        special = 0 if bare_class else 2 if distilled else 1
        self.pos_embed, self.pos_drop = nn.Parameter(torch.zeros(1, grid[0] * grid[1] + special, width)), nn.Dropout(0.0)
        self.patch_embed, self.special = PatchEmbed(width, patch, stem), special
        self.blocks = nn.Sequential(*blocks) if sequential else nn.ModuleList(blocks)
        self.norm, self.head = nn.LayerNorm(width, eps=1e-6), nn.Linear(width, classes)
        if distilled:
            self.head_dist = nn.Linear(width, classes)

    def forward(self, images: Tensor) -> Tensor:
        images = self.prepared(images)
        grid = (images.shape[2] // self.patch, images.shape[3] // self.patch)
        x = self.pos_drop(self.placed(self.patch_embed(images), self.positions(grid)))
        return self.classify(self.encode(x))

    def prepared(self, images: Tensor) -> Tensor:
        return images

    def encode(self, x: Tensor) -> Tensor:
        if isinstance(self.blocks, nn.Sequential):
            return self.blocks(x)
        for block in self.blocks:
            x = block(x)
        return x

    def tokens(self, batch: int) -> list[Tensor]:
        """The special tokens, each [B, 1, C]."""
        return [token.expand(batch, -1, -1) for token in (self.cls_token, self.dist_token) if token is not None]

    def placed(self, patches: Tensor, positions: Tensor) -> Tensor:
        """[B, N, C], [1, N (+ S), C] -> [B, S + N, C]."""
        special = self.tokens(patches.shape[0])
        if self.bare_class:
            return torch.cat([*special, patches + positions], dim=1)
        return torch.cat([*special, patches], dim=1) + positions

    def positions(self, grid: Grid) -> Tensor:
        """Bicubic to another grid; the positions of special tokens stay."""
        if grid == self.grid:
            return self.pos_embed
        maps = self.resampled(maps_of(self.pos_embed[:, self.special :], self.grid), grid)
        return torch.cat([self.pos_embed[:, : self.special], tokens_of(maps)], dim=1)

    def resampled(self, maps: Tensor, grid: Grid) -> Tensor:
        return functional.interpolate(maps, size=grid, mode="bicubic", align_corners=False, antialias=self.antialias)

    def classify(self, x: Tensor) -> Tensor:
        """[B, N, C] -> [B, classes]."""
        x = self.norm(x)
        if self.dist_token is None:
            return self.head(x[:, 0])
        return self.averaged(self.head(x[:, 0]), self.head_dist(x[:, 1]))

    def averaged(self, logits: Tensor, distilled: Tensor) -> Tensor:
        return (logits + distilled) / 2
