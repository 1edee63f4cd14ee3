"""Attention of ViT and of Shunted Transformer against loops over heads and tokens, and its symmetries."""

import math

import literal
import numpy as np
from examples import prop
from hypothesis import strategies as st
from strategies import compiles, doubles, near, normal, seeds, singles, sizes, vits, whole

from reforg import ops, shunted, vit
from reforg.ops import REFERENCE, Network

EXACT = {"dtype": "float64", "terms": 200, "size": 100.0}  # two maps and a softmax in series, numbers of a few units

# one head after the other


def heads_of(seed, lib_shape, dtype="float64"):
    """Queries [B, H, N, D], keys and values [B, H, M, D]."""
    batch, heads, count, others, dim = lib_shape
    return [normal(seed + k, batch, heads, n, dim, dtype=dtype) for k, n in enumerate((count, others, others))]


shapes = sizes((1, 1, 1, 1, 1), (1, 2, 3, 5, 2), (3, 1, 2, 1, 4), (2, 2, 4, 3, 4))


def attend(lib, queries, keys, values, scale=0.5):
    return lib.run(ops.attention, queries, keys, values, scale=scale)


def bound(queries, keys, values):
    """What roundings are relative to: the values, times one and the size of the scores, whose error the exponential passes on."""
    scores = np.abs(doubles(queries)).max() * np.abs(doubles(keys)).max() * queries.shape[-1]
    return (2.0 + scores) * np.abs(doubles(values)).max()


@prop(seed=seeds, shape=shapes, dtype=singles)
def test_attention_mixes_the_values_by_the_softmax_of_the_scaled_products(lib, seed, shape, dtype):
    queries, keys, values = heads_of(seed, shape, dtype)
    context, probabilities = attend(lib, queries, keys, values, shape[-1] ** -0.5)
    for image, head in np.ndindex(shape[:2]):
        own = [doubles(part[image, head]) for part in (queries, keys, values)]
        mixed, shares = literal.heads_attention(*own, 1)
        near(context[image, head], mixed, dtype, sum(shape), bound(queries, keys, values))
        near(probabilities[image, head], shares[0], dtype, sum(shape), bound(queries, keys, np.ones(1)))


@prop(seed=seeds, shape=shapes)
def test_keys_exchanged_together_with_their_values_change_nothing(lib, seed, shape):
    queries, keys, values = heads_of(seed, shape)
    order = np.random.default_rng(seed).permutation(shape[3])
    context, probabilities = attend(lib, queries, keys, values)
    moved, followed = attend(lib, queries, keys[:, :, order], values[:, :, order])
    near(moved, context, "float64", sum(shape), bound(queries, keys, values))
    near(followed, probabilities[..., order], "float64", sum(shape), bound(queries, keys, np.ones(1)))


@prop(seed=seeds, shape=shapes)
def test_the_context_follows_the_queries(lib, seed, shape):
    queries, keys, values = heads_of(seed, shape)
    order = np.random.default_rng(seed).permutation(shape[2])
    moved = attend(lib, queries[:, :, order], keys, values)[0]
    near(moved, attend(lib, queries, keys, values)[0][:, :, order], "float64", sum(shape), bound(queries, keys, values))


@prop(seed=seeds, shape=shapes)
def test_the_context_lies_among_the_values_and_is_linear_in_them(lib, seed, shape):
    queries, keys, values = heads_of(seed, shape)
    size = bound(queries, keys, values)
    context = attend(lib, queries, keys, values)[0]
    slack = 1e-14 * size
    assert (context >= values.min(axis=2, keepdims=True) - slack).all()
    assert (context <= values.max(axis=2, keepdims=True) + slack).all()
    near(attend(lib, queries, keys, 3.0 - 2.0 * values)[0], 3.0 - 2.0 * context, "float64", sum(shape), 3.0 + 2.0 * size)


@prop(seed=seeds, shape=shapes, power=st.integers(-3, 3), shift=st.integers(-4, 4))
def test_a_scale_may_be_put_into_the_queries_and_a_shift_of_all_keys_changes_nothing(lib, seed, shape, power, shift):
    queries, keys, values = heads_of(seed, shape)
    context = attend(lib, queries, keys, values, 2.0**power)[0]
    size = bound(2.0**power * queries, keys, values)
    near(attend(lib, 2.0**power * queries, keys, values, 1.0)[0], context, "float64", sum(shape), size)
    size = bound(2.0**power * queries, np.abs(keys) + abs(shift), values)
    near(attend(lib, queries, keys + shift, values, 2.0**power)[0], context, "float64", sum(shape), size)


