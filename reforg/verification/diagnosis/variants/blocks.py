"""Variants of whole blocks, and of what they add: ViT, DeiT, DeiT III, EViT."""

from collections.abc import Callable
from typing import Any

import numpy as np

from reforg import vit
from reforg.config import VitConfig
from reforg.evit import average, reorganize
from reforg.ops import bodies, mean_of
from reforg.verification.diagnosis.variants.table import Inapplicable, Step, changed, variant, with_pieces
from reforg.verification.error_model.uncertain import Uncertain
from reforg.verification.replay.selection import Ranked, rearranged
from reforg.verification.replay.selection import reorganize as reorganized

Scale = Callable[[Any, str, int, str, Uncertain, VitConfig], Uncertain]
Join = Callable[[Uncertain, list[Uncertain]], Uncertain]
Half = Callable[[Any, str, int, Uncertain, VitConfig], tuple[Uncertain, list[Any]]]
"""Attention or MLP of a block with its residual: (net, path, 1 or 2, x, config) -> its sum, and each branch's class attention."""
PIECE = "vit.block"


def _alone(x: Uncertain, updates: list[Uncertain]) -> Uncertain:
    return sum(updates[1:], updates[0])


def _twice(x: Uncertain, updates: list[Uncertain]) -> Uncertain:
    return sum(updates, x + x)


def _update_twice(x: Uncertain, updates: list[Uncertain]) -> Uncertain:
    return sum([*updates, *updates], x)


def _first_only(x: Uncertain, updates: list[Uncertain]) -> Uncertain:
    return x + updates[0]


def _second_only(x: Uncertain, updates: list[Uncertain]) -> Uncertain:
    return x + updates[-1]


def _mean(x: Uncertain, updates: list[Uncertain]) -> Uncertain:
    added: Uncertain = mean_of(updates)
    return x + added


def _nothing(x: Uncertain, updates: list[Uncertain]) -> Uncertain:
    return x


def _updates(net: Any, path: str, number: int, branch: str, x: Uncertain, config: VitConfig) -> tuple[Uncertain, Uncertain, Any]:
    """A branch of attention (number 1) or of the MLP (2): norm(x), what it adds to x, its class attention (None of an MLP)."""
    normed = net.layer_norm(f"{path}.norm{number}{branch}", x, config.norm_eps)
    scores = None
    if number == 1:
        update, scores = vit.self_attention(net, f"{path}.attn{branch}", normed, config.num_heads, config.num_special)
    else:
        update = vit.mlp(net, f"{path}.mlp{branch}", normed)
    return normed, vit.layer_scale(net, path, number, branch, update, config), scores


def _joined(join: Join) -> Half:
    """The updates of all branches and x, joined otherwise."""

    def half(net: Any, path: str, number: int, x: Uncertain, config: VitConfig) -> tuple[Uncertain, list[Any]]:
        _, updates, scores = zip(*(_updates(net, path, number, branch, x, config) for branch in config.branches), strict=True)
        return join(x, list(updates)), list(scores)

    return half


def _from_normed(net: Any, path: str, number: int, x: Uncertain, config: VitConfig) -> tuple[Uncertain, list[Any]]:
    """The residual starts from what the first branch reads."""
    normed, updates, scores = zip(*(_updates(net, path, number, branch, x, config) for branch in config.branches), strict=True)
    return sum(updates, normed[0]), list(scores)


def _in_turn(net: Any, path: str, number: int, x: Uncertain, config: VitConfig) -> tuple[Uncertain, list[Any]]:
    """Each branch reads what the one before has made."""
    seen = []
    for branch in config.branches:
        _, update, scores = _updates(net, path, number, branch, x, config)
        x = x + update
        seen.append(scores)
    return x, seen


def _halves(*numbers: int, half: Half) -> Step:
    """The block in which attention (number 1) or the MLP (2), or both, are done otherwise."""

    def attend(net: Any, path: str, x: Uncertain, config: VitConfig) -> Any:
        x, scores = half(net, path, 1, x, config)
        return net.trace(f"{path}.attended", x), scores

    def feed_forward(net: Any, path: str, x: Uncertain, config: VitConfig) -> Any:
        return half(net, path, 2, x, config)[0]

    pieces = {1: ("vit.attend", attend), 2: ("vit.feed_forward", feed_forward)}
    return changed(PIECE, dict(pieces[number] for number in numbers))


def _scaled(*numbers: int, scale: Scale) -> Step:
    """The block with another LayerScale after attention (number 1) or the MLP (2), or both."""
    usual = bodies()["vit.layer_scale"]

    def layer_scale(net: Any, path: str, number: int, branch: str, x: Uncertain, config: VitConfig) -> Any:
        return (scale if number in numbers else usual)(net, path, number, branch, x, config)

    return changed(PIECE, {"vit.layer_scale": layer_scale})


def _unscaled(net: Any, path: str, number: int, branch: str, x: Uncertain, config: VitConfig) -> Uncertain:
    _gain(net, path, number, branch, config)
    return x


def _gain(net: Any, path: str, number: int, branch: str, config: VitConfig) -> Uncertain:
    if config.init_values is None:
        raise Inapplicable
    gain: Uncertain = net.weights[config.gain(path, number, branch)]
    return gain


def _swapped(net: Any, path: str, number: int, branch: str, x: Uncertain, config: VitConfig) -> Uncertain:
    return x * _gain(net, path, 3 - number, branch, config)


