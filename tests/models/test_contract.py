"""What a user can get wrong, and the one sentence that answers: where, what came, what was wanted.

Every row is a call, the class of its error and the whole of its message. Beside the table, hypothesis throws values of
wrong types at the same doors: whatever comes in, only a ReforgError may come out.
"""

import importlib.util
import sys
from contextlib import suppress
from functools import cache
from importlib.metadata import EntryPoint

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import reforg
from reforg import (
    BackendError,
    ConfigError,
    DtypeError,
    ImageError,
    ReforgError,
    ShapeError,
    WeightsError,
    cost,
    create_model,
    token_map,
)

VIT = {"img_size": 16, "patch_size": 8, "embed_dim": 8, "depth": 2, "num_heads": 2, "num_classes": 3}
SHUNTED = {"embed_dims": (8,) * 4, "depths": (1,) * 4, "num_heads": (2,) * 4, "mlp_ratios": (1,) * 4, "num_classes": 3}
IMAGES = np.zeros((1, 3, 16, 16), np.float32)
LARGER = np.zeros((1, 3, 64, 64), np.float32)


def vit(**changed):
    return create_model("vit_tiny_patch16_224", **{"weights": "synthetic", **VIT, **changed})


def evit(**changed):
    return create_model("evit_tiny_patch16_224", **{"weights": "synthetic", **VIT, "drop_loc": (1,), **changed})


def shunted(**changed):
    return create_model("shunted_t", **{"weights": "synthetic", **SHUNTED, **changed})


@cache
def tensors():
    return dict(vit().weights)


def without(name):
    return {key: value for key, value in tensors().items() if key != name}


def images(*shape, dtype="float32"):
    return np.zeros(shape, dtype)


def traced_without(*parts):
    return {name: value for name, value in evit().trace(IMAGES).items() if not any(part in name for part in parts)}


NAMES = {
    "a typing error": (
        lambda: create_model("vit_smal_patch16_224"),
        "there is no model 'vit_smal_patch16_224'; did you mean vit_small_patch16_224?",
    ),
    "a typing error in an alias": (
        lambda: create_model("deit_small_patch16_shrink_bas"),
        "there is no model 'deit_small_patch16_shrink_bas'; did you mean deit_small_patch16_shrink_base?",
    ),
    "another family": (lambda: create_model("resnet50"), "there is no model 'resnet50'"),
    "nothing": (lambda: create_model(""), "there is no model ''"),
    "None": (lambda: create_model(None), "there is no model None"),
    "a number": (lambda: create_model(7), "there is no model 7"),
    "a list": (lambda: create_model(["evit"]), "there is no model ['evit']"),
    "an unknown tag": (
        lambda: create_model("vit_base_patch16_224.augreg_in2k"),
        "vit_base_patch16_224 has no tag 'augreg_in2k'; did you mean augreg_in21k?",
    ),
    "a tag where there is none": (
        lambda: create_model("evit_small_patch16_224.in1k"),
        "evit_small_patch16_224 has no tag 'in1k'; it has none",
    ),
    "a tag on an alias": (
        lambda: create_model("deit_small_patch16_LS.fb_in1k"),
        "deit_small_patch16_LS has no tag 'fb_in1k'; it has none",
    ),
    "a pattern that is none": (lambda: reforg.list_models(3), "list_models: the pattern must be a string such as 'deit3*', got 3"),
}

