"""Each operation of the reference against its definition: slow literal loops in Python's own doubles, on every library.

Nothing expected here comes from reforg: erf is the standard library's, sums are `math.fsum`, convolutions are loops
over pixels, resampling is Keys' kernel written out. Limits: float64 a few roundings of the largest value, float32 the
same in its own precision, float16 one rounding of the result, because its sums are formed in float32.
"""

import itertools
import math

import numpy as np
import pytest

from reforg import arrays, ops
from reforg.ops import Recorder, within

ROUNDING = {"float64": 2.0**-53, "float32": 2.0**-24, "float16": 2.0**-11}
LIMIT = {"float64": 1e-13, "float32": 2e-6, "float16": 1.01 * ROUNDING["float16"]}  # relative to the largest value
DTYPES = tuple(LIMIT)


@pytest.fixture(params=DTYPES)
def dtype(request):
    return request.param


def random(seed, *shape, dtype="float64"):
    return np.random.default_rng(seed).standard_normal(shape).astype(dtype)


def doubles(*arrays):
    return [None if array is None else np.asarray(array, np.float64) for array in arrays]


def assert_close(got, wanted, dtype="float64"):
    assert got.dtype == dtype
    wanted = np.asarray(wanted, np.float64)
    assert got.shape == wanted.shape
    largest = np.abs(wanted).max(initial=0.0) or 1.0
    worst = np.abs(got.astype(np.float64) - wanted).max(initial=0.0)
    assert worst <= LIMIT[dtype] * largest, f"off by {worst / largest:.1e} of the largest value"


def grid(*sides):
    return itertools.product(*[range(side) for side in sides])


# erf and what is made of it


def erf_grid():
    small = [0.0, 5e-324, 1e-310, 2.3e-308, 1e-300, 1e-40, 1e-20, 1e-8, 1e-3, 0.1, 0.5]
    split = [0.9, 0.999, np.nextafter(1.0, 0.0), 1.0, np.nextafter(1.0, 2.0), 1.001, 1.1]
    large = [1.5, 2.0, 3.0, 3.9, 4.0, 4.1, 5.0, 5.9, np.nextafter(6.0, 0.0), 6.0, 6.1, 30.0, 1e4]
    positive = np.array([*small, *split, *large, *np.linspace(0.0, 6.5, 400)])
    return np.concatenate([positive, -positive])


def test_erf_is_the_error_function_to_the_rounding_of_the_dtype(lib, dtype):
    x = erf_grid().astype(dtype)
    wanted = np.array([math.erf(float(value)) for value in x])
    got = lib.run(ops.erf, x)
    assert got.dtype == dtype
    roundings = {"float64": 4, "float32": 8, "float16": 1.01}[dtype] * ROUNDING[dtype]
    subnormal = float(np.finfo(dtype).tiny)  # some libraries take numbers below it for zero
    np.testing.assert_allclose(got.astype(np.float64), wanted, rtol=roundings, atol=subnormal)


@pytest.mark.parametrize("huge", [1e30, 1e300, math.inf])
def test_erf_of_huge_numbers_is_one(lib, huge):
    np.testing.assert_array_equal(lib.run(ops.erf, np.array([huge, -huge])), [1.0, -1.0])


def test_erf_of_nan_is_nan(lib, dtype):
    assert np.all(np.isnan(lib.run(ops.erf, np.array([math.nan], dtype))))


def test_erf_is_odd_and_never_falls(lib):
    x = np.linspace(0.0, 7.0, 3001)
    y = lib.run(ops.erf, x)
    np.testing.assert_array_equal(lib.run(ops.erf, -x), -y)
    assert np.all(np.diff(y) >= -ROUNDING["float64"])


def test_gelu_is_x_times_the_normal_distribution_function(lib, dtype):
    x = np.concatenate([np.linspace(-8.0, 8.0, 401), [0.0, 1e-6, -1e-6, 40.0, -40.0]]).astype(dtype)
    wanted = [float(value) * 0.5 * math.erfc(-float(value) / math.sqrt(2.0)) for value in x]
    got = lib.run(ops.gelu, x).astype(np.float64)
    assert np.all(np.abs(got - wanted) <= 4 * ROUNDING[dtype] * np.maximum(np.abs(x), 1e-3))


