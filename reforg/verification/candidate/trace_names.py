"""The names of a trace without running the model: of its layers, of the modules that hold them, of what has no module."""

from reforg.config import Config, ShuntedConfig, VitConfig
from reforg.costs.cost import cost

INNER = ("scores", "probs", "context", "cls_attention")


def trace_names(config: Config, size: tuple[int, int]) -> tuple[str, ...]:
    """Every name that a trace of images (height, width) may have; some of them only where something was dropped or resampled."""
    names: dict[str, None] = {"pos_embed": None, "embedded": None}
    for layer in cost(config, img_size=size).by_layer:
        parts = layer.split(".")
        names |= dict.fromkeys(".".join(parts[:end]) for end in range(1, len(parts)) if not _is_list(parts[:end], config))
        names[layer] = None
    names |= dict.fromkeys(_inner(tuple(names), config))
    return (*names, "logits")


def module_names(config: Config, size: tuple[int, int]) -> tuple[str, ...]:
    """The layers that hooks on a module see, in the order of execution."""
    inner = (*INNER, "kept", "reorganized", "pos_embed")
    return tuple(layer for layer in cost(config, img_size=size).by_layer if layer.rpartition(".")[2] not in inner)


def _is_list(parts: list[str], config: Config) -> bool:
    """Whether a module only holds others, and is never called: a list of blocks, a group of what has no module."""
    last = parts[-1]
    if isinstance(config, ShuntedConfig):
        return last.startswith("block") or "branches" in parts
    return last == "blocks" and isinstance(config, VitConfig) and config.modules != "timm"


def _inner(names: tuple[str, ...], config: Config) -> list[str]:
    """Names of what has no module of its own, beside those that have."""
    found = []
    for name in names:
        module = name.rpartition(".")[2]
        if module in ("attn", "attn1"):
            found += [f"{name}.{inner}" for inner in INNER]
            found += [f"{name}.act", *(f"{name}.branches.{branch}.{inner}" for branch in (0, 1) for inner in INNER[:3])]
        if module.isdigit() and name.startswith("block"):
            found += [f"{name}.{inner}" for inner in ("attended", "kept", "reorganized", "cls_attention")]
            found += [f"{name}.ls{number}{branch}" for number in (1, 2) for branch in ("", "1")]
    return found if not isinstance(config, ShuntedConfig) else [name for name in found if ".ls" not in name]
