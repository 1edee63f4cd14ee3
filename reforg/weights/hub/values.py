"""Values of a config that anybody may have written, checked: counts, flags, numbers, sizes, texts."""

import re
from collections.abc import Mapping
from typing import Any

from reforg.config import LARGEST_DEPTH
from reforg.errors import ConfigError

LARGEST_COUNT, LARGEST_NUMBER = 2**20, 1e30  # what a file may ask for, before anything is computed from it
LONGEST_TEXT = 200


def as_field(key: str, value: Any) -> Any:
    """A field of VitConfig, bounded; what is wrong with it beyond that, the config says."""
    if key == "img_size":
        return as_size(value, key)
    if key == "patch_size":
        size = as_size(value, key)
        if not isinstance(size, int):
            raise ConfigError(f"patch_size {size} is not square")
        return size
    if key in ("mlp_ratio", "init_values"):
        return as_positive({key: value}, key, 1.0)
    if key in ("qkv_bias", "no_embed_class"):
        return as_flag(value, key)
    if key == "global_pool":
        if value not in ("token", "avg"):
            raise ConfigError(f"global_pool {value!r:.80} makes a model that is not computed here")
        return value
    return as_count(value, key, 0 if key == "num_classes" else 1, LARGEST_DEPTH if key == "depth" else LARGEST_COUNT)


def as_count(value: Any, name: str, least: int = 1, most: int = LARGEST_COUNT) -> int:
    """A whole number from `least` to `most`."""
    if type(value) is not int or not least <= value <= most:
        raise ConfigError(f"{name} must be a whole number from {least} to {most}, got {value!r:.80}")
    return value


def as_flag(value: Any, name: str) -> bool:
    """True or false."""
    if not isinstance(value, bool):
        raise ConfigError(f"{name} must be true or false, got {value!r:.80}")
    return value


def as_positive(cfg: Mapping[str, Any], name: str, default: float) -> float:
    """A positive number, or the default where there is none."""
    value = cfg.get(name, default)
    if not isinstance(value, int | float) or isinstance(value, bool) or not 0 < value < LARGEST_NUMBER:
        raise ConfigError(f"{name} must be a positive number, got {value!r:.80}")
    return float(value)


def as_size(value: Any, name: str) -> int | tuple[int, int]:
    """One number, or (height, width) where they differ."""
    if not isinstance(value, list):
        return as_count(value, name)
    if len(value) not in (1, 2):
        raise ConfigError(f"{name} wants one number or [height, width], got {value!r:.80}")
    height, width = as_count(value[0], name), as_count(value[-1], name)
    return height if height == width else (height, width)


def as_number(key: str, name: str) -> int:
    """The number of a class, which JSON's keys spell as text."""
    if not re.fullmatch(r"\d{1,7}", key, re.ASCII):
        raise ConfigError(f"{name} must be numbered, got {key!r:.80}")
    return int(key)


def as_mapping(cfg: Mapping[str, Any], key: str) -> dict[str, Any]:
    """The object under a key; an empty one where there is none."""
    value = cfg.get(key)
    if value is not None and not isinstance(value, dict):
        raise ConfigError(f"{key} must be an object, got {type(value).__name__}")
    return value or {}


def as_text(cfg: Mapping[str, Any], key: str) -> str:
    """A text of bounded length."""
    value = cfg.get(key)
    if not isinstance(value, str):
        raise ConfigError(f"{key} must be text, got {type(value).__name__}")
    if len(value) > LONGEST_TEXT:
        raise ConfigError(f"{key} is {len(value)} characters long")
    return value
