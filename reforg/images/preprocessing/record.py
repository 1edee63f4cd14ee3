"""The record itself: from a decoded image to (channels, height, width)."""

import math
from dataclasses import dataclass, fields, replace
from typing import Any

from reforg.errors import ConfigError, nearest
from reforg.images.preprocessing.values import check_count, check_word, is_number, pair, statistic

IMAGENET_MEAN, IMAGENET_STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
HALF = (0.5, 0.5, 0.5)
OFFICIAL_CROP = 0.875  # 256 to 224, 438 to 384: DeiT's, EViT's and Shunted's evaluation, and timm's default
RESIZES = {
    "shortest": "resize the shortest edge to",
    "exact": "resize to exactly",
    "longest": "resize the longest edge to",
    "none": "do not resize",
}
CROPS = {"center": "crop the middle", "border": "crop or pad the middle", "none": "no crop"}
INTERPOLATIONS = ("nearest", "lanczos", "bilinear", "bicubic", "box", "hamming")  # in the order of PIL's numbers
COLOURS = ("RGB", "L")  # PIL's modes
OFFSETS = ("rounded", "floored")
MOST_PIXELS, SMALLEST_CROP, SMALLEST_STD = 2**26, 2.0**-16, 1e-30  # beyond which memory, or float32, has an end


@dataclass(frozen=True)
class Preprocessing:
    """From a decoded image to (channels, height, width): resize, crop, scale to [0, 1], subtract mean, divide by std.

    size: height and width of the result. resize: "shortest" keeps the proportions and covers `resized` (of a square: the
    shortest edge becomes its side), "longest" keeps them and fits into it, "exact" does not keep them, "none" does nothing.
    resize_size: (height, width) to resize to; None: what the crop leaves divided by crop_ratio, rounded down.
    crop_mode: "center" cuts out the middle (black where the image is smaller), "border" fills up with the mean's colour,
    "none" leaves the image as the resize made it. interpolation: of PIL's, on whole levels of 0 to 255.
    mean, std: one value a channel, of [0, 1]. channels: of the result. colour: "RGB", or "L" for grey, which is repeated
    where there are more channels than one; empty: grey for one channel, else RGB.
    crop_size: (height, width) that the crop leaves; None: the size. Where it is not the size, values in [0, 1] are resampled
    to it: bilinear, in float32, without antialiasing.
    crop_offset: where an odd number of pixels is cut, the half is "rounded" to the even side (torchvision and timm) or
    "floored" (transformers).
    """

    size: tuple[int, int]
    resize: str = "shortest"
    resize_size: tuple[int, int] | None = None
    crop_ratio: float = OFFICIAL_CROP
    crop_mode: str = "center"
    interpolation: str = "bicubic"
    mean: tuple[float, ...] = IMAGENET_MEAN
    std: tuple[float, ...] = IMAGENET_STD
    channels: int = 3
    colour: str = ""
    crop_size: tuple[int, int] | None = None
    crop_offset: str = "rounded"

    def __post_init__(self) -> None:
        check_count("channels", self.channels)
        object.__setattr__(self, "size", pair("size", self.size))
        for name in ("resize_size", "crop_size"):
            if getattr(self, name) is not None:
                object.__setattr__(self, name, pair(name, getattr(self, name)))
        if not self.colour:
            object.__setattr__(self, "colour", "L" if self.channels == 1 else "RGB")
        if not is_number(self.crop_ratio) or not SMALLEST_CROP <= self.crop_ratio <= 1:
            raise ConfigError(f"preprocessing crop_ratio must lie in (0, 1], got {self.crop_ratio!r:.80}")
        for name, (height, width) in (("size", self.size), ("crop_size", self.cropped)):
            if height * width > MOST_PIXELS:
                raise ConfigError(f"preprocessing {name} {height}x{width} has more than {MOST_PIXELS:,} pixels")
        for name, known in (
            ("resize", RESIZES),
            ("crop_mode", CROPS),
            ("interpolation", INTERPOLATIONS),
            ("colour", COLOURS),
            ("crop_offset", OFFSETS),
        ):
            check_word(name, getattr(self, name), known)
        for name in ("mean", "std"):
            object.__setattr__(self, name, statistic(name, getattr(self, name), self.channels))
        if min(self.std) < SMALLEST_STD:
            raise ConfigError(f"preprocessing std must be positive, got {min(self.std)}")

    @property
    def cropped(self) -> tuple[int, int]:
        """Height and width that the crop leaves."""
        return self.size if self.crop_size is None else self.crop_size

    @property
    def resized(self) -> tuple[int, int]:
        """Height and width that the resize aims at, before the crop."""
        if self.resize_size is not None:
            return self.resize_size
        height, width = self.cropped
        return math.floor(height / self.crop_ratio), math.floor(width / self.crop_ratio)

    def changed(self, /, **values: Any) -> "Preprocessing":
        """The same with other fields; ConfigError for a field that there is not.

        What follows from a field that changes is let go of: resize_size with a size or a crop ratio, colour with channels.
        """
        known = [field.name for field in fields(self)]
        for name in values:
            if name not in known:
                raise ConfigError(f"preprocessing has no field {name!r}{nearest(name, known)} (known: {', '.join(known)})")
        if values.keys() & {"size", "crop_size", "crop_ratio"}:
            values = {"resize_size": None} | values
        if "channels" in values:
            values = {"colour": ""} | values
        return replace(self, **values)

    def __str__(self) -> str:
        steps = ["in grey"] if self.colour == "L" else []
        steps += [_resize_told(self), CROPS[self.crop_mode] + ("" if self.crop_mode == "none" else f" {_sides(self.cropped)}")]
        if self.cropped != self.size:
            steps.append(f"resample to {_sides(self.size)} (bilinear)")
        return ", ".join([*steps, f"mean {_in_digits(self.mean)}", f"std {_in_digits(self.std)}"])


def _resize_told(record: Preprocessing) -> str:
    """The resize in words, one number for an edge that becomes the side of a square."""
    if record.resize == "none":
        return RESIZES["none"]
    (height, width), kept = record.resized, record.resize != "exact"
    target = height if height == width and kept else _sides((height, width))
    return f"{RESIZES[record.resize]} {target} ({record.interpolation})"


def _sides(sides: tuple[int, int]) -> str:
    return f"{sides[0]}x{sides[1]}"


def _in_digits(values: tuple[float, ...]) -> str:
    return "(" + ", ".join(f"{value:g}" for value in values) + ")"
