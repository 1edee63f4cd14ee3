"""The demonstration: three trained models on real images, measured, and a picture of what EViT kept."""

import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from reforg.catalog.names import EMBEDDED
from reforg.costs.cost import cost
from reforg.errors import ImageError
from reforg.models import embedded
from reforg.models.creation import create_model
from reforg.models.model import Model
from reforg.tokens import token_map

Labels = npt.NDArray[np.integer[Any]]


@dataclass(frozen=True)
class Row:
    """One model: share of right answers, speed of its forward passes, tokens by stage, cost of an image, trained values."""

    name: str
    accuracy: float
    images_per_second: float
    tokens: list[int]
    macs: int
    params: int


@dataclass(frozen=True)
class Results:
    """What the demonstration measured."""

    images: int
    backend: str
    dtype: str
    models: list[Row]
    picture: str

    def as_dict(self) -> dict[str, Any]:
        """For JSON."""
        return asdict(self)


def run(
    picture: Path,
    backend: str = "numpy",
    dtype: str = "float32",
    device: Any = None,
    batch_size: int = 50,
    report: Callable[[str], None] = print,
) -> Results:
    """Classify the embedded images with every embedded model and draw `picture`; nothing is read but images, labels, weights."""
    from reforg.demo import picture as drawing

    drawing.check_target(picture)
    pixels, labels = embedded.test_images()
    rows, answers = [], {}
    for name in EMBEDDED:
        report(f"{name}: {len(pixels)} images")
        model = create_model(name, backend=backend, dtype=dtype, device=device)
        answers[name], seconds = classify(model, embedded.preprocess(pixels, name), batch_size)
        rows.append(_row(model, float(np.mean(answers[name].argmax(axis=1) == labels)), len(pixels) / seconds))
    report("picture")
    shown = first_of_each_class(labels)
    trace = create_model("evit_fmnist").trace(embedded.preprocess(pixels[shown], "evit_fmnist"))
    chosen = {name: logits[shown] for name, logits in answers.items()}
    drawing.draw(picture, pixels[shown], labels[shown], chosen, token_map(trace))
    return Results(len(pixels), model.backend.version(), dtype, rows, str(picture))


def classify(model: Model, images: npt.NDArray[np.float32], batch_size: int) -> tuple[npt.NDArray[Any], float]:
    """[N, C, H, W] -> logits [N, classes] on the host, and the seconds that took, after one batch to warm up."""
    model.backend.to_numpy(model(images[:batch_size]))
    start = time.perf_counter()
    batches = [model.backend.to_numpy(model(images[at : at + batch_size])) for at in range(0, len(images), batch_size)]
    seconds = time.perf_counter() - start
    logits = np.concatenate(batches).astype(np.float64)
    if not np.isfinite(logits).all():
        raise ImageError(f"{model.name}: {model.dtype} does not hold this model's numbers; its logits are not finite")
    return logits, seconds


def first_of_each_class(labels: Labels) -> Labels:
    """Positions of the first image of every class, in the order of the classes."""
    return np.array([int(np.flatnonzero(labels == label)[0]) for label in range(len(embedded.LABELS))])


def stages(tokens: dict[str, int]) -> list[int]:
    """The number of tokens wherever it changes: a block or stage with as many as the one before is no new stage."""
    counts = list(tokens.values())
    return [count for before, count in zip([None, *counts], counts, strict=False) if count != before]


def _row(model: Model, accuracy: float, rate: float) -> Row:
    spent = cost(model)
    return Row(model.name, accuracy, round(rate, 1), stages(spent.tokens), spent.macs, spent.params)
