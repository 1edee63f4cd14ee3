"""ViT, DeiT, DeiT III, and EViT's backbone: one pre-norm transformer, whose families differ by values in the config.

Dosovitskiy et al., "An Image is Worth 16x16 Words", ICLR 2021 [ViT]; Touvron et al., "Training data-efficient image
transformers", ICML 2021 [DeiT]; "DeiT III: Revenge of the ViT", ECCV 2022 [DeiT III]; "Three things everyone should
know about Vision Transformers", ECCV 2022 [3T]; "Going deeper with Image Transformers", ICCV 2021 [CaiT].

Shapes: B images, N tokens (special ones first), C channels, H heads.
"""

from collections.abc import Mapping

from reforg.arrays import Array, namespace
from reforg.config import BATCH_NORM_EPS, VitConfig
from reforg.evit import Schedule, average, class_attention, reorganize
from reforg.ops import REFERENCE, Network, Ops, Trace, mean, mean_of, piece, untraced, within
from reforg.ops.layout import merge_heads, split_heads, to_maps, to_tokens


def forward(
    weights: Mapping[str, Array],
    images: Array,
    config: VitConfig,
    ops: Ops = REFERENCE,
    trace: Trace = untraced,
    keep_rate: object = None,
    tokens: object = None,
) -> Array:
    """[B, in_chans, H, W] -> logits [B, num_classes]; pooled features [B, C] where num_classes is 0."""
    net = Network(weights, ops, trace)
    return classify(net, encode(net, images, config, Schedule(config, keep_rate, tokens)), config)


def features(
    weights: Mapping[str, Array],
    images: Array,
    config: VitConfig,
    ops: Ops = REFERENCE,
    trace: Trace = untraced,
    keep_rate: object = None,
    tokens: object = None,
) -> Array:
    """[B, in_chans, H, W] -> [B, N, C]: the tokens after the last norm, before pooling."""
    return encode(Network(weights, ops, trace), images, config, Schedule(config, keep_rate, tokens))


def encode(net: Network, images: Array, config: VitConfig, schedule: Schedule) -> Array:
    """[B, in_chans, H, W] -> [B, N, C]: patches to tokens, the blocks, the last norm. [ViT] eq. 1 to 4."""
    x = embed(net, images, config)
    for number in range(config.depth):
        count = schedule.count(number, x.shape[1] - config.num_special)
        x = block(net, f"blocks.{number}", x, config, count)
    if config.modules == "timm":
        net.trace("blocks", x)  # timm calls its blocks as one Sequential
    return x if config.global_pool == "avg" else net.layer_norm("norm", x, config.norm_eps)


@piece
def embed(net: Network, images: Array, config: VitConfig) -> Array:
    """[B, in_chans, H, W] -> [B, N, C]: special tokens, then patches in row order, with positions. [ViT] eq. 1.

    DeiT III gives the class token no position: positions are added before it is prepended.
    """
    xp = namespace(images)
    maps = embed_patches(net, images, config)
    patches = net.trace("patch_embed", to_tokens(maps))
    table = positions(net, (maps.shape[2], maps.shape[3]), config)
    shape = (images.shape[0], 1, config.embed_dim)
    special = [xp.broadcast_to(net.weights[name], shape) for name in config.special_tokens]
    if config.no_embed_class:
        return net.trace("embedded", xp.concat([*special, patches + table], axis=1))
    return net.trace("embedded", xp.concat([*special, patches], axis=1) + table)


@piece
def embed_patches(net: Network, images: Array, config: VitConfig) -> Array:
    """[B, in_chans, H, W] -> [B, C, H / P, W / P]: each PxP patch by one linear map, or by the hMLP stem."""
    if config.stem == "hmlp":
        return hmlp_stem(net, images)
    return net.conv2d("patch_embed.proj", images, stride=config.patch_size)


def hmlp_stem(net: Network, images: Array) -> Array:
    """[B, in_chans, H, W] -> [B, C, H / 16, W / 16]: patches of 4, 8, 16 pixels with a norm each, GELU between. [3T] section 5."""
    path = "patch_embed.proj"
    x = net.batch_norm(f"{path}.1", net.conv2d(f"{path}.0", images, stride=4), BATCH_NORM_EPS)
    x = net.batch_norm(f"{path}.4", net.conv2d(f"{path}.3", net.gelu(f"{path}.2", x), stride=2), BATCH_NORM_EPS)
    x = net.batch_norm(f"{path}.7", net.conv2d(f"{path}.6", net.gelu(f"{path}.5", x), stride=2), BATCH_NORM_EPS)
    return net.trace(path, x)


@piece
def positions(net: Network, grid: tuple[int, int], config: VitConfig) -> Array:
    """The position embedding [1, N, C] for a grid of patches; resampled, and then traced, where it is not the config's."""
    table = net.weights["pos_embed"]
    if grid == config.grid:
        return table
    special = 0 if config.no_embed_class else config.num_special
    return net.trace("pos_embed", resample_positions(table, special, config.grid, grid, config.antialias, net.ops))


