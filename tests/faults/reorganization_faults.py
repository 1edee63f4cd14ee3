"""Faults of EViT's reorganization. They show in the first norm after it, because no module returns what goes on."""

import math
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from faults.modules import gathered, weighted
from faults.table import fault

PLACES = {"evit": ("blocks.1", "blocks.3"), "evit drop": ("blocks.1", "blocks.3")}
FUSED = {"evit": ("blocks.1", "blocks.3")}
SHOWN = "{}.norm2"


def _counting(how: Callable[[float, int], int]) -> Any:
    def plant(module: Any, place: str) -> None:
        block = module.get_submodule(place)
        block.count = lambda candidates: how(block.keep_rate, candidates) if block.keep_rate < 1 else candidates

    return plant


# Each where it gives another count than the right one.
for _slug, _label, _how, _pattern, _places in (
    ("count-floor", "floor for ceil", lambda rate, n: math.floor(rate * n), r"count.*(floor|round|one less)", PLACES),
    ("count-round", "round for ceil", lambda rate, n: round(rate * n), r"count.*(floor|round|one less)",
     {"evit": ("blocks.1",), "evit drop": ("blocks.1", "blocks.3"), "evit small": ("blocks.1",)}),
    ("count-class", "the class token counted", lambda rate, n: math.ceil(rate * (n + 1)), r"count.*(class token|one more)",
     {"evit": ("blocks.3",), "evit large": ("blocks.1",)}),
    ("count-more", "one more", lambda rate, n: math.ceil(rate * n) + 1, r"count.*(one more|class token)", PLACES),
    ("count-less", "one less", lambda rate, n: math.ceil(rate * n) - 1, r"count.*(one less|floor|round)", PLACES),
):  # fmt: skip
    fault(_slug, f"kept count: {_label}", _places, SHOWN, _pattern)(_counting(_how))


def _scoring(how: Callable[[Tensor, Tensor], Tensor]) -> Any:
    return lambda module, place: setattr(module.get_submodule(place).attn, "attentiveness", how)


for _slug, _label, _score, _pattern in (
    ("scores-raw", "scores before softmax", lambda scores, probs: scores[:, :, 0, 1:].mean(dim=1), r"before softmax"),
    ("scores-maximum", "maximum over heads", lambda scores, probs: probs[:, :, 0, 1:].amax(dim=1), r"maximum over the heads"),
    ("scores-column", "column for row", lambda scores, probs: probs[:, :, 1:, 0].mean(dim=1), r"column for row"),
):
    fault(_slug, f"selection: {_label}", PLACES, SHOWN, _pattern)(_scoring(_score))


@fault("smallest", "selection: smallest for largest", PLACES, SHOWN, r"smallest")
def smallest(module: Any, place: str) -> None:
    module.get_submodule(place).order = lambda attention: attention.argsort(dim=1, stable=True)


@fault("off-by-one", "selection: indices off by one, the class token counted when gathering", PLACES, SHOWN, r"off by one")
def off_by_one(module: Any, place: str) -> None:
    module.get_submodule(place).kept = gathered


Fuse = Callable[[Tensor, Tensor, Tensor, Tensor], Tensor]


def normalised(patches: Tensor, attention: Tensor, kept: Tensor, dropped: Tensor) -> Tensor:
    return weighted(patches, attention, dropped) / attention.gather(1, dropped).sum(dim=1)[:, None, None]


def averaged(patches: Tensor, attention: Tensor, kept: Tensor, dropped: Tensor) -> Tensor:
    return gathered(patches, dropped).mean(dim=1, keepdim=True)


def of_kept(patches: Tensor, attention: Tensor, kept: Tensor, dropped: Tensor) -> Tensor:
    return weighted(patches, attention, kept)


def _fusing(fuse: Fuse) -> Any:
    return lambda module, place: setattr(module.get_submodule(place), "fused", fuse)


for _slug, _label, _fuse, _pattern in (
    ("fused-normalised", "divided by the sum of attentions", normalised, r"fused.*divided by the sum"),
    ("fused-averaged", "averaged without weights", averaged, r"fused.*average"),
    ("fused-kept", "weighted over the kept tokens", of_kept, r"fused.*kept"),
):
    fault(_slug, f"fused token: {_label}", FUSED, SHOWN, _pattern)(_fusing(_fuse))


def _fuses(yes: bool) -> Any:
    return lambda module, place: setattr(module.get_submodule(place), "fuse", yes)


fault("fused-missing", "fused token missing", FUSED, SHOWN, r"fused token missing")(_fuses(False))
fault("fused-present", "fused token although fuse_token is false", {"evit drop": ("blocks.1", "blocks.3")}, SHOWN,
      r"fused token where none")(_fuses(True))  # fmt: skip


def _from(mix: Callable[[Tensor, Tensor], Tensor]) -> Any:
    """Reorganizes a mixture of the tokens before and after attention was added."""

    def plant(module: Any, place: str) -> None:
        block = module.get_submodule(place)
        block.reorganize = lambda before, x, attention: type(block).reorganize(block, before, mix(before, x), attention)

    return plant


fault("before-residual", "patches gathered from before attention's residual", PLACES, SHOWN, r"before attention's residual", ("{}",))(
    _from(lambda before, x: torch.cat([x[:, :1], before[:, 1:]], dim=1))
)
fault("before-residual-all", "all tokens taken from before attention's residual", PLACES, SHOWN, r"before attention's residual",
      ("{}",))(_from(lambda before, x: before))  # fmt: skip


@fault("after-mlp", "reorganization after the MLP", PLACES, SHOWN, r"reorganization after the MLP",
       ("{}.mlp.fc1", "{}.mlp.act", "{}.mlp.fc2", "{}.mlp", "{}"))  # fmt: skip
def after_mlp(module: Any, place: str) -> None:
    block = module.get_submodule(place)
    kept: list[Tensor] = []

    def later(before: Tensor, x: Tensor, attention: Tensor) -> Tensor:
        kept.append(attention)
        return x

    def finish(x: Tensor) -> Tensor:
        x = type(block).finish(block, x)
        return type(block).reorganize(block, x, x, kept.pop())

    block.reorganize, block.finish = later, finish
