"""Variants of EViT's reorganization: how many tokens, which, in what order, fused how."""

import math
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np

from reforg.config import VitConfig
from reforg.evit import fuse_inattentive
from reforg.ops import bodies, mean, mean_of
from reforg.verification.diagnosis.variants.table import Inapplicable, Step, variant, with_pieces
from reforg.verification.error_model.rules import gather
from reforg.verification.error_model.uncertain import Uncertain
from reforg.verification.replay.selection import Ranked, rearranged, reorganize

PIECE = "evit.reorganize"
Fuse = Callable[[Uncertain, Uncertain, Any], Uncertain]


def _fusing(net: Any, fuse: Fuse) -> Any:
    """The net, in which the fused token is another function of the candidates [B, N, C], their scores, the inattentive indices."""
    return with_pieces(net, {"evit.fused_token": lambda net, *arguments: fuse(*arguments)})


def _fused(net: Any, candidates: Uncertain, scores: Uncertain, indices: Any) -> Uncertain:
    """The fused token as the reference makes it."""
    token: Uncertain = bodies()["evit.fused_token"](net, candidates, scores, indices)
    return token


def _rate(path: str, config: VitConfig) -> float:
    return config.keep_rates[int(path.rpartition(".")[2])]


def _counted(how: Callable[[float, int], int]) -> Any:
    """As many tokens as another rule makes of the keep rate and the candidates."""

    def step(net: Any, path: str, tokens: Uncertain, scores: Uncertain, count: int, config: VitConfig) -> Any:
        candidates = scores.shape[1]
        wanted = min(max(how(_rate(path, config), candidates), 1), candidates)
        return reorganize(net, path, tokens, scores, wanted, config)

    return step


for _label, _how in (
    ("floor for ceil", lambda rate, n: math.floor(rate * n)),
    ("round for ceil", lambda rate, n: round(rate * n)),
    ("the class token counted", lambda rate, n: math.ceil(rate * (n + 1))),
    ("the class token counted, and kept among them", lambda rate, n: math.ceil(rate * (n + 1)) - 1),
    ("the class token counted, floor for ceil", lambda rate, n: math.floor(rate * (n + 1))),
    ("one more", lambda rate, n: math.ceil(rate * n) + 1),
    ("one less", lambda rate, n: math.ceil(rate * n) - 1),
    ("as many as are to be dropped", lambda rate, n: n - math.ceil(rate * n)),
):
    variant(PIECE, f"kept count: {_label}", ".reorganized")(_counted(_how))


def _ranked(by: Callable[[dict[str, Uncertain], str, Uncertain, VitConfig], Uncertain], fused: bool = False) -> Step:
    """Tokens chosen by other scores, which also weigh the fused token where `fused`."""

    def step(net: Any, path: str, tokens: Uncertain, scores: Uncertain, count: int, config: VitConfig) -> Any:
        if fused and not config.fuse_token:
            raise Inapplicable
        ranking = by(net.session.latest, path, scores, config)
        own = net if fused else _weighing_by(net, scores)
        return reorganize(own, path, tokens, ranking, count, config)

    return step


def _weighing_by(net: Any, scores: Uncertain) -> Any:
    """The net, in which tokens are fused by these scores, whichever they were chosen by."""
    return _fusing(net, lambda candidates, _, inattentive: _fused(net, candidates, scores, inattentive))


def _attention(latest: dict[str, Uncertain], path: str, name: str, config: VitConfig, pick: Any) -> Uncertain:
    """Scores from another reading of what attention computed; the mean of parallel branches."""
    found = [pick(latest[f"{path}.attn{branch}.{name}"]) for branch in config.branches]
    agreed: Uncertain = mean_of(found)
    return agreed


def _extreme(take: Any) -> Any:
    """The maximum or minimum over the heads; of each, the variance of the head that it is."""

    def over_heads(x: Uncertain) -> Uncertain:
        index = take(x.value, axis=1)[:, None]
        return x.moved(lambda part: np.take_along_axis(part, index, axis=1)[:, 0])

    return over_heads


def _row(x: Uncertain, config: VitConfig) -> Uncertain:
    return x[:, :, 0, config.num_special :]


def _column(x: Uncertain, config: VitConfig) -> Uncertain:
    return x[:, :, config.num_special :, 0]


def _negated(x: Uncertain) -> Uncertain:
    return Uncertain(-x.value, x.variance, x.rounding)


SCORES: dict[str, Callable[[dict[str, Uncertain], str, Uncertain, VitConfig], Uncertain]] = {
    "scores before softmax": lambda latest, path, scores, config: _attention(
        latest, path, "scores", config, lambda x: mean(_row(x, config), axis=1)
    ),
    "maximum over the heads for the mean": lambda latest, path, scores, config: _attention(
        latest, path, "probs", config, lambda x: _extreme(np.argmax)(_row(x, config))
    ),
    "minimum over the heads for the mean": lambda latest, path, scores, config: _attention(
        latest, path, "probs", config, lambda x: _extreme(np.argmin)(_row(x, config))
    ),
    "the first head for the mean": lambda latest, path, scores, config: _attention(
        latest, path, "probs", config, lambda x: _row(x, config)[:, 0]
    ),
    "the last head for the mean": lambda latest, path, scores, config: _attention(
        latest, path, "probs", config, lambda x: _row(x, config)[:, -1]
    ),
    "column for row: what attends to the class token": lambda latest, path, scores, config: _attention(
        latest, path, "probs", config, lambda x: mean(_column(x, config), axis=1)
    ),
    "attention received from all tokens": lambda latest, path, scores, config: _attention(
        latest, path, "probs", config, lambda x: mean(mean(x, axis=2), axis=1)[:, config.num_special :]
    ),
    "smallest for largest": lambda latest, path, scores, config: _negated(scores),
}
for _label, _by in SCORES.items():
    variant(PIECE, f"selection: {_label}", ".reorganized")(_ranked(_by))
    if _label != "smallest for largest":
        variant(PIECE, f"selection: {_label}, and fused by them", ".reorganized")(_ranked(_by, fused=True))


