"""reforg: ViT, DeiT, DeiT III, EViT and Shunted Transformer in the Array API standard. See the README."""

from importlib import import_module
from typing import TYPE_CHECKING

from reforg.errors import (
    BackendError,
    ConfigError,
    DtypeError,
    ImageError,
    ReforgError,
    ShapeError,
    WeightsError,
)  # fmt: skip

if TYPE_CHECKING:
    from reforg.costs import Cost, cost
    from reforg.creation import create_model
    from reforg.images import preprocess
    from reforg.loading import load_weights, save_weights
    from reforg.models import Model
    from reforg.names import list_models
    from reforg.preprocessing import Preprocessing
    from reforg.simulation import simulate
    from reforg.tokens import TokenMap, token_map
    from reforg.verification import Difference, Report, verify

__version__ = "0.1.0"
_LAZY = {
    "Cost": "costs", "cost": "costs", "Model": "models", "create_model": "creation", "list_models": "names",
    "TokenMap": "tokens", "token_map": "tokens", "load_weights": "loading",
    "save_weights": "loading", "preprocess": "images", "Preprocessing": "preprocessing", "verify": "verification",
    "Difference": "verification", "Report": "verification", "simulate": "simulation",
}  # fmt: skip
__all__ = [
    "BackendError", "ConfigError", "Cost", "Difference", "DtypeError", "ImageError", "Model", "Preprocessing", "ReforgError",
    "Report", "ShapeError", "TokenMap", "WeightsError", "cost", "create_model", "list_models", "load_weights", "preprocess",
    "save_weights", "simulate", "token_map", "verify",
]  # fmt: skip


def __getattr__(name: str) -> object:
    if name not in _LAZY:
        raise AttributeError(f"module 'reforg' has no attribute {name!r}")
    return getattr(import_module(f"reforg.{_LAZY[name]}"), name)


def __dir__() -> list[str]:
    return sorted([*globals(), *__all__])
