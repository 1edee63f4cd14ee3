"""Variants of shunted self-attention: each replaces one of the pieces that it is made of."""

from collections.abc import Callable
from typing import Any

import numpy as np

from reforg import shunted
from reforg.config import SHUNTED_STEM_EPS
from reforg.ops import bodies, merge_heads, split_heads, to_maps, to_tokens, within
from reforg.shunted import Enhanced, Grid
from reforg.verification.diagnosis.variants.attention import merged_as_they_lie
from reforg.verification.diagnosis.variants.table import Inapplicable, Step, changed, variant
from reforg.verification.error_model.uncertain import Uncertain

ATTENTION = "shunted.shunted_attention"
AGGREGATE, KEYS_AND_VALUES = "shunted.aggregate_tokens", "shunted.keys_and_values"
ATTEND, MERGE = "shunted.attend", "shunted.merge_groups"
REFERENCE = bodies()
Projected = list[tuple[Uncertain, Grid]]
Order = Callable[[list[Any]], list[Any]]
Enhance = Callable[[Uncertain, Uncertain, Uncertain], Enhanced]


def _of_groups(step: Step) -> Step:
    """The step where groups of heads see different keys."""

    def of_groups(net: Any, path: str, x: Uncertain, grid: Grid, num_heads: int, reductions: tuple[int, ...]) -> Any:
        if len(reductions) == 1:
            raise Inapplicable("all heads see the same keys")
        return step(net, path, x, grid, num_heads, reductions)

    return of_groups


# Where the local convolution goes: each takes keys, values and that, and returns keys, values, and what is added to the context.


def _to_values(keys: Uncertain, values: Uncertain, local: Uncertain) -> Enhanced:
    return keys, values + local, None


def _nowhere(keys: Uncertain, values: Uncertain, local: Uncertain) -> Enhanced:
    return keys, values, None


def _to_keys(keys: Uncertain, values: Uncertain, local: Uncertain) -> Enhanced:
    return keys + local, values, None


def _instead(keys: Uncertain, values: Uncertain, local: Uncertain) -> Enhanced:
    return keys, local, None


def _both(keys: Uncertain, values: Uncertain, local: Uncertain) -> Enhanced:
    return keys, values + local, local


def _to_output(keys: Uncertain, values: Uncertain, local: Uncertain) -> Enhanced:
    return keys, values, local


def _enhanced(enhance: Enhance | None = None, only: int | None = None, of_keys: bool = False) -> Step:
    """Another enhancement, in all groups or in one (only); a convolution of the keys (of_keys)."""

    def step(net: Any, path: str, x: Uncertain, grid: Grid, *arguments: Any) -> Any:
        def keys_and_values(net: Any, path: str, projected: Projected, branch: int, whole: bool) -> Enhanced:
            (kv, reduced), name = projected[branch], branch + 1 if len(projected) > 1 else ""
            keys, values = _halves(kv)
            local = to_tokens(net.depthwise_conv2d(f"{path}.local_conv{name}", to_maps(keys if of_keys else values, reduced)))
            if enhance is None or only not in (None, branch):
                return (_to_output if whole else _to_values)(keys, values, local)
            keys, values, beside = enhance(keys, values, local)
            return keys, values, None if beside is None else _resized(beside, reduced, grid)

        return changed(ATTENTION, {KEYS_AND_VALUES: keys_and_values})(net, path, x, grid, *arguments)

    return step if only is None else _of_groups(step)


