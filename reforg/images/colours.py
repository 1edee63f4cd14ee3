"""A picture of any of PIL's modes as one of 8 bits in sRGB or grey, without transparency."""

import io
from collections.abc import Callable
from functools import lru_cache
from typing import Any

import numpy as np
from PIL import Image, ImageCms

from reforg.errors import ImageError

WHITE16 = 65535  # of the modes I;16 and I; PNG's and PGM's whites are scaled to it
BITS, PHOTOMETRIC, WHITE_IS_ZERO = 258, 262, 0  # tags of TIFF, and a value
PROFILED = {"L": "GRAY", "RGB": "RGB ", "CMYK": "CMYK"}  # mode: the colours that a profile for it is of
GREYS = np.arange(256, dtype=np.uint8)[None]
COLOURS = np.stack(np.meshgrid(*[np.arange(0, 256, 15, dtype=np.uint8)] * 3), axis=-1).reshape(1, -1, 3)
SAME = 2  # levels; a profile that moves no colour by more is sRGB, written by somebody else


def flattened(image: Image.Image) -> Image.Image:
    """A loaded image -> mode "L" or "RGB", in sRGB, laid over white where it is transparent; ImageError for NaN.

    16 bits are rounded to 8; those of colour pictures Pillow cuts itself. 32-bit integers are 16 bits in a wide type, and
    floating point lies in [0, 1]; where any value lies outside, the least becomes black and the largest white. Embedded
    profiles are followed (perceptual intent), broken ones ignored.
    """
    profile, alpha = image.info.get("icc_profile"), _opacity(image)
    if image.mode in ("I", "F") or image.mode.startswith("I;"):
        image = _narrowed(image)
    image = _in_srgb(_opaque(image), profile)
    if alpha is None:
        return image
    canvas = Image.new(image.mode, image.size, "white")
    canvas.paste(image, mask=alpha)
    return canvas


def _opacity(image: Image.Image) -> Image.Image | None:
    """How opaque each pixel is, or None where all are wholly so."""
    if image.mode in ("RGBA", "LA", "PA"):
        return image.getchannel("A")
    if image.mode in ("RGBa", "La"):
        return image.getchannel("a")
    key = image.info.get("transparency")
    if image.mode == "P":
        return image.convert("RGBA").getchannel("A") if image.has_transparency_data else None
    return None if key is None else _keyed(image, key)


def _keyed(image: Image.Image, key: Any) -> Image.Image | None:
    """Opaque except where a pixel has just the colour that stands for nothing."""
    pixels = np.asarray(image.convert("L") if image.mode == "1" else image).reshape(image.height, image.width, -1)
    wanted = np.atleast_1d(np.asarray(key))
    if pixels.dtype == np.uint8 and wanted.max() > 255:  # of a colour picture of 16 bits, of which Pillow keeps the upper 8
        wanted = wanted >> 8
    return Image.fromarray(255 * (pixels != wanted).any(axis=2).astype(np.uint8))


def _opaque(image: Image.Image) -> Image.Image:
    """The colours alone, in one of the modes that profiles are for."""
    if image.mode in PROFILED:
        return image
    if image.mode in ("1", "LA"):
        return image.convert("L")
    if image.mode == "La":
        return image.convert("LA").convert("L")
    return image.convert("RGBA").convert("RGB") if image.mode in ("P", "PA", "RGBa") else image.convert("RGB")


def _narrowed(image: Image.Image) -> Image.Image:
    """Grey of 16 or 32 bits, or of floating point, as grey of 8."""
    with np.errstate(invalid="ignore"):  # of a NaN that signals, which is found below
        values = np.asarray(image).astype(np.float64)
    tags = getattr(image, "tag_v2", {})
    white = 1.0 if image.mode == "F" else WHITE16
    if image.mode.startswith("I;"):
        white = 2.0 ** min(tags.get(BITS, (16,))[0], 16) - 1
    low, high = float(values.min()), float(values.max())
    if not np.isfinite(low) or not np.isfinite(high):
        raise ImageError("its pixels are not all finite numbers")
    if low >= 0 and high <= white:
        low, high = 0.0, white
    values -= low
    values *= 255 / ((high - low) or 1.0)  # of one value: that is the least, and black
    levels = np.rint(values, out=values).astype(np.uint8)
    return Image.fromarray(255 - levels if tags.get(PHOTOMETRIC) == WHITE_IS_ZERO else levels)


def _in_srgb(image: Image.Image, profile: Any) -> Image.Image:
    follow = _follower(profile, image.mode) if isinstance(profile, bytes) and profile else None
    if follow is None:
        return image.convert("RGB") if image.mode == "CMYK" else image
    return follow(image)


@lru_cache(maxsize=4)
def _follower(profile: bytes, mode: str) -> Callable[[Image.Image], Image.Image] | None:
    """From a profile to sRGB; None where the profile is sRGB, is not of such pictures, or is broken.

    Most photographs name sRGB, or the camera's word for it: those keep their pixels to the bit.
    """
    try:
        source = ImageCms.ImageCmsProfile(io.BytesIO(profile))
        if source.profile.xcolor_space != PROFILED[mode]:
            return None
        flags = ImageCms.Flags.NOOPTIMIZE if mode == "L" else ImageCms.Flags.NONE
        transform = ImageCms.buildTransform(source, ImageCms.createProfile("sRGB"), mode, "RGB", ImageCms.Intent.PERCEPTUAL, flags)
    except Exception:  # Pillow raises whatever it comes upon, and the official evaluations read no profile at all
        return None
    if mode == "CMYK":
        return transform.apply
    before = Image.fromarray(GREYS if mode == "L" else COLOURS)
    after = transform.apply(before).convert(mode)
    if np.abs(np.asarray(after, np.int16) - np.asarray(before, np.int16)).max() <= SAME:
        return None
    if mode == "RGB":
        return transform.apply
    curve = after.tobytes()  # 256 levels: one by one without lcms' shortcut, which is coarse in the dark
    return lambda image: image.point(curve)
