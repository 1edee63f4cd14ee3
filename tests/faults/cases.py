"""The models that faults are planted in: each as a reforg model, and as a torch module with the same weights, and images for both."""

from collections.abc import Callable
from dataclasses import dataclass, field
from functools import cache
from typing import Any

import numpy as np
import reforg
import torch
from reforg import synthetic
from torch import nn

from faults.modules import Block, EvitBlock, ParallelBlock, ScaledBlock, VisionTransformer
from faults.shunted_modules import ShuntedTransformer

WIDTH, HEADS, HIDDEN, CLASSES = 24, 3, 96, 10
VIT = {"img_size": 24, "patch_size": 4, "num_classes": CLASSES, "embed_dim": WIDTH, "num_heads": HEADS}
SHUNTED = {
    "num_classes": CLASSES, "embed_dims": (64, 32, 48, 64), "num_heads": (2, 2, 4, 4), "mlp_ratios": (1, 2, 2, 2),
    "depths": (1, 1, 2, 1), "sr_ratios": (8, 4, 2, 1), "num_conv": 1,
}  # fmt: skip
RATE, DROPS = 0.7, (1, 3)


@dataclass(frozen=True)
class Case:
    """A model in one configuration. shape: the images'. build: the torch module, without its weights."""

    family: str
    name: str
    build: Callable[[], nn.Module]
    shape: tuple[int, ...]
    config: dict[str, Any] = field(default_factory=dict)
    seed: int = 1

    @property
    def images(self) -> np.ndarray[Any, Any]:
        """[B, 3, H, W], float32."""
        return synthetic.images(self.shape, self.seed)


def _vit(block: Callable[[], nn.Module], depth: int, patch: int = 4, side: int = 6, **options: Any) -> Callable[[], nn.Module]:
    def build() -> nn.Module:
        blocks = [block() for _ in range(depth)]
        return VisionTransformer((side, side), patch, WIDTH, CLASSES, blocks, **options)

    return build


def _evit(fuse: bool) -> Callable[[], nn.Module]:
    def build() -> nn.Module:
        rates = [RATE if number in DROPS else 1.0 for number in range(6)]
        blocks = [EvitBlock(WIDTH, HEADS, HIDDEN, rate, fuse) for rate in rates]
        return VisionTransformer((6, 6), 4, WIDTH, CLASSES, blocks)

    return build


def _shunted() -> nn.Module:
    order = ("embed_dims", "depths", "num_heads", "mlp_ratios", "sr_ratios", "num_conv")
    return ShuntedTransformer(CLASSES, *(SHUNTED[key] for key in order))


def _block() -> nn.Module:
    return Block(WIDTH, HEADS, HIDDEN)


def _scaled() -> nn.Module:
    return ScaledBlock(WIDTH, HEADS, HIDDEN)


def _parallel() -> nn.Module:
    return ParallelBlock(WIDTH, HEADS, HIDDEN)


EVIT = VIT | {"depth": 6, "drop_loc": DROPS, "keep_rate": RATE}
DEIT, DEIT3 = VIT | {"depth": 3}, "deit3_small_patch16_224"
BARE = {"bare_class": True, "antialias": True}
HMLP = DEIT | {"stem": "hmlp", "patch_size": 16, "img_size": 64}
SMALL, LARGE = (2, 3, 16, 16), (2, 3, 32, 32)
USUAL = (2, 3, 24, 24)

CASES: dict[str, Case] = {
    "evit": Case("evit", "evit_small_patch16_224", _evit(fuse=True), USUAL, EVIT | {"fuse_token": True}),
    "evit drop": Case("evit", "evit_small_patch16_224", _evit(fuse=False), USUAL, EVIT | {"fuse_token": False}, 2),
    "evit small": Case("evit", "evit_small_patch16_224", _evit(fuse=True), SMALL, EVIT | {"fuse_token": True}, 3),
    "evit large": Case("evit", "evit_small_patch16_224", _evit(fuse=True), LARGE, EVIT | {"fuse_token": True}, 4),
    "deit": Case("deit", "deit_small_patch16_224", _vit(_block, 3, sequential=True), USUAL, DEIT, 5),
    "distilled": Case(
        "distilled", "deit_small_distilled_patch16_224", _vit(_block, 3, sequential=True, distilled=True), USUAL, DEIT, 6
    ),
    "deit3": Case("deit3", DEIT3, _vit(_scaled, 3, **BARE), USUAL, DEIT, 7),
    "deit3 small": Case("deit3", DEIT3, _vit(_scaled, 3, **BARE), SMALL, DEIT, 8),
    "deit3 large": Case("deit3", DEIT3, _vit(_scaled, 3, **BARE), LARGE, DEIT, 9),
    "parallel": Case("parallel", DEIT3, _vit(_parallel, 3, **BARE), USUAL, DEIT | {"parallel": 2}, 10),
    "hmlp": Case("hmlp", DEIT3, _vit(_scaled, 3, 16, 4, stem="hmlp", **BARE), (2, 3, 64, 64), HMLP, 11),
    "shunted": Case("shunted", "shunted_t", _shunted, (2, 3, 64, 96), SHUNTED, 12),
}


@cache
def reference(case: str) -> Any:
    """The reforg model of a case, in float64."""
    chosen = CASES[case]
    return reforg.create_model(chosen.name, weights=f"synthetic:{chosen.seed}", dtype="float64", **chosen.config)


def built(case: str) -> nn.Module:
    """The torch module of a case with the same weights, in float64, to be changed at will."""
    module = CASES[case].build().to(torch.float64).eval()
    weights = {name: torch.tensor(np.asarray(value)) for name, value in reference(case).weights.items()}
    module.load_state_dict(weights, strict=True)
    return module