def _resized(local: Uncertain, reduced: Grid, grid: Grid) -> Uncertain:
    """A map over reduced tokens as one over all of them: each takes the value of what it was merged into."""
    (rows, columns), (height, width) = reduced, grid
    places = (np.arange(height) * rows // height)[:, None] * columns + np.arange(width) * columns // width
    return local.moved(lambda part: part[:, places.ravel()])


# What keys and values are made of: the projected tokens of every group, in another order or read otherwise.


def _halves(kv: Uncertain) -> tuple[Uncertain, Uncertain]:
    half = kv.shape[2] // 2
    return kv[:, :, :half], kv[:, :, half:]


def _exchanged(kv: Uncertain, group: int) -> Uncertain:
    keys, values = _halves(kv)
    swapped: Uncertain = kv.rounding.concat([values, keys], axis=2)
    return swapped


def _by_heads(kv: Uncertain, group: int) -> Uncertain:
    """[B, M, h 2 D]: each head's keys and values side by side."""
    batch, count, width = kv.shape
    parts = kv.moved(lambda part: part.reshape(batch, count, group, 2, -1).transpose(0, 1, 3, 2, 4))
    return kv.rounding.reshape(parts, (batch, count, width))


def _read_as(read: Callable[[Uncertain, int], Uncertain]) -> Step:
    """The projected tokens of each group of heads as another layout has them."""

    def step(net: Any, path: str, x: Uncertain, grid: Grid, num_heads: int, reductions: tuple[int, ...]) -> Any:
        group = num_heads // len(reductions)

        def keys_and_values(net: Any, path: str, projected: Projected, branch: int, whole: bool) -> Enhanced:
            found: Enhanced = REFERENCE[KEYS_AND_VALUES](
                net, path, [(read(kv, group), size) for kv, size in projected], branch, whole
            )
            return found

        return changed(ATTENTION, {KEYS_AND_VALUES: keys_and_values})(net, path, x, grid, num_heads, reductions)

    return step


def _taken(order: Order) -> Step:
    """Local convolutions that read the projected tokens of other groups."""

    def keys_and_values(net: Any, path: str, projected: Projected, branch: int, whole: bool) -> Enhanced:
        found: Enhanced = REFERENCE[KEYS_AND_VALUES](net, path, order(projected), branch, whole)
        return found

    return _of_groups(changed(ATTENTION, {KEYS_AND_VALUES: keys_and_values}))


def _seen(order: Order) -> Step:
    """Queries that see the keys and values of other groups."""

    def step(net: Any, *arguments: Any) -> Any:
        groups: list[Enhanced] = []

        def keys_and_values(net: Any, path: str, projected: Projected, branch: int, whole: bool) -> Enhanced:
            # The first group may want the keys of the last. So all are made at once, each by layers of its own as in the reference.
            if not groups:
                made = [REFERENCE[KEYS_AND_VALUES](net, path, projected, number, whole) for number in range(len(projected))]
                groups.extend(order(made))
            return groups[branch]

        return changed(ATTENTION, {KEYS_AND_VALUES: keys_and_values})(net, *arguments)

    return _of_groups(step)


def _first(parts: list[Any]) -> list[Any]:
    return parts[:1] * len(parts)


def _last(parts: list[Any]) -> list[Any]:
    return parts[-1:] * len(parts)


def _reversed(parts: list[Any]) -> list[Any]:
    return parts[::-1]


# How keys are reduced: maps and ratios to the tokens and the grid that each group of heads reads.


def _aggregated(make: Callable[..., Projected]) -> Step:
    return changed(ATTENTION, {AGGREGATE: make})


def _read(order: Order) -> Step:
    """Groups of heads that read each other's reduction."""
    return _of_groups(_aggregated(lambda *arguments: order(REFERENCE[AGGREGATE](*arguments))))


def _reduced(norm: bool = True, gelu: bool = True, only_at_one: bool = False) -> Step:
    """Merged tokens without their norm or GELU, at every ratio or only at ratio 1."""

    def reduced(net: Any, path: str, maps: Uncertain, number: int, ratio: int) -> tuple[Uncertain, Grid]:
        merged, usual = net.conv2d(f"{path}.sr{number}", maps, stride=ratio), only_at_one and ratio != 1
        x = to_tokens(merged)
        x = net.layer_norm(f"{path}.norm{number}", x, SHUNTED_STEM_EPS) if norm or usual else x
        x = net.gelu(f"{path}.act@{number - 1}", x) if gelu or usual else x
        return x, (merged.shape[2], merged.shape[3])

    return _aggregated(_each(reduced))


def _gelu_first(net: Any, path: str, maps: Uncertain, number: int, ratio: int) -> tuple[Uncertain, Grid]:
    """GELU, then the norm."""
    merged = net.conv2d(f"{path}.sr{number}", maps, stride=ratio)
    x = net.layer_norm(f"{path}.norm{number}", net.ops.gelu(to_tokens(merged)), SHUNTED_STEM_EPS)
    return x, (merged.shape[2], merged.shape[3])


def _as_they_are(net: Any, path: str, maps: Uncertain, number: int, ratio: int) -> tuple[Uncertain, Grid]:
    """At ratio 1 the tokens themselves, without convolution, norm and GELU."""
    if ratio == 1:
        return to_tokens(maps), (maps.shape[2], maps.shape[3])
    return shunted.reduce_keys(net, path, maps, number, ratio)


def _each(reduce: Callable[..., tuple[Uncertain, Grid]]) -> Callable[..., Projected]:
    def aggregate_tokens(net: Any, path: str, maps: Uncertain, reductions: tuple[int, ...]) -> Projected:
        return [reduce(net, path, maps, number, ratio) for number, ratio in enumerate(reductions, 1)]

    return aggregate_tokens


# How a group of heads attends, and in what order the groups stand.


def _attending(scale: Callable[[int, int], float] = lambda depth, width: depth**-0.5, merge: Any = merge_heads) -> Step:
    """Another scale, as a function of D and C; heads merged otherwise."""

    def attend(net: Any, path: str, queries: Uncertain, keys: Uncertain, values: Uncertain, branch: int) -> Any:
        depth, width = queries.shape[3], queries.shape[1] * queries.shape[3]
        group = keys.shape[2] // depth
        heads = queries[:, branch * group : (branch + 1) * group, :, :]
        (keys,), (values,) = split_heads(keys, 1, group), split_heads(values, 1, group)
        note = within(net.trace, f"{path}.branches.{branch}")
        return merge(net.ops.attention(heads, keys, values, scale(depth, width), note)[0])

    return changed(ATTENTION, {ATTEND: attend})


def _crossed(net: Any, path: str, queries: Uncertain, keys: Uncertain, values: Uncertain, branch: int) -> Any:
    """The groups of the queries in reverse order."""
    heads, group = list(range(queries.shape[1])), keys.shape[2] // queries.shape[3]
    order = [head for start in range(0, len(heads), group)[::-1] for head in heads[start : start + group]]
    return REFERENCE[ATTEND](net, path, queries[:, order], keys, values, branch)


def _merged_reversed(net: Any, context: list[Uncertain]) -> Any:
    return REFERENCE[MERGE](net, context[::-1])


def _moved_on(x: Uncertain) -> Uncertain:
    merged: Uncertain = merge_heads(x.moved(lambda part: np.roll(part, 1, axis=1)))
    return merged


for _label, _at, _enhance in (
    ("local convolution missing", "context", _nowhere),
    ("local convolution added to V where it belongs to the output", "context", _to_values),
    ("local convolution added to the output where it belongs to V", "context", _to_output),
    ("local convolution added to K", "scores", _to_keys),
    ("local convolution in V's place", "context", _instead),
    ("local convolution added to V and to the output", "context", _both),
):
    for _where, _only in (("", None), (", in the first half", 0), (", in the second half", 1)):
        variant(ATTENTION, f"shunted attention: {_label}{_where}", f".branches.{_only or 0}.{_at}")(_enhanced(_enhance, _only))

for _label, _at, _step in (
    ("local convolution of K instead of V", ".local_conv1", _enhanced(of_keys=True)),
    ("local convolution of K instead of V, added to K", ".local_conv1", _enhanced(_to_keys, of_keys=True)),
    ("keys and values exchanged", ".branches.0.scores", _read_as(_exchanged)),
    ("keys and values interleaved by head (h, 2, D)", ".branches.0.scores", _read_as(_by_heads)),
    ("halves of the heads exchanged", ".branches.0.context", changed(ATTENTION, {MERGE: _merged_reversed})),
    ("halves of the queries exchanged", ".branches.0.scores", changed(ATTENTION, {ATTEND: _crossed})),
    (
        "halves of the queries and of the heads exchanged",
        ".branches.0.scores",
        changed(ATTENTION, {ATTEND: _crossed, MERGE: _merged_reversed}),
    ),
    ("scale missing", ".branches.0.scores", _attending(lambda depth, width: 1.0)),
    ("scale applied twice", ".branches.0.scores", _attending(lambda depth, width: 1 / depth)),
    ("scale by the width, C^-0.5, instead of the head's", ".branches.0.scores", _attending(lambda depth, width: width**-0.5)),
    ("scale by half of the width", ".branches.0.scores", _attending(lambda depth, width: (width / 2) ** -0.5)),
    ("the head axis is not transposed back before proj", ".branches.0.context", _attending(merge=merged_as_they_lie)),
    ("heads in reverse order", ".branches.0.context", _attending(merge=lambda x: merge_heads(x[:, ::-1]))),
    ("heads permuted: moved on by one", ".branches.0.context", _attending(merge=_moved_on)),
    ("both halves see the first reduction", ".branches.1.scores", _seen(_first)),
    ("both halves see the second reduction", ".branches.0.scores", _seen(_last)),
    ("reductions exchanged between the halves", ".branches.0.scores", _seen(_reversed)),
    ("both halves see the first reduction, with local convolutions of their own", ".branches.1.scores", _taken(_first)),
    ("both halves see the second reduction, with local convolutions of their own", ".branches.0.scores", _taken(_last)),
    ("reductions exchanged before the local convolutions", ".branches.0.scores", _taken(_reversed)),
    ("both halves' kv read the first reduction", ".kv2", _read(_first)),
    ("both halves' kv read the second reduction", ".kv1", _read(_last)),
    ("kv of each half reads the other's reduction", ".kv1", _read(_reversed)),
    ("no GELU after the key reduction", ".act", _reduced(gelu=False)),
    ("no norm in the key reduction", ".norm1", _reduced(norm=False)),
    ("no norm and no GELU after the key reduction", ".act", _reduced(norm=False, gelu=False)),
    ("GELU before the norm in the key reduction", ".act", _aggregated(_each(_gelu_first))),
    ("no GELU at ratio 1", ".act", _reduced(gelu=False, only_at_one=True)),
    ("no norm and no GELU at ratio 1", ".act", _reduced(norm=False, gelu=False, only_at_one=True)),
    ("no convolution, norm and GELU at ratio 1", ".act", _aggregated(_each(_as_they_are))),
):
    variant(ATTENTION, f"shunted attention: {_label}", _at)(_step)
