"""What `--images` and the arguments of `reforg trace` name, as one batch: pictures, an array in a file, or synthetic images."""

import os
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from reforg.catalog import synthetic
from reforg.catalog.sources import is_synthetic, seed_of
from reforg.costs.cost import cost
from reforg.errors import ConfigError
from reforg.models.model import Model
from reforg.verification.candidate import files
from reforg.weights.array_files import ENDINGS

Values = np.ndarray[Any, np.dtype[Any]]
BATCH = 2  # synthetic images where nobody says how many


def images_of(arguments: Sequence[str], model: Model, batch: int | None = None, whole: bool = True) -> Values:
    """Images (B, C, H, W) as the model takes them.

    arguments: pictures, folders and patterns, as `reforg classify` takes them, prepared by model.preprocessing; or one
    .npy, .npz or .safetensors file with an array (B, C, H, W) in it; or "synthetic:SEED". batch: how many synthetic
    images; None for BATCH. whole: whether all intermediates will be kept in memory. Raises ConfigError, ImageError.
    """
    made = [argument for argument in arguments if is_synthetic(argument) or is_array_file(argument)]
    if made and len(arguments) > 1:
        raise ConfigError(f"images: {made[0]!r} is a whole batch: give nothing beside it")
    if batch is not None and not (made and is_synthetic(made[0])):
        raise ConfigError("images: --batch is how many synthetic images there are, and goes with synthetic:SEED")
    if not made:
        return _pictures(arguments, model, whole)
    if not is_synthetic(made[0]):
        return files.image_array(made[0])
    return _synthetic(made[0], model, BATCH if batch is None else batch, whole)


def is_array_file(name: str) -> bool:
    """Whether a name is one of a file of arrays."""
    return Path(name).suffix.lower() in (files.NPY, *ENDINGS)


def _synthetic(name: str, model: Model, batch: int, whole: bool) -> Values:
    """Images of the model's size that any language can recompute."""
    seed = seed_of(name)
    if seed is None:
        raise ConfigError(f"images: {name!r} must be synthetic:SEED, with a seed of at most 19 digits")
    _check_memory(model, batch, whole)
    return synthetic.images((batch, model.config.in_chans, *model.config.image_shape), seed)


def _pictures(arguments: Sequence[str], model: Model, whole: bool) -> Values:
    """Pictures, decoded and prepared; the first that cannot be read is an ImageError."""
    from reforg.images.inputs import image_paths
    from reforg.images.prepare import preprocess

    paths = image_paths(arguments, sys.stdin.buffer if sys.stdin else None)
    _check_memory(model, len(paths), whole)
    return preprocess(paths, model)


def _check_memory(model: Model, batch: int, whole: bool) -> None:
    """ConfigError where the intermediates of so many images would not fit into this machine's memory."""
    if "SC_PHYS_PAGES" not in getattr(os, "sysconf_names", ()):
        return
    memory, spent = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES"), cost(model)
    wanted = batch * (spent.activation_bytes if whole else spent.peak_bytes)
    if wanted > memory:
        needs, has = (f"{size / 1e9:,.0f} GB" for size in (wanted, memory))
        raise ConfigError(f"images: the intermediates of {batch:,} images take {needs}, and this machine has {has}: give fewer")
