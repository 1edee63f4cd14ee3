"""Faults inside self-attention, of ViT and of Shunted."""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from faults.table import fault

PLACES = {
    "evit": ("blocks.1", "blocks.4"), "deit": ("blocks.0", "blocks.2"), "deit3": ("blocks.0", "blocks.2"),
    "evit drop": ("blocks.1",),
}  # fmt: skip
SHUNTED = {"shunted": ("block1.0", "block3.1", "block4.0")}
SEVERAL = {"shunted": ("block3.1", "block4.0")}  # more than one head in each half
REDUCED = {"shunted": ("block1.0", "block3.1")}
PROJ = "{}.attn.proj"
CHOSEN = ("{}.norm2", "{}")  # scores that no hook shows also choose the tokens that go on


def attention_of(module: Any, place: str) -> Any:
    return module.get_submodule(place).attn


def _scaled(power: float, by_width: bool = False) -> Callable[[Any, str], None]:
    def plant(module: Any, place: str) -> None:
        attention = attention_of(module, place)
        depth = attention.proj.in_features // (1 if by_width else attention.heads)
        attention.scale = depth**power

    return plant


for _slug, _label, _plant, _pattern in (
    ("scale-missing", "scale missing", _scaled(0.0), r"scale missing"),
    ("scale-twice", "scale applied twice", _scaled(-1.0), r"scale.*twice"),
    ("scale-width", "scale by the width, C^-0.5", _scaled(-0.5, by_width=True), r"scale.*width"),
):
    fault(_slug, _label, PLACES | SHUNTED, PROJ, _pattern, CHOSEN)(_plant)


def _merging(merge: Callable[[Tensor], Tensor]) -> Callable[[Any, str], None]:
    return lambda module, place: setattr(attention_of(module, place), "merge", merge)


def untransposed(context: Tensor) -> Tensor:
    """[B, H, N, D] read as [B, N, C] where it lies."""
    return context.reshape(context.shape[0], context.shape[2], -1)


fault("heads-rolled", "heads moved on by one", PLACES, PROJ, r"heads.*(permut|moved|roll)")(
    _merging(lambda context: context.roll(1, dims=1).transpose(1, 2).flatten(2))
)
fault("heads-untransposed", "head axis not transposed back before proj", PLACES | SEVERAL, PROJ, r"head axis.*not transposed")(
    _merging(untransposed)
)


def _splitting(change: Callable[[Any, Tensor], tuple[Tensor, ...]]) -> Callable[[Any, str], None]:
    def plant(module: Any, place: str) -> None:
        attention = attention_of(module, place)
        attention.split = lambda qkv: change(attention, qkv)

    return plant


def by_heads(attention: Any, qkv: Tensor) -> tuple[Tensor, ...]:
    """Each head's queries, keys and values side by side: (H, 3, D)."""
    return tuple(qkv.unflatten(2, (attention.heads, 3, -1)).permute(3, 0, 2, 1, 4))


def _reordered(*order: int) -> Callable[[Any, Tensor], tuple[Tensor, ...]]:
    def change(attention: Any, qkv: Tensor) -> tuple[Tensor, ...]:
        parts = qkv.unflatten(2, (3, attention.heads, -1)).permute(2, 0, 3, 1, 4)
        return tuple(parts[number] for number in order)

    return change


for _slug, _label, _change, _pattern in (
    ("qkv-per-head", "qkv interleaved per head (H, 3, D)", by_heads, r"interleaved by head|\(H, 3, D\)"),
    ("qk-exchanged", "queries and keys exchanged", _reordered(1, 0, 2), r"queries and keys"),
    ("kv-exchanged", "keys and values exchanged", _reordered(0, 2, 1), r"keys and values"),
):
    fault(_slug, _label, PLACES, PROJ, _pattern, CHOSEN)(_splitting(_change))


def exchanged_sides(module: Any, place: str) -> None:
    attention_of(module, place).sides = lambda kv: tuple(reversed(kv.chunk(2, dim=2)))


_EXCHANGED = r"keys and values"
fault("kv-exchanged", "keys and values exchanged", REDUCED, "{}.attn.local_conv1", _EXCHANGED, ("{}.attn.local_conv2", PROJ))(
    exchanged_sides
)
fault("kv-exchanged-whole", "keys and values exchanged", {"shunted": ("block4.0",)}, "{}.attn.local_conv", _EXCHANGED, (PROJ,))(
    exchanged_sides
)


def _assigning(assign: Callable[[Any, Any], tuple[Any, Any]]) -> Callable[[Any, str], None]:
    return lambda module, place: setattr(attention_of(module, place), "assigned", assign)


fault("reductions-exchanged", "reductions exchanged between the halves of the heads", REDUCED, PROJ, r"reductions exchanged")(
    _assigning(lambda first, second: (second, first))
)
fault("reductions-first", "both halves see the first reduction", REDUCED, PROJ, r"both halves.*first")(
    _assigning(lambda first, second: (first, first))
)
fault("reductions-second", "both halves see the second reduction", REDUCED, PROJ, r"both halves.*second")(
    _assigning(lambda first, second: (second, second))
)


@fault("halves", "halves of the heads exchanged at concat", REDUCED, PROJ, r"halves of the heads exchanged")
def halves_exchanged(module: Any, place: str) -> None:
    attention_of(module, place).joined = lambda first, second: torch.cat([second, first], dim=2)
