"""The torch backend: torch's own kernels for the operations that have one.

May import reforg.ops and torch. Start with `ops`, at the end of this file. `recorder` records torch modules for `reforg verify`,
`peer` has the programs in torch that `reforg bench` measures reforg beside.
"""

from typing import Any

import array_api_compat.torch
import numpy as np
import torch
from torch.nn import functional

from reforg.ops import REFERENCE, matmul, widen

name = "torch"
namespace = array_api_compat.torch


def version() -> str:
    """Torch's version."""
    return f"torch {torch.__version__}"


def dtype(name: str) -> torch.dtype:
    """Torch's dtype."""
    if name in ("float64", "float32", "float16", "bfloat16"):
        found: torch.dtype = getattr(torch, name)
        return found
    raise ValueError(f"no dtype {name!r}; torch has float64, float32, float16 and bfloat16")


def asarray(value: Any, dtype: torch.dtype, device: Any) -> torch.Tensor:
    """As a tensor of that dtype on that device; arrays of other libraries come through DLPack."""
    if isinstance(value, np.ndarray):
        value = torch.from_numpy(_native(value))
    elif not isinstance(value, torch.Tensor):
        value = torch.from_dlpack(value) if hasattr(value, "__dlpack__") else torch.from_numpy(_native(np.asarray(value)))
    found: torch.Tensor = value.to(device=torch.get_default_device() if device is None else device, dtype=dtype)
    return found


def _native(value: Any) -> Any:
    """What torch.from_numpy takes without a warning: writable, contiguous, of a dtype that torch can read."""
    if value.dtype.name in ("bfloat16", "longdouble", "float128"):
        value = value.astype(np.float32 if value.dtype.name == "bfloat16" else np.float64)
    return np.require(value, value.dtype.newbyteorder("="), ["C", "W"])


def to_numpy(array: torch.Tensor) -> Any:
    """On the host; bfloat16, which NumPy lacks, as float32."""
    array = array.detach().cpu()
    return (array.float() if array.dtype == torch.bfloat16 else array).numpy()


def attention(queries: Any, keys: Any, values: Any, scale: float, trace: Any = None) -> tuple[Any, Any]:  # noqa: ARG001
    """[B, H, N, D], [B, H, M, D] twice -> context [B, H, N, D], probabilities [B, H, N, M]."""
    scores = matmul(widen(queries), widen(keys).transpose(-2, -1), scale)  # which may pass float16's largest number
    probabilities = torch.softmax(scores, dim=-1).to(queries.dtype)
    return matmul(probabilities, values), probabilities


def layer_norm(x: Any, weight: Any, bias: Any, eps: float) -> Any:
    """[..., C] -> [..., C]."""
    return functional.layer_norm(x, (x.shape[-1],), weight, bias, eps)


def batch_norm(x: Any, weight: Any, bias: Any, mean: Any, variance: Any, eps: float) -> Any:
    """[B, C, H, W] -> [B, C, H, W], with the running statistics."""
    return functional.batch_norm(x, mean, variance, weight, bias, training=False, eps=eps)


def conv2d(x: Any, weight: Any, bias: Any = None, stride: int = 1, padding: int = 0, groups: int = 1) -> Any:
    """[B, C, H, W], [O, C / groups, kh, kw] -> [B, O, H', W']; never in TF32, which cuDNN takes by default."""
    if not x.is_cuda:
        return functional.conv2d(x, weight, bias, stride, padding, 1, groups)
    with torch.backends.cudnn.flags(enabled=True, benchmark=torch.backends.cudnn.benchmark, allow_tf32=False):
        return functional.conv2d(x, weight, bias, stride, padding, 1, groups)


def depthwise_conv2d(x: Any, weight: Any, bias: Any = None, padding: int = 1) -> Any:
    """[B, C, H, W], [C, 1, kh, kw] -> [B, C, H', W']."""
    return conv2d(x, weight, bias, padding=padding, groups=x.shape[1])


ops = REFERENCE.replaced(
    "torch",
    {
        "linear": functional.linear,
        "layer_norm": layer_norm,
        "batch_norm": batch_norm,
        "gelu": functional.gelu,
        "relu": functional.relu,
        "attention": attention,
        "conv2d": conv2d,
        "depthwise_conv2d": depthwise_conv2d,
    },
)
