"""ViT, DeiT and DINOv2 as Hugging Face's transformers has them, weights renamed by hand."""

from typing import Any

import numpy as np
import pytest
import torch
from torch import nn
from transformers import (
    DeiTConfig,
    DeiTForImageClassification,
    Dinov2Config,
    Dinov2ForImageClassification,
    Dinov2Model,
    ViTConfig,
    ViTForImageClassification,
    ViTModel,
)
from transformers import DeiTForImageClassificationWithTeacher as DistilledDeiT

import reforg

from .hooks import Arrays, disagreement, disagreements, random_images, randomised, weights_of

RENAMED = {  # in this order
    "vit.": "",
    "deit.": "",
    "embeddings.patch_embeddings.projection": "patch_embed.proj",
    "embeddings.position_embeddings": "pos_embed",
    "embeddings.distillation_token": "dist_token",
    "embeddings.cls_token": "cls_token",
    "encoder.layer.": "blocks.",
    "layers.": "blocks.",
    "attention.o_proj": "attn.proj",
    "attention.": "attn.",
    "layer_scale1.lambda1": "ls1.gamma",
    "layer_scale2.lambda1": "ls2.gamma",
    "layernorm_before": "norm1",
    "layernorm_after": "norm2",
    "layernorm": "norm",
    "distillation_classifier": "head_dist",
    "cls_classifier": "head",
    "classifier": "head",
}
SHAPES = (  # heads, width of a head, depth, image, patch
    (3, 8, 2, 32, 8),
    (4, 12, 4, 48, 16),
    (1, 24, 3, 42, 14),
)
every_shape = pytest.mark.parametrize("shape", SHAPES, ids=str)


EAGER = 1e-6  # transformers' own attention forms the softmax in float32; torch's fused one, which is used otherwise, in float64


def settings_for(shape: tuple[int, int, int, int, int], attention: str = "sdpa") -> tuple[dict[str, Any], dict[str, Any]]:
    """The same tiny model in the words of transformers and in those of reforg."""
    heads, head_width, depth, image, patch = shape
    width = heads * head_width
    theirs = {
        "num_attention_heads": heads, "hidden_size": width, "num_hidden_layers": depth, "image_size": image, "patch_size": patch,
        "layer_norm_eps": 1e-6, "attn_implementation": attention,
    }  # fmt: skip
    ours = {"num_heads": heads, "embed_dim": width, "depth": depth, "img_size": image, "patch_size": patch}
    return theirs, ours


def renamed(weights: Arrays) -> Arrays:
    """reforg's names; queries, keys and values side by side in one `qkv`."""
    found = {}
    for name, value in weights.items():
        if "mask_token" not in name:
            for theirs, ours in RENAMED.items():
                name = name.replace(theirs, ours)  # noqa: PLW2901  one spelling after the other
            found[name] = value
    for name in [name for name in found if ".q_proj." in name]:
        parts = [found.pop(name.replace("q_proj", f"{part}_proj")) for part in "qkv"]
        found[name.replace("q_proj", "qkv")] = np.concatenate(parts)
    return found


def taps_of(outputs: Any) -> Arrays:
    """The tokens before the first block and after every block."""
    first, *blocks = outputs.hidden_states
    return {"embedded": first.numpy()} | {f"blocks.{number}": value.numpy() for number, value in enumerate(blocks)}


def run(module: nn.Module, images: torch.Tensor, **wanted: bool) -> Any:
    with torch.no_grad():
        return module(images, output_hidden_states=True, **wanted)


@every_shape
def test_vit(shape: tuple[int, int, int, int, int]) -> None:
    theirs, ours = settings_for(shape)
    width = theirs["hidden_size"]
    module = randomised(ViTForImageClassification(ViTConfig(**theirs, intermediate_size=3 * width, num_labels=6)), seed=5)
    images = random_images(5, 2, 3, shape[3], shape[3])
    outputs = run(module, images)
    model = reforg.create_model(
        "vit_tiny_patch16_224", weights=renamed(weights_of(module)), dtype="float64", num_classes=6, mlp_ratio=3.0, **ours
    )
    assert disagreements(model.trace(images), taps_of(outputs) | {"logits": outputs.logits.numpy()}) == {}


@every_shape
def test_distilled_deit(shape: tuple[int, int, int, int, int]) -> None:
    theirs, ours = settings_for(shape)
    settings = DeiTConfig(**theirs, intermediate_size=4 * theirs["hidden_size"], num_labels=5)
    module = randomised(DistilledDeiT(settings), seed=6)
    images = random_images(6, 2, 3, shape[3], shape[3])
    outputs = run(module, images)
    model = reforg.create_model(
        "deit_tiny_distilled_patch16_224", weights=renamed(weights_of(module)), dtype="float64", num_classes=5, **ours
    )
    assert disagreements(model.trace(images), taps_of(outputs) | {"logits": outputs.logits.numpy()}) == {}


