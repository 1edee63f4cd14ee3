"""The operations of the reference, and the record by which a backend replaces any of them.

May import arrays and the standard library only: this is what must run on any array library. Start with `basic`, then `network`,
where `Ops` (the record), `Network` (operations applied to named weights) and `@piece` (a replaceable step of a model) stand.
"""

from reforg.arrays import narrow, widen
from reforg.ops.basic import attention, batch_norm, erf, gelu, layer_norm, linear, matmul, mean, mean_of, relu, softmax
from reforg.ops.conv import conv2d, depthwise_conv2d, output_shape
from reforg.ops.layout import merge_heads, split_heads, to_maps, to_tokens
from reforg.ops.network import REFERENCE, Network, Ops, bodies, operations, piece, pieces
from reforg.ops.resize import resize
from reforg.ops.select import gather, rank
from reforg.ops.tracing import Recorder, Trace, untraced, within

__all__ = [
    "REFERENCE", "Network", "Ops", "Recorder", "Trace", "attention", "batch_norm", "bodies", "conv2d", "depthwise_conv2d", "erf",
    "gather", "gelu", "layer_norm", "linear", "matmul", "mean", "mean_of", "merge_heads", "narrow", "operations",
    "output_shape", "piece", "pieces", "rank", "relu", "resize", "softmax", "split_heads", "to_maps", "to_tokens", "untraced",
    "widen", "within",
]  # fmt: skip
