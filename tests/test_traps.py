"""What the official code really does where ports go wrong: one test a trap, on numbers worked out by hand or by definition.

tests/tools/traps.py springs every trap in a copy of the source and shows which tests go red.
"""

import math

import numpy as np
import pytest

import reforg
from reforg import evit, vit
from reforg.catalog import synthetic
from reforg.catalog.names import build_config
from reforg.config import ShuntedConfig
from reforg.errors import ConfigError
from reforg.ops import REFERENCE, Network, gelu, rank, resize

TINY = {"img_size": 16, "patch_size": 4, "num_classes": 5, "embed_dim": 12, "depth": 3, "num_heads": 3}
SMALL_SHUNTED = {
    "num_classes": 5, "embed_dims": (8, 8, 16, 16), "num_heads": (2, 2, 2, 2), "mlp_ratios": (1, 1, 1, 1),
    "depths": (1, 1, 1, 1),
}  # fmt: skip


def tiny(name="evit_small_patch16_224", seed=3, **settings):
    return reforg.create_model(name, weights=f"synthetic:{seed}", dtype="float64", **{**TINY, **settings})


def images(count=2, side=16, seed=5):
    return synthetic.images((count, 3, side, side), seed)


class TestTokenReorganization:
    def test_the_count_is_the_ceiling_of_a_product_in_double_precision(self):
        assert evit.kept_count(0.7, 196) == 138  # 137.2 rounded up
        assert evit.kept_count(0.7, 10) == 7  # 7.0 exactly
        assert evit.kept_count(0.29, 100) == 29  # 28.999999999999996
        assert evit.kept_count(0.07, 100) == 8  # 7.000000000000001: the ceiling sees the rounding, as Python's does
        assert evit.kept_count(0.01, 5) == 1

    @pytest.mark.parametrize(
        ("rate", "fused", "dropped"),
        [(0.9, (178, 162, 147), (177, 160, 144)), (0.7, (139, 99, 71), (138, 97, 68)), (0.5, (99, 51, 27), (98, 49, 25))],
    )
    def test_tokens_left_at_224_pixels(self, rate, fused, dropped):
        for fuse, wanted in ((True, fused), (False, dropped)):
            tokens = reforg.cost("evit_small_patch16_224", keep_rate=rate, fuse_token=fuse).tokens
            assert tuple(tokens[f"blocks.{block}"] for block in (3, 6, 9)) == wanted

    def test_it_stands_between_attention_and_mlp_on_tokens_with_the_residual_added(self):
        model = tiny(keep_rate=0.5, drop_loc=(1,), fuse_token=False)
        trace = model.trace(images())
        before = trace["blocks.0"] + trace["blocks.1.attn"]
        kept = trace["blocks.1.kept"]
        wanted = np.concatenate([before[:, :1], np.take_along_axis(before[:, 1:], kept[:, :, None], axis=1)], axis=1)
        np.testing.assert_allclose(trace["blocks.1.reorganized"], wanted, rtol=1e-13)
        np.testing.assert_allclose(trace["blocks.1"], wanted + trace["blocks.1.mlp"], rtol=1e-12)

    def test_scores_are_the_class_tokens_row_after_softmax_averaged_over_heads(self):
        trace = tiny(keep_rate=0.5, drop_loc=(1,)).trace(images())
        probabilities = trace["blocks.1.attn.probs"]
        np.testing.assert_allclose(probabilities.sum(axis=-1), 1.0)
        np.testing.assert_allclose(trace["blocks.1.attn.cls_attention"], probabilities[:, :, 0, 1:].mean(axis=1), rtol=1e-13)

    def test_the_order_is_class_token_kept_by_falling_attention_fused_token_last(self):
        trace = tiny(keep_rate=0.5, drop_loc=(1,), fuse_token=True).trace(images())
        scores, kept = trace["blocks.1.attn.cls_attention"], trace["blocks.1.kept"]
        assert kept.shape == (2, 8)
        for row, order in zip(scores, kept, strict=True):
            np.testing.assert_array_equal(order, sorted(range(16), key=lambda token: -row[token])[:8])
        assert trace["blocks.1.reorganized"].shape == (2, 1 + 8 + 1, 12)

    def test_the_fused_token_is_a_sum_that_is_not_divided(self):
        tokens = np.array([[[1.0, 2.0], [3.0, 4.0]]])
        np.testing.assert_array_equal(evit.fuse_inattentive(tokens, np.array([[0.5, 0.25]])), [[[1.25, 2.0]]])

    def test_a_fused_token_competes_in_the_next_selection(self):
        model = tiny(keep_rate=0.5, drop_loc=(0, 1), fuse_token=True)
        kept = np.concatenate([model.trace(images(8, seed=seed))["blocks.1.kept"] for seed in range(6)])
        assert kept.shape[1] == math.ceil(0.5 * (8 + 1))
        assert (kept == 8).any(), "the fused token, number 8 of 0 to 8, is never kept"
        assert not (kept == 8).any(axis=1).all(), "the fused token is always kept"

    def test_a_count_of_all_tokens_reorganizes_nothing(self):
        trace = tiny(keep_rate=0.99, drop_loc=(1,), fuse_token=True).trace(images())
        assert not [name for name in trace if name.endswith((".kept", ".reorganized"))]
        assert trace["blocks.1"].shape == (2, 17, 12)

    def test_a_rate_at_the_call_replaces_the_rate_only_where_the_config_has_one(self):
        model = tiny(keep_rate=0.5, drop_loc=(1,))
        trace = model.trace(images(), keep_rate=0.75)
        assert [name for name in trace if name.endswith(".kept")] == ["blocks.1.kept"]
        assert trace["blocks.1.kept"].shape == (2, 12)
        assert not [name for name in tiny(keep_rate=1.0).trace(images(), keep_rate=0.5) if name.endswith(".kept")]
        assert not [name for name in model.trace(images(), keep_rate=1.0) if name.endswith(".kept")]

    def test_rates_for_each_block_at_the_call(self):
        model = tiny(keep_rate=(0.5, 1.0, 0.5))
        trace = model.trace(images(), keep_rate=[0.75, 0.25, None], tokens=None)
        assert trace["blocks.0.kept"].shape[1] == 12
        assert trace["blocks.2.kept"].shape[1] == math.ceil(0.5 * 13)
        assert "blocks.1.kept" not in trace

    def test_tokens_given_once_prune_every_block(self):
        trace = tiny(keep_rate=1.0, fuse_token=True).trace(images(), tokens=6)
        assert [trace[f"blocks.{block}.kept"].shape[1] for block in range(3)] == [6, 6, 6]
        assert [trace[f"blocks.{block}"].shape[1] for block in range(3)] == [8, 8, 8]
        dropped = tiny(keep_rate=1.0, fuse_token=False).trace(images(), tokens=6)
        assert [name for name in dropped if name.endswith(".kept")] == ["blocks.0.kept"], "then all that arrive are kept"
        with pytest.raises(ConfigError, match=r"blocks\.1: tokens=9, but only 6 tokens arrive there"):
            tiny(keep_rate=1.0, fuse_token=False)(images(), tokens=[6, 9, None])

    def test_distilled_models_keep_both_special_tokens_and_score_patches_only(self):
        model = tiny("deit_small_distilled_patch16_224", keep_rate=0.25, drop_loc=(1,), fuse_token=False)
        trace = model.trace(images())
        assert trace["blocks.1.attn.cls_attention"].shape == (2, 16)
        assert trace["blocks.1.kept"].shape == (2, 4)
        attended = trace["blocks.0"] + trace["blocks.1.attn"]
        np.testing.assert_allclose(trace["blocks.1.reorganized"][:, :2], attended[:, :2], rtol=1e-13)

    def test_equal_scores_keep_the_lower_index(self, lib):
        order = lib.run(rank, np.array([[0.5, 0.1, 0.5, 0.5, 0.1], [0.0, 0.0, 0.0, 0.0, 0.0]]))
        np.testing.assert_array_equal(order, [[0, 2, 3, 1, 4], [0, 1, 2, 3, 4]])


