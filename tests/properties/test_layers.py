"""Invariances of softmax, norms, activations, linear maps and convolutions, in every dtype that the library has."""

import math

import literal
import numpy as np
from examples import prop
from hypothesis import assume
from hypothesis import strategies as st
from strategies import ROUNDING, cast, doubles, dtypes, near, normal, seeds, singles, sizes, vits, whole

from reforg import ops, vit
from reforg.ops import REFERENCE, Network

shapes = sizes((1, 1), (5, 2), (1, 17), (2, 3, 4), (3, 7))
scales = st.sampled_from([1.0, 0.01, 20.0])

# softmax


@prop(seed=seeds, shape=shapes, scale=scales, dtype=dtypes)
def test_softmax_is_the_share_of_each_exponential(lib, seed, shape, scale, dtype):
    x = cast(scale * normal(seed, *shape), dtype)
    wanted = [literal.softmax(row) for row in doubles(x).reshape(-1, shape[-1]).tolist()]
    terms = shape[-1] + 2 * math.ceil(np.abs(doubles(x)).max())  # x - max is rounded relative to itself; exp makes it absolute
    near(lib.run(ops.softmax, x), np.reshape(wanted, shape), dtype, terms, 1.0)


@prop(seed=seeds, shape=shapes, scale=scales, dtype=dtypes)
def test_rows_of_softmax_are_shares_that_sum_to_one(lib, seed, shape, scale, dtype):
    shares = doubles(lib.run(ops.softmax, cast(scale * normal(seed, *shape), dtype)))
    assert (shares >= 0).all()
    off = np.abs(shares.sum(axis=-1) - 1.0).max()
    assert off <= (shape[-1] + 8) * ROUNDING[dtype]  # the denominator's sum, and one rounding of each share


@prop(seed=seeds, shape=shapes, shift=st.integers(-512, 512), dtype=singles)
def test_softmax_ignores_a_shift_of_its_rows(lib, seed, shape, shift, dtype):
    x = cast(np.round(normal(seed, *shape) * 64.0) / 64.0, dtype)  # so that the shift is exact
    near(lib.run(ops.softmax, x + cast(np.float64(shift), dtype)), lib.run(ops.softmax, x), dtype, 0, 1.0)


@prop(seed=seeds, shape=shapes, dtype=singles)
def test_softmax_follows_a_permutation(lib, seed, shape, dtype):
    x, order = normal(seed, *shape, dtype=dtype), np.random.default_rng(seed).permutation(shape[-1])
    near(lib.run(ops.softmax, x[..., order]), lib.run(ops.softmax, x)[..., order], dtype, shape[-1], 1.0)


@prop(seed=seeds, shape=shapes, dtype=dtypes)
def test_softmax_of_small_numbers_is_uniform_and_of_large_ones_picks_the_largest(lib, seed, shape, dtype):
    order = np.argsort(normal(seed, *shape), axis=-1)
    near(lib.run(ops.softmax, cast(0.0 * order, dtype)), np.full(shape, 1.0 / shape[-1]), dtype, shape[-1])
    winner = order == shape[-1] - 1
    np.testing.assert_array_equal(doubles(lib.run(ops.softmax, cast(1000.0 * order, dtype))), 1.0 * winner)


# norms


def tokens(seed, shape, dtype, spread=1.0):
    """Tokens that vary, so that their deviation is no accident of rounding."""
    x = cast(spread * (normal(seed, *shape) + np.linspace(-2.0, 2.0, shape[-1])), dtype)
    return x, normal(seed + 1, shape[-1], dtype=dtype), normal(seed + 2, shape[-1], dtype=dtype)


widths = sizes((1, 2), (3, 16), (2, 2, 5), (2, 3, 8))


@prop(seed=seeds, shape=widths, eps=st.sampled_from([1e-6, 1e-5, 0.3]), dtype=dtypes)
def test_layer_norm_centres_and_scales_each_token(lib, seed, shape, eps, dtype):
    x, weight, bias = tokens(seed, shape, dtype)
    rows = doubles(x).reshape(-1, shape[-1])
    wanted = [literal.layer_norm(row, doubles(weight), doubles(bias), eps) for row in rows]
    size = norm_size(rows, weight, bias)
    near(lib.run(ops.layer_norm, x, weight, bias, eps=eps), np.reshape(wanted, shape), dtype, 3 * shape[-1], size)


