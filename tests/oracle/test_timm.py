"""ViT, DeiT, DeiT III and DINOv2 as timm's own modules have them: names, shapes, configs, and every value on the way."""

import random
from dataclasses import replace
from functools import cache, partial
from typing import Any

import numpy as np
import pytest
import timm
import torch
from timm.models import get_arch_pretrained_cfgs
from timm.models.deit import VisionTransformerDistilled
from torch import nn

import reforg
from reforg.catalog.names import build_config, timm_tags
from reforg.families import num_params, shapes

from .hooks import attention_of_timm, disagreement, disagreements, random_images, randomised, record, shapes_of, weights_of

SHARED = sorted(set(reforg.list_models()) & set(timm.list_models()))
SPELLINGS = [f"{name}.{tag}".rstrip(".") for name, tags in timm_tags().items() for tag in tags]


@cache
def weightless(name: str) -> nn.Module:
    with torch.device("meta"):
        return timm.create_model(name)


def facts_of_module(module: nn.Module) -> dict[str, Any]:
    block = module.blocks[0]
    return {
        "image": module.patch_embed.img_size,
        "patch": module.patch_embed.patch_size,
        "channels": module.in_chans,
        "classes": module.num_classes,
        "width, depth, heads": (module.embed_dim, len(module.blocks), block.attn.num_heads),
        "hidden": block.mlp.fc1.out_features,
        "epsilons": {norm.eps for norm in module.modules() if isinstance(norm, nn.LayerNorm)},
        "layer scale": not isinstance(block.ls1, nn.Identity),
        "class token has no position": module.no_embed_class,
        "distilled": isinstance(module, VisionTransformerDistilled),
        "pool": module.global_pool,
        "bias of qkv": block.attn.qkv.bias is not None,
    }


def facts_of_config(config: Any) -> dict[str, Any]:
    return {
        "image": config.image_shape,
        "patch": (config.patch_size, config.patch_size),
        "channels": config.in_chans,
        "classes": config.num_classes,
        "width, depth, heads": (config.embed_dim, config.depth, config.num_heads),
        "hidden": config.hidden_dim,
        "epsilons": {config.norm_eps},
        "layer scale": config.init_values is not None,
        "class token has no position": config.no_embed_class,
        "distilled": config.distilled,
        "pool": config.global_pool,
        "bias of qkv": config.qkv_bias,
    }


def test_tags_are_recorded_for_every_model_that_timm_has_too() -> None:
    assert sorted(timm_tags()) == SHARED


@pytest.mark.parametrize("name", SHARED)
def test_every_tag_of_timm_is_recorded(name: str) -> None:
    assert {f"{name}.{tag}" for tag in timm_tags()[name] if tag} == set(get_arch_pretrained_cfgs(name))


@pytest.mark.parametrize("name", SPELLINGS)
def test_state_dict_has_the_same_names_and_shapes(name: str) -> None:
    config = build_config(name)
    assert shapes(replace(config, modules="timm")) == shapes_of(weightless(name))
    assert num_params(config) == sum(parameter.numel() for parameter in weightless(name).parameters())


@pytest.mark.parametrize("name", SPELLINGS)
def test_config_is_the_same(name: str) -> None:
    assert facts_of_config(build_config(name)) == facts_of_module(weightless(name))


@pytest.mark.parametrize("name", SPELLINGS)
def test_recorded_preprocessing_is_the_same(name: str) -> None:
    base, _, tag = name.partition(".")
    recorded, wanted = timm_tags()[base][tag], weightless(name).pretrained_cfg
    assert (recorded["img_size"],) * 2 == tuple(wanted["input_size"][1:])
    assert (tuple(recorded["mean"]), tuple(recorded["std"])) == (tuple(wanted["mean"]), tuple(wanted["std"]))
    assert [recorded[key] for key in ("num_classes", "crop_pct", "crop_mode", "interpolation")] == [
        wanted[key] for key in ("num_classes", "crop_pct", "crop_mode", "interpolation")
    ]


