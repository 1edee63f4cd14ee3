"""What the reference needs of an array library beyond the calls of the Array API standard itself."""

from collections.abc import Sequence
from typing import Any

import array_api_compat

Array = Any  # the standard has no common base class; every namespace brings its own
Namespace = Any


class OwnArray:
    """Base of arrays that belong to no library and tell their namespace themselves.

    array-api-compat would first ask every library that is loaded whether the array is one of its own. For arrays without
    values that takes longer than what is done with them, and it fails where NumPy may not be imported.
    """

    def __array_namespace__(self, api_version: str | None = None) -> Namespace:
        """The functions of the Array API standard for this class."""
        raise NotImplementedError


def namespace(*arrays: Array | None) -> Namespace:
    """The Array API namespace that all given arrays share; None entries (absent biases) are passed over."""
    if isinstance(arrays[0], OwnArray):
        return arrays[0].__array_namespace__()
    return array_api_compat.array_namespace(*(array for array in arrays if array is not None))


def accumulation_dtype(array: Array) -> Any:
    """The dtype in which sums over `array` are formed: its own, or float32 for anything narrower."""
    xp = namespace(array)
    return array.dtype if array.dtype in (xp.float32, xp.float64) else xp.float32


def widen(array: Array) -> Array:
    """`array` in its accumulation dtype; the same array where that is its own."""
    return namespace(array).astype(array, accumulation_dtype(array), copy=False)


def narrow(array: Array, like: Array) -> Array:
    """`array` rounded to the dtype of `like`; the same array where it has it already."""
    return namespace(array).astype(array, like.dtype, copy=False)


def constant(values: Sequence[float], like: Array) -> Array:
    """A small array of literal `values` beside `like`: its namespace, its dtype, its device."""
    return namespace(like).asarray(values, dtype=like.dtype, device=array_api_compat.device(like))


def index_array(values: Sequence[int], like: Array) -> Array:
    """Literal indices beside `like`, in the integer dtype that its namespace takes by default."""
    return namespace(like).asarray(values, device=array_api_compat.device(like))


def arange(count: int, like: Array, dtype: Any) -> Array:
    """0, 1, ..., count - 1 on the device of `like`."""
    return namespace(like).arange(count, dtype=dtype, device=array_api_compat.device(like))


def zeros(shape: tuple[int, ...], like: Array) -> Array:
    """Zeros of the dtype and on the device of `like`."""
    return namespace(like).zeros(shape, dtype=like.dtype, device=array_api_compat.device(like))
