"""Shunted Transformer as torch modules with the official module paths, in steps small enough to be replaced one by one.

Written from the paper and the documented facts of the official program; nothing in common with reforg.
"""

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from faults.modules import Grid, maps_of, tokens_of

Pair = tuple[Tensor, Tensor]


class DWConv(nn.Module):
    def __init__(self, width: int) -> None:
        super().__init__()
        self.dwconv = nn.Conv2d(width, width, 3, 1, 1, groups=width)

    def forward(self, x: Tensor, grid: Grid) -> Tensor:
        return tokens_of(self.dwconv(maps_of(x, grid)))


class DetailMlp(nn.Module):
    """fc2(gelu(y + dwconv(y))), y = fc1(x)."""

    def __init__(self, width: int, hidden: int) -> None:
        super().__init__()
        self.fc1, self.dwconv, self.act = nn.Linear(width, hidden), DWConv(hidden), nn.GELU()
        self.fc2, self.drop = nn.Linear(hidden, width), nn.Dropout(0.0)

    def forward(self, x: Tensor, grid: Grid) -> Tensor:
        return self.drop(self.fc2(self.drop(self.hidden(self.fc1(x), grid))))

    def hidden(self, y: Tensor, grid: Grid) -> Tensor:
        return self.act(y + self.dwconv(y, grid))