def test_gelu_is_not_the_tanh_form(lib):
    x = 2.2
    tanh_form = 0.5 * x * (1.0 + math.tanh(math.sqrt(2.0 / math.pi) * (x + 0.044715 * x**3)))
    got = float(lib.run(ops.gelu, np.array([x]))[0])
    assert got == pytest.approx(2.2 * 0.98609655, abs=2e-8)  # Phi(2.2), from a table of the normal distribution
    assert abs(got - tanh_form) > 2e-4


def test_relu_keeps_what_is_positive(lib, dtype):
    got = lib.run(ops.relu, np.array([-2.0, -0.0, 0.0, 3.5], dtype))
    np.testing.assert_array_equal(got, [0.0, 0.0, 0.0, 3.5])
    assert got.dtype == dtype


# softmax


def literal_softmax(row):
    powers = [math.exp(value - max(row)) for value in row]
    return [power / math.fsum(powers) for power in powers]


def test_softmax_is_the_share_of_each_exponential(lib, dtype):
    x = random(1, 3, 2, 7, dtype=dtype)
    wanted = np.array([literal_softmax(row) for row in x.reshape(6, 7).tolist()]).reshape(3, 2, 7)
    assert_close(lib.run(ops.softmax, x), wanted, dtype)


@pytest.mark.parametrize("row", [[1e4, 1e4 - 1.0, -1e4], [-1e4, -1e4, -1e4], [1e-30, -1e-30, 0.0], [800.0, 0.0, -800.0]])
def test_softmax_of_huge_and_tiny_numbers_neither_overflows_nor_vanishes(lib, row):
    assert_close(lib.run(ops.softmax, np.array([row])), [literal_softmax(row)])


def test_softmax_ignores_a_shift_of_its_row(lib):
    x = np.round(random(2, 4, 9) * 64.0) / 64.0  # so that adding 512 is exact
    np.testing.assert_allclose(lib.run(ops.softmax, x + 512.0), lib.run(ops.softmax, x), rtol=1e-15)


def test_softmax_of_one_number_is_one(lib, dtype):
    np.testing.assert_array_equal(lib.run(ops.softmax, np.full((2, 1), -7.5, dtype)), [[1.0], [1.0]])


# norms


def literal_layer_norm(row, weight, bias, eps):
    mean = math.fsum(row) / len(row)
    variance = math.fsum((value - mean) ** 2 for value in row) / len(row)
    return [(value - mean) / math.sqrt(variance + eps) * w + b for value, w, b in zip(row, weight, bias, strict=True)]


@pytest.mark.parametrize("eps", [1e-6, 1e-5, 0.25])
def test_layer_norm_centres_and_scales_each_token(lib, dtype, eps):
    x, weight, bias = random(3, 2, 3, 10, dtype=dtype), random(4, 10, dtype=dtype), random(5, 10, dtype=dtype)
    rows, *affine = doubles(x.reshape(6, 10), weight, bias)
    wanted = np.array([literal_layer_norm(row, *affine, eps) for row in rows]).reshape(2, 3, 10)
    assert_close(lib.run(ops.layer_norm, x, weight, bias, eps=eps), wanted, dtype)


def test_layer_norm_of_equal_numbers_is_its_bias(lib):
    bias = random(6, 5)
    np.testing.assert_array_equal(lib.run(ops.layer_norm, np.full((2, 5), 3.0), random(7, 5), bias, eps=1e-6), [bias, bias])


def test_layer_norm_far_from_zero_loses_no_more_than_the_input_did(lib):
    x = 1e4 + np.array([[0.0, 0.5, 1.0, 1.5]])  # exact in float64; mean of squares minus square of mean would lose eight digits
    wanted = [literal_layer_norm(x[0], [1.0] * 4, [0.0] * 4, 1e-6)]
    np.testing.assert_allclose(lib.run(ops.layer_norm, x, np.ones(4), np.zeros(4), eps=1e-6), wanted, rtol=1e-12)


def test_batch_norm_uses_the_running_statistics(lib, dtype):
    x, (weight, bias, mean) = random(8, 2, 3, 2, 4, dtype=dtype), random(9, 3, 3, dtype=dtype)
    variance = np.array([0.5, 1.0, 2.0], dtype)
    maps, w, b, m, v = doubles(x, weight, bias, mean, variance)
    wanted = np.empty(x.shape)
    for image, channel, row, column in grid(*x.shape):
        centred = maps[image, channel, row, column] - m[channel]
        wanted[image, channel, row, column] = centred / math.sqrt(v[channel] + 1e-5) * w[channel] + b[channel]
    assert_close(lib.run(ops.batch_norm, x, weight, bias, mean, variance, eps=1e-5), wanted, dtype)