class TestPositions:
    def test_each_familys_resampling(self):
        """A single bright position seen through each family's kernel, halved: antialiasing spreads it."""
        table = np.zeros((1, 1 + 64, 1))
        table[0, 1 + 8 * 2 + 2] = 1.0
        plain, spread = (vit.resample_positions(table, 1, (8, 8), (4, 4), antialias) for antialias in (False, True))
        weight = 0.59375  # Keys' kernel, a = -0.75, at distance 0.5: ((a + 2) / 2 - (a + 3)) / 4 + 1
        np.testing.assert_allclose(plain[0, 1 + 4 * 1 + 1], weight**2, rtol=1e-14)
        assert (plain != 0).sum() == 2 * 2, "taps reach 2 positions from 0.5 and 2.5"
        assert (spread != 0).sum() == 3 * 3, "a kernel twice as wide reaches it from one more"
        families = {name: build_config(name).antialias for name in
                    ("evit_small_patch16_224", "deit_small_patch16_224", "deit3_small_patch16_224", "vit_small_patch16_224",
                     "vit_small_patch14_dinov2")}  # fmt: skip
        assert list(families.values()) == [False, False, True, True, True]

    def test_bicubic_without_antialiasing_has_torchs_kernel(self):
        line = np.zeros((1, 1, 1, 5))
        line[..., 2] = 1.0
        wide = resize(line, (1, 10), "bicubic")[0, 0, 0]
        a = -0.75
        near, far = 0.25, 0.75
        inner = [((a + 2) * d - (a + 3)) * d * d + 1 for d in (far, near)]
        outer = [((d - 5) * d + 8) * d * a - 4 * a for d in (1 + far, 1 + near)]
        np.testing.assert_allclose(wide, [0, outer[0], outer[1], *inner, *inner[::-1], outer[1], outer[0], 0], atol=1e-15)

    def test_deit3_has_no_position_for_the_class_token_and_adds_them_before_it(self):
        model = tiny("deit3_small_patch16_224")
        assert model.weights["pos_embed"].shape == (1, 16, 12)
        trace = model.trace(images())
        np.testing.assert_array_equal(trace["embedded"][:, :1], np.broadcast_to(model.weights["cls_token"], (2, 1, 12)))
        np.testing.assert_allclose(trace["embedded"][:, 1:], trace["patch_embed"] + model.weights["pos_embed"], rtol=1e-14)


