"""Shunted Transformer: heads that see keys at different scales within one layer.

Ren et al., "Shunted Self-Attention via Multi-Scale Token Aggregation", CVPR 2022; names in quotes below are that
paper's. Written from the paper and from the recorded outputs of the authors' program.

Shapes: B images, N tokens of a stage in row order over its grid, C channels, h heads of D channels.
"""

from collections.abc import Mapping

from reforg.arrays import Array, namespace
from reforg.config import BATCH_NORM_EPS, SHUNTED_STEM_EPS, ShuntedConfig
from reforg.errors import ShapeError
from reforg.ops import REFERENCE, Network, Ops, Trace, mean, output_shape, piece, untraced, within
from reforg.ops.layout import merge_heads, split_heads, to_maps, to_tokens

Grid = tuple[int, int]
Enhanced = tuple[Array, Array, Array | None]


def forward(
    weights: Mapping[str, Array], images: Array, config: ShuntedConfig, ops: Ops = REFERENCE, trace: Trace = untraced
) -> Array:
    """[B, in_chans, H, W] -> logits [B, num_classes]; pooled features [B, C] where num_classes is 0."""
    net = Network(weights, ops, trace)
    return classify(net, encode(net, images, config)[-1][0], config)


def features(
    weights: Mapping[str, Array],
    images: Array,
    config: ShuntedConfig,
    ops: Ops = REFERENCE,
    trace: Trace = untraced,
    pyramid: bool = False,
) -> Array | list[Array]:
    """[B, in_chans, H, W] -> [B, N, C], the normed tokens of the last stage; pyramid: all stages, each [B, C, H', W']."""
    stages = encode(Network(weights, ops, trace), images, config)
    return [to_maps(x, grid) for x, grid in stages] if pyramid else stages[-1][0]


@piece
def classify(net: Network, x: Array, config: ShuntedConfig) -> Array:
    """[B, N, C] -> [B, num_classes]: the mean over the last stage's tokens through the head; there is no class token."""
    state = pooled(net, x, config)
    return net.trace("logits", net.linear("head", state) if config.num_classes else state)


@piece
def pooled(net: Network, x: Array, config: ShuntedConfig) -> Array:  # noqa: ARG001 - as vit.pooled
    """[B, N, C] -> [B, C]: the mean over the tokens."""
    return mean(x, axis=1)


def encode(net: Network, images: Array, config: ShuntedConfig) -> list[tuple[Array, Grid]]:
    """[B, in_chans, H, W] -> tokens [B, N, C] after its norm, and grid, of each of the four stages."""
    stages: list[tuple[Array, Grid]] = []
    maps = images
    for stage in range(4):
        x, grid = stem(net, maps, config) if stage == 0 else embed(net, f"patch_embed{stage + 1}", maps)
        for number in range(config.depths[stage]):
            x = block(net, f"block{stage + 1}.{number}", x, grid, config, stage)
        x = net.layer_norm(f"norm{stage + 1}", x, config.norm_eps)
        stages.append((x, grid))
        maps = to_maps(x, grid)
    return stages


@piece
def stem(net: Network, images: Array, config: ShuntedConfig) -> tuple[Array, Grid]:
    """[B, in_chans, H, W] -> [B, N, C], grid (H / 4, W / 4): the first "patch embedding".

    Convolution 7x7 of stride 2, then `num_conv` of 3x3, each with batch norm and ReLU and no bias; then 2x2 of stride 2.
    """
    path = "patch_embed1"
    x, position = images, 0
    for kernel_stride, padding in ((2, 3), *((1, 1),) * config.num_conv):
        x = net.conv2d(f"{path}.conv.{position}", x, kernel_stride, padding)
        x = net.relu(f"{path}.conv.{position + 2}", net.batch_norm(f"{path}.conv.{position + 1}", x, BATCH_NORM_EPS))
        position += 3
    check_covered(net, f"{path}.conv.{position}", x, 2)
    x = net.trace(f"{path}.conv", net.conv2d(f"{path}.conv.{position}", x, 2))
    return normed_tokens(net, path, x)


@piece
def embed(net: Network, path: str, maps: Array) -> tuple[Array, Grid]:
    """[B, C, H, W] -> [B, N, C'], grid (ceil(H / 2), ceil(W / 2)): overlapping 3x3 patches of stride 2."""
    return normed_tokens(net, path, net.conv2d(f"{path}.proj", maps, stride=2, padding=1))


def normed_tokens(net: Network, path: str, maps: Array) -> tuple[Array, Grid]:
    """[B, C, H, W] -> its tokens through the embedding's layer norm, grid."""
    x = net.layer_norm(f"{path}.norm", to_tokens(maps), SHUNTED_STEM_EPS)
    return net.trace(path, x), (maps.shape[2], maps.shape[3])


@piece
def block(net: Network, path: str, x: Array, grid: Grid, config: ShuntedConfig, stage: int) -> Array:
    """[B, N, C] -> [B, N, C]: x + attention(norm(x)), then x + MLP(norm(x))."""
    reductions, num_heads = config.reductions(stage), config.num_heads[stage]
    normed = net.layer_norm(f"{path}.norm1", x, config.norm_eps)
    x = net.trace(f"{path}.attended", x + shunted_attention(net, f"{path}.attn", normed, grid, num_heads, reductions))
    x = x + detail_mlp(net, f"{path}.mlp", net.layer_norm(f"{path}.norm2", x, config.norm_eps), grid)
    return net.trace(path, x)


