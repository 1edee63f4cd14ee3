"""The models, labels and test images that come with the package (trained on Fashion-MNIST)."""

from importlib import resources
from typing import Any

import numpy as np
import numpy.typing as npt

from reforg.errors import ConfigError, DtypeError, ShapeError
from reforg.names import EMBEDDED
from reforg.ops.resize import taps as resampling_taps

LABELS = ("T-shirt/top", "Trouser", "Pullover", "Dress", "Coat", "Sandal", "Shirt", "Sneaker", "Bag", "Ankle boot")
MEAN, DEVIATION = np.float32(0.2860), np.float32(0.3530)  # of Fashion-MNIST's training pixels


def weights(name: str) -> dict[str, Any] | None:
    """Name -> float32 array for a model that brings its weights; None for any other."""
    return _read(f"{name}.safetensors") if name in EMBEDDED else None


def test_images() -> tuple[npt.NDArray[np.uint8], npt.NDArray[np.uint8]]:
    """The first images of Fashion-MNIST's test set (N, 28, 28), and their labels (N,)."""
    data = _read("fashion_mnist_test.safetensors")
    return data["images"], data["labels"]


def preprocess(pixels: npt.NDArray[np.uint8], model: Any) -> npt.NDArray[np.float32]:
    """Grey pixels [N, 28, 28] of uint8 -> [N, C, H, W] as that model (or name) was trained, all in float32.

    For the models that bring their weights. Scaled to [0, 1] and normalised; evit_fmnist, deit3_fmnist: (N, 1, 28, 28);
    shunted_fmnist: bilinear to 64x64 before that, three equal channels. ConfigError for any other model, ShapeError or
    DtypeError for other pixels.
    """
    name = model if isinstance(model, str) else getattr(model, "name", model)
    if name not in EMBEDDED:
        raise ConfigError(f"preprocess knows the models that bring their weights ({', '.join(EMBEDDED)}), not {name!r}")
    if str(getattr(pixels, "dtype", "")) != "uint8":
        raise DtypeError(f"preprocess takes pixels of uint8, got {getattr(pixels, 'dtype', type(pixels).__name__)}")
    if pixels.ndim != 3 or pixels.shape[1:] != (28, 28):
        raise ShapeError(f"preprocess: {name} takes grey pixels (N, 28, 28), got shape {pixels.shape}")
    images = pixels[:, None].astype(np.float32) / np.float32(255)
    if name != "shunted_fmnist":
        return (images - MEAN) / DEVIATION
    return np.repeat((_bilinear(images, 64) - MEAN) / DEVIATION, 3, axis=1)


def _bilinear(images: npt.NDArray[np.float32], size: int) -> npt.NDArray[np.float32]:
    """[N, C, S, S] -> [N, C, size, size], with every rounding of the program that prepared the training images.

    That program adds the four neighbours by fused multiply-adds, upper right first. Each is done here in float64,
    where the product of two float32 numbers is exact, and rounded: bit for bit the same, so that float64 logits can be
    compared with the recorded ones, which a single other rounding of an input would spoil.
    """
    (first, low), (second, high) = resampling_taps(images.shape[-1], size, "bilinear", antialias=False)
    total = np.zeros((*images.shape[:2], size, size), np.float32)
    for rows, down, columns, across in (
        (first, low, second, high), (first, low, first, low), (second, high, first, low), (second, high, second, high),
    ):  # fmt: skip
        weight = np.outer(np.asarray(down, np.float32), np.asarray(across, np.float32)).astype(np.float64)
        neighbour = images[:, :, rows][..., columns].astype(np.float64)
        total = (neighbour * weight + total).astype(np.float32)
    return total


def _read(filename: str) -> dict[str, Any]:
    from safetensors.numpy import load

    return load(resources.files("reforg").joinpath("data", filename).read_bytes())
