"""What a `Preprocessing` record says, done to a picture."""

import numpy as np
import numpy.typing as npt
from PIL import Image

from reforg.preprocessing import Preprocessing


def transformed(image: Image.Image, record: Preprocessing) -> npt.NDArray[np.float32]:
    """A decoded image -> (channels, height, width), float32."""
    height, width = record.size
    pixels = np.asarray(image.resize((width, height), Image.Resampling.BICUBIC), np.float32) / np.float32(255)
    return ((pixels - np.float32(record.mean)) / np.float32(record.std)).transpose(2, 0, 1)
