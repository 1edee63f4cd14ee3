"""Ports lay values out in their own way: what layouts `reforg.verify` reads, and that it says which."""

import numpy as np
import pytest

import reforg
from reforg.catalog import synthetic

HEADS, GRID = 3, (6, 5)


def grid(x):
    """[B, H W, C] -> [B, H, W, C]."""
    return x.reshape(len(x), *GRID, -1)


def heads(x):
    """[B, N, C] -> [B, N, H, D]."""
    return x.reshape(*x.shape[:2], HEADS, -1)


MAPS = {
    "maps (B, C, H, W)": lambda x: grid(x).transpose(0, 3, 1, 2),
    "maps (B, H, W, C)": grid,
    "axes (0, 2, 1)": lambda x: x.transpose(0, 2, 1),
    "axes (1, 0, 2)": lambda x: x.transpose(1, 0, 2),
}
HEADED = {
    "heads apart (B, H, N, D)": lambda x: heads(x).transpose(0, 2, 1, 3),
    "heads apart (B, N, H, D)": heads,
}
QKV = {
    "parts and heads apart (B, N, 3, H, D)": "BN3HD",
    "parts and heads apart (3, B, H, N, D)": "3BHND",
    "parts and heads apart (3, B, N, H, D)": "3BNHD",
    "parts and heads apart (B, 3, H, N, D)": "B3HND",
    "parts and heads apart (B, 3, N, H, D)": "B3NHD",
    "parts and heads apart (B, H, 3, N, D)": "BH3ND",
    "parts and heads apart (B, H, N, 3, D)": "BHN3D",
}


def made(batch=2):
    """A model, images, its trace."""
    config = {"img_size": (24, 20), "patch_size": 4, "num_classes": 7, "embed_dim": 24, "num_heads": HEADS, "depth": 2}
    model = reforg.create_model("vit_small_patch16_224", weights="synthetic:3", dtype="float64", **config)
    images = synthetic.images((batch, 3, 24, 20), 3).astype(np.float64)
    return model, images, dict(model.trace(images))


def notes(name, value, batch=2):
    """What is said of one value in another layout, when everything passes; the value also fails once it is wrong."""
    model, images, trace = made(batch)
    report = reforg.verify(trace | {name: value}, model, images, "float64")
    assert report.passed, str(report)
    wrong = value.copy()
    wrong.flat[7] += 1e-3
    again = reforg.verify(trace | {name: wrong}, model, images, "float64")
    assert again.first.name == name
    return next(difference.note for difference in report.differences if difference.name == name)


@pytest.mark.parametrize("told", MAPS)
def test_patches_as_maps(told):
    value = made()[2]["patch_embed"]
    assert notes("patch_embed", MAPS[told](value).copy()) == told


@pytest.mark.parametrize("told", HEADED)
def test_heads_apart(told):
    output = made()[2]["blocks.1.attn.proj"]
    assert notes("blocks.1.attn.proj", HEADED[told](output).copy()) == told


@pytest.mark.parametrize("told", QKV)
def test_queries_keys_and_values_apart(told):
    value = made()[2]["blocks.0.attn.qkv"]
    parts = value.reshape(*value.shape[:2], 3, HEADS, -1)
    moved = parts.transpose(["BN3HD".index(axis) for axis in QKV[told]])
    assert notes("blocks.0.attn.qkv", moved.copy()) == told


def test_queries_keys_and_values_apart_with_joint_heads():
    value = made()[2]["blocks.0.attn.qkv"]
    moved = value.reshape(*value.shape[:2], 3, -1).transpose(2, 0, 1, 3)
    assert notes("blocks.0.attn.qkv", moved.copy()) == "parts apart (3, B, N, C)"


def test_maps_as_tokens():
    value = made()[2]["patch_embed.proj"]
    flat = value.reshape(*value.shape[:2], -1)
    assert notes("patch_embed.proj", flat.copy()) == "maps (B, C, N)"
    assert notes("patch_embed.proj", flat.swapaxes(1, 2).copy()) == "tokens (B, N, C)"


def test_a_missing_batch_axis_and_transposed_logits():
    trace = made(batch=1)[2]
    assert notes("blocks.0", trace["blocks.0"][0].copy(), batch=1) == "no batch axis"
    assert notes("logits", made()[2]["logits"].T.copy()) == "axes (1, 0)"


def test_a_shape_that_no_layout_has_is_a_fault():
    model, images, trace = made()
    report = reforg.verify(trace | {"blocks.0.norm1": trace["blocks.0.norm1"][:, :-1]}, model, images, "float64")
    assert report.first.name == "blocks.0.norm1"
    assert report.first.shape_got == (2, 30, 24)
    assert report.first.shape_wanted == (2, 31, 24)