def norm_size(rows, weight, bias):
    """What the roundings of a layer norm are relative to: inputs and mean over the deviation, times the gain, and the bias."""
    spread = np.max((np.abs(rows).max(1) + 1e-30) / (rows.std(1) + 1e-30))
    return spread * np.abs(doubles(weight)).max() + np.abs(doubles(bias)).max()


@prop(seed=seeds, shape=widths, shift=st.integers(-64, 64), dtype=singles)
def test_layer_norm_ignores_a_shift_of_the_token(lib, seed, shape, shift, dtype):
    x, weight, bias = tokens(seed, shape, dtype)
    x = cast(np.round(doubles(x) * 1024.0) / 1024.0, dtype)  # so that the shift is exact
    moved = x + cast(np.float64(shift), dtype)
    size = norm_size(doubles(moved).reshape(-1, shape[-1]), weight, bias)
    assume(size < 1e6)
    got, plain = (lib.run(ops.layer_norm, value, weight, bias, eps=1e-6) for value in (moved, x))
    near(got, plain, dtype, 6 * shape[-1], size)


@prop(seed=seeds, shape=widths, power=st.integers(-6, 6), dtype=singles)
def test_layer_norm_without_epsilon_ignores_the_scale_of_the_token(lib, seed, shape, power, dtype):
    x, weight, bias = tokens(seed, shape, dtype)
    got, plain = (lib.run(ops.layer_norm, value, weight, bias, eps=1e-30) for value in (cast(x * 2.0**power, dtype), x))
    near(got, plain, dtype, 0)


@prop(seed=seeds, shape=widths, dtype=singles)
def test_layer_norm_follows_a_permutation_of_channels_and_gains(lib, seed, shape, dtype):
    x, weight, bias = tokens(seed, shape, dtype)
    order = np.random.default_rng(seed).permutation(shape[-1])
    got = lib.run(ops.layer_norm, x[..., order], weight[order], bias[order], eps=1e-6)
    size = norm_size(doubles(x).reshape(-1, shape[-1]), weight, bias)
    near(got, lib.run(ops.layer_norm, x, weight, bias, eps=1e-6)[..., order], dtype, 6 * shape[-1], size)


@prop(seed=seeds, shape=widths, eps=st.sampled_from([1e-6, 0.5]), dtype=singles)
def test_a_layer_norm_without_gains_has_mean_zero_and_the_variance_that_epsilon_leaves(lib, seed, shape, eps, dtype):
    x, weight, bias = tokens(seed, shape, dtype)
    y = lib.run(ops.layer_norm, x, np.ones_like(weight), np.zeros_like(bias), eps=eps)
    size = norm_size(doubles(x).reshape(-1, shape[-1]), np.ones(1), np.zeros(1))
    near(cast(doubles(y).mean(-1), dtype), np.zeros(shape[:-1]), dtype, 3 * shape[-1], size)
    variance = doubles(x).var(-1)
    near(cast(doubles(y).var(-1), dtype), variance / (variance + eps), dtype, 6 * shape[-1], size * size)


@prop(seed=seeds, channels=whole(1, 5), grid=sizes((1, 1), (3, 2), (2, 4)), dtype=dtypes)
def test_batch_norm_is_one_affine_map_a_channel(lib, seed, channels, grid, dtype):
    x, (weight, bias, mean) = normal(seed, 2, channels, *grid, dtype=dtype), normal(seed + 1, 3, channels, dtype=dtype)
    variance = cast(0.5 + np.abs(normal(seed + 2, channels)), dtype)
    named = dict(zip(("weight", "bias", "running_mean", "running_var"), map(doubles, (weight, bias, mean, variance)), strict=True))
    wanted = [literal.batch_norm(doubles(image), {f"n.{key}": value for key, value in named.items()}, "n") for image in x]
    size = (np.abs(doubles(x)).max() + np.abs(named["running_mean"]).max()) * np.abs(named["weight"]).max() * 1.5
    got = lib.run(ops.batch_norm, x, weight, bias, mean, variance, eps=1e-5)
    near(got, wanted, dtype, 8, size + np.abs(named["bias"]).max())


# activations


@prop(seed=seeds, shape=shapes, scale=scales, dtype=dtypes)
def test_gelu_is_x_times_the_normal_distribution_function(lib, seed, shape, scale, dtype):
    x = cast(scale * normal(seed, *shape), dtype)
    near(lib.run(ops.gelu, x), literal.gelu(x), dtype, 0, max(np.abs(doubles(x)).max(), 0.1))


