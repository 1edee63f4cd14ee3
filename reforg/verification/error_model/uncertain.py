"""Arrays that carry their own rounding error, with the calls of the Array API standard that the models make.

The one source of a forward pass, run on them, yields every value in float64 and, beside it, the variance of the error that
an honest port in a given precision makes. The rules are derived in docs/exactness.md.
"""

from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from reforg.verification.error_model.closer import Closer, joined, through
from reforg.verification.error_model.precision import Precision, smallest, unit

Values = npt.NDArray[np.float64]
Variances = npt.NDArray[Any]


class Rounding:
    """The namespace of uncertain arrays in one precision: variances of relative rounding errors, and the standard's calls.

    plain: without variances of products, which take as long as the products, for a first look.

    An error of rounding to nearest is spread evenly over twice the unit roundoff u, so its variance is u^2 / 3.
    """

    __name__ = "reforg.verification.error_model.uncertain"  # as array_api_compat wants it of a namespace
    float32, float64 = np.dtype(np.float32), np.dtype(np.float64)

    def __init__(self, precision: Precision, plain: bool = False) -> None:
        self.plain = plain
        # All that follows is variances of relative errors. Rules add them up, and multiply them by the squares of what they are
        # relative to.
        own = 2.0 if precision.name == "float64" else 1.0  # where the replay, in float64, rounds as much as the port
        self.precision = precision
        self.operand, self.product, self.stored, self.sums = (
            own * unit(name) ** 2 / 3 for name in (precision.operand, precision.product, precision.stored, precision.sums)
        )
        self.shared = 0.0  # squared relative error that all products of a sum have in common
        if precision.operand == "tf32":  # tensor cores cut off what does not fit: errors between 0 and 2 u, all towards zero
            self.operand *= 4
            self.shared = 1.5 * self.operand  # significands spread evenly over their logarithms are 0.72 u too small, twice
        self.floor = max(smallest(name) for name in (precision.product, precision.stored)) ** 2 / 3
        self.kind = np.float64 if precision.name == "float64" else np.float32  # of variances; float32 ends at 1e-38

    def exact(self, value: Any) -> "Uncertain":
        """A value without error: what the port itself has stored."""
        return Uncertain(np.asarray(value, np.float64), None, self)

    def stored_once(self, value: Any) -> "Uncertain":
        """A weight that is added or multiplied as it is, in the format in which the port keeps it."""
        return self.rounded(np.asarray(value, np.float64), None, self.stored)

    def squares(self, value: Values) -> Variances:
        """Squares in the dtype of variances."""
        narrow: Variances = value.astype(self.kind, copy=False)
        return narrow * narrow

    def rounded(self, value: Values, variance: Variances | None, relative: float) -> "Uncertain":
        """A result with the variance of what it was made from, and that of its own rounding."""
        own = self.squares(value) * self.kind(relative) + self.kind(self.floor)
        return Uncertain(value, own if variance is None else own + variance, self, min(relative, self.product))

    def summed(self, count: int, squares: Variances, total: Values) -> Variances:
        """Variance of adding `count` terms one after the other, given the sum of their squares and their sum.

        Each partial sum is rounded; partial sums of terms with mean m and spread s grow as k^2 m^2 + k s^2.
        """
        return self.kind(self.sums * count) * (squares * self.kind(0.5) + self.squares(total) * self.kind(1 / 3))

    def astype(self, x: "Uncertain", dtype: Any, copy: bool = True) -> "Uncertain":  # noqa: ARG002  the standard's signature
        """The array itself: what rounding would do to it is in its variance."""
        return x

    def reshape(self, x: "Uncertain", shape: tuple[int, ...]) -> "Uncertain":
        """[...] -> shape."""
        return x.moved(lambda part: part.reshape(shape))

    def permute_dims(self, x: "Uncertain", axes: tuple[int, ...]) -> "Uncertain":
        """The same axes in another order."""
        return x.moved(lambda part: part.transpose(axes))

    def matrix_transpose(self, x: "Uncertain") -> "Uncertain":
        """[..., M, N] -> [..., N, M]."""
        return x.moved(np.matrix_transpose)

    def broadcast_to(self, x: "Uncertain", shape: tuple[int, ...]) -> "Uncertain":
        """The array repeated along new axes and axes of one."""
        return x.moved(lambda part: np.broadcast_to(part, shape))

    def concat(self, arrays: Sequence["Uncertain"], axis: int = 0) -> "Uncertain":
        """Arrays one behind the other along an axis."""
        value = np.concatenate([array.value for array in arrays], axis=axis)
        if all(array.variance is None for array in arrays):
            return Uncertain(value, None, self)
        spread = np.concatenate([array.spread for array in arrays], axis=axis)
        result = Uncertain(value, spread, self).carrying(*(array.carries for array in arrays))
        if any(array.closer is not None for array in arrays):
            result.closer = joined([(array.closer, array.shape) for array in arrays], axis)
        return result

    def sum(self, x: "Uncertain", axis: int, keepdims: bool = False) -> "Uncertain":
        """The sum over an axis."""
        total = x.value.sum(axis=axis, keepdims=keepdims)
        variance = self.summed(x.shape[axis], self.squares(x.value).sum(axis=axis, keepdims=keepdims), total)
        if x.variance is not None:
            variance = variance + x.variance.sum(axis=axis, keepdims=keepdims)
        return self.rounded(total, variance, self.stored).carrying(x.carries)

    def mean(self, x: "Uncertain", axis: int, keepdims: bool = False) -> "Uncertain":
        """The mean over an axis."""
        return self.sum(x, axis, keepdims) / x.shape[axis]