# products


def literal_linear(rows, weight, bias):
    offsets = [0.0] * len(weight) if bias is None else bias
    return [
        [math.fsum(a * b for a, b in zip(row, w, strict=True)) + o for w, o in zip(weight, offsets, strict=True)] for row in rows
    ]


@pytest.mark.parametrize("biased", [True, False])
def test_linear_is_x_times_w_transposed_plus_bias(lib, dtype, biased):
    x, weight = random(10, 2, 3, 6, dtype=dtype), random(11, 4, 6, dtype=dtype)
    bias = random(12, 4, dtype=dtype) if biased else None
    rows, *parameters = doubles(x.reshape(6, 6), weight, bias)
    assert_close(lib.run(ops.linear, x, weight, bias), np.reshape(literal_linear(rows, *parameters), (2, 3, 4)), dtype)


def test_linear_takes_a_single_vector(lib):
    np.testing.assert_array_equal(lib.run(ops.linear, np.array([1.0, 2.0]), np.array([[3.0, 4.0]]), np.array([0.5])), [11.5])


@pytest.mark.parametrize("dtype", ["float16"], indirect=True)
def test_float16_products_are_summed_in_float32(lib, dtype):
    ones = np.ones((1, 4097), np.float16)  # in float16, adding ones stops at 2048
    assert lib.run(ops.linear, ones, ones)[0, 0] == 4096.0  # 4097 rounded to even
    assert lib.run(ops.matmul, ones, ones.T)[0, 0] == 4096.0
    assert lib.run(ops.mean, np.full((1, 70000), 1.0, np.float16), axis=1)[0] == 1.0  # 70000 itself would overflow


def test_matmul_multiplies_the_last_two_axes(lib, dtype):
    a, b = random(13, 2, 2, 3, 4, dtype=dtype), random(14, 2, 2, 4, 5, dtype=dtype)
    left, right = doubles(a, b)
    wanted = np.empty((2, 2, 3, 5))
    for i, j, n, m in grid(2, 2, 3, 5):
        wanted[i, j, n, m] = math.fsum(left[i, j, n, k] * right[i, j, k, m] for k in range(4))
    assert_close(lib.run(ops.matmul, a, b), wanted, dtype)


@pytest.mark.parametrize("axis", [0, 1, -1])
def test_mean_divides_the_sum_by_the_count(lib, dtype, axis):
    x = random(15, 3, 4, 5, dtype=dtype)
    moved = np.moveaxis(x, axis, 0).astype(np.float64)
    wanted = np.empty(moved.shape[1:])
    for i, j in grid(*wanted.shape):
        wanted[i, j] = math.fsum(moved[:, i, j]) / len(moved)
    assert_close(lib.run(ops.mean, x, axis=axis), wanted, dtype)


def literal_attention(queries, keys, values, scale):
    """One head: [N, D], [M, D], [M, D] -> context, probabilities."""
    scores = [[scale * math.fsum(a * b for a, b in zip(query, key, strict=True)) for key in keys] for query in queries]
    shares = [literal_softmax(row) for row in scores]
    context = [
        [math.fsum(p * value[d] for p, value in zip(row, values, strict=True)) for d in range(len(values[0]))] for row in shares
    ]
    return context, shares


@pytest.mark.parametrize("dtype", ["float64", "float32"])
def test_attention_mixes_the_values_by_the_softmax_of_the_scaled_products(lib, dtype):
    queries, keys, values = (random(seed, 2, 2, n, 3, dtype=dtype) for seed, n in ((16, 4), (17, 5), (18, 5)))
    heads = [
        literal_attention(q, k, v, 0.7)
        for q, k, v in zip(*(h.reshape(4, -1, 3) for h in doubles(queries, keys, values)), strict=True)
    ]
    context, probabilities = lib.run(ops.attention, queries, keys, values, scale=0.7)
    assert_close(context, np.reshape([head[0] for head in heads], (2, 2, 4, 3)), dtype)
    assert_close(probabilities, np.reshape([head[1] for head in heads], (2, 2, 4, 5)), dtype)


