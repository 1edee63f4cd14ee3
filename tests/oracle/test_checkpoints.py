"""Files of torch, timm, transformers and NumPy against what these programs themselves load, bit for bit."""

import argparse
import os
from collections import OrderedDict
from collections.abc import Callable
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np
import pytest
import timm
import torch
from timm.models import clean_state_dict
from torch import nn
from transformers import (
    DeiTConfig,
    DeiTForImageClassificationWithTeacher,
    DeiTModel,
    Dinov2Config,
    Dinov2Model,
    ViTConfig,
    ViTForImageClassification,
    ViTModel,
)

import reforg
from reforg.catalog import synthetic
from reforg.catalog.names import build_config
from reforg.families import shapes

from .hooks import disagreement, random_images, randomised, weights_of

SHARED = Path(os.environ.get("REFORG_SHARED", Path(__file__).parents[3] / "shared")) / "checkpoints"
CHECKPOINTS = sorted(SHARED.glob("*.pth"))
TINY = {"img_size": 32, "patch_size": 8, "embed_dim": 24, "depth": 2, "num_heads": 3, "num_classes": 5}
SHUNTED = {
    "img_size": 32,
    "embed_dims": (8, 8, 16, 16),
    "num_heads": (2, 2, 2, 2),
    "mlp_ratios": (2, 2, 2, 2),
    "depths": (1, 1, 2, 1),
}
FAMILIES: dict[str, dict[str, Any]] = {
    "vit_tiny_patch16_224": TINY, "deit_tiny_patch16_224": TINY, "deit_tiny_distilled_patch16_224": TINY,
    "deit3_small_patch16_224": TINY, "deit_small_patch16_18x2_LS": TINY, "evit_tiny_patch16_224": {**TINY, "drop_loc": (1,)},
    "vit_small_patch14_dinov2": {**TINY, "num_classes": 0}, "shunted_t": {**SHUNTED, "num_classes": 5},
}  # fmt: skip
families = pytest.mark.parametrize("name", FAMILIES)
BITS = {"bfloat16": torch.int16, "float8_e4m3fn": torch.uint8, "float8_e5m2": torch.uint8}


def same_bits(ours: np.ndarray, theirs: torch.Tensor) -> bool:
    """Equal in dtype, shape and every bit."""
    kind = str(theirs.dtype).removeprefix("torch.")
    if str(ours.dtype) != kind or ours.shape != tuple(theirs.shape):
        return False
    plain = theirs.contiguous().view(BITS[kind]) if kind in BITS else theirs.contiguous()
    return ours.tobytes() == plain.numpy().tobytes()


def tensors(name: str, seed: int = 1) -> dict[str, torch.Tensor]:
    """Synthetic weights of a tiny model of a family, as torch's."""
    arrays = synthetic.weights(shapes(build_config(name, **FAMILIES[name])), seed)
    found = {key: torch.from_numpy(value) for key, value in arrays.items()}
    found |= {key.replace("running_mean", "num_batches_tracked"): torch.tensor(7) for key in found if "running_mean" in key}
    return found


def training(state: dict[str, torch.Tensor]) -> dict[str, Any]:
    """A checkpoint as the official training code writes it, with a real optimizer's state, a scheduler's and options."""
    parameters = [nn.Parameter(value.clone()) for value in state.values() if value.is_floating_point()]
    optimizer = torch.optim.AdamW(parameters)
    for parameter in parameters:
        parameter.grad = torch.ones_like(parameter)
    optimizer.step()
    scheduler = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, 10)
    options = argparse.Namespace(lr=5e-4, output=Path("runs/1"), best=np.float64(0.5), rates=np.arange(3), kinds={"a", "b"})
    return {
        "model": OrderedDict(state), "optimizer": optimizer.state_dict(), "lr_scheduler": scheduler.state_dict(), "epoch": 3,
        "scaler": {"scale": 65536.0}, "args": options, "scheduler object": scheduler,
    }  # fmt: skip


def old(content: Any, path: Path) -> None:
    torch.save(content, path, _use_new_zipfile_serialization=False)


WRITERS: dict[str, Callable[[Any, Path], None]] = {
    "archive": torch.save,
    "before 1.6": old,
    **{
        f"protocol {number}": lambda content, path, n=number: torch.save(content, path, pickle_protocol=n)
        for number in (2, 3, 4, 5)
    },
    "before 1.6, protocol 4": lambda content, path: torch.save(
        content, path, pickle_protocol=4, _use_new_zipfile_serialization=False
    ),
}  # fmt: skip
writers = pytest.mark.parametrize("writer", WRITERS.values(), ids=WRITERS)


@pytest.mark.skipif(
    not CHECKPOINTS, reason="the shared checkpoints are not beside this repository; REFORG_SHARED names their folder"
)
@pytest.mark.parametrize("path", CHECKPOINTS, ids=lambda path: path.stem)
def test_trained_checkpoints_are_read_bit_for_bit(path: Path) -> None:
    theirs = torch.load(path, weights_only=False)["model"]
    ours = reforg.load_weights(path)
    assert list(ours) == list(theirs)
    assert [name for name in theirs if not same_bits(ours[name], theirs[name])] == []