SMALL = {"img_size": 32, "patch_size": 8, "embed_dim": 32, "depth": 3, "num_heads": 4, "num_classes": 7}
VIT, DEIT, DISTILLED, DEIT3, DINOV2 = (
    "vit_small_patch16_224",
    "deit_tiny_patch16_224",
    "deit_tiny_distilled_patch16_224",
    "deit3_small_patch16_224.fb_in1k",
    "vit_small_patch14_dinov2",
)
SHRUNKEN: dict[str, tuple[str, dict[str, Any]]] = {
    "vit": (VIT, {}),
    "vit, large patches": ("vit_base_patch32_224", {"patch_size": 32, "img_size": 96, "embed_dim": 48, "num_heads": 3}),
    "vit, one patch": (VIT, {"img_size": 8}),
    "vit, one head, one block": (VIT, {"num_heads": 1, "depth": 1}),
    "vit, wide image": (VIT, {"img_size": (24, 48)}),
    "vit, tall image": (VIT, {"img_size": (48, 16), "depth": 2}),
    "vit, grey image": (VIT, {"in_chans": 1}),
    "vit, mean of patches": (VIT, {"global_pool": "avg"}),
    "vit, mean of patches, no head": (VIT, {"global_pool": "avg", "num_classes": 0}),
    "vit, mean of patches, no position of the class": (VIT, {"global_pool": "avg", "no_embed_class": True}),
    "vit, no position of the class": (VIT, {"no_embed_class": True}),
    "vit, no bias of qkv": (VIT, {"qkv_bias": False}),
    "vit, no head": (VIT, {"num_classes": 0}),
    "vit, layer scale": (VIT, {"init_values": 0.1}),
    "vit, narrow mlp": (VIT, {"mlp_ratio": 1.7, "embed_dim": 24, "num_heads": 3}),
    "vit, large epsilon": (VIT, {"norm_eps": 0.1}),
    "deit": (DEIT, {"depth": 4}),
    "deit, wide image": (DEIT, {"img_size": (16, 40)}),
    "deit, distilled": (DISTILLED, {}),
    "deit, distilled, no head": (DISTILLED, {"num_classes": 0}),
    "deit3": (DEIT3, {}),
    "deit3, tall image": (DEIT3, {"img_size": (40, 16)}),
    "deit3, mean of patches": (DEIT3, {"global_pool": "avg"}),
    "dinov2": (DINOV2, {"patch_size": 14, "img_size": 56, "num_classes": 0}),
    "dinov2, mean of patches": (DINOV2, {"patch_size": 14, "img_size": 42, "global_pool": "avg"}),
}
BESIDES = ("scores", "probs", "context", "cls_attention")  # of an attention, in a trace only
every_shrunken = pytest.mark.parametrize(("name", "changes"), SHRUNKEN.values(), ids=SHRUNKEN)


def shrunken(name: str, changes: dict[str, Any]) -> nn.Module:
    settings = SMALL | changes
    if "norm_eps" in settings:
        settings["norm_layer"] = partial(nn.LayerNorm, eps=settings.pop("norm_eps"))
    return randomised(timm.create_model(name, **settings), seed=len(str(changes)))


def ported(name: str, module: nn.Module, changes: dict[str, Any], backend: str = "numpy") -> reforg.Model:
    return reforg.create_model(name, weights=weights_of(module), backend=backend, dtype="float64", **SMALL | changes)


def images_for(module: nn.Module, batch: int = 3) -> torch.Tensor:
    return random_images(1, batch, module.in_chans, *module.patch_embed.img_size)


@every_shrunken
def test_trace_holds_what_every_module_of_timm_computes(name: str, changes: dict[str, Any]) -> None:
    module = shrunken(name, changes)
    images = images_for(module)
    taps, trace = record(module, images), ported(name, module, changes).trace(images)
    assert disagreements(trace, taps) == {}
    assert [path for path in trace if path in taps] == list(taps), "the order of execution"