def test_attention_traces_scores_probabilities_and_context():
    record = Recorder()
    queries = np.array([[[[2.0]]]])
    context, probabilities = ops.attention(queries, queries, np.array([[[[5.0]]]]), 0.5, within(record, "blocks.0.attn"))
    assert list(record.values) == [f"blocks.0.attn.{name}" for name in ("scores", "probs", "context")]
    assert [float(value.squeeze()) for value in record.values.values()] == [2.0, 1.0, 5.0]
    assert record.values["blocks.0.attn.context"] is context
    assert record.values["blocks.0.attn.probs"] is probabilities


# convolutions


def literal_conv2d(x, weight, bias, stride, padding, groups=1):
    """[B, C, H, W], [O, C / groups, kh, kw]: every output pixel is a sum over a window of the image, zero outside."""
    (batch, _, height, width), (out, inside, kh, kw) = x.shape, weight.shape
    tall, wide = (height + 2 * padding - kh) // stride + 1, (width + 2 * padding - kw) // stride + 1
    y = np.empty((batch, out, tall, wide))
    for image, o, top, left in grid(batch, out, tall, wide):
        first = o // (out // groups) * inside
        terms = [0.0 if bias is None else bias[o]]
        for c, row, column in grid(inside, kh, kw):
            i, j = top * stride + row - padding, left * stride + column - padding
            if 0 <= i < height and 0 <= j < width:
                terms.append(x[image, first + c, i, j] * weight[o, c, row, column])
        y[image, o, top, left] = math.fsum(terms)
    return y


CONVOLUTIONS = {  # image, kernel, stride, padding
    "patches": ((8, 12), (4, 4), 4, 0),
    "patches, rows and columns left over": ((9, 11), (4, 4), 4, 0),
    "3x3 of stride 2, padded": ((7, 6), (3, 3), 2, 1),
    "5x5 of stride 2, padded": ((9, 10), (5, 5), 2, 2),
    "an oblong kernel of stride 2": ((6, 7), (2, 3), 2, 1),
    "stride beyond the kernel": ((8, 8), (2, 2), 3, 0),
    "padded patches": ((6, 6), (2, 2), 2, 1),
}


@pytest.mark.parametrize("case", CONVOLUTIONS)
def test_conv2d_is_a_sum_over_windows(lib, case):
    size, kernel, stride, padding = CONVOLUTIONS[case]
    x, weight, bias = random(19, 2, 3, *size), random(20, 4, 3, *kernel), random(21, 4)
    wanted = literal_conv2d(x, weight, bias, stride, padding)
    assert_close(lib.run(ops.conv2d, x, weight, bias, stride=stride, padding=padding), wanted)
    assert ops.output_shape(x, weight, stride, padding) == wanted.shape


@pytest.mark.parametrize("stride", [1, 2])  # windows that overlap, and patches
def test_conv2d_in_every_dtype(lib, dtype, stride):
    x, weight, bias = random(22, 2, 2, 4, 6, dtype=dtype), random(23, 3, 2, 2, 2, dtype=dtype), random(24, 3, dtype=dtype)
    wanted = literal_conv2d(*doubles(x, weight, bias), stride, 0)
    assert_close(lib.run(ops.conv2d, x, weight, bias, stride=stride), wanted, dtype)


def test_convolutions_without_a_bias(lib):
    x, weight, single = random(22, 2, 2, 4, 6), random(23, 3, 2, 2, 2), random(24, 2, 1, 2, 2)
    assert_close(lib.run(ops.conv2d, x, weight, stride=2), literal_conv2d(x, weight, None, 2, 0))
    assert_close(lib.run(ops.depthwise_conv2d, x, single, padding=0), literal_conv2d(x, single, None, 1, 0, groups=2))


def test_conv2d_does_not_flip_its_kernel(lib):
    x, kernel = np.array([[[[1.0, 2.0, 3.0]]]]), np.array([[[[10.0, 1.0]]]])
    np.testing.assert_array_equal(lib.run(ops.conv2d, x, kernel), [[[[12.0, 23.0]]]])


@pytest.mark.parametrize(("kernel", "padding"), [((3, 3), 1), ((3, 2), 0)])
def test_depthwise_conv2d_gives_each_channel_its_own_kernel(lib, dtype, kernel, padding):
    x, weight, bias = random(25, 2, 3, 5, 6, dtype=dtype), random(26, 3, 1, *kernel, dtype=dtype), random(27, 3, dtype=dtype)
    wanted = literal_conv2d(*doubles(x, weight, bias), 1, padding, groups=3)
    assert_close(lib.run(ops.depthwise_conv2d, x, weight, bias, padding=padding), wanted, dtype)


