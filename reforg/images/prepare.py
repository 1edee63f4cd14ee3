"""Pictures as a model's input: decoded, resized, cropped, normalised."""

import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import numpy as np
import numpy.typing as npt
from PIL import Image

from reforg.catalog.names import build_config
from reforg.catalog.sources import is_hub_id
from reforg.errors import ConfigError, DtypeError, ImageError, ReforgError, ShapeError
from reforg.host import exported, on_host
from reforg.images import decode
from reforg.images.colours import flattened
from reforg.images.preprocessing import Preprocessing, of_name
from reforg.images.transforms import transformed

ORIENTATION = 274  # the tag of EXIF
UPRIGHT = {
    2: Image.Transpose.FLIP_LEFT_RIGHT, 3: Image.Transpose.ROTATE_180, 4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE, 6: Image.Transpose.ROTATE_270, 7: Image.Transpose.TRANSVERSE, 8: Image.Transpose.ROTATE_90,
}  # fmt: skip
CHANNELS = (1, 3, 4)  # last side of an array of pixels: grey, RGB, RGB with opacity


def preprocess(sources: Any, model: Any, **fields: Any) -> npt.NDArray[np.float32]:
    """Images -> (B, C, H, W), float32, as a model (or its name, or a `Preprocessing`) wants them.

    sources: a path, PIL image or array of pixels, or a list of such, or an array of several images: (N, H, W) or
    (N, H, W, C), pixels of uint8, uint16 or bool, C of 1, 3 or 4. An array of three sides is one image where the last is
    1, 3 or 4, else N grey ones. fields: any of the record, in place of its own (crop_ratio=1.0, interpolation="bilinear").

    Pictures are turned as EXIF says, brought to sRGB by their profile, laid over white where they are transparent; of several
    frames the first is taken. PIL.Image.MAX_IMAGE_PIXELS limits their size. Raises ImageError, ShapeError, DtypeError,
    ConfigError.
    """
    record = record_of(model).changed(**fields)
    found = [prepared(source, record) for source in as_list(sources)]
    return np.stack(found) if found else np.empty((0, record.channels, *record.size), np.float32)


def record_of(model: Any) -> Preprocessing:
    """What a model, a model's name or a record says about images; ConfigError where nothing is known."""
    if isinstance(model, Preprocessing):
        return model
    if is_hub_id(model):
        raise ConfigError(f"preprocess: {model!r} is a repository; give preprocess the model that create_model makes of it")
    if not isinstance(model, str) and not hasattr(model, "preprocessing"):
        raise ConfigError(f"preprocess wants a model, its name or a Preprocessing, got {type(model).__name__}")
    found = of_name(model, build_config(model)) if isinstance(model, str) else model.preprocessing
    if not isinstance(found, Preprocessing):
        name = getattr(model, "name", model)
        raise ConfigError(
            f"preprocess: how images of this {name} are prepared was never recorded; "
            "give a reforg.Preprocessing(size=..., mean=..., std=..., channels=...) in the model's place"
        )
    return found


def prepared(source: Any, record: Preprocessing) -> npt.NDArray[np.float32]:
    """One path, PIL image or array -> (channels, height, width), float32, as the record says."""
    image = decoded(source, record.colour)
    try:
        return transformed(image, record)
    except ImageError as error:
        raise ImageError(f"images: {_named(source)}: {error}") from error
    except MemoryError as error:
        raise ImageError(f"images: {_named(source)}: there is not enough memory to prepare it") from error


def decoded(source: Any, colour: str = "RGB") -> Image.Image:
    """A path, PIL image or array of pixels as an upright PIL image of mode `colour`; ImageError says what is wrong with it."""
    name = _named(source)
    with _read(name), decode.silence:
        if isinstance(source, Image.Image):
            decode.check_pixels(source, name)
            return _upright(source).convert(colour)
        if isinstance(source, str | bytes | os.PathLike):
            with decode.open_picture(source, name) as image:
                return _upright(image).convert(colour)
        return flattened(_pictured(source)).convert(colour)


