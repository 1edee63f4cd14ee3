"""Deterministic weights and images that any language can recompute: one 64-bit hash for each element.

Element i of the tensor called `name` is splitmix64's i-th output from the state FNV-1a-64(name, seed); its upper 24
bits, which are exact in float32, give a number in [-1, 1), scaled by what the name says the tensor is.
"""

import math
from collections.abc import Mapping
from typing import Any

import numpy as np
import numpy.typing as npt

FNV_OFFSET, FNV_PRIME = 0xCBF29CE484222325, 0x100000001B3
SPLITMIX_STEP, SPLITMIX_FIRST, SPLITMIX_SECOND = 0x9E3779B97F4A7C15, 0xBF58476D1CE4E5B9, 0x94D049BB133111EB
MASK = (1 << 64) - 1

# How a tensor is scaled: value = centre + spread * uniform, by the last part of its name.
SCALES = {
    "running_var": (1.0, 0.5),
    "running_mean": (0.0, 0.2),
    "cls_token": (0.0, 0.5),
    "pos_embed": (0.0, 0.5),
    "dist_token": (0.0, 0.5),
    "bias": (0.0, 0.1),
}


def name_hash(name: str, seed: int = 0) -> int:
    """FNV-1a of the UTF-8 bytes, 64 bits, its offset basis combined with the seed by exclusive or."""
    state = (FNV_OFFSET ^ seed) & MASK
    for byte in name.encode():
        state = ((state ^ byte) * FNV_PRIME) & MASK
    return state


def uniform(name: str, shape: tuple[int, ...], seed: int = 0) -> npt.NDArray[np.float64]:
    """Numbers in [-1, 1) of 24 bits each, float64, in C order."""
    steps = np.arange(1, math.prod(shape) + 1, dtype=np.uint64) * np.uint64(SPLITMIX_STEP)  # wraps around, as meant
    state = steps + np.uint64(name_hash(name, seed))
    state = (state ^ (state >> np.uint64(30))) * np.uint64(SPLITMIX_FIRST)
    state = (state ^ (state >> np.uint64(27))) * np.uint64(SPLITMIX_SECOND)
    state = state ^ (state >> np.uint64(31))
    return ((state >> np.uint64(40)).astype(np.float64) / 2**23 - 1.0).reshape(shape)


def tensor(name: str, shape: tuple[int, ...], seed: int = 0) -> npt.NDArray[Any]:
    """One tensor of a state dict, float32; num_batches_tracked is an int64 zero."""
    leaf = name.rpartition(".")[2]
    if leaf == "num_batches_tracked":
        return np.zeros(shape, np.int64)
    value = uniform(name, shape, seed)
    if leaf.startswith("gamma"):
        value = 0.5 + 0.3 * value
    elif leaf in SCALES:
        centre, spread = SCALES[leaf]
        value = centre + spread * value
    elif len(shape) == 1:  # the weight of a norm
        value = 1.0 + 0.2 * value
    else:  # linear (out, in) or convolution (out, in, height, width): keeps the variance of its input
        value = value * (3.0 / math.prod(shape[1:])) ** 0.5 * (2.0 if _makes_scores(name) else 1.0)
    return value.astype(np.float32)


def weights(shapes: Mapping[str, tuple[int, ...]], seed: int = 0) -> dict[str, npt.NDArray[Any]]:
    """A whole state dict, name -> float32 array."""
    return {name: tensor(name, shape, seed) for name, shape in shapes.items()}


def images(shape: tuple[int, ...], seed: int = 0) -> npt.NDArray[np.float32]:
    """Images (B, C, H, W) as a model takes them: numbers in [-2, 2), float32."""
    return (2.0 * uniform("images", shape, seed)).astype(np.float32)


def _makes_scores(name: str) -> bool:
    """Whether the tensor makes queries, keys and values, which are scaled up so that attention is far from uniform."""
    return any(part in name for part in ("qkv", ".q.", ".kv"))
