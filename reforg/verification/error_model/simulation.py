"""What a model computes on hardware of another precision, before there is any: the reference, every operation rounded.

Sums are formed in float32 (in float64 for "float64"); what matrix products and convolutions read, what they return, and what is
stored between them is rounded to nearest in the formats of `reforg.verification.error_model.precision`.
"""

from collections.abc import Callable
from typing import Any

import numpy as np

from reforg.arrays import Array
from reforg.errors import ConfigError
from reforg.models.backend import convert, load
from reforg.models.model import Model
from reforg.ops import REFERENCE, Ops, Trace, untraced
from reforg.verification.error_model.precision import FORMATS, Precision, precision_of

Round = Callable[[Any], Any]
PRODUCTS = ("linear", "conv2d", "depthwise_conv2d")
WEIGHTS = ("weight", "bias")


def simulate(model: Model, dtype: str) -> Model:
    """The model as it would compute in `dtype`, on NumPy: its logits, traces and predictions are those of such a port.

    dtype: "float64", "float32", "tf32", "bfloat16", "float16", "autocast-bfloat16" or "autocast-float16". A port's own
    rounding differs in places, since orders of sums do; its size does not. `reforg.verify(port, model, images, dtype)` allows
    for that much. Raises ConfigError.
    """
    if not isinstance(model, Model):
        raise ConfigError(f"simulate wants a model that create_model made, got {type(model).__name__}")
    return Simulated(model, precision_of(dtype))


class Simulated(Model):
    """A model that rounds as another precision does. Made by `simulate`."""

    def __init__(self, model: Model, precision: Precision) -> None:
        kind, backend = ("float64" if precision.name == "float64" else "float32"), load("numpy")
        stored = rounding(precision.stored)
        weights = {
            name: stored(convert(backend, model.backend.to_numpy(value), kind, None, f"weight {name}"))
            for name, value in model.weights.items()
        }
        super().__init__(
            model.name,
            model.config,
            weights,
            backend,
            kind,
            None,
            "reference",
            model.check_finite,
            model.labels,
            model.preprocessing,
            rounded(precision),
            lambda value: stored(value) if value.dtype.kind == "f" else value,
        )
        self.precision = precision

    def __repr__(self) -> str:
        return f"<{self.name}: {self.num_params:,} parameters, as in {self.precision.name}>"


def rounded(precision: Precision) -> Ops:
    """The reference's operations, reading and returning the precision's formats."""
    operand, product, stored = (rounding(name) for name in (precision.operand, precision.product, precision.stored))

    def of_products(step: Any) -> Any:
        def of_rounded(x: Array, weight: Array, bias: Array | None = None, *rest: Any) -> Array:
            return product(step(operand(x), operand(weight), bias, *rest))

        return of_rounded

    def attention(queries: Array, keys: Array, values: Array, scale: float, trace: Trace = untraced) -> tuple[Array, Array]:
        scores = trace("scores", product(operand(queries) @ np.matrix_transpose(operand(keys)) * queries.dtype.type(scale)))
        probabilities = trace("probs", product(REFERENCE.softmax(scores)))
        return trace("context", product(operand(probabilities) @ operand(values))), probabilities

    steps = {name: of_products(getattr(REFERENCE, name)) for name in PRODUCTS}
    steps |= {name: _returning(getattr(REFERENCE, name), product) for name in ("gelu", "softmax")}
    steps |= {name: _returning(getattr(REFERENCE, name), stored) for name in ("layer_norm", "batch_norm", "resize")}
    return REFERENCE.replaced(precision.name, steps | {"attention": attention})


def _returning(step: Any, to: Round) -> Any:
    return lambda *arguments: to(step(*arguments))


def rounding(format: str) -> Round:  # noqa: A002  the field's word
    """The function that rounds an array to nearest in a format, and leaves it in its dtype."""
    digits = FORMATS[format][0]
    if format in ("float64", "float32"):
        return lambda x: x
    if format == "float16":
        return _to_float16
    return lambda x: _shortened(x, 24 - digits)


def _to_float16(x: Any) -> Any:
    with np.errstate(over="ignore"):  # what float16 cannot hold becomes infinity, as it does there
        return x.astype(np.float16).astype(x.dtype)


def _shortened(x: Any, bits: int) -> Any:
    """A float32 array with so many last bits of its significand rounded away, halves to the even neighbour."""
    raw = np.ascontiguousarray(x, np.float32).view(np.uint32)
    last = (raw >> np.uint32(bits)) & np.uint32(1)
    near = (raw + np.uint32((1 << (bits - 1)) - 1) + last) & np.uint32(0xFFFFFFFF << bits & 0xFFFFFFFF)
    return np.where(np.isfinite(x), near.view(np.float32).reshape(x.shape), x)
