"""The one place that knows the families of models: what the type of a config stands for.

Every wing asks `family_of(config)` instead of looking at the type; what only one wing needs it keeps in a table of its own.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from reforg import shunted, vit
from reforg.config import Config, ShuntedConfig, VitConfig


@dataclass(frozen=True)
class Family:
    """A family's functions, as its model file has them: see `reforg.vit` for what each takes and returns."""

    forward: Callable[..., Any]
    features: Callable[..., Any]
    pooled: Callable[..., Any]
    classify: Callable[..., Any]


FAMILIES: dict[type, Family] = {
    VitConfig: Family(vit.forward, vit.features, vit.pooled, vit.classify),
    ShuntedConfig: Family(shunted.forward, shunted.features, shunted.pooled, shunted.classify),
}


def family_of(config: Config) -> Family:
    """The family of a config, by its type."""
    return FAMILIES[type(config)]
