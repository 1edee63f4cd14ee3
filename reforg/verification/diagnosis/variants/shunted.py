"""Variants of the Shunted Transformer: its attention, its MLP, its blocks, its pooling."""

from collections.abc import Callable
from functools import partial
from typing import Any

import numpy as np

from reforg import shunted
from reforg.config import ShuntedConfig
from reforg.ops import mean, merge_heads, split_heads, to_maps, to_tokens, within
from reforg.shunted import STEM_EPS, Grid
from reforg.verification.diagnosis.variants.table import Inapplicable, variant
from reforg.verification.error_model.uncertain import Uncertain

ATTENTION, MLP, BLOCK = "shunted.shunted_attention", "shunted.detail_mlp", "shunted.block"
Order = Callable[[list[Any]], list[Any]]
Enhance = Callable[[Uncertain, Uncertain, Uncertain, bool], tuple[Uncertain, Uncertain, Uncertain | None]]


def _right(keys: Uncertain, values: Uncertain, local: Uncertain, whole: bool) -> tuple[Uncertain, Uncertain, Uncertain | None]:
    """Keys, values, and what is added to the context. whole: whether keys are not reduced."""
    return (keys, values, local) if whole else (keys, values + local, None)


def _to_values(keys: Uncertain, values: Uncertain, local: Uncertain, whole: bool) -> tuple[Uncertain, Uncertain, Uncertain | None]:
    return keys, values + local, None


def _nowhere(keys: Uncertain, values: Uncertain, local: Uncertain, whole: bool) -> tuple[Uncertain, Uncertain, Uncertain | None]:
    return keys, values, None


def _to_keys(keys: Uncertain, values: Uncertain, local: Uncertain, whole: bool) -> tuple[Uncertain, Uncertain, Uncertain | None]:
    return keys + local, values, None


def _instead(keys: Uncertain, values: Uncertain, local: Uncertain, whole: bool) -> tuple[Uncertain, Uncertain, Uncertain | None]:
    return keys, local, None


def _both(keys: Uncertain, values: Uncertain, local: Uncertain, whole: bool) -> tuple[Uncertain, Uncertain, Uncertain | None]:
    return keys, values + local, local


def _to_output(keys: Uncertain, values: Uncertain, local: Uncertain, whole: bool) -> tuple[Uncertain, Uncertain, Uncertain | None]:
    return keys, values, local


