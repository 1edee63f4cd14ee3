"""The reference, run on a candidate's own values: every operation gets what the candidate gave it, so no error is inherited.

A forward pass returns to its trace whatever it computes. Here the trace compares it with the candidate's value of that name
and hands back the candidate's, so that the next operation starts from that. What the candidate does not hold goes on as
predicted, with its variance.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from functools import partial
from importlib import import_module
from typing import Any

import numpy as np

from reforg import shunted, vit
from reforg.config import Config, ShuntedConfig, VitConfig
from reforg.errors import ConfigError
from reforg.evit import Schedule
from reforg.ops import Network, Ops, pieces
from reforg.verification.error_model.comparison import Comparison, compared
from reforg.verification.error_model.rules import OPERATIONS
from reforg.verification.error_model.uncertain import Rounding, Uncertain, Values
from reforg.verification.findings import Selection
from reforg.verification.replay.observations import PARTS, UNITS, Call, Key, Memory, Observation, Step
from reforg.verification.replay.recovery import after_attention
from reforg.verification.replay.selection import reorganize
from reforg.verification.replay.trends import sharpened

LAYERS = ("linear", "layer_norm", "batch_norm", "conv2d", "depthwise_conv2d", "gelu", "relu")
EVERYWHERE = "*"
COPIED = ("latest", "inputs", "pieces", "selections", "sharpness")  # what a fork has of its own
BROKEN = (ValueError, LookupError, TypeError, ZeroDivisionError, ConfigError)  # what values of a wrong shape lead to


@dataclass
class Session:
    """What is known in the course of one replay. A fork of it tries something out and is kept or forgotten.

    values: the candidate's by trace name. assumed: values inferred from what follows, by trace name. overrides: steps to be
    taken otherwise. latest: everything that was predicted. inputs: the arguments of every layer. judge: what decides on a unit's
    faults, None where nothing is to be decided. selections, sharpness: by block, what was chosen and how sharply that is seen.
    remark: what a variant found that takes a number from the candidate. exact, memory: values and steps known from before, which
    all forks share. trying: whether a unit is taken that may be taken again. allowed: more variance of some values, from choices of
    tokens that nothing shows.
    """

    config: Config
    rounding: Rounding
    weights: Mapping[str, Uncertain]
    values: Mapping[str, Values]
    batch: int
    judge: Callable[["Session", Call], Any] | None = None
    assumed: dict[str, Uncertain] = field(default_factory=dict)
    overrides: dict[Key, Step] = field(default_factory=dict)
    log: list[Observation] = field(default_factory=list)
    latest: dict[str, Any] = field(default_factory=dict)
    inputs: dict[str, tuple[Any, ...]] = field(default_factory=dict)
    pieces: dict[Key, Call] = field(default_factory=dict)
    selections: dict[str, Selection] = field(default_factory=dict)
    sharpness: dict[str, float] = field(default_factory=dict)
    stack: list[Call] = field(default_factory=list)
    since: list[Call] = field(default_factory=list)
    remark: str = ""
    exact: dict[tuple[str, str], Uncertain] = field(default_factory=dict)
    memory: dict[tuple[Any, ...], "Memory"] = field(default_factory=dict)
    trying: bool = False
    allowed: dict[str, Values] = field(default_factory=dict)

    def fork(self, assumed: Mapping[str, Uncertain] | None = None, overrides: Mapping[Key, Step] | None = None) -> "Session":
        """The same state, in which nothing is judged, with more values assumed or more steps taken otherwise."""
        values = {"assumed": self.assumed | dict(assumed or {}), "overrides": self.overrides | dict(overrides or {})}
        kept = {"log": list(self.log), "stack": list(self.stack), "since": list(self.since)}
        known = {name: dict(getattr(self, name)) for name in COPIED}
        return replace(self, judge=None, trying=True, **values, **kept, **known)  # type: ignore[arg-type]

    def alone(
        self, overrides: Mapping[Key, Step], images: slice = slice(None), plain: bool = False,
        allowed: Mapping[str, Values] | None = None,
    ) -> "Session":  # fmt: skip
        """The state before anything was replayed, of some of the images, for a replay of the whole model, or a first look at it.

        What is to be done otherwise and allowed in this session is so there too.
        """
        values = {name: value[images] if len(value) == self.batch else value for name, value in self.values.items() if value.ndim}
        rounding, weights = self.rounding, self.weights
        if plain:
            rounding = Rounding(rounding.precision, plain=True)
            weights = {name: rounding.exact(weight.value) for name, weight in weights.items()}
        count = len(range(self.batch)[images])
        wider = {name: variance[images] for name, variance in (self.allowed | dict(allowed or {})).items()}
        return Session(self.config, rounding, weights, values, count, overrides=self.overrides | dict(overrides), allowed=wider)

    def forget(self) -> None:
        """Let go of what only the steps of one unit need to know."""
        self.latest = dict.fromkeys(self.latest)
        self.inputs = {path: arguments for path, arguments in self.inputs.items() if "." not in path}
        self.exact.clear()
        self.memory.clear()

    def adopt(self, other: "Session") -> None:
        """Go on from where a fork has arrived."""
        self.log, self.latest, self.inputs, self.pieces = other.log, other.latest, other.inputs, other.pieces
        self.selections, self.sharpness, self.since = other.selections, other.sharpness, other.since

    @property
    def net(self) -> "Replay":
        """The layers of this session."""
        return Replay(self.weights, REPLAYED, self.observe, self)

    def width(self, path: str) -> int:
        """How many channels the tokens of a block have."""
        config: Any = self.config
        return int(config.embed_dims[int(path[len("block")]) - 1] if isinstance(config, ShuntedConfig) else config.embed_dim)

    def holds(self, name: str) -> bool:
        """Whether the candidate has a value of that name."""
        return name in self.values

    def observe(self, name: str, predicted: Any) -> Any:
        """The trace of a replay: compare, and go on from the candidate's value, or from what it must have been."""
        if not isinstance(predicted, Uncertain):
            return predicted
        self.latest[name] = predicted
        supplied = name in self.values
        if name in self.assumed:
            return self._compare(name, self.assumed[name].value, predicted, self.assumed[name], supplied=False)
        return self._compare(name, self.values[name], predicted, None, supplied=True) if supplied else predicted

    def _compare(self, name: str, got: Values, predicted: Uncertain, own: Uncertain | None, supplied: bool) -> Uncertain:
        comparison = compared(name, got, predicted, self.allowed.get(name) if own is None else own.spread)
        if self.stack and supplied:
            comparison = sharpened(comparison, self.stack[-1], self.net)
        read = self.stack[-1].carries if self.stack else frozenset()
        self.log.append(Observation(comparison, tuple(self.since), tuple(self.stack), supplied, predicted.carries | read))
        if supplied:
            self.since = []
        if own is not None:
            return _surer(own, predicted) if comparison.passed else own
        return self._held(comparison) if _can_go_on(comparison) else predicted

    def _held(self, comparison: Comparison) -> Uncertain:
        """The candidate's value, the same object every time, by which steps that read it are known again."""
        key = (comparison.difference.name, comparison.difference.note)
        if key not in self.exact:
            self.exact[key] = Uncertain(comparison.got, None, self.rounding, comparison.predicted.relative)
        return self.exact[key]

    def note(self, comparison: Comparison) -> None:
        """Put a comparison on record that is of no value of the candidate's own."""
        self.log.append(Observation(comparison, tuple(self.since), tuple(self.stack), supplied=False))

    def recovered(self, path: str) -> Uncertain | None:
        """The tokens that a block's MLP and its last sum read: the block's output less what the MLP adds; None where unknown."""
        return after_attention(self, path)

    def perform(self, kind: str, path: str, step: Step, *arguments: Any) -> Any:
        """Take a step of the forward pass, or what is to be taken in its place."""
        call = Call(kind, path, step, arguments, tuple(self.stack))
        if kind in LAYERS:
            self.inputs[path] = arguments
        else:
            self.pieces[call.key] = call
        if self.judge is not None and (not self.stack or kind in UNITS):
            return self.judge(self, call)
        return self.take(call)

    def take(self, call: Call) -> Any:
        """The result of a step, with the steps that belong to it on record."""
        if self.trying and call.kind in REMEMBERED and not self._touched(call):
            return self._remembered(call)
        return self._taken(call)

    def _taken(self, call: Call) -> Any:
        chosen = self.overrides.get(call.key) or self.overrides.get((call.kind, EVERYWHERE)) or call.step
        self.since.append(call)
        self.stack.append(call)
        try:
            result = chosen(self.net, *call.arguments)
        finally:
            self.stack.pop()
        for part in result if isinstance(result, tuple) else (result,):
            if isinstance(part, Uncertain):
                part.carrying(call.carries, frozenset({call.key}))
        return result

    def _touched(self, call: Call) -> bool:
        """Whether anything is to be done otherwise in a piece, or anything assumed there."""
        paths = [path for _, path in self.overrides] + list(self.assumed)
        return any(path == EVERYWHERE or f"{path}.".startswith(f"{call.path}.") for path in paths)

    def _remembered(self, call: Call) -> Any:
        """The result of a piece that was taken before on the very same values, with all that was put on record then.

        The first pieces are those that many variants of another step go back to.
        """
        key = (*call.key, *(id(part) for part in call.arguments if isinstance(part, Uncertain)))
        if key not in self.memory and len(self.memory) >= PIECES:
            return self._taken(call)
        if key not in self.memory:
            begun, started, before = len(self.log), len(self.since), set(self.latest)
            result = self._taken(call)
            log = self.log[begun:]
            ended = any(entry.supplied for entry in log)
            made = {name: x for name, x in self.latest.items() if name not in before or name.startswith(f"{call.path}.")}
            self.memory[key] = Memory(call, result, log, made, self.since if ended else self.since[started:], ended)
            return result
        known = self.memory[key]
        self.log += known.log
        self.latest |= known.latest
        self.since = [*(() if known.ended else self.since), *known.since]
        return known.result


