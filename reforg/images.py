"""Pictures as a model's input: decoded, resized, cropped, normalised."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from PIL import Image

from reforg.errors import ImageError
from reforg.preprocessing import Preprocessing
from reforg.transforms import transformed


def decoded(source: Any, colour: str = "RGB") -> Image.Image:
    """A path, PIL image or array of pixels as a PIL image of mode `colour`; ImageError says what is wrong with it."""
    if isinstance(source, Image.Image):
        return source.convert(colour)
    try:
        with Image.open(Path(source)) as image:
            return image.convert(colour)
    except (OSError, ValueError) as error:
        raise ImageError(f"{source}: {error}") from error


def prepared(source: Any, record: Preprocessing) -> npt.NDArray[np.float32]:
    """One image -> (channels, height, width), float32, as the record says."""
    return transformed(decoded(source), record)


def preprocess(sources: Any, model: Any, **fields: Any) -> npt.NDArray[np.float32]:
    """Images -> (B, C, H, W), float32, as the model (or its name, or a `Preprocessing`) wants them."""
    raise NotImplementedError


def listed(sources: Any) -> Sequence[Any]:
    """One image or many as a list."""
    return list(sources) if isinstance(sources, list | tuple) else [sources]
