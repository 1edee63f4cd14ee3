"""What must hold for any small model and any images: identities of the mechanisms, shown on examples that hypothesis picks.

Where a test takes `lib` the model is a pure function on that library's arrays (`model.apply`); the examples are then few.
Expected values are other models, literal recursions over lists, or finite differences, never the function under test.
"""

import math
from dataclasses import replace
from functools import cache

import numpy as np
import pytest
from hypothesis import HealthCheck, assume, given, settings
from hypothesis import strategies as st

from reforg import create_model, shunted, token_map, vit
from reforg.evit import fuse_inattentive, kept_count, reorganize, select_attentive
from reforg.ops import REFERENCE, Network, Recorder
from reforg.synthetic import uniform

MICRO = {"img_size": 16, "patch_size": 4, "embed_dim": 8, "depth": 3, "num_heads": 2, "num_classes": 3, "mlp_ratio": 2.0}
STAGES = {"embed_dims": (8,) * 4, "depths": (1,) * 4, "num_heads": (2,) * 4, "mlp_ratios": (1,) * 4, "num_classes": 3}
BASES = ("vit_tiny_patch16_224", "deit_tiny_distilled_patch16_224", "deit3_small_patch16_224", "deit_small_patch16_18x2_LS")
EXACT = {"rtol": 1e-11, "atol": 1e-12}  # float64: sums in another order

few = settings(max_examples=25, deadline=None, derandomize=True, suppress_health_check=[HealthCheck.function_scoped_fixture])
once = settings(few, max_examples=3)

seeds = st.integers(0, 10**6)
bases = st.sampled_from(BASES)
rates = st.floats(0.05, 0.99)


@cache
def micro(name, seed=0, dtype="float64", **changed):
    own = STAGES if name.startswith("shunted") else MICRO
    return create_model(name, weights=f"synthetic:{seed}", dtype=dtype, **{**own, **changed})


def pictures(seed, batch=2, side=16):
    return 2.0 * uniform("images", (batch, 3, side, side), seed)


def frozen(array):
    array = np.array(array)
    array.flags.writeable = False
    return array


def logits(lib, model, images, **call):
    """The model's pure function, run by that library."""
    return lib.run(lambda weights, x: model.apply(weights, x, **call), dict(model.weights), images)


# what keeping everything means


@few
@given(base=bases, seed=seeds)
def test_keeping_every_token_is_the_model_that_knows_no_keeping(base, seed):
    plain = micro(base, seed % 5)
    images = pictures(seed)
    for kept in (plain.with_config(keep_rate=1.0, drop_loc=(0, 1, 2)), plain.with_config(tokens=16, fuse_token=False)):
        np.testing.assert_array_equal(kept(images), plain(images))
    np.testing.assert_array_equal(plain(images, tokens=16), plain(images))


@few
@given(rate=st.fractions(0, 1) | st.floats(0, 1, exclude_min=True), count=st.integers(1, 5000))
def test_the_kept_count_is_the_ceiling_of_the_product_in_double_precision(rate, count):
    assume(rate > 0)
    assert kept_count(float(rate), count) == math.ceil(float(rate) * count)
    assert 1 <= kept_count(float(rate), count) <= count


def test_the_kept_count_rounds_as_doubles_do():
    assert kept_count(0.7, 10) == 7
    assert kept_count(0.55, 100) == 56  # 0.55 * 100 is 55.00000000000001 in double precision
    assert kept_count(0.07, 100) == 8  # and 0.07 * 100 is 7.000000000000001


# one reorganization


@few
@given(seed=seeds, count=st.integers(1, 15), levels=st.sampled_from([2, 5, 1000]))
def test_attentive_and_inattentive_tokens_partition_the_tokens(seed, count, levels):
    scores = np.floor(uniform("scores", (3, 16), seed) * levels) / levels
    attentive, inattentive = select_attentive(scores, count, REFERENCE)
    assert attentive.shape == (3, count)
    for chosen, rest, row in zip(attentive, inattentive, scores, strict=True):
        assert sorted([*chosen, *rest]) == list(range(16))
        assert min(row[chosen]) >= max(row[rest])
        assert [*chosen, *rest] == sorted(range(16), key=lambda token, row=row: (-row[token], token))


