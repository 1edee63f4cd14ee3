"""The papers once more, slowly: one image, one token, one head at a time, in Python loops over float64.

Written from the papers' equations and from what the official code is known to do (their numbers in tests/test_traps.py),
never from reforg, whose functions are not called here. Weights are mappings under the official names; a token is a vector.
"""

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

Weights = Mapping[str, np.ndarray]
Grid = tuple[int, int]


# operations


def gelu(x: Any) -> np.ndarray:
    """x times the normal distribution function, by the standard library's error function."""
    x = np.asarray(x, np.float64)
    return np.reshape([0.5 * v * (1.0 + math.erf(v / math.sqrt(2.0))) for v in x.ravel().tolist()], x.shape)


def softmax(row: Sequence[float]) -> np.ndarray:
    powers = [math.exp(value - max(row)) for value in row]
    return np.array(powers) / math.fsum(powers)


def layer_norm(token: np.ndarray, weight: np.ndarray, bias: np.ndarray, eps: float) -> np.ndarray:
    mean = math.fsum(token) / len(token)
    variance = math.fsum((value - mean) ** 2 for value in token) / len(token)
    return (token - mean) / math.sqrt(variance + eps) * weight + bias


def affine(weights: Weights, path: str, token: np.ndarray) -> np.ndarray:
    """One token through a linear layer, with its bias where it has one."""
    return weights[f"{path}.weight"] @ token + weights.get(f"{path}.bias", 0.0)


def normed(weights: Weights, path: str, tokens: Any, eps: float) -> list[np.ndarray]:
    return [layer_norm(token, weights[f"{path}.weight"], weights[f"{path}.bias"], eps) for token in tokens]


def conv2d(image: np.ndarray, weight: np.ndarray, bias: Any = None, stride: int = 1, padding: int = 0) -> np.ndarray:
    """[C, H, W], [O, C, kh, kw] -> [O, H', W']: each output pixel sums a window of the image, which is zero outside."""
    (_, height, width), (out, _, kh, kw) = image.shape, weight.shape
    tall, wide = (height + 2 * padding - kh) // stride + 1, (width + 2 * padding - kw) // stride + 1
    y = np.zeros((out, tall, wide))
    for top, left in np.ndindex(tall, wide):
        for row, column in np.ndindex(kh, kw):
            i, j = top * stride + row - padding, left * stride + column - padding
            if 0 <= i < height and 0 <= j < width:
                y[:, top, left] += weight[:, :, row, column] @ image[:, i, j]
    return y if bias is None else y + np.asarray(bias)[:, None, None]


def depthwise(maps: np.ndarray, weight: np.ndarray, bias: np.ndarray) -> np.ndarray:
    """[C, H, W]: every channel alone through its own 3x3 kernel, padded by one pixel."""
    return np.concatenate([conv2d(maps[c : c + 1], weight[c : c + 1], bias[c : c + 1], 1, 1) for c in range(len(maps))])


def batch_norm(maps: np.ndarray, weights: Weights, path: str) -> np.ndarray:
    weight, bias, mean, variance = (weights[f"{path}.{name}"] for name in ("weight", "bias", "running_mean", "running_var"))
    return np.stack([(maps[c] - mean[c]) / math.sqrt(variance[c] + 1e-5) * weight[c] + bias[c] for c in range(len(maps))])


def row_order(maps: np.ndarray) -> list[np.ndarray]:
    """[C, H, W] -> its pixels, row by row."""
    return [maps[:, row, column] for row, column in np.ndindex(maps.shape[1:])]


