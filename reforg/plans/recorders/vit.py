"""The pieces of ViT, DeiT, DeiT III and EViT as steps: each function has its piece's signature, and symbols for arrays.

The reference's own forward pass calls them, so what comes after what is written once, there. Where only logits are wanted, the
last block computes what they are read from: of the class token its query, its context and its MLP.
"""

from typing import Any

from reforg.ops import REFERENCE, Network, bodies
from reforg.plans.matrices import Matrix, Packed
from reforg.plans.program import Program
from reforg.plans.recorders.operations import Pieces, convolve, folded
from reforg.plans.steps import Attention, Embed, Mean, Pool, ProductEnd, Reorganize, Take
from reforg.plans.symbols import Images, Maps, Tokens


def embed(net: Network, images: Images, config: Any) -> Tokens:
    """[B, in_chans, H, W] -> [B, N, C]: patches, then special tokens and positions."""
    program = images.program
    maps = hmlp_stem(net, images) if config.stem == "hmlp" else patches(net, images, config)
    count, special = maps.grid[0] * maps.grid[1], config.num_special
    firsts, table = tables(net, maps.grid, config)
    seen = f"{maps.grid} {config.grid} {config.antialias} {config.no_embed_class}"  # all that they depend on besides the weights
    target = program.matrix("x", program.images * (special + count), config.embed_dim)
    first_rows, rows = (
        Packed(array, "rows", None, f"{name}, {seen}") for name, array in (("special tokens", firsts), ("positions", table))
    )
    program.add(Embed("embedded", target, maps.matrix, count, special, first_rows, rows))
    return Tokens(program, target, special + count)


def patches(net: Network, images: Images, config: Any) -> Maps:
    """[B, in_chans, H, W] -> [B, C, H / P, W / P]."""
    return convolve("patch_embed", images, net.parameters("patch_embed.proj"), "patches", config.patch_size)


def hmlp_stem(net: Network, images: Images) -> Maps:
    """[B, in_chans, H, W] -> [B, C, H / 16, W / 16]: three convolutions without overlap, each with its batch norm."""
    first = stem_step(net, images, 0, 4, "gelu")
    return stem_step(net, stem_step(net, first, 3, 2, "gelu"), 6, 2, "plain")


def stem_step(net: Network, maps: Maps | Images, number: int, stride: int, end: ProductEnd) -> Maps:
    """[B, C, H, W] -> [B, C', H / stride, W / stride]: a convolution, its batch norm, and GELU where that is its end."""
    path = "patch_embed.proj"
    parameters = net.parameters(f"{path}.{number}")
    norm = folded(net.weights, f"{path}.{number + 1}", parameters[1])
    name = f"{path}.{number + (2 if end == 'gelu' else 1)}"
    return convolve(name, maps, parameters, f"stem {number}", stride, norm=norm, end=end)


def tables(net: Network, grid: tuple[int, int], config: Any) -> tuple[Any, Any]:
    """What the special tokens are, with their positions [S, C], and the patches' positions [N, C]."""
    reference = Network(net.weights, REFERENCE)
    table = bodies()["vit.positions"](reference, grid, config)[0]
    firsts = [net.weights[name][0] for name in config.special_tokens]
    rows = firsts[0] if len(firsts) == 1 else table.__array_namespace__().concat(firsts)
    special = 0 if config.no_embed_class else config.num_special
    return rows + table[:special] if special else rows, table[special:]


def block(net: Network, path: str, x: Tokens, config: Any, count: int) -> Tokens:
    """[B, N, C] -> [B, N', C], in the place of x where no token goes."""
    program = x.program
    # Behind the last block only the special tokens go on, where nobody reads the others.
    last = path == f"blocks.{config.depth - 1}" and program.only_logits and config.global_pool == "token"
    wanted = config.num_special if last else x.rows
    scored = count < x.rows - config.num_special and not last
    attended = program.matrix("attended", len(config.branches) * program.images * config.num_heads, x.rows) if scored else None
    contexts = [attend(net, path, branch, x, config, wanted, attended) for branch in config.branches]
    if last:
        x = take(path, x, wanted)
    for branch, context in zip(config.branches, contexts, strict=True):
        gain = gain_of(net, path, 1, branch, config)
        name, parameters = sum_of(f"{path}.attended", branch, config), net.parameters(f"{path}.attn{branch}.proj")
        program.linear(name, context, parameters, x.matrix, end="add", gain=gain)
    if attended is not None:
        x = reorganize(path, x, attended, count, config)
    feed_forward(net, path, x, config)
    return Tokens(program, x.matrix, x.count)