PIECES = 16  # that are remembered of a unit: two branches' attention and MLP, under four assumptions
REMEMBERED = ("vit.self_attention", "vit.mlp", "shunted.shunted_attention", "shunted.detail_mlp")


def _surer(own: Uncertain, predicted: Uncertain) -> Uncertain:
    """Of two values that agree, for each element the one that is known more closely."""
    closer = own.spread < predicted.spread
    value, variance = np.where(closer, own.value, predicted.value), np.where(closer, own.spread, predicted.spread)
    return Uncertain(value, variance, own.rounding, own.relative)


def _can_go_on(comparison: Comparison) -> bool:
    """Whether the next operation can read the candidate's value: only the number of tokens, or of images, is another."""
    got, wanted = comparison.got, comparison.predicted
    if got.ndim != len(wanted.shape) or not np.all(np.isfinite(got)):
        return False
    return got.shape == wanted.shape or (got.ndim == 3 and got.shape[::2] == wanted.shape[::2])


@dataclass(frozen=True)
class Replay(Network):
    """The layers of a forward pass whose every step a session takes."""

    session: Session = None  # type: ignore[assignment]  # a field of Network before it has a default

    def linear(self, path: str, x: Any) -> Any:
        """[..., I] -> [..., O]."""
        return self.session.perform("linear", path, Network.linear, path, x)

    def layer_norm(self, path: str, x: Any, eps: float) -> Any:
        """[..., C] -> [..., C]."""
        return self.session.perform("layer_norm", path, Network.layer_norm, path, x, eps)

    def batch_norm(self, path: str, x: Any, eps: float = 1e-5) -> Any:
        """[B, C, H, W] -> [B, C, H, W]."""
        return self.session.perform("batch_norm", path, Network.batch_norm, path, x, eps)

    def conv2d(self, path: str, x: Any, stride: int, padding: int = 0) -> Any:
        """[B, C, H, W] -> [B, O, H', W']."""
        return self.session.perform("conv2d", path, Network.conv2d, path, x, stride, padding)

    def depthwise_conv2d(self, path: str, x: Any) -> Any:
        """[B, C, H, W] -> [B, C, H, W]."""
        return self.session.perform("depthwise_conv2d", path, Network.depthwise_conv2d, path, x)

    def gelu(self, path: str, x: Any) -> Any:
        """[...] -> [...]."""
        return self.session.perform("gelu", path, Network.gelu, path, x)

    def relu(self, path: str, x: Any) -> Any:
        """[...] -> [...]."""
        return self.session.perform("relu", path, Network.relu, path, x)


def _enter(kind: str, step: Step, net: Replay, *arguments: Any) -> Any:
    """A piece of a model, taken by the session of the net that it was called with."""
    path = next((argument for argument in arguments[:1] if isinstance(argument, str)), "")
    return net.session.perform(kind, path, step, *arguments)


def reference(kind: str) -> Step:
    """What the models do at a piece: the body of the function that declares it."""
    module, _, function = kind.partition(".")
    body: Step = getattr(import_module(f"reforg.{module}"), function).__wrapped__
    return body


def _replayed() -> Ops:
    steps = {kind: reference(kind) for kind in pieces() if kind not in PARTS} | {"evit.reorganize": reorganize}
    return OPERATIONS.replaced("replay", {kind: partial(_enter, kind, step) for kind, step in steps.items()})


def run(session: Session, images: Uncertain) -> None:
    """The whole forward pass of the session's model; what its log says then is the answer."""
    net, config = session.net, session.config
    if isinstance(config, ShuntedConfig):
        shunted.classify(net, shunted.encode(net, images, config)[-1][0], config)
    if isinstance(config, VitConfig):
        vit.classify(net, vit.encode(net, images, config, Schedule(config)), config)


REPLAYED = _replayed()