def _one_more(net: Any, path: str, number: int, branch: str, x: Uncertain, config: VitConfig) -> Uncertain:
    return x + x * _gain(net, path, number, branch, config)


def _squared(net: Any, path: str, number: int, branch: str, x: Uncertain, config: VitConfig) -> Uncertain:
    gain = _gain(net, path, number, branch, config)
    return x * gain * gain


def _inverted(net: Any, path: str, number: int, branch: str, x: Uncertain, config: VitConfig) -> Uncertain:
    gain = _gain(net, path, number, branch, config).value
    return x * x.rounding.stored_once(1 / np.where(gain == 0, 1.0, gain))


def _other_branch(net: Any, path: str, number: int, branch: str, x: Uncertain, config: VitConfig) -> Uncertain:
    others = [other for other in config.branches if other != branch]
    if not others:
        raise Inapplicable
    return x * _gain(net, path, number, others[0], config)


def _check_drops(x: Uncertain, config: VitConfig, count: int) -> None:
    if count >= x.shape[1] - config.num_special:
        raise Inapplicable


def _gathered_before(whole: bool = False, fused: bool = True) -> Step:
    """The kept patches are those that came into the block; special tokens too (whole), and what is fused (fused)."""

    def step(net: Any, path: str, x: Uncertain, config: VitConfig, count: int) -> Any:
        _check_drops(x, config, count)
        attended, scores = vit.attend(net, path, x, config)
        special = config.num_special
        mixed = x if whole else x.rounding.concat([attended[:, :special, :], x[:, special:, :]], axis=1)
        chosen = average(net, f"{path}.cls_attention", scores)
        if fused:
            mixed = reorganize(net, path, mixed, chosen, count, config)
        else:
            mixed = reorganized(_fusing(net, attended[:, special:, :]), path, mixed, chosen, count, config)
        return net.trace(path, vit.feed_forward(net, path, mixed, config))

    return step


def _fusing(net: Any, candidates: Uncertain) -> Any:
    """The net, in which the fused token is made of these candidates [B, N, C], whichever are kept."""
    usual = bodies()["evit.fused_token"]
    return with_pieces(net, {"evit.fused_token": lambda net, _, scores, inattentive: usual(net, candidates, scores, inattentive)})


for _label, _step in (
    ("patches gathered from before attention's residual", _gathered_before()),
    ("tokens gathered from before attention's residual, special ones too", _gathered_before(whole=True)),
    ("kept patches gathered from before attention's residual, the fused one from behind", _gathered_before(fused=False)),
):
    variant(PIECE, f"reorganization: {_label}", ".reorganized")(_step)


@variant(PIECE, "reorganization missing: all tokens go on", ".reorganized")
def not_reorganized(net: Any, path: str, x: Uncertain, config: VitConfig, count: int) -> Any:
    """As a plain ViT."""
    _check_drops(x, config, count)
    attended, _ = vit.attend(net, path, x, config)
    return net.trace(path, vit.feed_forward(net, path, attended, config))


for _number, _what, _sum_at in ((1, "attention", ".attended"), (2, "MLP", "")):
    for _label, _join in (
        (f"residual missing: {_what} alone", _alone),
        (f"residual added twice at {_what}", _twice),
        (f"{_what} added twice", _update_twice),
        (f"{_what} not added", _nothing),
        (f"parallel branches: the second {_what} left out", _first_only),
        (f"parallel branches: the first {_what} left out", _second_only),
        (f"parallel branches: mean of the {_what}s instead of their sum", _mean),
    ):
        variant(PIECE, _label, _sum_at or None)(_halves(_number, half=_joined(_join)))
    for _label, _scale in (
        ("LayerScale missing", _unscaled),
        ("LayerScale swapped: the other residual branch's gain", _swapped),
        ("LayerScale as 1 + gain", _one_more),
        ("LayerScale applied twice", _squared),
        ("LayerScale inverted", _inverted),
        ("LayerScale of the other parallel branch", _other_branch),
    ):
        variant(PIECE, f"{_label} ({_what})", f".ls{_number}")(_scaled(_number, scale=_scale))
    variant(PIECE, f"residual from the normed tokens ({_what})", _sum_at or None)(_halves(_number, half=_from_normed))
    variant(PIECE, f"parallel branches: {_what}s one after the other", _sum_at or None)(_halves(_number, half=_in_turn))
variant(PIECE, "LayerScale swapped: gamma_1 and gamma_2", ".ls1")(_scaled(1, 2, scale=_swapped))
variant(PIECE, "LayerScale missing", ".ls1")(_scaled(1, 2, scale=_unscaled))
variant(PIECE, "parallel branches one after the other", ".attended")(_halves(1, 2, half=_in_turn))
variant(PIECE, "parallel branches: the second left out", ".attended")(_halves(1, 2, half=_joined(_first_only)))
variant(PIECE, "parallel branches: mean instead of sum", ".attended")(_halves(1, 2, half=_joined(_mean)))


@variant(PIECE, "reorganization after the MLP", ".reorganized")
def reorganized_late(net: Any, path: str, x: Uncertain, config: VitConfig, count: int) -> Any:
    """The tokens that go on are the block's output."""
    x, scores = vit.attend(net, path, x, config)
    chosen = average(net, f"{path}.cls_attention", scores)
    x = vit.feed_forward(net, path, x, config)
    if count < x.shape[1] - config.num_special:
        x = rearranged(net, path, Ranked(x, chosen, count, config), becomes=path)
    return net.trace(path, x)