def attend(net: Network, path: str, branch: str, x: Tokens, config: Any, wanted: int, attended: Matrix | None) -> Matrix:
    """[B, N, C] -> the context of the first `wanted` tokens of each image [B * wanted, C]."""
    program, eps, width = x.program, config.norm_eps, config.embed_dim
    norm, qkv = net.parameters(f"{path}.norm1{branch}"), net.parameters(f"{path}.attn{branch}.qkv")
    normed = program.norm(f"{path}.norm1{branch}", x.matrix, norm, eps, "normed")
    name, depth = f"{path}.attn{branch}.qkv", width // config.num_heads
    if wanted < x.rows:
        few = program.norm(f"{path}.norm1{branch}", x.matrix, norm, eps, "few", rows=(wanted, x.rows))
        queries = program.linear(name, few, qkv, "queries", (0, width), heads=depth)
        others = program.linear(name, normed, qkv, "wide", (width, 3 * width), heads=depth)
    else:
        whole = program.linear(name, normed, qkv, "wide", heads=depth)
        queries, others = whole.from_column(0, width), whole.from_column(width, 2 * width)
    context = program.matrix(f"context{branch}", program.images * wanted, width, True)
    images = program.images * config.num_heads
    rows = None if attended is None else attended.from_row(config.branches.index(branch) * images, images)
    return program.add(
        Attention(
            f"{path}.attn{branch}.context",
            context,
            queries,
            others.from_column(0, width),
            others.from_column(width, width),
            key_count=x.rows,
            group=wanted,
            heads=config.num_heads,
            depth=depth,
            scale=depth**-0.5,
            column=0,
            attended=rows,
        )
    )


def take(path: str, x: Tokens, wanted: int) -> Tokens:
    """Each image's first tokens, in memory of their own."""
    program = x.program
    target = program.matrix("first", program.images * wanted, x.matrix.columns)
    program.add(Take(f"{path}.first", target, x.matrix, x.rows, wanted))
    return Tokens(program, target, wanted)


def reorganize(path: str, x: Tokens, attended: Matrix, count: int, config: Any) -> Tokens:
    """[B, S + N, C] -> [B, S + count (+ 1), C]."""
    program, special = x.program, config.num_special
    after = special + count + config.fuse_token
    place = "x" if x.matrix.start != program.place("x") else "other x"
    target = program.matrix(place, program.images * after, x.matrix.columns)
    program.add(
        Reorganize(
            f"{path}.reorganized",
            target,
            x.matrix,
            attended,
            tokens=x.rows,
            group=after,
            special=special,
            kept=count,
            fuse=config.fuse_token,
            heads=config.num_heads,
            branches=len(config.branches),
        )
    )
    return Tokens(program, target, after)


def feed_forward(net: Network, path: str, x: Tokens, config: Any) -> None:
    """The residual x + MLP(norm(x)) of every branch, in the place of x."""
    program = x.program
    hidden = []
    for branch in config.branches:
        norm, first = net.parameters(f"{path}.norm2{branch}"), net.parameters(f"{path}.mlp{branch}.fc1")
        normed = program.norm(f"{path}.norm2{branch}", x.matrix, norm, config.norm_eps, "normed")
        wide = program.matrix(f"wide{branch}", normed.rows, first[0].shape[0], product=True)
        hidden.append(program.linear(f"{path}.mlp{branch}.act", normed, first, wide, end="gelu"))
    for branch, values in zip(config.branches, hidden, strict=True):
        gain = gain_of(net, path, 2, branch, config)
        program.linear(
            sum_of(path, branch, config), values, net.parameters(f"{path}.mlp{branch}.fc2"), x.matrix, end="add", gain=gain
        )


def sum_of(name: str, branch: str, config: Any) -> str:
    """The name of a sum of x and its branches up to this one: the sum's own, once all are in it."""
    return name if branch == config.branches[-1] else f"{name}, without branch {config.branches[-1]}"


def gain_of(net: Network, path: str, number: int, branch: str, config: Any) -> Any:
    """LayerScale's gain of a branch, None without."""
    return None if config.init_values is None else net.weights[config.gain(path, number, branch)]


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
        target = program.matrix(program.own(name), program.images, first.columns)
        first = program.add(Mean(name, target, first, values[1]))
    return Tokens(program, first, None)


def states(net: Network, x: Tokens, config: Any, product: bool) -> list[Matrix]:
    """[B, N, C] -> [B, C] for each head: the special tokens' states, or the normed mean over the patches."""
    if config.global_pool == "avg":
        return [pool(net, x, config, product)]
    return [state(x, token, product) for token in range(config.num_special)]


def state(x: Tokens, token: int, product: bool) -> Matrix:
    """[B, N, C] -> [B, C]: one token of every image."""
    program = x.program
    source = x.matrix.from_row(token, x.matrix.rows)
    place = f"state {token}" if product else program.own("state")
    target = program.matrix(place, program.images, x.matrix.columns, product)
    return program.add(Take("state", target, source, x.rows, 1))


def pool(net: Network, x: Tokens, config: Any, product: bool) -> Matrix:
    """[B, N, C] -> [B, C]: the normed mean of the patches."""
    program = x.program
    mean = program.matrix("mean", program.images, x.matrix.columns)
    program.add(Pool("mean", mean, x.matrix, x.rows, config.num_special))
    place = "state" if product else program.own("state")
    return program.norm("fc_norm", mean, net.parameters("fc_norm"), config.norm_eps, place, product)


PIECES: Pieces = {
    "vit.embed": (embed, ("vit.embed_patches",)),
    "vit.block": (block, (
        "vit.attend", "vit.feed_forward", "vit.self_attention", "vit.mlp", "vit.layer_scale", "evit.reorganize", "evit.fused_token",
    )),
    "vit.pooled": (pooled, ()),
    "vit.classify": (classify, ()),
}  # fmt: skip
