"""What a forward pass is given: `Ops`, the record of operations, and `Network`, which applies them to the weights.

`Ops` is the seam between the reference and everything fast: a backend replaces single operations in it, or whole pieces of a
model, which are declared with `@piece` and called with a `Network`.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, fields, replace
from functools import partial, wraps
from types import MappingProxyType
from typing import Any, Concatenate, ParamSpec, TypeVar

from reforg.arrays import Array
from reforg.ops import basic, conv, resize, select
from reforg.ops.tracing import Trace, untraced

BUILT_ON = {"gelu": "erf", "attention": "softmax"}  # operations of the record whose reference calls a smaller one of it
P = ParamSpec("P")
R = TypeVar("R")


@dataclass(frozen=True)
class Ops:
    """What a forward pass calls. Fields are the operations of `reforg.ops` under their own names and signatures.

    `coarse` replaces whole pieces of a model (`pieces()` lists them), such as "vit.mlp" or "evit.reorganize"; a
    replacement has the piece's own signature, reads its weights from `net.weights` by their official names, and may
    leave out the tracing, because traces are always computed with REFERENCE. `providers` says who runs what.
    """

    linear: Callable[..., Any] = basic.linear
    layer_norm: Callable[..., Any] = basic.layer_norm
    batch_norm: Callable[..., Any] = basic.batch_norm
    erf: Callable[..., Any] = basic.erf
    gelu: Callable[..., Any] = basic.gelu
    relu: Callable[..., Any] = basic.relu
    softmax: Callable[..., Any] = basic.softmax
    attention: Callable[..., Any] = basic.attention
    conv2d: Callable[..., Any] = conv.conv2d
    depthwise_conv2d: Callable[..., Any] = conv.depthwise_conv2d
    resize: Callable[..., Any] = resize.resize
    rank: Callable[..., Any] = select.rank
    gather: Callable[..., Any] = select.gather
    coarse: Mapping[str, Callable[..., Any]] = field(default_factory=lambda: MappingProxyType({}))
    providers: Mapping[str, str] = field(default_factory=lambda: MappingProxyType({}))

    def replaced(self, provider: str, replacements: Mapping[str, Callable[..., Any]]) -> "Ops":
        """This record with some operations or pieces taken over by `provider`; a name that does not exist is a KeyError."""
        unknown = set(replacements) - set(operations()) - set(pieces())
        if unknown:
            raise KeyError(f"{provider} replaces what is not an operation: {', '.join(sorted(unknown))}")
        fine = {name: function for name, function in replacements.items() if name in operations()}
        for outer, inner in BUILT_ON.items():  # the reference's own GELU and attention run on the new erf and softmax
            if inner in fine and outer not in {**self.providers, **fine}:
                fine[outer] = partial(getattr(basic, outer), **{inner: fine[inner]})
        coarse = {name: function for name, function in replacements.items() if name not in operations()}
        return replace(
            self,
            **fine,
            coarse=MappingProxyType({**self.coarse, **coarse}),
            providers=MappingProxyType({**self.providers, **dict.fromkeys(replacements, provider)}),
        )

    def table(self) -> dict[str, str]:
        """Who runs each operation and each piece: "reference", or the name a backend gave."""
        return {name: self.providers.get(name, "reference") for name in (*operations(), *pieces())}


def operations() -> tuple[str, ...]:
    """The names of the fine operations."""
    return tuple(entry.name for entry in fields(Ops) if entry.name not in ("coarse", "providers"))


REFERENCE = Ops()
"""Every operation as the reference computes it."""


@dataclass(frozen=True)
class Network:
    """A mapping of weights seen as layers: `net.linear("blocks.3.mlp.fc1", x)` is that layer's output, traced.

    Holds nothing that changes; every method is its operation applied to the parameters found under `path`.
    """

    weights: Mapping[str, Array]
    ops: Ops
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

    def batch_norm(self, path: str, x: Array, eps: float) -> Array:
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


_PIECES: dict[str, Callable[..., Any]] = {}


def pieces() -> tuple[str, ...]:
    """The names of the coarse pieces that the models declare with `@piece`."""
    return tuple(_PIECES)


def bodies() -> Mapping[str, Callable[..., Any]]:
    """The pieces by name, each as the model declares it: its own body, which is the reference."""
    return MappingProxyType(_PIECES)


def piece(function: Callable[Concatenate[Network, P], R]) -> Callable[Concatenate[Network, P], R]:
    """Declare a step of a model as replaceable under "module.function"; its own body is the reference."""
    name = f"{function.__module__.rpartition('.')[2]}.{function.__name__}"
    _PIECES[name] = function

    @wraps(function)
    def run(net: Network, /, *args: P.args, **kwargs: P.kwargs) -> R:
        chosen: Callable[Concatenate[Network, P], R] = net.ops.coarse.get(name, function)
        return chosen(net, *args, **kwargs)

    return run