# resampling


def keys_kernel(x, a):
    x = abs(x)
    if x <= 1:
        return (a + 2) * x**3 - (a + 3) * x**2 + 1
    return a * x**3 - 5 * a * x**2 + 8 * a * x - 4 * a if x < 2 else 0.0


def triangle(x, _):
    return max(0.0, 1.0 - abs(x))


def resampling_matrix(source, target, method, antialias):
    """[target, source]: what every source pixel gives to every target pixel along one axis."""
    kernel, reach = (keys_kernel, 2) if method == "bicubic" else (triangle, 1)
    scale = source / target
    matrix = np.zeros((target, source))
    for i in range(target):
        centre = (i + 0.5) * scale  # where the target pixel's centre lies; source pixel j has its centre at j + 0.5
        if antialias:
            stretch = max(scale, 1.0)
            shares = [kernel((j + 0.5 - centre) / stretch, -0.5) for j in range(source)]
            matrix[i] = np.array(shares) / math.fsum(shares)
        else:
            first = math.floor(centre - 0.5) - reach + 1
            for j in range(first, first + 2 * reach):  # pixels beyond the border repeat it
                matrix[i, min(max(j, 0), source - 1)] += kernel(j + 0.5 - centre, -0.75)
    return matrix


SIZES = {"up": ((4, 5), (9, 7)), "down": ((9, 11), (4, 3)), "half": ((8, 6), (4, 3)), "from one pixel": ((1, 1), (3, 2))}


@pytest.mark.parametrize("sizes", SIZES)
@pytest.mark.parametrize("antialias", [False, True])
@pytest.mark.parametrize("method", ["bicubic", "bilinear"])
def test_resize_weighs_the_pixels_by_its_kernel(lib, method, antialias, sizes):
    source, target = SIZES[sizes]
    x = random(28, 2, 3, *source)
    rows, columns = (resampling_matrix(s, t, method, antialias) for s, t in zip(source, target, strict=True))
    wanted = np.array([[rows @ channel @ columns.T for channel in image] for image in x])
    assert_close(lib.run(ops.resize, x, size=target, method=method, antialias=antialias), wanted)


@pytest.mark.parametrize("antialias", [False, True])
def test_resize_in_every_dtype(lib, dtype, antialias):
    x = random(29, 1, 2, 5, 4, dtype=dtype)
    rows, columns = resampling_matrix(5, 8, "bicubic", antialias), resampling_matrix(4, 3, "bicubic", antialias)
    wanted = np.array([[rows @ channel @ columns.T for channel in image] for image in x.astype(np.float64)])
    assert_close(lib.run(ops.resize, x, size=(8, 3), antialias=antialias), wanted, dtype)


def test_resize_by_hand(lib):
    x = np.array([[[[0.0, 1.0]]]])
    bilinear = lib.run(ops.resize, x, size=(1, 4), method="bilinear")
    np.testing.assert_array_equal(bilinear, [[[[0.0, 0.25, 0.75, 1.0]]]])
    # The first centre lies at -0.25: taps at -2, -1, 0, 1, of which only the last is not the repeated border.
    # At distance 1.25 the kernel of a = -0.75 is -0.75 * (1.953125 - 7.8125 + 10 - 4) = -0.10546875.
    bicubic = lib.run(ops.resize, x, size=(1, 4), method="bicubic")
    assert bicubic[0, 0, 0, 0] == pytest.approx(-0.10546875, abs=1e-15)


@pytest.mark.parametrize("antialias", [False, True])
@pytest.mark.parametrize("method", ["bicubic", "bilinear"])
@pytest.mark.parametrize("target", [(3, 4), (7, 9), (14, 2)])
def test_resize_leaves_constants_constant(lib, method, antialias, target):
    resized = lib.run(ops.resize, np.full((1, 1, 7, 9), 2.5), size=target, method=method, antialias=antialias)
    np.testing.assert_allclose(resized, np.full((1, 1, *target), 2.5), rtol=1e-14)


@pytest.mark.parametrize("antialias", [False, True])
@pytest.mark.parametrize("method", ["bicubic", "bilinear"])
def test_resize_gives_each_target_pixel_weights_that_sum_to_one(lib, method, antialias):
    pixels = np.eye(6)[:, None, None, :]  # one image for each source pixel
    for target in (2, 4, 6, 13):
        shares = lib.run(ops.resize, pixels, size=(1, target), method=method, antialias=antialias)[:, 0, 0, :]
        np.testing.assert_allclose(shares.sum(axis=0), np.ones(target), rtol=1e-14)


