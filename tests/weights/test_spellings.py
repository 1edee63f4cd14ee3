"""Other programs' names: what they are, there and back, for every family; and weights that fit no model, or another."""

import numpy as np
import pytest

import reforg
from reforg.catalog import synthetic
from reforg.catalog.names import build_config, list_models
from reforg.errors import WeightsError
from reforg.families import shapes
from reforg.weights.mismatch import guessed
from reforg.weights.spelling_tables import SOURCES
from reforg.weights.spellings import official, spelled

TINY = {"img_size": 32, "patch_size": 8, "embed_dim": 24, "depth": 2, "num_heads": 3, "num_classes": 5}
SHUNTED = {
    "img_size": 32,
    "embed_dims": (8, 8, 16, 16),
    "num_heads": (2, 2, 2, 2),
    "mlp_ratios": (2, 2, 2, 2),
    "depths": (1, 1, 2, 1),
}
FAMILIES = {
    "vit_tiny_patch16_224": TINY,
    "deit_tiny_patch16_224": TINY,
    "deit_tiny_distilled_patch16_224": TINY,
    "deit3_small_patch16_224": TINY,
    "deit_small_patch16_18x2_LS": TINY,
    "evit_tiny_patch16_224": {**TINY, "drop_loc": (1,)},
    "vit_small_patch14_dinov2": {**TINY, "num_classes": 0},
    "shunted_t": {**SHUNTED, "num_classes": 5},
}
# Families that the other program has no module for, and the first tensor that it has no name for.
SCALED = {
    "deit3_small_patch16_224": "blocks.0.gamma_1",
    "deit_small_patch16_18x2_LS": "blocks.0.gamma_1",
    "shunted_t": "patch_embed1",
}
WITHOUT = {
    "transformers4": SCALED,
    "transformers5": SCALED,
    "jax": {**SCALED, "deit_tiny_distilled_patch16_224": "dist_token", "vit_small_patch14_dinov2": "blocks.0.ls1.gamma"},
}


def weights(name, seed=3):
    return synthetic.weights(shapes(build_config(name, **FAMILIES[name])), seed)


@pytest.mark.parametrize("spelling", SOURCES)
@pytest.mark.parametrize("name", FAMILIES)
def test_there_and_back(name, spelling):
    ours = weights(name)
    if name in WITHOUT.get(spelling, {}):
        with pytest.raises(WeightsError, match=f"{spelling} has no name for {WITHOUT[spelling][name]}"):
            spelled(ours, spelling, num_heads=3)
        return
    theirs = spelled(ours, spelling, num_heads=3)
    back = official(theirs).weights
    assert set(back) == set(ours)
    for key, value in ours.items():
        np.testing.assert_array_equal(back[key], value)
    assert sum(value.size for value in theirs.values()) == sum(value.size for value in ours.values())


NAMES = {
    "timm": ("deit3_small_patch16_224", {"blocks.0.ls1.gamma", "blocks.1.ls2.gamma", "blocks.0.attn.qkv.weight", "pos_embed"}),
    "timm, parallel": (
        "deit_small_patch16_18x2_LS",
        {
            "blocks.1.attns.1.attn.qkv.weight", "blocks.0.attns.0.ls.gamma", "blocks.0.ffns.1.norm.bias",
            "blocks.0.ffns.0.mlp.fc1.weight",
        },
    ),
    "transformers4": (
        "vit_tiny_patch16_224",
        {
            "vit.embeddings.cls_token", "vit.embeddings.position_embeddings", "vit.embeddings.patch_embeddings.projection.bias",
            "vit.encoder.layer.0.attention.attention.query.weight", "vit.encoder.layer.1.attention.output.dense.bias",
            "vit.encoder.layer.0.intermediate.dense.weight", "vit.encoder.layer.0.output.dense.weight", "vit.layernorm.weight",
            "vit.encoder.layer.0.layernorm_before.weight", "vit.encoder.layer.0.layernorm_after.weight", "classifier.weight",
        },
    ),
    "transformers5": (
        "deit_tiny_distilled_patch16_224",
        {
            "deit.embeddings.distillation_token", "deit.layers.0.attention.q_proj.weight", "deit.layers.1.attention.o_proj.bias",
            "deit.layers.0.mlp.fc1.weight", "cls_classifier.weight", "distillation_classifier.bias",
        },
    ),
    "transformers": (
        "vit_small_patch14_dinov2",
        {
            "embeddings.cls_token", "encoder.layer.0.norm1.weight", "encoder.layer.1.layer_scale2.lambda1", "layernorm.bias",
            "encoder.layer.0.attention.attention.value.bias", "encoder.layer.0.mlp.fc2.weight",
        },
    ),
    "jax": (
        "evit_tiny_patch16_224",
        {
            "cls", "embedding/kernel", "Transformer/posembed_input/pos_embedding", "Transformer/encoder_norm/scale", "head/kernel",
            "Transformer/encoderblock_1/MultiHeadDotProductAttention_1/query/kernel",
            "Transformer/encoderblock_0/MultiHeadDotProductAttention_1/out/bias", "Transformer/encoderblock_0/LayerNorm_2/scale",
            "Transformer/encoderblock_0/MlpBlock_3/Dense_1/kernel",
        },
    ),
}  # fmt: skip