class Uncertain:
    """Values in float64 and the variance of a port's error in each; None where it has none.

    relative: that of rounding to the format which the port has them in: of two that are added, the finer one is the result's.
    carries: the steps that it comes from of which the port shows no result. closer: what a closer look at single elements tells.
    """

    __slots__ = ("carries", "closer", "relative", "rounding", "value", "variance")
    __array_ufunc__ = None  # NumPy leaves mixed sums and products to this class

    def __init__(self, value: Values, variance: Variances | None, rounding: Rounding, relative: float | None = None) -> None:
        self.value = value
        self.variance = variance
        self.rounding = rounding
        self.relative: float = rounding.stored if relative is None else relative
        self.carries: frozenset[tuple[str, str]] = frozenset()
        self.closer: Closer | None = None

    def carrying(self, *tags: frozenset[tuple[str, str]]) -> "Uncertain":
        """This, which also comes from these steps; what is exact comes from none."""
        # Behind a value that the candidate holds nothing is inherited: what it is wrong by was told where it was compared.
        if self.variance is not None:
            self.carries = self.carries.union(*tags)
        return self

    def __array_namespace__(self, api_version: str | None = None) -> Rounding:
        return self.rounding

    @property
    def shape(self) -> tuple[int, ...]:
        """As an array's."""
        return self.value.shape

    @property
    def dtype(self) -> Any:
        """Of the values."""
        return self.value.dtype

    @property
    def spread(self) -> Variances:
        """The variance as an array, zeros where there is no error."""
        return np.zeros(self.shape, self.rounding.kind) if self.variance is None else self.variance

    @property
    def read(self) -> Variances:
        """The variance once the value was stored, as a port may do that goes on from what it has not rounded yet."""
        own = self.rounding.squares(self.value) * self.rounding.kind(self.rounding.stored)
        return own if self.variance is None else own + self.variance

    def moved(self, move: Any) -> "Uncertain":
        """The same after a change that only moves elements."""
        variance = None if self.variance is None else move(self.variance)
        result = Uncertain(move(self.value), variance, self.rounding, self.relative).carrying(self.carries)
        if self.closer is not None:
            result.closer = self.closer.moved(move, self.shape)
        return result

    def following(self, *parts: tuple["Uncertain", Any]) -> "Uncertain":
        """This, a function of other arrays, element by element, with its slope by each: it passes on their closer looks."""
        known = [(part.closer, part.shape, slope) for part, slope in parts if part.closer is not None]
        if known:
            self.closer = through(known, self.shape)
        return self

    def looked_at(self, more: Variances | None = None) -> "Uncertain":
        """The same after a closer look, with the variance that it found; what the look needed is let go."""
        if self.closer is None:
            return self
        variance = self.variance if more is None else self.spread + more.astype(self.rounding.kind)
        return Uncertain(self.value, variance, self.rounding, self.relative).carrying(self.carries)

    def __getitem__(self, key: Any) -> "Uncertain":
        return self.moved(lambda part: part[key])

    def __add__(self, other: "Uncertain") -> "Uncertain":
        total = self._combined(self.value + other.value, other.relative, self.read, other.read).carrying(other.carries)
        return total.following((self, 1), (other, 1))

    def __sub__(self, other: "Uncertain") -> "Uncertain":
        total = self._combined(self.value - other.value, other.relative, self.read, other.read).carrying(other.carries)
        return total.following((self, 1), (other, 1))

    def __mul__(self, other: "Uncertain") -> "Uncertain":
        squares = self.rounding.squares
        mine = None if self.variance is None else self.variance * squares(other.value)
        others = None if other.variance is None else other.variance * squares(self.value)
        product = self._combined(self.value * other.value, other.relative, mine, others).carrying(other.carries)
        return product.following((self, other.value), (other, self.value))

    def __truediv__(self, number: float) -> "Uncertain":
        variance = None if self.variance is None else self.variance / self.rounding.kind(number * number)
        return self._combined(self.value / number, self.relative, variance).following((self, 1 / number))

    def _combined(self, value: Values, relative: float, *variances: Variances | None) -> "Uncertain":
        found = [variance for variance in variances if variance is not None]
        total = sum(found[1:], found[0]) if found else None
        return self.rounding.rounded(value, total, min(self.relative, relative)).carrying(self.carries)
