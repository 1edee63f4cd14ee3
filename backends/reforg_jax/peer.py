"""The peer "jax jit": reforg's own forward passes, the reference's operations and nothing else, compiled by XLA.

It tells how fast the reference is where a compiler fuses it, and is no second opinion on what it computes.
"""

from collections.abc import Callable, Mapping
from typing import Any

import jax
import numpy as np

import reforg_jax as backend
from reforg.config import Config
from reforg.families import family_of

name = "jax jit"
version = backend.version


def build(
    config: Config,
    weights: Mapping[str, Any],
    dtype: str,
    device: Any,
    threads: int | None,  # noqa: ARG001 - XLA reads its number from the environment, when it starts
) -> Callable[[Any], Any]:
    """A function from images (B, C, H, W), a NumPy array of float32, to logits (B, num_classes) as a NumPy array.

    Compiled at the first call for the shape of its images, with the weights for arguments, as JAX's users pass them. Raises
    ValueError for a dtype that JAX does not have, RuntimeError for such a device.
    """
    kind = backend.dtype(dtype)
    arrays = {key: backend.asarray(value, kind, device) for key, value in weights.items()}

    @jax.jit  # type: ignore[untyped-decorator]
    def forward(weights: Any, images: Any) -> Any:
        return family_of(config).forward(weights, images, config)

    def run(images: Any) -> Any:
        logits = backend.to_numpy(forward(arrays, backend.asarray(images, kind, device)))
        return logits.astype(np.float32) if dtype == "bfloat16" else logits

    return run
