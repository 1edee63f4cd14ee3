"""One forward pass: the weights under their official names, the operations, and the trace."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

from reforg.arrays import Array
from reforg.ops.tracing import Trace, untraced

if TYPE_CHECKING:
    from reforg.ops.record import Ops


@dataclass(frozen=True)
class Network:
    """A mapping of weights seen as layers: `net.linear("blocks.3.mlp.fc1", x)` is that layer's output, traced.

    Holds nothing that changes; every method is its operation applied to the parameters found under `path`.
    """

    weights: Mapping[str, Array]
    ops: "Ops"
    trace: Trace = untraced

    def parameters(self, path: str) -> tuple[Array, Array | None]:
        """`path.weight` and `path.bias`; None where the layer has no bias."""
        return self.weights[f"{path}.weight"], self.weights.get(f"{path}.bias")

    def linear(self, path: str, x: Array) -> Array:
        """[..., I] -> [..., O]."""
        return self.trace(path, self.ops.linear(x, *self.parameters(path)))

    def layer_norm(self, path: str, x: Array, eps: float) -> Array:
        """[..., C] -> [..., C]."""
        return self.trace(path, self.ops.layer_norm(x, *self.parameters(path), eps))

    def batch_norm(self, path: str, x: Array, eps: float = 1e-5) -> Array:
        """[B, C, H, W] -> [B, C, H, W], by the running statistics."""
        statistics = self.weights[f"{path}.running_mean"], self.weights[f"{path}.running_var"]
        return self.trace(path, self.ops.batch_norm(x, *self.parameters(path), *statistics, eps))

    def conv2d(self, path: str, x: Array, stride: int, padding: int = 0) -> Array:
        """[B, C, H, W] -> [B, O, H', W']."""
        return self.trace(path, self.ops.conv2d(x, *self.parameters(path), stride, padding))

    def depthwise_conv2d(self, path: str, x: Array) -> Array:
        """[B, C, H, W] -> [B, C, H, W], a 3x3 kernel for each channel, padding 1."""
        return self.trace(path, self.ops.depthwise_conv2d(x, *self.parameters(path), 1))

    def gelu(self, path: str, x: Array) -> Array:
        """[...] -> [...]."""
        return self.trace(path, self.ops.gelu(x))

    def relu(self, path: str, x: Array) -> Array:
        """[...] -> [...]."""
        return self.trace(path, self.ops.relu(x))
