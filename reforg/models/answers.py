"""What a model says about images: decoded ahead in threads, computed in batches, answered in the order they came."""

from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from itertools import islice
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt

from reforg.config import Config, check_count
from reforg.errors import BackendError, ConfigError, DtypeError, ImageError, ShapeError
from reforg.images.prepare import as_list, prepared, record_of
from reforg.images.preprocessing import Preprocessing
from reforg.models.backend import Backend

BATCH_SIZE = 16
TOP_K = 5
THREADS = 4  # that decode; even on two cores, because what is decoded sooner disturbs the model for a shorter time
Values = npt.NDArray[Any]


class Answering(Protocol):
    """What its answers need of a model. `Model.predict` calls this module, so this module does not name `Model`."""

    name: str
    config: Config
    dtype: str
    backend: Backend

    @property
    def labels(self) -> tuple[str, ...] | None:
        """The names of the classes; None where they are not known."""

    @property
    def preprocessing(self) -> Preprocessing | None:
        """What images go through before the model; None where that is not known."""

    def answer(self, images: Any) -> tuple[Any, Any]:
        """(B, C, H, W) -> pooled features (B, C) and logits (B, num_classes)."""


@dataclass(frozen=True)
class Answer:
    """The likeliest classes of an image, likeliest first, and its pooled embedding where asked for; or why there is no answer."""

    labels: tuple[str, ...] = ()
    probabilities: tuple[float, ...] = ()
    features: npt.NDArray[np.float32] | None = None
    error: str | None = None


def answers(
    model: Answering,
    sources: Iterable[Any],
    record: Preprocessing | None = None,
    top_k: int | None = None,
    batch_size: int = BATCH_SIZE,
    threads: int = THREADS,
    features: bool = False,
) -> Iterator[Answer]:
    """One answer for each source (a path, a PIL image or an array of pixels), in their order.

    record: what the images go through; None: the model's own. top_k: how many classes; None: 5, or all where there are fewer.
    threads: how many decode. features: whether to give the pooled embedding too.
    An image that cannot be read is an answer with its error. Raises ConfigError at once where the model cannot answer.
    """
    record = record_of(model) if record is None else record
    classifier = Classifier(model, record, labels_of(model), top_k, batch_size, threads, features)
    return (answer for batch in classifier.batches(sources) for answer in batch)


def predicted(
    model: Answering, sources: Any, top_k: int, batch_size: int, threads: int | None, changes: Mapping[str, Any]
) -> list[list[tuple[str, float]]]:
    """`Model.predict`: the likeliest (label, probability) of each source, at most as many as there are classes."""
    check_count("top_k", top_k, 1)
    record = record_of(model).changed(**changes)
    most = min(top_k, model.config.num_classes) or None
    found = []
    for answer in answers(model, as_list(sources), record, most, batch_size, THREADS if threads is None else threads):
        if answer.error is not None:
            raise ImageError(answer.error)
        found.append(list(zip(answer.labels, answer.probabilities, strict=True)))
    return found


def labels_of(model: Answering) -> tuple[str, ...]:
    """The names of a model's classes; their numbers where they have no names."""
    return model.labels or tuple(map(str, range(model.config.num_classes)))


@dataclass(frozen=True)
class Classifier:
    """A model with everything that its answers depend on."""

    model: Answering
    record: Preprocessing
    labels: Sequence[str]
    top_k: int | None = None
    batch_size: int = BATCH_SIZE
    threads: int = THREADS
    features: bool = False

    def __post_init__(self) -> None:
        check_count("batch_size", self.batch_size, 1)
        check_count("threads", self.threads, 1)
        classes = self.model.config.num_classes
        if not classes and not self.features:
            raise ConfigError(f"{self.model.name} has no classes (num_classes is 0): only its features can be asked for")
        if self.top_k is not None and not 1 <= self.top_k <= max(classes, 1):
            raise ConfigError(f"top_k must lie between 1 and {self.model.name}'s {classes:,} classes, got {self.top_k}")

    @property
    def answered(self) -> int:
        """How many classes an answer names."""
        return min(self.top_k or TOP_K, self.model.config.num_classes)

    def width(self) -> int:
        """How many features an image has: computes a black one, so that what cannot be computed is found out before any work."""
        black = prepared(np.zeros((*self.record.cropped, 3), np.uint8), self.record)
        return int(self._computed([black])[0].shape[1])

    def batches(self, sources: Iterable[Any]) -> Iterator[list[Answer]]:
        """The answers batch by batch; a batch holds what stands in its place among the sources, whether it can be read or not.

        While the model computes one batch, threads decode the next two; nothing further, so that memory does not grow.
        """
        images = _ahead(self._prepared, sources, self.threads, limit=2 * self.batch_size)
        while batch := list(islice(images, self.batch_size)):
            yield self._answers(batch)

    def _prepared(self, source: Any) -> Values | str:
        """The image as the model wants it, or what is wrong with it."""
        try:
            return prepared(source, self.record)
        except (ImageError, ShapeError, DtypeError) as error:
            return str(error)

    def _answers(self, images: list[Values | str]) -> list[Answer]:
        readable = [image for image in images if not isinstance(image, str)]
        computed = zip(*self._computed(readable), strict=True) if readable else iter(())
        return [Answer(error=image) if isinstance(image, str) else self._answer(*next(computed)) for image in images]

    def _computed(self, images: list[Values]) -> tuple[Values, Values]:
        """Features (B, C) in float32 and logits (B, K) in float64 of a batch."""
        to_numpy = self.model.backend.to_numpy
        try:
            features, logits = map(to_numpy, self.model.answer(np.stack(images)))
        except MemoryError as error:
            raise BackendError(f"{len(images)} images at once need more memory than there is: a smaller batch size does") from error
        with np.errstate(over="ignore"):  # what is beyond float32 becomes infinity, and is then refused as such
            return features.astype(np.float32), logits.astype(np.float64)

    def _answer(self, features: Values, logits: Values) -> Answer:
        kept = features if self.features else None
        if not np.isfinite(logits).all() or (self.features and not np.isfinite(features).all()):
            return Answer(error=f"{self.model.name} computed NaN or infinity in {self.model.dtype}")
        if not self.answered:
            return Answer(features=kept)
        powers = np.exp(logits - logits.max())
        probabilities = powers / powers.sum()
        order = np.argsort(-probabilities, kind="stable")[: self.answered]  # of equals, the lower class first
        return Answer(tuple(self.labels[place] for place in order), tuple(probabilities[order].tolist()), kept)


def _ahead(function: Callable[[Any], Any], sources: Iterable[Any], threads: int, limit: int) -> Iterator[Any]:
    """`function` of every source, in order, computed by threads up to `limit` sources ahead of what was taken."""
    pool = ThreadPoolExecutor(threads, "reforg-images")
    waiting: deque[Future[Any]] = deque()
    try:
        for source in sources:
            waiting.append(pool.submit(function, source))
            if len(waiting) == limit:
                yield waiting.popleft().result()
        while waiting:
            yield waiting.popleft().result()
    finally:
        pool.shutdown(cancel_futures=True)
