"""EViT, DeiT III's variants and Shunted against the literal modules: every value on the way, over random configs."""

import random
from collections.abc import Mapping
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

import reforg
from reforg.config import Config
from reforg.families import num_params, shapes

from .hooks import disagreements, random_images, randomised, record, shapes_of, weights_of
from .literal import ShuntedTransformer, VisionTransformer

every_seed = pytest.mark.parametrize("seed", range(20))


def random_evit(seed: int, **changes: Any) -> dict[str, Any]:
    """A config in reforg's words; half of them with one rate for some blocks, half with a rate for each."""
    chance = random.Random(seed)
    heads, depth, patch = chance.randint(1, 4), chance.randint(2, 4), chance.choice((4, 8))
    rates = {"keep_rate": round(chance.uniform(0.2, 0.95), 2), "drop_loc": tuple(sorted(chance.sample(range(depth), 2)))}
    if seed % 2:
        rates = {"keep_rate": tuple(chance.choice((1.0, round(chance.uniform(0.2, 0.95), 2))) for _ in range(depth))}
    return {
        "img_size": (patch * chance.randint(3, 7), patch * chance.randint(3, 7)),
        "patch_size": patch,
        "in_chans": chance.choice((1, 3)),
        "num_classes": chance.choice((0, 5, 9)),
        "embed_dim": heads * chance.choice((4, 6, 8)),
        "depth": depth,
        "num_heads": heads,
        "mlp_ratio": chance.choice((2.0, 3.5, 4.0)),
        "qkv_bias": chance.random() < 0.8,
        "fuse_token": chance.random() < 0.5,
        "distilled": chance.random() < 0.3,
        **rates,
        **changes,
    }


def random_deit3(seed: int) -> dict[str, Any]:
    """Layer scale, two branches a block and the hMLP stem, in every combination."""
    chance = random.Random(seed)
    stem = {"stem": "hmlp", "patch_size": 16, "img_size": (48, 64), "embed_dim": 24, "num_heads": 3} if seed & 4 else {}
    variant = {"init_values": 0.1 if seed & 1 else None, "parallel": 2 if seed & 2 else 1}
    return random_evit(seed, no_embed_class=chance.random() < 0.8, **variant, **stem)