# ViT


def branch(case):
    return {name: value for name, value in case.weights().items() if name.startswith("blocks.0.attn.")}


def self_attention(lib, weights, x, num_heads, special=1):
    return lib.run(lambda own, t: vit.self_attention(Network(own, REFERENCE), "blocks.0.attn", t, num_heads, special), weights, x)


@prop(case=vits, seed=seeds, count=whole(2, 8), special=st.integers(1, 2))
def test_self_attention_of_vit_is_what_its_equations_say(lib, case, seed, count, special):
    weights, x = branch(case), normal(seed, 2, count, case.config.embed_dim)
    got, scores = self_attention(lib, weights, x, case.config.num_heads, special)
    for image in range(2):
        wanted, row = literal.self_attention(weights, "blocks.0.attn", x[image], case.config.num_heads, special)
        near(got[image], wanted, **EXACT)
        near(scores[image], row, **EXACT)


@prop(case=vits, seed=seeds, count=whole(2, 8))
def test_heads_exchanged_consistently_leave_the_output_alone(lib, case, seed, count):
    config, weights = case.config, branch(case)
    x = normal(seed, 2, count, config.embed_dim)
    order = np.random.default_rng(seed).permutation(config.num_heads)
    channels = np.arange(config.embed_dim).reshape(config.num_heads, -1)[order].ravel()
    rows = np.concatenate([part * config.embed_dim + channels for part in range(3)])
    moved = {name: value[rows] if ".qkv." in name else value for name, value in weights.items()}
    moved["blocks.0.attn.proj.weight"] = weights["blocks.0.attn.proj.weight"][:, channels]
    got, scores = self_attention(lib, moved, x, config.num_heads)
    wanted, same = self_attention(lib, weights, x, config.num_heads)
    near(got, wanted, **EXACT)
    near(scores, same, **EXACT)


@prop(case=vits, seed=seeds, count=whole(2, 8))
def test_tokens_exchanged_are_exchanged_in_the_output(lib, case, seed, count):
    weights, x = branch(case), normal(seed, 2, count, case.config.embed_dim)
    order = np.concatenate([[0], 1 + np.random.default_rng(seed).permutation(count - 1)])  # the class token stays first
    got, scores = self_attention(lib, weights, x[:, order], case.config.num_heads)
    wanted, same = self_attention(lib, weights, x, case.config.num_heads)
    near(got, wanted[:, order], **EXACT)
    near(scores, same[:, order[1:] - 1], **EXACT)


# Shunted Transformer


