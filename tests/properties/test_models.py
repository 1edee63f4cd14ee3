"""Whole models over random configs: against the papers in loops, and what must hold between one model and another.

Two results may differ by what rounding does to that very model (`strategies.allowance`), and by no more.
"""

from functools import partial

import literal
import numpy as np
import pytest
from examples import prop
from hypothesis import strategies as st
from strategies import (
    agree,
    allowance,
    clear_choice,
    compiles,
    doubles,
    evits,
    grids,
    model_dtypes,
    near,
    program,
    run,
    seeds,
    shunteds,
    vits,
)

# JAX without jit compiles every operation for every new shape, for a Shunted Transformer 20 s long.
uncompiled = pytest.mark.without("jax")

# against the papers


def literal_logits(case, images, weights=None):
    one = literal.vit if hasattr(case.config, "patch_size") else literal.shunted
    weights = case.weights() if weights is None else weights
    return np.array([one(weights, image, case.config) for image in doubles(images)])


@prop(case=evits, seed=seeds)
def test_vit_deit_and_evit_are_what_their_papers_say(lib, case, seed):
    images = case.images(seed)
    agree(run(lib, case, images), literal_logits(case, images), allowance(case, images, "float64"))


@prop(case=evits, seed=seeds)
def test_the_kept_tokens_are_those_that_the_paper_keeps(lib, case, seed):
    images = case.images(seed)
    _, trace = run(lib, case, images, kind="traced")
    found = [value for name, value in trace.items() if name.endswith(".kept")]
    for number, image in enumerate(images):
        wanted: list[list[int]] = []
        literal.vit(case.weights(), image, case.config, wanted)
        assert [kept[number].tolist() for kept in found] == wanted


@prop(case=evits, seed=seeds, grid=grids)
def test_an_image_of_another_size_meets_resampled_positions(lib, case, seed, grid):
    images = case.images(seed, size=tuple(side * case.config.patch_size for side in grid))
    agree(run(lib, case, images), literal_logits(case, images), allowance(case, images, "float64"))


