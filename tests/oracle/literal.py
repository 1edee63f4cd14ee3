"""EViT, DeiT III's variants and Shunted as torch modules: every documented fact of the official programs taken literally.

Written from the papers and those facts alone, with the official parameter names and nothing in common with reforg.
"""

import math
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

Grid = tuple[int, int]


class Named(nn.Module):
    """Passes a value through, so that a hook also sees what has no module of its own in the official program."""

    def forward(self, value: Tensor) -> Tensor:
        return value


def tokens_of(maps: Tensor) -> Tensor:
    return maps.flatten(2).mT


def maps_of(tokens: Tensor, grid: Grid) -> Tensor:
    return tokens.mT.unflatten(2, grid)


class Mix(nn.Module):
    """softmax(Q K^T s) V with its steps named; also what they are named under for Shunted's branches."""

    def __init__(self) -> None:
        super().__init__()
        self.scores, self.probs, self.context = Named(), Named(), Named()

    def mix(self, queries: Tensor, keys: Tensor, values: Tensor) -> tuple[Tensor, Tensor]:
        """(B, H, N, D), (B, H, M, D), (B, H, M, D) -> (B, N, H D), (B, H, N, M)."""
        products = torch.einsum("bhnd,bhmd->bhnm", queries, keys)
        probabilities = self.probs(self.scores(products / math.sqrt(queries.shape[3])).softmax(dim=3))
        context = self.context(torch.einsum("bhnm,bhmd->bhnd", probabilities, values))
        return context.transpose(1, 2).flatten(2), probabilities


class SelfAttention(Mix):
    def __init__(self, width: int, heads: int, special: int, qkv_bias: bool) -> None:
        super().__init__()
        self.heads, self.special = heads, special
        self.qkv = nn.Linear(width, 3 * width, bias=qkv_bias)
        self.cls_attention = Named()
        self.proj = nn.Linear(width, width)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        queries, keys, values = (part.unflatten(2, (self.heads, -1)).transpose(1, 2) for part in self.qkv(x).chunk(3, dim=2))
        context, probabilities = self.mix(queries, keys, values)
        scores = self.cls_attention(probabilities[:, :, 0, self.special :].mean(dim=1))
        return self.proj(context), scores


class Mlp(nn.Module):
    def __init__(self, width: int, hidden: int) -> None:
        super().__init__()
        self.fc1, self.act, self.fc2 = nn.Linear(width, hidden), nn.GELU(), nn.Linear(hidden, width)

    def forward(self, x: Tensor) -> Tensor:
        return self.fc2(self.act(self.fc1(x)))


