"""What a command line asks of a classification: words that become a model with its settings, and a record of them all."""

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from inspect import signature
from pathlib import Path
from typing import TYPE_CHECKING, Any

from reforg.catalog import labels
from reforg.catalog.sources import is_hub_id, is_synthetic
from reforg.errors import ConfigError
from reforg.images.preprocessing import Preprocessing
from reforg.models.answers import BATCH_SIZE, THREADS, Classifier, labels_of
from reforg.version import __version__

if TYPE_CHECKING:
    from reforg.models.model import Model


@dataclass(frozen=True)
class Request:
    """The options of `reforg classify` that its answers depend on."""

    model: str
    weights: str | None = None
    labels: Path | None = None
    top_k: int | None = None
    backend: str = "numpy"
    dtype: str = "float32"
    device: str | None = None
    batch_size: int = BATCH_SIZE
    settings: Mapping[str, Any] = field(default_factory=dict)
    preprocess: Mapping[str, Any] = field(default_factory=dict)
    features: bool = False
    threads: int = THREADS

    def classifier(self) -> Classifier:
        """The model, made, and all that belongs to it; any mistake is a ReforgError."""
        from reforg.models.creation import create_model

        for key in self.settings:
            if key in signature(create_model).parameters:  # which has an option of its own, or none
                raise ConfigError(f"{self.model} has no setting {key!r}")
        model = create_model(self.model, self.weights, self.backend, self.dtype, self.device, **self.settings)
        names = labels_of(model)
        if self.labels is not None:
            names = labels.read(self.labels)
            labels.check(names, model.config.num_classes, self.labels)
        record = _prepared_as(model, self.preprocess)
        return Classifier(model, record, names, self.top_k, self.batch_size, self.threads, self.features)

    def record(self, classifier: Classifier, paths: Sequence[str]) -> dict[str, Any]:
        """Everything that the rows depend on, under the names of the options, as JSON gives it back."""
        asked = {
            "reforg": __version__, "--model": self.model, "--weights": _file(self.weights), "--set": self.settings,
            "--preprocess": asdict(classifier.record), "--labels": _digest(classifier.labels), "--top-k": classifier.answered,
            "--backend": self.backend, "--dtype": self.dtype, "--device": self.device, "--batch-size": self.batch_size,
            "--features": self.features, "images": f"{len(paths):,} with sha256 {_digest(paths):.12}",
        }  # fmt: skip
        same: dict[str, Any] = json.loads(json.dumps(asked))
        return same


def difference(before: Mapping[str, Any], now: Mapping[str, Any]) -> str:
    """What was asked otherwise before, in words; nothing where all is the same."""
    differing = [key for key in now if before.get(key) != now[key]]
    return "; ".join(f"{key} was {before.get(key)!r:.80}, is {now[key]!r:.80}" for key in differing)


def _prepared_as(model: "Model", changes: Mapping[str, Any]) -> Preprocessing:
    """How the model's images are prepared, with some fields changed; two of them suffice where nothing is recorded."""
    if model.preprocessing is None and {"mean", "std"} <= changes.keys():
        plain = Preprocessing(model.config.image_shape, mean=(0.0,), std=(1.0,), channels=model.config.in_chans)
        return plain.changed(**changes)
    if model.preprocessing is None:
        raise ConfigError(f"{model.name}: nobody recorded how its images are prepared: give --preprocess mean=... and std=...")
    return model.preprocessing.changed(**changes)


def _file(weights: str | None) -> Any:
    """A file with its size and its time; what names no file, as it is."""
    if weights is None or is_hub_id(weights) or is_synthetic(weights):
        return weights
    path = Path(weights)
    return str(path.absolute()), path.stat().st_size, path.stat().st_mtime_ns


def _digest(words: Sequence[str]) -> str:
    return hashlib.sha256("\0".join(words).encode("utf-8", "surrogateescape")).hexdigest()
