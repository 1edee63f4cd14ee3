"""A model: a config, its weights on a backend, and the forward pass over them."""

from collections.abc import Callable, Hashable, Iterable, Mapping
from dataclasses import replace
from functools import lru_cache
from typing import Any

import array_api_compat
import numpy as np

from reforg.arrays import Array, namespace
from reforg.catalog import labels as class_names
from reforg.catalog.names import EMBEDDED, check_settings
from reforg.config import Config
from reforg.costs.cost import cost
from reforg.errors import BackendError, ConfigError, ImageError, WeightsError, nearest
from reforg.families import family_of, num_params
from reforg.host import all_finite, exported, in_order, on_host
from reforg.images.preprocessing import Preprocessing, of_name
from reforg.models import embedded
from reforg.models.backend import Backend, Call, Plans, convert, prepared
from reforg.models.checks import check_images
from reforg.ops import REFERENCE, Network, Ops, Recorder, Trace, untraced
from reforg.weights import fitting


class Model:
    """Logits, features and traces of images, computed by one backend. Made by `reforg.create_model`; never changes."""

    def __init__(
        self,
        name: str,
        config: Config,
        weights: Mapping[str, Array],
        backend: Backend,
        dtype: str,
        device: Any,
        ops: str,
        check_finite: bool,
        labels: tuple[str, ...] | None = None,
        preprocessing: Preprocessing | None = None,
        reference: Ops = REFERENCE,
        stored: Callable[[Array], Array] | None = None,
    ) -> None:
        """reference: what computes traces. stored: what becomes of the images, and of every value that has a name, in memory."""
        self.name = name
        self.config = config
        self._family = family_of(config)
        self._weights = dict(weights)
        self._place = array_api_compat.device(next(iter(weights.values())))  # where images go, wherever they come from
        self.backend = backend
        self.dtype = dtype
        self.device = device
        self.check_finite = check_finite
        self._ops_choice = ops
        self._labels = labels
        self._preprocessing = preprocessing
        self._reference, self._stored = reference, stored
        self._ops = reference if ops == "reference" else backend.ops
        self._plans = prepared(backend, self._weights, dtype, ops)

    def __call__(self, images: Any, *, keep_rate: Any = None, tokens: Any = None, check_finite: bool | None = None) -> Array:
        """(B, C, H, W), preprocessed -> logits (B, num_classes); pooled features where num_classes is 0.

        keep_rate: replaces the rate in the blocks that reorganize, one value or one a block. tokens: how many patches
        every block keeps, likewise. Raises ShapeError, DtypeError, ImageError, ConfigError.
        """
        return self._computed(self._forward, images, keep_rate, tokens, check_finite)

    def apply(self, weights: Mapping[str, Array], images: Array, *, keep_rate: Any = None, tokens: Any = None) -> Array:
        """The pure function behind the call, for jit, autograd and tracers: shapes are checked, values never, nothing is converted.

        Arrays of any one Array API library do; those of another than the model's backend are computed by the reference.
        """
        if not isinstance(weights, Mapping):
            raise WeightsError(f"{self.name}: apply wants (weights, images), weights a mapping, got {type(weights).__name__}")
        if missing := [name for name in self._weights if name not in weights]:
            raise WeightsError(f"{self.name}: apply misses {len(missing)} weights, the first of them {missing[0]}")
        try:
            library = namespace(images, *weights.values())
        except TypeError as error:
            raise BackendError(f"{self.name}: images and weights must be arrays of one library; {error}") from error
        check_images(self.name, self.config, images)
        chosen = self._ops if library is self.backend.namespace else self._reference
        self._schedule(keep_rate, tokens)
        return self._forward(weights, images, chosen, keep_rate, tokens)

    def features(
        self, images: Any, *, pyramid: bool = False, keep_rate: Any = None, tokens: Any = None, check_finite: bool | None = None
    ) -> Any:
        """(B, C, H, W) -> tokens (B, N, C) after the last norm, before pooling; global_pool "avg" norms after pooling, so not here.

        pyramid=True, Shunted only: the normed tokens of all four stages, each as (B, C, H', W').
        """
        if pyramid and self._family.pyramid is None:
            raise ConfigError(f"{self.name} has no pyramid: its tokens have one size throughout")
        return self._computed(self._pyramid if pyramid else self._features, images, keep_rate, tokens, check_finite)

    def answer(
        self, images: Any, *, keep_rate: Any = None, tokens: Any = None, check_finite: bool | None = None
    ) -> tuple[Array, Array]:
        """(B, C, H, W) -> pooled features (B, C) and logits (B, num_classes), both of one forward pass."""
        answer: tuple[Array, Array] = self._computed(self._answer, images, keep_rate, tokens, check_finite)
        return answer

    def predict(
        self, images: Any, top_k: int = 5, *, batch_size: int = 16, threads: int | None = None, **preprocessing: Any
    ) -> list[list[tuple[str, float]]]:
        """Pictures (paths, PIL images, arrays of pixels; one or many) -> the likeliest (label, probability) of each, best first.

        preprocessing: fields of `model.preprocessing` to change. Where labels are not known, a class is its number.
        Raises ImageError for the first picture that cannot be read.
        """
        from reforg.models.answers import predicted  # with Pillow and threads, which a model on arrays never needs

        return predicted(self, images, top_k, batch_size, threads, preprocessing)

    def trace(
        self,
        images: Any,
        names: Iterable[str] | str | None = None,
        *,
        keep_rate: Any = None,
        tokens: Any = None,
        check_finite: bool | None = None,
    ) -> dict[str, Array]:
        """(B, C, H, W) -> name -> array of every intermediate, in the order of execution, by the reference operations.

        names: fnmatch patterns of those to keep; one that matches nothing is a ConfigError.
        """
        patterns = (names,) if isinstance(names, str) else names
        if isinstance(patterns, Iterable) and not hasattr(patterns, "dtype"):
            patterns = tuple(patterns)
        if patterns is not None and not (isinstance(patterns, tuple) and all(isinstance(p, str) for p in patterns)):
            raise ConfigError(f"{self.name}: names must be a pattern or several, as text, got {names!r}")
        recorder = Recorder(patterns)
        self._schedule(keep_rate, tokens)
        self._forward(self._weights, self._checked(images, check_finite), self._reference, keep_rate, tokens, recorder)
        if recorder.unmatched:
            raise ConfigError(
                f"{self.name} has no intermediate {recorder.unmatched[0]!r}{nearest(recorder.unmatched[0], recorder.seen)}"
            )
        return {name: in_order(value) for name, value in recorder.values.items()}

    def with_config(self, **settings: Any) -> "Model":
        """The same model with fields of its config changed; weights are shared, positions resampled where img_size asks for it."""
        check_settings(self.name, self.config, settings)
        config = replace(self.config, **settings)
        fitted = fitting.fit(self.weights | self._positions(config), config)
        for key in [key for key, value in fitted.items() if value is not self._weights.get(key)]:
            fitted[key] = convert(self.backend, fitted[key], self.dtype, self.device, f"weight {key}")
        preprocessing = self._preprocessing
        if preprocessing is not None and config.image_shape != self.config.image_shape:
            preprocessing = replace(preprocessing, size=config.image_shape, resize_size=None)
        return Model(
            self.name,
            config,
            fitted,
            self.backend,
            self.dtype,
            self.device,
            self._ops_choice,
            self.check_finite,
            self._labels,
            preprocessing,
        )

    @property
    def weights(self) -> dict[str, Array]:
        """Name -> array under the official torch names: a dict of its own, as jax.jit and torch.func take it."""
        return dict(self._weights)

    @property
    def ops(self) -> dict[str, str]:
        """What runs each operation and each piece of a block: "reference", or the backend's name for it."""
        return self._ops.table() | (dict(self._plans.table()) if self._plans is not None else {})

    @property
    def plans(self) -> Plans | None:
        """What the backend has prepared for calls of this model; None where each operation is called on its own."""
        return self._plans

    @property
    def labels(self) -> tuple[str, ...] | None:
        """Names of the classes, in the order of the logits; None where they are not known.

        What a Hub repository told; else Fashion-MNIST's for the models trained on it, ImageNet's where their number is one of its.
        """
        number = self.config.num_classes
        known = self._labels or (embedded.LABELS if self.name in EMBEDDED else class_names.builtin(number))
        return known if known is not None and len(known) == number else None

    @property
    def preprocessing(self) -> Preprocessing | None:
        """What the model's images go through before they are given to it; None where that is not known."""
        return self._preprocessing or of_name(self.name, self.config)

    @property
    def num_params(self) -> int:
        """Number of trained values, as sum(p.numel() for p in torch_model.parameters())."""
        return num_params(self.config)

    def __repr__(self) -> str:
        return f"<{self.name}: {self.num_params:,} parameters, {self.dtype} on {self.backend.name}>"

    def _forward(
        self, weights: Mapping[str, Array], images: Array, ops: Ops, keep_rate: Any, tokens: Any, trace: Trace = untraced
    ) -> Array:
        images = images if self._stored is None else self._stored(images)
        return self._family.forward(weights, images, self.config, ops, self._traced(trace), *self._further(keep_rate, tokens))

    def _further(self, keep_rate: Any, tokens: Any) -> tuple[Any, ...]:
        """The arguments of a call that the family's functions take; `_schedule` has refused those of a family that takes none."""
        return () if self._family.schedule is None else (keep_rate, tokens)

    def _traced(self, trace: Trace) -> Trace:
        """The trace that a forward pass is given: what has a name is stored, and the rest goes into an operation at once."""
        stored = self._stored
        return trace if stored is None else lambda name, value: trace(name, stored(value))

    def _features(self, weights: Mapping[str, Array], images: Array, ops: Ops, keep_rate: Any, tokens: Any) -> Any:
        further = self._further(keep_rate, tokens)
        return self._family.features(weights, images, self.config, ops, self._traced(untraced), *further)

    def _pyramid(self, weights: Mapping[str, Array], images: Array, ops: Ops, keep_rate: Any, tokens: Any) -> Any:
        stages: Any = self._family.pyramid
        return stages(weights, images, self.config, ops, self._traced(untraced), *self._further(keep_rate, tokens))

    def _answer(self, weights: Mapping[str, Array], images: Array, ops: Ops, keep_rate: Any, tokens: Any) -> tuple[Array, Array]:
        x = self._features(weights, images, ops, keep_rate, tokens)
        net = Network(weights, ops, self._traced(untraced))
        return self._family.pooled(net, x, self.config), self._family.classify(net, x, self.config)

    def _computed(self, function: Callable[..., Any], images: Any, keep_rate: Any, tokens: Any, check_finite: bool | None) -> Any:
        """What a pure function of the model's makes of the images: by a plan, or in whatever parts the backend finds fastest."""
        images = self._checked(images, check_finite)
        key: Hashable = (function.__name__, self.config, self._schedule(keep_rate, tokens))
        bytes_per_image = widest(self.config, tuple(images.shape[2:]), self.dtype)
        if self._plans is not None:
            call = Call(lambda w, x, ops: function(w, x, ops, keep_rate, tokens), key, function == self._forward, bytes_per_image)
            try:
                planned = self._plans.run(call, images)
            except ImportError as error:
                raise BackendError(f"backend {self.backend.name!r}, ops {self._ops_choice!r}: {error}") from error
            if planned is not None:
                return planned
        run = getattr(self.backend, "run", None) or (lambda forward, images, _bytes: forward(images))
        return run(lambda part: function(self._weights, part, self._ops, keep_rate, tokens), images, bytes_per_image)

    def _positions(self, config: Config) -> dict[str, Array]:
        """The model's own positions for another config of its family; empty where they serve as they are."""
        positions = self._family.positions
        names = () if positions is None else positions.names
        tables = {name: self.backend.to_numpy(self._weights[name]) for name in names}
        return fitting.resampled(tables, self.config, config)

    def _schedule(self, keep_rate: Any, tokens: Any) -> str:
        """What a call keeps, in words; a mistake in it is an error before anything is computed."""
        if self._family.schedule is not None:
            schedule = self._family.schedule(self.config, keep_rate, tokens)
            return repr((schedule.rates, schedule.tokens))  # which may be arrays of one number
        if keep_rate is not None or tokens is not None:
            raise ConfigError(f"{self.name} keeps all its tokens: keep_rate and tokens are arguments of ViT, DeiT and EViT")
        return ""

    def _checked(self, images: Any, check_finite: bool | None) -> Array:
        """The images as an array of the backend, or the error that says what is wrong with them."""
        images = exported(images)
        check_images(self.name, self.config, images)
        array = convert(self.backend, images, self.dtype, self._place, "images")
        wanted = self.check_finite if check_finite is None else check_finite
        if wanted and not all_finite(array):
            raise ImageError(
                f"{self.name}: images hold NaN or infinity (in {self.dtype}); check_finite=False computes them all the same"
            )
        return array

    def on_host(self, images: Any) -> np.ndarray[Any, np.dtype[Any]]:
        """The images as a NumPy array of float64, whatever the model computes in, or the error that says what is wrong."""
        images = exported(images)
        check_images(self.name, self.config, images)
        array = on_host(images).astype(np.float64)
        if not np.all(np.isfinite(array)):
            raise ImageError(f"{self.name}: images hold NaN or infinity")
        return array


@lru_cache(maxsize=64)
def widest(config: Config, size: tuple[int, int], dtype: str) -> int:
    """Bytes of the largest intermediate of one image that may arise, whatever the call keeps; narrow dtypes are widened."""
    whole = config if family_of(config).schedule is None else replace(config, keep_rate=1.0, tokens=None)
    return cost(whole, img_size=size, dtype="float64" if dtype == "float64" else "float32").largest_bytes