@pytest.mark.parametrize("antialias", [False, True])
@pytest.mark.parametrize("method", ["bicubic", "bilinear"])
def test_resize_to_the_same_size_changes_nothing(lib, method, antialias):
    x = random(30, 2, 2, 5, 7)
    np.testing.assert_array_equal(lib.run(ops.resize, x, size=(5, 7), method=method, antialias=antialias), x)


# ranking and gathering


def test_rank_sorts_by_falling_score_and_keeps_the_lower_index_first(lib):
    scores = np.array([[0.1, 0.5, 0.5, 0.2], [0.0, -0.0, 0.0, 0.0], [-1.0, 3.0, -1.0, 3.0]])
    np.testing.assert_array_equal(lib.run(ops.rank, scores), [[1, 2, 3, 0], [0, 1, 2, 3], [1, 3, 0, 2]])


@pytest.mark.parametrize("levels", [1, 3, 50])
def test_rank_of_many_tokens_with_few_distinct_scores(lib, dtype, levels):
    scores = (np.random.default_rng(31).integers(0, levels, (4, 500)) / 64).astype(dtype)
    wanted = [sorted(range(500), key=lambda token, row=row: (-row[token], token)) for row in scores.tolist()]
    np.testing.assert_array_equal(lib.run(ops.rank, scores), wanted)


@pytest.mark.parametrize("rest", [(), (3,), (2, 2)])
def test_gather_takes_each_images_own_tokens_in_the_given_order(lib, rest):
    tokens, indices = random(32, 3, 5, *rest), np.array([[4, 0], [2, 2], [1, 3]])
    wanted = np.array([[tokens[image, token] for token in row] for image, row in enumerate(indices)])
    np.testing.assert_array_equal(lib.run(ops.gather, tokens, indices), wanted)


def test_gathering_nothing_gives_nothing(lib):
    assert lib.run(ops.gather, random(33, 2, 5, 3), np.zeros((2, 0), np.int64)).shape == (2, 0, 3)


# layout


def test_tokens_are_the_pixels_in_row_order(lib):
    maps = random(34, 2, 3, 4, 5)
    tokens = lib.run(ops.to_tokens, maps)
    assert tokens.shape == (2, 20, 3)
    for image, channel, row, column in grid(*maps.shape):
        assert tokens[image, 5 * row + column, channel] == maps[image, channel, row, column]
    np.testing.assert_array_equal(lib.run(ops.to_maps, tokens, grid=(4, 5)), maps)


@pytest.mark.parametrize("parts", [1, 2, 3])
def test_heads_lie_inside_queries_keys_and_values(lib, parts):
    x = random(35, 2, 3, parts * 4 * 5)
    split = lib.run(ops.split_heads, x, parts=parts, num_heads=4)
    assert [part.shape for part in split] == [(2, 4, 3, 5)] * parts
    for part, image, head, token, place in grid(parts, 2, 4, 3, 5):
        assert split[part][image, head, token, place] == x[image, token, part * 20 + head * 5 + place]


def test_merging_heads_undoes_splitting_them(lib):
    x = random(36, 2, 3, 20)
    (heads,) = lib.run(ops.split_heads, x, parts=1, num_heads=4)
    np.testing.assert_array_equal(lib.run(ops.merge_heads, heads), x)


# an empty batch is a batch