def layer(seed, width, reductions):
    """Weights of one shunted attention, of any number of groups and any ratios, by the official names."""
    groups = len(reductions)
    names = [str(number + 1) for number in range(groups)] if groups > 1 else [""]
    found = {"q": (width, width), "proj": (width, width)}
    found |= {f"kv{name}": (2 * width // groups, width) for name in names}
    found |= {f"local_conv{name}": (width // groups, 1, 3, 3) for name in names}
    if reductions != (1,):
        found |= {f"sr{number}": (width, width, ratio, ratio) for number, ratio in enumerate(reductions, 1)}
    weights = {}
    for number, (name, shape) in enumerate(found.items()):
        weights[f"attn.{name}.weight"] = normal(seed + number, *shape) / math.sqrt(math.prod(shape[1:]))
        weights[f"attn.{name}.bias"] = 0.1 * normal(seed + 50 + number, shape[0])
    if reductions != (1,):
        for number in range(1, groups + 1):
            weights[f"attn.norm{number}.weight"] = 1.0 + 0.2 * normal(seed + 70 + number, width)
            weights[f"attn.norm{number}.bias"] = 0.1 * normal(seed + 80 + number, width)
    return weights


def grids_for(lib):
    """Ratios of the groups of heads, and a grid on which each leaves at least one token; mostly with rows left over."""
    if compiles(lib):
        return st.sampled_from([((1,), (2, 3)), ((2, 1), (3, 5))])
    ratios = st.sampled_from([(1,), (2, 1), (4, 2), (3, 1), (2, 3), (3, 2), (2,), (4, 2, 1)])
    more = st.tuples(st.integers(0, 4), st.integers(0, 3))
    return st.builds(lambda r, extra: (r, (max(r) + extra[0], max(r) + extra[1])), ratios, more)


def shunted_attention(lib, weights, x, grid, heads, reductions):
    return lib.run(
        lambda own, t: shunted.shunted_attention(Network(own, REFERENCE), "attn", t, grid, heads, reductions), weights, x
    )


@prop(seed=seeds, where=grids_for, per_group=whole(1, 2), dim=whole(1, 3))
def test_shunted_attention_is_what_its_equations_say_for_any_ratio_and_grid(lib, seed, where, per_group, dim):
    reductions, grid = where
    heads = per_group * len(reductions)
    width = max(2, dim) * heads
    weights, x = layer(seed, width, reductions), normal(seed + 90, 2, math.prod(grid), width)
    got = shunted_attention(lib, weights, x, grid, heads, reductions)
    wanted = [literal.shunted_attention(weights, "attn", image, grid, heads, reductions) for image in x]
    near(got, wanted, "float64", 300, 1000.0)  # three maps, a norm and a softmax in series


@prop(seed=seeds, grid=sizes((1, 1), (1, 4), (3, 3), (2, 3)), heads=whole(1, 3))
def test_shunted_attention_without_reduction_is_plain_attention_plus_its_local_term(lib, seed, grid, heads):
    width = 2 * heads
    weights, x = layer(seed, width, (1,)), normal(seed + 90, 2, math.prod(grid), width)
    plain = dict(weights)
    for kind in ("weight", "bias"):
        plain[f"attn.qkv.{kind}"] = np.concatenate([weights[f"attn.q.{kind}"], weights[f"attn.kv.{kind}"]])
    got = shunted_attention(lib, weights, x, grid, heads, (1,))
    for image, tokens in zip(got, x, strict=True):
        values = np.array([literal.affine(weights, "attn.kv", token)[width:] for token in tokens])
        kernel, bias = weights["attn.local_conv.weight"], weights["attn.local_conv.bias"]
        local = literal.row_order(literal.depthwise(literal.on_grid(values, grid), kernel, bias))
        attended, _ = literal.self_attention(plain, "attn", tokens, heads, 0)
        projected = [weights["attn.proj.weight"] @ token for token in local]
        near(image, np.add(attended, projected), **EXACT)


@prop(seed=seeds, ratio=whole(2, 4), extra=sizes((1, 0), (0, 1), (1, 1)), width=whole(2, 5))
def test_rows_and_columns_left_over_by_a_reduction_are_seen_by_no_key(lib, seed, ratio, extra, width):
    weights, grid = layer(seed, width, (ratio,)), tuple(ratio + more for more in extra)
    maps = normal(seed + 90, 2, width, *grid)
    other = normal(seed + 91, 2, width, *grid)
    other[:, :, :ratio, :ratio] = maps[:, :, :ratio, :ratio]

    def reduce(x):
        return lib.run(lambda own, m: shunted.reduce_keys(Network(own, REFERENCE), "attn", m, 1, ratio)[0], weights, x)

    got = reduce(maps)
    np.testing.assert_array_equal(reduce(other), got)
    for image, merged in zip(maps, got, strict=True):
        tokens, reduced = literal.merged(weights, "attn", literal.row_order(image), grid, 1, ratio)
        assert reduced == (1, 1)
        near(merged, tokens, "float64", 300, 1000.0)


@prop(seed=seeds, grid=sizes((1, 1), (3, 2), (2, 4), (2, 3)), width=whole(2, 4), hidden=whole(1, 5))
def test_the_mlp_of_shunted_sees_neighbours_before_its_gelu(lib, seed, grid, width, hidden):
    shapes = {"fc1": (hidden, width), "dwconv.dwconv": (hidden, 1, 3, 3), "fc2": (width, hidden)}
    weights = {f"mlp.{name}.weight": normal(seed + k, *shape) for k, (name, shape) in enumerate(shapes.items())}
    weights |= {f"mlp.{name}.bias": normal(seed + 5 + k, shape[0]) for k, (name, shape) in enumerate(shapes.items())}
    x = normal(seed + 9, 2, math.prod(grid), width)
    got = lib.run(lambda own, t: shunted.detail_mlp(Network(own, REFERENCE), "mlp", t, grid), weights, x)
    near(got, [literal.detail_mlp(weights, "mlp", image, grid) for image in x], "float64", 100, 1000.0)