CONFIG = {
    "an unknown setting": (lambda: vit(embed_dims=3), "vit_tiny_patch16_224 has no setting 'embed_dims'; did you mean embed_dim?"),
    "a setting like no other": (lambda: vit(colour=3), "vit_tiny_patch16_224 has no setting 'colour'"),
    "a setting that the name decides": (lambda: vit(family="deit"), "vit_tiny_patch16_224 has no setting 'family'"),
    "another family's setting": (lambda: shunted(keep_rate=0.5), "shunted_t has no setting 'keep_rate'"),
    "img_size 0": (lambda: vit(img_size=0), "img_size must be a whole number of at least 1, got 0"),
    "img_size as text": (lambda: vit(img_size="224"), "img_size must be a whole number of at least 1, got '224'"),
    "img_size None": (lambda: vit(img_size=None), "img_size must be a whole number of at least 1, got None"),
    "img_size of three": (lambda: vit(img_size=(16, 16, 3)), "img_size wants one number or (height, width), got (16, 16, 3)"),
    "img_size that does not divide": (lambda: vit(img_size=20), "img_size 20 does not divide into patches of 8 pixels"),
    "patch_size True": (lambda: vit(patch_size=True), "patch_size must be a whole number of at least 1, got True"),
    "in_chans negative": (lambda: vit(in_chans=-1), "in_chans must be a whole number of at least 1, got -1"),
    "num_classes negative": (lambda: vit(num_classes=-1), "num_classes must be a whole number of at least 0, got -1"),
    "embed_dim that does not divide": (lambda: vit(embed_dim=9), "embed_dim 9 does not divide into num_heads 2"),
    "embed_dim an array": (
        lambda: vit(embed_dim=np.array([8, 8])),
        "embed_dim must be a whole number of at least 1, got array([8, 8])",
    ),
    "depth 0": (lambda: vit(depth=0), "depth must be a whole number of at least 1, got 0"),
    "num_heads a fraction": (lambda: vit(num_heads=2.5), "num_heads must be a whole number of at least 1, got 2.5"),
    "mlp_ratio 0": (lambda: vit(mlp_ratio=0), "mlp_ratio must be a positive number, got 0"),
    "mlp_ratio NaN": (lambda: vit(mlp_ratio=float("nan")), "mlp_ratio must be a positive number, got nan"),
    "mlp_ratio as text": (lambda: vit(mlp_ratio="4"), "mlp_ratio must be a positive number, got '4'"),
    "mlp_ratio too small": (lambda: vit(mlp_ratio=0.01), "mlp_ratio 0.01 leaves no hidden layer beside embed_dim 8"),
    "qkv_bias 1": (lambda: vit(qkv_bias=1), "qkv_bias must be one of True, False, got 1"),
    "qkv_bias an array": (lambda: vit(qkv_bias=np.ones(2)), "qkv_bias must be one of True, False, got array([1., 1.])"),
    "norm_eps negative": (lambda: vit(norm_eps=-1e-6), "norm_eps must be a positive number, got -1e-06"),
    "init_values negative": (lambda: vit(init_values=-1), "init_values must be a positive number, got -1"),
    "global_pool": (lambda: vit(global_pool="max"), "global_pool must be one of 'token', 'avg', got 'max'"),
    "distilled and averaged": (
        lambda: vit(distilled=True, global_pool="avg"),
        "distilled models read their two tokens: global_pool must be 'token'",
    ),
    "stem": (lambda: vit(stem="conv"), "stem must be one of 'patch', 'hmlp', got 'conv'"),
    "hmlp with other patches": (
        lambda: vit(stem="hmlp"),
        "stem 'hmlp' makes patches of 16 pixels and needs embed_dim divisible by 4; got patch_size 8, embed_dim 8",
    ),
    "parallel": (lambda: vit(parallel=3), "parallel must be one of 1, 2, got 3"),
    "antialias": (lambda: vit(antialias="yes"), "antialias must be one of True, False, got 'yes'"),
    "embed_dims of three": (
        lambda: shunted(embed_dims=(8, 8, 8)),
        "embed_dims wants one value for each of the 4 stages, got (8, 8, 8)",
    ),
    "depths a number": (lambda: shunted(depths=1), "depths wants one value for each of the 4 stages, got 1"),
    "depths with 0": (lambda: shunted(depths=(1, 0, 1, 1)), "depths must be a whole number of at least 1, got 0"),
    "heads that do not divide": (
        lambda: shunted(num_heads=(3, 2, 2, 2)),
        "stage 1: embed_dims 8 does not divide into num_heads 3",
    ),
    "an odd reduction": (
        lambda: shunted(sr_ratios=(8, 3, 2, 1)),
        "stage 2: a reduction gives half of the heads half of the ratio, so both must be even; got sr_ratios 3, num_heads 2",
    ),
    "mlp_ratios with 0": (lambda: shunted(mlp_ratios=(1, 1, 1, 0)), "mlp_ratios must be a positive number, got 0"),
    "mlp_ratios too small": (
        lambda: shunted(mlp_ratios=(1, 0.1, 1, 1)),
        "stage 2: mlp_ratios 0.1 leaves no hidden layer beside embed_dims 8",
    ),
    "num_conv negative": (lambda: shunted(num_conv=-1), "num_conv must be a whole number of at least 0, got -1"),
}

