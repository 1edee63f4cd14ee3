"""EViT's token reorganization: what is kept, in which order, how the rest is fused, and where every token comes from."""

import math
from fractions import Fraction

import literal
import numpy as np
from examples import prop
from hypothesis import strategies as st
from strategies import (
    cast,
    doubles,
    dtypes,
    evits,
    near,
    normal,
    rates,
    rates_and_none,
    run,
    seeds,
    singles,
    sizes,
    vits,
    whole,
)

from reforg import evit, ops, token_map
from reforg.config import VitConfig
from reforg.ops import REFERENCE, Network
from reforg.tokens import TokenMap

levels = st.sampled_from([1, 2, 5, 1000])
counts = whole(1, 12)


def attentions(seed, levels, shape=(3, 12), dtype="float64"):
    """Attention scores in [0, 1] of so many different values: with few of them, most are equal to another."""
    return cast(np.floor(np.random.default_rng(seed).random(shape) * levels) / 1024.0, dtype)


# how many


@prop(count=st.integers(1, 5000), wanted=st.integers(1, 5000), rate=st.none() | st.floats(0, 1, exclude_min=True))
def test_the_kept_count_is_the_ceiling_of_the_product_rounded_to_double_precision(lib, count, wanted, rate):
    rate = min(wanted, count) / count if rate is None else rate  # a rate whose product is a whole number but for rounding
    product = float(Fraction(rate) * count)  # exact, then rounded once
    assert evit.kept_count(rate, count) == math.ceil(Fraction(product))


@prop(case=evits, seed=seeds)
def test_every_block_keeps_the_ceiling_of_its_rate_times_the_tokens_that_arrive(lib, case, seed):
    _, trace = run(lib, case, case.images(seed), kind="traced")
    arrived = case.patches
    for block, rate in enumerate(case.config.keep_rate):
        count = math.ceil(rate * arrived)
        if count < arrived:
            assert trace[f"blocks.{block}.kept"].shape == (2, count)
            arrived = count + case.config.fuse_token
        else:
            assert f"blocks.{block}.kept" not in trace
        assert trace[f"blocks.{block}"].shape[1] == arrived + case.config.num_special


# which


@prop(seed=seeds, count=counts, levels=levels, dtype=dtypes)
def test_attentive_and_inattentive_tokens_partition_the_tokens_in_falling_order(lib, seed, count, levels, dtype):
    scores = attentions(seed, levels, dtype=dtype)
    attentive, inattentive = lib.run(lambda x: evit.select_attentive(x, count, REFERENCE), scores)
    assert attentive.shape == (3, count)
    for chosen, rest, row in zip(attentive.tolist(), inattentive.tolist(), doubles(scores).tolist(), strict=True):
        assert sorted([*chosen, *rest]) == list(range(12))
        found = [row[token] for token in [*chosen, *rest]]
        assert found == sorted(row, reverse=True)


@prop(seed=seeds, count=counts, levels=st.integers(1, 4), dtype=dtypes)
def test_equal_scores_keep_the_lower_index(lib, seed, count, levels, dtype):
    scores = attentions(seed, levels, dtype=dtype)
    attentive, inattentive = lib.run(lambda x: evit.select_attentive(x, count, REFERENCE), scores)
    for chosen, rest, row in zip(attentive.tolist(), inattentive.tolist(), doubles(scores).tolist(), strict=True):
        assert [*chosen, *rest] == sorted(range(12), key=lambda token, row=row: (-row[token], token))


@prop(seed=seeds, count=sizes(1, 2, 30, 12), dtype=dtypes)
def test_ranking_follows_a_permutation_of_different_scores(lib, seed, count, dtype):
    chance = np.random.default_rng(seed)
    scores, order = cast([chance.permutation(count) / 64.0], dtype), chance.permutation(count)
    plain, moved = lib.run(ops.rank, scores), lib.run(ops.rank, scores[:, order])
    np.testing.assert_array_equal(order[moved[0]], plain[0])


@prop(seed=seeds, count=whole(1, 6), taken=whole(0, 8), rest=sizes((), (3,), (2, 2)))
def test_gathering_takes_each_images_own_tokens_in_the_given_order(lib, seed, count, taken, rest):
    tokens, indices = normal(seed, 3, count, *rest), np.random.default_rng(seed).integers(0, count, (3, taken))
    wanted = [tokens[image, token] for image in range(3) for token in indices[image]]
    np.testing.assert_array_equal(lib.run(ops.gather, tokens, indices), np.reshape(wanted, (3, taken, *rest)))


