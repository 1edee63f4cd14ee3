"""The pieces of ViT, DeiT, DeiT III and EViT as steps of a program: each has its piece's signature, and Tokens for arrays.

The reference's own forward pass calls them, so what comes after what is written once, there. Where only logits are wanted, the
last block computes what they are read from: of the class token its query, its context and its MLP.
"""

from typing import Any

import numpy as np

from reforg.ops import REFERENCE, Network, bodies
from reforg_numpy.program import Images, Matrix, Packed, Program, Tokens, UnplannedError


PIECES = ("vit.embed", "vit.embed_patches", "vit.block", "vit.self_attention", "vit.mlp", "vit.pooled", "vit.classify", "evit.reorganize")


def replacements(only_logits: bool) -> dict[str, Any]:
    """Pieces and operations by name. only_logits: whether nobody reads the tokens of the last block."""

    def block_(net: Network, path: str, x: Tokens, config: Any, count: int) -> Tokens:
        last = path == f"blocks.{config.depth - 1}" and only_logits and config.global_pool == "token"
        return block(net, path, x, config, count, last)

    return {
        "vit.embed": embed, "vit.block": block_, "vit.pooled": pooled, "vit.classify": classify, "layer_norm": layer_norm
    }  # fmt: skip


def embed(net: Network, images: Images, config: Any) -> Tokens:
    """[B, in_chans, H, W] -> [B, N, C]: patches in one product, then special tokens and positions."""
    if config.stem != "patch":
        raise UnplannedError(f"stem {config.stem}")
    program, (batch, channels, height, width) = images.program, images.shape
    size = config.patch_size
    grid = height // size, width // size
    count, special = grid[0] * grid[1], config.num_special
    pixels = program.matrix("wide", batch * count, channels * size * size, True)
    program.add("patches", "patches", pixels, patch=size, channels=channels, height=height, width=width)
    weight, bias = net.parameters("patch_embed.proj")
    flat = weight.reshape(weight.shape[0], -1)
    patches = program.linear("patch_embed", pixels, (flat, bias), "update")
    firsts, table = tables(net, grid, config)
    target = program.matrix("x", batch * (special + count), config.embed_dim)
    program.add(
        "embedded", "embed", target, source=patches, tokens=count, special=special,
        weight=Packed(firsts, "rows", None, f"special tokens of {grid}"), bias=Packed(table, "rows", None, f"positions of {grid}"),
    )  # fmt: skip
    return Tokens(program, target, special + count)


def tables(net: Network, grid: tuple[int, int], config: Any) -> tuple[Any, Any]:
    """What the special tokens are, with their positions [S, C], and the patches' positions [N, C]."""
    reference = Network(net.weights, REFERENCE)
    table = np.asarray(bodies()["vit.positions"](reference, grid, config))[0]
    firsts = np.concatenate([np.asarray(net.weights[name])[0] for name in config.special_tokens])
    special = 0 if config.no_embed_class else config.num_special
    return firsts + table[:special] if special else firsts, table[special:]


def block(net: Network, path: str, x: Tokens, config: Any, count: int, last: bool) -> Tokens:
    """[B, N, C] -> [B, N', C]. last: only the special tokens go on, as nobody reads the others."""
    program = x.program
    wanted = config.num_special if last else x.rows
    scored = count < x.rows - config.num_special and not last
    attended = program.matrix("attended", len(config.branches) * program.images * config.num_heads, x.rows) if scored else None
    contexts = [attend(net, path, branch, x, config, wanted, attended) for branch in config.branches]
    if last:
        x = take(path, x, wanted)
    for branch, context in zip(config.branches, contexts, strict=True):
        gain = gain_of(net, path, 1, branch, config)
        program.linear(f"{path}.attended", context, net.parameters(f"{path}.attn{branch}.proj"), x.matrix, end="add", gain=gain)
    if attended is not None:
        x = reorganize(path, x, attended, count, config)
    feed_forward(net, path, x, config)
    return x


def attend(
    net: Network, path: str, branch: str, x: Tokens, config: Any, wanted: int, attended: Matrix | None
) -> Matrix:
    """[B, N, C] -> the context of the first `wanted` tokens of each image [B * wanted, C]."""
    program, eps, width = x.program, config.norm_eps, config.embed_dim
    norm, qkv = net.parameters(f"{path}.norm1{branch}"), net.parameters(f"{path}.attn{branch}.qkv")
    normed = program.norm(f"{path}.norm1{branch}", x.matrix, norm, eps, (x.rows, x.rows), "normed")
    name = f"{path}.attn{branch}.qkv"
    if wanted < x.rows:
        few = program.norm(f"{path}.norm1{branch}", x.matrix, norm, eps, (wanted, x.rows), "few")
        queries = program.linear(name, few, qkv, "queries", (0, width))
        others = program.linear(name, normed, qkv, "wide", (width, 3 * width))
    else:
        whole = program.linear(name, normed, qkv, "wide")
        queries, others = whole.from_column(0, width), whole.from_column(width, 2 * width)
    context = program.matrix(f"context{branch}", program.images * wanted, width, True)
    depth = width // config.num_heads
    start = None if attended is None else attended.part(config.branches.index(branch), len(config.branches))
    return program.add(
        f"{path}.attn{branch}.context", "attention", context, source=queries, keys=others.from_column(0, width),
        values=others.from_column(width, width), key_count=x.rows, group=wanted, heads=config.num_heads, depth=depth,
        scale=depth**-0.5, attended=start,
    )  # fmt: skip


