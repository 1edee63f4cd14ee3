"""Variants of self-attention in ViT, DeiT and EViT."""

from collections.abc import Callable
from functools import partial
from typing import Any

import numpy as np

from reforg.evit import class_attention
from reforg.ops import merge_heads, split_heads, within
from reforg.verification.diagnosis.variants.table import variant
from reforg.verification.error_model.rules import softmax
from reforg.verification.error_model.uncertain import Uncertain

Heads = tuple[Uncertain, Uncertain, Uncertain]
PIECE = "vit.self_attention"


def _by_parts(x: Uncertain, heads: int) -> Heads:
    """The official layout: queries, keys, values side by side, heads inside each."""
    q, k, v = split_heads(x, 3, heads)
    return q, k, v


def _by_heads(x: Uncertain, heads: int) -> Heads:
    """[B, N, H 3 D]: each head's queries, keys and values side by side."""
    batch, count, width = x.shape
    parts = x.moved(lambda part: part.reshape(batch, count, heads, 3, width // (3 * heads)).transpose(3, 0, 2, 1, 4))
    return parts[0], parts[1], parts[2]


def _by_channels(x: Uncertain, heads: int) -> Heads:
    """[B, N, H D 3]: a channel's query, key and value side by side."""
    batch, count, width = x.shape
    parts = x.moved(lambda part: part.reshape(batch, count, heads, width // (3 * heads), 3).transpose(4, 0, 2, 1, 3))
    return parts[0], parts[1], parts[2]


def _inside_out(x: Uncertain, heads: int) -> Heads:
    """[B, N, 3 D H]: the heads of a channel side by side."""
    batch, count, width = x.shape
    parts = x.moved(lambda part: part.reshape(batch, count, 3, width // (3 * heads), heads).transpose(2, 0, 4, 1, 3))
    return parts[0], parts[1], parts[2]


def merged_as_they_lie(x: Uncertain) -> Uncertain:
    """[B, H, N, D] -> [B, N, H D] without bringing heads behind tokens."""
    batch, heads, count, depth = x.shape
    return x.rounding.reshape(x, (batch, count, heads * depth))


def _merged_inside_out(x: Uncertain) -> Uncertain:
    """[B, H, N, D] -> [B, N, D H]."""
    batch, heads, count, depth = x.shape
    return x.moved(lambda part: part.transpose(0, 2, 3, 1).reshape(batch, count, heads * depth))


def _in_order(order: tuple[int, ...]) -> Callable[[Uncertain, int], Heads]:
    def split(x: Uncertain, heads: int) -> Heads:
        parts = _by_parts(x, heads)
        return parts[order[0]], parts[order[1]], parts[order[2]]

    return split


def self_attention(
    net: Any,
    path: str,
    x: Uncertain,
    num_heads: int,
    special: int,
    split: Any = _by_parts,
    merge: Any = merge_heads,
    scale: Callable[[int, int], float] = lambda depth, width: depth**-0.5,
    soft: Any = softmax,
) -> tuple[Any, Any]:
    """The reference's, with other ways to split and merge heads, another scale of (D, C), another softmax."""
    width = x.shape[-1]
    queries, keys, values = split(net.linear(f"{path}.qkv", x), num_heads)
    note = within(net.trace, path)
    context, probabilities = net.ops.attention(queries, keys, values, scale(width // num_heads, width), note, soft)
    scores = net.trace(f"{path}.cls_attention", class_attention(probabilities, special))
    return net.trace(path, net.linear(f"{path}.proj", merge(context))), scores


def _over_queries(x: Uncertain) -> Uncertain:
    return softmax(x.moved(np.matrix_transpose)).moved(np.matrix_transpose)


def _over_heads(x: Uncertain) -> Uncertain:
    return softmax(x.moved(lambda part: np.moveaxis(part, 1, -1))).moved(lambda part: np.moveaxis(part, -1, 1))


def _without_softmax(x: Uncertain) -> Uncertain:
    return x


def _rolled(step: int) -> Callable[[Uncertain], Uncertain]:
    return lambda x: merge_heads(x.moved(lambda part: np.roll(part, step, axis=1)))


def _exchanged(one: int, other: int) -> Callable[[Uncertain], Uncertain]:
    def merge(x: Uncertain) -> Uncertain:
        order = list(range(x.shape[1]))
        if len(order) > 1:
            order[one], order[other] = order[other], order[one]
        merged: Uncertain = merge_heads(x[:, order])
        return merged

    return merge


for _label, _at, _changes in (
    ("scale missing", ".scores", {"scale": lambda depth, width: 1.0}),
    ("scale applied twice", ".scores", {"scale": lambda depth, width: 1 / depth}),
    ("scale by the width, C^-0.5, instead of the head's", ".scores", {"scale": lambda depth, width: width**-0.5}),
    ("scale inverted", ".scores", {"scale": lambda depth, width: depth**0.5}),
    ("heads: the head axis is not transposed back before proj", ".context", {"merge": merged_as_they_lie}),
    ("heads merged inside out (D, H)", ".context", {"merge": _merged_inside_out}),
    ("heads in reverse order", ".context", {"merge": lambda x: merge_heads(x[:, ::-1])}),
    ("heads permuted: moved on by one", ".context", {"merge": _rolled(1)}),
    ("heads permuted: moved back by one", ".context", {"merge": _rolled(-1)}),
    ("heads permuted: the first two exchanged", ".context", {"merge": _exchanged(0, 1)}),
    ("heads permuted: the last two exchanged", ".context", {"merge": _exchanged(-1, -2)}),
    ("qkv interleaved by head (H, 3, D)", ".scores", {"split": _by_heads}),
    ("qkv interleaved by channel (H, D, 3)", ".scores", {"split": _by_channels}),
    ("qkv: heads inside out (3, D, H)", ".scores", {"split": _inside_out}),
    ("qkv: heads inside out (3, D, H), and merged so", ".scores", {"split": _inside_out, "merge": _merged_inside_out}),
    ("queries and keys exchanged", ".scores", {"split": _in_order((1, 0, 2))}),
    ("keys and values exchanged", ".scores", {"split": _in_order((0, 2, 1))}),
    ("queries and values exchanged", ".scores", {"split": _in_order((2, 1, 0))}),
    ("queries, keys and values in the order v, q, k", ".scores", {"split": _in_order((1, 2, 0))}),
    ("queries, keys and values in the order k, v, q", ".scores", {"split": _in_order((2, 0, 1))}),
    ("softmax over the queries instead of the keys", ".probs", {"soft": _over_queries}),
    ("softmax over the heads", ".probs", {"soft": _over_heads}),
    ("softmax missing", ".probs", {"soft": _without_softmax}),
):
    variant(PIECE, f"attention: {_label}", _at)(partial(self_attention, **_changes))