SCHEDULE = {
    "keep_rate 0": (lambda: evit(keep_rate=0), "keep_rate must lie in (0, 1], got 0"),
    "keep_rate above 1": (lambda: evit(keep_rate=1.5), "keep_rate must lie in (0, 1], got 1.5"),
    "keep_rate NaN": (lambda: evit(keep_rate=float("nan")), "keep_rate must lie in (0, 1], got nan"),
    "keep_rate as text": (lambda: evit(keep_rate="0.7"), "keep_rate must lie in (0, 1], got '0.7'"),
    "keep_rate True": (lambda: evit(keep_rate=True), "keep_rate must lie in (0, 1], got True"),
    "keep_rate beyond number": (
        lambda: evit(keep_rate=10**400),
        f"keep_rate must lie in (0, 1], got {10**400}",
    ),
    "keep_rates of three blocks": (
        lambda: evit(keep_rate=(0.5, 0.5, 0.5)),
        "keep_rate wants one value, or one for each of the 2 blocks, got 3",
    ),
    "keep_rates with one above 1": (lambda: evit(keep_rate=[0.5, 2.0]), "keep_rate must lie in (0, 1], got 2.0"),
    "drop_loc outside": (lambda: evit(drop_loc=(1, 2)), "drop_loc (1, 2) does not fit depth 2, blocks 0 to 1: give drop_loc too"),
    "drop_loc all outside": (lambda: evit(drop_loc=(5,)), "drop_loc (5,) does not fit depth 2, blocks 0 to 1: give drop_loc too"),
    "drop_loc negative": (lambda: evit(drop_loc=(-1,)), "drop_loc must be a whole number of at least 0, got -1"),
    "drop_loc twice": (lambda: evit(drop_loc=(1, 1)), "drop_loc names a block twice: (1, 1)"),
    "drop_loc a number": (lambda: evit(drop_loc=1), "drop_loc wants the numbers of blocks, counted from 0, got 1"),
    "tokens 0": (lambda: evit(tokens=0), "tokens must be a whole number of at least 1, got 0"),
    "tokens a fraction": (lambda: evit(tokens=2.5), "tokens must be a whole number of at least 1, got 2.5"),
    "tokens of three blocks": (
        lambda: evit(tokens=(1, 1, 1)),
        "tokens wants one value, or one for each of the 2 blocks, got 3",
    ),
    "fuse_token None": (lambda: evit(fuse_token=None), "fuse_token must be one of True, False, got None"),
    "call: keep_rate 0": (lambda: evit()(IMAGES, keep_rate=0), "keep_rate must lie in (0, 1], got 0"),
    "call: keep_rates of three blocks": (
        lambda: evit()(IMAGES, keep_rate=[0.5] * 3),
        "keep_rate wants one value, or one for each of the 2 blocks, got 3",
    ),
    "call: more tokens than there are": (
        lambda: evit()(IMAGES, tokens=5),
        "blocks.0: tokens=5, but only 4 tokens arrive there",
    ),
    "call: more tokens than are left": (
        lambda: evit().features(IMAGES, tokens=[2, 4]),
        "blocks.1: tokens=4, but only 3 tokens arrive there",
    ),
    "call: keep_rate of a Shunted Transformer": (
        lambda: shunted()(LARGER, keep_rate=0.5),
        "shunted_t keeps all its tokens: keep_rate and tokens are arguments of ViT, DeiT and EViT",
    ),
    "features: tokens of a Shunted Transformer": (
        lambda: shunted().features(LARGER, tokens=4),
        "shunted_t keeps all its tokens: keep_rate and tokens are arguments of ViT, DeiT and EViT",
    ),
    "features: pyramid of a ViT": (
        lambda: vit().features(IMAGES, pyramid=True),
        "vit_tiny_patch16_224 has no pyramid: its tokens have one size throughout",
    ),
    "ops": (lambda: vit(ops="fast"), "ops must be 'auto', 'reference', 'numba' or 'numpy', got 'fast'"),
    "with_config: an unknown setting": (
        lambda: evit().with_config(keep_rat=0.5),
        "evit_tiny_patch16_224 has no setting 'keep_rat'; did you mean keep_rate?",
    ),
    "with_config: keep_rate 7": (lambda: evit().with_config(keep_rate=7), "keep_rate must lie in (0, 1], got 7"),
}

