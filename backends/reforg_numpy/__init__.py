"""The NumPy backend: float32 by plans, which two engines run; else batches in parts on all cores, by the operations below.

May import reforg.ops, reforg.plans and NumPy; each engine has a folder for what it needs besides. Start with `planning`, which
chooses an engine and keeps the programs that it runs; `batches` and `team` are how both keep all cores busy.
"""

import importlib
from typing import Any

import array_api_compat
import numpy as np

from reforg.ops import REFERENCE, gelu, matmul, narrow, widen
from reforg_numpy.batches import run as run
from reforg_numpy.planning import ENGINES
from reforg_numpy.planning import plans as plans

name = "numpy"
choices = tuple(ENGINES)
BLOCK = 1 << 18  # elements: smaller blocks cost more in calls than they save in memory


def __getattr__(attribute: str) -> Any:
    """`namespace`, when it is first asked for: its import takes all of NumPy with it, and plans do without."""
    if attribute != "namespace":
        raise AttributeError(f"module {__name__!r} has no attribute {attribute!r}")
    return importlib.import_module("array_api_compat.numpy")


def version() -> str:
    """NumPy's version."""
    return f"numpy {np.__version__}"


def dtype(name: str) -> Any:
    """NumPy's dtype; bfloat16 is ml_dtypes'."""
    if name == "bfloat16":
        import ml_dtypes

        return np.dtype(ml_dtypes.bfloat16)
    if name in ("float64", "float32", "float16"):
        return np.dtype(name)
    raise ValueError(f"no dtype {name!r}; numpy has float64, float32, float16 and bfloat16")


def asarray(value: Any, dtype: Any, device: Any) -> Any:
    """As a NumPy array of that dtype; arrays of other libraries come through DLPack."""
    if device not in (None, "cpu"):
        raise ValueError(f"no device {device!r}; numpy has only 'cpu'")
    if not isinstance(value, np.ndarray) and hasattr(value, "__dlpack__"):
        if "bfloat16" in str(value.dtype):  # which NumPy cannot import
            library = array_api_compat.array_namespace(value)
            value = library.astype(value, library.float32)
        value = np.from_dlpack(value)
    with np.errstate(over="ignore"):  # what is beyond the dtype becomes infinity, and is then refused as such
        return np.asarray(value).astype(dtype, copy=False)


def to_numpy(array: Any) -> Any:
    """The array itself."""
    return np.asarray(array)


def blocked_gelu(x: Any) -> Any:
    """[...] -> [...], the reference's GELU block by block, because its twenty passes over memory are its cost."""
    flat = np.ascontiguousarray(x).reshape(-1)
    y = np.empty_like(flat)
    for start in range(0, flat.size, BLOCK):
        y[start : start + BLOCK] = gelu(flat[start : start + BLOCK])
    return y.reshape(x.shape)


def softmax(x: Any) -> Any:
    """[..., N] -> [..., N], in the memory of one temporary."""
    powers = x.astype(np.result_type(x.dtype, np.float32), copy=True)
    powers -= powers.max(axis=-1, keepdims=True)
    np.exp(powers, out=powers)
    powers /= powers.sum(axis=-1, keepdims=True)
    return powers.astype(x.dtype, copy=False)


def attention(queries: Any, keys: Any, values: Any, scale: float, trace: Any = None) -> tuple[Any, Any]:  # noqa: ARG001
    """[B, H, N, D], [B, H, M, D] twice -> context [B, H, N, D], probabilities [B, H, N, M]."""
    probabilities = narrow(softmax(matmul(widen(queries), np.matrix_transpose(widen(keys)), scale)), queries)
    return matmul(probabilities, values), probabilities


ops = REFERENCE.replaced("numpy", {"gelu": blocked_gelu, "attention": attention})
