"""Every model's name, what it stands for, and the other spellings that also work."""

import json
from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from fnmatch import fnmatchcase
from functools import lru_cache
from importlib import resources
from typing import Any

from reforg.config import Config, ShuntedConfig, VitConfig
from reforg.errors import ConfigError, nearest
from reforg.families import FAMILIES

WIDTHS = {  # embed_dim, depth, num_heads
    "tiny": (192, 12, 3),
    "small": (384, 12, 6),
    "medium": (512, 12, 8),
    "base": (768, 12, 12),
    "large": (1024, 24, 16),
    "huge": (1280, 32, 16),
    "giant": (1408, 40, 16),
    "Giant": (1664, 48, 16),
}
FIXED = ("family", "modules")  # fields that follow from the name alone
DEIT3 = {"family": "deit3", "modules": "official", "no_embed_class": True}
EVIT = {"family": "evit", "modules": "official", "antialias": False}
EMBEDDED = ("evit_fmnist", "deit3_fmnist", "shunted_fmnist")


@dataclass(frozen=True)
class Entry:
    """A name's family of configs and the values that differ from its defaults."""

    config: type[Config]
    values: Mapping[str, Any] = field(default_factory=dict)


def _sized(size: str, **values: Any) -> Entry:
    width, depth, heads = WIDTHS[size]
    return Entry(VitConfig, {"embed_dim": width, "depth": depth, "num_heads": heads, **values})


def _vits() -> dict[str, Entry]:
    found = {
        f"vit_{size}_patch16_{side}": _sized(size, img_size=side)
        for size in ("tiny", "small", "base", "large")
        for side in (224, 384)
    }
    found |= {f"vit_base_patch32_{side}": _sized("base", img_size=side, patch_size=32) for side in (224, 384)}
    found["vit_huge_patch14_224"] = _sized("huge", patch_size=14, num_classes=0)
    for size in ("small", "base"):
        found[f"vit_{size}_patch14_dinov2"] = _sized(size, img_size=518, patch_size=14, num_classes=0, init_values=1e-5)
    return found


def _deits() -> dict[str, Entry]:
    deit = {"family": "deit", "antialias": False}
    found = {}
    for middle, distilled in (("", False), ("distilled_", True)):
        for size in ("tiny", "small", "base"):
            found[f"deit_{size}_{middle}patch16_224"] = _sized(size, distilled=distilled, **deit)
        found[f"deit_base_{middle}patch16_384"] = _sized("base", img_size=384, distilled=distilled, **deit)
    return found


def _deit3s() -> dict[str, Entry]:
    scaled = DEIT3 | {"init_values": 1e-4}
    found = {
        f"deit3_{size}_patch16_{side}": _sized(size, img_size=side, **scaled)
        for size in ("small", "base", "large")
        for side in (224, 384)
    }
    found["deit3_medium_patch16_224"] = _sized("medium", **scaled)
    found["deit3_huge_patch14_224"] = _sized("huge", patch_size=14, **scaled)
    found["deit_tiny_patch16_LS"] = _sized("tiny", **scaled)
    for depth, parallel, suffix in ((36, 1, "36"), (18, 2, "18x2")):
        for size in ("small", "base"):
            name = f"deit_{size}_patch16_{suffix}" + ("x1" if (size, parallel) == ("base", 1) else "")
            found[name] = _sized(size, **DEIT3 | {"depth": depth, "parallel": parallel})
            found[f"{name}_LS"] = _sized(size, **scaled | {"depth": depth, "parallel": parallel})
    for name, size, depth, parallel in (
        ("deit_huge_patch14_52_LS", "huge", 52, 1),
        ("deit_huge_patch14_26x2_LS", "huge", 26, 2),
        ("deit_Giant_48x2_patch14_LS", "Giant", 48, 2),
        ("deit_giant_40x2_patch14_LS", "giant", 40, 2),
        ("deit_Giant_48_patch14_LS", "Giant", 48, 1),
        ("deit_giant_40_patch14_LS", "giant", 40, 1),
    ):
        found[name] = _sized(size, **scaled | {"patch_size": 14, "depth": depth, "parallel": parallel})
    return found


def _evits() -> dict[str, Entry]:
    found = {f"evit_{size}_patch16_224": _sized(size, keep_rate=0.7, **EVIT) for size in ("tiny", "small", "base")}
    for side, rate in ((272, 0.7), (288, 0.6), (304, 0.5)):
        found[f"evit_small_patch16_{side}"] = _sized("small", img_size=side, keep_rate=rate, **EVIT)
    return found


def _shunteds() -> dict[str, Entry]:
    return {
        f"shunted_{letter}": Entry(ShuntedConfig, {"depths": depths, "num_conv": num_conv})
        for letter, depths, num_conv in (("t", (1, 2, 4, 1), 0), ("s", (2, 4, 12, 1), 1), ("b", (3, 4, 24, 2), 2))
    }


