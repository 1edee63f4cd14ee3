"""Numbers and shapes at the edges: ties, denormals, giants, constants, one of everything, thousands, NaN, half precision.

Expected values are literal loops over Python's doubles, recordings of the official code, or follow from structure. Limits
come from rounding error analysis: a sum of n products may be off by n roundings of the sum of their absolute values, in the
dtype that the sum is formed in, and then the result is rounded once. What is below a dtype's smallest normal number may
become zero: JAX on a CPU takes denormal numbers of float32 and float64 for zero, NumPy and torch do not.
"""

import importlib.util
import math
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, fields
from functools import cache
from operator import mul
from typing import Any

import ml_dtypes
import numpy as np
import pytest

import reforg
import reforg_golden
from reforg import create_model, evit, shunted, vit
from reforg.catalog import synthetic
from reforg.catalog.names import build_config
from reforg.catalog.synthetic import uniform
from reforg.families import shapes
from reforg.models.backend import load
from reforg.ops import REFERENCE, Network, Recorder

FRAMEWORKS = {"numpy": "numpy", "torch": "torch", "jax": "jax"}
BACKENDS = [name for name, module in FRAMEWORKS.items() if importlib.util.find_spec(module)]
FLUSHING = ("jax", "jax-jit")  # take denormal numbers for zero
ROUNDING = {"float64": 2.0**-53, "float32": 2.0**-24, "float16": 2.0**-11, "bfloat16": 2.0**-8}
LARGEST = {name: float(ml_dtypes.finfo(name).max) for name in ROUNDING}
NORMAL = {name: float(ml_dtypes.finfo(name).smallest_normal) for name in ROUNDING}
SUMMED = {name: ROUNDING["float64" if name == "float64" else "float32"] for name in ROUNDING}
HALF = ("float16", "bfloat16")


@pytest.fixture(params=BACKENDS)
def backend(request):
    if request.param == "jax":
        import jax

        jax.config.update("jax_enable_x64", True)
    return request.param


def spare_eager_jax(lib):
    if lib.name == "jax":
        pytest.skip("JAX compiles every new shape, operation by operation, for seconds; under jit this runs")


def run_on_backend(name, function, *arrays):
    """`function(operations, *arrays)` with a backend's own operations; NumPy arrays in and out, of the dtype they have."""
    module = load(name)
    result = function(module.ops, *[module.asarray(array, module.dtype(array.dtype.name), None) for array in arrays])
    return np.asarray(module.to_numpy(result), np.float64)


def run_on_library(lib, function, *arrays):
    return np.asarray(lib.run(lambda *values: function(REFERENCE, *values), *arrays), np.float64)


# definitions, in Python's doubles


def dot(a, b, *more):
    return math.fsum([*map(mul, a, b), *more])


def affine(rows, weight, bias):
    return [[dot(row, w, b) for w, b in zip(weight, bias, strict=True)] for row in rows]


def shares(row):
    largest = max(row)
    powers = [math.exp(value - largest) for value in row]
    total = math.fsum(powers)
    return [power / total for power in powers]


def normed(rows, weight, bias, eps):
    found = []
    for row in rows:
        mean = math.fsum(row) / len(row)
        deviation = math.sqrt(math.fsum((value - mean) ** 2 for value in row) / len(row) + eps)
        found.append([(value - mean) / deviation * w + b for value, w, b in zip(row, weight, bias, strict=True)])
    return found


def gelu(x):
    return x * 0.5 * math.erfc(-x / math.sqrt(2.0))


def plus(rows, others):
    return [[a + b for a, b in zip(*pair, strict=True)] for pair in zip(rows, others, strict=True)]


def order(row):
    """By falling score; of equal ones, the lower index first."""
    return sorted(range(len(row)), key=lambda token: (-row[token], token))


def fused(tokens, scores):
    return [math.fsum(token[c] * score for token, score in zip(tokens, scores, strict=True)) for c in range(len(tokens[0]))]


