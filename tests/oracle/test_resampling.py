"""Resizing and the resampling of positions, as torch's interpolate, timm and the official DeiT do it."""

import random
from typing import Any

import numpy as np
import pytest
import timm
import torch
from timm.layers import resample_abs_pos_embed
from torch import nn
from torch.nn import functional

import reforg
from reforg.ops import resize
from reforg.vit import resample_positions

from .hooks import disagreement, random_images, randomised, record, weights_of

DOUBLE = 1e-12
SINGLE = 1e-5  # timm interpolates in float32: positions among up to 40 to 40 * 2^-24, times the kernel's slope, on two axes
SMALL = {"img_size": 48, "patch_size": 8, "embed_dim": 24, "depth": 2, "num_heads": 3, "num_classes": 5}


def random_sizes(seed: int) -> tuple[tuple[int, int], tuple[int, int]]:
    chance = random.Random(seed)
    source, target = ((chance.randint(1, 40), chance.randint(1, 40)) for _ in range(2))
    return source, target


SIZES = [
    ((14, 14), (24, 24)),
    ((24, 24), (14, 14)),
    ((37, 37), (16, 16)),
    ((16, 16), (37, 20)),
    ((7, 7), (7, 14)),
    ((1, 1), (5, 3)),
    ((5, 3), (1, 1)),
    ((2, 40), (40, 2)),
    *(random_sizes(seed) for seed in range(32)),
]
every_size = pytest.mark.parametrize(("source", "target"), SIZES)


def interpolate(maps: torch.Tensor, size: tuple[int, int], method: str, antialias: bool) -> torch.Tensor:
    return functional.interpolate(maps, size=size, mode=method, align_corners=False, antialias=antialias)


@pytest.mark.parametrize("antialias", [False, True])
@pytest.mark.parametrize("method", ["bicubic", "bilinear"])
@every_size
def test_resize_is_torchs_interpolate(source: tuple[int, int], target: tuple[int, int], method: str, antialias: bool) -> None:
    maps = random_images(0, 2, 3, *source)
    assert not disagreement(
        resize(maps.numpy(), target, method, antialias), interpolate(maps, target, method, antialias).numpy(), DOUBLE
    )


@pytest.mark.parametrize("special", [0, 1, 2])
@every_size
def test_positions_are_resampled_as_timm_does(source: tuple[int, int], target: tuple[int, int], special: int) -> None:
    table = random_images(1, 1, special + source[0] * source[1], 6)
    got = resample_positions(table.numpy(), special, source, target, antialias=True)
    wanted = resample_abs_pos_embed(table, new_size=list(target), old_size=list(source), num_prefix_tokens=special).numpy()
    assert not disagreement(got, wanted, SINGLE)
    assert np.array_equal(got[:, :special], wanted[:, :special])


TIMMS_WAY = {
    "vit": ("vit_tiny_patch16_224", {}),
    "vit, no position of the class": ("vit_tiny_patch16_224", {"no_embed_class": True}),
    "deit3": ("deit3_small_patch16_224.fb_in1k", {}),
    "dinov2": ("vit_small_patch14_dinov2", {}),
}
every_model_of_timms_way = pytest.mark.parametrize(("name", "changes"), TIMMS_WAY.values(), ids=TIMMS_WAY)
OTHER_SIZES = [(24, 24), (80, 80), (40, 72), (80, 32)]
every_other_size = pytest.mark.parametrize("size", OTHER_SIZES)


@every_other_size
@every_model_of_timms_way
def test_another_image_size_at_the_call_as_timms_dynamic_size(name: str, changes: dict[str, Any], size: tuple[int, int]) -> None:
    module = randomised(timm.create_model(name, dynamic_img_size=True, **SMALL, **changes), seed=2)
    images = random_images(2, 2, 3, *size)
    model = reforg.create_model(name, weights=weights_of(module), dtype="float64", **SMALL, **changes)
    assert not disagreement(model(images), record(module, images)["logits"], 10 * SINGLE)


@every_other_size
@every_model_of_timms_way
def test_another_image_size_at_creation_as_timms_set_input_size(name: str, changes: dict[str, Any], size: tuple[int, int]) -> None:
    module = randomised(timm.create_model(name, **SMALL, **changes), seed=3)
    images, weights = random_images(3, 2, 3, *size), weights_of(module)
    module.set_input_size(img_size=size)
    model = reforg.create_model(name, weights=weights, dtype="float64", **SMALL | {"img_size": size}, **changes)
    assert not disagreement(model(images), record(module, images)["logits"], 10 * SINGLE)


