"""The reference, run on a candidate's own values: every operation gets what the candidate gave it, so no error is inherited.

A forward pass returns to its trace whatever it computes. Here the trace compares it with the candidate's value of that name
and hands back the candidate's, so that the next operation starts from that. What the candidate does not hold goes on as
predicted, with its variance.

Whatever a forward pass does goes through `perform`: layers, because they are methods of `ReplayNetwork`, and pieces, because
`REPLAYED` has a replacement for each.
"""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np

from reforg.errors import ConfigError
from reforg.families import family_of
from reforg.ops import Network, Ops, Trace, bodies
from reforg.verification.error_model.comparison import Comparison, compared
from reforg.verification.error_model.rules import OPERATIONS
from reforg.verification.error_model.uncertain import Uncertain, Values
from reforg.verification.replay import changes
from reforg.verification.replay.observations import PARTS, UNITS, Call, Step
from reforg.verification.replay.selection import reorganize
from reforg.verification.replay.session import Net, Session
from reforg.verification.replay.trends import sharpened

# Layers, each with how many parameters and how many settings follow what its operation reads.
LAYERS = {
    "linear": (2, 0), "layer_norm": (2, 1), "batch_norm": (4, 1), "conv2d": (2, 2), "depthwise_conv2d": (2, 1),
    "gelu": (0, 0), "relu": (0, 0),
}  # fmt: skip
EVERYWHERE = "*"
BROKEN = (ValueError, LookupError, TypeError, ZeroDivisionError, ConfigError)  # what values of a wrong shape lead to
MOST_REMEMBERED = 16  # pieces of a unit: two branches' attention and MLP, under four assumptions
LOOKS = 4  # closer looks at one value that are remembered: of the unit as it stands, and under three assumptions
REMEMBERED = ("vit.self_attention", "vit.mlp", "shunted.shunted_attention", "shunted.detail_mlp")


@dataclass(frozen=True, kw_only=True)
class ReplayNetwork(Net):
    """The layers of a forward pass whose every step a session takes."""

    def linear(self, path: str, x: Any) -> Any:
        """[..., I] -> [..., O]."""
        return perform(self.session, "linear", path, Network.linear, path, x)

    def layer_norm(self, path: str, x: Any, eps: float) -> Any:
        """[..., C] -> [..., C]."""
        return perform(self.session, "layer_norm", path, Network.layer_norm, path, x, eps)

    def batch_norm(self, path: str, x: Any, eps: float) -> Any:
        """[B, C, H, W] -> [B, C, H, W]."""
        return perform(self.session, "batch_norm", path, Network.batch_norm, path, x, eps)

    def conv2d(self, path: str, x: Any, stride: int, padding: int = 0) -> Any:
        """[B, C, H, W] -> [B, O, H', W']."""
        return perform(self.session, "conv2d", path, Network.conv2d, path, x, stride, padding)

    def depthwise_conv2d(self, path: str, x: Any) -> Any:
        """[B, C, H, W] -> [B, C, H, W]."""
        return perform(self.session, "depthwise_conv2d", path, Network.depthwise_conv2d, path, x)

    def gelu(self, path: str, x: Any) -> Any:
        """[...] -> [...]."""
        return perform(self.session, "gelu", path, Network.gelu, path, x)

    def relu(self, path: str, x: Any) -> Any:
        """[...] -> [...]."""
        return perform(self.session, "relu", path, Network.relu, path, x)


def replay(session: Session, images: Uncertain) -> None:
    """The whole forward pass of the session's model; what its log says then is the answer.

    A family's forward pass makes a network of its own from the weights, the operations and the trace that it is given. What it
    calls outside of every piece therefore reaches the session through these two.
    """
    net = network_of(session)
    ops, trace = _outermost(net)
    family_of(session.config).forward(session.weights, images, session.config, ops, trace)


def _outermost(net: ReplayNetwork) -> tuple[Ops, Trace]:
    """Operations and a trace that hand every piece and every layer of a forward pass to the network of a replay.

    An operation does not know which layer it is of. But the layer gives its result to the trace at once, under its name: that is
    when the layer is performed. A result that no trace is given, or that has another name than the weights, is used as it is.
    """
    results: dict[Uncertain, Callable[[str], Any]] = {}

    def trace(name: str, value: Any) -> Any:
        layer = results.pop(value, None) if isinstance(value, Uncertain) else None
        return observe(net.session, name, value) if layer is None else layer(name)

    layers = {kind: partial(_noted, net, kind, results) for kind in LAYERS}
    entered = {kind: partial(_with_network, net, step) for kind, step in _replacements().items()}
    return OPERATIONS.replaced("replay", layers | entered), trace


def _noted(net: ReplayNetwork, kind: str, results: dict[Uncertain, Callable[[str], Any]], *arguments: Any, **settings: Any) -> Any:
    """The result of an operation; where it is called as a layer calls it, with what is to be done when the trace is given it."""
    result = getattr(OPERATIONS, kind)(*arguments, **settings)
    parameters, count = LAYERS[kind]
    if not settings and len(arguments) == 1 + parameters + count:
        own = arguments[1 + parameters :] if kind != "depthwise_conv2d" else ()  # its layer decides on the padding

        def layer(name: str) -> Any:
            if parameters and f"{name}.weight" not in net.weights:
                return observe(net.session, name, result)
            return getattr(net, kind)(name, arguments[0], *own)

        results[result] = layer
    return result


