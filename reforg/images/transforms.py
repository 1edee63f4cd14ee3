"""What a `Preprocessing` record says, done to a picture: bit for bit as torchvision, timm and PIL do it."""

from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from reforg.errors import ConfigError, ImageError
from reforg.images.preprocessing import Preprocessing
from reforg.images.preprocessing.record import INTERPOLATIONS
from reforg.ops.resize import taps

if TYPE_CHECKING:
    from PIL import Image

Sides = tuple[int, int]
Levels = npt.NDArray[np.uint8]
Values = npt.NDArray[np.float32]


def transformed(image: "Image.Image", record: Preprocessing) -> Values:
    """A decoded image of the record's colour -> (channels, height, width), float32; ImageError where it cannot have that size."""
    target = _target((image.height, image.width), record)
    _check_room((image.height, image.width), target, record)
    if target != (image.height, image.width):
        image = image.resize((target[1], target[0]), INTERPOLATIONS.index(record.interpolation))
    pixels = np.asarray(image).reshape(*target, -1)
    result: Values = normalised(_cropped(pixels, record).transpose(2, 0, 1)[None], record)[0]
    return result


def normalised(levels: Levels, record: Preprocessing) -> Values:
    """Pixels [N, 1 or 3, h, w] after the crop -> [N, channels, height, width]: what is done in floating point, all in float32.

    Scaled to [0, 1], resampled where the crop leaves another size, less the mean, divided by std; grey is repeated.
    """
    if levels.shape[1] not in (1, record.channels):
        raise ConfigError(f"preprocessing makes {levels.shape[1]} channels of {record.colour}, and cannot make {record.channels}")
    images = np.ascontiguousarray(levels).astype(np.float32) / np.float32(255)
    if images.shape[2:] != record.size:
        images = _bilinear(images, record.size)
    mean, std = (np.asarray(values, np.float32)[:, None, None] for values in (record.mean, record.std))
    return (images - mean) / std


def _target(sides: Sides, record: Preprocessing) -> Sides:
    """Height and width to resize an image to.

    torchvision rounds the longer edge down where a number for the shortest is given; timm, which keeps the proportions
    for the other cases, rounds both to the nearest, halves to the even.
    """
    if record.resize in ("none", "exact"):
        return sides if record.resize == "none" else record.resized
    (height, width), (above, across) = sides, record.resized
    if record.resize == "shortest" and above == across:
        longest = int(above * max(sides) / min(sides))
        return (longest, above) if width <= height else (above, longest)
    ratio = (min if record.resize == "shortest" else max)(height / above, width / across)
    return round(height / ratio), round(width / ratio)


def _check_room(sides: Sides, target: Sides, record: Preprocessing) -> None:
    """ImageError for an image so narrow that resizing leaves nothing of it, or takes more pixels than PIL would open."""
    from PIL import Image

    most = Image.MAX_IMAGE_PIXELS
    told = f"{sides[0]}x{sides[1]} pixels cannot be prepared: resized, that were {target[0]}x{target[1]}"
    if min(target) < 1:
        raise ImageError(told)
    if most is not None and max(target[0] * target[1], record.cropped[0] * record.cropped[1]) > most:
        raise ImageError(f"{told}, and more than {most:,} are not made (PIL.Image.MAX_IMAGE_PIXELS raises the limit)")
    if record.crop_mode == "none" and target != record.cropped:
        wanted = f"{record.cropped[0]}x{record.cropped[1]}"
        raise ImageError(f"{told}, which without a crop is not the {wanted} that is wanted")


def _cropped(pixels: Levels, record: Preprocessing) -> Levels:
    """[h, w, c] -> [*record.cropped, c]: its middle, or around it black or the mean's colour."""
    rows, columns = (_overlap(side, wanted, record.crop_offset) for side, wanted in zip(pixels.shape, record.cropped, strict=False))
    middle = pixels[rows[0], columns[0]]
    if middle.shape[:2] == record.cropped:
        return middle
    fill = np.zeros(pixels.shape[2])
    if record.crop_mode == "border":
        fill = np.clip([round(255 * value) for value in record.mean[: pixels.shape[2]]], 0, 255)
    canvas = np.empty((*record.cropped, pixels.shape[2]), np.uint8)
    canvas[:] = fill
    canvas[rows[1], columns[1]] = middle
    return canvas


def _overlap(side: int, wanted: int, offset: str) -> tuple[slice, slice]:
    """Which part of an edge is kept, and where in the new edge it lies.

    Of an odd number of pixels torchvision cuts the half to the even side, and puts fewer black ones before than after;
    transformers takes the lower number of those it cuts before, and with that the higher of black ones.
    """
    over = side - wanted
    first = over // 2 if offset == "floored" else round(over / 2) if over > 0 else -(-over // 2)
    kept, cut, added = min(side, wanted), max(first, 0), max(-first, 0)
    return slice(cut, cut + kept), slice(added, added + kept)


def _bilinear(images: Values, size: Sides) -> Values:
    """[N, C, H, W] -> [N, C, *size], with every rounding of the program that prepared the training images.

    That program adds the four neighbours by fused multiply-adds, upper right first. Each is done here in float64,
    where the product of two float32 numbers is exact, and rounded: bit for bit the same, so that float64 logits can be
    compared with the recorded ones, which a single other rounding of an input would spoil.
    """
    (upper, above), (lower, below) = taps(images.shape[2], size[0], "bilinear", antialias=False)
    (left, before), (right, behind) = taps(images.shape[3], size[1], "bilinear", antialias=False)
    total = np.zeros((*images.shape[:2], *size), np.float32)
    for rows, down, columns, across in (
        (upper, above, right, behind),
        (upper, above, left, before),
        (lower, below, left, before),
        (lower, below, right, behind),
    ):
        weight = np.outer(np.asarray(down, np.float32), np.asarray(across, np.float32)).astype(np.float64)
        neighbour = images[:, :, rows][..., columns].astype(np.float64)
        total = (neighbour * weight + total).astype(np.float32)
    return total
