"""What a model refuses before it computes anything: images of another dtype or shape than its config wants."""

from typing import Any

from reforg.config import Config
from reforg.errors import DtypeError, ShapeError
from reforg.families import family_of


def check_images(name: str, config: Config, images: Any) -> None:
    """Images are an array (B, in_chans, H, W) of a real floating dtype. DtypeError or ShapeError say what came instead."""
    dtype = getattr(images, "dtype", "")
    dtype = str(getattr(dtype, "name", dtype))  # of NumPy's, the name without the byte order
    if not hasattr(images, "shape") or not dtype:
        raise DtypeError(f"{name}: images must be an array (B, C, H, W), got {type(images).__name__}; reforg.preprocess makes such")
    if "float" not in dtype:
        raise DtypeError(f"{name}: images must be of a real floating dtype, got {dtype}; reforg.preprocess turns pixels into such")
    _check_shape(name, config, tuple(images.shape))


def _check_shape(name: str, config: Config, shape: tuple[int, ...]) -> None:
    if len(shape) != 4:
        raise ShapeError(f"{name}: images must be (B, {config.in_chans}, H, W), got shape {shape}")
    if shape[1] != config.in_chans:
        hint = "; the channels come second" if shape[3] == config.in_chans else ""
        raise ShapeError(f"{name}: images have {shape[1]} channels instead of {config.in_chans} (shape {shape}){hint}")
    if fault := family_of(config).size_fault(config, *shape[2:]):
        raise ShapeError(f"{name}: {fault}")