@prop(seed=seeds, shape=shapes, scale=scales, dtype=singles)
def test_gelu_of_x_minus_gelu_of_minus_x_is_x(lib, seed, shape, scale, dtype):
    x = cast(scale * normal(seed, *shape), dtype)
    near(lib.run(ops.gelu, x) - lib.run(ops.gelu, -x), x, dtype, 0, 2 * np.abs(doubles(x)).max())


@prop(seed=seeds, shape=shapes, dtype=dtypes)
def test_relu_is_half_of_x_plus_its_size(lib, seed, shape, dtype):
    x = normal(seed, *shape, dtype=dtype)
    np.testing.assert_array_equal(doubles(lib.run(ops.relu, x)), (doubles(x) + np.abs(doubles(x))) / 2)


# linear maps


@prop(seed=seeds, shape=shapes, out=whole(1, 6), biased=st.booleans(), dtype=dtypes)
def test_linear_is_a_sum_over_the_input_channels(lib, seed, shape, out, biased, dtype):
    x, weight = normal(seed, *shape, dtype=dtype), normal(seed + 1, out, shape[-1], dtype=dtype)
    bias = normal(seed + 2, out, dtype=dtype) if biased else None
    layer = {"l.weight": doubles(weight)} | ({"l.bias": doubles(bias)} if biased else {})
    rows = doubles(x).reshape(-1, shape[-1])
    size = (np.abs(rows) @ np.abs(doubles(weight)).T).max() + (np.abs(doubles(bias)).max() if biased else 0.0)
    wanted = np.reshape([literal.affine(layer, "l", row) for row in rows], (*shape[:-1], out))
    near(lib.run(ops.linear, x, weight, bias), wanted, dtype, shape[-1], size)


@prop(case=vits, seed=seeds, count=whole(1, 6))
def test_the_mlp_acts_on_each_token_alone(lib, case, seed, count):
    weights = {name: value for name, value in case.weights().items() if name.startswith("blocks.0.mlp.")}
    x = normal(seed, 2, count, case.config.embed_dim)
    got = lib.run(lambda own, tokens: vit.mlp(Network(own, REFERENCE), "blocks.0.mlp", tokens), weights, x)
    wanted = [[literal.mlp(weights, "blocks.0.mlp", token) for token in image] for image in x]
    near(got, wanted, "float64", 3 * case.config.hidden_dim, 30.0)  # two maps, each of rows whose sizes sum to five at the most


# convolutions


def window(kernel, stride, padding, channels, out, extra):
    """A convolution and an image that it covers at least once; `extra` rows and columns more than it needs."""
    size = tuple(max(k - 2 * padding, 1) + e for k, e in zip(kernel, extra, strict=True))
    return {"kernel": kernel, "stride": stride, "padding": padding, "channels": channels, "out": out, "size": size}


def windows(lib):
    small = lib.name.startswith("jax")
    return st.builds(
        window,
        kernel=st.just((3, 2)) if small else st.tuples(st.integers(1, 4), st.integers(1, 4)),
        stride=st.just(2) if small else st.integers(1, 4),
        padding=st.just(1) if small else st.integers(0, 2),
        channels=st.just(2) if small else st.integers(1, 3),
        out=st.just(3) if small else st.integers(1, 3),
        extra=st.just((3, 4)) if small else st.tuples(st.integers(0, 5), st.integers(0, 5)),
    )


def convolved(seed, spec, dtype="float64"):
    x = normal(seed, 2, spec["channels"], *spec["size"], dtype=dtype)
    weight = normal(seed + 1, spec["out"], spec["channels"], *spec["kernel"], dtype=dtype)
    return x, weight, normal(seed + 2, spec["out"], dtype=dtype), {"stride": spec["stride"], "padding": spec["padding"]}


@prop(seed=seeds, spec=windows, dtype=dtypes)
def test_a_convolution_sums_over_windows(lib, seed, spec, dtype):
    x, weight, bias, how = convolved(seed, spec, dtype)
    wanted = [literal.conv2d(doubles(image), doubles(weight), doubles(bias), **how) for image in x]
    size = np.abs(doubles(weight)).sum((1, 2, 3)).max() * np.abs(doubles(x)).max() + np.abs(doubles(bias)).max()
    near(lib.run(ops.conv2d, x, weight, bias, **how), wanted, dtype, weight[0].size, size)


