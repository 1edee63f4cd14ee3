"""Arrays of any library as NumPy arrays on the host."""

from typing import Any

import numpy as np

CPU = 1  # DLPack's number for host memory


def exported(value: Any) -> Any:
    """`value`, or a NumPy view of it where it speaks only DLPack or the buffer protocol (a memoryview, an array.array)."""
    if hasattr(value, "dtype"):
        return value
    try:
        return np.from_dlpack(value) if hasattr(value, "__dlpack__") else np.asarray(memoryview(value))
    except (TypeError, ValueError, NotImplementedError):
        return value


def all_finite(array: Any) -> bool:
    """Whether no element of an array of any library is NaN or infinite."""
    if isinstance(array, np.ndarray):
        return bool(np.isfinite(array).all())
    from reforg.arrays import namespace  # only for what is not NumPy's already

    xp = namespace(array)
    return bool(xp.all(xp.isfinite(array)))


def on_host(value: Any) -> np.ndarray[Any, np.dtype[Any]]:
    """As a NumPy array; what NumPy has no dtype for is widened to float32. ValueError where that cannot be."""
    value = exported(value)
    if isinstance(value, np.ndarray):
        return value
    if not hasattr(value, "__dlpack__"):
        raise ValueError(f"{type(value).__name__} is no array")
    import array_api_compat  # only for what is not NumPy's already

    from reforg.arrays import widen

    if value.__dlpack_device__()[0] != CPU:
        try:
            value = array_api_compat.to_device(value, "cpu")
        except AttributeError as error:
            raise ValueError(f"{type(value).__name__} lies on a device, and does not say how to leave it") from error
    if isinstance(value, np.ndarray):
        return value
    try:
        return np.from_dlpack(widen(value) if "float" in str(value.dtype) else value)
    except (BufferError, RuntimeError, TypeError) as error:
        raise ValueError(str(error)) from error


def in_order(value: Any) -> Any:
    """A NumPy array in C order: writers of files (safetensors') store its memory as it lies, and order matters to them."""
    return np.ascontiguousarray(value) if isinstance(value, np.ndarray) else value
