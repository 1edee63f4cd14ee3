"""What all contestants of a case are given: the same random weights, and the same images, in files."""

from pathlib import Path
from typing import Any

import numpy as np

from reforg.bench.request import Case
from reforg.catalog import synthetic
from reforg.config import Config
from reforg.errors import BackendError
from reforg.families import shapes
from reforg.weights.loading import save_weights


class Material:
    """The files of one case after the other, in a folder. Weights stay as they are while the config does."""

    def __init__(self, folder: Path) -> None:
        self._logits = folder / "logits.npy"
        self._weights, self._images = folder / "weights.safetensors", folder / "images.npy"
        self._config: Config | None = None

    def of(self, case: Case) -> dict[str, Any]:
        """The names of the files of a case, written, and its model; BackendError where memory does not hold them."""
        try:
            self._write(case)
        except MemoryError as error:
            raise BackendError(f"{case.title}: there is not enough memory for the images and the weights") from error
        return {
            "model": case.model,
            "settings": dict(case.settings),
            "dtype": case.dtype,
            "weights": str(self._weights),
            "images": str(self._images),
            "logits": str(self._logits),
        }

    def _write(self, case: Case) -> None:
        config = case.config
        if config != self._config:
            save_weights(synthetic.weights(shapes(config)), self._weights)
            self._config = config
        shape = (case.batch, config.in_chans, *config.image_shape)
        np.save(self._images, np.random.default_rng(0).standard_normal(shape, np.float32))
