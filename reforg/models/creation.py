"""Models by their name: config, weights and backend put together."""

from dataclasses import replace
from typing import TYPE_CHECKING, Any

from reforg.catalog.names import build_config, resolve
from reforg.catalog.sources import is_hub_id
from reforg.config import check_dtype
from reforg.errors import WeightsError
from reforg.models import embedded
from reforg.models.backend import check, check_ops, convert, load
from reforg.models.model import Model
from reforg.weights import fitting

if TYPE_CHECKING:
    from reforg.weights.hub import Repository

UNSHAPED = ("num_classes", "img_size", "norm_eps", "antialias", "global_pool")  # no tensor's name or width depends on these


def create_model(
    name: str,
    weights: Any = None,
    backend: str = "numpy",
    dtype: str = "float32",
    device: Any = None,
    ops: str = "auto",
    check_finite: bool = True,
    **config: Any,
) -> Model:
    """A model by its name, alias or timm's tagged name, with any field of its config changed by keyword.

    name: also "hf-hub:owner/name", a repository of timm's or transformers' that brings config, weights, labels and
    preprocessing. weights: whatever `load_weights` reads (a path, a Hub id, a mapping), "synthetic" or "synthetic:SEED";
    may be left out for the *_fmnist models, which bring theirs. Position embeddings of another image size are resampled
    here, once.
    backend, dtype, device: whose arrays, of which precision, where. ops: "auto" for the backend's fast operations,
    "reference" for plain Array API calls, or one of several fast ways of the backend, such as NumPy's "numba".
    check_finite: whether images with NaN or infinity are refused.

    Raises ConfigError, WeightsError, BackendError.
    """
    repository = _repository(name, weights)
    if repository is not None:
        name, weights, config = repository.name, repository.weights, repository.settings | config
    listed = resolve(name)
    settings = build_config(name, **config)
    check_dtype(dtype)
    runner = load(backend)
    check_ops(runner, ops)
    check(runner, dtype, device)
    weights = embedded.weights(listed) if weights is None else weights
    if weights is None:
        raise WeightsError(
            f"{name} comes without weights: give a path, a Hub id or 'synthetic'; `reforg info` tells where they are"
        )
    found = fitting.obtain(weights, settings)
    arrays = {key: convert(runner, value, dtype, device, f"weight {key}") for key, value in found.items()}
    told = (repository.labels, repository.preprocessing) if repository else (None, None)
    return Model(name, settings, arrays, runner, dtype, device, ops, check_finite, *told)


def _repository(name: str, weights: Any) -> "Repository | None":
    """What the Hub tells about a model that it names, or whose weights it holds; None where neither is a Hub id.

    Under a name of the user's own, a repository changes only what does not change the tensors.
    """
    if not is_hub_id(name) and not is_hub_id(weights):
        return None
    from reforg.weights import hub  # the Hub is rarely asked, and its reader takes longer to import than a model to make

    if is_hub_id(name):
        if weights is not None:
            raise WeightsError(f"{name} brings its own weights: give another name, or no weights=")
        return hub.fetch(name)
    found = hub.fetch(weights)
    same = resolve(name) == resolve(found.name)
    settings = {key: value for key, value in found.settings.items() if same or key in UNSHAPED}
    return replace(found, name=name, settings=settings)