@prop(seed=seeds, heads=whole(1, 4), count=whole(1, 7), special=st.integers(1, 2), dtype=dtypes)
def test_scores_are_the_class_tokens_row_averaged_over_the_heads(lib, seed, heads, count, special, dtype):
    shares = cast(np.random.default_rng(seed).random((2, heads, special + count, special + count)), dtype)
    got = lib.run(lambda x: evit.class_attention(x, special), shares)
    rows = doubles(shares)
    wanted = [[math.fsum(rows[i, :, 0, special + token]) / heads for token in range(count)] for i in range(2)]
    near(got, wanted, dtype, heads, 1.0)


# the fused token


def literal_fusion(tokens, scores):
    """Every channel of the sum of the tokens times their scores, by math.fsum."""
    return [
        [[math.fsum(s * t[c] for s, t in zip(row, image, strict=True)) for c in range(tokens.shape[2])]]
        for image, row in zip(doubles(tokens), doubles(scores), strict=True)
    ]


@prop(seed=seeds, count=whole(1, 9), channels=whole(1, 6), dtype=dtypes)
def test_the_fused_token_is_the_attention_weighted_sum_not_divided_by_anything(lib, seed, count, channels, dtype):
    tokens, scores = normal(seed, 2, count, channels, dtype=dtype), attentions(seed, 1000, (2, count), dtype)
    got = lib.run(evit.fuse_inattentive, tokens, scores)
    near(got, literal_fusion(tokens, scores), dtype, count, np.abs(doubles(tokens)).max() * doubles(scores).sum(1).max())


@prop(seed=seeds, count=whole(2, 9), factor=st.integers(-3, 3))
def test_fusing_is_linear_in_the_tokens_and_in_the_scores(lib, seed, count, factor):
    (tokens, more), (scores, other) = normal(seed, 2, 2, count, 3), attentions(seed, 1000, (2, 2, count))

    def fuse(x, s):
        return lib.run(evit.fuse_inattentive, x, s)

    near(fuse(tokens + factor * more, scores), fuse(tokens, scores) + factor * fuse(more, scores), "float64", count, 50.0 * count)
    near(fuse(tokens, scores + factor * other), fuse(tokens, scores) + factor * fuse(tokens, other), "float64", count, 50.0 * count)


@prop(seed=seeds, fuse=st.booleans(), distilled=st.booleans(), count=whole(1, 6), levels=levels, dtype=singles)
def test_a_reorganization_keeps_special_tokens_then_the_attentive_then_the_fused_one(
    lib, seed, fuse, distilled, count, levels, dtype
):
    config, special = VitConfig(fuse_token=fuse, distilled=distilled), 1 + distilled
    tokens, scores = normal(seed, 2, special + 7, 3, dtype=dtype), attentions(seed, levels, (2, 7), dtype)
    got = lib.run(lambda x, s: evit.reorganize(Network({}, REFERENCE), "blocks.0", x, s, count, config), tokens, scores)
    assert got.shape == (2, special + count + fuse, 3)
    for image, row, result in zip(doubles(tokens), doubles(scores), got, strict=True):
        moved = literal.reorganize(list(image[special:]), list(row), count / 7, fuse)
        near(result, [*image[:special], *moved], dtype, 7, 7 * np.abs(image).max())


# where tokens come from


def literal_origins(case, trace, image):
    """{block: [{patch: weight} of every token]} of one image, by the words of the paper."""
    tokens: list[dict[int, float]] = [{patch: 1.0} for patch in range(case.patches)]
    after = {}
    for block in range(case.config.depth):
        path = f"blocks.{block}"
        if f"{path}.kept" not in trace:
            continue
        rows = [trace[f"{path}.attn{branch}.cls_attention"][image] for branch in ("", "1")[: case.config.parallel]]
        scores, kept = sum(rows) / len(rows), trace[f"{path}.kept"][image].tolist()
        fused: dict[int, float] = {}
        for token in set(range(len(tokens))) - set(kept):
            for patch, weight in tokens[token].items():
                fused[patch] = fused.get(patch, 0.0) + scores[token] * weight
        tokens = [tokens[token] for token in kept] + ([fused] if case.config.fuse_token else [])
        after[path] = tokens
    return after


@prop(case=evits, seed=seeds)
def test_the_token_map_composes_fusions_of_fusions(lib, case, seed):
    _, trace = run(lib, case, case.images(seed), kind="traced")
    maps = token_map(trace)
    for image in range(2):
        after = literal_origins(case, trace, image)
        assert list(after) == list(maps)
        for path, tokens in after.items():
            wanted = [[origin.get(patch, 0.0) for patch in range(case.patches)] for origin in tokens]
            near(maps[path].weights[image], wanted, "float64", case.config.depth)