READING = {
    "trace: an unknown name": (
        lambda: evit().trace(IMAGES, names="blocks.1.norm3"),
        "evit_tiny_patch16_224 has no intermediate 'blocks.1.norm3'; did you mean blocks.1.norm2?",
    ),
    "trace: one of two patterns unknown": (
        lambda: evit().trace(IMAGES, names=["norm", "zzz*"]),
        "evit_tiny_patch16_224 has no intermediate 'zzz*'",
    ),
    "trace: a number": (
        lambda: evit().trace(IMAGES, names=3),
        "evit_tiny_patch16_224: names must be a pattern or several, as text, got 3",
    ),
    "trace: numbers": (
        lambda: evit().trace(IMAGES, names=[3]),
        "evit_tiny_patch16_224: names must be a pattern or several, as text, got [3]",
    ),
    "token_map: of a part of a trace": (
        lambda: token_map(evit().trace(IMAGES, names="norm")),
        "token_map: the trace does not show which tokens were kept; trace without names=",
    ),
    "token_map: without the tokens": (
        lambda: token_map(traced_without("embedded")),
        "token_map: the trace has no entry 'embedded'; trace without names=, or name it too",
    ),
    "token_map: without the scores": (
        lambda: token_map(traced_without("cls_attention")),
        "token_map: the trace has no entry 'blocks.1.attn.cls_attention'; trace without names=, or name it too",
    ),
    "token_map: of nothing": (lambda: token_map(None), "token_map wants the mapping that model.trace returns, got NoneType"),
    "token_map: of an array": (lambda: token_map(IMAGES), "token_map wants the mapping that model.trace returns, got ndarray"),
    "cost: a typing error": (
        lambda: cost("vit_smal_patch16_224"),
        "there is no model 'vit_smal_patch16_224'; did you mean vit_small_patch16_224?",
    ),
    "cost: an unknown setting of a name": (
        lambda: cost("evit_tiny_patch16_224", keep_rat=0.5),
        "evit_tiny_patch16_224 has no setting 'keep_rat'; did you mean keep_rate?",
    ),
    "cost: an unknown setting of a model": (
        lambda: cost(evit(), keep_rat=0.5),
        "evit_tiny_patch16_224 has no setting 'keep_rat'; did you mean keep_rate?",
    ),
    "cost: img_size as text": (
        lambda: cost("vit_tiny_patch16_224", img_size="224"),
        "img_size must be a whole number of at least 1, got '224'",
    ),
    "cost: img_size negative": (
        lambda: cost("vit_tiny_patch16_224", img_size=-224),
        "img_size must be a whole number of at least 1, got -224",
    ),
    "cost: img_size of three": (
        lambda: cost("vit_tiny_patch16_224", img_size=(224, 224, 3)),
        "img_size wants one number or (height, width), got (224, 224, 3)",
    ),
    "cost: batch as text": (lambda: cost("shunted_t", batch="2"), "batch must be a whole number of at least 1, got '2'"),
    "cost: batch negative": (lambda: cost("shunted_t", batch=-1), "batch must be a whole number of at least 1, got -1"),
    "cost: more tokens than there are": (
        lambda: cost(evit(), tokens=5),
        "blocks.0: tokens=5, but only 4 tokens arrive there",
    ),
}