def take(path: str, x: Tokens, wanted: int) -> Tokens:
    """Each image's first tokens, in memory of their own."""
    program = x.program
    target = program.matrix("first", program.images * wanted, x.matrix.columns)
    program.add(f"{path}.first", "take", target, source=x.matrix, tokens=x.rows, group=wanted)
    return Tokens(program, target, wanted)


def reorganize(path: str, x: Tokens, attended: Matrix, count: int, config: Any) -> Tokens:
    """[B, S + N, C] -> [B, S + count (+ 1), C]."""
    program, special = x.program, config.num_special
    after = special + count + config.fuse_token
    place = "x" if x.matrix.start != program.place("x") else "other x"
    target = program.matrix(place, program.images * after, x.matrix.columns)
    program.add(
        f"{path}.reorganized", "reorganize", target, source=x.matrix, attended=attended, tokens=x.rows, group=after,
        special=special, kept=count, fuse=config.fuse_token, heads=config.num_heads, branches=len(config.branches),
    )  # fmt: skip
    return Tokens(program, target, after)


def feed_forward(net: Network, path: str, x: Tokens, config: Any) -> None:
    """x + MLP(norm(x)) of every branch, in the place of x."""
    program = x.program
    hidden = []
    for branch in config.branches:
        norm, first = net.parameters(f"{path}.norm2{branch}"), net.parameters(f"{path}.mlp{branch}.fc1")
        normed = program.norm(f"{path}.norm2{branch}", x.matrix, norm, config.norm_eps, (x.rows, x.rows), "normed")
        hidden.append(program.linear(f"{path}.mlp{branch}.act", normed, first, f"wide{branch}", end="gelu", product=True))
    for branch, values in zip(config.branches, hidden, strict=True):
        gain = gain_of(net, path, 2, branch, config)
        program.linear(path, values, net.parameters(f"{path}.mlp{branch}.fc2"), x.matrix, end="add", gain=gain)


def gain_of(net: Network, path: str, number: int, branch: str, config: Any) -> Any:
    """LayerScale's gain of a branch, None without."""
    return None if config.init_values is None else net.weights[config.gain(path, number, branch)]


def layer_norm(x: Tokens, weight: Any, bias: Any, eps: float) -> Tokens:
    """[B, N, C] -> [B, N, C]: the norm behind the blocks, of which no product but the heads' is made."""
    matrix = x.program.norm("norm", x.matrix, (weight, bias), eps, (x.rows, x.rows), "states", product=False)
    return Tokens(x.program, matrix, x.rows)


def classify(net: Network, x: Tokens, config: Any) -> Tokens:
    """[B, N, C] -> logits [B, num_classes]; the pooled states where there are no heads."""
    if not config.heads:
        return pooled(net, x, config)
    logits = [
        x.program.linear(head, values, net.parameters(head), f"logits {head}")
        for head, values in zip(config.heads, states(net, x, config, True), strict=True)
    ]
    return mean_of("logits", x.program, logits)


def pooled(net: Network, x: Tokens, config: Any) -> Tokens:
    """[B, N, C] -> [B, C]."""
    return mean_of("pooled", x.program, states(net, x, config, False))


def mean_of(name: str, program: Program, values: list[Matrix]) -> Tokens:
    """One or two [B, C] -> their mean [B, C]."""
    first = values[0]
    if len(values) > 1:
        target = program.matrix(f"mean {name}", program.images, first.columns)
        first = program.add(name, "mean", target, source=first, other=values[1])
    return Tokens(program, first, None)


def states(net: Network, x: Tokens, config: Any, product: bool) -> list[Matrix]:
    """[B, N, C] -> [B, C] for each head: the special tokens' states, or the normed mean over the patches."""
    if config.global_pool == "avg":
        return [pool(net, x, config, product)]
    return [state(x, token, product) for token in range(config.num_special)]


def state(x: Tokens, token: int, product: bool) -> Matrix:
    """[B, N, C] -> [B, C]: one token of every image."""
    program = x.program
    source = Matrix(x.matrix.start + token * x.matrix.pitch, x.matrix.rows, x.matrix.columns, x.matrix.pitch, x.matrix.leap)
    target = program.matrix(f"state {token}", program.images, x.matrix.columns, product)
    return program.add("state", "take", target, source=source, tokens=x.rows, group=1)


def pool(net: Network, x: Tokens, config: Any, product: bool) -> Matrix:
    """[B, N, C] -> [B, C]: the normed mean of the patches."""
    program = x.program
    mean = program.matrix("mean", program.images, x.matrix.columns)
    program.add("mean", "pool", mean, source=x.matrix, tokens=x.rows, special=config.num_special)
    return program.norm("fc_norm", mean, net.parameters("fc_norm"), config.norm_eps, (1, 1), "state", product)