class ShuntedAttention(nn.Module):
    """With a ratio above 1 the first half of the heads sees keys reduced by it, the second half by half of it."""

    def __init__(self, width: int, heads: int, ratio: int) -> None:
        super().__init__()
        self.heads, self.ratio, self.scale = heads, ratio, (width // heads) ** -0.5
        self.q, self.proj = nn.Linear(width, width), nn.Linear(width, width)
        if ratio > 1:
            self.act = nn.GELU()
            for number, (side, half) in enumerate(((ratio, width // 2), (ratio // 2, width // 2)), 1):
                self.add_module(f"sr{number}", nn.Conv2d(width, width, side, side))
                self.add_module(f"norm{number}", nn.LayerNorm(width))
                self.add_module(f"kv{number}", nn.Linear(width, width))
                self.add_module(f"local_conv{number}", nn.Conv2d(half, half, 3, 1, 1, groups=half))
        else:
            self.kv = nn.Linear(width, 2 * width)
            self.local_conv = nn.Conv2d(width, width, 3, 1, 1, groups=width)

    def forward(self, x: Tensor, grid: Grid) -> Tensor:
        q = self.apart(self.q(x), self.heads)
        if self.ratio == 1:
            return self.proj(self.whole(q, self.kv(x), grid))
        maps, half = maps_of(x, grid), self.heads // 2
        (source1, grid1), (source2, grid2) = self.reduced(1, maps), self.reduced(2, maps)
        first = self.enhanced(self.sides(self.kv1(source1)), self.local_conv1, grid1)
        second = self.enhanced(self.sides(self.kv2(source2)), self.local_conv2, grid2)
        first, second = self.assigned(first, second)
        return self.proj(self.joined(self.group(q[:, :half], *first), self.group(q[:, half:], *second)))

    def reduced(self, number: int, maps: Tensor) -> tuple[Tensor, Grid]:
        """[B, C, H, W] -> [B, M, C] and its grid."""
        merged = self.get_submodule(f"sr{number}")(maps)
        return self.after(number, tokens_of(merged)), (merged.shape[2], merged.shape[3])

    def after(self, number: int, x: Tensor) -> Tensor:
        return self.act(self.get_submodule(f"norm{number}")(x))

    def sides(self, kv: Tensor) -> Pair:
        """[B, M, 2 W] -> keys and values [B, M, W]."""
        keys, values = kv.chunk(2, dim=2)
        return keys, values

    def enhanced(self, pair: Pair, local: nn.Module, grid: Grid) -> Pair:
        keys, values = pair
        return keys, values + tokens_of(local(maps_of(values, grid)))

    def assigned(self, first: Pair, second: Pair) -> tuple[Pair, Pair]:
        """Keys and values of each half of the heads."""
        return first, second

    def joined(self, first: Tensor, second: Tensor) -> Tensor:
        return torch.cat([first, second], dim=2)

    def whole(self, q: Tensor, kv: Tensor, grid: Grid) -> Tensor:
        keys, values = self.sides(kv)
        return self.group(q, keys, values) + tokens_of(self.local_conv(maps_of(values, grid)))

    def group(self, q: Tensor, keys: Tensor, values: Tensor) -> Tensor:
        """[B, h, N, D], [B, M, h D] twice -> [B, N, h D]."""
        k, v = self.apart(keys, q.shape[1]), self.apart(values, q.shape[1])
        return self.merge((q @ k.transpose(-2, -1) * self.scale).softmax(dim=-1) @ v)

    def apart(self, x: Tensor, heads: int) -> Tensor:
        """[B, N, h D] -> [B, h, N, D]."""
        return x.reshape(x.shape[0], x.shape[1], heads, -1).transpose(1, 2)

    def merge(self, context: Tensor) -> Tensor:
        """[B, h, N, D] -> [B, N, h D]."""
        return context.transpose(1, 2).flatten(2)


class ShuntedBlock(nn.Module):
    def __init__(self, width: int, heads: int, hidden: int, ratio: int) -> None:
        super().__init__()
        self.norm1, self.norm2 = nn.LayerNorm(width, eps=1e-6), nn.LayerNorm(width, eps=1e-6)
        self.attn, self.mlp, self.drop_path = ShuntedAttention(width, heads, ratio), DetailMlp(width, hidden), nn.Identity()

    def forward(self, x: Tensor, grid: Grid) -> Tensor:
        x = self.join1(x, self.drop_path(self.attn(self.norm1(x), grid)))
        return self.join2(x, self.drop_path(self.mlp(self.norm2(x), grid)))

    def join1(self, x: Tensor, update: Tensor) -> Tensor:
        return x + update

    def join2(self, x: Tensor, update: Tensor) -> Tensor:
        return x + update


class Head(nn.Module):
    """The stem: 7x7 of stride 2, 3x3s, each with batch norm and ReLU in place and no bias; then 2x2 of stride 2."""

    def __init__(self, width: int, convolutions: int) -> None:
        super().__init__()
        layers: list[nn.Module] = []
        for before, side, stride in ((3, 7, 2), *((width, 3, 1),) * convolutions):
            layers += [nn.Conv2d(before, width, side, stride, side // 2, bias=False), nn.BatchNorm2d(width), nn.ReLU(inplace=True)]
        self.conv, self.norm = nn.Sequential(*layers, nn.Conv2d(width, width, 2, 2)), nn.LayerNorm(width)

    def forward(self, images: Tensor) -> tuple[Tensor, Grid]:
        maps = self.conv(images)
        return self.norm(tokens_of(maps)), (maps.shape[2], maps.shape[3])


class OverlapPatchEmbed(nn.Module):
    def __init__(self, before: int, width: int) -> None:
        super().__init__()
        self.proj, self.norm = nn.Conv2d(before, width, 3, 2, 1), nn.LayerNorm(width)

    def forward(self, maps: Tensor) -> tuple[Tensor, Grid]:
        maps = self.proj(maps)
        return self.norm(tokens_of(maps)), (maps.shape[2], maps.shape[3])


class ShuntedTransformer(nn.Module):
    """Four stages; one value of each list a stage."""

    def __init__(
        self, classes: int, widths: Sequence[int], depths: Sequence[int], heads: Sequence[int], mlp_ratios: Sequence[int],
        ratios: Sequence[int], convolutions: int,
    ) -> None:  # fmt: skip
        super().__init__()
        for stage, width in enumerate(widths):
            embedding = OverlapPatchEmbed(widths[stage - 1], width) if stage else Head(width, convolutions)
            hidden = width * mlp_ratios[stage]
            blocks = [ShuntedBlock(width, heads[stage], hidden, ratios[stage]) for _ in range(depths[stage])]
            self.add_module(f"patch_embed{stage + 1}", embedding)
            self.add_module(f"block{stage + 1}", nn.ModuleList(blocks))
            self.add_module(f"norm{stage + 1}", nn.LayerNorm(width, eps=1e-6))
        self.head = nn.Linear(widths[3], classes)

    def forward(self, images: Tensor) -> Tensor:
        maps = self.prepared(images)
        for stage in range(1, 5):
            x, grid = self.get_submodule(f"patch_embed{stage}")(maps)
            for block in self.get_submodule(f"block{stage}"):
                x = block(x, grid)
            x = self.get_submodule(f"norm{stage}")(x)
            maps = maps_of(x, grid)
        return self.head(self.pooled(x))

    def prepared(self, images: Tensor) -> Tensor:
        return images

    def pooled(self, x: Tensor) -> Tensor:
        return x.mean(dim=1)
