"""What transformers' config.json describes."""

import math
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from reforg.catalog.names import build_config, registry
from reforg.config import VitConfig
from reforg.errors import ConfigError, nearest
from reforg.images.preprocessing import of_transformers as prepared_as
from reforg.weights.hub.described import Described
from reforg.weights.hub.files import CONFIG
from reforg.weights.hub.values import as_count, as_field, as_flag, as_mapping, as_number, as_positive, as_size, as_text


@dataclass(frozen=True)
class _Kind:
    """A model_type of transformers: its own defaults, and which classes of it are computed here."""

    pattern: str  # of the names that it may have here
    classes: dict[str, bool]  # class: whether it has a classifier
    norm_eps: float
    patch_size: int
    refused: dict[str, str]  # class: why it is not computed here
    scaled: bool = False  # whether it has LayerScale, and tells the MLP's ratio in place of its width


KINDS = {
    "vit": _Kind(
        r"vit_\w+_patch\d+_\d+", {"ViTForImageClassification": True, "ViTModel": False}, 1e-12, 16, {},
    ),
    "deit": _Kind(
        r"deit_\w+_distilled_patch\d+_\d+", {"DeiTForImageClassificationWithTeacher": True, "DeiTModel": False}, 1e-12, 16,
        {"DeiTForImageClassification": "has one head for two special tokens, the class token's; here each token has its own"},
    ),
    "dinov2": _Kind(
        r"vit_\w+_dinov2", {"Dinov2Model": False}, 1e-6, 14,
        {"Dinov2ForImageClassification": "has a head that reads the class token and the mean of the patches side by side"}, True,
    ),
}  # fmt: skip
# What must be as here for the model to be the one that this package computes; absent is transformers' default.
STANDARD: dict[str, tuple[Any, ...]] = {
    "hidden_act": ("gelu",), "use_swiglu_ffn": (False,), "num_register_tokens": (0,), "auto_map": (), "quantization_config": (),
}  # fmt: skip


def of_transformers(cfg: dict[str, Any], preprocessor: dict[str, Any] | None) -> Described:
    """What transformers' config.json describes."""
    told = cfg.get("model_type")
    if told is None:
        raise ConfigError(f"{CONFIG} is neither timm's, which names an architecture, nor transformers', which names a model_type")
    word = as_text(cfg, "model_type")
    if word not in KINDS:
        raise ConfigError(f"transformers' model_type {word!r:.80} is none of {', '.join(KINDS)}{nearest(word, KINDS)}")
    kind = KINDS[word]
    cfg = {key: value for key, value in cfg.items() if value is not None}
    classifies = kind.classes[_class(cfg, kind)]
    _refuse_nonstandard(cfg)
    settings = _transformers_settings(cfg, kind)
    labels = _transformers_labels(cfg) if classifies else ()
    settings["num_classes"] = len(labels)
    generic = all(re.fullmatch(r"LABEL_\d+", label) for label in labels)
    prepared = None
    if preprocessor is not None:
        prepared = prepared_as(preprocessor, settings["img_size"], word, settings["in_chans"])
    return Described(_nearest_name(kind, settings), settings, None if generic else labels, prepared)


def _class(cfg: Mapping[str, Any], kind: _Kind) -> str:
    """The class that was saved, which is one that is computed here."""
    named = cfg.get("architectures")
    word = named[0] if isinstance(named, list) and named else None
    if not isinstance(word, str):
        raise ConfigError(f"{CONFIG} does not tell under 'architectures' which class was saved")
    if word in kind.refused:
        raise ConfigError(f"transformers' {word} {kind.refused[word]}")
    if word not in kind.classes:
        raise ConfigError(f"transformers' class {word!r:.80} is none of {', '.join(kind.classes)}{nearest(word, kind.classes)}")
    return word


def _refuse_nonstandard(cfg: Mapping[str, Any]) -> None:
    """ConfigError for an entry that makes the model another one than is computed here."""
    width, heads = (
        as_count(cfg.get("hidden_size", 768), "hidden_size"),
        as_count(cfg.get("num_attention_heads", 12), "num_attention_heads"),
    )
    for key, choices in (STANDARD | {"head_dim": (width // heads,)}).items():
        if key in cfg and not any(type(cfg[key]) is type(choice) and cfg[key] == choice for choice in choices):
            raise ConfigError(f"{key} {cfg[key]!r:.80} makes a model that is not computed here")


def _transformers_settings(cfg: Mapping[str, Any], kind: _Kind) -> dict[str, Any]:
    """The fields of ours that transformers names otherwise; its defaults, which are not timm's, where it tells nothing."""
    width = as_count(cfg.get("hidden_size", 768), "hidden_size")
    own: dict[str, Any]
    if kind.scaled:
        own = {"mlp_ratio": as_positive(cfg, "mlp_ratio", 4.0), "init_values": as_positive(cfg, "layerscale_value", 1.0)}
    else:
        own = {"mlp_ratio": _ratio(width, as_count(cfg.get("intermediate_size", 3072), "intermediate_size"))}
    return own | {
        "img_size": as_size(cfg.get("image_size", 224), "image_size"),
        "patch_size": as_field("patch_size", cfg.get("patch_size", kind.patch_size)),
        "in_chans": as_count(cfg.get("num_channels", 3), "num_channels"),
        "embed_dim": width,
        "depth": as_field("depth", cfg.get("num_hidden_layers", 12)),
        "num_heads": as_count(cfg.get("num_attention_heads", 12), "num_attention_heads"),
        "qkv_bias": as_flag(cfg.get("qkv_bias", True), "qkv_bias"),
        "norm_eps": as_positive(cfg, "layer_norm_eps", kind.norm_eps),
        "antialias": False,  # as its interpolate_pos_encoding
    }


def _transformers_labels(cfg: Mapping[str, Any]) -> tuple[str, ...]:
    """The names of the classes, as many as the classifier has; LABEL_0 and so on where it tells only their number."""
    if "id2label" not in cfg:
        count = as_count(cfg.get("num_labels", 2), "num_labels", 0)  # 2 is transformers' default
        return tuple(f"LABEL_{number}" for number in range(count))
    told = as_mapping(cfg, "id2label")
    numbered = {as_number(key, "id2label"): label for key, label in told.items()}
    if sorted(numbered) != list(range(len(told))) or not all(isinstance(label, str) for label in numbered.values()):
        raise ConfigError("id2label must name the classes 0, 1, 2 and so on")
    return tuple(numbered[number] for number in range(len(told)))


def _nearest_name(kind: _Kind, settings: Mapping[str, Any]) -> str:
    """The name of the family that has most in common: width, then depth, patch and image size."""
    side = settings["img_size"] if isinstance(settings["img_size"], int) else max(settings["img_size"])
    wanted = (settings["embed_dim"], settings["depth"], settings["patch_size"], side)

    def distance(own: Any) -> tuple[int, ...]:
        has = (own.embed_dim, own.depth, own.patch_size, max(own.image_shape))
        return tuple(abs(left - right) for left, right in zip(has, wanted, strict=True))

    vits = [name for name, entry in registry().items() if entry.config is VitConfig and re.fullmatch(kind.pattern, name)]
    return min(vits, key=lambda name: distance(build_config(name)))


def _ratio(width: int, hidden: int) -> float:
    """The mlp_ratio that gives just this hidden width: int(width * ratio) rounds down."""
    ratio = hidden / width
    return ratio if int(width * ratio) == hidden else math.nextafter(ratio, math.inf)
