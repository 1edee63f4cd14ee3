"""The names of a trace without running the model: of its layers, of the modules that hold them, of what has no module."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from reforg.config import Config, ShuntedConfig, VitConfig
from reforg.costs.cost import cost, run_over_shapes
from reforg.costs.ledger import Ledger

INNER = ("scores", "probs", "context", "cls_attention")


@dataclass(frozen=True)
class Naming:
    """What a family's programs hold besides what the trace of one forward pass has.

    is_list: (parts of a module's path, config) -> whether that module only holds others and is never called. inner: names of
    layers and modules -> names of what has no module of its own, even where this config or these images have no such value.
    """

    is_list: Callable[[Sequence[str], Any], bool]
    inner: Callable[[Sequence[str]], list[str]]


def trace_names(config: Config, size: tuple[int, int]) -> tuple[str, ...]:
    """Every name that a trace of images (height, width) may have; some of them only where something was dropped or resampled."""
    naming = NAMINGS.get(type(config))
    if naming is None:
        return tuple(dict.fromkeys((*_traced(config, size), "logits")))
    names: dict[str, None] = {"pos_embed": None, "embedded": None}
    for layer in cost(config, img_size=size).by_layer:
        parts = layer.split(".")
        names |= dict.fromkeys(".".join(parts[:end]) for end in range(1, len(parts)) if not naming.is_list(parts[:end], config))
        names[layer] = None
    names |= dict.fromkeys(naming.inner(tuple(names)))
    return (*names, "logits")


def module_names(config: Config, size: tuple[int, int]) -> tuple[str, ...]:
    """The layers that hooks on a module see, in the order of execution."""
    inner = (*INNER, "kept", "reorganized", "pos_embed")
    return tuple(layer for layer in cost(config, img_size=size).by_layer if layer.rpartition(".")[2] not in inner)


def _traced(config: Config, size: tuple[int, int]) -> list[str]:
    """What one forward pass calls its values, asked of arrays that only have shapes."""
    names: list[str] = []

    def trace(name: str, value: Any) -> Any:
        names.append(name)
        return value

    run_over_shapes(config, (1, config.in_chans, *size), Ledger(1), trace)
    return names


def _in_attention(name: str) -> list[str]:
    """What attention computes, be it of one kind of heads or of two."""
    branches = [f"{name}.branches.{branch}.{inner}" for branch in (0, 1) for inner in INNER[:3]]
    return [*(f"{name}.{inner}" for inner in INNER), f"{name}.act", *branches]


def _inner(names: Sequence[str], scaled: bool) -> list[str]:
    """Names of what has no module of its own, beside those that have. scaled: whether blocks may have a LayerScale."""
    found = []
    for name in names:
        module = name.rpartition(".")[2]
        if module in ("attn", "attn1"):
            found += _in_attention(name)
        if module.isdigit() and name.startswith("block"):
            found += [f"{name}.{inner}" for inner in ("attended", "kept", "reorganized", "cls_attention")]
            found += [f"{name}.ls{number}{branch}" for number in (1, 2) for branch in ("", "1") if scaled]
    return found


def _vit_list(parts: Sequence[str], config: VitConfig) -> bool:
    return parts[-1] == "blocks" and config.modules != "timm"


def _shunted_list(parts: Sequence[str], config: ShuntedConfig) -> bool:  # noqa: ARG001 - as _vit_list
    return parts[-1].startswith("block") or "branches" in parts


NAMINGS: Mapping[type[Config], Naming] = {
    VitConfig: Naming(_vit_list, lambda names: _inner(names, scaled=True)),
    ShuntedConfig: Naming(_shunted_list, lambda names: _inner(names, scaled=False)),
}
"""Families whose ports' names are known better than by one forward pass; of any other the trace's own names are known."""
