"""How an image becomes a model's input, as a frozen record: what a name, timm or transformers says about it."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from reforg.config import Config
from reforg.errors import ConfigError, nearest
from reforg.names import EMBEDDED, resolve, timm_tags

IMAGENET_MEAN, IMAGENET_STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
HALF = (0.5, 0.5, 0.5)
CLIP_MEAN, CLIP_STD = (0.48145466, 0.4578275, 0.40821073), (0.26862954, 0.26130258, 0.27577711)
OFFICIAL_CROP = 0.875  # 256 to 224, 438 to 384: DeiT's, EViT's and Shunted's evaluation, and timm's default
RESIZES = {
    "shortest": "resize the shortest edge to",
    "exact": "resize to exactly",
    "longest": "resize the longest edge to",
    "none": "do not resize",
}
CROPS = {"center": "crop the middle", "border": "crop or pad the middle", "none": "no crop"}
INTERPOLATIONS = ("nearest", "lanczos", "bilinear", "bicubic", "box", "hamming")  # in the order of PIL's numbers
# timm's crop_mode: our resize and crop_mode.
TIMM_CROPS = {"center": ("shortest", "center"), "squash": ("exact", "center"), "border": ("longest", "border")}
BYTES = 1 / 255  # what scales a pixel to [0, 1]
LARGEST_SIDE, LARGEST_NUMBER = 2**16, 1e30  # what a file may ask for, so that no later product overflows


@dataclass(frozen=True)
class Preprocessing:
    """From a decoded image to (channels, height, width): resize, crop, scale to [0, 1], subtract mean, divide by std.

    size: height and width of the result. resize: "shortest" keeps the proportions and covers `resized` (of a square: the
    shortest edge becomes its side), "longest" keeps them and fits into it, "exact" does not keep them, "none" does nothing.
    resize_size: (height, width) to resize to; None: the size divided by crop_ratio, rounded down.
    crop_mode: "center" cuts out the middle (black where the image is smaller), "border" fills up with the mean's colour,
    "none" leaves the image as the resize made it. interpolation: of PIL's. mean, std: one value a channel, of [0, 1].
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

    def __post_init__(self) -> None:
        _check_count("channels", self.channels)
        object.__setattr__(self, "size", _pair("size", self.size))
        if self.resize_size is not None:
            object.__setattr__(self, "resize_size", _pair("resize_size", self.resize_size))
        if not _is_number(self.crop_ratio) or not 0 < self.crop_ratio <= 1:
            raise ConfigError(f"preprocessing crop_ratio must lie in (0, 1], got {self.crop_ratio!r:.80}")
        for name, known in (("resize", RESIZES), ("crop_mode", CROPS), ("interpolation", INTERPOLATIONS)):
            _check_word(name, getattr(self, name), known)
        for name in ("mean", "std"):
            object.__setattr__(self, name, _statistic(name, getattr(self, name), self.channels))
        if min(self.std) <= 0:
            raise ConfigError(f"preprocessing std must be positive, got {min(self.std)}")

    @property
    def resized(self) -> tuple[int, int]:
        """Height and width that the resize aims at, before the crop."""
        if self.resize_size is not None:
            return self.resize_size
        height, width = self.size
        return math.floor(height / self.crop_ratio), math.floor(width / self.crop_ratio)

    def __str__(self) -> str:
        (height, width), (above, across) = self.size, self.resized
        target = (
            "" if self.resize == "none" else f" {above}" if above == across and self.resize != "exact" else f" {above}x{across}"
        )
        steps = [RESIZES[self.resize] + target + ("" if self.resize == "none" else f" ({self.interpolation})")]
        steps.append(CROPS[self.crop_mode] + ("" if self.crop_mode == "none" else f" {height}x{width}"))
        return ", ".join([*steps, f"mean {_told(self.mean)}", f"std {_told(self.std)}"])


def of_timm(cfg: Mapping[str, Any]) -> Preprocessing:
    """What timm's pretrained_cfg asks for; of its sizes `input_size` (channels, height, width), or `img_size`.

    What it does not tell is timm's default: 224, 0.875, bicubic, ImageNet's mean and deviation. Statistics of another number
    of channels are averaged, as timm does for a model whose channels were changed. Raises ConfigError.
    """
    sides = _listed(cfg.get("input_size"), "input_size", (3, *_pair("img_size", _told_or(cfg, "img_size", 224))), length=3)
    channels, height, width = sides
    resize, crop = TIMM_CROPS[_check_word("crop_mode", _told_or(cfg, "crop_mode", "center"), TIMM_CROPS)]
    return Preprocessing(
        (height, width),
        resize,
        crop_ratio=_told_or(cfg, "crop_pct", OFFICIAL_CROP),
        crop_mode=crop,
        interpolation=_told_or(cfg, "interpolation", "bicubic"),
        mean=_averaged("mean", _told_or(cfg, "mean", IMAGENET_MEAN), channels),
        std=_averaged("std", _told_or(cfg, "std", IMAGENET_STD), channels),
        channels=channels,
    )


