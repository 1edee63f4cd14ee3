"""Variants of the Shunted Transformer's stem, MLP, blocks and pooling; those of its attention are in `shunted_attention`."""

from collections.abc import Callable
from functools import partial
from typing import Any

from reforg import shunted
from reforg.config import BATCH_NORM_EPS, SHUNTED_STEM_EPS, ShuntedConfig
from reforg.ops import mean, to_maps, to_tokens
from reforg.shunted import Grid
from reforg.verification.diagnosis.variants.table import variant
from reforg.verification.error_model.uncertain import Uncertain

MLP, BLOCK = "shunted.detail_mlp", "shunted.block"


def _hidden(make: Callable[[Any, Uncertain, Uncertain], Uncertain], after: bool = False) -> Any:
    """The MLP with another hidden layer made of y and its detail."""

    def step(net: Any, path: str, x: Uncertain, grid: Grid) -> Any:
        y = net.linear(f"{path}.fc1", x)
        source = net.ops.gelu(y) if after else y
        detail = net.trace(f"{path}.dwconv", to_tokens(net.depthwise_conv2d(f"{path}.dwconv.dwconv", to_maps(source, grid))))
        return net.trace(path, net.linear(f"{path}.fc2", make(lambda part: net.gelu(f"{path}.act", part), y, detail)))

    return step


for _label, _make, _after in (
    ("the depthwise convolution alone: gelu(dwconv(y))", lambda gelu, y, detail: gelu(detail), False),
    ("the depthwise convolution missing: gelu(y)", lambda gelu, y, detail: gelu(y), False),
    ("y + gelu(dwconv(y))", lambda gelu, y, detail: y + gelu(detail), False),
    ("gelu(y) + dwconv(y)", lambda gelu, y, detail: gelu(y) + detail, False),
    ("no GELU: y + dwconv(y)", lambda gelu, y, detail: y + detail, False),
    ("GELU before the depthwise convolution: gelu(y + dwconv(gelu(y)))", lambda gelu, y, detail: gelu(y + detail), True),
    ("GELU before the depthwise convolution: dwconv(gelu(y))", lambda gelu, y, detail: detail, True),
    ("y added twice", lambda gelu, y, detail: gelu(y + y + detail), False),
):
    variant(MLP, f"MLP: {_label}", ".act")(_hidden(_make, _after))


def block(
    net: Any,
    path: str,
    x: Uncertain,
    grid: Grid,
    config: ShuntedConfig,
    stage: int,
    joins: Any = None,
    normed: tuple[bool, bool] = (False, False),
) -> Any:
    """The reference's block with other sums, or residuals that start from the normed tokens."""
    first, second = joins or (_plus, _plus)
    source = net.layer_norm(f"{path}.norm1", x, config.norm_eps)
    update = shunted.shunted_attention(net, f"{path}.attn", source, grid, config.num_heads[stage], config.reductions(stage))
    x = net.trace(f"{path}.attended", first(source if normed[0] else x, update))
    source = net.layer_norm(f"{path}.norm2", x, config.norm_eps)
    return net.trace(path, second(source if normed[1] else x, shunted.detail_mlp(net, f"{path}.mlp", source, grid)))


def _plus(x: Uncertain, update: Uncertain) -> Uncertain:
    return x + update


for _number, _what, _at in ((0, "attention", ".attended"), (1, "MLP", "")):
    for _label, _join in (
        (f"residual missing: {_what} alone", lambda x, update: update),
        (f"residual added twice at {_what}", lambda x, update: x + x + update),
        (f"{_what} added twice", lambda x, update: x + update + update),
        (f"{_what} not added", lambda x, update: x),
    ):
        _joins = (_join, _plus) if _number == 0 else (_plus, _join)
        variant(BLOCK, _label, _at or None)(partial(block, joins=_joins))
    variant(BLOCK, f"residual from the normed tokens ({_what})", _at or None)(partial(block, normed=(_number == 0, _number == 1)))


def _pooled(pool: Callable[[Any, Uncertain, ShuntedConfig], Uncertain]) -> Any:
    def classify(net: Any, x: Uncertain, config: ShuntedConfig) -> Any:
        state = pool(net, x, config)
        return net.trace("logits", net.linear("head", state) if config.num_classes else state)

    return classify


def _unnormed(net: Any) -> Uncertain:
    """What came into the last norm."""
    found: Uncertain = net.session.inputs["norm4"][1]
    return found


for _label, _pool in (
    ("first token for the mean", lambda net, x, config: x[:, 0, :]),
    ("last token for the mean", lambda net, x, config: x[:, -1, :]),
    ("maximum for the mean", lambda net, x, config: x.rounding.exact(x.value.max(axis=1))),
    ("sum for the mean", lambda net, x, config: x.rounding.sum(x, axis=1)),
    ("last norm missing", lambda net, x, config: mean(_unnormed(net), axis=1)),
    (
        "norm after pooling",
        lambda net, x, config: net.ops.layer_norm(mean(_unnormed(net), axis=1), *net.parameters("norm4"), config.norm_eps),
    ),
):
    variant("shunted.classify", f"pooled: {_label}", "head")(_pooled(_pool))


def _stem(eps: float = SHUNTED_STEM_EPS, relu: bool = True, norm: bool = True) -> Any:
    """The stem without its ReLUs or its batch norms."""

    def step(net: Any, images: Uncertain, config: ShuntedConfig) -> Any:
        path, x, position = "patch_embed1", images, 0
        for stride, padding in ((2, 3), *((1, 1),) * config.num_conv):
            x = net.conv2d(f"{path}.conv.{position}", x, stride, padding)
            x = net.batch_norm(f"{path}.conv.{position + 1}", x, BATCH_NORM_EPS) if norm else x
            x = net.relu(f"{path}.conv.{position + 2}", x) if relu else x
            position += 3
        x = net.trace(f"{path}.conv", net.conv2d(f"{path}.conv.{position}", x, 2))
        tokens = net.layer_norm(f"{path}.norm", to_tokens(x), eps)
        return net.trace(path, tokens), (x.shape[2], x.shape[3])

    return step


variant("shunted.stem", "stem: ReLU missing", "patch_embed1.conv.2")(_stem(relu=False))
variant("shunted.stem", "stem: batch norm missing", "patch_embed1.conv.1")(_stem(norm=False))