@once
@given(seed=seeds)
def test_the_fused_token_is_the_sum_of_the_tokens_times_their_attention(lib, seed):
    tokens, scores = uniform("tokens", (2, 5, 4), seed), uniform("scores", (2, 5), seed) + 1.0
    wanted = [[[math.fsum(t[c] * s for t, s in zip(image, row, strict=True)) for c in range(4)]]
              for image, row in zip(tokens, scores, strict=True)]  # fmt: skip
    np.testing.assert_allclose(lib.run(fuse_inattentive, tokens, scores), wanted, **EXACT)


@once
@given(seed=seeds, fuse=st.booleans(), distilled=st.booleans(), count=st.integers(1, 6))
def test_a_reorganization_keeps_special_tokens_then_the_attentive_then_the_fused_one(lib, seed, fuse, distilled, count):
    base = "deit_tiny_distilled_patch16_224" if distilled else "vit_tiny_patch16_224"
    config, special = micro(base, fuse_token=fuse).config, 1 + distilled
    tokens, scores = uniform("tokens", (2, special + 7, 3), seed), uniform("scores", (2, 7), seed) + 1.0
    got = lib.run(lambda x, s: reorganize(Network({}, REFERENCE), "blocks.0", x, s, count, config), tokens, scores)
    for image, row, result in zip(tokens, scores, got, strict=True):
        order = sorted(range(7), key=lambda token, row=row: -row[token])
        wanted = [*image[:special], *(image[special + token] for token in order[:count])]
        if fuse:
            wanted.append(sum(row[token] * image[special + token] for token in order[count:]))
        np.testing.assert_allclose(result, wanted, **EXACT)


# where tokens come from


def literal_origins(trace, patches, special, blocks, fuse):
    """[{patch: weight} of every token] after each block, for one image, by the words of the paper."""
    tokens = [{patch: 1.0} for patch in range(patches)]
    after = {}
    for path in blocks:
        scores = trace[f"{path}.cls_attention" if f"{path}.cls_attention" in trace else f"{path}.attn.cls_attention"][0]
        kept = [int(token) for token in trace[f"{path}.kept"][0]]
        fused = {}
        for token, origin in enumerate(tokens):
            if token not in kept:
                for patch, weight in origin.items():
                    fused[patch] = fused.get(patch, 0.0) + scores[token] * weight
        tokens = [tokens[token] for token in kept] + ([fused] if fuse else [])
        after[path] = tokens
    return after


@few
@given(base=bases, seed=seeds, rate=rates, fuse=st.booleans())
def test_the_token_map_composes_fusions_of_fusions(base, seed, rate, fuse):
    model = micro(base, seed % 3, depth=3).with_config(keep_rate=rate, drop_loc=(0, 1, 2), fuse_token=fuse)
    trace = model.trace(pictures(seed, batch=1))
    maps = token_map(trace)
    after = literal_origins(trace, 16, model.config.num_special, list(maps), fuse)
    for path, tokens in after.items():
        wanted = np.array([[origin.get(patch, 0.0) for patch in range(16)] for origin in tokens])
        np.testing.assert_allclose(maps[path].weights[0], wanted, **EXACT)
        assert trace[f"{path}.reorganized"].shape[1] == model.config.num_special + len(tokens)


@few
@given(seed=seeds, rate=rates, fuse=st.booleans())
def test_the_tokens_of_every_depth_share_the_patches_out(seed, rate, fuse):
    model = micro("evit_tiny_patch16_224", seed % 3, keep_rate=0.5, drop_loc=(0, 1, 2)).with_config(keep_rate=rate, fuse_token=fuse)
    for found in token_map(model.trace(pictures(seed))).values():
        holders = (found.weights > 0).sum(axis=1)
        assert np.all(holders == 1) if fuse else np.all(holders <= 1)
        np.testing.assert_array_equal(found.owner >= 0, holders == 1)
        assert found.fused[:, -1].all() if fuse else not found.fused.any()
        np.testing.assert_array_equal(found.kept.sum(axis=1), (~found.fused).sum(axis=1))
        assert found.grid == (4, 4)


# symmetries