@pytest.mark.parametrize("case", NAMES)
def test_the_names_are_theirs(case):
    name, wanted = NAMES[case]
    theirs = spelled(weights(name), case.partition(",")[0], num_heads=3)
    assert wanted <= set(theirs), wanted - set(theirs)
    assert not {key for key in theirs if "qkv" in key} or case.startswith("timm")


@pytest.mark.parametrize("name", ["cls_token#", "blocks.#.x", "#", "blocks.07.norm1.weight", ""])
def test_unknown_names_stay_as_they_are(name):
    ours = weights("vit_tiny_patch16_224")
    for spelling in SOURCES:
        assert name in official(spelled(ours, spelling, num_heads=3) | {name: np.zeros(3)}).weights


def test_queries_keys_and_values_lie_in_this_order():
    ours = weights("vit_tiny_patch16_224")
    theirs = spelled(ours, "transformers")
    for number, part in enumerate(("query", "key", "value")):
        np.testing.assert_array_equal(
            theirs[f"vit.encoder.layer.1.attention.attention.{part}.weight"], ours["blocks.1.attn.qkv.weight"][24 * number :][:24]
        )


def test_googles_kernels_are_in_out_with_heads_of_their_own():
    ours = weights("vit_tiny_patch16_224")
    theirs = spelled(ours, "jax", num_heads=3)
    block = "Transformer/encoderblock_0/MultiHeadDotProductAttention_1"
    assert theirs[f"{block}/key/kernel"].shape == (24, 3, 8)
    assert theirs[f"{block}/out/kernel"].shape == (3, 8, 24)
    assert theirs["embedding/kernel"].shape == (8, 8, 3, 24)
    assert theirs[f"{block}/key/kernel"][5, 2, 7] == ours["blocks.0.attn.qkv.weight"][24 + 2 * 8 + 7, 5]
    assert theirs[f"{block}/out/kernel"][2, 7, 5] == ours["blocks.0.attn.proj.weight"][5, 2 * 8 + 7]
    assert theirs["embedding/kernel"][1, 2, 0, 9] == ours["patch_embed.proj.weight"][9, 0, 1, 2]
    assert theirs["head/kernel"][3, 4] == ours["head.weight"][4, 3]


def test_the_heads_of_the_papers_models_need_not_be_told():
    ours = synthetic.weights(shapes(build_config("vit_tiny_patch16_224", depth=1)), 1)
    assert spelled(ours, "jax")["Transformer/encoderblock_0/MultiHeadDotProductAttention_1/query/bias"].shape == (3, 64)


def test_layer_scale_of_deit3_and_of_dinov2_keep_their_own_names():
    """DeiT III's class token has no position; DINOv2's has."""
    deit3 = weights("deit3_small_patch16_224")
    timm = {key.replace("gamma_1", "ls1.gamma").replace("gamma_2", "ls2.gamma"): value for key, value in deit3.items()}
    assert set(reforg.load_weights(timm)) == set(deit3)
    dinov2 = weights("vit_small_patch14_dinov2")
    assert set(reforg.load_weights(dinov2)) == set(dinov2)
    assert "blocks.0.ls1.gamma" in dinov2


