"""The pieces of Shunted Transformer as steps: each function has its piece's signature, and symbols for arrays."""

from typing import Any

from reforg.config import SHUNTED_STEM_EPS
from reforg.ops import Network
from reforg.plans.matrices import Matrix
from reforg.plans.recorders.operations import Pieces, convolve, folded
from reforg.plans.steps import Attention, Pool
from reforg.plans.symbols import Images, Maps, Tokens

Grid = tuple[int, int]


def stem(net: Network, images: Images, config: Any) -> tuple[Tokens, Grid]:
    """[B, in_chans, H, W] -> [B, N, C], grid (H / 4, W / 4)."""
    path, position = "patch_embed1", 0
    maps: Any = images
    for stride, padding in ((2, 3), *((1, 1),) * config.num_conv):
        norm = folded(net.weights, f"{path}.conv.{position + 1}")
        name, parameters = f"{path}.conv.{position + 2}", net.parameters(f"{path}.conv.{position}")
        maps = convolve(name, maps, parameters, f"stem {position % 2}", stride, padding, norm, "relu")
        position += 3
    maps = convolve(f"{path}.conv", maps, net.parameters(f"{path}.conv.{position}"), "embedding", 2)
    return normed_tokens(net, path, maps)


def embed(net: Network, path: str, maps: Maps) -> tuple[Tokens, Grid]:
    """[B, C, H, W] -> [B, N, C'], grid (ceil(H / 2), ceil(W / 2))."""
    return normed_tokens(net, path, convolve(f"{path}.proj", maps, net.parameters(f"{path}.proj"), "embedding", 2, 1))


def normed_tokens(net: Network, path: str, maps: Maps) -> tuple[Tokens, Grid]:
    """[B, C, H, W] -> its tokens through the embedding's layer norm, grid."""
    program, source = maps.program, maps.matrix
    matrix = program.norm(path, source, net.parameters(f"{path}.norm"), SHUNTED_STEM_EPS, "x", product=False)
    return Tokens(program, matrix, maps.tokens.count), maps.grid


def block(net: Network, path: str, x: Tokens, grid: Grid, config: Any, stage: int) -> Tokens:
    """[B, N, C] -> [B, N, C]: x + attention(norm(x)), then x + MLP(norm(x)), in the place of x."""
    context = attend(net, f"{path}.attn", path, x, grid, config, stage)
    x.program.linear(f"{path}.attended", context, net.parameters(f"{path}.attn.proj"), x.matrix, end="add")
    detail_mlp(net, path, x, grid, config)
    return Tokens(x.program, x.matrix, x.count)


def attend(net: Network, path: str, above: str, x: Tokens, grid: Grid, config: Any, stage: int) -> Matrix:
    """[B, N, C] -> context [B * N, C]: each group of heads over keys of its own reduction."""
    program, reductions, norm = x.program, config.reductions(stage), net.parameters(f"{above}.norm1")
    normed = program.norm(f"{above}.norm1", x.matrix, norm, config.norm_eps, "normed")
    queries = program.linear(f"{path}.q", normed, net.parameters(f"{path}.q"), "queries")
    context = program.matrix("context", x.matrix.rows, x.matrix.columns, True)
    if reductions == (1,):
        values = attend_group(net, x, path, queries, normed, context, config.num_heads[stage], 0, None)
        program.depthwise(f"{path}.mixed", values, grid, net.parameters(f"{path}.local_conv"), context, "more")
        return context
    whole = program.layout.chunk and x.matrix.columns > program.layout.chunk  # windows want pixels with all channels side by side
    pixels = program.norm(f"{above}.norm1", x.matrix, norm, config.norm_eps, "pixels", product=False) if whole else normed
    maps = Maps(Tokens(program, pixels, x.count), grid)
    for branch, ratio in enumerate(reductions):
        source, reduced = reduce_keys(net, path, maps, branch + 1, ratio)
        group = config.num_heads[stage] // len(reductions)
        attend_group(net, x, path, queries, source, context, group, branch, reduced)
    return context