def _resized(local: Uncertain, reduced: Grid, grid: Grid) -> Uncertain:
    """A map over reduced tokens as one over all of them: each takes the value of what it was merged into."""
    (rows, columns), (height, width) = reduced, grid
    places = (np.arange(height) * rows // height)[:, None] * columns + np.arange(width) * columns // width
    return local.moved(lambda part: part[:, places.ravel()])


def _halves(kv: Uncertain, group: int) -> tuple[Uncertain, Uncertain]:
    half = kv.shape[2] // 2
    return kv[:, :, :half], kv[:, :, half:]


def _exchanged(kv: Uncertain, group: int) -> tuple[Uncertain, Uncertain]:
    keys, values = _halves(kv, group)
    return values, keys


def _by_heads(kv: Uncertain, group: int) -> tuple[Uncertain, Uncertain]:
    """[B, M, h 2 D]: each head's keys and values side by side."""
    batch, count, width = kv.shape
    parts = kv.moved(lambda part: part.reshape(batch, count, group, 2, -1).transpose(3, 0, 1, 2, 4))
    parts = kv.rounding.reshape(parts, (2, batch, count, width // 2))
    return parts[0], parts[1]


def _in_order(parts: list[Any]) -> list[Any]:
    return parts


def attention(
    net: Any, path: str, x: Uncertain, grid: Grid, num_heads: int, reductions: tuple[int, ...], enhance: Enhance = _right,
    only: int | None = None, halves: Any = _halves, order: Order = _in_order, crossed: bool = False,
    scale: Callable[[int, int], float] = lambda depth, width: depth**-0.5, merge: Any = merge_heads, reduce: Any = None,
    read: Order = _in_order, taken: Order = _in_order, seen: Order = _in_order, soft: Any = None, local_of: str = "values",
) -> Any:  # fmt: skip
    """The reference's attention with other enhancements (in all branches or in one), halves, scales, orders of heads, reductions.

    read, taken, seen: what the branches' kv layers read, what their local convolutions, what their queries.
    """
    whole, group = reductions == (1,), num_heads // len(reductions)
    names = [str(number) for number in range(1, len(reductions) + 1)] if len(reductions) > 1 else [""]
    if len(names) == 1 and (only is not None or {read, taken, seen} != {_in_order}):
        raise Inapplicable("all heads see the same keys")
    (queries,) = split_heads(net.linear(f"{path}.q", x), 1, num_heads)
    sources = read([(x, grid)] if whole else (reduce or shunted.reduce_all)(net, path, to_maps(x, grid), reductions))
    projected = taken([(net.linear(f"{path}.kv{name}", part), size) for name, (part, size) in zip(names, sources, strict=True)])
    groups, context = [], []
    for branch, (name, (kv, reduced)) in enumerate(zip(names, projected, strict=True)):
        keys, values = halves(kv, group)
        source = keys if local_of == "keys" else values
        local = to_tokens(net.depthwise_conv2d(f"{path}.local_conv{name}", to_maps(source, reduced)))
        changed = enhance if only in (None, branch) else _right
        groups.append((*changed(keys, values, local, whole), reduced))
    for branch, (keys, values, beside, reduced) in enumerate(seen(groups)):
        place = len(names) - 1 - branch if crossed else branch
        heads = queries[:, place * group : (place + 1) * group, :, :]
        mixed = merge(_attend(net, heads, keys, values, group, (path, branch), scale(heads.shape[-1], x.shape[2]), soft))
        context.append(mixed if beside is None else mixed + _resized(beside, reduced, grid))
    return net.trace(path, net.linear(f"{path}.proj", x.rounding.concat(order(context), axis=2)))


def _attend(
    net: Any, queries: Uncertain, keys: Uncertain, values: Uncertain, group: int, place: tuple[str, int], scale: float, soft: Any
) -> Uncertain:
    (keys,), (values,) = split_heads(keys, 1, group), split_heads(values, 1, group)
    note = within(net.trace, f"{place[0]}.branches.{place[1]}")
    more = () if soft is None else (soft,)
    context: Uncertain = net.ops.attention(queries, keys, values, scale, note, *more)[0]
    return context


def _merged_as_they_lie(x: Uncertain) -> Uncertain:
    batch, heads, count, depth = x.shape
    return x.rounding.reshape(x, (batch, count, heads * depth))


def _moved_on(x: Uncertain) -> Uncertain:
    merged: Uncertain = merge_heads(x.moved(lambda part: np.roll(part, 1, axis=1)))
    return merged


def _reduce(norm: bool = True, gelu: bool = True, only_at_one: bool = False, gelu_first: bool = False) -> Any:
    """Merged tokens without their norm or GELU, at every ratio or only at ratio 1, or with GELU before the norm."""

    def reduce_all(net: Any, path: str, maps: Uncertain, reductions: tuple[int, ...]) -> list[tuple[Uncertain, Grid]]:
        found = []
        for number, ratio in enumerate(reductions, 1):
            plain = only_at_one and ratio != 1
            merged = net.conv2d(f"{path}.sr{number}", maps, stride=ratio)
            x = to_tokens(merged)
            x = net.ops.gelu(x) if gelu_first else x
            x = net.layer_norm(f"{path}.norm{number}", x, STEM_EPS) if norm or plain else x
            x = net.gelu(f"{path}.act@{number - 1}", x) if (gelu or plain) and not gelu_first else x
            found.append((x, (merged.shape[2], merged.shape[3])))
        return found

    return reduce_all


def _without(ratio_one_only: bool) -> Any:
    """At ratio 1 the tokens themselves, without convolution, norm and GELU."""

    def reduce_all(net: Any, path: str, maps: Uncertain, reductions: tuple[int, ...]) -> list[tuple[Uncertain, Grid]]:
        grid = (maps.shape[2], maps.shape[3])
        return [
            (to_tokens(maps), grid) if ratio == 1 or not ratio_one_only else shunted.reduce_keys(net, path, maps, number, ratio)
            for number, ratio in enumerate(reductions, 1)
        ]

    return reduce_all


def _first(parts: list[Any]) -> list[Any]:
    return parts[:1] * len(parts)


def _last(parts: list[Any]) -> list[Any]:
    return parts[-1:] * len(parts)


def _reversed(parts: list[Any]) -> list[Any]:
    return parts[::-1]


for _label, _at, _enhance in (
    ("local convolution missing", "context", _nowhere),
    ("local convolution added to V where it belongs to the output", "context", _to_values),
    ("local convolution added to the output where it belongs to V", "context", _to_output),
    ("local convolution added to K", "scores", _to_keys),
    ("local convolution in V's place", "context", _instead),
    ("local convolution added to V and to the output", "context", _both),
):
    for _where, _only in (("", None), (", in the first half", 0), (", in the second half", 1)):
        _step = partial(attention, enhance=_enhance, only=_only)
        variant(ATTENTION, f"shunted attention: {_label}{_where}", f".branches.{_only or 0}.{_at}")(_step)

for _label, _at, _changes in (
    ("local convolution of K instead of V", ".local_conv1", {"local_of": "keys"}),
    ("local convolution of K instead of V, added to K", ".local_conv1", {"local_of": "keys", "enhance": _to_keys}),
    ("keys and values exchanged", ".branches.0.scores", {"halves": _exchanged}),
    ("keys and values interleaved by head (h, 2, D)", ".branches.0.scores", {"halves": _by_heads}),
    ("halves of the heads exchanged", ".branches.0.context", {"order": _reversed}),
    ("halves of the queries exchanged", ".branches.0.scores", {"crossed": True}),
    (
        "halves of the queries and of the heads exchanged",
        ".branches.0.scores",
        {"crossed": True, "order": _reversed},
    ),
    ("scale missing", ".branches.0.scores", {"scale": lambda depth, width: 1.0}),
    ("scale applied twice", ".branches.0.scores", {"scale": lambda depth, width: 1 / depth}),
    ("scale by the width, C^-0.5, instead of the head's", ".branches.0.scores", {"scale": lambda depth, width: width**-0.5}),
    ("scale by half of the width", ".branches.0.scores", {"scale": lambda depth, width: (width / 2) ** -0.5}),
    ("the head axis is not transposed back before proj", ".branches.0.context", {"merge": _merged_as_they_lie}),
    ("heads in reverse order", ".branches.0.context", {"merge": lambda x: merge_heads(x[:, ::-1])}),
    ("heads permuted: moved on by one", ".branches.0.context", {"merge": _moved_on}),
    ("both halves see the first reduction", ".branches.1.scores", {"seen": _first}),
    ("both halves see the second reduction", ".branches.0.scores", {"seen": _last}),
    ("reductions exchanged between the halves", ".branches.0.scores", {"seen": _reversed}),
    ("both halves see the first reduction, with local convolutions of their own", ".branches.1.scores", {"taken": _first}),
    ("both halves see the second reduction, with local convolutions of their own", ".branches.0.scores", {"taken": _last}),
    ("reductions exchanged before the local convolutions", ".branches.0.scores", {"taken": _reversed}),
    ("both halves' kv read the first reduction", ".kv2", {"read": _first}),
    ("both halves' kv read the second reduction", ".kv1", {"read": _last}),
    ("kv of each half reads the other's reduction", ".kv1", {"read": _reversed}),
    ("no GELU after the key reduction", ".act", {"reduce": _reduce(gelu=False)}),
    ("no norm in the key reduction", ".norm1", {"reduce": _reduce(norm=False)}),
    ("no norm and no GELU after the key reduction", ".act", {"reduce": _reduce(norm=False, gelu=False)}),
    ("GELU before the norm in the key reduction", ".act", {"reduce": _reduce(gelu_first=True)}),
    ("no GELU at ratio 1", ".act", {"reduce": _reduce(gelu=False, only_at_one=True)}),
    ("no norm and no GELU at ratio 1", ".act", {"reduce": _reduce(norm=False, gelu=False, only_at_one=True)}),
    ("no convolution, norm and GELU at ratio 1", ".act", {"reduce": _without(ratio_one_only=True)}),
):
    variant(ATTENTION, f"shunted attention: {_label}", _at)(partial(attention, **_changes))


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
    net: Any, path: str, x: Uncertain, grid: Grid, config: ShuntedConfig, stage: int, joins: Any = None,
    normed: tuple[bool, bool] = (False, False),
) -> Any:  # fmt: skip
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


def _stem(eps: float = STEM_EPS, relu: bool = True, norm: bool = True) -> Any:
    """The stem without its ReLUs or its batch norms."""

    def step(net: Any, images: Uncertain, config: ShuntedConfig) -> Any:
        path, x, position = "patch_embed1", images, 0
        for stride, padding in ((2, 3), *((1, 1),) * config.num_conv):
            x = net.conv2d(f"{path}.conv.{position}", x, stride, padding)
            x = net.batch_norm(f"{path}.conv.{position + 1}", x) if norm else x
            x = net.relu(f"{path}.conv.{position + 2}", x) if relu else x
            position += 3
        x = net.trace(f"{path}.conv", net.conv2d(f"{path}.conv.{position}", x, 2))
        tokens = net.layer_norm(f"{path}.norm", to_tokens(x), eps)
        return net.trace(path, tokens), (x.shape[2], x.shape[3])

    return step


variant("shunted.stem", "stem: ReLU missing", "patch_embed1.conv.2")(_stem(relu=False))
variant("shunted.stem", "stem: batch norm missing", "patch_embed1.conv.1")(_stem(norm=False))
