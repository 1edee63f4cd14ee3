"""Variants of pooling and of the classifier: ViT, DeiT, DeiT III, EViT."""

from collections.abc import Callable
from typing import Any

from reforg import vit
from reforg.config import VitConfig
from reforg.ops import mean, mean_of
from reforg.verification.diagnosis.variants.table import variant
from reforg.verification.error_model.rules import softmax
from reforg.verification.error_model.uncertain import Uncertain


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
    # The norm is taken before the classifier begins; the session remembers what each layer was given.
    before: Uncertain = net.session.inputs["norm"][1]
    return x if config.global_pool == "avg" else before


def _last_norm(net: Any, x: Uncertain, config: VitConfig) -> Uncertain:
    normed: Uncertain = net.ops.layer_norm(x, *net.parameters("norm"), config.norm_eps)
    return normed


for _label, _pick in (
    ("pooled: mean of all tokens for the class token", lambda net, x, config: _repeated(mean(x, axis=1), config)),
    (
        "pooled: mean of the patches for the class token",
        lambda net, x, config: _repeated(mean(x[:, config.num_special :, :], axis=1), config),
    ),
    ("pooled: last token for the class token", lambda net, x, config: _repeated(x[:, -1, :], config)),
    ("pooled: second token for the class token", lambda net, x, config: _repeated(x[:, 1, :], config)),
    ("pooled: class token for the mean of the patches", lambda net, x, config: _repeated(x[:, 0, :], config)),
    ("last norm missing", lambda net, x, config: [_unnormed(net, x, config)[:, token, :] for token in range(config.num_special)]),
    ("last norm applied twice", lambda net, x, config: vit.pool(net, _last_norm(net, x, config), config)),
    (
        "norm after pooling: mean of all tokens",
        lambda net, x, config: _repeated(_last_norm(net, mean(_unnormed(net, x, config), axis=1), config), config),
    ),
    (
        "norm after pooling: mean of the patches",
        lambda net, x, config: _repeated(
            _last_norm(net, mean(_unnormed(net, x, config)[:, config.num_special :, :], axis=1), config), config
        ),
    ),
    (
        "pooled before the last norm, which is missing: mean of all tokens",
        lambda net, x, config: _repeated(mean(_unnormed(net, x, config), axis=1), config),
    ),
    (
        "pooled: the maximum of the patches",
        lambda net, x, config: _repeated(x.rounding.exact(x.value[:, config.num_special :].max(axis=1)), config),
    ),
):
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