@dataclass(frozen=True)
class _Processor:
    """What a class of transformers' image processors does where its file does not tell."""

    size: Any
    crop_size: int | None  # None: it never crops
    resample: int
    mean: tuple[float, ...]
    std: tuple[float, ...]
    square: bool = True  # whether a size of one number is a square's side; else it is the shortest edge's


PROCESSORS = {
    "ViT": _Processor(224, None, 2, HALF, HALF),
    "DeiT": _Processor(256, 224, 3, HALF, HALF),
    "Bit": _Processor(224, 224, 3, CLIP_MEAN, CLIP_STD, square=False),
    "CLIP": _Processor(224, 224, 3, CLIP_MEAN, CLIP_STD, square=False),
}
PROCESSOR_OF = {"vit": "ViT", "deit": "DeiT", "dinov2": "Bit"}  # model_type: the processor of a file that names none
SUFFIXES = ("FeatureExtractor", "ImageProcessorFast", "ImageProcessorPil", "ImageProcessor")


def of_transformers(cfg: Mapping[str, Any], image_size: Any, model_type: str = "vit", channels: int = 3) -> Preprocessing:
    """What a preprocessor_config.json of ViTImageProcessor, DeiTImageProcessor or BitImageProcessor asks for.

    image_size: the model's, which images have that are neither resized nor cropped. model_type: of the model, for the old
    files that do not name their class. A rescale_factor other than 1/255 goes into mean and std. Raises ConfigError.
    """
    told = PROCESSORS[_processor(cfg, model_type)]
    crops = _flag(cfg, "do_center_crop", default=told.crop_size is not None)
    mode, target, size = "none", None, _pair("image_size", image_size)
    if _flag(cfg, "do_resize", default=True):
        mode, target = _resize(_told_or(cfg, "size", told.size), told.square)
        size = target
    if crops:
        size = _sides(_told_or(cfg, "crop_size", told.crop_size or 224), "crop_size")
    elif mode == "shortest":
        raise ConfigError("preprocessing: a resize of the shortest edge without a crop gives images of many sizes")
    if _told_or(cfg, "do_pad", default=False) is not False:
        raise ConfigError("preprocessing: do_pad is not known here")
    mean, std = _normalization(cfg, told, channels)
    return Preprocessing(
        size, mode, target, _ratio(size, target), "center" if crops else "none", _interpolation(cfg, told), mean, std, channels
    )


def of_name(name: str, config: Config) -> Preprocessing | None:
    """What the evaluation that belongs to a model's name does, at the config's image size.

    A tagged name's is timm's record of the tag, any other ViT's timm's record of the name; DeiT's, DeiT III's, EViT's and
    Shunted's are the official code's. None for the models that bring their weights, which have their own, and where the
    number of channels is not three, for which nobody recorded a mean. Raises ConfigError for an unknown name.
    """
    listed, (base, _, tag) = resolve(name), name.partition(".")
    if listed in EMBEDDED or config.in_chans != 3:
        return None
    record = timm_tags().get(base, {}).get(tag)
    if record is not None and (tag or config.family == "vit"):
        return of_timm({**record, "input_size": (3, *config.image_shape)})
    return Preprocessing(config.image_shape, crop_ratio=1.0 if config.family == "deit3" else OFFICIAL_CROP)


def _processor(cfg: Mapping[str, Any], model_type: str) -> str:
    """Whose defaults hold: the class that the file names, or else the model's own."""
    named = cfg.get("image_processor_type") or cfg.get("feature_extractor_type")
    if named is None:
        return PROCESSOR_OF[_check_word("model_type", model_type, PROCESSOR_OF)]
    word = str(named)
    for suffix in SUFFIXES:
        if word.removesuffix(suffix) in PROCESSORS and word.endswith(suffix):
            return word.removesuffix(suffix)
    known = [f"{word}ImageProcessor" for word in PROCESSORS]
    raise ConfigError(f"preprocessing: image processor {named!r:.80} is none of {', '.join(known)}{nearest(word, known)}")


def _resize(size: Any, square: bool) -> tuple[str, tuple[int, int]]:
    """How to resize, and to what (height, width): "shortest_edge", or a size that does not keep proportions."""
    if isinstance(size, Mapping) and set(size) == {"shortest_edge"}:
        return "shortest", _pair("size", size["shortest_edge"])
    if isinstance(size, int) and not square:
        return "shortest", _pair("size", size)
    return "exact", _sides(size, "size")


