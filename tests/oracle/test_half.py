"""float16 and bfloat16: ours against torch's own arithmetic in these dtypes, both against the same modules in float64.

Weights and images are rounded to the dtype first, so that only arithmetic differs. Where every value of torch's is finite,
so is every one of ours, and ours are about as near to the truth: root mean squares, at most LIMIT times torch's distance and
half a rounding, which is what one that torch makes in another place costs.

Not held: scores beyond the dtype. torch's fused attention keeps them in float32; the trace, and so the reference, has them in
the dtype, where they become infinite and the softmax NaN.
"""

import copy
from collections.abc import Callable
from functools import cache
from typing import Any

import numpy as np
import pytest
import timm
import torch
from torch import nn

import reforg

from .hooks import Arrays, attention_of_timm, random_images, randomised, record, weights_of
from .literal import ShuntedTransformer, VisionTransformer

LIMIT = 1.5  # measured: 1.33 at worst, and half of all tensors within 1.00
ROUNDING = {"float16": 2.0**-11, "bfloat16": 2.0**-8}
MOST = 65504.0  # float16's largest number
SMALL: dict[str, Any] = {"img_size": 32, "patch_size": 8, "embed_dim": 32, "depth": 3, "num_heads": 4, "num_classes": 50}
STAGES: dict[str, Any] = {
    "img_size": 64, "embed_dims": (16, 16, 32, 32), "depths": (1, 1, 2, 1), "num_heads": (2, 2, 4, 4), "mlp_ratios": (2,) * 4,
    "num_classes": 50,
}  # fmt: skip


def of_timm(name: str, **changes: Any) -> tuple[str, dict[str, Any], nn.Module]:
    settings = SMALL | changes
    return name, settings, timm.create_model(name, **settings)


def literal_vit(name: str, **changes: Any) -> tuple[str, dict[str, Any], nn.Module]:
    rate = changes.get("keep_rate", 1.0)
    module = VisionTransformer(
        grid=(4, 4),
        patch=8,
        channels=3,
        classes=50,
        width=32,
        heads=4,
        hidden=128,
        rates=[1.0, rate, 1.0],
        fuse=changes.get("fuse_token", True),
        branches=changes.get("parallel", 1),
        gains="init_values" in changes,
        bare_class=changes.get("no_embed_class", False),
    )
    return name, SMALL | {"drop_loc": (1,)} | changes, module


def literal_shunted() -> tuple[str, dict[str, Any], nn.Module]:
    module = ShuntedTransformer(3, 50, (16, 16, 32, 32), (1, 1, 2, 1), (2, 2, 4, 4), (32, 32, 64, 64), (8, 4, 2, 1), 0, True)
    return "shunted_t", STAGES, module


FAMILIES: dict[str, Callable[[], tuple[str, dict[str, Any], nn.Module]]] = {
    "vit": lambda: of_timm("vit_tiny_patch16_224"),
    "vit, mean of patches": lambda: of_timm("vit_tiny_patch16_224", global_pool="avg"),
    "deit, distilled": lambda: of_timm("deit_tiny_distilled_patch16_224"),
    "deit3": lambda: of_timm("deit3_small_patch16_224.fb_in1k"),
    "dinov2": lambda: of_timm("vit_small_patch14_dinov2"),
    "evit, fusing": lambda: literal_vit("evit_tiny_patch16_224", keep_rate=0.5),
    "evit, dropping": lambda: literal_vit("evit_tiny_patch16_224", keep_rate=0.5, fuse_token=False),
    "parallel blocks": lambda: literal_vit(
        "deit_small_patch16_18x2_LS", keep_rate=1.0, parallel=2, init_values=0.1, no_embed_class=True
    ),
    "shunted": literal_shunted,
}
STREAM = ("attn.proj.weight", "attn.proj.bias", "attn1.proj.weight", "attn1.proj.bias", "fc2.weight", "fc2.bias",
          "cls_token", "dist_token", "pos_embed", "patch_embed.proj.weight", "patch_embed.proj.bias")  # fmt: skip


def louder_stream(name: str, value: torch.Tensor, by: float) -> torch.Tensor:
    """Tokens, and what is added to them, times `by`; each norm divides it out."""
    return value * by if name.endswith(STREAM) or (".norm." in name and "patch_embed" in name) else value


def louder_hidden(name: str, value: torch.Tensor, by: float) -> torch.Tensor:
    """The first layer of an MLP times `by`, which the second divides out."""
    return value * by if ".fc1." in name else value / by if name.endswith("fc2.weight") else value