@every_shape
def test_dinov2(shape: tuple[int, int, int, int, int]) -> None:
    theirs, ours = settings_for(shape)
    module = randomised(Dinov2Model(Dinov2Config(**theirs)), seed=7)
    images = random_images(7, 2, 3, shape[3], shape[3])
    outputs = run(module, images)
    model = reforg.create_model("vit_small_patch14_dinov2", weights=renamed(weights_of(module)), dtype="float64", **ours)
    assert disagreements(model.trace(images), taps_of(outputs)) == {}
    assert not disagreement(model.features(images), outputs.last_hidden_state.numpy())
    assert not disagreement(model(images), outputs.pooler_output.numpy())


@every_shape
def test_attention_probabilities(shape: tuple[int, int, int, int, int]) -> None:
    theirs, ours = settings_for(shape, attention="eager")
    module = randomised(Dinov2Model(Dinov2Config(**theirs)), seed=8)
    images = random_images(8, 2, 3, shape[3], shape[3])
    probabilities = run(module, images, output_attentions=True).attentions
    wanted = {f"blocks.{number}.attn.probs": value.numpy() for number, value in enumerate(probabilities)}
    model = reforg.create_model("vit_small_patch14_dinov2", weights=renamed(weights_of(module)), dtype="float64", **ours)
    assert len(wanted) == shape[2]
    assert disagreements(model.trace(images), wanted, EAGER) == {}


@every_shape
def test_deit_without_a_teacher_reads_the_class_token_only(shape: tuple[int, int, int, int, int]) -> None:
    """transformers' DeiT has the distillation token in any case; without a teacher only the first head reads."""
    theirs, ours = settings_for(shape)
    settings = DeiTConfig(**theirs, intermediate_size=2 * theirs["hidden_size"], num_labels=5)
    module = randomised(DeiTForImageClassification(settings), seed=9)
    images = random_images(9, 2, 3, shape[3], shape[3])
    outputs, weights = run(module, images), renamed(weights_of(module))
    weights |= {f"head_dist.{kind}": 0.0 * weights[f"head.{kind}"] for kind in ("weight", "bias")}
    model = reforg.create_model(
        "deit_tiny_distilled_patch16_224", weights=weights, dtype="float64", num_classes=5, mlp_ratio=2.0, **ours
    )
    assert disagreements(model.trace(images), taps_of(outputs) | {"head": outputs.logits.numpy()}) == {}


@every_shape
def test_a_pooler_is_a_layer_on_the_class_token(shape: tuple[int, int, int, int, int]) -> None:
    theirs, ours = settings_for(shape)
    module = randomised(ViTModel(ViTConfig(**theirs, intermediate_size=4 * theirs["hidden_size"]), add_pooling_layer=True), seed=10)
    images = random_images(10, 2, 3, shape[3], shape[3])
    outputs, weights = run(module, images), renamed(weights_of(module))
    weight, bias = weights.pop("pooler.dense.weight"), weights.pop("pooler.dense.bias")
    model = reforg.create_model("vit_tiny_patch16_224", weights=weights, dtype="float64", num_classes=0, **ours)
    assert disagreements(model.trace(images), taps_of(outputs)) == {}
    assert not disagreement(model.features(images), outputs.last_hidden_state.numpy())
    assert not disagreement(np.tanh(model(images) @ weight.T + bias), outputs.pooler_output.numpy())


@every_shape
def test_a_classifier_on_dinov2_reads_the_class_token_beside_the_mean_of_the_patches(shape: tuple[int, int, int, int, int]) -> None:
    theirs, ours = settings_for(shape)
    module = randomised(Dinov2ForImageClassification(Dinov2Config(**theirs, num_labels=4)), seed=11)
    images = random_images(11, 2, 3, shape[3], shape[3])
    weights = renamed({name.removeprefix("dinov2."): value for name, value in weights_of(module).items()})
    head = weights.pop("head.weight"), weights.pop("head.bias")
    tokens = reforg.create_model("vit_small_patch14_dinov2", weights=weights, dtype="float64", **ours).features(images)
    logits = np.concatenate([tokens[:, 0], tokens[:, 1:].mean(axis=1)], axis=1) @ head[0].T + head[1]
    with torch.no_grad():
        assert not disagreement(logits, module(images).logits.numpy())
