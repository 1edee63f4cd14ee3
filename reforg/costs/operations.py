"""The operations of the record over arrays that have a shape and no values: what each multiplies, reads and leaves behind.

A multiply-accumulate counts for each multiplication of a linear map, a convolution or one of the two attention products;
norms, softmax, biases, GELU and the resampling of positions do not count.
"""

from collections.abc import Callable
from math import prod

from reforg.costs.ledger import Shape
from reforg.costs.shaped import Shaped, made, memory_of
from reforg.ops import Ops, Trace, output_shape, untraced

INDEX_BYTES = 8  # of one index of `rank`, whatever the dtype of the values


def _layer(operation: str, macs: int, shape: Shape, x: Shaped, *weights: Shaped | None) -> Shaped:
    """The result of an operation on x and the weights that it is given; an absent bias is None."""
    result = made(shape, x)
    held = x.ledger.item_bytes * sum([prod(weight.shape) for weight in weights if weight is not None])
    x.ledger.called(operation, shape, macs, held)
    return result


def linear(x: Shaped, weight: Shaped, bias: Shaped | None = None) -> Shaped:
    """[..., I], [O, I], [O] -> [..., O]."""
    places = x.shape[:-1]
    return _layer("linear", prod(places) * prod(weight.shape), (*places, weight.shape[0]), x, weight, bias)


def conv2d(x: Shaped, weight: Shaped, bias: Shaped | None = None, stride: int = 1, padding: int = 0) -> Shaped:
    """[B, C, H, W], [O, C, kh, kw], [O] -> [B, O, H', W']."""
    batch, _, height, width = shape = output_shape(x, weight, stride, padding)
    return _layer("conv2d", batch * height * width * prod(weight.shape), shape, x, weight, bias)


def depthwise_conv2d(x: Shaped, weight: Shaped, bias: Shaped | None = None, padding: int = 1) -> Shaped:
    """[B, C, H, W], [C, 1, kh, kw], [C] -> [B, C, H', W']."""
    batch, _, height, width = shape = output_shape(x, weight, 1, padding)
    return _layer("depthwise_conv2d", batch * height * width * prod(weight.shape), shape, x, weight, bias)


def _keeping_the_shape(operation: str) -> Callable[..., Shaped]:
    """A norm or an activation: [...], weights, anything that is no array -> [...], and nothing that counts."""

    def run(x: Shaped, *rest: object) -> Shaped:
        return _layer(operation, 0, x.shape, x, *(weight for weight in rest if isinstance(weight, Shaped)))

    return run


def attention(
    queries: Shaped,
    keys: Shaped,
    values: Shaped,
    scale: float,  # noqa: ARG001  the signature of the record
    trace: Trace = untraced,
) -> tuple[Shaped, Shaped]:
    """[B, H, N, D], [B, H, M, D], [B, H, M, D] -> context [B, H, N, D], probabilities [B, H, N, M].

    The context is traced first, so that the operation has its name: what the trace calls the probabilities is a part of it. The
    scores live only inside the operation, where the probabilities take their place; they are traced so that their name is known.
    """
    ledger, near, depth = queries.ledger, queries.shape[:-1], values.shape[-1]
    shapes = (*near, depth), (*near, keys.shape[-2])
    numbers = ledger.step(shapes, memory_of((queries, keys, values)))
    macs = prod(queries.shape) * keys.shape[-2] + prod(shapes[1]) * depth
    ledger.called("attention", shapes[0], macs)
    context, probabilities = (Shaped(ledger, shape, number) for shape, number in zip(shapes, numbers, strict=True))
    trace("context", context)
    trace("probs", probabilities)
    trace("scores", probabilities)
    return context, probabilities


def resize(x: Shaped, size: tuple[int, int], method: str = "bicubic", antialias: bool = False) -> Shaped:  # noqa: ARG001
    """[B, C, H, W] -> [B, C, *size]."""
    return _layer("resize", 0, (*x.shape[:2], *size), x)


def rank(scores: Shaped) -> Shaped:
    """[B, N] -> [B, N], whose values are indices."""
    result = made(scores.shape, scores, item_bytes=INDEX_BYTES)
    scores.ledger.called("rank", result.shape)
    return result


def gather(tokens: Shaped, indices: Shaped) -> Shaped:
    """[B, N, ...], [B, K] -> [B, K, ...]."""
    result = made((*indices.shape, *tokens.shape[2:]), tokens, indices)
    tokens.ledger.called("gather", result.shape)
    return result


SHAPED = Ops(
    linear=linear,
    layer_norm=_keeping_the_shape("layer_norm"),
    batch_norm=_keeping_the_shape("batch_norm"),
    erf=_keeping_the_shape("erf"),
    gelu=_keeping_the_shape("gelu"),
    relu=_keeping_the_shape("relu"),
    softmax=_keeping_the_shape("softmax"),
    attention=attention,
    conv2d=conv2d,
    depthwise_conv2d=depthwise_conv2d,
    resize=resize,
    rank=rank,
    gather=gather,
)
"""The record for arrays without values."""