SHAPES = {
    "one image": (
        lambda: vit()(images(3, 16, 16)),
        "vit_tiny_patch16_224: images must be (B, 3, H, W), got shape (3, 16, 16)",
    ),
    "five axes": (
        lambda: vit()(images(1, 1, 3, 16, 16)),
        "vit_tiny_patch16_224: images must be (B, 3, H, W), got shape (1, 1, 3, 16, 16)",
    ),
    "a number": (lambda: vit()(np.float32(3)), "vit_tiny_patch16_224: images must be (B, 3, H, W), got shape ()"),
    "four channels": (
        lambda: vit()(images(1, 4, 16, 16)),
        "vit_tiny_patch16_224: images have 4 channels instead of 3 (shape (1, 4, 16, 16))",
    ),
    "channels last": (
        lambda: vit()(images(1, 16, 16, 3)),
        "vit_tiny_patch16_224: images have 16 channels instead of 3 (shape (1, 16, 16, 3)); the channels come second",
    ),
    "no multiple of the patch": (
        lambda: vit().features(images(1, 3, 17, 16)),
        "vit_tiny_patch16_224: image 17x16 does not divide into 8x8 patches",
    ),
    "no rows": (
        lambda: vit().trace(images(1, 3, 0, 16)),
        "vit_tiny_patch16_224: image 0x16 does not divide into 8x8 patches",
    ),
    "too small for the reduction": (
        lambda: shunted()(images(1, 3, 16, 16)),
        "shunted: block1.0.attn.sr1 gets 4x4 and would leave nothing; the image is too small",
    ),
    "too small for the stem": (
        lambda: shunted()(images(1, 3, 1, 16)),
        "shunted: patch_embed1.conv.3 gets 1x8 and would leave nothing; the image is too small",
    ),
    "cost: no multiple of the patch": (
        lambda: cost("vit_tiny_patch16_224", img_size=(225, 224)),
        "cost: image 225x224 does not divide into 16x16 patches",
    ),
    "cost: too small for the reduction": (
        lambda: cost("shunted_t", img_size=16),
        "shunted: block1.0.attn.sr1 gets 4x4 and would leave nothing; the image is too small",
    ),
}

NUMBERS = {
    "pixels": (
        lambda: vit()(images(1, 3, 16, 16, dtype="uint8")),
        "vit_tiny_patch16_224: images must be of a real floating dtype, got uint8; reforg.preprocess turns pixels into such",
    ),
    "truth values": (
        lambda: vit()(images(1, 3, 16, 16, dtype="bool")),
        "vit_tiny_patch16_224: images must be of a real floating dtype, got bool; reforg.preprocess turns pixels into such",
    ),
    "complex numbers": (
        lambda: vit()(images(1, 3, 16, 16, dtype="complex64")),
        "vit_tiny_patch16_224: images must be of a real floating dtype, got complex64; reforg.preprocess turns pixels into such",
    ),
    "objects": (
        lambda: vit()(images(1, 3, 16, 16, dtype="object")),
        "vit_tiny_patch16_224: images must be of a real floating dtype, got object; reforg.preprocess turns pixels into such",
    ),
    "a list": (
        lambda: vit()([[1.0]]),
        "vit_tiny_patch16_224: images must be an array (B, C, H, W), got list; reforg.preprocess makes such",
    ),
    "a path": (
        lambda: vit()("cat.png"),
        "vit_tiny_patch16_224: images must be an array (B, C, H, W), got str; reforg.preprocess makes such",
    ),
    "nothing": (
        lambda: vit()(None),
        "vit_tiny_patch16_224: images must be an array (B, C, H, W), got NoneType; reforg.preprocess makes such",
    ),
}

PICTURES = {
    "NaN": (
        lambda: vit()(np.full_like(IMAGES, np.nan)),
        "vit_tiny_patch16_224: images hold NaN or infinity (in float32); check_finite=False computes them all the same",
    ),
    "one infinity": (
        lambda: shunted().features(np.where(np.arange(64) == 5, np.inf, LARGER)),
        "shunted_t: images hold NaN or infinity (in float32); check_finite=False computes them all the same",
    ),
    "a number beyond float16": (
        lambda: vit(dtype="float16")(IMAGES + 1e5),
        "vit_tiny_patch16_224: images hold NaN or infinity (in float16); check_finite=False computes them all the same",
    ),
}