@piece
def shunted_attention(net: Network, path: str, x: Array, grid: Grid, num_heads: int, reductions: tuple[int, ...]) -> Array:
    """[B, N, C] -> [B, N, C]: "shunted self-attention": each group of heads attends to keys reduced by its own ratio.

    Where keys are reduced, values are enhanced by a depthwise convolution over their own grid before attention;
    without reduction (`whole`) that convolution is added to the context instead.
    """
    names = [str(number) for number in range(1, len(reductions) + 1)] if len(reductions) > 1 else [""]
    (queries,) = split_heads(net.linear(f"{path}.q", x), 1, num_heads)
    sources = [(x, grid)] if reductions == (1,) else aggregate_tokens(net, path, to_maps(x, grid), reductions)
    projected = [(net.linear(f"{path}.kv{name}", source), size) for name, (source, size) in zip(names, sources, strict=True)]
    context = []
    for branch in range(len(reductions)):
        keys, values, beside = keys_and_values(net, path, projected, branch, reductions == (1,))
        mixed = attend(net, path, queries, keys, values, branch)
        context.append(mixed if beside is None else mixed + beside)
    return net.trace(path, net.linear(f"{path}.proj", merge_groups(net, context)))


@piece
def aggregate_tokens(net: Network, path: str, maps: Array, reductions: tuple[int, ...]) -> list[tuple[Array, Grid]]:
    """[B, C, H, W] -> for each ratio the merged tokens and their grid; the shared GELU's last output is `act`."""
    reduced = [reduce_keys(net, path, maps, number, ratio) for number, ratio in enumerate(reductions, 1)]
    net.trace(f"{path}.act", reduced[-1][0])
    return reduced


def reduce_keys(net: Network, path: str, maps: Array, number: int, ratio: int) -> tuple[Array, Grid]:
    """[B, C, H, W] -> [B, (H / r)(W / r), C], grid: "multi-scale token aggregation".

    A convolution of size and stride r merges rxr tokens (rows and columns left over are dropped), then norm, then
    GELU. At r = 1 it is a 1x1 convolution with its norm and GELU all the same.
    """
    check_covered(net, f"{path}.sr{number}", maps, ratio)
    merged = net.conv2d(f"{path}.sr{number}", maps, stride=ratio)
    x = net.layer_norm(f"{path}.norm{number}", to_tokens(merged), SHUNTED_STEM_EPS)
    return net.gelu(f"{path}.act@{number - 1}", x), (merged.shape[2], merged.shape[3])


@piece
def keys_and_values(net: Network, path: str, projected: list[tuple[Array, Grid]], branch: int, whole: bool) -> Enhanced:
    """[B, M, 2 h D] of all groups -> keys, values [B, M, h D] of one; the "local enhancement" in the values, or apart (whole)."""
    (kv, grid), name = projected[branch], branch + 1 if len(projected) > 1 else ""
    keys, values = kv[:, :, : kv.shape[2] // 2], kv[:, :, kv.shape[2] // 2 :]
    local = to_tokens(net.depthwise_conv2d(f"{path}.local_conv{name}", to_maps(values, grid)))
    return (keys, values, local) if whole else (keys, values + local, None)


@piece
def attend(net: Network, path: str, queries: Array, keys: Array, values: Array, branch: int) -> Array:
    """[B, H, N, D], [B, M, h D] twice -> context [B, N, h D] of the group's h heads, scale 1/sqrt(D)."""
    depth, group = queries.shape[-1], keys.shape[2] // queries.shape[-1]
    heads = queries[:, branch * group : (branch + 1) * group, :, :]
    (keys,), (values,) = split_heads(keys, 1, group), split_heads(values, 1, group)
    return merge_heads(net.ops.attention(heads, keys, values, depth**-0.5, within(net.trace, f"{path}.branches.{branch}"))[0])


@piece
def merge_groups(net: Network, context: list[Array]) -> Array:  # noqa: ARG001 - a piece's signature
    """[B, N, h D] of each group -> [B, N, C]: the heads of all groups side by side."""
    return namespace(*context).concat(context, axis=2)


@piece
def detail_mlp(net: Network, path: str, x: Array, grid: Grid) -> Array:
    """[B, N, C] -> [B, N, C]: fc2(gelu(y + depthwise(y))), y = fc1(x): the "detail-specific feedforward"."""
    y = net.linear(f"{path}.fc1", x)
    detail = net.trace(f"{path}.dwconv", to_tokens(net.depthwise_conv2d(f"{path}.dwconv.dwconv", to_maps(y, grid))))
    return net.trace(path, net.linear(f"{path}.fc2", net.gelu(f"{path}.act", y + detail)))


def check_covered(net: Network, path: str, x: Array, stride: int) -> None:
    """Refuse images so small that the convolution `path` would have no output."""
    *_, height, width = output_shape(x, net.weights[f"{path}.weight"], stride, 0)
    if height < 1 or width < 1:
        raise ShapeError(f"shunted: {path} gets {x.shape[2]}x{x.shape[3]} and would leave nothing; the image is too small")