# 48x48, 72x32 and 16x144 pixels have as many patches, and 32x48 has no square grid: the number does not tell the grid.
CHANGED_SIZES = [
    *((origin, size) for origin in [(48, 48), (32, 48), (16, 144)] for size in OTHER_SIZES),
    ((48, 48), (72, 32)),
    ((16, 144), (72, 32)),
]


@pytest.mark.parametrize(("origin", "size"), CHANGED_SIZES)
def test_with_config_changes_the_image_size_as_timms_dynamic_size(origin: tuple[int, int], size: tuple[int, int]) -> None:
    settings = SMALL | {"img_size": origin}
    module = randomised(timm.create_model("vit_tiny_patch16_224", dynamic_img_size=True, **settings), seed=5)
    images = random_images(5, 2, 3, *size)
    model = reforg.create_model("vit_tiny_patch16_224", weights=weights_of(module), dtype="float64", **settings)
    assert not disagreement(model.with_config(img_size=size)(images), record(module, images)["logits"], 10 * SINGLE)


@every_other_size
@pytest.mark.parametrize("name", ["deit_tiny_patch16_224", "deit_tiny_distilled_patch16_224"])
def test_deit_resamples_without_antialiasing(name: str, size: tuple[int, int]) -> None:
    small = randomised(timm.create_model(name, **SMALL), seed=4)
    large = timm.create_model(name, **SMALL | {"img_size": size}).double().eval()
    large.load_state_dict(small.state_dict() | {"pos_embed": plainly_resampled(small, size)})
    images, weights = random_images(4, 2, 3, *size), weights_of(small)
    at_call = reforg.create_model(name, weights=weights, dtype="float64", **SMALL)
    at_creation = reforg.create_model(name, weights=weights, dtype="float64", **SMALL | {"img_size": size})
    wanted = record(large, images)["logits"]
    assert not disagreement(at_call(images), wanted)
    assert not disagreement(at_creation(images), wanted)


def plainly_resampled(module: nn.Module, size: tuple[int, int]) -> torch.Tensor:
    special, patch = module.num_prefix_tokens, SMALL["patch_size"]
    maps = module.pos_embed[:, special:].mT.unflatten(2, module.patch_embed.grid_size)
    maps = interpolate(maps, (size[0] // patch, size[1] // patch), "bicubic", antialias=False)
    return torch.cat([module.pos_embed[:, :special], maps.flatten(2).mT], dim=1).detach()


PUBLISHED_SIZES = {  # name, patch, the size that the weights have, another one
    "dinov2 of 518 pixels at 224": ("vit_small_patch14_dinov2", 14, 518, (224, 224)),
    "dinov2 of 518 pixels at 518 by 308": ("vit_small_patch14_dinov2", 14, 518, (518, 308)),
    "deit3 of 384 pixels at 224": ("deit3_small_patch16_384.fb_in1k", 16, 384, (224, 224)),
    "deit3 of 224 pixels at 384": ("deit3_small_patch16_224.fb_in1k", 16, 224, (384, 384)),
    "vit of 224 pixels at 256 by 192": ("vit_tiny_patch16_224", 16, 224, (256, 192)),
}


@pytest.mark.parametrize("case", PUBLISHED_SIZES)
def test_published_sizes_are_resampled_as_timm_does(case: str) -> None:
    name, patch, side, size = PUBLISHED_SIZES[case]
    settings = {"img_size": side, "patch_size": patch, "embed_dim": 16, "depth": 1, "num_heads": 2, "num_classes": 5}
    module = randomised(timm.create_model(name, dynamic_img_size=True, **settings), seed=6)
    images = random_images(6, 1, 3, *size)
    model = reforg.create_model(name, weights=weights_of(module), dtype="float64", **settings)
    assert not disagreement(model(images), record(module, images)["logits"], 10 * SINGLE)
    table = resample_abs_pos_embed(
        module.pos_embed.detach(),
        new_size=[extent // patch for extent in size],
        old_size=[side // patch] * 2,
        num_prefix_tokens=0 if module.no_embed_class else 1,
    )
    assert not disagreement(model.trace(images, "pos_embed")["pos_embed"], table.numpy(), SINGLE)