def reduce_keys(net: Network, path: str, maps: Maps, number: int, ratio: int) -> tuple[Matrix, Grid]:
    """[B, C, H, W] -> GELU(norm(convolution of size and stride r)), as rows of a product, and their grid."""
    program, name = maps.program, f"{path}.sr{number}"
    merged = convolve(name, maps, net.parameters(name), "merged", ratio)
    parameters = net.parameters(f"{path}.norm{number}")
    rows = program.norm(f"{path}.act@{number - 1}", merged.matrix, parameters, SHUNTED_STEM_EPS, "reduced", end="gelu")
    return rows, merged.grid


def attend_group(
    net: Network, x: Tokens, path: str, queries: Matrix, source: Matrix, context: Matrix, heads: int, branch: int, grid: Grid | None
) -> Matrix:
    """One group of heads, its part of the context -> its values. grid: where these are enhanced by their neighbours first."""
    program, name = x.program, "" if grid is None else str(branch + 1)
    kv = program.linear(f"{path}.kv{name}", source, net.parameters(f"{path}.kv{name}"), "kv")
    width = kv.columns // 2
    keys, values = kv.from_column(0, width), kv.from_column(width, width)
    if grid is not None:
        enhanced = program.matrix("enhanced", kv.rows, kv.columns).from_column(width, width)  # as far apart as the keys
        parameters = net.parameters(f"{path}.local_conv{name}")
        values = program.depthwise(f"{path}.enhanced{name}", values, grid, parameters, enhanced, "sum")
    depth = width // heads
    program.add(
        Attention(
            f"{path}.branches.{branch}.context",
            context,
            queries.from_column(branch * width, width),
            keys,
            values,
            key_count=kv.rows // program.images,
            group=x.rows,
            heads=heads,
            depth=depth,
            scale=depth**-0.5,
            column=branch * width,
            attended=None,
        )
    )
    return values


def detail_mlp(net: Network, path: str, x: Tokens, grid: Grid, config: Any) -> None:
    """The residual x + fc2(gelu(y + depthwise(y))), y = fc1(norm(x)), in the place of x."""
    program = x.program
    normed = program.norm(f"{path}.norm2", x.matrix, net.parameters(f"{path}.norm2"), config.norm_eps, "normed")
    y = program.linear(f"{path}.mlp.fc1", normed, net.parameters(f"{path}.mlp.fc1"), "hidden")
    act = program.matrix("act", y.rows, y.columns, True)
    program.depthwise(f"{path}.mlp.act", y, grid, net.parameters(f"{path}.mlp.dwconv.dwconv"), act, "gelu of sum")
    program.linear(path, act, net.parameters(f"{path}.mlp.fc2"), x.matrix, end="add")


def pooled(net: Network, x: Tokens, config: Any) -> Tokens:  # noqa: ARG001 - the piece's signature
    """[B, N, C] -> [B, C]."""
    return Tokens(x.program, pool(x, False), None)


def pool(x: Tokens, product: bool) -> Matrix:
    """[B, N, C] -> [B, C]: the mean over the tokens."""
    place = "state" if product else x.program.own("state")
    target = x.program.matrix(place, x.program.images, x.matrix.columns, product)
    return x.program.add(Pool("pooled", target, x.matrix, x.rows, 0))


def classify(net: Network, x: Tokens, config: Any) -> Tokens:
    """[B, N, C] -> logits [B, num_classes]; the mean itself without classes."""
    if not config.num_classes:
        return pooled(net, x, config)
    logits = x.program.linear("logits", pool(x, True), net.parameters("head"), "logits")
    return Tokens(x.program, logits, None)


PIECES: Pieces = {
    "shunted.stem": (stem, ()),
    "shunted.embed": (embed, ()),
    "shunted.block": (block, (
        "shunted.shunted_attention", "shunted.aggregate_tokens", "shunted.keys_and_values", "shunted.attend",
        "shunted.merge_groups", "shunted.detail_mlp",
    )),
    "shunted.pooled": (pooled, ()),
    "shunted.classify": (classify, ()),
}  # fmt: skip