MISFIT = "these weights do not fit this vit config: "
WEIGHTS = {
    "none": (
        lambda: create_model("vit_tiny_patch16_224"),
        "vit_tiny_patch16_224 comes without weights: give a path, a Hub id or 'synthetic'; `reforg info` tells where they are",
    ),
    "a number": (lambda: vit(weights=7), "weights must be a path, a Hub id, a mapping or 'synthetic', got int"),
    "one missing": (lambda: vit(weights=without("head.bias")), MISFIT + "1 missing (head.bias)"),
    "one left over": (lambda: vit(weights={**tensors(), "extra": np.zeros(3)}), MISFIT + "1 left over (extra)"),
    "one of another shape": (
        lambda: vit(weights={**tensors(), "head.bias": np.zeros(4)}),
        MISFIT + "1 wrongly shaped (head.bias (4,) instead of (3,))",
    ),
    "several faults": (
        lambda: vit(weights={**without("norm.bias"), "extra": np.zeros(3), "head.bias": np.zeros(4)}),
        MISFIT + "1 missing (norm.bias); 1 left over (extra); 1 wrongly shaped (head.bias (4,) instead of (3,))",
    ),
    "positions of no square grid": (
        lambda: vit(weights={**tensors(), "pos_embed": np.zeros((1, 7, 8))}),
        MISFIT + "1 wrongly shaped (pos_embed (1, 7, 8) instead of (1, 5, 8))",
    ),
    "all missing": (
        lambda: vit(weights={}),
        "weights: the mapping holds no weights by name, but an empty mapping",
    ),
    "a list in place of an array": (
        lambda: vit(weights={**tensors(), "head.bias": [0, 0, 0]}),
        "weights: the mapping: 'head.bias' is no tensor, but a list of 3",
    ),
    "a name that is a number": (
        lambda: vit(weights={**tensors(), 1: np.zeros(3)}),
        "weights: the mapping: names must be text, got 1",
    ),
    "complex numbers": (
        lambda: vit(weights={**tensors(), "head.bias": np.zeros(3, complex)}),
        MISFIT + "1 not of a real dtype (head.bias complex128)",
    ),
    "objects": (
        lambda: vit(weights={**tensors(), "head.bias": np.array([None] * 3)}),
        MISFIT + "1 not of a real dtype (head.bias object)",
    ),
    "with_config: another number of classes": (
        lambda: vit().with_config(num_classes=4),
        MISFIT + "2 wrongly shaped (head.weight (3, 8) instead of (4, 8), head.bias (3,) instead of (4,))",
    ),
}

BACKENDS = {
    "dtype: a typing error": (
        lambda: vit(dtype="flaot32"),
        "there is no dtype 'flaot32'; did you mean float32? (known: float64, float32, float16, bfloat16)",
    ),
    "dtype: whole numbers": (
        lambda: vit(dtype="int8"),
        "there is no dtype 'int8' (known: float64, float32, float16, bfloat16)",
    ),
    "dtype: NumPy's own": (
        lambda: vit(dtype=np.float32),
        "there is no dtype <class 'numpy.float32'> (known: float64, float32, float16, bfloat16)",
    ),
    "backend: a typing error": (
        lambda: vit(backend="nunpy"),
        "there is no backend 'nunpy'; did you mean numpy? (installed: cupy, jax, numpy, torch)",
    ),
    "backend: None": (lambda: vit(backend=None), "there is no backend None (installed: cupy, jax, numpy, torch)"),
    "backend: a list": (
        lambda: vit(backend=["numpy"]),
        "there is no backend ['numpy']; did you mean numpy? (installed: cupy, jax, numpy, torch)",
    ),
    "device: not NumPy's": (
        lambda: vit(device="cuda"),
        "backend 'numpy' cannot compute in float32 on device 'cuda': no device 'cuda'; numpy has only 'cpu'",
    ),
}

TABLE = [
    pytest.param(call, kind, sentence, id=f"{kind.__name__}, {name}")
    for kind, rows in (
        (ConfigError, NAMES | CONFIG | SCHEDULE | READING), (ShapeError, SHAPES), (DtypeError, NUMBERS), (ImageError, PICTURES),
        (WeightsError, WEIGHTS), (BackendError, BACKENDS),
    )
    for name, (call, sentence) in rows.items()
]  # fmt: skip


@pytest.mark.parametrize(("call", "kind", "sentence"), TABLE)
def test_a_mistake_is_answered_in_one_sentence(call, kind, sentence):
    with pytest.raises(ReforgError) as caught:
        call()
    assert type(caught.value) is kind
    assert str(caught.value) == sentence


def test_no_row_hides_another():
    groups = (NAMES, CONFIG, SCHEDULE, READING)
    assert sum(map(len, groups)) == len(NAMES | CONFIG | SCHEDULE | READING)
    assert len(TABLE) >= 60


@pytest.mark.parametrize("kind", [BackendError, ConfigError, DtypeError, ImageError, ShapeError, WeightsError])
def test_every_error_is_a_reforg_error(kind):
    assert issubclass(kind, ReforgError)
    assert issubclass(ReforgError, Exception)


# files


def test_a_file_that_is_not_there(tmp_path):
    path = tmp_path / "weights.safetensors"
    with pytest.raises(WeightsError, match=r"^weights: there is no file '.*weights\.safetensors'$"):
        vit(weights=path)