@prop(seed=seeds, spec=windows, factor=st.integers(-3, 3))
def test_a_convolution_is_linear_in_the_image_and_in_the_kernel(lib, seed, spec, factor):
    x, weight, _, how = convolved(seed, spec)
    other, kernel = normal(seed + 5, *x.shape), normal(seed + 6, *weight.shape)
    size = 8 * (np.abs(weight).sum() + np.abs(kernel).sum()) * max(np.abs(x).max(), np.abs(other).max())

    def conv(image, filters):
        return lib.run(ops.conv2d, image, filters, **how)

    near(conv(x + factor * other, weight), conv(x, weight) + factor * conv(other, weight), "float64", weight[0].size, size)
    near(conv(x, weight + factor * kernel), conv(x, weight) + factor * conv(x, kernel), "float64", weight[0].size, size)


@prop(seed=seeds, spec=windows, down=st.integers(0, 2), right=st.integers(0, 2))
def test_a_convolution_moves_with_its_image(lib, seed, spec, down, right):
    _, weight, bias, how = convolved(seed, spec | {"padding": 0})
    step = spec["stride"]
    x = normal(seed, 1, spec["channels"], *(side + 2 * step + 2 for side in spec["kernel"]))
    whole_image, part = lib.run(ops.conv2d, x, weight, bias, **how), x[:, :, down * step :, right * step :]
    moved = lib.run(ops.conv2d, part, weight, bias, **how)
    size = np.abs(weight).sum((1, 2, 3)).max() * np.abs(x).max() + np.abs(bias).max()
    near(moved, whole_image[:, :, down:, right:], "float64", weight[0].size, size)


fields = sizes((1, 1), (1, 4), (4, 3), (3, 5))


@prop(seed=seeds, channels=whole(1, 4), grid=fields, kernel=sizes((1, 3), (2, 2), (3, 3)), dtype=dtypes)
def test_a_depthwise_convolution_gives_each_channel_its_own_kernel(lib, seed, channels, grid, kernel, dtype):
    x, weight = normal(seed, 2, channels, *grid, dtype=dtype), normal(seed + 1, channels, 1, *kernel, dtype=dtype)
    bias = normal(seed + 2, channels, dtype=dtype)
    single = [slice(c, c + 1) for c in range(channels)]
    alone = [[literal.conv2d(doubles(image[c]), doubles(weight[c]), doubles(bias[c]), 1, 1)[0] for c in single] for image in x]
    size = 9 * np.abs(doubles(weight)).max() * np.abs(doubles(x)).max() + np.abs(doubles(bias)).max()
    near(lib.run(ops.depthwise_conv2d, x, weight, bias, padding=1), alone, dtype, 9, size)


@prop(case=vits, seed=seeds, dtype=dtypes)
def test_the_patch_embedding_is_one_linear_map_of_flattened_patches(lib, case, seed, dtype):
    weights, images = case.weights(dtype), case.images(seed, dtype=dtype)
    weights = {name: value for name, value in weights.items() if name.startswith("patch_embed.")}
    got = lib.run(lambda own, x: vit.embed_patches(Network(own, REFERENCE), x, case.config), weights, images)
    exact = {name: doubles(value) for name, value in weights.items()}
    wanted = [literal.patches(exact, doubles(image), case.config.patch_size) for image in images]
    kernel = exact["patch_embed.proj.weight"]
    near(got, wanted, dtype, kernel[0].size, 2.0 * np.abs(kernel).sum((1, 2, 3)).max() + 0.1)


# layout


@prop(seed=seeds, heads=whole(1, 4), dim=whole(1, 4), parts=whole(1, 3), grid=sizes((1, 3), (2, 2), (3, 4)))
def test_heads_and_maps_are_rearrangements_that_can_be_undone(lib, seed, heads, dim, parts, grid):
    x = normal(seed, 2, math.prod(grid), parts * heads * dim)
    split = lib.run(ops.split_heads, x, parts=parts, num_heads=heads)
    together = np.concatenate([lib.run(ops.merge_heads, part) for part in split], axis=2)
    np.testing.assert_array_equal(together, x)
    for part, head in np.ndindex(parts, heads):
        first = (part * heads + head) * dim
        np.testing.assert_array_equal(split[part][:, head], x[:, :, first : first + dim])
    maps = lib.run(ops.to_maps, x, grid=grid)
    np.testing.assert_array_equal(maps, [literal.on_grid(image, grid) for image in x])
    np.testing.assert_array_equal(lib.run(ops.to_tokens, maps), x)
