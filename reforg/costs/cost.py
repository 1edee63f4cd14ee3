"""What a forward pass costs, found by running it over arrays that have shapes and no values."""

from collections.abc import Callable
from dataclasses import dataclass, replace
from math import prod
from typing import Any

from reforg.catalog.names import build_config, check_settings
from reforg.config import ITEM_BYTES, Config, check_count, check_dtype, check_size
from reforg.costs.ledger import Layer, Ledger, Shape, peak_bytes
from reforg.costs.operations import SHAPED
from reforg.costs.shaped import Shaped
from reforg.errors import ShapeError
from reforg.families import family_of, num_params, shapes
from reforg.ops import Trace


@dataclass(frozen=True)
class Cost:
    """What one call costs. All but `params`, `tokens` and `weight_bytes` is for the whole batch.

    params: trained values. macs: multiply-accumulates. by_block, by_operation: the same for each part, in order, and for
    each operation of the `Ops` record that multiplies.
    tokens: of each part, as its family tells them: those without special ones that enter each block's MLP, or those of each
    stage; empty where a family tells none.
    by_layer: trace name -> what that operation costs, for every operation of the record, in the order of execution.
    dtype: what the bytes are of. weight_bytes: parameters and running statistics (num_batches_tracked is never read).
    activation_bytes: of the results of all operations of the record together.
    largest, largest_bytes: trace name and size of the largest of those results, the first of equals. Under `.kept` it is the
    whole order that rank returns, under `.reorganized` one gathered array, under `pos_embed` the resampled grid.
    peak_bytes: the most that lives at once when each step runs alone and a value dies after the last step that reads it.
    Steps are the operations of the record and every sum, product, quotient, mean and concatenation between them, one by one
    as the model files write them; reshaping, transposing, slicing and broadcasting share their source's memory, whole.
    Images count until they are read; weights, and what an operation holds only inside itself, never.
    """

    params: int
    macs: int
    by_block: dict[str, int]
    tokens: dict[str, int]
    by_operation: dict[str, int]
    by_layer: dict[str, Layer]
    dtype: str
    weight_bytes: int
    activation_bytes: int
    largest: str
    largest_bytes: int
    peak_bytes: int


def cost(
    model: Any, /, img_size: int | tuple[int, int] | None = None, batch: int = 1, dtype: str | None = None, **config: Any
) -> Cost:
    """The cost of a model, or of a name with any fields of its config, for `batch` images of `img_size` in `dtype`.

    img_size: of the images; another than the config's means that positions are resampled at the call. What is made for another
    size has a config of its own: `cost(model)`. dtype: the model's own, or float32.

    Raises ConfigError, ShapeError, BackendError.
    """
    settings = _settings(model, config)
    check_count("batch", batch, 1)
    side = settings.image_shape if img_size is None else img_size
    check_size(side)
    height, width = side if isinstance(side, list | tuple) else (side, side)
    dtype = getattr(model, "dtype", "float32") if dtype is None else dtype
    check_dtype(dtype)
    ledger, tokens = booked(settings, (batch, settings.in_chans, height, width), ITEM_BYTES[dtype])
    layers, (largest, largest_bytes) = ledger.layers, ledger.largest
    return Cost(
        params=num_params(settings),
        macs=sum(layer.macs for layer in layers.values()),
        by_block=_sums(layers, _part),
        tokens=tokens,
        by_operation=_sums(layers, lambda name: layers[name].operation),
        by_layer=layers,
        dtype=dtype,
        weight_bytes=ITEM_BYTES[dtype] * sum(map(prod, shapes(settings).values())),
        activation_bytes=sum(layer.activation_bytes for layer in layers.values()),
        largest=largest,
        largest_bytes=largest_bytes,
        peak_bytes=peak_bytes(ledger),
    )


def booked(config: Config, images: Shape, item_bytes: int) -> tuple[Ledger, dict[str, int]]:
    """The ledger of a forward pass over images of the shape (B, in_chans, H, W), and the tokens of its parts."""
    family, ledger = family_of(config), Ledger(item_bytes)
    if fault := family.size_fault(config, *images[2:]):
        raise ShapeError(f"cost: {fault}")
    answer = run_over_shapes(config, images, ledger, ledger.trace)
    ledger.trace("answer", answer)  # in case the forward pass ends with what it gave no name
    return ledger, family.tokens(config, {name: layer.shape for name, layer in ledger.layers.items()})


def run_over_shapes(config: Config, images: Shape, ledger: Ledger, trace: Trace) -> Shaped:
    """The answer of a forward pass over images of that shape; the ledger writes down its steps, the trace is given its names."""
    weights = {name: Shaped(ledger, shape, None) for name, shape in shapes(config).items()}
    (memory,) = ledger.step((images,), ())
    answer: Shaped = family_of(config).forward(weights, Shaped(ledger, images, memory), config, SHAPED, trace)
    return answer


def _settings(model: Any, changes: dict[str, Any]) -> Config:
    """The config of a model or of a name, or a config itself, with some fields changed."""
    own = getattr(model, "config", model)
    if not isinstance(own, Config):
        return build_config(model, **changes)
    check_settings(getattr(model, "name", own.family), own, changes)
    return replace(own, **changes)


def _part(name: str) -> str:
    """The part of the model that a traced operation belongs to: patch_embed, head; with its number where its parts are
    numbered: blocks.3, block1.0.
    """
    first, _, rest = name.partition(".")
    number, _, _ = rest.partition(".")
    return f"{first}.{number}" if number.isdigit() else first


def _sums(layers: dict[str, Layer], key: Callable[[str], str]) -> dict[str, int]:
    """Multiply-accumulates by what `key` makes of a layer's name; without what multiplies nothing."""
    found: dict[str, int] = {}
    for name, layer in layers.items():
        if layer.macs:
            found[key(name)] = found.get(key(name), 0) + layer.macs
    return found