@few
@given(base=bases, seed=seeds, rate=st.just(1.0) | rates)
def test_patches_permuted_together_with_their_positions_leave_the_logits_alone(base, seed, rate):
    model = micro(base, seed % 3).with_config(keep_rate=rate, drop_loc=(0, 2))
    config, images = model.config, pictures(seed)
    order = np.random.default_rng(seed).permutation(16)
    patches = images.reshape(2, 3, 4, 4, 4, 4).transpose(0, 1, 2, 4, 3, 5).reshape(2, 3, 16, 4, 4)
    shuffled = patches[:, :, order].reshape(2, 3, 4, 4, 4, 4).transpose(0, 1, 2, 4, 3, 5).reshape(images.shape)
    special = 0 if config.no_embed_class else config.num_special
    table = model.weights["pos_embed"]
    moved = np.concatenate([table[:, :special], table[:, special:][:, order]], axis=1)
    got = model.apply({**model.weights, "pos_embed": moved}, shuffled)
    np.testing.assert_allclose(got, model(images), **EXACT)


@few
@given(name=st.sampled_from([*BASES, "evit_tiny_patch16_224", "shunted_t"]), seed=seeds, batch=st.integers(1, 4))
def test_a_batch_is_its_images_one_by_one(name, seed, batch):
    model = micro(name, seed % 3, **({} if name == "shunted_t" else {"keep_rate": 0.6, "drop_loc": (0, 1)}))
    images = pictures(seed, batch, 64 if name == "shunted_t" else 16)
    alone = np.concatenate([model(images[image : image + 1]) for image in range(batch)])
    np.testing.assert_allclose(model(images), alone, **EXACT)


@few
@given(seed=seeds)
def test_the_images_of_a_batch_may_change_places(seed):
    model = micro("evit_tiny_patch16_224", drop_loc=(0, 1))
    images, order = pictures(seed, 4), np.random.default_rng(seed).permutation(4)
    np.testing.assert_allclose(model(images[order]), model(images)[order], **EXACT)


# parts that do nothing, or add up


@few
@given(base=bases, seed=seeds, rate=st.just(1.0) | rates)
def test_layer_scale_of_ones_is_none(base, seed, rate):
    scaled = micro(base, seed % 3, init_values=1e-4).with_config(keep_rate=rate, drop_loc=(1,))
    weights = {name: np.ones_like(value) if "gamma" in name else value for name, value in scaled.weights.items()}
    plain = replace(scaled.config, init_values=None)
    assert any("gamma" in name for name in weights)
    np.testing.assert_array_equal(scaled.apply(weights, pictures(seed)), vit.forward(weights, pictures(seed), plain))


@few
@given(seed=seeds, layer=st.integers(0, 2))
def test_a_block_whose_gains_are_zero_changes_nothing(seed, layer):
    model = micro("deit3_small_patch16_224", seed % 3)
    silent = {name: 0.0 * value if f"blocks.{layer}.gamma" in name else value for name, value in model.weights.items()}
    record = Recorder(["embedded", "blocks.?"])
    vit.forward(silent, pictures(seed), model.config, trace=record)
    before = record.values[f"blocks.{layer - 1}" if layer else "embedded"]
    np.testing.assert_array_equal(record.values[f"blocks.{layer}"], before)


@few
@given(seed=seeds)
def test_a_distilled_model_is_the_mean_of_its_two_heads(seed):
    model = micro("deit_tiny_distilled_patch16_224", seed % 3)
    states, weights = model.features(pictures(seed)), model.weights
    heads = [
        states[:, token] @ weights[f"{head}.weight"].T + weights[f"{head}.bias"] for token, head in enumerate(("head", "head_dist"))
    ]
    np.testing.assert_allclose(model(pictures(seed)), (heads[0] + heads[1]) / 2, **EXACT)


@few
@given(seed=seeds)
def test_two_equal_heads_and_tokens_are_as_one(seed):
    model = micro("deit_tiny_distilled_patch16_224", seed % 3)
    twins = dict(model.weights)
    table = np.array(twins["pos_embed"])
    table[:, 1] = table[:, 0]
    twins |= {"dist_token": twins["cls_token"], "pos_embed": table}
    twins |= {f"head_dist.{kind}": twins[f"head.{kind}"] for kind in ("weight", "bias")}
    record = Recorder(["head", "head_dist", "logits"])
    vit.forward(twins, pictures(seed), model.config, trace=record)
    np.testing.assert_allclose(record.values["head"], record.values["head_dist"], **EXACT)
    np.testing.assert_allclose(record.values["logits"], record.values["head"], **EXACT)