def louder_values(name: str, value: torch.Tensor, by: float) -> torch.Tensor:
    """Values times `by`, which the projection after them divides out."""
    parts = {"qkv": 3, "kv": 2, "kv1": 2, "kv2": 2}.get(f".{name}".split(".")[-2], 0) if "attn" in name else 0
    if parts:
        rows = torch.ones(len(value), dtype=value.dtype)
        rows[-(len(value) // parts) :] = by
        return value * rows.reshape(-1, *[1] * (value.ndim - 1))
    return value / by if "attn" in name and name.endswith("proj.weight") else value


def louder_scores(name: str, value: torch.Tensor, by: float) -> torch.Tensor:
    """Queries times `by`."""
    part = f".{name}".split(".")[-2]
    if "attn" not in name or part not in ("qkv", "q"):
        return value
    rows = torch.ones(len(value), dtype=value.dtype)
    rows[: len(value) // (3 if part == "qkv" else 1)] = by
    return value * rows.reshape(-1, *[1] * (value.ndim - 1))


LOUDER: dict[str, Callable[[str, torch.Tensor, float], torch.Tensor]] = {
    "stream": louder_stream,
    "hidden": louder_hidden,
    "values": louder_values,
    "scores": louder_scores,
}


@cache
def prepared(family: str, dtype: str, how: str, power: int) -> tuple[str, dict[str, Any], nn.Module, torch.Tensor]:
    name, settings, module = FAMILIES[family]()
    module, kind = randomised(module, seed=len(family)), getattr(torch, dtype)
    for key, value in module.state_dict().items():
        if value.is_floating_point():
            value.copy_(LOUDER[how](key, value, 2.0**power).to(kind).double())
    images = random_images(3, 6, 3, settings["img_size"], settings["img_size"]).to(kind).double()
    return name, settings, module, images


@cache
def loudest(family: str, dtype: str, how: str) -> int:
    """The largest power of two by which weights may grow while every value of the truth stays below float16's largest."""
    for power in range(1, 24):
        _, _, module, images = prepared(family, dtype, how, power)
        values = record(module, images)
        if isinstance(module, timm.models.VisionTransformer):
            values |= attention_of_timm(copy.deepcopy(module), images)
        if not all(np.abs(value).max() < 0.95 * MOST for value in values.values()):
            return power - 1
    raise AssertionError("nothing grows")


def in_half(module: nn.Module, images: torch.Tensor, dtype: str) -> Arrays:
    kind = getattr(torch, dtype)
    return record(copy.deepcopy(module).to(kind), images.to(kind))


def ours(name: str, settings: dict[str, Any], module: nn.Module, images: torch.Tensor, dtype: str, backend: str) -> Arrays:
    model = reforg.create_model(name, weights=weights_of(module), backend=backend, dtype=dtype, check_finite=False, **settings)
    with np.errstate(over="ignore", invalid="ignore"):
        found = model.trace(images) | {"own logits": model(images)}
    return {path: np.asarray(model.backend.to_numpy(value)) for path, value in found.items()}


def rms(values: np.ndarray) -> float:
    return float(np.sqrt(np.mean(np.square(values, dtype=np.float64))))


def settled(runs: list[Arrays]) -> set[str]:
    """What comes before the first choice of tokens in which the runs differ; in a model that makes none, everything."""
    names: set[str] = set()
    for name in runs[-1]:
        if name.endswith(".kept") and not all(np.array_equal(run[name], runs[0][name]) for run in runs):
            break
        names.add(name)
    return names & set(runs[0])


every_backend = pytest.mark.parametrize("backend", ["numpy", "torch"])
every_dtype = pytest.mark.parametrize("dtype", ROUNDING)
every_family = pytest.mark.parametrize("family", FAMILIES)


def both(family: str, dtype: str, how: str, beyond: int, backend: str) -> tuple[Arrays, Arrays, Arrays]:
    """Truth, torch's and ours; `beyond` doublings more than what float16 can hold throughout."""
    name, settings, module, images = prepared(family, dtype, how, loudest(family, dtype, how) + beyond)
    truth, theirs = (
        values | {"own logits": values["logits"]} for values in (record(module, images), in_half(module, images, dtype))
    )
    return truth, theirs, ours(name, settings, module, images, dtype, backend)


def spoiled(values: Arrays) -> set[str]:
    return {path for path, value in values.items() if not np.isfinite(value).all()}


@every_backend
@every_dtype
@pytest.mark.parametrize("how", ["stream", "hidden", "values"])
@every_family
def test_finite_where_torch_is_and_as_near_to_the_truth(family: str, how: str, dtype: str, backend: str) -> None:
    truth, theirs, got = both(family, dtype, how, 0, backend)
    assert max(np.abs(value).max() for value in truth.values()) > MOST / 4
    assert spoiled(theirs) == spoiled(got) == set()
    far = {}
    for path in settled([truth, theirs, got]):
        mine, other = (rms(np.asarray(run[path], np.float64) - truth[path]) for run in (got, theirs))
        if mine > LIMIT * other + 0.5 * ROUNDING[dtype] * rms(truth[path]):
            far[path] = (mine / other, other / rms(truth[path]) / ROUNDING[dtype])
    assert far == {}


@every_backend
@pytest.mark.parametrize("how", ["stream", "hidden", "values"])
@every_family
def test_beyond_float16_nothing_is_lost_that_torch_keeps(family: str, how: str, backend: str) -> None:
    _, theirs, got = both(family, "float16", how, 2, backend)
    assert spoiled(theirs)
    assert spoiled(got) & set(theirs) <= spoiled(theirs)


@every_backend
@every_dtype
@every_family
def test_scores_that_fit_the_dtype_stay_finite(family: str, dtype: str, backend: str) -> None:
    """Also where the products of queries and keys, which the scale then divides, would not fit it."""
    *_, got = both(family, dtype, "scores", 0, backend)
    assert spoiled(got) == set()
    assert max(np.abs(value).max() for path, value in got.items() if path.endswith(("scores", "qkv", ".q"))) > MOST / 8