class Block(nn.Module):
    """Attention, reorganization, MLP; with two branches: norm1 and norm11, attn and attn1, gamma_1 and gamma_1_1."""

    def __init__(
        self, width: int, heads: int, hidden: int, special: int, qkv_bias: bool, branches: int, gains: bool, rate: float, fuse: bool
    ) -> None:
        super().__init__()
        self.special, self.rate, self.fuse, self.gains = special, rate, fuse, gains
        self.suffixes = ("", "1")[:branches]
        for suffix in self.suffixes:
            self.add_module(f"norm1{suffix}", nn.LayerNorm(width, eps=1e-6))
            self.add_module(f"attn{suffix}", SelfAttention(width, heads, special, qkv_bias))
            self.add_module(f"norm2{suffix}", nn.LayerNorm(width, eps=1e-6))
            self.add_module(f"mlp{suffix}", Mlp(width, hidden))
            for number in (1, 2) if gains else ():
                self.register_parameter("_".join(filter(None, ("gamma", str(number), suffix))), nn.Parameter(torch.ones(width)))
                self.add_module(f"ls{number}{suffix}", Named())
        self.attended, self.cls_attention, self.kept, self.reorganized = Named(), Named(), Named(), Named()

    def forward(self, x: Tensor, keep_rate: float | None = None, tokens: int | None = None) -> Tensor:
        x, scores = self.attention(x)
        count = self.count(scores.shape[1], keep_rate, tokens)
        if count != scores.shape[1]:
            x = self.reorganized(self.fewer(x, self.averaged(scores), count))
        updates = [self.branch("mlp", suffix)(self.branch("norm2", suffix)(x)) for suffix in self.suffixes]
        return x + sum(self.scaled(2, suffix, update) for suffix, update in zip(self.suffixes, updates, strict=True))

    def branch(self, name: str, suffix: str) -> nn.Module:
        return self.get_submodule(name + suffix)

    def scaled(self, number: int, suffix: str, x: Tensor) -> Tensor:
        if not self.gains:
            return x
        gain = self.get_parameter("_".join(filter(None, ("gamma", str(number), suffix))))
        return self.branch(f"ls{number}", suffix)(gain * x)

    def attention(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """x plus every branch's attention (B, S + N, C), and the class token's attention (B, N, branches)."""
        outputs = [self.branch("attn", suffix)(self.branch("norm1", suffix)(x)) for suffix in self.suffixes]
        updates = [self.scaled(1, suffix, update) for suffix, (update, _) in zip(self.suffixes, outputs, strict=True)]
        return self.attended(x + sum(updates)), torch.stack([scores for _, scores in outputs], dim=2)

    def averaged(self, scores: Tensor) -> Tensor:
        return scores[:, :, 0] if len(self.suffixes) == 1 else self.cls_attention(scores.mean(dim=2))

    def count(self, candidates: int, keep_rate: float | None, tokens: int | None) -> int:
        """The constructor's rate decides whether; the call's rate, how many; the call's count, both."""
        if tokens is not None:
            return tokens
        if self.rate == 1 or keep_rate is None:
            return math.ceil(self.rate * candidates)
        return math.ceil(keep_rate * candidates)

    def fewer(self, x: Tensor, scores: Tensor, count: int) -> Tensor:
        """The special tokens, the `count` most attended by falling attention, and the others' weighted sum last."""
        special, patches = x[:, : self.special], x[:, self.special :]
        kept = self.kept(scores.topk(count, dim=1, largest=True, sorted=True).indices)
        attentive = torch.stack([image[indices] for image, indices in zip(patches, kept, strict=True)])
        dropped = scores.scatter(1, kept, 0.0)
        fused = [torch.einsum("bn,bnc->bc", dropped, patches)[:, None]] if self.fuse else []
        return torch.cat([special, attentive, *fused], dim=1)


class PatchEmbedding(nn.Module):
    def __init__(self, channels: int, width: int, patch: int, stem: str) -> None:
        super().__init__()
        self.proj = hybrid_stem(channels, width) if stem == "hmlp" else nn.Conv2d(channels, width, patch, patch)

    def forward(self, images: Tensor) -> Tensor:
        return tokens_of(self.proj(images))


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
    """EViT and DeiT III; `rates` are the constructor's keep rates, one a block."""

    def __init__(
        self,
        grid: Grid,
        patch: int,
        channels: int,
        classes: int,
        width: int,
        heads: int,
        hidden: int,
        rates: Sequence[float],
        fuse: bool,
        qkv_bias: bool = True,
        distilled: bool = False,
        branches: int = 1,
        gains: bool = False,
        bare_class: bool = False,
        stem: str = "patch",
        antialias: bool = False,
    ) -> None:
        super().__init__()
        self.grid, self.patch, self.bare_class, self.antialias = grid, patch, bare_class, antialias
        self.special = 2 if distilled else 1
        self.cls_token = nn.Parameter(torch.zeros(1, 1, width))
        self.dist_token = nn.Parameter(torch.zeros(1, 1, width)) if distilled else None
        self.pos_embed = nn.Parameter(torch.zeros(1, grid[0] * grid[1] + (0 if bare_class else self.special), width))
        self.patch_embed, self.embedded = PatchEmbedding(channels, width, patch, stem), Named()
        self.blocks = nn.ModuleList(
            Block(width, heads, hidden, self.special, qkv_bias, branches, gains, rate, fuse) for rate in rates
        )
        self.norm = nn.LayerNorm(width, eps=1e-6)
        if classes:
            self.head = nn.Linear(width, classes)
        if classes and distilled:
            self.head_dist = nn.Linear(width, classes)

    def forward(self, images: Tensor, keep_rate: Any = None, tokens: Any = None) -> Tensor:
        x = self.embedded(self.embed(images))
        for block, rate, count in zip(self.blocks, self.each(keep_rate), self.each(tokens), strict=True):
            x = block(x, rate, count)
        x = self.norm(x)
        states = [x[:, token] for token in range(self.special)]
        heads = [getattr(self, name) for name in ("head", "head_dist") if hasattr(self, name)]
        logits = [head(state) for head, state in zip(heads, states, strict=True)] if heads else states
        return torch.stack(logits).mean(dim=0)

    def each(self, value: Any) -> Sequence[Any]:
        return value if isinstance(value, (list, tuple)) else [value] * len(self.blocks)

    def embed(self, images: Tensor) -> Tensor:
        tokens = [token.expand(len(images), -1, -1) for token in (self.cls_token, self.dist_token) if token is not None]
        positions = self.positions((images.shape[2] // self.patch, images.shape[3] // self.patch))
        if self.bare_class:
            return torch.cat([*tokens, self.patch_embed(images) + positions], dim=1)
        return torch.cat([*tokens, self.patch_embed(images)], dim=1) + positions

    def positions(self, grid: Grid) -> Tensor:
        """Bicubic to another grid of patches; positions of special tokens stay."""
        if grid == self.grid:
            return self.pos_embed
        special = 0 if self.bare_class else self.special
        maps = maps_of(self.pos_embed[:, special:], self.grid)
        maps = functional.interpolate(maps, size=grid, mode="bicubic", align_corners=False, antialias=self.antialias)
        return torch.cat([self.pos_embed[:, :special], tokens_of(maps)], dim=1)


class DepthwiseConv(nn.Module):
    def __init__(self, width: int) -> None:
        super().__init__()
        self.dwconv = nn.Conv2d(width, width, 3, padding=1, groups=width)

    def forward(self, x: Tensor, grid: Grid) -> Tensor:
        return tokens_of(self.dwconv(maps_of(x, grid)))


class DetailMlp(nn.Module):
    """fc2(gelu(y + dwconv(y))), y = fc1(x)."""

    def __init__(self, width: int, hidden: int) -> None:
        super().__init__()
        self.fc1, self.fc2 = nn.Linear(width, hidden), nn.Linear(hidden, width)
        self.dwconv, self.act = DepthwiseConv(hidden), nn.GELU()

    def forward(self, x: Tensor, grid: Grid) -> Tensor:
        y = self.fc1(x)
        return self.fc2(self.act(y + self.dwconv(y, grid)))


class UnreducedAttention(nn.Module):
    """sr_ratio 1: every head sees every token, and the local convolution of V is added to the output."""

    def __init__(self, width: int, heads: int, bias: bool) -> None:
        super().__init__()
        self.heads = heads
        self.q, self.kv, self.proj = nn.Linear(width, width, bias), nn.Linear(width, 2 * width, bias), nn.Linear(width, width)
        self.local_conv = nn.Conv2d(width, width, 3, padding=1, groups=width)
        self.branches = nn.ModuleList([Mix()])

    def forward(self, x: Tensor, grid: Grid) -> Tensor:
        keys, values = self.kv(x).chunk(2, dim=2)
        local = tokens_of(self.local_conv(maps_of(values, grid)))
        parts = (part.unflatten(2, (self.heads, -1)).transpose(1, 2) for part in (self.q(x), keys, values))
        return self.proj(self.branches[0].mix(*parts)[0] + local)


class ShuntedAttention(nn.Module):
    """The first half of the heads sees keys reduced by the ratio, the second half by half of it."""

    def __init__(self, width: int, heads: int, ratio: int, bias: bool) -> None:
        super().__init__()
        self.half = heads // 2
        self.q, self.proj, self.act = nn.Linear(width, width, bias), nn.Linear(width, width), nn.GELU()
        self.sr1, self.norm1 = nn.Conv2d(width, width, ratio, ratio), nn.LayerNorm(width, eps=1e-5)
        self.sr2, self.norm2 = nn.Conv2d(width, width, ratio // 2, ratio // 2), nn.LayerNorm(width, eps=1e-5)
        self.kv1, self.kv2 = nn.Linear(width, width, bias), nn.Linear(width, width, bias)
        self.local_conv1 = nn.Conv2d(width // 2, width // 2, 3, padding=1, groups=width // 2)
        self.local_conv2 = nn.Conv2d(width // 2, width // 2, 3, padding=1, groups=width // 2)
        self.branches = nn.ModuleList([Mix(), Mix()])

    def forward(self, x: Tensor, grid: Grid) -> Tensor:
        coarse, fine = self.q(x).chunk(2, dim=2)
        maps = maps_of(x, grid)
        first = self.group(0, coarse, maps, self.sr1, self.norm1, self.kv1, self.local_conv1)
        second = self.group(1, fine, maps, self.sr2, self.norm2, self.kv2, self.local_conv2)
        return self.proj(torch.cat([first, second], dim=2))

    def group(
        self, number: int, queries: Tensor, maps: Tensor, reduction: nn.Module, norm: nn.Module, kv: nn.Module, local: nn.Module
    ) -> Tensor:
        reduced = reduction(maps)
        keys, values = kv(self.act(norm(tokens_of(reduced)))).chunk(2, dim=2)
        values = values + tokens_of(local(maps_of(values, (reduced.shape[2], reduced.shape[3]))))
        parts = (part.unflatten(2, (self.half, -1)).transpose(1, 2) for part in (queries, keys, values))
        return self.branches[number].mix(*parts)[0]


class ShuntedBlock(nn.Module):
    def __init__(self, width: int, heads: int, hidden: int, ratio: int, bias: bool) -> None:
        super().__init__()
        self.norm1, self.norm2 = nn.LayerNorm(width, eps=1e-6), nn.LayerNorm(width, eps=1e-6)
        self.attn = ShuntedAttention(width, heads, ratio, bias) if ratio > 1 else UnreducedAttention(width, heads, bias)
        self.mlp, self.attended = DetailMlp(width, hidden), Named()

    def forward(self, x: Tensor, grid: Grid) -> Tensor:
        x = self.attended(x + self.attn(self.norm1(x), grid))
        return x + self.mlp(self.norm2(x), grid)


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
        return self.norm(tokens_of(maps)), (maps.shape[2], maps.shape[3])


class OverlappingEmbedding(nn.Module):
    def __init__(self, before: int, width: int) -> None:
        super().__init__()
        self.proj, self.norm = nn.Conv2d(before, width, 3, 2, 1), nn.LayerNorm(width, eps=1e-5)

    def forward(self, maps: Tensor) -> tuple[Tensor, Grid]:
        maps = self.proj(maps)
        return self.norm(tokens_of(maps)), (maps.shape[2], maps.shape[3])


class ShuntedTransformer(nn.Module):
    def __init__(
        self,
        channels: int,
        classes: int,
        widths: Sequence[int],
        depths: Sequence[int],
        heads: Sequence[int],
        hidden: Sequence[int],
        ratios: Sequence[int],
        convolutions: int,
        qkv_bias: bool,
    ) -> None:
        super().__init__()
        for stage in range(4):
            width = widths[stage]
            first = stage == 0
            embedding = Stem(channels, width, convolutions) if first else OverlappingEmbedding(widths[stage - 1], width)
            blocks = [ShuntedBlock(width, heads[stage], hidden[stage], ratios[stage], qkv_bias) for _ in range(depths[stage])]
            self.add_module(f"patch_embed{stage + 1}", embedding)
            self.add_module(f"block{stage + 1}", nn.ModuleList(blocks))
            self.add_module(f"norm{stage + 1}", nn.LayerNorm(width, eps=1e-6))
        if classes:
            self.head = nn.Linear(widths[3], classes)

    def forward(self, maps: Tensor) -> Tensor:
        for stage in range(1, 5):
            x, grid = self.get_submodule(f"patch_embed{stage}")(maps)
            for block in self.get_submodule(f"block{stage}"):
                x = block(x, grid)
            x = self.get_submodule(f"norm{stage}")(x)
            maps = maps_of(x, grid)
        pooled = x.mean(dim=1)
        return self.head(pooled) if hasattr(self, "head") else pooled