@every_shrunken
def test_trace_names_nothing_that_timm_does_not_run(name: str, changes: dict[str, Any]) -> None:
    module = shrunken(name, changes)
    images = images_for(module)
    beside = {f"blocks.{number}.attn.{what}" for number in range(len(module.blocks)) for what in BESIDES}
    beside |= {f"blocks.{number}.attended" for number in range(len(module.blocks))}
    assert set(ported(name, module, changes).trace(images)) - set(record(module, images)) == beside | {"embedded"}


@pytest.mark.parametrize("backend", ["numpy", "torch"])
@every_shrunken
def test_logits(name: str, changes: dict[str, Any], backend: str) -> None:
    module = shrunken(name, changes)
    images = images_for(module)
    logits = ported(name, module, changes, backend)(images)
    assert not disagreement(reforg.models.backend.load(backend).to_numpy(logits), record(module, images)["logits"])


@every_shrunken
def test_features(name: str, changes: dict[str, Any]) -> None:
    module = shrunken(name, changes)
    images = images_for(module)
    with torch.no_grad():
        wanted = module.forward_features(images).numpy()
    assert not disagreement(ported(name, module, changes).features(images), wanted)


every_seed = pytest.mark.parametrize("seed", range(20))


def random_timm(seed: int) -> tuple[str, dict[str, Any]]:
    """Any family, size and option that timm's own class takes; the fifth of them distilled, which take fewer."""
    chance = random.Random(seed)
    heads, patch = chance.randint(1, 5), chance.choice((4, 6, 8, 14))
    settings: dict[str, Any] = {
        "img_size": (patch * chance.randint(1, 6), patch * chance.randint(1, 6)),
        "patch_size": patch,
        "in_chans": chance.choice((1, 3, 4)),
        "num_classes": chance.choice((0, 1, 3, 11)),
        "embed_dim": heads * chance.choice((3, 4, 8, 12)),
        "depth": chance.randint(1, 4),
        "num_heads": heads,
        "mlp_ratio": chance.choice((0.5, 1.7, 3.0, 4.0)),
        "qkv_bias": chance.random() < 0.7,
        "norm_eps": chance.choice((1e-6, 1e-5, 1e-12, 0.01)),
    }
    if seed % 5 == 0:
        return DISTILLED, settings
    name = chance.choice((VIT, DEIT, DEIT3, DINOV2))
    settings["init_values"] = chance.choice((None, 1e-4, 1.0) if name in (VIT, DEIT) else (1e-4, 1.0))
    settings["no_embed_class"] = chance.random() < 0.5
    settings["global_pool"] = chance.choice(("token", "avg"))
    return name, settings


@every_seed
def test_any_config(seed: int) -> None:
    name, changes = random_timm(seed)
    module = shrunken(name, changes)
    images = images_for(module)
    taps, model = record(module, images), ported(name, module, changes)
    trace = model.trace(images)
    assert disagreements(trace, taps) == {}
    assert [path for path in trace if path in taps] == list(taps)
    assert not disagreement(model(images), taps["logits"])


@every_seed
def test_what_has_no_module_is_inside_timms_attention(seed: int) -> None:
    name, changes = random_timm(seed)
    module = shrunken(name, changes)
    images = images_for(module)
    trace, steps = ported(name, module, changes).trace(images), attention_of_timm(module, images)
    assert len(steps) == 1 + 4 * len(module.blocks)
    assert disagreements(trace, steps) == {}


def test_a_distilled_model_in_training_gives_both_heads_and_in_evaluation_their_mean() -> None:
    module = shrunken(DISTILLED, {})
    images, model = images_for(module), ported(DISTILLED, module, {})
    trace = model.trace(images)
    with torch.no_grad():
        evaluated = module(images).numpy()
        module.train()
        module.set_distilled_training(True)
        head, head_dist = (logits.numpy() for logits in module(images))
    assert not disagreement(trace["head"], head)
    assert not disagreement(trace["head_dist"], head_dist)
    assert not disagreement(trace["logits"], evaluated)
    assert not np.allclose(head, head_dist)
