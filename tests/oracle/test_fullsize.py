"""Every listed model at full size, without its numbers: names and shapes of the official modules, and their published sizes."""

import math
from dataclasses import replace
from typing import Any

import pytest
import timm
import torch
from torch import nn

import reforg
from reforg.catalog.names import aliases, build_config
from reforg.config import Config, ShuntedConfig
from reforg.families import num_params, shapes

from .hooks import shapes_of
from .literal import ShuntedTransformer, VisionTransformer

WIDTHS = {"tiny": (192, 3), "small": (384, 6), "medium": (512, 8), "base": (768, 12), "large": (1024, 16), "huge": (1280, 16),
          "giant": (1408, 16), "Giant": (1664, 16)}  # fmt: skip
DEIT3 = {  # as models_v2.py has them: size, depth, patch, branches a block, LayerScale
    "deit_tiny_patch16_LS": ("tiny", 12, 16, 1, True),
    "deit_small_patch16_36": ("small", 36, 16, 1, False),
    "deit_small_patch16_36_LS": ("small", 36, 16, 1, True),
    "deit_small_patch16_18x2": ("small", 18, 16, 2, False),
    "deit_small_patch16_18x2_LS": ("small", 18, 16, 2, True),
    "deit_base_patch16_36x1": ("base", 36, 16, 1, False),
    "deit_base_patch16_36x1_LS": ("base", 36, 16, 1, True),
    "deit_base_patch16_18x2": ("base", 18, 16, 2, False),
    "deit_base_patch16_18x2_LS": ("base", 18, 16, 2, True),
    "deit_huge_patch14_26x2_LS": ("huge", 26, 14, 2, True),
    "deit_huge_patch14_52_LS": ("huge", 52, 14, 1, True),
    "deit_Giant_48x2_patch14_LS": ("Giant", 48, 14, 2, True),
    "deit_giant_40x2_patch14_LS": ("giant", 40, 14, 2, True),
    "deit_Giant_48_patch14_LS": ("Giant", 48, 14, 1, True),
    "deit_giant_40_patch14_LS": ("giant", 40, 14, 1, True),
    "deit3_medium_patch16_224": ("medium", 12, 16, 1, True),
    "deit3_huge_patch14_224": ("huge", 32, 14, 1, True),
    **{f"deit3_{size}_patch16_{side}": (size, 24 if size == "large" else 12, 16, 1, True)
       for size in ("small", "base", "large") for side in (224, 384)},
}  # fmt: skip
EVIT = {"evit_tiny_patch16_224": ("tiny", 224), "evit_base_patch16_224": ("base", 224)} | {
    f"evit_small_patch16_{side}": ("small", side) for side in (224, 272, 288, 304)
}
SHUNTED = {"shunted_t": ((1, 2, 4, 1), 0), "shunted_s": ((2, 4, 12, 1), 1), "shunted_b": ((3, 4, 24, 2), 2)}
TRAINED = ("evit_fmnist", "deit3_fmnist", "shunted_fmnist")  # this project's own, recorded in tests/golden/test_golden.py
TIMM = sorted(set(reforg.list_models()) & set(timm.list_models()))


def transformer(size: str, depth: int, patch: int, side: int, **settings: Any) -> nn.Module:
    width, heads = WIDTHS[size]
    grid = (side // patch, side // patch)
    return VisionTransformer(grid, patch, 3, 1000, width, heads, 4 * width, [1.0] * depth, True, **settings)


def official(name: str) -> nn.Module:
    with torch.device("meta"):
        if name in EVIT:
            size, side = EVIT[name]
            return transformer(size, 12, 16, side)
        if name in DEIT3:
            size, depth, patch, branches, gains = DEIT3[name]
            side = int(name.rpartition("_")[2]) if name.startswith("deit3_") else 224
            return transformer(size, depth, patch, side, branches=branches, gains=gains, bare_class=True)
        depths, convolutions = SHUNTED[name]
        widths, hidden = (64, 128, 256, 512), (512, 1024, 1024, 2048)
        return ShuntedTransformer(3, 1000, widths, depths, (2, 4, 8, 16), hidden, (8, 4, 2, 1), convolutions, True)


def test_every_listed_model_is_held_against_a_module() -> None:
    assert sorted({*EVIT, *DEIT3, *SHUNTED, *TIMM, *TRAINED}) == reforg.list_models()


@pytest.mark.parametrize("name", [*EVIT, *DEIT3, *SHUNTED])
def test_names_and_shapes_are_the_literal_modules(name: str) -> None:
    config, module = build_config(name), official(name)
    assert shapes(config) == shapes_of(module)
    assert num_params(config) == sum(parameter.numel() for parameter in module.parameters())


@pytest.mark.parametrize("name", TIMM)
def test_names_and_shapes_are_timms(name: str) -> None:
    with torch.device("meta"):
        module = timm.create_model(name)
    assert shapes(as_timm(build_config(name))) == shapes_of(module)


def as_timm(config: Config) -> Config:
    return config if isinstance(config, ShuntedConfig) else replace(config, modules="timm")


@pytest.mark.parametrize("alias", aliases())
def test_an_alias_has_the_tensors_of_its_model(alias: str) -> None:
    assert shapes(build_config(alias)) == shapes_of(official(aliases()[alias][0]))


PUBLISHED = {  # millions of parameters, as many digits as the papers print; 22.0 for DeiT III S at 384 is its figure at 224
    "deit_tiny_patch16_224": 5.717416, "deit_small_patch16_224": 22.050664, "deit_base_patch16_224": 86.567656,
    "deit_tiny_distilled_patch16_224": 5.910800, "deit_small_distilled_patch16_224": 22.436432,
    "deit_base_distilled_patch16_224": 87.338192, "evit_small_patch16_224": 22.1, "evit_small_patch16_272": 22.1,
    "evit_base_patch16_224": 86.6, "deit3_small_patch16_224": 22.059496, "deit3_medium_patch16_224": 38.849512,
    "deit3_base_patch16_224": 86.585320, "deit3_large_patch16_224": 304.374760, "deit3_huge_patch14_224": 632.126440,
    "deit3_base_patch16_384": 86.9, "deit3_large_patch16_384": 304.8,
    "shunted_t": 11.5, "shunted_s": 22.4, "shunted_b": 39.6,
}  # fmt: skip


@pytest.mark.parametrize("name", PUBLISHED)
def test_the_number_of_parameters_is_the_published_one(name: str) -> None:
    """Rounded or cut after the last digit: Shunted-T's 11.553576 millions are published as 11.5."""
    digits = 6 if len(repr(PUBLISHED[name])) > len("304.8") else 1
    found = num_params(build_config(name)) / 1e6
    assert PUBLISHED[name] in (round(found, digits), math.floor(found * 10**digits) / 10**digits)