class TestBlocks:
    def test_distilled_logits_are_the_mean_of_both_heads(self):
        trace = tiny("deit_small_distilled_patch16_224").trace(images())
        np.testing.assert_allclose(trace["logits"], (trace["head"] + trace["head_dist"]) / 2, rtol=1e-14)
        assert not np.allclose(trace["head"], trace["head_dist"])

    def test_parallel_branches_read_the_same_input_and_are_added_together(self):
        trace = tiny("deit_small_patch16_18x2", parallel=2).trace(images())
        middle = trace["embedded"] + trace["blocks.0.attn"] + trace["blocks.0.attn1"]
        np.testing.assert_allclose(trace["blocks.0"], middle + trace["blocks.0.mlp"] + trace["blocks.0.mlp1"], rtol=1e-12)
        net = Network(tiny("deit_small_patch16_18x2", parallel=2).weights, REFERENCE)
        np.testing.assert_allclose(trace["blocks.0.norm11"], net.layer_norm("blocks.0.norm11", trace["embedded"], 1e-6), rtol=1e-12)
        np.testing.assert_allclose(trace["blocks.0.norm21"], net.layer_norm("blocks.0.norm21", middle, 1e-6), rtol=1e-9)

    def test_parallel_blocks_select_by_the_mean_of_both_attentions(self):
        trace = tiny("deit3_small_patch16_224", parallel=2, keep_rate=0.5, drop_loc=(1,)).trace(images())
        mean = (trace["blocks.1.attn.cls_attention"] + trace["blocks.1.attn1.cls_attention"]) / 2
        np.testing.assert_array_equal(trace["blocks.1.kept"], np.argsort(-mean, axis=1, kind="stable")[:, :8])

    def test_selection_follows_layer_scale(self):
        trace = tiny("deit3_small_patch16_224", keep_rate=0.5, drop_loc=(1,), fuse_token=False).trace(images())
        before = trace["blocks.0"] + trace["blocks.1.ls1"]
        wanted = np.take_along_axis(before[:, 1:], trace["blocks.1.kept"][:, :, None], axis=1)
        np.testing.assert_allclose(trace["blocks.1.reorganized"][:, 1:], wanted, rtol=1e-13)

    def test_the_hmlp_stem_ends_in_a_batch_norm_and_has_gelu_between(self):
        trace = tiny("deit3_small_patch16_224", img_size=32, patch_size=16, stem="hmlp").trace(images(side=32))
        np.testing.assert_array_equal(trace["patch_embed.proj"], trace["patch_embed.proj.7"])
        assert (trace["patch_embed.proj.7"] < -0.2).any(), "GELU's smallest value is -0.17"
        assert trace["patch_embed.proj.2"].min() >= -0.17

    def test_gelu_is_the_erf_form(self, lib):
        x = np.array([-3.0, -1.0, 0.5, 2.0])
        exact = [value / 2 * math.erfc(-value / math.sqrt(2)) for value in x]
        np.testing.assert_allclose(lib.run(gelu, x), exact, rtol=1e-13)

    def test_layer_norm_epsilons(self):
        for name in (
            "vit_tiny_patch16_224",
            "deit_tiny_patch16_224",
            "deit3_small_patch16_224",
            "evit_tiny_patch16_224",
            "shunted_t",
        ):
            assert build_config(name).norm_eps == 1e-6
        model = tiny(depth=1, keep_rate=1.0)
        trace = model.trace(images() * 1e-4)
        x, gain, shift = (trace["embedded"], model.weights["blocks.0.norm1.weight"], model.weights["blocks.0.norm1.bias"])
        wanted = (x - x.mean(-1, keepdims=True)) / np.sqrt(x.var(-1, keepdims=True) + 1e-6) * gain + shift
        np.testing.assert_allclose(trace["blocks.0.norm1"], wanted, rtol=1e-12, atol=1e-13)

    def test_timm_calls_its_blocks_as_one_module_and_upstream_one_by_one(self):
        timm = tiny("vit_tiny_patch16_224").trace(images())
        np.testing.assert_array_equal(timm["blocks"], timm["blocks.2"])
        assert "blocks" not in tiny("evit_small_patch16_224", drop_loc=(1,)).trace(images())