@pytest.mark.parametrize("prefix", ["module.", "_orig_mod.", "module._orig_mod."])
@pytest.mark.parametrize("spelling", ["timm", "transformers", "transformers5"])
def test_wrappers_prefixes_before_other_names(spelling, prefix):
    ours = weights("vit_tiny_patch16_224")
    wrapped = {prefix + key: value for key, value in spelled(ours, spelling).items()}
    found = reforg.load_weights({"state_dict": wrapped})
    assert set(found) == set(ours)


def test_what_no_forward_pass_reads_is_set_aside_and_told():
    ours = weights("vit_tiny_patch16_224") | {"mask_token": np.zeros((1, 1, 24))}
    found = official(ours)
    assert found.unread == ("mask_token",)
    assert "mask_token" not in found.weights
    pooled = spelled(weights("vit_tiny_patch16_224"), "transformers") | {"vit.pooler.dense.weight": np.zeros((24, 24))}
    assert official(pooled).unread == ("vit.pooler.dense.weight",)


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        (lambda w: {**w, "blocks.0.attn.qkv.bias": np.zeros(72)}, "weights: blocks.0.attn.qkv.bias came in both its spellings"),
        (
            lambda w: {key: value for key, value in w.items() if "layer.1.attention.attention.key.bias" not in key},
            "weights: blocks.1.attn.qkv.bias is made of queries, keys and values, and only 2 of them are there",
        ),
    ],
)
def test_parts_that_do_not_make_a_whole(change, sentence):
    theirs = spelled(weights("vit_tiny_patch16_224"), "transformers")
    with pytest.raises(WeightsError) as caught:
        official(change(theirs))
    assert str(caught.value) == sentence


def test_heads_that_do_not_divide_the_width():
    with pytest.raises(WeightsError, match="a width of 24 does not divide into 5 heads"):
        spelled(weights("vit_tiny_patch16_224"), "jax", num_heads=5)


class TestGuess:
    """Whose weights they are."""

    @pytest.mark.parametrize("name", [name for name in list_models() if build_config(name).family != "embedded"])
    def test_every_model_is_known_by_its_tensors(self, name):
        class Shaped:
            def __init__(self, shape):
                self.shape = shape

        guesses = guessed({key: Shaped(shape) for key, shape in shapes(build_config(name)).items()})
        assert (name, {}) in guesses
        assert all(shapes(build_config(guess)) == shapes(build_config(name)) for guess, _ in guesses)

    def test_fine_tuned_models_are_known_too(self):
        config = build_config("deit3_base_patch16_224", num_classes=10)
        assert ("deit3_base_patch16_224", {"num_classes": 10}) in guessed(_empty(config))

    def test_another_image_size_is_told(self):
        config = build_config("vit_small_patch16_224", img_size=160)
        assert ("vit_small_patch16_224", {"img_size": 160}) in guessed(_empty(config))

    def test_weights_of_another_model_are_answered_with_its_name(self):
        with pytest.raises(WeightsError, match=r"; these are the weights of deit3_base_patch16_224$"):
            reforg.create_model("deit3_small_patch16_224", weights=_empty(build_config("deit3_base_patch16_224")))
        with pytest.raises(
            WeightsError, match=r"; these are the weights of deit_tiny_patch16_224 \(or evit_tiny_patch16_224, vit_tiny"
        ):
            reforg.create_model("deit_small_patch16_224", weights=_empty(build_config("vit_tiny_patch16_224")))

    def test_a_name_that_is_nearly_right_is_named(self):
        ours = weights("vit_tiny_patch16_224")
        ours["heat.bias"] = ours.pop("head.bias")
        with pytest.raises(WeightsError) as caught:
            reforg.create_model("vit_tiny_patch16_224", weights=ours, **TINY)
        assert str(caught.value) == (
            "these weights do not fit this vit config: 1 missing (head.bias [nearest: heat.bias]); "
            "1 left over (heat.bias [nearest: head.bias])"
        )


def _empty(config):
    """Arrays of a model's shapes that take no memory."""
    return {name: np.broadcast_to(np.float32(0), shape) for name, shape in shapes(config).items()}