@families
@writers
def test_training_checkpoints(name: str, writer: Callable[[Any, Path], None], tmp_path: Path) -> None:
    state = tensors(name)
    writer(training(state), tmp_path / "c.pth")
    ours = reforg.load_weights(tmp_path / "c.pth")
    assert list(ours) == list(state)
    assert [key for key in state if not same_bits(ours[key], state[key])] == []
    assert set(reforg.create_model(name, weights=str(tmp_path / "c.pth"), **FAMILIES[name]).weights) <= set(state)


@families
def test_files_cleaned_as_timm_does(name: str, tmp_path: Path) -> None:
    """timm's script takes the state dict out, strips `module.` and writes the format of before 1.6."""
    state = tensors(name)
    wrapped = {f"module.{key}": value for key, value in state.items()}
    old(OrderedDict(clean_state_dict(wrapped)), tmp_path / "cleaned.pth")
    torch.save({"state_dict": wrapped, "arch": name}, tmp_path / "wrapped.pth.tar")
    for path in sorted(tmp_path.iterdir()):
        ours = reforg.load_weights(path)
        assert [key for key in state if not same_bits(ours[key], state[key])] == [], path


KINDS: dict[str, Callable[[], torch.Tensor]] = {
    **{
        str(dtype).removeprefix("torch."): lambda dtype=dtype: torch.arange(-4, 8).to(dtype).reshape(3, 4)
        for dtype in (
            torch.float64, torch.float32, torch.float16, torch.bfloat16, torch.int64, torch.int32, torch.int16, torch.int8,
            torch.uint8, torch.bool, torch.complex64, torch.complex128, torch.float8_e4m3fn, torch.float8_e5m2, torch.uint16,
            torch.uint32, torch.uint64,
        )
    },
    "transposed": lambda: torch.arange(12.0).reshape(3, 4).T,
    "strided": lambda: torch.arange(24.0)[1::2],
    "with an offset": lambda: torch.arange(24.0)[5:9],
    "expanded": lambda: torch.arange(3.0)[:, None].expand(3, 4),
    "of no dimension": lambda: torch.tensor(3.5),
    "empty": lambda: torch.zeros(0, 4),
    "channels last": lambda: torch.arange(48.0).reshape(2, 2, 3, 4).to(memory_format=torch.channels_last),
    "a parameter": lambda: nn.Parameter(torch.arange(4.0)),
    "special numbers": lambda: torch.tensor([float("nan"), float("inf"), -0.0, 1e-42]),
}  # fmt: skip


@writers
@pytest.mark.parametrize("kind", KINDS)
def test_every_kind_of_tensor(kind: str, writer: Callable[[Any, Path], None], tmp_path: Path) -> None:
    value = KINDS[kind]()
    if kind in ("uint16", "uint32", "uint64", "float8_e4m3fn", "float8_e5m2") and "before" in next(
        name for name, one in WRITERS.items() if one is writer
    ):
        pytest.skip("the old format has no storage of this dtype")
    writer({"a": value, "tied": value, "whole": value.detach().clone()}, tmp_path / "k.pt")
    ours = reforg.load_weights(tmp_path / "k.pt")
    theirs = torch.load(tmp_path / "k.pt", weights_only=False)
    assert list(ours) == ["a", "tied", "whole"]
    assert all(same_bits(ours[name], theirs[name].detach()) for name in theirs)
    assert all(array.flags.c_contiguous and array.flags.aligned and array.flags.writeable for array in ours.values())


def test_bfloat16_is_ml_dtypes_own(tmp_path: Path) -> None:
    torch.save({"x": torch.ones(3, dtype=torch.bfloat16)}, tmp_path / "b.pt")
    assert reforg.load_weights(tmp_path / "b.pt")["x"].dtype == ml_dtypes.bfloat16


def transformers_module(kind: str) -> tuple[nn.Module, str, dict[str, Any]]:
    """A tiny module of transformers, the name of our model for it, and that one's settings."""
    sizes = {
        "hidden_size": 24,
        "num_hidden_layers": 2,
        "num_attention_heads": 3,
        "image_size": 32,
        "patch_size": 8,
        "layer_norm_eps": 1e-6,
    }
    plain, settings = sizes | {"intermediate_size": 96}, {**TINY, "num_classes": 5}
    made: dict[str, tuple[Callable[[], nn.Module], str, int]] = {
        "ViT": (lambda: ViTForImageClassification(ViTConfig(**plain, num_labels=5)), "vit_tiny_patch16_224", 5),
        "ViT without head": (lambda: ViTModel(ViTConfig(**plain)), "vit_tiny_patch16_224", 0),
        "DeiT": (
            lambda: DeiTForImageClassificationWithTeacher(DeiTConfig(**plain, num_labels=5)), "deit_tiny_distilled_patch16_224", 5
        ),
        "DeiT without head": (lambda: DeiTModel(DeiTConfig(**plain)), "deit_tiny_distilled_patch16_224", 0),
        "DINOv2": (lambda: Dinov2Model(Dinov2Config(**sizes)), "vit_small_patch14_dinov2", 0),
    }  # fmt: skip
    make, name, classes = made[kind]
    return randomised(make(), seed=9), name, settings | {"num_classes": classes}