def _embedded() -> dict[str, Entry]:
    """Models trained on Fashion-MNIST that come with their weights."""
    grey = {"img_size": 28, "patch_size": 4, "in_chans": 1, "num_classes": 10, "embed_dim": 96, "num_heads": 3}
    shunted = {
        "img_size": 64, "num_classes": 10, "embed_dims": (64, 64, 96, 128), "num_heads": (2, 2, 4, 4),
        "mlp_ratios": (2, 2, 4, 4), "depths": (1, 1, 3, 1),
    }  # fmt: skip
    return {
        "evit_fmnist": Entry(VitConfig, EVIT | grey | {"depth": 12, "keep_rate": 0.7}),
        "deit3_fmnist": Entry(VitConfig, DEIT3 | grey | {"depth": 8, "init_values": 1e-4}),
        "shunted_fmnist": Entry(ShuntedConfig, shunted),
    }


def _aliases() -> dict[str, tuple[str, dict[str, Any]]]:
    """Upstream's own names: what they are here, and what upstream's defaults change."""
    dropped = {"fuse_token": False}
    found: dict[str, tuple[str, dict[str, Any]]] = {
        f"deit_{size}_patch{patch}_LS": (f"deit3_{size}_patch{patch}_224", {})
        for size, patch in (("small", 16), ("medium", 16), ("base", 16), ("large", 16), ("huge", 14))
    }
    found |= {f"deit_{size}_patch16_shrink_base": (f"evit_{size}_patch16_224", dropped) for size in ("small", "base")}
    for suffix, name, rate in (
        ("224_shrink_base", "evit_small_patch16_224", 0.7),
        ("224_shrink", "evit_small_patch16_224", 0.7),
        ("224_shrink05", "evit_small_patch16_224", 0.5),
        ("272_shrink", "evit_small_patch16_272", 0.7),
        ("288_shrink06", "evit_small_patch16_288", 0.6),
        ("304_shrink05", "evit_small_patch16_304", 0.5),
    ):
        found[f"deit_small_patch16_{suffix}"] = (name, dropped | {"keep_rate": rate})
    return found


@lru_cache(maxsize=1)
def _own() -> dict[str, Entry]:
    return _vits() | _deits() | _deit3s() | _evits() | _shunteds() | _embedded()


def registry() -> dict[str, Entry]:
    """Name -> entry, for every name that is no alias: those of the tables above, and those that a family brings."""
    return _own() | {name: Entry(kind, values) for kind, family in FAMILIES.items() for name, values in family.models.items()}


@lru_cache(maxsize=1)
def aliases() -> dict[str, tuple[str, dict[str, Any]]]:
    """Upstream's spelling -> (name, settings that upstream's defaults change)."""
    return _aliases()


@lru_cache(maxsize=1)
def timm_tags() -> dict[str, dict[str, dict[str, Any]]]:
    """Name -> tag -> what timm records about it (classes, preprocessing); the empty tag is the name without one."""
    text = resources.files("reforg").joinpath("catalog", "timm_tags.json").read_text(encoding="utf-8")
    tags: dict[str, dict[str, dict[str, Any]]] = json.loads(text)["models"]
    return tags


def list_models(pattern: str = "*") -> list[str]:
    """The names that match an fnmatch pattern, sorted; aliases and tags work in `create_model` but are not listed."""
    if not isinstance(pattern, str):
        raise ConfigError(f"list_models: the pattern must be a string such as 'deit3*', got {pattern!r}")
    return sorted(name for name in registry() if fnmatchcase(name, pattern))


def resolve(name: str) -> str:
    """The listed name that a name, an alias or a tagged name stands for; ConfigError names the nearest right one."""
    plain = name.partition(".")[0] if isinstance(name, str) else name
    plain = aliases().get(plain, (plain,))[0] if isinstance(name, str) else plain
    if not isinstance(name, str) or plain not in registry():
        known = (*registry(), *aliases())
        raise ConfigError(f"there is no model {name!r}{nearest(str(name), known)}")
    return plain


def build_config(name: str, /, **settings: Any) -> Config:
    """The config that a name, alias or tagged name stands for, with `settings` in place of its own values."""
    listed = resolve(name)
    base, dot, tag = name.partition(".")
    values = {**registry()[listed].values, **aliases().get(base, ("", {}))[1]}
    if dot:
        values |= _tag_values(base, tag)
    kind = registry()[listed].config
    check_settings(name, kind, settings)
    return kind(**{**values, **settings})


def check_settings(name: str, kind: Any, settings: Mapping[str, Any]) -> None:
    """Refuse a setting that a config of that kind does not have, or that follows from the name alone."""
    allowed = [entry.name for entry in fields(kind) if entry.name not in FIXED]
    for setting in settings:
        if setting not in allowed:
            raise ConfigError(f"{name} has no setting {setting!r}{nearest(setting, allowed)}")


def _tag_values(base: str, tag: str) -> dict[str, Any]:
    """What timm's tag changes in a config; timm's DeiT III has timm's module names."""
    tags = timm_tags().get(base, {})
    if not tag or tag not in tags:
        known = [known for known in tags if known]
        hint = nearest(tag, known) or (f"; known tags: {', '.join(known)}" if known else "; it has none")
        raise ConfigError(f"{base} has no tag {tag!r}{hint}")
    return {"num_classes": tags[tag]["num_classes"], "modules": "timm"}
