"""The closer looks of operations with sums: the terms of single elements from what was read, and the errors that elements share.

Each returns the result that it was given, with the look attached. Nothing is computed before somebody looks. A look keeps the
values that it needs, and never the result itself: in a circle, large arrays would outlive their use.
"""

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from numpy.lib.stride_tricks import sliding_window_view

from reforg.verification.error_model.closer import Closer, Indices, Shared
from reforg.verification.error_model.partial_sums import beyond
from reforg.verification.error_model.uncertain import Uncertain, Values

CHANNELS = (8, 16)  # that convolutions keep side by side, in libraries whose maps are blocks of channels


def linear(y: Uncertain, x: Uncertain, weight: Values, bias: Uncertain | None) -> Uncertain:
    """Of a linear map of [..., K] with a weight [O, K]; errors that the channels of a row share arrive together."""
    outs, count = weight.shape
    rows, inner = x.value.reshape(-1, count), x.closer

    def terms(flat: Indices) -> tuple[Values, Values]:
        return rows[flat // outs] * weight[flat % outs], _start(bias, flat % outs)

    if inner is None:
        return _summed(y, terms)
    return _summed(y, terms, further=lambda flat: _together(inner, flat // outs, weight[flat % outs]))


def _together(inner: Closer, rows: Indices, weights: Values) -> Values:
    """[n] rows of what was read, [n, K] weights -> [n]: the variance of errors that the elements of a row share.

    One error moves the sum by what it does to all of its terms, so these effects are added up before they are squared.
    """
    total, count = np.zeros(len(rows)), weights.shape[1]
    for row in np.unique(rows):
        here = np.flatnonzero(rows == row)
        for shared in inner.shared(row * count + np.arange(count)):
            for group in np.unique(shared.group):
                mine = shared.group == group
                total[here] += shared.together(weights[here][:, shared.at[mine]] @ shared.effects[mine])
    return total


def convolution(y: Uncertain, x: Uncertain, weight: Values, bias: Uncertain | None, stride: int, padding: int) -> Uncertain:
    """Of a convolution [B, C, H, W] -> [B, O, H', W']; depthwise where the weight has one channel, and x as many as y."""
    depthwise, kernel, maps, shape = x.shape[1] != weight.shape[1], weight.shape[2:], x.value, y.shape

    def terms(flat: Indices) -> tuple[Values, Values]:  # in the order (c, ky, kx)
        image, out, row, column = np.unravel_index(flat, shape)
        padded = np.pad(maps, ((0, 0), (0, 0), (padding, padding), (padding, padding)))
        windows = sliding_window_view(padded, kernel, (2, 3))
        read = out[:, None] if depthwise else np.arange(weight.shape[1])
        found = windows[image[:, None], read, (row * stride)[:, None], (column * stride)[:, None]] * weight[out]
        return found.reshape(len(flat), -1), _start(bias, out)

    return _summed(y, terms, _orders(weight.shape[1:]))


def _orders(shape: tuple[int, ...]) -> list[Indices]:
    """In which orders convolutions come upon their terms (c, ky, kx): any axis first, or channels in blocks."""
    places = np.arange(int(np.prod(shape))).reshape(shape)
    orders = [places.transpose(axes).ravel() for axes in ((0, 1, 2), (1, 2, 0), (1, 0, 2))]
    blocks = [size for size in CHANNELS if shape[0] > size and shape[0] % size == 0]
    return orders + [places.reshape(-1, size, *shape[1:]).transpose(0, 2, 3, 1).ravel() for size in blocks]


def product(y: Uncertain, a: Uncertain, b: Uncertain) -> Uncertain:
    """Of [..., N, K] @ [..., K, M]."""
    rows, columns, shape = a.value, np.matrix_transpose(b.value), y.shape

    def terms(flat: Indices) -> tuple[Values, Values]:
        *lead, row, column = np.unravel_index(flat, shape)
        return rows[(*lead, row)] * columns[(*lead, column)], np.zeros(len(flat))

    return _summed(y, terms)


def context(y: Uncertain, scores: Uncertain, probabilities: Uncertain, values: Uncertain, correlated: bool) -> Uncertain:
    """Of attention's context, where the port shows neither scores nor probabilities: a score's error reaches all channels.

    A score that is off by ds moves probabilities by p_j (ds_j - sum p ds), and so the context by p_j ds_j (v_j - context).
    correlated: whether the scores of a query may be off together, since the port does not show what they were made from.
    """
    deviations, own = scores.variance, y.closer
    if deviations is None or probabilities.variance is None or own is None:
        return y
    mean, shares, columns, (_, heads, queries, _) = y.value, probabilities.value, np.matrix_transpose(values.value), y.shape

    def shared(flat: Indices) -> list[Shared]:
        image, head, query, channel = np.unravel_index(flat, mean.shape)
        away = columns[image, head, channel] - mean[image, head, query, channel][:, None]
        moved = shares[image, head, query] * np.sqrt(deviations[image, head, query], dtype=np.float64)
        return [Shared(np.arange(len(flat)), moved * away, (image * heads + head) * queries + query, correlated)]

    def more(flat: Indices) -> Values:
        (errors,) = shared(flat)
        return own.more(flat) + errors.together(errors.effects)

    y.closer = Closer(more, shared)
    return y


Terms = Callable[[Indices], tuple[Values, Values]]


def _summed(y: Uncertain, terms: Terms, orders: Sequence[Indices] = (), further: Any = None) -> Uncertain:
    """A result whose elements are sums of terms [n, K] and a bias [n]. further: more variance, of what was read."""
    if y.rounding.plain:
        return y
    relative = y.rounding.sums

    def more(flat: Indices) -> Values:
        found = beyond(*terms(flat), orders) * relative
        return found if further is None else found + further(flat)

    y.closer = Closer(more)
    return y


def _start(bias: Uncertain | None, channel: Indices) -> Values:
    return np.zeros(len(channel)) if bias is None else bias.value[channel]