class Literal:
    """ViT and EViT for one image: weights and tokens are lists of lists; `kept` has the choice of each block that made one."""

    def __init__(self, weights: Mapping[str, np.ndarray], config: Any) -> None:
        self.w = {name: np.asarray(value, np.float64).tolist() for name, value in weights.items()}
        self.config, self.special, self.kept = config, config.num_special, []

    def layer(self, path):
        return self.w[f"{path}.weight"], self.w[f"{path}.bias"]

    def norm(self, path, rows):
        return normed(rows, *self.layer(path), self.config.norm_eps)

    def embedded(self, image):
        patch, (channels, height, width) = self.config.patch_size, image.shape
        cut = image.reshape(channels, height // patch, patch, width // patch, patch).transpose(1, 3, 0, 2, 4)
        rows = cut.reshape(-1, channels * patch * patch).astype(np.float64).tolist()
        weight, bias = self.layer("patch_embed.proj")
        patches = affine(rows, np.reshape(weight, (len(weight), -1)).tolist(), bias)
        return plus([self.w[name][0][0] for name in self.config.special_tokens] + patches, self.w["pos_embed"][0])

    def mixed(self, path, x, rows=None):
        """What attention adds to the given rows (all by default), and the class token's attention to the patches."""
        width, heads = len(x[0]), self.config.num_heads
        qkv, size = affine(x, *self.layer(f"{path}.qkv")), width // heads
        context, classes = [[] for _ in (x if rows is None else rows)], [0.0] * (len(x) - self.special)
        for head in range(heads):
            q, k, v = ([token[s * width + head * size :][:size] for token in qkv] for s in range(3))
            columns = list(zip(*v, strict=True))
            for place, row in enumerate(range(len(x)) if rows is None else rows):
                share = shares([dot(q[row], key) / math.sqrt(size) for key in k])
                context[place] += [dot(share, column) for column in columns]
                if row == 0:
                    classes = [a + b / heads for a, b in zip(classes, share[self.special :], strict=True)]
        return affine(context, *self.layer(f"{path}.proj")), classes

    def mlp(self, path, rows):
        hidden = affine(self.norm(f"{path}.norm2", rows), *self.layer(f"{path}.mlp.fc1"))
        return plus(rows, affine([[gelu(value) for value in row] for row in hidden], *self.layer(f"{path}.mlp.fc2")))

    def fewer(self, x, scores, count):
        special, patches, places = x[: self.special], x[self.special :], order(scores)
        self.kept.append(places[:count])
        rest = [fused([patches[p] for p in places[count:]], [scores[p] for p in places[count:]])] if self.config.fuse_token else []
        return [*special, *(patches[place] for place in places[:count]), *rest]

    def logits(self, image, counts=()):
        """`counts`: how many patches each block keeps, of those that arrive; None or nothing said: all."""
        x = self.embedded(image)
        for number in range(self.config.depth):
            path = f"blocks.{number}"
            update, scores = self.mixed(f"{path}.attn", self.norm(f"{path}.norm1", x))
            x, count = plus(x, update), counts[number] if counts else None
            if count is not None and count < len(scores):
                x = self.fewer(x, scores, count)
            x = self.mlp(path, x)
        heads = [
            affine([state], *self.layer(head))[0] for head, state in zip(self.config.heads, self.norm("norm", x), strict=False)
        ]
        return [math.fsum(values) / len(heads) for values in zip(*heads, strict=True)]


# operations, on every library and by every backend's own


@dataclass(frozen=True)
class Edge:
    """An operation on arrays that are a function of the dtype; its literal result; the numbers whose roundings may add up in it."""

    operation: str
    arrays: Callable[[str], list[Any]]
    wanted: Callable[..., Any]
    doubt: Callable[..., Any]
    settings: dict[str, Any] = field(default_factory=dict)

    def given(self, dtype):
        return [np.array(value).astype(dtype) for value in self.arrays(dtype)]

    def function(self, operations, *arrays):
        return getattr(operations, self.operation)(*arrays, **self.settings)


def softmax_edge(rows):
    """Besides the sum's, a share has the rounding of its own distance to the maximum."""

    def doubt(x):
        return [
            [s * (len(row) + 8 + 2 * min(most - v, 800.0)) for v, s in zip(row, shares(row), strict=True)]
            for row, most in zip(x, map(max, x), strict=True)
        ]

    return Edge("softmax", lambda dtype: [rows(LARGEST[dtype])], lambda x: [shares(row) for row in x], doubt)


def norm_edge(rows, eps=1e-6, bias=0.25):
    """A mean may be off by n roundings of the largest number, which the deviation then divides."""
    width = len(rows(1e4)[0])
    weight, shift = (1.0 + uniform("w", (width,)) / 2).tolist(), [bias * c for c in range(width)]

    def wanted(x, weight, shift):
        return normed(x, weight, shift, eps)

    def doubt(x, weight, shift):
        found = []
        for row, out in zip(x, wanted(x, weight, shift), strict=True):
            mean = math.fsum(row) / len(row)
            deviation = math.sqrt(math.fsum((v - mean) ** 2 for v in row) / len(row) + eps)
            size = (len(row) + 2) * max(map(abs, row)) / deviation
            found.append([w * size + (len(row) + 8) * (abs(o) + abs(s)) for o, w, s in zip(out, weight, shift, strict=True)])
        return found

    def arrays(dtype):  # up to where a square still fits the dtype that it is computed in
        return [rows(min(LARGEST[dtype], math.sqrt(LARGEST["float64" if dtype == "float64" else "float32"]) / 8)), weight, shift]

    return Edge("layer_norm", arrays, wanted, doubt, {"eps": eps})


def gelu_edge(values):
    return Edge("gelu", lambda dtype: [values(dtype)], lambda x: [gelu(v) for v in x], lambda x: [8 * abs(v) for v in x])


def linear_edge(rows, weight):
    def doubt(x, weight, bias):
        sizes = [[[abs(v) for v in row] for row in part] for part in (x, weight)]
        return [
            [(len(row) + 2) * value for value in sums] for row, sums in zip(x, affine(*sizes, list(map(abs, bias))), strict=True)
        ]

    return Edge("linear", lambda dtype: [rows(dtype), weight, [0.5] * len(weight)], affine, doubt)


def denormal(dtype):
    return NORMAL[dtype] / 8


OPERATIONS = {
    "softmax of equal scores, however large": softmax_edge(lambda most: [[c] * 7 for c in (0.0, 1e4, -1e4, most, -most)]),
    "softmax of ten thousands": softmax_edge(lambda most: [[1e4, -1e4, 1e4, 9992.0], [-1e4, -1e4, -9992.0, -1e4]]),
    "softmax with one giant": softmax_edge(lambda most: [[0.0, min(1e30, most / 2), 1.0], [0.0, -min(1e30, most / 2), 1.0]]),
    "softmax of two giants": softmax_edge(lambda most: [[most / 2, 0.0, most / 2, -most / 2]]),
    "softmax of shares that vanish": softmax_edge(lambda most: [[0.0, -9.0, -17.0, -80.0, -104.0, -700.0, -746.0]]),
    "softmax of denormal scores": softmax_edge(lambda most: [[5e-324, 1e-310, 1e-40, 6e-8, -6e-8, 0.0]]),
    "softmax of ten thousand scores": softmax_edge(lambda most: (4 * uniform("s", (2, 10_000))).tolist()),
    "softmax of ten thousand equal scores": softmax_edge(lambda most: [[-3.0] * 10_000]),
    "layer norm of constants": norm_edge(lambda most: [[c] * 6 for c in (0.0, 3.0, -1024.0)]),
    "layer norm of constants that doubles only approximate": norm_edge(lambda most: [[c] * 6 for c in (0.1, -1e4 / 3, 1e-3)]),
    "layer norm where the epsilon decides": norm_edge(lambda most: [[2.0**-12, -(2.0**-12)] * 3, [1e-3, -1e-3] * 3], eps=2.0**-24),
    "layer norm of denormal numbers": norm_edge(lambda most: [[5e-324, 1e-310, 1e-40, 6e-8, -6e-8, 0.0]]),
    "layer norm far from zero": norm_edge(lambda most: [[most / 4 + most / 32 * v for v in range(6)], [*range(2048, 2060, 2)]]),
    "layer norm of one giant": norm_edge(lambda most: [[0.0, 1.0, most / 4, 2.0, -1.0, 0.5]]),
    "layer norm of one channel": norm_edge(lambda most: [[5.0], [-3.0]]),
    "gelu of large numbers": gelu_edge(lambda dtype: [s * v for s in (1, -1) for v in (6.0, 14.0, 40.0, 1e4, LARGEST[dtype] / 2)]),
    "gelu of denormal numbers": gelu_edge(lambda dtype: [denormal(dtype) * v for v in (0.0, 0.3, 1.0, 8.0, 9.0, -0.3, -1.0, -9.0)]),
    "linear of denormal numbers": linear_edge(lambda dtype: [[denormal(dtype) * v for v in (1, 3, -2)]], [[4.0, 1.0, 2.0]]),
    "linear of what cancels": linear_edge(lambda dtype: [[3e4, -3e4, 1.0]], [[1.0, 1.0, 1.0], [2.0, 2.0, 0.5]]),
}  # fmt: skip
every_operation = pytest.mark.parametrize("name", OPERATIONS)


def assert_within_rounding(run, name, dtype):
    case = OPERATIONS[name]
    arrays = case.given(dtype)
    literal = [array.astype(np.float64).tolist() for array in arrays]
    got, wanted, doubt = run(case.function, *arrays), np.array(case.wanted(*literal)), np.array(case.doubt(*literal))
    allowed = SUMMED[dtype] * doubt + ROUNDING[dtype] * np.abs(wanted) + NORMAL[dtype]
    assert got.shape == wanted.shape
    assert np.isfinite(got).all()
    assert (np.abs(got - wanted) / allowed).max() <= 1


@pytest.mark.parametrize("dtype", ["float64", "float32", "float16"])
@every_operation
def test_the_reference_is_within_rounding_at_the_edge(lib, name, dtype):
    assert_within_rounding(lambda *call: run_on_library(lib, *call), name, dtype)


@pytest.mark.parametrize("dtype", ROUNDING)
@every_operation
def test_a_backends_own_operations_are_within_rounding_at_the_edge(backend, name, dtype):
    assert_within_rounding(lambda *call: run_on_backend(backend, *call), name, dtype)


@pytest.mark.parametrize("bottom", [-LARGEST["float64"], -math.inf])
def test_scores_that_stand_for_minus_infinity_have_no_share(lib, bottom):
    with np.errstate(over="ignore"):  # NumPy says that -1.8e308 - 1.8e308 overflows; minus infinity is right there
        got = lib.run(REFERENCE.softmax, np.array([[bottom, 2.0, bottom, 2.0], [LARGEST["float64"], bottom, bottom, bottom]]))
    np.testing.assert_array_equal(got, [[0.0, 0.5, 0.0, 0.5], [1.0, 0.0, 0.0, 0.0]])


def test_gelu_of_the_largest_number_is_that_number(lib):
    """Without overflow on the way; torch's own kernel, and so the torch backend's, says infinity in float32."""
    for dtype in ("float64", "float32"):
        most = np.array([LARGEST[dtype], -LARGEST[dtype]]).astype(dtype)
        np.testing.assert_array_equal(lib.run(REFERENCE.gelu, most), [most[0], 0.0])


def attended(operations, queries, keys, values, scale=1.0):
    return operations.attention(queries, keys, values, scale)[0]


def heads_whose_scores_pass_float16():
    """[1, 1, 3, 64] twice, [1, 1, 3, 4]: scores of 107,325 and more, each token's own the largest by 20,250 at least."""
    queries = np.full((1, 1, 3, 64), 90.0, "float16")
    for token in range(3):
        queries[0, 0, token, token::3] = 180.0
    return queries, queries, np.eye(3, 4, dtype="float16")[None, None]


def test_the_reference_has_scores_beyond_float16s_largest_number(lib):
    if lib.name == "strict":
        pytest.skip("the standard has no float16")
    context = lib.run(lambda q, k, v: REFERENCE.attention(q, k, v, 0.125)[0], *heads_whose_scores_pass_float16())
    np.testing.assert_array_equal(context[0, 0].astype(np.float64), np.eye(3, 4))


def test_a_backend_has_scores_beyond_float16s_largest_number(backend):
    heads = heads_whose_scores_pass_float16()
    context = run_on_backend(backend, lambda ops, q, k, v: ops.attention(q, k, v, 0.125)[0], *heads)
    np.testing.assert_array_equal(context[0, 0], np.eye(3, 4))


def test_scores_are_rounded_once_for_their_trace_and_not_for_the_softmax():
    record = Recorder()
    queries, keys, values = heads_whose_scores_pass_float16()
    REFERENCE.attention(queries / 4, keys, values, 0.125, record)
    scores = (queries.astype(np.float64) / 4) @ np.swapaxes(keys, -1, -2).astype(np.float64) * 0.125
    np.testing.assert_array_equal(record.values["scores"], scores.astype("float16"))


@pytest.mark.parametrize(("dtype", "size"), [("float64", 1e15), ("float32", 1e15), ("float16", 100.0), ("bfloat16", 1e15)])
def test_one_hot_attention_copies_a_value_to_the_bit(backend, dtype, size):
    """A score of 5 size^2 beside four of size^2: 5e30, and 50,000 in float16."""
    hot = (size * (2 * np.eye(5) - 1))[None, None].astype(dtype)
    values = uniform("v", (1, 1, 5, 5)).astype(dtype)
    turned = values[:, :, [3, 0, 4, 1, 2]]
    got = run_on_backend(backend, attended, hot, hot[:, :, [3, 0, 4, 1, 2]], turned)
    np.testing.assert_array_equal(got, values.astype(np.float64))


@pytest.mark.parametrize("size", [1e15, 1e-170])
def test_attention_of_giants_copies_and_of_dwarfs_averages(lib, size):
    """Products of 1e30 choose one value; products that vanish give every value the same share."""
    hot, values = (size * (2 * np.eye(4) - 1))[None, None], np.arange(16.0).reshape(1, 1, 4, 4)
    wanted = values if size > 1 else np.broadcast_to(values.mean(axis=2, keepdims=True), values.shape)
    np.testing.assert_array_equal(run_on_library(lib, attended, hot, hot, values), wanted)


# ties, and the smallest reorganizations

UNEQUAL_IN_DOUBLES = [[0.5 + place * 2.0**-40 for place in (3, 1, 7, 1, 0, 7)]]
TIES = {
    "all scores equal": lambda dtype: [[0.25] * 300, [0.0] * 300],
    "a block of equal scores at the cut": lambda dtype: [[0.5] * 3 + [0.125] * 200 + [0.25] * 7],
    "zeros of both signs": lambda dtype: [[0.0, -0.0, 0.0, -0.0, 1.0, -0.0, 0.0]],
    "equal in float32 and not in float64": lambda dtype: UNEQUAL_IN_DOUBLES,
    "neighbours of the dtype": lambda dtype: [[0.5 * (1 + 2 * ROUNDING[dtype] * place) for place in (2, 0, 1, 2, 1, 0)]],
    "denormal scores": lambda dtype: [[NORMAL[dtype] / 4 * place for place in (1, 3, 0, 2, 3)]],
    "the largest numbers": lambda dtype: [[LARGEST[dtype] * sign for sign in (-1, 1, 0, 1, -1)]],
}  # fmt: skip
every_tie = pytest.mark.parametrize("name", TIES)


def assert_ranked(run, library, name, dtype):
    scores = np.array(TIES[name](dtype)).astype(dtype)
    seen = scores.astype(np.float64)
    if library in FLUSHING and dtype in ("float64", "float32", "bfloat16"):
        seen = np.where(np.abs(seen) < NORMAL[dtype], 0.0, seen)
    wanted = [order(row) for row in seen.tolist()]
    assert dtype == "float64" or name != "equal in float32 and not in float64" or wanted == [[0, 1, 2, 3, 4, 5]]
    np.testing.assert_array_equal(run(lambda operations, scores: operations.rank(scores), scores), wanted)


@pytest.mark.parametrize("dtype", ["float64", "float32", "float16"])
@every_tie
def test_the_reference_ranks_ties_by_their_place(lib, name, dtype):
    assert_ranked(lambda *call: run_on_library(lib, *call), lib.name, name, dtype)


@pytest.mark.parametrize("dtype", ROUNDING)
@every_tie
def test_a_backend_ranks_ties_by_their_place(backend, name, dtype):
    assert_ranked(lambda *call: run_on_backend(backend, *call), backend, name, dtype)


REORGANIZATIONS = {  # scores of one image, how many stay
    "one of two": ([0.25, 0.75], 1),
    "one of two equal ones": ([0.5, 0.5], 1),
    "one of nine hundred equal ones": ([2.0**-10] * 901, 1),
    "all but one": ([0.125, 0.0, 0.5, 0.125, 0.25, 0.0625], 5),
    "a tie across the cut": ([0.125, 0.25, 0.125, 0.25, 0.125, 0.125], 3),
    "weights of zero": ([1.0, 0.0, 0.0, 0.0, 0.0, 0.0], 3),
    "weights that are denormal in float16": ([0.5, *[2.0**-24] * 900], 1),
    "weights that vanish in float16": ([0.5, *[2.0**-26] * 900], 1),
}
every_reorganization = pytest.mark.parametrize("name", REORGANIZATIONS)


def assert_reorganized(run, name, fuse, dtype):
    """Tokens and their weighted sum, to one rounding of the dtype beside those of the sum."""
    scores, count = REORGANIZATIONS[name]
    row = np.array([scores]).astype(dtype)
    tokens = (1.0 + uniform("tokens", (1, 1 + len(scores), 3))).astype(dtype)
    config = build_config("evit_tiny_patch16_224", fuse_token=fuse)
    got = run(lambda operations, x, s: evit.reorganize(Network({}, operations), "blocks.0", x, s, count, config), tokens, row)[
        0
    ].tolist()
    (special, *patches), (weights,) = tokens[0].astype(np.float64).tolist(), row.astype(np.float64).tolist()
    places = order(weights)
    assert got[: 1 + count] == [special, *(patches[place] for place in places[:count])]
    wanted = [fused([patches[place] for place in places[count:]], [weights[place] for place in places[count:]])] if fuse else []
    np.testing.assert_allclose(
        np.reshape(got[1 + count :], (-1, 3)),
        np.reshape(wanted, (-1, 3)),
        rtol=1.01 * ROUNDING[dtype] + len(scores) * SUMMED[dtype],
        atol=NORMAL[dtype],
    )


@pytest.mark.parametrize("dtype", ["float64", "float16"])
@pytest.mark.parametrize("fuse", [True, False])
@every_reorganization
def test_the_reference_reorganizes_at_the_edge(lib, name, fuse, dtype):
    assert_reorganized(lambda *call: run_on_library(lib, *call), name, fuse, dtype)


@pytest.mark.parametrize("dtype", ["float32", *HALF])
@pytest.mark.parametrize("fuse", [True, False])
@every_reorganization
def test_a_backend_reorganizes_at_the_edge(backend, name, fuse, dtype):
    assert_reorganized(lambda *call: run_on_backend(backend, *call), name, fuse, dtype)


def test_a_thousand_weights_that_are_denormal_in_float16_still_add_up():
    """Each product of 2^-24 is float16's smallest number; their sum in float32, and only then rounded, loses none of them."""
    tokens, scores = np.ones((1, 1000, 1), np.float16), np.full((1, 1000), 2.0**-24, np.float16)
    assert float(evit.fuse_inattentive(tokens, scores)[0, 0, 0]) == float(np.float16(1000 * 2.0**-24)) > 0


# whole models

MICRO = {"img_size": 8, "patch_size": 4, "embed_dim": 8, "depth": 2, "num_heads": 2, "num_classes": 3, "mlp_ratio": 2.0}
Weights = dict[str, np.ndarray]


def strange_images(side=8):
    """Zeros, constants (the last so large that positions are lost), denormal numbers, one bright pixel, a chessboard."""
    fills = [0.0, 1.0, -0.1, 1e-310, 1e-40, 1e-30, 1e30]
    spot = np.zeros((3, side, side))
    spot[1, side // 2, 0] = 1e4
    board = np.indices((3, side, side)).sum(axis=0) % 2 * 2.0 - 1.0
    return np.stack([*(np.full((3, side, side), fill) for fill in fills), 1e-310 * board, spot, board])


def plain_images(side=8):
    return synthetic.images((3, 3, side, side), 6).astype(np.float64)


def wide_images(side=8):
    return plain_images(side)[:, :, :4]


def scaled(by: float, *endings: str) -> Callable[[Weights], Weights]:
    return lambda weights: {name: value * by if name.endswith(endings) else value for name, value in weights.items()}


def scores_of(size: float) -> Callable[[Weights], Weights]:
    """Queries and keys so scaled that scores are about `size`."""

    def change(weights: Weights) -> Weights:
        found = {}
        for name, value in weights.items():
            rows = np.ones(len(value))
            rows[: 2 * len(value) // 3] = math.sqrt(size)
            found[name] = value * rows.reshape(-1, *[1] * (value.ndim - 1)) if ".qkv." in name else value
        return found

    return change


@dataclass(frozen=True)
class Model:
    settings: dict[str, Any] = field(default_factory=dict)
    images: Callable[..., np.ndarray] = plain_images
    change: Callable[[Weights], Weights] = dict
    counts: tuple[int | None, ...] = (2, 2)
    side: int = 8
    blowup: float = 1.0  # by how much attention enlarges a relative error: the size of a score


EVIT = {"keep_rate": 0.5, "drop_loc": (0, 1), "fuse_token": True}  # of 4, and then of 2 + 1 tokens, 2 stay
MODELS = {
    "strange images": Model({}, strange_images, counts=()),
    "strange images, fewer and fewer tokens": Model(EVIT, lambda side: np.delete(strange_images(side), 6, axis=0)),
    "all scores zero, so equal": Model(EVIT, change=scaled(0.0, ".qkv.weight", ".qkv.bias")),
    "scores that vanish, so equal": Model(EVIT, change=scores_of(1e-30)),
    "scores of ten thousand": Model(EVIT, change=scores_of(1e4), blowup=1e4),
    "scores of 1e30": Model(EVIT, change=scores_of(1e30)),
    "weights that are denormal": Model(EVIT, change=scaled(1e-310, "norm1.weight", "norm2.weight", "fc2.weight")),
    "tokens of 1e30": Model(EVIT, change=scaled(1e30, "cls_token", "pos_embed")),
    "one patch": Model(EVIT | {"img_size": 4}, side=4, counts=()),
    "one pixel": Model(EVIT | {"img_size": 1, "patch_size": 1}, side=1, counts=()),
    "one head and one block": Model({"num_heads": 1, "depth": 1}, counts=()),
    "as many heads as channels": Model({"num_heads": 8}, counts=()),
    "one channel": Model({"embed_dim": 1, "num_heads": 1}, counts=()),
    "a keep rate so small that one token stays": Model(EVIT | {"keep_rate": 1e-9}, counts=(1, 1)),
    "one token stays, none is fused": Model(EVIT | {"keep_rate": 1e-9, "fuse_token": False}, counts=(1, None)),
    "one token of one and the fused one": Model({"tokens": 1, "fuse_token": True}, counts=(1, 1)),
    "two tokens": Model(EVIT | {"tokens": (2, 1), "img_size": (4, 8)}, wide_images, counts=(2, 1)),
    "distilled, two tokens": Model(EVIT | {"tokens": 1, "img_size": (4, 8), "distilled": True}, wide_images, counts=(1, 1)),
}  # fmt: skip
OF_ONE_SHAPE = [name for name, case in MODELS.items() if case.settings is EVIT and case.images is plain_images]
COMPILED = ("strange images, fewer and fewer tokens", "one pixel", "one token of one and the fused one", "distilled, two tokens")
every_model = pytest.mark.parametrize("name", MODELS)


@cache
def prepared(name):
    """Config, weights, images, and the literal logits and choices of every image."""
    case = MODELS[name]
    settings = {"keep_rate": 1.0, **MICRO, **case.settings}
    config = build_config("evit_tiny_patch16_224", **settings)
    weights = case.change({key: value.astype(np.float64) for key, value in synthetic.weights(shapes(config), 3).items()})
    images = case.images(case.side)
    logits, kept = [], []
    for image in images:
        model = Literal(weights, config)
        logits.append(model.logits(image, case.counts))
        kept.append(model.kept)
    return config, settings, weights, images, np.array(logits), list(zip(*kept, strict=True))


def distance(got, wanted):
    return np.abs(got - wanted).max() / np.abs(wanted).max()


def traced(weights, images, config, patterns=("*.kept", "logits"), **call):
    record = Recorder(patterns)
    (shunted if hasattr(config, "sr_ratios") else vit).forward(weights, images, config, REFERENCE, record, **call)
    return record.values


@every_model
def test_the_reference_is_the_literal_model_at_the_edge(lib, name):
    """64 roundings of float64, times what attention enlarges them by; and the very same tokens stay."""
    if name not in {"jax": OF_ONE_SHAPE, "jax-jit": COMPILED}.get(lib.name, MODELS):
        pytest.skip("JAX compiles every new shape; eagerly the cases of one shape run, under jit a few of the others")
    config, _, weights, images, wanted, kept = prepared(name)
    got = lib.run(traced, weights, images, config=config)
    assert distance(got.pop("logits"), wanted) <= 64 * ROUNDING["float64"] * MODELS[name].blowup
    assert len(got) == len(kept)
    for ours, theirs in zip([got[path] for path in sorted(got)], kept, strict=True):
        np.testing.assert_array_equal(ours, theirs)


def fitting(name, dtype):
    """Whether the case's numbers fit the dtype: float32 squares no giants, and rounds scores of 1e4 to thousandths."""
    return dtype == "float64" or not any(word in name for word in ("strange", "1e30", "ten thousand"))


@pytest.mark.parametrize(
    ("name", "dtype"), [(name, dtype) for name in MODELS for dtype in ("float64", "float32") if fitting(name, dtype)]
)
def test_a_backend_is_the_literal_model_at_the_edge(backend, name, dtype):
    if backend == "jax" and (dtype == "float32" or name not in OF_ONE_SHAPE):
        pytest.skip("JAX compiles each shape; one shape in float64 does")
    _, settings, weights, images, wanted, _ = prepared(name)
    model = create_model("evit_tiny_patch16_224", weights=weights, backend=backend, dtype=dtype, **settings)
    got = np.asarray(model.backend.to_numpy(model(images)), np.float64)
    assert distance(got, wanted) <= 64 * ROUNDING[dtype] * MODELS[name].blowup


# thousands


@cache
def many_tokens():
    """A model of 4,032 patches, and Python's own numbers for it: every patch's attention, and some rows after the first block."""
    settings = {**MICRO, "img_size": (252, 256), "num_heads": 1, "keep_rate": 0.5, "drop_loc": (0,), "fuse_token": True}
    config = build_config("evit_tiny_patch16_224", **settings)
    weights = {name: value.astype(np.float64) for name, value in synthetic.weights(shapes(config), 8).items()}
    image = synthetic.images((1, 3, 252, 256), 8).astype(np.float64)
    model = Literal(weights, config)
    x, path = model.embedded(image[0]), "blocks.0"
    normed_x, places = model.norm(f"{path}.norm1", x), [0, 1, 2017, 4032]
    update, scores = model.mixed(f"{path}.attn", normed_x, places)
    return config, weights, image, places, plus([x[place] for place in places], update), scores


def test_four_thousand_tokens_are_ranked_halved_and_finite(lib):
    spare_eager_jax(lib)
    config, weights, image, places, rows, scores = many_tokens()
    patterns = ("blocks.0.attn", "embedded", "*.cls_attention", "*.kept", "blocks.?", "logits")
    got = lib.run(traced, weights, image, config=config, patterns=patterns)
    attended = got["embedded"] + got["blocks.0.attn"]
    assert distance(attended[0, places], np.array(rows)) <= 64 * ROUNDING["float64"]
    assert distance(got["blocks.0.attn.cls_attention"][0], np.array(scores)) <= 64 * ROUNDING["float64"]
    np.testing.assert_array_equal(got["blocks.0.kept"][0], order(scores)[:2016])
    assert [got[f"blocks.{number}"].shape for number in (0, 1)] == [(1, 1 + 2016 + 1, 8)] * 2
    assert all(np.isfinite(value).all() for value in got.values())


def test_every_backend_ranks_and_halves_four_thousand_tokens(backend):
    config, weights, image, _, _, scores = many_tokens()
    seen, module = [], load(backend)

    def rank(values):
        seen.append((values, module.ops.rank(values)))
        return seen[-1][1]

    weights, image = (
        {name: module.asarray(value, module.dtype("float64"), None) for name, value in arrays.items()}
        for arrays in (weights, {"images": image})
    )
    features = vit.features(weights, image["images"], config, module.ops.replaced("ears", {"rank": rank}))
    features, attention, places = (np.asarray(module.to_numpy(array)) for array in (features, *seen[0]))
    assert distance(attention[0], np.array(scores)) <= 64 * ROUNDING["float64"]
    np.testing.assert_array_equal(places[0, :2016], order(scores)[:2016])
    assert features.shape == (1, 1 + 2016 + 1, 8)
    assert np.isfinite(features).all()


@cache
def many_images():
    settings = {**MICRO, "img_size": 4, "embed_dim": 4, "num_heads": 1, "depth": 1, "keep_rate": 1.0}
    config = build_config("evit_tiny_patch16_224", **settings)
    weights = {name: value.astype(np.float64) for name, value in synthetic.weights(shapes(config), 9).items()}
    return config, weights, synthetic.images((20_000, 3, 4, 4), 9).astype(np.float64)


def test_twenty_thousand_images_are_as_each_alone(lib):
    spare_eager_jax(lib)
    config, weights, images = many_images()
    got = lib.run(traced, weights, images, config=config, patterns=("logits",))["logits"]
    assert got.shape == (20_000, 3)
    places = [0, 1, 9_999, 16_384, 19_999]
    wanted = np.array([Literal(weights, config).logits(images[place]) for place in places])
    assert distance(got[places], wanted) <= 64 * ROUNDING["float64"]


# NaN and infinity

SPOILED = {
    "vit": ("vit_tiny_patch16_224", MICRO, 8),
    "evit": ("evit_tiny_patch16_224", MICRO | EVIT, 8),
    "shunted": (
        "shunted_t",
        {"embed_dims": (4,) * 4, "depths": (1,) * 4, "num_heads": (2,) * 4, "mlp_ratios": (1,) * 4, "num_classes": 3},
        32,
    ),
}  # fmt: skip


@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf])
@pytest.mark.parametrize("case", SPOILED)
def test_only_the_image_with_nan_or_infinity_is_spoiled(backend, case, bad):
    if backend == "jax" and case == "shunted":
        pytest.skip("JAX compiles this one for ten seconds")
    name, settings, side = SPOILED[case]
    model = create_model(name, weights="synthetic:5", backend=backend, dtype="float64", check_finite=False, **settings)
    images = synthetic.images((3, 3, side, side), 5).astype(np.float64)
    whole = np.array(model.backend.to_numpy(model(images)))
    images[1, 2, side // 2, side - 1] = bad
    with np.errstate(invalid="ignore"):
        got = np.array(model.backend.to_numpy(model(images)))
    np.testing.assert_array_equal(got[[0, 2]], whole[[0, 2]])
    assert np.isnan(got[1]).all()


@pytest.mark.parametrize("case", SPOILED)
def test_numbers_that_overflow_on_the_way_spoil_their_own_image_only(backend, case):
    """1e200 squared is beyond float64: in a norm that gives zeros, elsewhere infinity or NaN; the others stay as they are."""
    if backend == "jax" and case == "shunted":
        pytest.skip("JAX compiles this one for ten seconds")
    name, settings, side = SPOILED[case]
    model = create_model(name, weights="synthetic:5", backend=backend, dtype="float64", **settings)
    images = synthetic.images((3, 3, side, side), 5).astype(np.float64)
    whole = np.array(model.backend.to_numpy(model(images)))
    images[1] *= 1e200
    with np.errstate(over="ignore", invalid="ignore"):
        got = np.array(model.backend.to_numpy(model(images)))
    np.testing.assert_array_equal(got[[0, 2]], whole[[0, 2]])


# the smallest Shunted Transformers

ONE_TOKEN = {
    "embed_dims": (4, 4, 8, 8), "depths": (1, 2, 1, 1), "num_heads": (2, 1, 2, 2), "mlp_ratios": (2,) * 4, "num_classes": 3,
    "sr_ratios": (1,) * 4,
}  # fmt: skip


def literal_shunted(w, image):
    """On one token a stage: attention is its value, and of a depthwise 3x3 kernel only the middle is on the token."""
    w = {name: value.tolist() for name, value in w.items()}

    def layer(path, x):
        return affine([x], w[f"{path}.weight"], w[f"{path}.bias"])[0]

    def norm(path, x, eps):
        return normed([x], w[f"{path}.weight"], w[f"{path}.bias"], eps)[0]

    def middle(path, x):
        return [v * kernel[0][1][1] + b for v, kernel, b in zip(x, w[f"{path}.weight"], w[f"{path}.bias"], strict=True)]

    def add(*parts):
        return [math.fsum(values) for values in zip(*parts, strict=True)]

    padded = np.pad(image, ((0, 0), (3, 3), (3, 3)))
    windows = [padded[:, 2 * i : 2 * i + 7, 2 * j : 2 * j + 7].reshape(-1).tolist() for i in (0, 1) for j in (0, 1)]
    filters = np.reshape(w["patch_embed1.conv.0.weight"], (4, -1)).tolist()
    gains = [
        g / math.sqrt(v + 1e-5) for g, v in zip(w["patch_embed1.conv.1.weight"], w["patch_embed1.conv.1.running_var"], strict=True)
    ]
    shifts = list(zip(gains, w["patch_embed1.conv.1.running_mean"], w["patch_embed1.conv.1.bias"], strict=True))
    maps = [
        [max(0.0, (dot(window, f) - mean) * g + b) for f, (g, mean, b) in zip(filters, shifts, strict=True)] for window in windows
    ]
    reduce = np.reshape(w["patch_embed1.conv.3.weight"], (4, -1)).tolist()
    x = [*zip(*maps, strict=True)]
    x = affine([[v for channel in x for v in channel]], reduce, w["patch_embed1.conv.3.bias"])[0]
    for stage in range(1, 5):
        if stage > 1:
            kernels = w[f"patch_embed{stage}.proj.weight"]
            x = [
                dot(x, [c[1][1] for c in kernel], b) for kernel, b in zip(kernels, w[f"patch_embed{stage}.proj.bias"], strict=True)
            ]
        x = norm(f"patch_embed{stage}.norm", x, 1e-5)
        for number in range(ONE_TOKEN["depths"][stage - 1]):
            path = f"block{stage}.{number}"
            value = layer(f"{path}.attn.kv", norm(f"{path}.norm1", x, 1e-6))[len(x) :]
            x = add(x, layer(f"{path}.attn.proj", add(value, middle(f"{path}.attn.local_conv", value))))
            y = layer(f"{path}.mlp.fc1", norm(f"{path}.norm2", x, 1e-6))
            x = add(x, layer(f"{path}.mlp.fc2", [gelu(v) for v in add(y, middle(f"{path}.mlp.dwconv.dwconv", y))]))
        x = norm(f"norm{stage}", x, 1e-6)
    return layer("head", x)


def test_a_shunted_transformer_of_one_token_is_a_chain_of_layers(lib):
    """Without reduction 3x3 pixels are enough for one token in every stage."""
    spare_eager_jax(lib)
    config = build_config("shunted_t", **ONE_TOKEN)
    weights = {name: value.astype(np.float64) for name, value in synthetic.weights(shapes(config), 10).items()}
    images = synthetic.images((2, 3, 3, 3), 10).astype(np.float64)
    got = lib.run(traced, weights, images, config=config, patterns=("logits",))["logits"]
    wanted = np.array([literal_shunted(weights, image) for image in images])
    assert distance(got, wanted) <= 64 * ROUNDING["float64"]


def test_the_smallest_image_of_the_published_ratios_leaves_one_key(lib):
    """31 pixels: grids of 8, 4, 2 and 1, reduced by 8, 4 and 2 to one key, whose value every token then gets."""
    spare_eager_jax(lib)
    config = build_config("shunted_t", **SPOILED["shunted"][1])
    weights = {name: value.astype(np.float64) for name, value in synthetic.weights(shapes(config), 11).items()}
    images = synthetic.images((1, 3, 31, 31), 11).astype(np.float64)
    got = lib.run(traced, weights, images, config=config, patterns=("*.branches.0.*", "*.kv1", "*.local_conv1", "logits"))
    for stage, count in ((1, 64), (2, 16), (3, 4), (4, 1)):
        probabilities = got[f"block{stage}.0.attn.branches.0.probs"]
        np.testing.assert_array_equal(probabilities, np.ones((1, 1 if stage < 4 else 2, count, 1)))
    for stage in (1, 2, 3):
        values = got[f"block{stage}.0.attn.kv1"][:, :, 2:] + got[f"block{stage}.0.attn.local_conv1"].reshape(1, 1, 2)
        context = got[f"block{stage}.0.attn.branches.0.context"][:, 0]
        np.testing.assert_array_equal(context, np.broadcast_to(values, context.shape))
    assert np.isfinite(got["logits"]).all()


@pytest.mark.parametrize(("ratios", "smallest"), [((8, 4, 2, 1), 31), ((1, 1, 1, 1), 3)])
def test_a_pixel_less_than_the_smallest_image_is_refused(ratios, smallest):
    model = create_model("shunted_t", weights="synthetic:1", **SPOILED["shunted"][1], sr_ratios=ratios)
    assert np.isfinite(model(synthetic.images((1, 3, smallest, smallest)))).all()
    for size in ((smallest - 1, 40), (40, smallest - 1)):
        with pytest.raises(reforg.ShapeError, match="would leave nothing; the image is too small"):
            model(synthetic.images((1, 3, *size)))


# half precision, up to the largest number of float16

GOLDEN = {case.id: case for case in reforg_golden.cases() if "micro" in case.id}
LOUD = re.compile(r"blocks?\d?\.\d+")  # the residual stream after a block
QUIET = re.compile(r"norm\d?|head|block.*\.(norm\d?|qkv|q|kv\d?|fc1|act)")  # what comes after a norm of it


def louder(weights: Weights, power: int) -> Weights:
    """The residual stream times 2^power, exactly; every norm that reads it divides that out again, if its epsilon follows."""
    updates = ("gamma_1", "gamma_2", "gamma_1_1", "gamma_2_1")
    if not any("gamma_1" in name for name in weights):
        updates = tuple(f"{layer}.{kind}" for layer in (".attn.proj", ".mlp.fc2") for kind in ("weight", "bias"))
    first = re.compile(r"cls_token|dist_token|pos_embed|patch_embed\.proj(\.7)?\.(weight|bias)|patch_embed\d\.norm\.(weight|bias)")
    return {
        name: value * 2.0**power if first.fullmatch(name) or name.endswith(updates) else value for name, value in weights.items()
    }


def rms(values):
    return math.sqrt(np.mean(np.square(values, dtype=np.float64)))


def emulated(weights, images, config, dtype):
    """The model in float64, where weights, images and every named intermediate are rounded to `dtype` once: the error to expect."""

    def rounded(value):
        return value if value.dtype.kind == "i" else value.astype(dtype).astype(np.float64)

    values = {}

    def trace(name, value):
        values[name] = rounded(value)
        return values[name]

    family = shunted if hasattr(config, "sr_ratios") else vit
    family.forward({name: rounded(value) for name, value in weights.items()}, rounded(images), config, trace=trace)
    return values


@cache
def recorded(name):
    """A micro model whose residual stream fills float16, with float64 truths of others' making: config, weights, images, truths."""
    if name in GOLDEN:
        case = GOLDEN[name]
        seed, shape = case.entry["images"]["synthetic"], tuple(case.entry["images"]["shape"])
        listed, settings, arrays = case.entry["model"], case.entry["config"], case.arrays()
        truths = {path: value for path, value in case.taps().items() if LOUD.fullmatch(path) or QUIET.fullmatch(path)}
        truths |= {path: value for path, value in arrays.items() if path == "logits" or path.startswith("kept_tokens.")}
        power = int(math.log2(60000 / max(np.abs(value).max() for path, value in truths.items() if LOUD.fullmatch(path))))
    else:
        listed, settings, seed, shape, power, truths = name, MICRO, 12, (20, 3, 8, 8), 12, {}
    plain, config = (build_config(listed, **settings, norm_eps=1e-6 * 4.0**exponent) for exponent in (0, power))
    weights, images = synthetic.weights(shapes(plain), seed), synthetic.images(shape, seed)
    truths = truths or {"logits": np.array([Literal(weights, plain).logits(image) for image in images])}
    doubles = {key: value.astype(np.float64) for key, value in louder(weights, power).items()}
    return (
        config,
        doubles,
        images.astype(np.float64),
        {path: value * 2.0**power if LOUD.fullmatch(path) else value for path, value in truths.items()},
    )


def settled(values, truths):
    """The names up to the first block that keeps other tokens than the official code did in float64."""
    names, choices = [], 0
    for name, value in values.items():
        if name.endswith(".kept"):
            if not np.array_equal(np.sort(value, axis=1), np.sort(truths[f"kept_tokens.{choices}"], axis=1)):
                break
            choices += 1
        elif name in truths:
            names.append(name)
    return names


LOUDEST = 25_000  # what the largest value of a stream at least is, after scaling by a power of two
HALVES = [*(name for name, case in GOLDEN.items() if case.taps()), "vit_tiny_patch16_224", "deit_tiny_distilled_patch16_224"]


@pytest.mark.parametrize("dtype", HALF)
@pytest.mark.parametrize("name", HALVES)
def test_half_precision_is_finite_and_errs_as_one_rounding_a_step_does(backend, name, dtype):
    """The stream reaches 60,000. Root mean squares: at most twice what rounding every intermediate once does, and two roundings.

    Kept tokens may come in another order, so a model that drops some is seen at its class token.
    """
    if backend == "jax" and name != "vit_tiny_patch16_224":
        pytest.skip("JAX compiles each model for seconds")
    config, weights, images, truths = recorded(name)
    settings = {entry.name: getattr(config, entry.name) for entry in fields(config) if entry.name not in ("family", "modules")}
    listed = GOLDEN[name].entry["model"] if name in GOLDEN else name
    model = create_model(listed, weights=weights, backend=backend, dtype=dtype, **settings)
    expected = emulated(weights, images, config, dtype)
    trace = {} if backend == "jax" else model.trace(images)
    got = {path: host(model, value) for path, value in trace.items()} | {"own logits": host(model, model(images))}
    truths, expected = ({**values, "own logits": values["logits"]} for values in (truths, expected))
    assert all(np.isfinite(value).all() for value in got.values())
    assert (LOUDEST if trace else 0) <= max(np.abs(value).max() for value in got.values())
    names = [path for path in settled(got, truths) if path in settled(expected, truths)]
    assert names
    for path in names:
        seen = slice(0, 1) if any(key.endswith(".kept") for key in got) else slice(None)
        ours, theirs, truth = (
            values[path][:, seen] if values[path].ndim == 3 else values[path] for values in (got, expected, truths)
        )
        assert rms(ours - truth) <= 2 * rms(theirs - truth) + 2 * ROUNDING[dtype] * rms(truth), path


def host(model, array):
    array = np.asarray(model.backend.to_numpy(array))
    return array if array.dtype.kind == "i" else array.astype(np.float64)