def resample_positions(
    table: Array, special: int, source: tuple[int, int], target: tuple[int, int], antialias: bool, ops: Ops = REFERENCE
) -> Array:
    """[1, S + N, C] -> [1, S + N', C]: over the grid, S special ones stay. [ViT] section 3.2; bicubic: [DeiT] section 6."""
    xp = namespace(table)
    maps = ops.resize(to_maps(table[:, special:, :], source), target, "bicubic", antialias)
    return xp.concat([table[:, :special, :], to_tokens(maps)], axis=1)


@piece
def block(net: Network, path: str, x: Array, config: VitConfig, count: int) -> Array:
    """[B, N, C] -> [B, N', C]: x + attention(norm(x)), reorganization to `count` patches (EViT, section 3), x + MLP(norm(x)).

    Parallel branches ([3T] section 3.2, eq. 2) read the same x and are added to it together.
    """
    x, scores = attend(net, path, x, config)
    if count < x.shape[1] - config.num_special:
        x = reorganize(net, path, x, average(net, f"{path}.cls_attention", scores), count, config)
    return net.trace(path, feed_forward(net, path, x, config))


@piece
def attend(net: Network, path: str, x: Array, config: VitConfig) -> tuple[Array, list[Array]]:
    """[B, N, C] -> x + attention(norm(x)) of every branch, and each branch's class attention. [ViT] eq. 2."""
    updates, scores = [], []
    for branch in config.branches:
        normed = net.layer_norm(f"{path}.norm1{branch}", x, config.norm_eps)
        update, attended = self_attention(net, f"{path}.attn{branch}", normed, config.num_heads, config.num_special)
        updates.append(layer_scale(net, path, 1, branch, update, config))
        scores.append(attended)
    return net.trace(f"{path}.attended", sum(updates, x)), scores


@piece
def feed_forward(net: Network, path: str, x: Array, config: VitConfig) -> Array:
    """[B, N, C] -> x + MLP(norm(x)) of every branch. [ViT] eq. 3."""
    updates = []
    for branch in config.branches:
        normed = net.layer_norm(f"{path}.norm2{branch}", x, config.norm_eps)
        updates.append(layer_scale(net, path, 2, branch, mlp(net, f"{path}.mlp{branch}", normed), config))
    return sum(updates, x)


@piece
def self_attention(net: Network, path: str, x: Array, num_heads: int, special: int) -> tuple[Array, Array]:
    """[B, N, C] -> [B, N, C], class attention [B, N - S]. Multi-head self-attention, scale 1/sqrt(C / H). [ViT] eq. 5 to 8."""
    queries, keys, values = split_heads(net.linear(f"{path}.qkv", x), 3, num_heads)
    scale = (x.shape[-1] // num_heads) ** -0.5
    context, probabilities = net.ops.attention(queries, keys, values, scale, within(net.trace, path))
    scores = net.trace(f"{path}.cls_attention", class_attention(probabilities, special))
    return net.trace(path, net.linear(f"{path}.proj", merge_heads(context))), scores


@piece
def mlp(net: Network, path: str, x: Array) -> Array:
    """[B, N, C] -> [B, N, C]: two linear maps with GELU between. [ViT] section 3.1."""
    hidden = net.gelu(f"{path}.act", net.linear(f"{path}.fc1", x))
    return net.trace(path, net.linear(f"{path}.fc2", hidden))


@piece
def layer_scale(net: Network, path: str, number: int, branch: str, x: Array, config: VitConfig) -> Array:
    """[B, N, C] -> [B, N, C]: a learned gain for each channel on a residual branch; x itself without. [CaiT] section 2."""
    if config.init_values is None:
        return x
    return net.trace(f"{path}.ls{number}{branch}", x * net.weights[config.gain(path, number, branch)])


@piece
def classify(net: Network, x: Array, config: VitConfig) -> Array:
    """[B, N, C] -> [B, num_classes]: the pooled states through their heads; without heads, the mean of the states.

    Distilled: the mean of two heads' logits of two tokens ([DeiT] section 4 adds probabilities, its code logits).
    """
    states = pool(net, x, config)
    if config.heads:
        states = [net.linear(head, state) for head, state in zip(config.heads, states, strict=True)]
    return net.trace("logits", mean_of(states))


@piece
def pooled(net: Network, x: Array, config: VitConfig) -> Array:
    """[B, N, C] -> [B, C]: the state that the head reads; of the states of several, their mean."""
    return mean_of(pool(net, x, config))


def pool(net: Network, x: Array, config: VitConfig) -> list[Array]:
    """[B, N, C] -> [B, C] for each head: the special tokens' states ([ViT] eq. 4), or the normed mean over the patches."""
    if config.global_pool == "avg":
        return [net.layer_norm("fc_norm", mean(x[:, config.num_special :, :], axis=1), config.norm_eps)]
    return [x[:, token, :] for token in range(config.num_special)]