@pytest.mark.parametrize("content", [b"", b"not safetensors", b"\x10\x00\x00\x00\x00\x00\x00\x00{'broken': json}"])
def test_a_file_that_is_not_safetensors(tmp_path, content):
    path = tmp_path / "weights.safetensors"
    path.write_bytes(content)
    with pytest.raises(WeightsError, match=r"^weights: '.*weights\.safetensors' is refused: [^\n]+$"):
        vit(weights=str(path))


# backends


def declare(monkeypatch, tmp_path, name, source):
    """An installed backend `name`, whose module holds `source`."""
    module = f"reforg_declared_by_{tmp_path.name}"
    (tmp_path / f"{module}.py").write_text(source, encoding="utf-8")
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.delitem(sys.modules, module, raising=False)
    monkeypatch.setattr("reforg.models.backend.entry_points", lambda group: [EntryPoint(name, module, group)])


def test_a_backend_whose_framework_is_missing(monkeypatch, tmp_path):
    declare(monkeypatch, tmp_path, "cupy", "import framework_that_nobody_has")
    with pytest.raises(BackendError) as caught:
        vit(backend="cupy")
    assert str(caught.value) == "backend 'cupy' needs the package 'framework_that_nobody_has', which is not installed"


@pytest.mark.skipif(importlib.util.find_spec("cupy") is not None, reason="CuPy is installed here")
def test_a_missing_framework_of_our_own_extra():
    with pytest.raises(BackendError) as caught:
        vit(backend="cupy")
    assert str(caught.value) == "backend 'cupy' needs the package 'cupy', which is not installed: pip install 'reforg[cupy]'"


def test_a_backend_whose_framework_does_not_load(monkeypatch, tmp_path):
    declare(monkeypatch, tmp_path, "cupy", "raise OSError('libcudart.so.13: cannot open shared object file')")
    with pytest.raises(BackendError) as caught:
        vit(backend="cupy")
    assert str(caught.value) == "backend 'cupy' cannot be loaded: libcudart.so.13: cannot open shared object file"


def test_no_backend_at_all(monkeypatch):
    monkeypatch.setattr("reforg.models.backend.entry_points", lambda group: [])
    with pytest.raises(BackendError, match=r"^there is no backend 'numpy' \(installed: none\)$"):
        vit()


@pytest.fixture
def jax_without_float64():
    jax = pytest.importorskip("jax")
    before = jax.config.read("jax_enable_x64")
    jax.config.update("jax_enable_x64", False)
    yield
    jax.config.update("jax_enable_x64", before)


@pytest.mark.usefixtures("jax_without_float64")
def test_jax_without_float64():
    with pytest.raises(BackendError) as caught:
        vit(backend="jax", dtype="float64")
    assert str(caught.value) == (
        "backend 'jax' cannot compute in float64: "
        "set JAX_ENABLE_X64=1, or call jax.config.update('jax_enable_x64', True) before the first array"
    )


@pytest.mark.parametrize(("framework", "device"), [("torch", "cud"), ("torch", 3.5), ("jax", "abacus"), ("jax", 3.5)])
def test_a_device_that_the_framework_does_not_know(framework, device):
    pytest.importorskip(framework)
    sentence = rf"^backend '{framework}' cannot compute in float32 on device {device!r}: [^\n]+$"  # in the framework's own words
    with pytest.raises(BackendError, match=sentence):
        vit(backend=framework, device=device)


def test_a_device_that_this_build_of_torch_cannot_reach():
    torch = pytest.importorskip("torch")
    if torch.cuda.is_available():
        pytest.skip("this machine has the device")
    with pytest.raises(BackendError, match=r"^backend 'torch' cannot compute in float32 on device 'cuda': [^\n]+$"):
        vit(backend="torch", device="cuda")


def test_a_tensor_that_requires_grad_does_not_go_to_numpy():
    torch = pytest.importorskip("torch")
    with pytest.raises(BackendError, match=r"^images cannot be brought to backend 'numpy' as float32: [^\n]*detach[^\n]*$"):
        vit()(torch.zeros(1, 3, 16, 16, requires_grad=True))


# what is allowed


