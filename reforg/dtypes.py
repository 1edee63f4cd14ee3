"""The dtypes in which a model computes, by the names that its user writes."""

from typing import Any

from reforg.errors import BackendError, nearest

ITEM_BYTES = {"float64": 8, "float32": 4, "float16": 2, "bfloat16": 2}
DTYPES = tuple(ITEM_BYTES)


def check_dtype(dtype: Any) -> None:
    """BackendError for what is no dtype of a model."""
    if not isinstance(dtype, str) or dtype not in DTYPES:
        raise BackendError(f"there is no dtype {dtype!r}{nearest(str(dtype), DTYPES)} (known: {', '.join(DTYPES)})")