def on_grid(tokens: Any, grid: Grid) -> np.ndarray:
    """Tokens in row order -> [C, H, W]."""
    maps = np.zeros((len(tokens[0]), *grid))
    for number, token in enumerate(tokens):
        maps[:, number // grid[1], number % grid[1]] = token
    return maps


def heads_attention(queries: Any, keys: Any, values: Any, num_heads: int) -> tuple[np.ndarray, np.ndarray]:
    """Queries [N, C], keys and values [M, C] -> context [N, C], probabilities [H, N, M]; heads lie side by side in C."""
    queries, keys, values = (np.asarray(part) for part in (queries, keys, values))
    width = queries.shape[1] // num_heads
    context, probabilities = np.zeros(queries.shape), np.zeros((num_heads, len(queries), len(keys)))
    for head in range(num_heads):
        own = slice(head * width, (head + 1) * width)
        for n, query in enumerate(queries):
            shares = softmax([float(query[own] @ key[own]) / math.sqrt(width) for key in keys])
            probabilities[head, n] = shares
            context[n, own] = sum(share * value[own] for share, value in zip(shares, values, strict=True))
    return context, probabilities


# resampling


def keys_kernel(distance: float, a: float) -> float:
    """Keys 1981, eq. 14 and 15, with the free parameter a."""
    s = abs(distance)
    if s < 1:
        return (a + 2) * s**3 - (a + 3) * s**2 + 1
    return a * (s**3 - 5 * s**2 + 8 * s - 4) if s < 2 else 0.0


def hat(distance: float, _: float) -> float:
    return max(0.0, 1.0 - abs(distance))


def resampling_matrix(source: int, target: int, method: str, antialias: bool) -> np.ndarray:
    """[target, source]: how much of each source pixel is in each target pixel, along one axis.

    Pixel j covers j to j + 1. Plain: kernel with a = -0.75 at its own width, the border repeated. Antialiased: a = -0.5, the
    kernel widened by the shrinking factor, cut at the border, its weights divided by their sum.
    """
    kernel = keys_kernel if method == "bicubic" else hat
    matrix, step = np.zeros((target, source)), source / target
    for i in range(target):
        middle = (i + 0.5) * step
        if antialias:
            stretch = max(step, 1.0)
            shares = [kernel((j + 0.5 - middle) / stretch, -0.5) for j in range(source)]
            matrix[i] = np.array(shares) / math.fsum(shares)
        else:
            for j in range(-3, source + 3):
                matrix[i, min(max(j, 0), source - 1)] += kernel(j + 0.5 - middle, -0.75)
    return matrix


def resize(maps: np.ndarray, size: Grid, method: str = "bicubic", antialias: bool = False) -> np.ndarray:
    """[C, H, W] -> [C, *size]."""
    rows, columns = (resampling_matrix(s, t, method, antialias) for s, t in zip(maps.shape[1:], size, strict=True))
    return np.stack([rows @ channel @ columns.T for channel in maps])


# ViT, DeiT, DeiT III, EViT


def vit(weights: Weights, image: np.ndarray, config: Any, kept: list[list[int]] | None = None) -> np.ndarray:
    """[C, H, W] -> logits, or the mean of the read states without classes; the kept tokens of every block go into `kept`."""
    special, tokens = embed(weights, image, config)
    for number in range(config.depth):
        special, tokens = block(weights, f"blocks.{number}", special, tokens, keep_rate(config, number), config, kept)
    if config.global_pool == "avg":
        states = normed(weights, "fc_norm", [sum(tokens) / len(tokens)], config.norm_eps)
    else:
        states = normed(weights, "norm", special, config.norm_eps)
    if config.num_classes:
        states = [affine(weights, head, state) for head, state in zip(("head", "head_dist"), states, strict=False)]
    return sum(states) / len(states)


def keep_rate(config: Any, number: int) -> float:
    if isinstance(config.keep_rate, tuple):
        return config.keep_rate[number]
    return config.keep_rate if number in config.drop_loc else 1.0


def embed(weights: Weights, image: np.ndarray, config: Any) -> tuple[list[np.ndarray], list[np.ndarray]]:
    """The special tokens and the patches, with their positions; those are resampled for another grid than the config's."""
    maps = hmlp(weights, image) if config.stem == "hmlp" else patches(weights, image, config.patch_size)
    special = [weights[name][0, 0] for name in ("cls_token", "dist_token")[: 1 + config.distilled]]
    table = list(weights["pos_embed"][0])
    if not config.no_embed_class:
        special = [token + table.pop(0) for token in special]
    height, width = (side // config.patch_size for side in as_pair(config.img_size))
    if maps.shape[1:] != (height, width):
        table = row_order(resize(on_grid(table, (height, width)), maps.shape[1:], "bicubic", config.antialias))
    return special, [token + position for token, position in zip(row_order(maps), table, strict=True)]


def as_pair(size: Any) -> Grid:
    return size if isinstance(size, tuple) else (size, size)


def patches(weights: Weights, image: np.ndarray, side: int) -> np.ndarray:
    """[C, H, W] -> [D, H / P, W / P]: each patch, flattened channel by channel, through one linear map."""
    weight, bias = weights["patch_embed.proj.weight"], weights["patch_embed.proj.bias"]
    maps = np.zeros((len(weight), image.shape[1] // side, image.shape[2] // side))
    for row, column in np.ndindex(maps.shape[1:]):
        patch = image[:, row * side : (row + 1) * side, column * side : (column + 1) * side]
        maps[:, row, column] = weight.reshape(len(weight), -1) @ patch.reshape(-1) + bias
    return maps


def hmlp(weights: Weights, image: np.ndarray) -> np.ndarray:
    """ "Three things everyone should know about ViT", section 5: 4x4, 2x2, 2x2, each with batch norm, GELU between them."""
    x = image
    for place, stride in ((0, 4), (3, 2), (6, 2)):
        path = "patch_embed.proj"
        x = conv2d(x, weights[f"{path}.{place}.weight"], weights[f"{path}.{place}.bias"], stride)
        x = batch_norm(x, weights, f"{path}.{place + 1}")
        x = x if place == 6 else gelu(x)
    return x


def block(
    weights: Weights, path: str, special: list[np.ndarray], tokens: list[np.ndarray], rate: float, config: Any, kept: Any
) -> tuple[list[np.ndarray], list[np.ndarray]]:
    """Attention, then EViT's reorganization, then the MLP; parallel branches read the same tokens and are added together."""
    branches, count = ("", "1")[: config.parallel], len(special)
    x, scores = [*special, *tokens], np.zeros(len(tokens))
    updates = [np.zeros(config.embed_dim) for _ in x]
    for branch in branches:
        attended, row = self_attention(
            weights, f"{path}.attn{branch}", normed(weights, f"{path}.norm1{branch}", x, config.norm_eps), config.num_heads, count
        )
        scores = scores + row / len(branches)
        updates = [u + gain(weights, path, 1, branch, config) * a for u, a in zip(updates, attended, strict=True)]
    x = [token + update for token, update in zip(x, updates, strict=True)]
    special, tokens = x[:count], reorganize(x[count:], list(scores), rate, config.fuse_token, kept)
    x = [*special, *tokens]
    updates = [np.zeros(config.embed_dim) for _ in x]
    for branch in branches:
        hidden = normed(weights, f"{path}.norm2{branch}", x, config.norm_eps)
        updates = [
            u + gain(weights, path, 2, branch, config) * mlp(weights, f"{path}.mlp{branch}", h)
            for u, h in zip(updates, hidden, strict=True)
        ]
    x = [token + update for token, update in zip(x, updates, strict=True)]
    return x[:count], x[count:]


def self_attention(weights: Weights, path: str, x: Any, num_heads: int, special: int) -> tuple[list[np.ndarray], np.ndarray]:
    """Tokens -> tokens, and the class token's attention to those that are not special, the mean over the heads."""
    mixed = np.array([affine(weights, f"{path}.qkv", token) for token in x])
    width = mixed.shape[1] // 3
    context, probabilities = heads_attention(mixed[:, :width], mixed[:, width : 2 * width], mixed[:, 2 * width :], num_heads)
    scores = sum(head[0, special:] for head in probabilities) / num_heads
    return [affine(weights, f"{path}.proj", token) for token in context], scores


def gain(weights: Weights, path: str, number: int, branch: str, config: Any) -> Any:
    """LayerScale's gains, under the official code's name or timm's; 1 without LayerScale."""
    if config.init_values is None:
        return 1.0
    official = f"{path}.gamma_{number}" + (f"_{branch}" if branch else "")
    return weights[official] if official in weights else weights[f"{path}.ls{number}{branch}.gamma"]


def mlp(weights: Weights, path: str, token: np.ndarray) -> np.ndarray:
    return affine(weights, f"{path}.fc2", gelu(affine(weights, f"{path}.fc1", token)))


def reorganize(tokens: list[np.ndarray], scores: list[float], rate: float, fuse: bool, kept: Any = None) -> list[np.ndarray]:
    """EViT, section 3: the ceil(rate * N) tokens of highest score by falling score; the others' weighted sum where it fuses."""
    count = math.ceil(rate * len(tokens))
    if count == len(tokens):
        return tokens
    order = sorted(range(len(tokens)), key=lambda token: (-scores[token], token))
    if kept is not None:
        kept.append(order[:count])
    chosen = [tokens[token] for token in order[:count]]
    return [*chosen, sum(scores[token] * tokens[token] for token in order[count:])] if fuse else chosen


# Shunted Transformer


def shunted(weights: Weights, image: np.ndarray, config: Any) -> np.ndarray:
    """[C, H, W] -> logits: four stages of overlapping patches, the mean over the last one's tokens, one head."""
    maps = shunted_stem(weights, image, config.num_conv)
    for stage in range(4):
        if stage:
            path = f"patch_embed{stage + 1}"
            maps = conv2d(maps, weights[f"{path}.proj.weight"], weights[f"{path}.proj.bias"], 2, 1)
        grid = maps.shape[1:]
        x = normed(weights, f"patch_embed{stage + 1}.norm", row_order(maps), 1e-5)
        ratio = config.sr_ratios[stage]
        for number in range(config.depths[stage]):
            path = f"block{stage + 1}.{number}"
            mixed = shunted_attention(
                weights,
                f"{path}.attn",
                normed(weights, f"{path}.norm1", x, config.norm_eps),
                grid,
                config.num_heads[stage],
                (ratio, ratio // 2) if ratio > 1 else (1,),
            )
            x = [token + update for token, update in zip(x, mixed, strict=True)]
            mixed = detail_mlp(weights, f"{path}.mlp", normed(weights, f"{path}.norm2", x, config.norm_eps), grid)
            x = [token + update for token, update in zip(x, mixed, strict=True)]
        x = normed(weights, f"norm{stage + 1}", x, config.norm_eps)
        maps = on_grid(x, grid)
    pooled = sum(x) / len(x)
    return affine(weights, "head", pooled) if config.num_classes else pooled


def shunted_stem(weights: Weights, image: np.ndarray, num_conv: int) -> np.ndarray:
    """7x7 of stride 2, then 3x3, each with batch norm and ReLU and without bias; 2x2 of stride 2 with bias."""
    path, x = "patch_embed1.conv", image
    for number in range(num_conv + 1):
        stride, padding = (1, 1) if number else (2, 3)
        x = conv2d(x, weights[f"{path}.{3 * number}.weight"], None, stride, padding)
        x = np.maximum(batch_norm(x, weights, f"{path}.{3 * number + 1}"), 0.0)
    last = f"{path}.{3 * num_conv + 3}"
    return conv2d(x, weights[f"{last}.weight"], weights[f"{last}.bias"], 2)


def shunted_attention(
    weights: Weights, path: str, x: Any, grid: Grid, num_heads: int, reductions: tuple[int, ...]
) -> list[np.ndarray]:
    """ "Shunted self-attention", eq. 1 to 4: group i of the heads reads tokens merged by a convolution of its ratio.

    Values are enhanced by their local convolution before attention where tokens are merged; without, it is added after.
    """
    width, groups, plain = len(x[0]), len(reductions), reductions == (1,)
    queries = np.array([affine(weights, f"{path}.q", token) for token in x])
    context = np.zeros(queries.shape)
    for index, ratio in enumerate(reductions):
        name = str(index + 1) if groups > 1 else ""
        own = slice(index * width // groups, (index + 1) * width // groups)
        source, reduced = (x, grid) if plain else merged(weights, path, x, grid, index + 1, ratio)
        mixed = np.array([affine(weights, f"{path}.kv{name}", token) for token in source])
        keys, values = mixed[:, : width // groups], mixed[:, width // groups :]
        kernel, bias = weights[f"{path}.local_conv{name}.weight"], weights[f"{path}.local_conv{name}.bias"]
        local = np.array(row_order(depthwise(on_grid(values, reduced), kernel, bias)))
        if plain:
            context[:, own] = heads_attention(queries[:, own], keys, values, num_heads // groups)[0] + local
        else:
            context[:, own] = heads_attention(queries[:, own], keys, values + local, num_heads // groups)[0]
    return [affine(weights, f"{path}.proj", token) for token in context]


def merged(weights: Weights, path: str, x: Any, grid: Grid, number: int, ratio: int) -> tuple[list[np.ndarray], Grid]:
    """Every ratio x ratio square of tokens becomes one: convolution, layer norm of epsilon 1e-5, GELU. Remainders drop out."""
    maps = conv2d(on_grid(x, grid), weights[f"{path}.sr{number}.weight"], weights[f"{path}.sr{number}.bias"], ratio)
    return [gelu(token) for token in normed(weights, f"{path}.norm{number}", row_order(maps), 1e-5)], maps.shape[1:]


def detail_mlp(weights: Weights, path: str, x: Any, grid: Grid) -> list[np.ndarray]:
    """fc2(gelu(y + depthwise(y))), y = fc1(x)."""
    y = [affine(weights, f"{path}.fc1", token) for token in x]
    kernel, bias = weights[f"{path}.dwconv.dwconv.weight"], weights[f"{path}.dwconv.dwconv.bias"]
    detail = row_order(depthwise(on_grid(y, grid), kernel, bias))
    return [affine(weights, f"{path}.fc2", gelu(a + b)) for a, b in zip(y, detail, strict=True)]
