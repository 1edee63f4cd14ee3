"""What a pretrained_cfg of timm asks for, as a record; ConfigError where that is nothing that is done here."""

from collections.abc import Mapping
from typing import Any

from reforg.images.preprocessing.record import IMAGENET_MEAN, IMAGENET_STD, OFFICIAL_CROP, Preprocessing
from reforg.images.preprocessing.values import as_tuple, averaged, check_word, entry_or, pair

# timm's crop_mode: our resize and crop_mode.
CROPS = {"center": ("shortest", "center"), "squash": ("exact", "center"), "border": ("longest", "border")}


def of_timm(cfg: Mapping[str, Any]) -> Preprocessing:
    """What timm's pretrained_cfg asks for; of its sizes `input_size` (channels, height, width), or `img_size`.

    What it does not tell is timm's default: 224, 0.875, bicubic, ImageNet's mean and deviation. Statistics of another number
    of channels are averaged, as timm does for a model whose channels were changed. Raises ConfigError.
    """
    sides = as_tuple(cfg.get("input_size"), "input_size", (3, *pair("img_size", entry_or(cfg, "img_size", 224))), length=3)
    channels, height, width = sides
    resize, crop = CROPS[check_word("crop_mode", entry_or(cfg, "crop_mode", "center"), CROPS)]
    return Preprocessing(
        (height, width),
        resize,
        crop_ratio=entry_or(cfg, "crop_pct", OFFICIAL_CROP),
        crop_mode=crop,
        interpolation=entry_or(cfg, "interpolation", "bicubic"),
        mean=averaged("mean", entry_or(cfg, "mean", IMAGENET_MEAN), channels),
        std=averaged("std", entry_or(cfg, "std", IMAGENET_STD), channels),
        channels=channels,
    )
