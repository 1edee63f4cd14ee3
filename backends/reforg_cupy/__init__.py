"""The CuPy backend: GELU as one kernel instead of thirty; everything else is the reference on CuPy arrays.

May import reforg.ops and CuPy. Start with `ops`, at the end of this file; `kernels` has the kernels' source.
"""

from typing import Any

import array_api_compat.cupy
import cupy
import numpy as np

from reforg.ops import REFERENCE
from reforg_cupy.kernels import DOUBLE_GELU, SINGLE_GELU

name = "cupy"
namespace = array_api_compat.cupy


def version() -> str:
    """CuPy's version and the CUDA runtime it was built for."""
    return f"cupy {cupy.__version__} (CUDA {cupy.cuda.runtime.runtimeGetVersion()})"


def dtype(name: str) -> Any:
    """CuPy's dtype; its bfloat16 is partial and not offered."""
    if name in ("float64", "float32", "float16"):
        return cupy.dtype(name)
    raise ValueError(f"no dtype {name!r}; cupy has float64, float32 and float16 here")


def asarray(value: Any, dtype: Any, device: Any) -> Any:
    """As a CuPy array of that dtype; `device` is a device's number or a cupy.cuda.Device."""
    with _device(device):
        if not isinstance(value, cupy.ndarray | np.ndarray):
            value = cupy.from_dlpack(value) if _on_device(value) else np.asarray(value)
        return cupy.asarray(value, dtype=dtype)


def _device(device: Any) -> Any:
    try:
        if device is None:
            return cupy.cuda.Device()
        return device if isinstance(device, cupy.cuda.Device) else cupy.cuda.Device(int(device))
    except cupy.cuda.runtime.CUDARuntimeError as error:
        raise ValueError(f"no CUDA device answers ({error})") from error


def _on_device(value: Any) -> bool:
    """Whether an array that speaks DLPack lies in CUDA memory (device type 2)."""
    return hasattr(value, "__dlpack_device__") and int(value.__dlpack_device__()[0]) == 2


def to_numpy(array: Any) -> Any:
    """On the host."""
    return cupy.asnumpy(array)


def gelu(x: Any) -> Any:
    """[...] -> [...], the erf form with CUDA's own erf; float16 is computed in float32."""
    return _kernel(str(x.dtype))(x)


@cupy.memoize(for_each_device=True)  # type: ignore[untyped-decorator]  # CuPy ships no types
def _kernel(dtype: str) -> Any:
    body = DOUBLE_GELU if dtype == "float64" else SINGLE_GELU
    return cupy.ElementwiseKernel("T x", "T y", body, f"reforg_gelu_{dtype}")


ops = REFERENCE.replaced("cupy", {"gelu": gelu})