@few
@given(seed=seeds, height=st.integers(1, 4), width=st.integers(1, 4))
def test_shunted_attention_without_reduction_is_attention_plus_a_local_term(seed, height, width):
    count, dim, heads = height * width, 8, 2
    shapes = {"q": (8, 8), "kv": (16, 8), "proj": (8, 8), "local_conv": (8, 1, 3, 3)}
    weights = {f"attn.{name}.weight": uniform(name, shape, seed) for name, shape in shapes.items()}
    weights |= {f"attn.{name}.bias": uniform(f"{name}.b", shape[:1], seed) for name, shape in shapes.items()}
    x = uniform("x", (1, count, dim), seed)
    got = shunted.shunted_attention(Network(weights, REFERENCE), "attn", x, (height, width), heads, (1,))

    queries, keys_values = (x[0] @ weights[f"attn.{n}.weight"].T + weights[f"attn.{n}.bias"] for n in ("q", "kv"))
    keys, values = keys_values[:, :dim], keys_values[:, dim:]
    context = np.zeros((count, dim))
    for part in (slice(0, 4), slice(4, 8)):
        powers = np.exp(queries[:, part] @ keys[:, part].T / 2.0)  # heads of 4 channels: 1 / sqrt(4)
        context[:, part] = powers / powers.sum(axis=1, keepdims=True) @ values[:, part]
    for token, channel, down, right in np.ndindex(count, dim, 3, 3):
        row, column = token // width + down - 1, token % width + right - 1
        if 0 <= row < height and 0 <= column < width:
            context[token, channel] += (
                values[row * width + column, channel] * weights["attn.local_conv.weight"][channel, 0, down, right]
            )
    context += weights["attn.local_conv.bias"]
    np.testing.assert_allclose(got[0], context @ weights["attn.proj.weight"].T + weights["attn.proj.bias"], **EXACT)


# arguments of the call


@few
@given(seed=seeds, rate=rates, own=st.lists(st.sampled_from([1.0, 0.8, 0.4]), min_size=3, max_size=3))
def test_a_rate_given_at_the_call_replaces_only_the_rates_below_one(seed, rate, own):
    model = micro("evit_tiny_patch16_224", seed % 3, keep_rate=1.0).with_config(keep_rate=tuple(own))
    wanted = model.with_config(keep_rate=tuple(rate if mine < 1 else 1.0 for mine in own))
    np.testing.assert_array_equal(model(pictures(seed), keep_rate=rate), wanted(pictures(seed)))


@few
@given(seed=seeds, given_rates=st.lists(st.none() | rates, min_size=3, max_size=3))
def test_rates_given_for_each_block_replace_those_of_blocks_that_reorganize(seed, given_rates):
    model = micro("evit_tiny_patch16_224", seed % 3, keep_rate=0.7, drop_loc=(0, 2))
    first, _, last = given_rates
    wanted = model.with_config(keep_rate=(first or 0.7, 1.0, last or 0.7))
    np.testing.assert_array_equal(model(pictures(seed), keep_rate=given_rates), wanted(pictures(seed)))


@few
@given(seed=seeds, first=st.integers(5, 15), own=st.sampled_from([1.0, 0.5]), fuse=st.booleans())
def test_tokens_given_at_the_call_prune_every_block(seed, first, own, fuse):
    model = micro("evit_tiny_patch16_224", fuse_token=fuse, keep_rate=own, drop_loc=(1,))
    counts = [first, first - 2, first - 4]
    trace = model.trace(pictures(seed), tokens=counts)
    for block, count in enumerate(counts):
        assert trace[f"blocks.{block}.kept"].shape == (2, count)
        assert trace[f"blocks.{block}"].shape == (2, 1 + count + fuse, 8)


# numbers


@few
@given(name=st.sampled_from([*BASES, "shunted_t"]), seed=seeds)
def test_float32_converges_to_float64(name, seed):
    images = pictures(seed, side=64 if name == "shunted_t" else 16)
    single, double = (micro(name, seed % 3, dtype)(images) for dtype in ("float32", "float64"))
    assert single.dtype == np.float32
    difference = np.abs(single - double).max() / np.abs(double).max()
    assert difference < 1e-5  # some hundred and fifty roundings of 6e-8


@few
@given(name=st.sampled_from(["evit_tiny_patch16_224", "deit_small_patch16_18x2_LS", "shunted_t"]), seed=seeds)
def test_a_forward_pass_changes_neither_images_nor_weights(name, seed):
    side = 64 if name == "shunted_t" else 16
    model = micro(name, seed % 3, **({} if name == "shunted_t" else {"keep_rate": 0.5, "drop_loc": (0,)}))
    images = frozen(pictures(seed, side=side))
    weights = {key: frozen(value) for key, value in model.weights.items()}
    got = model.apply(weights, images)
    np.testing.assert_array_equal(images, pictures(seed, side=side))
    for key, value in weights.items():
        np.testing.assert_array_equal(value, model.weights[key])
    np.testing.assert_array_equal(model.apply(weights, images), got)