KINDS_OF_TRANSFORMERS = pytest.mark.parametrize("kind", ["ViT", "ViT without head", "DeiT", "DeiT without head", "DINOv2"])


def features(module: nn.Module, images: torch.Tensor, classes: int) -> np.ndarray:
    with torch.no_grad():
        found = module(images)
    return (found.logits if classes else found.last_hidden_state).numpy()


@KINDS_OF_TRANSFORMERS
def test_transformers_files_and_modules(kind: str, tmp_path: Path) -> None:
    """What save_pretrained writes has version 4's names; a module's own state dict has those of the version that runs."""
    module, name, settings = transformers_module(kind)
    images = random_images(9, 2, 3, 32, 32)
    wanted = features(module, images, settings["num_classes"])
    module.save_pretrained(tmp_path)
    torch.save(module.state_dict(), tmp_path / "own.bin")
    for source in (tmp_path / "model.safetensors", tmp_path / "own.bin", weights_of(module)):
        model = reforg.create_model(name, weights=source, dtype="float64", **settings)
        ours = model(images) if settings["num_classes"] else model.features(images)
        assert not disagreement(ours, wanted)


@KINDS_OF_TRANSFORMERS
@pytest.mark.parametrize("spelling", ["transformers", "transformers5"])
def test_transformers_load_what_we_write(kind: str, spelling: str, tmp_path: Path) -> None:
    module, _, settings = transformers_module(kind)
    module.save_pretrained(tmp_path)
    (tmp_path / "model.safetensors").rename(tmp_path / "theirs.safetensors")
    weights = reforg.load_weights(tmp_path / "theirs.safetensors")
    reforg.save_weights(weights, tmp_path / "model.safetensors", spelling=spelling)
    again, report = type(module).from_pretrained(tmp_path, output_loading_info=True, dtype=torch.float64)
    unread = {"pooler.dense.weight", "pooler.dense.bias", "embeddings.mask_token"}
    assert set(report["missing_keys"]) <= unread
    assert not report["unexpected_keys"]
    images = random_images(9, 2, 3, 32, 32)
    classes = settings["num_classes"]
    assert not disagreement(features(again.eval(), images, classes), features(module, images, classes))


@pytest.mark.parametrize("big_vision", [False, True], ids=["vision_transformer", "big_vision"])
@pytest.mark.parametrize("name", ["vit_tiny_patch16_224", "deit_tiny_patch16_224", "evit_tiny_patch16_224"])
def test_googles_layout_is_what_timm_reads(name: str, big_vision: bool, tmp_path: Path) -> None:
    weights = {key: value.numpy() for key, value in tensors(name).items()}
    reforg.save_weights(weights, tmp_path / "g.npz", spelling="jax", num_heads=3)
    if big_vision:
        renamed = {"LayerNorm_2": "LayerNorm_1", "Attention_1": "Attention_0", "MlpBlock_3": "MlpBlock_0"}
        renamed |= {"Transformer/posembed_input/pos_embedding": "pos_embedding"}
        arrays = {}
        for key, value in np.load(tmp_path / "g.npz").items():
            for theirs, ours in renamed.items():
                key = key.replace(theirs, ours)  # noqa: PLW2901
            arrays[f"params/{key}"] = value
        np.savez(tmp_path / "g.npz", **arrays)
    module = timm.models.VisionTransformer(
        img_size=32, patch_size=8, embed_dim=24, depth=2, num_heads=3, num_classes=5, weight_init="skip"
    )
    module.load_pretrained(str(tmp_path / "g.npz"))
    ours = reforg.load_weights(tmp_path / "g.npz")
    theirs = module.state_dict()
    assert set(ours) == set(theirs)
    assert [key for key in theirs if not same_bits(ours[key], theirs[key])] == []
    assert all(np.array_equal(ours[key], weights[key]) for key in weights)


def test_timm_names_deit3_and_parallel_blocks(tmp_path: Path) -> None:
    """timm's DeiT III, and its parallel blocks, take what we write in its spelling, and we read it back."""
    for name, theirs in (
        ("deit3_small_patch16_224", "deit3_small_patch16_224"),
        ("deit_small_patch16_18x2_LS", "vit_small_patch16_18x2_224"),
    ):
        weights = {key: value.numpy() for key, value in tensors(name).items()}
        reforg.save_weights(weights, tmp_path / "t.safetensors", spelling="timm")
        settings = {key: value for key, value in TINY.items() if key != "num_classes"} | {
            "no_embed_class": True,
            "init_values": 1e-4,
        }
        module = timm.create_model(theirs, num_classes=5, **settings)
        module.load_state_dict({key: torch.from_numpy(value) for key, value in np_load(tmp_path / "t.safetensors").items()})
        again = reforg.load_weights(tmp_path / "t.safetensors")
        assert set(again) == set(weights)
        assert all(np.array_equal(again[key], weights[key]) for key in weights)


def np_load(path: Path) -> dict[str, np.ndarray]:
    from safetensors.numpy import load_file

    return load_file(path)