@prop(case=evits, seed=seeds)
def test_every_patch_is_in_exactly_one_token_with_fusing_and_in_at_most_one_without(lib, case, seed):
    _, trace = run(lib, case, case.images(seed), kind="traced")
    for path, found in token_map(trace).items():
        assert isinstance(found, TokenMap)
        holders = (found.weights > 0).sum(axis=1)
        assert np.all(holders == 1) if case.config.fuse_token else np.all(holders <= 1)
        held = np.where(holders == 1, found.weights.argmax(axis=1), -1)
        np.testing.assert_array_equal(found.owner, held)
        assert found.fused[:, -1].all() if case.config.fuse_token else not found.fused.any()
        np.testing.assert_array_equal(found.kept.sum(axis=1), (~found.fused).sum(axis=1))
        assert found.grid == case.config.grid
        assert found.weights.shape[1] == trace[f"{path}.reorganized"].shape[1] - case.config.num_special


# arguments of the call


@prop(case=vits, seed=seeds, fuse=st.booleans())
def test_keeping_every_token_is_the_model_that_knows_no_keeping(lib, case, seed, fuse):
    images, plain = case.images(seed), run(lib, case, case.images(seed))
    blocks = tuple(range(case.config.depth))
    for kept in (case.changed(keep_rate=1.0, drop_loc=blocks, fuse_token=fuse), case.changed(tokens=case.patches, fuse_token=fuse)):
        np.testing.assert_array_equal(run(lib, kept, images), plain)
    np.testing.assert_array_equal(run(lib, case, images, tokens=case.patches), plain)
    np.testing.assert_array_equal(run(lib, case, images, keep_rate=0.3), plain)  # no block reorganizes


@prop(case=evits, seed=seeds, rate=rates)
def test_a_rate_given_at_the_call_replaces_only_the_rates_below_one(lib, case, seed, rate):
    images = case.images(seed)
    wanted = case.changed(keep_rate=tuple(rate if own < 1 else 1.0 for own in case.config.keep_rate))
    np.testing.assert_array_equal(run(lib, case, images, keep_rate=rate), run(lib, wanted, images))


@prop(case=evits, seed=seeds, given=rates_and_none)
def test_rates_given_for_each_block_replace_those_of_blocks_that_reorganize(lib, case, seed, given):
    images, given, own = case.images(seed), given[: case.config.depth], case.config.keep_rate
    wanted = case.changed(keep_rate=tuple(m if m == 1 or r is None else r for m, r in zip(own, given, strict=True)))
    np.testing.assert_array_equal(run(lib, case, images, keep_rate=given), run(lib, wanted, images))


@prop(case=evits, seed=seeds, left=rates_and_none)
def test_tokens_given_at_the_call_prune_every_block_they_are_given_for(lib, case, seed, left):
    config, arrived, tokens, kept = case.config, case.patches, [], []
    for block, share in enumerate(left[: config.depth]):
        wanted = math.ceil(config.keep_rate[block] * arrived) if share is None else max(1, int(share * arrived))
        tokens.append(None if share is None else wanted)
        kept.append(wanted if wanted < arrived else None)
        arrived = arrived if kept[-1] is None else wanted + config.fuse_token
    _, trace = run(lib, case, case.images(seed), kind="traced", tokens=tokens)
    found = [trace[f"blocks.{b}.kept"].shape[1] if f"blocks.{b}.kept" in trace else None for b in range(config.depth)]
    assert found == kept
    assert trace[f"blocks.{config.depth - 1}"].shape[1] == arrived + config.num_special


@prop(case=evits, seed=seeds)
def test_a_number_of_tokens_is_the_rate_that_comes_to_it(lib, case, seed):
    images, config, arrived, tokens = case.images(seed), case.config, case.patches, []
    for rate in config.keep_rate:
        tokens.append(math.ceil(rate * arrived))
        arrived = tokens[-1] + config.fuse_token if tokens[-1] < arrived else arrived
    wanted = run(lib, case, images)
    np.testing.assert_array_equal(run(lib, case.changed(keep_rate=1.0), images, tokens=tokens), wanted)
    configured = case.changed(tokens=tuple(tokens))
    np.testing.assert_array_equal(run(lib, configured, images), wanted)
    rate = min(config.keep_rate)  # at the call, it sets the config's own tokens aside
    np.testing.assert_array_equal(run(lib, configured, images, keep_rate=rate), run(lib, case, images, keep_rate=rate))
