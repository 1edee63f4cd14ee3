"""What a preprocessor_config.json of transformers asks for, as a record; ConfigError where that is nothing that is done here."""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from reforg.errors import ConfigError, nearest
from reforg.images.preprocessing.record import HALF, INTERPOLATIONS, Preprocessing
from reforg.images.preprocessing.values import check_word, entry_or, flag, is_number, pair, statistic

CLIP_MEAN, CLIP_STD = (0.48145466, 0.4578275, 0.40821073), (0.26862954, 0.26130258, 0.27577711)
BYTES = 1 / 255  # what scales a pixel to [0, 1]


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
    crops = flag(cfg, "do_center_crop", default=told.crop_size is not None)
    mode, target, size = "none", None, pair("image_size", image_size)
    if flag(cfg, "do_resize", default=True):
        mode, target = _resize(entry_or(cfg, "size", told.size), told.square)
        size = target
    if crops:
        size = _sides(entry_or(cfg, "crop_size", told.crop_size or 224), "crop_size")
    elif mode == "shortest":
        raise ConfigError("preprocessing: a resize of the shortest edge without a crop gives images of many sizes")
    if entry_or(cfg, "do_pad", default=False) is not False:
        raise ConfigError("preprocessing: do_pad is not known here")
    mean, std = _normalization(cfg, told, channels)
    return Preprocessing(
        size,
        mode,
        target,
        _ratio(size, target),
        "center" if crops else "none",
        _interpolation(cfg, told),
        mean,
        std,
        channels,
        crop_offset="floored",
    )


def _processor(cfg: Mapping[str, Any], model_type: str) -> str:
    """Whose defaults hold: the class that the file names, or else the model's own."""
    named = cfg.get("image_processor_type") or cfg.get("feature_extractor_type")
    if named is None:
        return PROCESSOR_OF[check_word("model_type", model_type, PROCESSOR_OF)]
    word = str(named)
    for suffix in SUFFIXES:
        if word.removesuffix(suffix) in PROCESSORS and word.endswith(suffix):
            return word.removesuffix(suffix)
    known = [f"{word}ImageProcessor" for word in PROCESSORS]
    raise ConfigError(f"preprocessing: image processor {named!r:.80} is none of {', '.join(known)}{nearest(word, known)}")


def _resize(size: Any, square: bool) -> tuple[str, tuple[int, int]]:
    """How to resize, and to what (height, width): "shortest_edge", or a size that does not keep proportions."""
    if isinstance(size, Mapping) and set(size) == {"shortest_edge"}:
        return "shortest", pair("size", size["shortest_edge"])
    if isinstance(size, int) and not square:
        return "shortest", pair("size", size)
    return "exact", _sides(size, "size")


def _sides(size: Any, name: str) -> tuple[int, int]:
    """Height and width of transformers' {"height": ..., "width": ...}, of one number, or of two."""
    if isinstance(size, Mapping):
        if set(size) != {"height", "width"}:
            raise ConfigError(f"preprocessing {name} wants height and width, got {', '.join(sorted(map(str, size)))[:80]!r}")
        size = (size["height"], size["width"])
    return pair(name, size)


def _ratio(size: tuple[int, int], target: tuple[int, int] | None) -> float:
    """How much of the resized image the crop leaves; all of it where the crop pads."""
    return 1.0 if target is None else min(1.0, size[0] / target[0])


def _interpolation(cfg: Mapping[str, Any], told: _Processor) -> str:
    code = entry_or(cfg, "resample", told.resample)
    if type(code) is not int or not 0 <= code < len(INTERPOLATIONS):
        raise ConfigError(f"preprocessing resample must be one of PIL's numbers 0 to {len(INTERPOLATIONS) - 1}, got {code!r:.80}")
    return INTERPOLATIONS[code]


def _normalization(cfg: Mapping[str, Any], told: _Processor, channels: int) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """Mean and deviation of values in [0, 1]: (f p - mean) / std of pixels p, where f is not 1/255, is the same of p / 255."""
    mean, std = (0.0,) * channels, (1.0,) * channels
    if flag(cfg, "do_normalize", default=True):
        mean = statistic("mean", entry_or(cfg, "image_mean", told.mean), channels)
        std = statistic("std", entry_or(cfg, "image_std", told.std), channels)
    factor = entry_or(cfg, "rescale_factor", BYTES) if flag(cfg, "do_rescale", default=True) else 1.0
    if not is_number(factor) or factor <= 0:
        raise ConfigError(f"preprocessing rescale_factor must be a positive number, got {factor!r:.80}")
    if math.isclose(factor, BYTES):
        return mean, std
    return tuple(value * BYTES / factor for value in mean), tuple(value * BYTES / factor for value in std)
