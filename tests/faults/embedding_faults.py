"""Faults before the first block and after the last: images, patches, positions, pooling, classifiers."""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

from faults.modules import tokens_of
from faults.table import fault

FIRST = {case: ("patch_embed.proj",) for case in ("evit", "deit", "deit3")} | {
    "hmlp": ("patch_embed.proj.0",), "shunted": ("patch_embed1.conv.0",)
}  # fmt: skip
PLACED = "blocks.0.norm1"  # tokens with their positions have no module of their own
ANY = ("",)
IMAGENET_MEAN, IMAGENET_DEVIATION = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)


def _preparing(prepare: Callable[[Tensor], Tensor]) -> Any:
    return lambda module, place: setattr(module, "prepared", prepare)


def by_halves(images: Tensor) -> Tensor:
    """Images normalised by ImageNet's mean and deviation as they are by 0.5 and 0.5."""
    mean, deviation = (images.new_tensor(values)[:, None, None] for values in (IMAGENET_MEAN, IMAGENET_DEVIATION))
    return (images * deviation + mean - 0.5) / 0.5


fault("channels", "image channels reversed", FIRST, "{}", r"channels.*reversed")(_preparing(lambda images: images.flip(1)))
fault("halves-for-imagenet", "mean and deviation 0.5 for ImageNet's", FIRST, "{}", r"0\.5.*ImageNet|mean and deviation 0\.5")(
    _preparing(by_halves)
)


@fault("column-order", "patches in column order", {case: ANY for case in ("evit", "deit", "deit3", "hmlp")}, "patch_embed",
       r"column order")  # fmt: skip
def column_order(module: Any, place: str) -> None:
    module.patch_embed.ordered = lambda maps: tokens_of(maps.transpose(2, 3))


def _positions(change: Callable[[Tensor], Tensor]) -> Any:
    def plant(module: Any, place: str) -> None:
        module.positions = lambda grid: change(type(module).positions(module, grid))

    return plant


ALL = {case: ANY for case in ("evit", "deit", "deit3", "distilled", "parallel", "hmlp")}
_SHIFTED = r"positions.*shifted"
fault("positions-rolled", "positions shifted by one, the last first", ALL, PLACED, _SHIFTED)(
    _positions(lambda table: table.roll(1, dims=1))
)
fault("positions-next", "every token has the next one's position", ALL, PLACED, _SHIFTED)(
    _positions(lambda table: torch.cat([table[:, 1:], table[:, -1:]], dim=1))
)
fault("positions-missing", "positions left out", ALL, PLACED, r"positions missing")(_positions(torch.zeros_like))


@fault("positions-before-class", "positions added before the class token joins", {case: ANY for case in ("evit", "deit", "distilled")},
       PLACED, r"before the class token joins")  # fmt: skip
def before_class(module: Any, place: str) -> None:
    module.placed = lambda patches, table: torch.cat([*module.tokens(len(patches)), patches + table[:, module.special :]], dim=1)


@fault("positions-after-class", "positions added after the class token joined", {case: ANY for case in ("deit3", "parallel", "hmlp")},
       PLACED, r"after the class token join")  # fmt: skip
def after_class(module: Any, place: str) -> None:
    """The table has no entry for the class token: the last patch goes without."""

    def placed(patches: Tensor, table: Tensor) -> Tensor:
        return torch.cat([*module.tokens(len(patches)), patches], dim=1) + functional.pad(table, (0, 0, 0, 1))

    module.placed = placed


def _resampling(mode: str, **options: bool) -> Any:
    def plant(module: Any, place: str) -> None:
        module.resampled = lambda maps, grid: functional.interpolate(maps, size=grid, mode=mode, **options)

    return plant


_RESIZED = ("evit small", "evit large")
for _slug, _label, _plant, _pattern, _cases in (
    ("antialiased", "with antialiasing for without", _resampling("bicubic", antialias=True), r"resampled.*(with antialias|-0\.5)", _RESIZED),
    ("aligned", "align_corners", _resampling("bicubic", align_corners=True), r"resampled.*align_corners", _RESIZED),
    ("bilinear", "bilinear", _resampling("bilinear"), r"resampled.*bilinear", (*_RESIZED, "deit3 small", "deit3 large")),
    ("not-antialiased", "without antialiasing for with", _resampling("bicubic"), r"resampled.*without antialias",
     ("deit3 small", "deit3 large")),
):  # fmt: skip
    fault(f"positions-{_slug}", f"positions resampled: {_label}", {case: ANY for case in _cases}, PLACED, _pattern)(_plant)


@fault("mean-pooled", "mean over tokens pooled for the class token", {case: ANY for case in ("evit", "deit", "deit3")}, "head",
       r"pooled.*mean of all tokens")  # fmt: skip
def mean_pooled(module: Any, place: str) -> None:
    module.classify = lambda x: module.head(module.norm(x).mean(dim=1))


@fault("patches-pooled", "mean over patches pooled for the class token", {case: ANY for case in ("evit", "deit", "deit3")}, "head",
       r"pooled.*mean of the patches")  # fmt: skip
def patches_pooled(module: Any, place: str) -> None:
    module.classify = lambda x: module.head(module.norm(x)[:, 1:].mean(dim=1))


DISTILLED = {"distilled": ANY}


@fault("one-head", "only the class token's head", DISTILLED, "logits", r"only the class token")
def one_head(module: Any, place: str) -> None:
    module.averaged = lambda logits, distilled: logits


@fault("other-head", "only the distillation token's head", DISTILLED, "logits", r"only the distillation token")
def other_head(module: Any, place: str) -> None:
    module.averaged = lambda logits, distilled: distilled


@fault("heads-summed", "sum of the heads", DISTILLED, "logits", r"sum of the heads")
def heads_summed(module: Any, place: str) -> None:
    module.averaged = lambda logits, distilled: logits + distilled


@fault("heads-exchanged", "heads exchanged", DISTILLED, "head", r"(heads|tokens) exchanged", ("head_dist",))
def heads_exchanged(module: Any, place: str) -> None:
    def classify(x: Tensor) -> Tensor:
        x = module.norm(x)
        return (module.head(x[:, 1]) + module.head_dist(x[:, 0])) / 2

    module.classify = classify