# every library


MODELS = {
    "vit": ("vit_tiny_patch16_224", {"depth": 2}, 16),
    "deit, distilled, other size": ("deit_tiny_distilled_patch16_224", {"depth": 1}, 24),
    "evit": ("evit_tiny_patch16_224", {"keep_rate": 0.6, "drop_loc": (0, 1), "depth": 2}, 16),
    "evit on parallel deit3": ("deit_small_patch16_18x2_LS", {"keep_rate": 0.6, "drop_loc": (0,), "depth": 1}, 16),
    "hmlp": ("deit3_small_patch16_224", {"stem": "hmlp", "patch_size": 16, "img_size": 32, "depth": 1}, 32),
    "shunted": ("shunted_s", {}, 64),
}


@pytest.mark.parametrize("case", MODELS)
def test_every_library_computes_the_same_model(lib, case):
    name, changed, side = MODELS[case]
    model = micro(name, **changed)
    np.testing.assert_allclose(logits(lib, model, pictures(1, side=side)), model(pictures(1, side=side)), **EXACT)


def test_keep_rate_of_a_call_reaches_every_library(lib):
    model = micro("evit_tiny_patch16_224", depth=1, keep_rate=0.6, drop_loc=(0,))
    got = logits(lib, model, pictures(2), keep_rate=0.3)
    np.testing.assert_allclose(got, model.with_config(keep_rate=0.3)(pictures(2)), **EXACT)


# gradients

SLOPES = {
    "vit": ("vit_tiny_patch16_224", {"depth": 1}, "blocks.0.attn.qkv.weight", 16),
    "evit": ("evit_tiny_patch16_224", {"depth": 2, "keep_rate": 0.6, "drop_loc": (0,)}, "blocks.0.attn.proj.weight", 16),
    "deit3": ("deit3_small_patch16_224", {"depth": 1}, "blocks.0.gamma_1", 16),
    "shunted": ("shunted_t", {}, "block2.0.attn.sr1.weight", 64),
}


def score(model, weights, images):
    """One number: the sum of the first class's logits minus the second's."""
    y = model.apply(weights, images)
    return (y[:, 0] - y[:, 1]).sum()


def slope(case):
    """Along a fixed direction in the images and one weight: the central difference of the score, in float64."""
    name, changed, key, side = SLOPES[case]
    model, images, step = micro(name, **changed), pictures(5, 1, side), 1e-5
    along, turned = uniform("along", images.shape), uniform("turned", model.weights[key].shape)
    ends = [
        score(model, {**model.weights, key: model.weights[key] + sign * step * turned}, images + sign * step * along)
        for sign in (1, -1)
    ]
    return model, key, images, along, turned, (ends[0] - ends[1]) / (2 * step)


@pytest.mark.parametrize("case", SLOPES)
def test_torch_differentiates_the_model(case):
    torch = pytest.importorskip("torch")
    model, key, images, along, turned, wanted = slope(case)
    weights = {name: torch.from_numpy(np.array(value)) for name, value in model.weights.items()}
    variables = [torch.from_numpy(images).requires_grad_(), weights[key].requires_grad_()]
    score(model, weights, variables[0]).backward()
    got = sum(float((v.grad.numpy() * d).sum()) for v, d in zip(variables, (along, turned), strict=True))
    assert got == pytest.approx(wanted, rel=1e-6)


@pytest.mark.parametrize(
    "case", [case for case in SLOPES if case != "shunted"]
)  # whose gradient takes a quarter of a minute to compile
def test_jax_differentiates_the_compiled_model(case):
    jax = pytest.importorskip("jax")
    jax.config.update("jax_enable_x64", True)
    model, key, images, along, turned, wanted = slope(case)
    others = {name: jax.numpy.asarray(value) for name, value in model.weights.items()}
    gradient = jax.jit(jax.grad(lambda x, w: score(model, {**others, key: w}, x), argnums=(0, 1)))
    slopes = gradient(jax.numpy.asarray(images), others[key])
    got = sum(float((np.asarray(g) * d).sum()) for g, d in zip(slopes, (along, turned), strict=True))
    assert got == pytest.approx(wanted, rel=1e-6)
