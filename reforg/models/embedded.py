"""The models, labels and test images that come with the package (trained on Fashion-MNIST)."""

from importlib import resources
from typing import Any

import numpy as np
import numpy.typing as npt

from reforg.catalog.names import EMBEDDED, build_config
from reforg.errors import ConfigError, DtypeError, ShapeError
from reforg.images.preprocessing.evaluation import fashion_mnist
from reforg.images.transforms import normalised

LABELS = ("T-shirt/top", "Trouser", "Pullover", "Dress", "Coat", "Sandal", "Shirt", "Sneaker", "Bag", "Ankle boot")


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
    return normalised(pixels[:, None], fashion_mnist(build_config(name)))


def _read(filename: str) -> dict[str, Any]:
    from safetensors.numpy import load

    return load(resources.files("reforg").joinpath("data", filename).read_bytes())