class TestShunted:
    CONFIG = ShuntedConfig(**SMALL_SHUNTED)

    def trace(self, height=64, width=64):
        model = reforg.create_model("shunted_t", weights="synthetic:4", dtype="float64", **SMALL_SHUNTED)
        return model, model.trace(synthetic.images((1, 3, height, width), 6))

    def test_norms_of_embeddings_and_of_reduced_keys_have_a_larger_epsilon(self):
        model, trace = self.trace()
        for path, eps, source in (
            ("patch_embed2.norm", 1e-5, trace["patch_embed2.proj"]),
            ("block1.0.attn.norm1", 1e-5, trace["block1.0.attn.sr1"]),
            ("norm1", 1e-6, trace["block1.0"]),
            ("block1.0.norm1", 1e-6, trace["patch_embed1"]),
        ):
            x = source.reshape(*source.shape[:2], -1).swapaxes(1, 2) if source.ndim == 4 else source
            normed = (x - x.mean(-1, keepdims=True)) / np.sqrt(x.var(-1, keepdims=True) + eps)
            wanted = normed * model.weights[f"{path}.weight"] + model.weights[f"{path}.bias"]
            np.testing.assert_allclose(trace[path], wanted, rtol=1e-11, atol=1e-12, err_msg=path)

    def test_first_half_of_the_heads_sees_keys_reduced_by_the_ratio_the_second_by_half_of_it(self):
        _, trace = self.trace()
        assert self.CONFIG.reductions(0) == (8, 4)
        assert trace["block1.0.attn.sr1"].shape[2:] == (2, 2)
        assert trace["block1.0.attn.sr2"].shape[2:] == (4, 4)
        assert trace["block1.0.attn.branches.0.scores"].shape == (1, 1, 256, 4)
        assert trace["block1.0.attn.branches.1.scores"].shape == (1, 1, 256, 16)
        heads = trace["block1.0.attn.q"].reshape(1, 256, 2, 4).transpose(0, 2, 1, 3)
        for branch in (0, 1):
            keys = trace[f"block1.0.attn.kv{branch + 1}"][:, :, :4]
            scores = heads[:, branch] @ keys.swapaxes(1, 2) * 4**-0.5
            np.testing.assert_allclose(trace[f"block1.0.attn.branches.{branch}.scores"][:, 0], scores, rtol=1e-11, atol=1e-13)

    def test_at_ratio_2_the_finer_half_has_a_1x1_convolution_with_norm_and_gelu(self):
        model, trace = self.trace()
        assert model.weights["block3.0.attn.sr2.weight"].shape == (16, 16, 1, 1)
        normed = trace["block3.0.attn.norm2"]
        exact = np.vectorize(lambda value: value / 2 * math.erfc(-value / math.sqrt(2)))(normed)
        np.testing.assert_allclose(trace["block3.0.attn.act@1"], exact, rtol=1e-12, atol=1e-14)
        np.testing.assert_array_equal(trace["block3.0.attn.act"], trace["block3.0.attn.act@1"])

    def test_the_local_convolution_joins_reduced_values_before_attention_and_others_after_it(self):
        _, trace = self.trace()
        values = trace["block1.0.attn.kv1"][:, :, 4:]
        local = trace["block1.0.attn.local_conv1"].reshape(1, 4, -1).swapaxes(1, 2)
        context = trace["block1.0.attn.branches.0.probs"][:, 0] @ (values + local)
        np.testing.assert_allclose(trace["block1.0.attn.branches.0.context"][:, 0], context, rtol=1e-11, atol=1e-13)
        assert self.CONFIG.reductions(3) == (1,)
        plain = trace["block4.0.attn.branches.0.probs"] @ trace["block4.0.attn.kv"][:, :, 16:].reshape(1, -1, 2, 8).swapaxes(1, 2)
        np.testing.assert_allclose(trace["block4.0.attn.branches.0.context"], plain, rtol=1e-11, atol=1e-13)

    def test_the_mlp_adds_a_depthwise_convolution_before_gelu(self):
        _, trace = self.trace()
        y = trace["block2.0.mlp.fc1"] + trace["block2.0.mlp.dwconv"]
        exact = np.vectorize(lambda value: value / 2 * math.erfc(-value / math.sqrt(2)))(y)
        np.testing.assert_allclose(trace["block2.0.mlp.act"], exact, rtol=1e-12, atol=1e-14)

    def test_the_head_reads_the_mean_over_tokens(self):
        model, trace = self.trace()
        pooled = trace["norm4"].mean(axis=1)
        np.testing.assert_allclose(trace["head"], pooled @ model.weights["head.weight"].T + model.weights["head.bias"], rtol=1e-12)

    def test_without_a_head_the_logits_are_the_mean_over_tokens(self):
        model, trace = self.trace()
        headless = reforg.create_model("shunted_t", weights=model.weights, dtype="float64", **{**SMALL_SHUNTED, "num_classes": 0})
        np.testing.assert_allclose(headless(synthetic.images((1, 3, 64, 64), 6)), trace["norm4"].mean(axis=1), rtol=1e-12)

    def test_features_are_the_normed_tokens_of_the_last_stage(self):
        model, trace = self.trace()
        np.testing.assert_allclose(model.features(synthetic.images((1, 3, 64, 64), 6)), trace["norm4"], rtol=1e-12)

    def test_the_batch_norms_output_is_kept_from_before_the_relu_overwrites_it(self):
        _, trace = self.trace()
        assert (trace["patch_embed1.conv.1"] < 0).any()
        np.testing.assert_array_equal(trace["patch_embed1.conv.2"], np.maximum(trace["patch_embed1.conv.1"], 0))

    @pytest.mark.parametrize(("height", "width"), [(64, 96), (72, 56), (79, 65)])
    def test_rows_and_columns_that_do_not_divide_are_floored_as_convolutions_do(self, height, width):
        _, trace = self.trace(height, width)
        half = ((height - 1) // 2 + 1, (width - 1) // 2 + 1)
        grid = (half[0] // 2, half[1] // 2)
        assert trace["patch_embed1.conv"].shape[2:] == grid
        assert trace["block1.0.attn.sr1"].shape[2:] == (grid[0] // 8, grid[1] // 8)
        assert np.isfinite(trace["logits"]).all()


class TestCosts:
    """The papers' tables: parameters exactly, multiply-accumulates within their authors' rounding."""

    @pytest.mark.parametrize(
        ("name", "params"),
        [
            ("deit_tiny_patch16_224", 5_717_416), ("deit_small_patch16_224", 22_050_664), ("deit_base_patch16_224", 86_567_656),
            ("deit_tiny_distilled_patch16_224", 5_910_800), ("deit_small_distilled_patch16_224", 22_436_432),
            ("deit_base_distilled_patch16_224", 87_338_192), ("deit3_small_patch16_224", 22_059_496),
            ("deit3_medium_patch16_224", 38_849_512), ("deit3_base_patch16_224", 86_585_320),
            ("deit3_large_patch16_224", 304_374_760), ("deit3_huge_patch14_224", 632_126_440),
            ("evit_small_patch16_224", 22_050_664), ("evit_fmnist", 1_349_770), ("deit3_fmnist", 903_850),
            ("shunted_fmnist", 1_407_434),
        ],
    )  # fmt: skip
    def test_parameters(self, name, params):
        assert reforg.cost(name).params == params

    @pytest.mark.parametrize(("name", "millions"), [("shunted_t", 11.5), ("shunted_s", 22.4), ("shunted_b", 39.6)])
    def test_parameters_published_in_millions(self, name, millions):
        assert reforg.cost(name).params / 1e6 == pytest.approx(millions, abs=0.06)

    @pytest.mark.parametrize(
        ("rate", "published"), [(1.0, 17.56), (0.9, 15.40), (0.8, 13.33), (0.7, 11.61), (0.6, 10.09), (0.5, 8.82)]
    )
    def test_evit_base_to_the_published_digit(self, rate, published):
        assert round(reforg.cost("evit_base_patch16_224", keep_rate=rate).macs / 1e9, 2) == pytest.approx(published, abs=0.0051)

    @pytest.mark.parametrize(("side", "published"), [(272, 4.56), (288, 4.50), (304, 4.44)])
    def test_evit_small_on_larger_images_to_the_published_digit(self, side, published):
        assert round(reforg.cost(f"evit_small_patch16_{side}").macs / 1e9, 2) == published

    @pytest.mark.parametrize(
        ("name", "published"),
        [
            ("deit_small_patch16_224", 4.6), ("deit_base_patch16_224", 17.6), ("deit3_medium_patch16_224", 8.0),
            ("deit3_base_patch16_224", 17.5), ("deit3_large_patch16_224", 61.6), ("deit3_huge_patch14_224", 167.4),
            ("deit3_small_patch16_384", 15.5), ("deit3_base_patch16_384", 55.5), ("deit3_large_patch16_384", 191.2),
            ("shunted_t", 2.1), ("shunted_s", 4.9), ("shunted_b", 8.1),
        ],
    )  # fmt: skip
    def test_other_tables_within_their_rounding(self, name, published):
        assert reforg.cost(name).macs / 1e9 == pytest.approx(published, rel=0.026)
