"""What families share, as steps: a convolution, the batch norm behind one, and a layer norm that is called on its own."""

from collections.abc import Callable
from typing import Any

from reforg.config import BATCH_NORM_EPS
from reforg.plans.matrices import Packed
from reforg.plans.program import row
from reforg.plans.steps import Convolve, ProductEnd
from reforg.plans.symbols import Images, Maps, Tokens, UnrecordableError

Pieces = dict[str, tuple[Callable[..., Any], tuple[str, ...]]]
"""A piece of a model -> what records it, and the pieces inside of it, which are recorded with it."""


def layer_norm(x: Any, weight: Any, bias: Any, eps: float) -> Tokens:
    """[B, N, C] -> [B, N, C]: the norm behind the blocks, of which no product but the heads' is made."""
    if not isinstance(x, Tokens):
        raise UnrecordableError(f"layer_norm of {type(x).__name__}")
    place = x.program.own("states")  # those of a pyramid are all results of one call
    return Tokens(x.program, x.program.norm("norm", x.matrix, (weight, bias), eps, place, product=False), x.count)


def convolve(
    name: str,
    source: Maps | Images,
    parameters: tuple[Any, Any],
    place: str,
    stride: int,
    padding: int = 0,
    norm: tuple[Packed, Packed] | None = None,
    end: ProductEnd = "plain",
) -> Maps:
    """A convolution, as a product of windows; norm: the gain and the shift of a batch norm behind it (see `folded`)."""
    program, (weight, bias) = source.program, parameters
    columns, channels, size, _ = weight.shape
    height, width = source.shape[2:]
    down, across = (height + 2 * padding - size) // stride + 1, (width + 2 * padding - size) // stride + 1
    target = program.matrix(place, program.images * down * across, columns)
    gain, shift = norm or (None, row(bias))
    matrix, order = (None, "planes") if isinstance(source, Images) else (source.matrix, "pixels")
    program.add(
        Convolve(
            name,
            target,
            Packed(weight, order),
            shift,
            gain,
            end,
            matrix,
            size=size,
            stride=stride,
            padding=padding,
            channels=channels,
            height=height,
            width=width,
            out_height=down,
            out_width=across,
        )
    )
    return Maps(Tokens(program, target, down * across), (down, across))


def folded(weights: Any, path: str, bias: Any = None) -> tuple[Packed, Packed]:
    """A batch norm's running statistics as gain and shift of what comes before its layer's own bias."""
    variance, mean = weights[f"{path}.running_var"], weights[f"{path}.running_mean"]
    xp = variance.__array_namespace__()  # the library's own, as the layer over it takes a tenth of a second to be imported
    gain = weights[f"{path}.weight"] / xp.sqrt(variance + BATCH_NORM_EPS)
    shift = weights[f"{path}.bias"] - (mean if bias is None else mean - bias) * gain
    return Packed(gain, "row", None, f"{path} gain"), Packed(shift, "row", None, f"{path} shift")