def as_list(sources: Any) -> Sequence[Any]:
    """One image or many as a list, each a path, a PIL image or an array."""
    if isinstance(sources, list | tuple):
        return list(sources)
    if isinstance(sources, str | bytes | os.PathLike | Image.Image):
        return [sources]
    pixels = _pixels(sources)
    several = pixels.ndim == 4 or (pixels.ndim == 3 and pixels.shape[2] not in CHANNELS)
    return list(pixels) if several else [pixels]


def _upright(image: Image.Image) -> Image.Image:
    """Grey or RGB, turned as EXIF says."""
    image.load()
    orientation = _orientation(image)  # after the pixels: Pillow turns a TIFF while it loads, and takes the tag away
    flat = flattened(image)
    return flat.transpose(UPRIGHT[orientation]) if orientation in UPRIGHT else flat


def _orientation(image: Image.Image) -> int:
    try:
        found = image.getexif().get(ORIENTATION)
    except Exception:  # what is broken in the notes beside an image does not make the image unreadable
        return 1
    return found if isinstance(found, int) else 1


def _pixels(source: Any) -> npt.NDArray[Any]:
    """An array of any library on the host; ImageError for what is no array."""
    value = exported(source)
    if not hasattr(value, "shape") or not hasattr(value, "dtype"):
        raise ImageError(f"images: {type(source).__name__} is no path, PIL image or array of pixels")
    try:
        return on_host(value)
    except ValueError as error:
        raise ImageError(f"images: {type(source).__name__} is no path, PIL image or array of pixels: {error}") from error


def _pictured(source: Any) -> Image.Image:
    """An array of pixels (H, W) or (H, W, C) as a PIL image."""
    pixels = _pixels(source)
    if pixels.ndim not in (2, 3) or (pixels.ndim == 3 and pixels.shape[2] not in CHANNELS):
        raise ShapeError(f"images: pixels must be (H, W) or (H, W, C) with C of 1, 3 or 4, got shape {pixels.shape}")
    if 0 in pixels.shape:
        raise ShapeError(f"images: an array of shape {pixels.shape} has no pixels")
    if pixels.dtype == np.bool_:
        pixels = 255 * pixels.astype(np.uint8)
    elif pixels.dtype.kind == "u" and pixels.dtype.itemsize == 2:
        pixels = ((pixels.astype(np.uint32) + 128) // 257).astype(np.uint8)
    elif pixels.dtype != np.uint8:
        raise DtypeError(
            f"images: pixels must be of uint8, uint16 or bool, got {pixels.dtype}; of values in [0, 1], "
            "(255 * values).round().astype('uint8') makes such"
        )
    return Image.fromarray(np.ascontiguousarray(pixels[..., 0] if pixels.shape[2:] == (1,) else pixels))


def _named(source: Any) -> str:
    """What an error calls it: by the name of its file, where it has one."""
    source = getattr(source, "filename", None) or source
    if isinstance(source, str | bytes | os.PathLike):
        return repr(os.fsdecode(source))
    return "a PIL image" if isinstance(source, Image.Image) else "an array"


@contextmanager
def _read(name: str) -> Iterator[None]:
    """Whatever goes wrong while an image is read, as one sentence that names it."""
    try:
        yield
    except ImageError as error:
        raise (error if str(error).startswith("images: ") else ImageError(f"images: {name} cannot be read: {error}")) from error
    except ReforgError:
        raise
    except Image.DecompressionBombError as error:
        raise decode.too_large(name) from error
    except MemoryError as error:
        raise ImageError(f"images: {name} cannot be read: there is not enough memory for it") from error
    except Exception as error:  # Pillow's parsers raise whatever they come upon in a file: struct.error, KeyError, SyntaxError, …
        told = str(error) or type(error).__name__
        reason = "it is truncated" if "truncated" in told.lower() else f"it is damaged ({told:.200})"
        raise ImageError(f"images: {name} cannot be read: {reason}") from error
