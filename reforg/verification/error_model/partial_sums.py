"""What rounding may do to a sum whose terms are known: the variance that its partial sums give, in the usual orders of summing.

A library adds up terms one after the other, a block at a time, or in several lanes beside each other, and it starts from the bias
or ends with it. Each partial sum is rounded once, so the variance of the error is r^2 times the sum of their squares.
"""

from collections.abc import Iterator, Sequence

import numpy as np
import numpy.typing as npt

from reforg.verification.error_model.closer import Indices

Values = npt.NDArray[np.float64]
BLOCKS = (64, 192, 256, 384)  # terms that libraries add up by themselves before they add the result to the rest
LANES = (8, 16)  # accumulators of a vector, which are added up at the end


def beyond(terms: Values, start: Values, orders: Sequence[Indices] = ()) -> Values:
    """[n, K] terms, [n] biases -> [n]: by how much the sum of squared partial sums is larger than `Rounding.summed` takes it to be.

    orders: in which the terms may come; one after the other where there is none.
    """
    count, total = terms.shape[1], terms.sum(axis=1)
    estimate = count * (_squares(terms) / 2 + total * total / 3 + start * start)
    largest = np.zeros(len(terms))
    for order in orders or (np.arange(count),):
        for squares in _in_every_way(terms[:, order], start):
            largest = np.maximum(largest, squares)
    more: Values = np.maximum(largest - estimate, 0)
    return more


def _in_every_way(terms: Values, start: Values) -> Iterator[Values]:
    """The sums of squared partial sums of terms in one order, each as [n]."""
    count = terms.shape[1]
    for first in (np.zeros_like(start), start) if np.any(start) else (start,):
        yield one_by_one(terms, first)
        yield from (in_blocks(terms, first, size) for size in BLOCKS if size < count)
    yield from (in_lanes(terms, lanes) for lanes in LANES if lanes < count)


def one_by_one(terms: Values, start: Values) -> Values:
    """Every partial sum after the first term, on top of where the sums start."""
    return _squares(np.cumsum(terms, axis=1) + start[:, None])


def in_blocks(terms: Values, start: Values, size: int) -> Values:
    """Each block by itself, and then the sum of the blocks."""
    total, squares = start, np.zeros(len(terms))
    for first in range(0, terms.shape[1], size):
        running = np.cumsum(terms[:, first : first + size], axis=1)
        total = total + running[:, -1]
        squares += _squares(running) + total * total
    return squares


def in_lanes(terms: Values, lanes: int) -> Values:
    """Every term of a vector in an accumulator of its own, and then the sum of the accumulators."""
    padded = np.pad(terms, ((0, 0), (0, -terms.shape[1] % lanes)))
    running = np.cumsum(padded.reshape(len(terms), -1, lanes), axis=1)
    return _squares(running.reshape(len(terms), -1)) + one_by_one(running[:, -1], np.zeros(len(terms)))


def _squares(x: Values) -> Values:
    found: Values = np.einsum("nk,nk->n", x, x)
    return found
