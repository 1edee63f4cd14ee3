"""reforg: ViT, DeiT, DeiT III, EViT and Shunted Transformer in the Array API standard. See the README.

What is public has its name here and is imported when it is asked for, so that `import reforg` costs next to nothing; nothing
below imports this file. May import everything. Start with `vit`, `evit` and `shunted`, which are the papers, then `ops`, which
they are written in, and `families`, which the rest of the house asks; docs/design.md has the map.
"""

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
)
from reforg.version import __version__ as __version__

if TYPE_CHECKING:
    from reforg.catalog import synthetic as synthetic
    from reforg.catalog.names import list_models
    from reforg.costs.cost import Cost, cost
    from reforg.images.prepare import preprocess
    from reforg.images.preprocessing import Preprocessing
    from reforg.models import embedded as embedded
    from reforg.models.creation import create_model
    from reforg.models.model import Model
    from reforg.tokens import TokenMap, token_map
    from reforg.verification.diagnosis.variants import variant as variant
    from reforg.verification.error_model.simulation import simulate
    from reforg.verification.error_model.uncertain import Uncertain as Uncertain
    from reforg.verification.findings import Difference
    from reforg.verification.report import Report
    from reforg.verification.verifier import verify
    from reforg.weights.loading import load_weights, save_weights

_LAZY = {
    "Cost": "costs.cost", "cost": "costs.cost", "Model": "models.model", "create_model": "models.creation",
    "list_models": "catalog.names", "TokenMap": "tokens", "token_map": "tokens", "load_weights": "weights.loading",
    "save_weights": "weights.loading", "preprocess": "images.prepare", "Preprocessing": "images.preprocessing",
    "verify": "verification.verifier", "Difference": "verification.findings", "Report": "verification.report",
    "simulate": "verification.error_model.simulation",
    # For variants of one's own, which docs/verify.md shows how to add.
    "Uncertain": "verification.error_model.uncertain", "variant": "verification.diagnosis.variants",
}  # fmt: skip
_MODULES = {"embedded": "models.embedded", "synthetic": "catalog.synthetic"}  # that are public as a whole
__all__ = [
    "BackendError", "ConfigError", "Cost", "Difference", "DtypeError", "ImageError", "Model", "Preprocessing", "ReforgError",
    "Report", "ShapeError", "TokenMap", "WeightsError", "cost", "create_model", "list_models", "load_weights", "preprocess",
    "save_weights", "simulate", "token_map", "verify",
]  # fmt: skip


def __getattr__(name: str) -> object:
    if name in _MODULES:
        return import_module(f"reforg.{_MODULES[name]}")
    if name not in _LAZY:
        raise AttributeError(f"module 'reforg' has no attribute {name!r}")
    return getattr(import_module(f"reforg.{_LAZY[name]}"), name)


def __dir__() -> list[str]:
    return sorted({*globals(), *_LAZY, *_MODULES})