def literal_vit(seed: int, config: Mapping[str, Any], antialias: bool = False) -> nn.Module:
    height, width = config["img_size"]
    rate, blocks = config["keep_rate"], range(config["depth"])
    module = VisionTransformer(
        grid=(height // config["patch_size"], width // config["patch_size"]),
        patch=config["patch_size"],
        channels=config["in_chans"],
        classes=config["num_classes"],
        width=config["embed_dim"],
        heads=config["num_heads"],
        hidden=int(config["embed_dim"] * config["mlp_ratio"]),
        rates=rate if isinstance(rate, tuple) else [rate if block in config["drop_loc"] else 1.0 for block in blocks],
        fuse=config["fuse_token"],
        qkv_bias=config["qkv_bias"],
        distilled=config["distilled"],
        branches=config.get("parallel", 1),
        gains=config.get("init_values") is not None,
        bare_class=config.get("no_embed_class", False),
        stem=config.get("stem", "patch"),
        antialias=antialias,
    )
    return randomised(module, seed)


def ported(name: str, module: nn.Module, config: Mapping[str, Any]) -> reforg.Model:
    return reforg.create_model(name, weights=weights_of(module), dtype="float64", **config)


def assert_same_everywhere(model: reforg.Model, module: nn.Module, images: torch.Tensor, **arguments: Any) -> None:
    """Equal values under equal names, none missing on either side; the call without a trace has the same logits."""
    taps, trace = record(module, images, **arguments), model.trace(images, **arguments)
    assert disagreements(trace, taps) == {}
    assert set(trace) - {"pos_embed"} == set(taps)
    assert disagreements({"logits": model(images, **arguments)}, {"logits": taps["logits"]}) == {}


def assert_same_parameters(config: Config, module: nn.Module) -> None:
    assert shapes(config) == shapes_of(module)
    assert num_params(config) == sum(parameter.numel() for parameter in module.parameters())


def images_for(seed: int, config: Mapping[str, Any]) -> torch.Tensor:
    return random_images(seed, 1 + seed % 3, config["in_chans"], *config["img_size"])


@every_seed
def test_evit(seed: int) -> None:
    config = random_evit(seed)
    module = literal_vit(seed, config)
    model = ported("evit_tiny_patch16_224", module, config)
    assert_same_parameters(model.config, module)
    assert_same_everywhere(model, module, images_for(seed, config))


@every_seed
def test_distilled_evit_keeps_both_special_tokens(seed: int) -> None:
    config = random_evit(seed, distilled=True, num_classes=6, keep_rate=0.5, drop_loc=(0, 1), fuse_token=bool(seed % 2))
    module = literal_vit(seed, config)
    assert_same_everywhere(ported("evit_tiny_patch16_224", module, config), module, images_for(seed, config))


@every_seed
def test_evit_with_a_rate_at_the_call(seed: int) -> None:
    chance, config = random.Random(seed), random_evit(seed)
    module = literal_vit(seed, config)
    model, images = ported("evit_tiny_patch16_224", module, config), images_for(seed, config)
    for rate in (0.3, 0.75, 1.0, [round(chance.uniform(0.1, 1.0), 2) for _ in range(config["depth"])]):
        assert_same_everywhere(model, module, images, keep_rate=rate)


@every_seed
def test_evit_with_a_count_at_the_call(seed: int) -> None:
    chance, config = random.Random(seed), random_evit(seed)
    patches = config["img_size"][0] * config["img_size"][1] // config["patch_size"] ** 2
    module = literal_vit(seed, config)
    model, images = ported("evit_tiny_patch16_224", module, config), images_for(seed, config)
    falling = sorted((chance.randint(1, patches) for _ in range(config["depth"])), reverse=True)
    for count in (1, patches // 2, patches, falling, [*falling[:-1], None]):
        assert_same_everywhere(model, module, images, tokens=count)
    assert_same_everywhere(model, module, images, tokens=patches // 2, keep_rate=0.2)


@every_seed
def test_evit_at_another_image_size(seed: int) -> None:
    chance, config = random.Random(seed), random_evit(seed)
    module = literal_vit(seed, config)
    size = [config["patch_size"] * chance.randint(2, 9) for _ in range(2)]
    images = random_images(seed, 2, config["in_chans"], *size)
    assert_same_everywhere(ported("evit_tiny_patch16_224", module, config), module, images)


@every_seed
def test_deit3_variants_whole_and_reorganized(seed: int) -> None:
    config = random_deit3(seed)
    module = literal_vit(seed, config)
    model = ported("deit_small_patch16_18x2_LS", module, config)
    assert_same_parameters(model.config, module)
    assert_same_everywhere(model, module, images_for(seed, config))
    assert_same_everywhere(model, module, images_for(seed, config), keep_rate=1.0)


@every_seed
def test_deit3_variants_at_another_image_size(seed: int) -> None:
    config = random_deit3(seed)
    module = literal_vit(seed, config, antialias=True)
    images = random_images(seed, 2, config["in_chans"], 32, 80)
    assert_same_everywhere(ported("deit_small_patch16_18x2_LS", module, config), module, images)


def random_shunted(seed: int) -> dict[str, Any]:
    """Any even ratio that the smallest image's stages of 16, 8, 4 and 2 tokens a side can bear, and 1."""
    chance = random.Random(seed)
    heads = [chance.choice((2, 4)) for _ in range(4)]
    return {
        "img_size": (chance.randint(64, 90), chance.randint(64, 90)),
        "in_chans": chance.choice((1, 3)),
        "num_classes": chance.choice((0, 4, 7)),
        "embed_dims": [count * chance.randint(2, 5) for count in heads],
        "depths": [chance.randint(1, 2) for _ in range(4)],
        "num_heads": heads,
        "mlp_ratios": [chance.choice((1, 2, 2.5)) for _ in range(4)],
        "sr_ratios": [chance.choice(ratios) for ratios in ((1, 2, 4, 6, 8, 10), (1, 2, 4, 6), (1, 2, 4), (1, 2))],
        "num_conv": chance.randint(0, 2),
        "qkv_bias": chance.random() < 0.7,
    }


def literal_shunted(seed: int, config: Mapping[str, Any]) -> nn.Module:
    module = ShuntedTransformer(
        channels=config["in_chans"],
        classes=config["num_classes"],
        widths=config["embed_dims"],
        depths=config["depths"],
        heads=config["num_heads"],
        hidden=[int(width * ratio) for width, ratio in zip(config["embed_dims"], config["mlp_ratios"], strict=True)],
        ratios=config["sr_ratios"],
        convolutions=config["num_conv"],
        qkv_bias=config["qkv_bias"],
    )
    return randomised(module, seed)


@every_seed
def test_shunted(seed: int) -> None:
    config = random_shunted(seed)
    module = literal_shunted(seed, config)
    model = ported("shunted_t", module, config)
    assert_same_parameters(model.config, module)
    assert_same_everywhere(model, module, images_for(seed, config))


@every_seed
def test_shunted_pyramid_is_the_four_norms_as_maps(seed: int) -> None:
    config = random_shunted(seed)
    module = literal_shunted(seed, config)
    images = images_for(seed, config)
    taps = record(module, images)
    pyramid = ported("shunted_t", module, config).features(images, pyramid=True)
    tokens = {f"norm{stage}": np.reshape(maps, (*maps.shape[:2], -1)).swapaxes(1, 2) for stage, maps in enumerate(pyramid, 1)}
    assert disagreements(tokens, {name: taps[name] for name in tokens}) == {}
    assert list(tokens) == ["norm1", "norm2", "norm3", "norm4"]
