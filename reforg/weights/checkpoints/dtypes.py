"""Element types by the names that torch gives them."""

from functools import cache
from typing import Any

import numpy as np

NUMPYS = (
    "float64", "float32", "float16", "int64", "int32", "int16", "int8", "uint64", "uint32", "uint16", "uint8", "bool",
    "complex128", "complex64",
)  # fmt: skip
ML_DTYPES = ("bfloat16", "float8_e4m3fn", "float8_e5m2", "float8_e4m3fnuz", "float8_e5m2fnuz")


@cache
def dtype_of(name: str) -> np.dtype[Any] | None:
    """NumPy's dtype, or ml_dtypes' for what NumPy lacks; None for any other name."""
    if name in NUMPYS:
        return np.dtype(name)
    if name not in ML_DTYPES:
        return None
    import ml_dtypes  # only where it is needed: it takes longer to import than a small file to read

    dtype: np.dtype[Any] = np.dtype(getattr(ml_dtypes, name))
    return dtype
