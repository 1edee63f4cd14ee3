"""What was published about the listed models: their accuracy, with its source, and where to get their weights."""

import json
from dataclasses import dataclass
from functools import lru_cache
from importlib import resources
from typing import Any

from reforg.catalog.names import build_config, resolve, timm_tags

UNPUBLISHED = "no weights of this model are published"


@dataclass(frozen=True)
class Published:
    """Top-1 accuracy in percent, on which images, who says so, and of which weights: `model`, with timm's tag if timm has it."""

    value: float
    images: str
    source: str
    model: str


def accuracy(name: str, /, **config: Any) -> Published | None:
    """The published accuracy of a listed name, an alias or a tagged name; None where there is none for just this config.

    A name without a tag is what timm takes it for: the weights of its default tag. EViT's depends on keep_rate and
    fuse_token; any other change makes a model of which nothing is known. Raises ConfigError, as `build_config` does.
    """
    asked = build_config(name, **config)
    key = _key(name)
    for figure in _data()["figures"]:
        if key in figure["accuracy"] and asked == build_config(name, **figure.get("config", {})):
            return Published(float(figure["accuracy"][key]), figure["images"], figure["source"], key)
    return None


def where(name: str) -> list[str]:
    """Where weights of a listed name, an alias or a tagged name come from, the usual ones first.

    "hf-hub:owner/name" is fit for weights=, and so is the file that an address leads to; what stands behind in brackets is
    a remark. With timm's tag, timm's of that tag alone. Raises ConfigError for a name that is not known.
    """
    build_config(name)
    listed, tag = resolve(name), name.partition(".")[2]
    tags = timm_tags().get(listed, {})
    chosen = [tags[tag]] if tag else list(tags.values())
    hubs = dict.fromkeys(f"hf-hub:{entry['hub']}" for entry in chosen if entry["hub"])
    return [*hubs, *([] if tag else _data()["weights"].get(listed, []))] or [UNPUBLISHED]


def _key(name: str) -> str:
    """The name under which a figure stands: with a tag, timm's default one where none is given, if timm has the model."""
    listed, tag = resolve(name), name.partition(".")[2]
    tags = timm_tags().get(listed)
    return f"{listed}.{tag or tags['']['hub'].partition('.')[2]}" if tags else listed


@lru_cache(maxsize=1)
def _data() -> dict[str, Any]:
    """The figures (images, source, config that differs from the name's, accuracy by name) and the weights (places by name)."""
    text = resources.files("reforg").joinpath("data", "published.json").read_text(encoding="utf-8")
    data: dict[str, Any] = json.loads(text)
    return data