@variant(PIECE, "selection: the first tokens in image order", ".reorganized")
def first_in_order(net: Any, path: str, tokens: Uncertain, scores: Uncertain, count: int, config: VitConfig) -> Any:
    """No selection at all."""
    order = np.broadcast_to(-np.arange(scores.shape[1], dtype=float), scores.shape)
    return reorganize(_weighing_by(net, scores), path, tokens, scores.rounding.exact(order), count, config)


def _off_by(shift: int) -> Step:
    def step(net: Any, path: str, tokens: Uncertain, scores: Uncertain, count: int, config: VitConfig) -> Any:
        return rearranged(net, path, Ranked(tokens, scores, count, config, shift))

    return step


for _label, _shift in (
    ("indices off by one: the class token counted when tokens are gathered", -1),
    ("indices off by one, forwards", 1),
):
    variant(PIECE, f"selection: {_label}", ".reorganized")(_off_by(_shift))


def _weighted(weigh: Callable[[Uncertain, Uncertain], Uncertain]) -> Step:
    """The fused token as another function of the dropped tokens [B, M, C] and their scores [B, M]."""

    def fuse(candidates: Uncertain, scores: Uncertain, inattentive: Any) -> Uncertain:
        return weigh(gather(candidates, inattentive), gather(scores, inattentive))

    def step(net: Any, path: str, tokens: Uncertain, scores: Uncertain, count: int, config: VitConfig) -> Any:
        return reorganize(_fusing(net, fuse), path, tokens, scores, count, config)

    return step


def _normalised(tokens: Uncertain, scores: Uncertain) -> Uncertain:
    fused: Uncertain = fuse_inattentive(tokens, scores)
    total = scores.value.sum(axis=1)[:, None, None]
    relative = scores.spread.sum(axis=1)[:, None, None] / np.square(total)
    # Of a quotient the relative variances add up, that of the sum of attentions like that of the token.
    own = fused.spread / np.square(total) + np.square(fused.value / total) * relative
    return fused.rounding.rounded(fused.value / total, own.astype(fused.rounding.kind), fused.rounding.stored)


def _averaged(tokens: Uncertain, scores: Uncertain) -> Uncertain:
    return tokens.rounding.mean(tokens, axis=1, keepdims=True)


def _summed(tokens: Uncertain, scores: Uncertain) -> Uncertain:
    return tokens.rounding.sum(tokens, axis=1, keepdims=True)


def _nothing(tokens: Uncertain, scores: Uncertain) -> Uncertain:
    return tokens.rounding.exact(np.zeros((tokens.shape[0], 1, tokens.shape[2])))


def _softmaxed(tokens: Uncertain, scores: Uncertain) -> Uncertain:
    from reforg.verification.error_model.rules import softmax

    fused: Uncertain = fuse_inattentive(tokens, softmax(scores))
    return fused


def _mean_weighted(tokens: Uncertain, scores: Uncertain) -> Uncertain:
    fused: Uncertain = fuse_inattentive(tokens, scores)
    return fused / tokens.shape[1]


for _label, _weigh in (
    ("divided by the sum of the attentions", _normalised),
    ("the plain average of the dropped tokens", _averaged),
    ("the plain sum of the dropped tokens", _summed),
    ("zeros", _nothing),
    ("weighed by a softmax of the attentions", _softmaxed),
    ("the weighted mean, divided by the number of tokens", _mean_weighted),
):
    variant(PIECE, f"fused token: {_label}", ".reorganized")(_weighted(_weigh))


def _with_fused_token(fuses: bool) -> Step:
    def step(net: Any, path: str, tokens: Uncertain, scores: Uncertain, count: int, config: VitConfig) -> Any:
        return reorganize(net, path, tokens, scores, count, replace(config, fuse_token=fuses))

    return step


variant(PIECE, "fused token missing", ".reorganized")(_with_fused_token(False))
variant(PIECE, "fused token where none belongs", ".reorganized")(_with_fused_token(True))


def _fused_of(pick: Callable[[Any, int], Any]) -> Step:
    """The fused token of other indices than the dropped ones, picked from all of them by falling score [B, N] and the count."""

    def step(net: Any, path: str, tokens: Uncertain, scores: Uncertain, count: int, config: VitConfig) -> Any:
        indices = pick(Ranked(tokens, scores, count, config).order, count)
        own = _fusing(net, lambda candidates, _scores, _dropped: _fused(net, candidates, scores, indices))
        return reorganize(own, path, tokens, scores, count, config)

    return step


variant(PIECE, "fused token: of the kept tokens instead of the dropped ones", ".reorganized")(
    _fused_of(lambda order, count: order[:, :count])
)
variant(PIECE, "fused token: of all tokens instead of the dropped ones", ".reorganized")(_fused_of(lambda order, count: order))
