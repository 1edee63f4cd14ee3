"""Variants of whole blocks, of what they add, and of the classifier: ViT, DeiT, DeiT III, EViT."""

from collections.abc import Callable
from functools import partial
from typing import Any

import numpy as np

from reforg import vit
from reforg.config import VitConfig
from reforg.evit import average, reorganize
from reforg.ops import mean, mean_of
from reforg.verification.diagnosis.variants.table import Inapplicable, variant
from reforg.verification.error_model.uncertain import Uncertain
from reforg.verification.replay.selection import reorganize as reorganized

Scale = Callable[[Any, str, int, str, Uncertain, VitConfig], Uncertain]
Join = Callable[[Uncertain, list[Uncertain]], Uncertain]
PIECE = "vit.block"


def _sum(x: Uncertain, updates: list[Uncertain]) -> Uncertain:
    return sum(updates, x)


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


def block(
    net: Any, path: str, x: Uncertain, config: VitConfig, count: int, joins: tuple[Join, Join] = (_sum, _sum),
    scales: tuple[Scale, Scale] = (vit.layer_scale, vit.layer_scale), late: bool = False,
    normed: tuple[bool, bool] = (False, False), in_turn: tuple[bool, bool] = (False, False),
) -> Any:  # fmt: skip
    """The reference's block with other sums, other LayerScales, reorganization after the MLP (late), residuals that start from the
    normed tokens (normed), parallel branches one after the other (in_turn).
    """
    x, scores = _half(net, path, x, config, 1, joins[0], scales[0], normed[0], in_turn[0])
    x = net.trace(f"{path}.attended", x)
    chosen = average(net, f"{path}.cls_attention", scores)
    drops = count < x.shape[1] - config.num_special
    if drops and not late:
        x = reorganize(net, path, x, chosen, count, config)
    x, _ = _half(net, path, x, config, 2, joins[1], scales[1], normed[1], in_turn[1])
    if drops and late:
        x = reorganized(net, path, x, chosen, count, config, becomes=path)
    return net.trace(path, x)


def _half(
    net: Any, path: str, x: Uncertain, config: VitConfig, number: int, join: Join, scale: Scale, normed: bool, in_turn: bool
) -> tuple[Uncertain, list[Uncertain]]:
    """X + attention(norm(x)) for number 1, x + MLP(norm(x)) for 2, and the class attention of each branch."""
    updates, scores, start = [], [], x
    for branch in config.branches:
        source = net.layer_norm(f"{path}.norm{number}{branch}", x, config.norm_eps)
        start = source if normed and not branch else start
        if number == 1:
            update, seen = vit.self_attention(net, f"{path}.attn{branch}", source, config.num_heads, config.num_special)
            scores.append(seen)
        else:
            update = vit.mlp(net, f"{path}.mlp{branch}", source)
        updates.append(scale(net, path, number, branch, update, config))
        x = x + updates[-1] if in_turn else x
    return join(start, updates), scores


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


def _pair(number: int, changed: Any, usual: Any) -> tuple[Any, Any]:
    return (changed, usual) if number == 1 else (usual, changed)


def _check_drops(x: Uncertain, config: VitConfig, count: int) -> None:
    if count >= x.shape[1] - config.num_special:
        raise Inapplicable


def gathered_before(
    net: Any, path: str, x: Uncertain, config: VitConfig, count: int, whole: bool = False, fused: bool = True
) -> Any:  # fmt: skip
    """The kept patches are those that came into the block; special tokens too (whole), and what is fused (fused)."""
    _check_drops(x, config, count)
    attended, scores = vit.attend(net, path, x, config)
    special = config.num_special
    mixed = x if whole else x.rounding.concat([attended[:, :special, :], x[:, special:, :]], axis=1)
    chosen = average(net, f"{path}.cls_attention", scores)
    step = reorganize if fused else partial(reorganized, source=attended)
    mixed = step(net, path, mixed, chosen, count, config)
    return net.trace(path, vit.feed_forward(net, path, mixed, config))


variant(PIECE, "reorganization: patches gathered from before attention's residual", ".reorganized")(gathered_before)
variant(PIECE, "reorganization: tokens gathered from before attention's residual, special ones too", ".reorganized")(
    partial(gathered_before, whole=True)
)


variant(PIECE, "reorganization: kept patches gathered from before attention's residual, the fused one from behind", ".reorganized")(
    partial(gathered_before, fused=False)
)


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
        variant(PIECE, _label, _sum_at or None)(partial(block, joins=_pair(_number, _join, _sum)))
    for _label, _scale in (
        ("LayerScale missing", _unscaled),
        ("LayerScale swapped: the other residual branch's gain", _swapped),
        ("LayerScale as 1 + gain", _one_more),
        ("LayerScale applied twice", _squared),
        ("LayerScale inverted", _inverted),
        ("LayerScale of the other parallel branch", _other_branch),
    ):
        _scales = _pair(_number, _scale, vit.layer_scale)
        variant(PIECE, f"{_label} ({_what})", f".ls{_number}")(partial(block, scales=_scales))
    variant(PIECE, f"residual from the normed tokens ({_what})", _sum_at or None)(
        partial(block, normed=_pair(_number, True, False))
    )
    variant(PIECE, f"parallel branches: {_what}s one after the other", _sum_at or None)(
        partial(block, in_turn=_pair(_number, True, False))
    )