def test_images_that_are_not_finite_are_computed_where_asked_for():
    broken = np.full_like(IMAGES, np.nan)
    assert np.isnan(vit()(broken, check_finite=False)).all()
    assert np.isnan(vit(check_finite=False)(broken)).all()
    with pytest.raises(ImageError):
        vit(check_finite=False)(broken, check_finite=True)


def test_an_empty_batch_is_no_mistake():
    assert vit()(images(0, 3, 16, 16)).shape == (0, 3)
    assert evit()(images(0, 3, 16, 16)).shape == (0, 3)
    assert shunted()(images(0, 3, 64, 64)).shape == (0, 3)


# values of any type

SMALL = st.integers(-3, 20)
SCALARS = (
    st.none()
    | st.booleans()
    | SMALL
    | st.floats(-50, 50)
    | st.sampled_from([np.nan, np.inf])
    | st.complex_numbers()
    | st.text(max_size=5)
    | st.binary(max_size=5)
)
ARRAYS = st.builds(np.full, st.lists(st.integers(0, 3), max_size=2), SMALL | st.floats(-2, 2))
SEQUENCES = st.lists(SCALARS, max_size=5) | st.lists(SCALARS | ARRAYS, max_size=4).map(tuple)
ANYTHING = SCALARS | ARRAYS | SEQUENCES | st.sampled_from([{}, {"a": 1}, {1: 2}, {3, 4}, object(), len, int, range(2)])
VIT_FIELDS = sorted(set(vit().config.__dataclass_fields__) - {"family", "modules"})
SHUNTED_FIELDS = sorted(set(shunted().config.__dataclass_fields__) - {"family"})
KNOBS = ("weights", "backend", "dtype", "device", "ops")
fuzz = settings(max_examples=200, deadline=None, derandomize=True)


def only_reforg_errors(call):
    """Run it; a ReforgError is an answer, anything else escapes."""
    with suppress(ReforgError):
        call()


@fuzz
@given(st.sampled_from(VIT_FIELDS), ANYTHING)
def test_any_value_of_a_vit_setting_is_taken_or_refused(field, value):
    only_reforg_errors(lambda: evit(**{field: value}))


@fuzz
@given(st.sampled_from(SHUNTED_FIELDS), ANYTHING)
def test_any_value_of_a_shunted_setting_is_taken_or_refused(field, value):
    only_reforg_errors(lambda: shunted(**{field: value}))


@fuzz
@given(st.sampled_from(KNOBS), ANYTHING)
def test_any_value_of_an_argument_of_create_model_is_taken_or_refused(knob, value):
    only_reforg_errors(lambda: vit(**{knob: value}))


@fuzz
@given(ANYTHING)
def test_any_name_is_known_or_refused(name):
    only_reforg_errors(lambda: create_model(name))
    only_reforg_errors(lambda: cost(name))


@fuzz
@given(st.sampled_from(["keep_rate", "tokens"]), ANYTHING)
def test_any_argument_of_a_call_is_taken_or_refused(argument, value):
    only_reforg_errors(lambda: evit()(IMAGES, **{argument: value}))
    only_reforg_errors(lambda: shunted()(LARGER, **{argument: value}))


@fuzz
@given(st.sampled_from(["img_size", "batch"]), ANYTHING)
def test_any_argument_of_cost_is_taken_or_refused(argument, value):
    only_reforg_errors(lambda: cost("evit_tiny_patch16_224", **{argument: value}))
    only_reforg_errors(lambda: cost("shunted_t", **{argument: value}))


DTYPES = [
    "float16",
    "float32",
    "float64",
    ">f4",
    "longdouble",
    "int32",
    "uint8",
    "bool",
    "complex64",
    "object",
    "U3",
    "M8[s]",
    "V4",
]
SIDES = st.sampled_from([0, 1, 2, 3, 8, 16, 24])


@fuzz
@given(st.builds(np.zeros, st.lists(SIDES, max_size=5), st.sampled_from(DTYPES)) | ANYTHING)
def test_any_images_are_computed_or_refused(value):
    for model in (vit(), shunted()):
        only_reforg_errors(lambda model=model: model(value))


@fuzz
@given(ANYTHING)
def test_anything_in_place_of_a_trace_or_its_patterns_is_read_or_refused(value):
    only_reforg_errors(lambda: token_map(value))
    only_reforg_errors(lambda: evit().trace(IMAGES, names=value))