def _with_network(net: ReplayNetwork, step: Step, _: Network, *arguments: Any) -> Any:
    """A step, which another network than the replay's came upon."""
    return step(net, *arguments)


def perform(session: Session, kind: str, path: str, step: Step, *arguments: Any) -> Any:
    """A step that the forward pass has come to: judged if it is a unit or stands alone, and taken otherwise."""
    call = Call(kind, path, step, arguments, tuple(session.stack))
    if kind in LAYERS:
        changes.record_layer(session, call)
    else:
        changes.record_piece(session, call)
    # Here the replay turns back on itself. The judge takes the unit, as often as it has something to assume of it, in sessions
    # without a judge; every step inside comes through here again, and is taken at once.
    if session.judge is not None and (not session.stack or kind in UNITS):
        return session.judge(session, call)
    return take(session, call)


def take(session: Session, call: Call) -> Any:
    """The result of a step, with the steps that belong to it on record."""
    if session.attempting and call.kind in REMEMBERED and not _is_touched(session, call):
        return _remembered(session, call)
    return _taken(session, call)


def _taken(session: Session, call: Call) -> Any:
    chosen = session.overrides.get(call.key) or session.overrides.get((call.kind, EVERYWHERE)) or call.step
    with changes.entered(session, call):
        result = chosen(network_of(session), *call.arguments)
    for part in result if isinstance(result, tuple) else (result,):
        if isinstance(part, Uncertain):
            part.carrying(call.carries, frozenset({call.key}))
    return result


def _is_touched(session: Session, call: Call) -> bool:
    """Whether anything is to be done otherwise in a piece, or anything assumed there."""
    paths = [path for _, path in session.overrides] + list(session.assumed)
    return any(path == EVERYWHERE or f"{path}.".startswith(f"{call.path}.") for path in paths)


def _remembered(session: Session, call: Call) -> Any:
    """The result of a piece that was taken before on the very same values, with all that was put on record then.

    Attempts at a unit differ in what they assume between its halves, so that the first half is the same in several of them. Values
    are told apart as objects: what the candidate holds is the same object in all attempts, and a prediction is new in each. The
    first pieces are those that many variants of another step go back to.
    """
    key = (*call.key, *(part for part in call.arguments if isinstance(part, Uncertain)))
    if key in session.memory:
        return changes.repeat(session, session.memory[key])
    if len(session.memory) >= MOST_REMEMBERED:
        return _taken(session, call)
    begun = changes.mark(session)
    result = _taken(session, call)
    changes.remember(session, key, call, result, begun)
    return result


def observe(session: Session, name: str, predicted: Any) -> Any:
    """The trace of a replay: compare, and go on from the candidate's value, or from what it must have been."""
    if not isinstance(predicted, Uncertain):
        return predicted
    changes.record_prediction(session, name, predicted)
    # What is assumed goes before what is there: it was inferred because what is there is wrong, or is missing.
    if name in session.assumed:
        own = session.assumed[name]
        comparison = _compare(session, name, own.value, predicted, own.spread, supplied=False)
        return _surer(own, predicted) if comparison.passed else own
    if not session.holds(name):
        return predicted
    comparison = _compare(session, name, session.values[name], predicted, session.allowed.get(name), supplied=True)
    return changes.held(session, comparison) if _can_go_on(comparison) else predicted


def _compare(session: Session, name: str, got: Values, predicted: Uncertain, own: Any, supplied: bool) -> Comparison:
    """A value against its prediction, put on record. own: the variance of the value itself."""
    comparison = _looked_up(session, name, got, predicted) if own is None else None
    if comparison is None:
        comparison = compared(name, got, predicted, own)
        if comparison.looked and own is None and len(session.looks.get(name, ())) < LOOKS:
            changes.record_look(session, name, got, predicted, comparison)
    if session.stack and supplied:
        comparison = sharpened(comparison, session.stack[-1], session)
    read = session.stack[-1].carries if session.stack else frozenset()
    changes.record(session, comparison, supplied, predicted.carries | read)
    return comparison


def _looked_up(session: Session, name: str, got: Values, predicted: Uncertain) -> Comparison | None:
    """The comparison of the same two from before, where it took a closer look."""
    return next((look.comparison for look in session.looks.get(name, ()) if look.is_of(got, predicted)), None)


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


def network_of(session: Session) -> ReplayNetwork:
    """The layers of a session's model."""
    return ReplayNetwork(session.weights, REPLAYED, partial(observe, session), session=session)


def _enter(kind: str, step: Step, net: ReplayNetwork, *arguments: Any) -> Any:
    """A piece of a model, performed by the session of the net that it was called with."""
    path = next((argument for argument in arguments[:1] if isinstance(argument, str)), "")
    return perform(net.session, kind, path, step, *arguments)


def _replacements() -> dict[str, Step]:
    """What takes the place of every piece that is a step. A reorganization goes on with the candidate's choice, once judged."""
    steps = {**bodies(), "evit.reorganize": reorganize}
    return {kind: partial(_enter, kind, step) for kind, step in steps.items() if kind not in PARTS}


REPLAYED: Ops = OPERATIONS.replaced("replay", _replacements())
"""The error model's operations, and pieces that a replay performs."""