variant(PIECE, "LayerScale swapped: gamma_1 and gamma_2", ".ls1")(partial(block, scales=(_swapped, _swapped)))
variant(PIECE, "LayerScale missing", ".ls1")(partial(block, scales=(_unscaled, _unscaled)))
variant(PIECE, "parallel branches one after the other", ".attended")(partial(block, in_turn=(True, True)))
variant(PIECE, "parallel branches: the second left out", ".attended")(partial(block, joins=(_first_only, _first_only)))
variant(PIECE, "parallel branches: mean instead of sum", ".attended")(partial(block, joins=(_mean, _mean)))
variant(PIECE, "reorganization after the MLP", ".reorganized")(partial(block, late=True))


def _states(pick: Callable[[Any, Uncertain, VitConfig], list[Uncertain]]) -> Any:
    """A classifier that reads other states."""

    def classify(net: Any, x: Uncertain, config: VitConfig) -> Any:
        states = pick(net, x, config)
        if config.heads:
            states = [net.linear(head, state) for head, state in zip(config.heads, states, strict=True)]
        return net.trace("logits", mean_of(states))

    return classify


def _repeated(state: Uncertain, config: VitConfig) -> list[Uncertain]:
    return [state] * config.num_special


def _unnormed(net: Any, x: Uncertain, config: VitConfig) -> Uncertain:
    """What came into the last norm."""
    before: Uncertain = net.session.inputs["norm"][1]
    return x if config.global_pool == "avg" else before


def _last_norm(net: Any, x: Uncertain, config: VitConfig) -> Uncertain:
    normed: Uncertain = net.ops.layer_norm(x, *net.parameters("norm"), config.norm_eps)
    return normed


for _label, _pick in (
    ("pooled: mean of all tokens for the class token", lambda net, x, config: _repeated(mean(x, axis=1), config)),
    ("pooled: mean of the patches for the class token",
     lambda net, x, config: _repeated(mean(x[:, config.num_special :, :], axis=1), config)),
    ("pooled: last token for the class token", lambda net, x, config: _repeated(x[:, -1, :], config)),
    ("pooled: second token for the class token", lambda net, x, config: _repeated(x[:, 1, :], config)),
    ("pooled: class token for the mean of the patches", lambda net, x, config: _repeated(x[:, 0, :], config)),
    ("last norm missing", lambda net, x, config: [_unnormed(net, x, config)[:, token, :] for token in range(config.num_special)]),
    ("last norm applied twice", lambda net, x, config: vit.pool(net, _last_norm(net, x, config), config)),
    ("norm after pooling: mean of all tokens",
     lambda net, x, config: _repeated(_last_norm(net, mean(_unnormed(net, x, config), axis=1), config), config)),
    ("norm after pooling: mean of the patches",
     lambda net, x, config: _repeated(
         _last_norm(net, mean(_unnormed(net, x, config)[:, config.num_special :, :], axis=1), config), config)),
    ("pooled before the last norm, which is missing: mean of all tokens",
     lambda net, x, config: _repeated(mean(_unnormed(net, x, config), axis=1), config)),
    ("pooled: the maximum of the patches",
     lambda net, x, config: _repeated(x.rounding.exact(x.value[:, config.num_special :].max(axis=1)), config)),
):  # fmt: skip
    variant("vit.classify", _label, "head")(_states(_pick))


@variant("vit.classify", "pooled: special tokens counted in the mean, then fc_norm", "fc_norm")
def pooled_with_special(net: Any, x: Uncertain, config: VitConfig) -> Any:
    """global_pool "avg" over all tokens."""
    state = net.layer_norm("fc_norm", mean(x, axis=1), config.norm_eps)
    return net.trace("logits", net.linear("head", state) if config.heads else state)


def _combined(combine: Callable[[list[Uncertain]], Uncertain]) -> Any:
    def classify(net: Any, x: Uncertain, config: VitConfig) -> Any:
        states = vit.pool(net, x, config)
        answers = [net.linear(head, state) for head, state in zip(config.heads, states, strict=True)]
        return net.trace("logits", combine(answers or states))

    return classify


def _softmaxed(answers: list[Uncertain]) -> Uncertain:
    from reforg.verification.error_model.rules import softmax

    mixed: Uncertain = mean_of([softmax(answer) for answer in answers])
    return mixed


for _label, _combine in (
    ("distilled: only the class token's head", lambda answers: answers[0]),
    ("distilled: only the distillation token's head", lambda answers: answers[-1]),
    ("distilled: sum of the heads instead of their mean", lambda answers: sum(answers[1:], answers[0])),
    ("distilled: mean of the softmaxed outputs (the paper's)", _softmaxed),
    ("softmax of the logits", lambda answers: _softmaxed([mean_of(answers)])),
):
    variant("vit.classify", _label, "logits")(_combined(_combine))


@variant("vit.classify", "distilled: the heads exchanged", "head")
def heads_exchanged(net: Any, x: Uncertain, config: VitConfig) -> Any:
    """The class token read by the distillation head."""
    states = vit.pool(net, x, config)
    answers = [net.linear(head, state) for head, state in zip(config.heads, reversed(states), strict=True)]
    return net.trace("logits", mean_of(answers))