def _sides(size: Any, name: str) -> tuple[int, int]:
    """Height and width of transformers' {"height": ..., "width": ...}, of one number, or of two."""
    if isinstance(size, Mapping):
        if set(size) != {"height", "width"}:
            raise ConfigError(f"preprocessing {name} wants height and width, got {', '.join(sorted(map(str, size)))[:80]!r}")
        size = (size["height"], size["width"])
    return _pair(name, size)


def _ratio(size: tuple[int, int], target: tuple[int, int] | None) -> float:
    """How much of the resized image the crop leaves; all of it where the crop pads."""
    return 1.0 if target is None else min(1.0, size[0] / target[0])


def _interpolation(cfg: Mapping[str, Any], told: _Processor) -> str:
    code = _told_or(cfg, "resample", told.resample)
    if type(code) is not int or not 0 <= code < len(INTERPOLATIONS):
        raise ConfigError(f"preprocessing resample must be one of PIL's numbers 0 to {len(INTERPOLATIONS) - 1}, got {code!r:.80}")
    return INTERPOLATIONS[code]


def _normalization(cfg: Mapping[str, Any], told: _Processor, channels: int) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """Mean and deviation of values in [0, 1]: (f p - mean) / std of pixels p, where f is not 1/255, is the same of p / 255."""
    mean, std = (0.0,) * channels, (1.0,) * channels
    if _flag(cfg, "do_normalize", default=True):
        mean = _statistic("mean", _told_or(cfg, "image_mean", told.mean), channels)
        std = _statistic("std", _told_or(cfg, "image_std", told.std), channels)
    factor = _told_or(cfg, "rescale_factor", BYTES) if _flag(cfg, "do_rescale", default=True) else 1.0
    if not _is_number(factor) or factor <= 0:
        raise ConfigError(f"preprocessing rescale_factor must be a positive number, got {factor!r:.80}")
    if math.isclose(factor, BYTES):
        return mean, std
    return tuple(value * BYTES / factor for value in mean), tuple(value * BYTES / factor for value in std)


def _statistic(name: str, value: Any, channels: int) -> tuple[float, ...]:
    """One finite number a channel; a single one counts for all."""
    values = tuple(value) if isinstance(value, list | tuple) else (value,)
    values = values * channels if len(values) == 1 else values
    if len(values) != channels:
        raise ConfigError(f"preprocessing {name} wants one value for each of {channels} channels, got {len(values)}")
    for entry in values:
        if not _is_number(entry):
            raise ConfigError(f"preprocessing {name} wants numbers, got {entry!r:.80}")
    return tuple(float(entry) for entry in values)


def _averaged(name: str, value: Any, channels: Any) -> Any:
    """The statistic, or the mean of its values where there is not one for each channel."""
    if not isinstance(value, list | tuple) or len(value) in (0, 1, channels):
        return value
    return math.fsum(_statistic(name, value, len(value))) / len(value)


def _pair(name: str, value: Any) -> tuple[int, int]:
    """(height, width) of whole numbers; one number is both."""
    height, width = _listed(value, name, None, length=2) if isinstance(value, Sequence) else (value, value)
    for side in (height, width):
        _check_count(name, side)
    return height, width


def _check_count(name: str, value: Any) -> None:
    if not isinstance(value, int) or isinstance(value, bool) or not 1 <= value <= LARGEST_SIDE:
        raise ConfigError(f"preprocessing {name} must be a whole number from 1 to {LARGEST_SIDE}, got {value!r:.80}")


def _listed(value: Any, name: str, default: Any, length: int) -> tuple[Any, ...]:
    """A list of so many entries as a tuple; `default` in place of None."""
    value = default if value is None else value
    if not isinstance(value, list | tuple) or len(value) != length:
        raise ConfigError(f"preprocessing {name} wants {length} numbers, got {value!r:.80}")
    return tuple(value)


def _told_or(cfg: Mapping[str, Any], key: str, default: Any) -> Any:
    """The entry, or the default where there is none or it is null."""
    value = cfg.get(key)
    return default if value is None else value


def _flag(cfg: Mapping[str, Any], key: str, default: bool) -> bool:
    value = _told_or(cfg, key, default)
    if not isinstance(value, bool):
        raise ConfigError(f"preprocessing {key} must be true or false, got {value!r:.80}")
    return value


def _check_word(name: str, value: Any, known: Mapping[str, Any] | Sequence[str]) -> str:
    if not isinstance(value, str) or value not in known:
        raise ConfigError(f"preprocessing {name} must be one of {', '.join(known)}, got {value!r:.80}")
    return value


def _is_number(value: Any) -> bool:
    """Whether a finite number of a size that can be computed with."""
    return isinstance(value, int | float) and not isinstance(value, bool) and -LARGEST_NUMBER <= value <= LARGEST_NUMBER


def _told(values: tuple[float, ...]) -> str:
    return "(" + ", ".join(f"{value:g}" for value in values) + ")"