EMPTY = {
    "erf": (ops.erf, [(0, 3)], {}, (0, 3)),
    "gelu": (ops.gelu, [(0, 3)], {}, (0, 3)),
    "relu": (ops.relu, [(0, 3)], {}, (0, 3)),
    "softmax": (ops.softmax, [(0, 3)], {}, (0, 3)),
    "linear": (ops.linear, [(0, 2, 3), (4, 3), (4,)], {}, (0, 2, 4)),
    "layer_norm": (ops.layer_norm, [(0, 3), (3,), (3,)], {"eps": 1e-6}, (0, 3)),
    "batch_norm": (ops.batch_norm, [(0, 3, 2, 2), *[(3,)] * 4], {"eps": 1e-5}, (0, 3, 2, 2)),
    "matmul": (ops.matmul, [(0, 2, 3), (0, 3, 4)], {}, (0, 2, 4)),
    "mean": (ops.mean, [(0, 2, 3)], {"axis": 1}, (0, 3)),
    "conv2d, patches": (ops.conv2d, [(0, 3, 8, 8), (5, 3, 4, 4), (5,)], {"stride": 4}, (0, 5, 2, 2)),
    "conv2d, windows": (ops.conv2d, [(0, 3, 8, 8), (5, 3, 3, 3), (5,)], {"padding": 1}, (0, 5, 8, 8)),
    "depthwise_conv2d": (ops.depthwise_conv2d, [(0, 3, 4, 4), (3, 1, 3, 3), (3,)], {}, (0, 3, 4, 4)),
    "resize": (ops.resize, [(0, 3, 4, 4)], {"size": (6, 5)}, (0, 3, 6, 5)),
    "rank": (ops.rank, [(0, 7)], {}, (0, 7)),
    "to_tokens": (ops.to_tokens, [(0, 3, 4, 5)], {}, (0, 20, 3)),
    "to_maps": (ops.to_maps, [(0, 20, 3)], {"grid": (4, 5)}, (0, 3, 4, 5)),
    "merge_heads": (ops.merge_heads, [(0, 2, 3, 4)], {}, (0, 3, 8)),
}


@pytest.mark.parametrize("name", EMPTY)
def test_an_empty_batch_has_an_empty_result(lib, name):
    function, shapes, settings, wanted = EMPTY[name]
    assert lib.run(function, *[np.ones(shape) for shape in shapes], **settings).shape == wanted


def test_an_empty_batch_of_attention_heads_and_gathered_tokens(lib):
    heads = np.ones((0, 2, 3, 4))
    assert [part.shape for part in lib.run(ops.attention, heads, heads, heads, scale=0.5)] == [(0, 2, 3, 4), (0, 2, 3, 3)]
    assert [part.shape for part in lib.run(ops.split_heads, np.ones((0, 3, 24)), parts=3, num_heads=2)] == [(0, 2, 3, 4)] * 3
    assert lib.run(ops.gather, np.ones((0, 5, 3)), np.zeros((0, 2), np.int64)).shape == (0, 2, 3)


# the trace


def test_a_recorder_keeps_the_names_that_match_in_the_order_of_execution():
    record = Recorder(["blocks.*.norm1", "lost"])
    for name in ("blocks.1.norm1", "blocks.1.norm2", "blocks.0.norm1"):
        assert record(name, name.upper()) == name.upper()
    assert record.values == {"blocks.1.norm1": "BLOCKS.1.NORM1", "blocks.0.norm1": "BLOCKS.0.NORM1"}
    assert list(record.values) == ["blocks.1.norm1", "blocks.0.norm1"]
    assert record.unmatched == ["lost"]


def test_a_recorder_without_patterns_keeps_everything_and_the_last_value_of_a_name():
    record = Recorder()
    record("act", 1)
    record("act", 2)
    assert record.values == {"act": 2}
    assert record.unmatched == []


def test_not_tracing_adds_no_call():
    assert within(ops.untraced, "blocks.0") is ops.untraced


# the device of the inputs


@pytest.mark.parametrize("device", ["CPU_DEVICE", "device1"])
def test_everything_made_on_the_way_stands_beside_the_inputs(device):
    strict = pytest.importorskip("array_api_strict")
    place = strict.Device(device)
    x = strict.ones((1, 2, 5, 6), dtype=strict.float32, device=place)
    kernel = strict.ones((2, 1, 3, 3), dtype=strict.float32, device=place)
    for made in (
        ops.resize(x, (7, 3)), ops.conv2d(x, strict.ones((4, 2, 3, 3), dtype=strict.float32, device=place), padding=1),
        ops.depthwise_conv2d(x, kernel), ops.gather(x, ops.rank(x[:, :, 0, 0])),
    ):  # fmt: skip
        assert made.device == place


def test_constants_have_the_dtype_and_the_device_of_their_neighbour():
    strict = pytest.importorskip("array_api_strict")
    place = strict.Device("device1")
    like = strict.ones((3,), dtype=strict.float32, device=place)
    for made in (arrays.constant([0.5], like), arrays.zeros((2,), like)):
        assert (made.dtype, made.device) == (strict.float32, place)
    assert arrays.index_array([1, 0], like).device == place
    assert arrays.arange(3, like, strict.int64).device == place
