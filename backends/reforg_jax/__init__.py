"""The JAX backend: JAX's own GELU, softmax and convolutions; products at full precision on every device.

May import reforg.ops and JAX; `peer`, the reference compiled, the model files too. Start with `ops`, at the end of this file.
"""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from reforg.ops import REFERENCE

name = "jax"
namespace = jnp
HIGHEST = lax.Precision.HIGHEST  # accelerators would otherwise round the factors of float32 products


def version() -> str:
    """JAX's version."""
    return f"jax {jax.__version__}"


def dtype(name: str) -> Any:
    """JAX's dtype; float64 only where the user has switched it on."""
    if name == "float64" and not jax.config.read("jax_enable_x64"):
        raise ValueError("set JAX_ENABLE_X64=1, or call jax.config.update('jax_enable_x64', True) before the first array")
    if name in ("float64", "float32", "float16", "bfloat16"):
        return jnp.dtype(name)
    raise ValueError(f"no dtype {name!r}; jax has float64, float32, float16 and bfloat16")


def asarray(value: Any, dtype: Any, device: Any) -> Any:
    """As a JAX array of that dtype; `device` is a jax.Device, or a platform's name such as "cpu"."""
    if isinstance(device, str):
        device = jax.devices(device)[0]
    if not isinstance(value, jax.Array | np.ndarray):
        value = _imported(value)
    return jnp.asarray(value, dtype=dtype, device=device)


def _imported(value: Any) -> Any:
    """Through DLPack where JAX takes that (it refuses strides), else as a NumPy array."""
    try:
        return jnp.from_dlpack(value)
    except (AttributeError, RuntimeError, TypeError, ValueError):
        return np.asarray(value)


def to_numpy(array: Any) -> Any:
    """On the host; bfloat16 as ml_dtypes' type."""
    return np.asarray(array)


def linear(x: Any, weight: Any, bias: Any = None) -> Any:
    """[..., I], [O, I], [O] -> [..., O]."""
    wide = jnp.promote_types(x.dtype, jnp.float32)
    y = jnp.matmul(x, weight.T, precision=HIGHEST, preferred_element_type=wide)
    return (y if bias is None else y + bias).astype(x.dtype)


def attention(queries: Any, keys: Any, values: Any, scale: float, trace: Any = None) -> tuple[Any, Any]:  # noqa: ARG001
    """[B, H, N, D], [B, H, M, D] twice -> context [B, H, N, D], probabilities [B, H, N, M]."""
    wide = jnp.promote_types(queries.dtype, jnp.float32)
    scores = jnp.matmul(queries, jnp.matrix_transpose(keys), precision=HIGHEST, preferred_element_type=wide) * scale
    probabilities = jax.nn.softmax(scores, axis=-1).astype(queries.dtype)
    context = jnp.matmul(probabilities, values, precision=HIGHEST, preferred_element_type=wide)
    return context.astype(queries.dtype), probabilities


def gelu(x: Any) -> Any:
    """[...] -> [...], the erf form."""
    wide = jnp.promote_types(x.dtype, jnp.float32)
    return jax.nn.gelu(x.astype(wide), approximate=False).astype(x.dtype)


def conv2d(x: Any, weight: Any, bias: Any = None, stride: int = 1, padding: int = 0, groups: int = 1) -> Any:
    """[B, C, H, W], [O, C / groups, kh, kw] -> [B, O, H', W']."""
    wide = jnp.promote_types(x.dtype, jnp.float32)
    y = lax.conv_general_dilated(
        x.astype(wide),
        weight.astype(wide),
        (stride, stride),
        [(padding, padding)] * 2,
        feature_group_count=groups,
        precision=HIGHEST,
    )
    return (y if bias is None else y + bias.astype(wide)[:, None, None]).astype(x.dtype)


def depthwise_conv2d(x: Any, weight: Any, bias: Any = None, padding: int = 1) -> Any:
    """[B, C, H, W], [C, 1, kh, kw] -> [B, C, H', W']."""
    return conv2d(x, weight, bias, padding=padding, groups=x.shape[1])


ops = REFERENCE.replaced(
    "jax",
    {
        "linear": linear,
        "attention": attention,
        "gelu": gelu,
        "conv2d": conv2d,
        "depthwise_conv2d": depthwise_conv2d,
    },
)