def hmlps(lib):
    """Patches of 16 pixels by the hMLP stem, one block behind it."""
    sides = st.just((16, 32)) if compiles(lib) else st.sampled_from([(16, 32), (32, 48)])
    grid = sides.map(lambda side: (side[0] // 16, side[1] // 16))
    heads, blocks, classes = st.just((2, 4)), st.just(1), st.just(3)
    return evits(lib, grid=grid, patch=st.just(16), stem=st.just("hmlp"), heads=heads, depth=blocks, num_classes=classes)


@uncompiled
@prop(most=8, case=hmlps, seed=seeds)
def test_the_hmlp_stem_is_what_its_paper_says_and_no_patch_sees_another(lib, case, seed):
    images = case.images(seed, batch=1)
    logits, trace = run(lib, case, images, kind="traced")
    agree(logits, literal_logits(case, images), allowance(case, images, "float64"))
    changed = images.copy()
    changed[:, :, :16, 16:32] = 0.5  # the second patch
    _, other = run(lib, case, changed, kind="traced")
    same = np.delete(np.arange(case.patches), 1)
    np.testing.assert_array_equal(other["patch_embed"][:, same], trace["patch_embed"][:, same])
    assert (other["patch_embed"][:, 1] != trace["patch_embed"][:, 1]).any()


@uncompiled
@prop(most=8, case=shunteds, seed=seeds)
def test_shunted_transformer_is_what_its_paper_says(lib, case, seed):
    images = case.images(seed, batch=1)
    agree(run(lib, case, images), literal_logits(case, images), allowance(case, images, "float64"))


@prop(case=evits, seed=seeds, dtype=model_dtypes)
def test_the_fast_operations_of_a_backend_compute_the_same_model(lib, case, seed, dtype):
    images = case.images(seed, dtype=dtype)
    clear_choice(case, images, dtype)
    agree(run(lib, case, images, kind="fast"), literal_logits(case, images), allowance(case, images, dtype))


@uncompiled
@prop(most=6, case=shunteds, seed=seeds, dtype=model_dtypes)
def test_the_fast_operations_of_a_backend_compute_the_same_shunted_transformer(lib, case, seed, dtype):
    images = case.images(seed, batch=1, dtype=dtype)
    agree(run(lib, case, images, kind="fast"), literal_logits(case, images), allowance(case, images, dtype))


# symmetries


def relabelled(case, images, weights, order):
    """The same patches in another order, each with its position."""
    config = case.config
    rows, columns, side = *config.grid, config.patch_size
    pixels = images.reshape(*images.shape[:2], rows, side, columns, side).transpose(0, 1, 2, 4, 3, 5)
    pixels = pixels.reshape(*images.shape[:2], rows * columns, side, side)[:, :, order]
    pixels = pixels.reshape(*images.shape[:2], rows, columns, side, side).transpose(0, 1, 2, 4, 3, 5).reshape(images.shape)
    special = 0 if config.no_embed_class else config.num_special
    table = weights["pos_embed"]
    return pixels, weights | {"pos_embed": np.concatenate([table[:, :special], table[:, special:][:, order]], axis=1)}


@prop(case=evits, seed=seeds, dtype=model_dtypes)
def test_patches_relabelled_together_with_their_positions_leave_the_logits_alone(lib, case, seed, dtype):
    images = case.images(seed, dtype=dtype)
    clear_choice(case, images, dtype)
    order = np.random.default_rng(seed).permutation(case.patches)
    moved, weights = relabelled(case, images, case.weights(dtype), order)
    agree(run(lib, case, moved, weights), run(lib, case, images), 2 * allowance(case, images, dtype))


@uncompiled
@prop(case=evits, seed=seeds, batch=st.integers(2, 4), dtype=model_dtypes)
def test_a_batch_is_its_images_one_by_one(lib, case, seed, batch, dtype):
    images = case.images(seed, 2 if compiles(lib) else batch, dtype)
    clear_choice(case, images, dtype)
    alone = np.concatenate([run(lib, case, images[image : image + 1]) for image in range(len(images))])
    agree(run(lib, case, images), alone, 2 * allowance(case, images, dtype))


@uncompiled
@prop(most=8, case=shunteds, seed=seeds, dtype=model_dtypes)
def test_a_batch_of_shunted_is_its_images_one_by_one(lib, case, seed, dtype):
    images = case.images(seed, dtype=dtype)
    alone = np.concatenate([run(lib, case, images[image : image + 1]) for image in range(2)])
    agree(run(lib, case, images), alone, 2 * allowance(case, images, dtype))


@prop(case=evits, seed=seeds, dtype=model_dtypes)
def test_the_images_of_a_batch_may_change_places(lib, case, seed, dtype):
    images = case.images(seed, 2 if compiles(lib) else 3, dtype)
    order = np.random.default_rng(seed).permutation(len(images))
    clear_choice(case, images, dtype)
    agree(run(lib, case, images[order]), run(lib, case, images)[order], 2 * allowance(case, images, dtype))


@prop(case=evits, seed=seeds)
def test_classes_may_change_places(lib, case, seed):
    images, weights, count = case.images(seed), case.weights(), case.config.num_classes
    order = np.random.default_rng(seed).permutation(count)
    moved = {name: value[order] if name.startswith("head") else value for name, value in weights.items()}
    wanted = run(lib, case, images) if count == 0 else run(lib, case, images)[:, order]
    agree(run(lib, case, images, moved), wanted, 2 * allowance(case, images, "float64"))


# parts that do nothing, or add up


@prop(case=partial(evits, init_values=st.just(0.1)), seed=seeds)
def test_layer_scale_of_ones_is_none(lib, case, seed):
    images, weights = case.images(seed), case.weights()
    gains = [name for name in weights if "gamma" in name]
    assert len(gains) == 2 * case.config.parallel * case.config.depth
    ones = weights | {name: np.ones_like(weights[name]) for name in gains}
    plain = {name: value for name, value in weights.items() if name not in gains}
    without = run(lib, case.changed(init_values=None), images, plain)
    agree(run(lib, case, images, ones), without, allowance(case, images, "float64", ones))


@prop(case=partial(vits, init_values=st.just(0.1)), seed=seeds, layer=st.integers(0, 2))
def test_a_block_whose_gains_are_zero_changes_nothing(lib, case, seed, layer):
    layer %= case.config.depth
    silent = {
        name: 0.0 * value if name.startswith(f"blocks.{layer}.") and "gamma" in name else value
        for name, value in case.weights().items()
    }
    _, trace = run(lib, case, case.images(seed), silent, kind="traced")
    before = trace[f"blocks.{layer - 1}" if layer else "embedded"]
    np.testing.assert_array_equal(trace[f"blocks.{layer}"], before)


def silenced(weights, *layers):
    """Weights with the named layers' outputs zero."""
    return {name: 0.0 * value if name.rpartition(".")[0] in layers else value for name, value in weights.items()}


def of_branch(weights, branch):
    """The weights of a single-branch model, taken from one of two parallel branches."""
    found = {}
    for name, value in weights.items():
        parts = name.split(".")
        other = {"norm1": "norm11", "norm2": "norm21", "attn": "attn1", "mlp": "mlp1", "ls1": "ls11", "ls2": "ls21",
                 "gamma_1": "gamma_1_1", "gamma_2": "gamma_2_1"}  # fmt: skip
        twin = ".".join(other.get(part, part) if part in other and parts[0] == "blocks" else part for part in parts)
        found[name] = weights[twin] if branch and twin in weights else value
    return found


@prop(case=partial(vits, parallel=st.just(2), depth=st.just(1)), seed=seeds, half=st.sampled_from(["attn", "mlp"]))
def test_a_parallel_block_adds_what_each_of_its_branches_adds_alone(lib, case, seed, half):
    others = ("mlp.fc2", "mlp1.fc2") if half == "attn" else ("attn.proj", "attn1.proj")
    weights, images = silenced(case.weights(), *(f"blocks.0.{name}" for name in others)), case.images(seed)
    single = case.changed(parallel=1)

    def added(model, own):
        _, trace = run(lib, model, images, own, kind="traced")
        return trace["blocks.0"] - trace["embedded"]

    both = added(case, weights)
    near(both, sum(added(single, of_branch(weights, branch)) for branch in (0, 1)), "float64", 200, 100.0)


@prop(case=partial(vits, parallel=st.just(2)), seed=seeds)
def test_a_parallel_branch_whose_output_is_zero_leaves_the_other_alone(lib, case, seed):
    blocks = range(case.config.depth)
    quiet = [f"blocks.{block}.{layer}" for block in blocks for layer in ("attn1.proj", "mlp1.fc2")]
    weights, images = silenced(case.weights(), *quiet), case.images(seed)
    alone = case.changed(parallel=1)
    agree(run(lib, case, images, weights), run(lib, alone, images, weights), 2 * allowance(case, images, "float64", weights))


# heads


@prop(case=partial(evits, distilled=st.just(True), num_classes=st.just(3)), seed=seeds)
def test_a_distilled_model_is_the_mean_of_its_two_heads(lib, case, seed):
    weights, images = case.weights(), case.images(seed)
    logits, trace = run(lib, case, images, kind="traced")
    for states, found in zip(trace["norm"], logits, strict=True):
        heads = [literal.affine(weights, name, state) for name, state in zip(("head", "head_dist"), states[:2], strict=True)]
        near(found, (heads[0] + heads[1]) / 2, "float64", case.config.embed_dim, 30.0)


@prop(case=partial(evits, distilled=st.just(True), num_classes=st.just(3)), seed=seeds)
def test_two_equal_heads_and_tokens_are_as_one(lib, case, seed):
    twins = case.weights()
    table = np.array(twins["pos_embed"])
    if not case.config.no_embed_class:
        table[:, 1] = table[:, 0]
    twins |= {"dist_token": twins["cls_token"], "pos_embed": table}
    twins |= {f"head_dist.{kind}": twins[f"head.{kind}"] for kind in ("weight", "bias")}
    images = case.images(seed)
    logits, trace = run(lib, case, images, twins, kind="traced")
    limit = 2 * allowance(case, images, "float64", twins)
    agree(trace["head"], trace["head_dist"], limit)
    agree(logits, trace["head"], limit)


@prop(case=partial(evits, distilled=st.just(False), num_classes=st.just(3)), seed=seeds)
def test_without_classes_the_model_returns_what_its_head_reads(lib, case, seed):
    weights, images = case.weights(), case.images(seed)
    pooled = run(lib, case.changed(num_classes=0), images, weights)
    wanted = [literal.affine(weights, "head", state) for state in pooled]
    near(run(lib, case, images), wanted, "float64", 2 * case.config.embed_dim, 30.0)


# purity


def unchanged(lib, case, images):
    """The forward pass twice over the same arrays, and the arrays afterwards."""
    weights, copies, x = case.weights(), lib.move(case.weights()), lib.move(images.copy())
    forward = program(lib.name, lib.compile, case.config)
    first, second = (lib.back(forward(copies, x)).copy() for _ in range(2))
    np.testing.assert_array_equal(first, second)
    np.testing.assert_array_equal(lib.back(x), images)
    for name, value in lib.back(copies).items():
        np.testing.assert_array_equal(value, weights[name])


@prop(case=evits, seed=seeds)
def test_a_forward_pass_changes_neither_images_nor_weights(lib, case, seed):
    unchanged(lib, case, case.images(seed))


@uncompiled
@prop(most=3, case=shunteds, seed=seeds)
def test_a_forward_pass_of_shunted_changes_neither_images_nor_weights(lib, case, seed):
    unchanged(lib, case, case.images(seed, batch=1))
