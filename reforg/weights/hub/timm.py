"""What timm's config.json describes."""

import re
from collections.abc import Mapping
from typing import Any

from reforg.catalog.names import build_config, timm_tags
from reforg.errors import ConfigError, nearest
from reforg.images.preprocessing import of_timm as prepared_as
from reforg.weights.hub.described import Described
from reforg.weights.hub.values import as_count, as_field, as_mapping, as_number, as_size, as_text

CODED = re.compile(r"n\d{8}|/[a-z]/\w+", re.ASCII)  # labels that tell nobody anything: WordNet's and Open Images' ids
# What a timm model is made with, and is a field of ours under the same name.
FIELDS = (
    "img_size", "patch_size", "in_chans", "num_classes", "global_pool", "embed_dim", "depth", "num_heads", "mlp_ratio",
    "qkv_bias", "init_values", "no_embed_class",
)  # fmt: skip
# What changes training alone, or other image sizes, whose positions are resampled here in any case.
TRAINING = (
    "drop_rate", "pos_drop_rate", "patch_drop_rate", "proj_drop_rate", "attn_drop_rate", "drop_path_rate", "weight_init",
    "fix_init", "dynamic_img_size", "strict_img_size", "pretrained_strict",
)  # fmt: skip
# What must be as here, timm's defaults, for the model to be the one that this package computes.
PLAIN: dict[str, tuple[Any, ...]] = {
    "class_token": (True,), "pos_embed": ("learn",), "reg_tokens": (0,), "pre_norm": (False,), "final_norm": (True,),
    "qk_norm": (False,), "scale_attn_norm": (False,), "scale_mlp_norm": (False,), "proj_bias": (True,),
    "pool_include_prefix": (False,), "dynamic_img_pad": (False,), "act_layer": ("gelu",),
}  # fmt: skip


def of_timm(cfg: dict[str, Any]) -> Described:
    """What timm's config.json describes, in its nested form or in the older flat one."""
    nested = "pretrained_cfg" in cfg
    pretrained = as_mapping(cfg, "pretrained_cfg") if nested else cfg
    args = {key: value for key, value in as_mapping(cfg, "model_args").items() if value is not None}
    name = _timm_name(cfg, pretrained)
    settings = _timm_settings(cfg, pretrained, args)
    config = build_config(name, **settings)
    labels = _timm_labels({**pretrained, **cfg}, config.num_classes)
    told = pretrained.get("input_size")
    sides = config.image_shape if told is None or pretrained.get("fixed_input_size") else told[1:]
    return Described(name, settings, labels, prepared_as(pretrained | {"input_size": [config.in_chans, *sides]}))


def _timm_name(cfg: Mapping[str, Any], pretrained: Mapping[str, Any]) -> str:
    """The architecture, with the tag where it is one of timm's: a fine-tuned model may have any."""
    base, _, tag = as_text(cfg, "architecture").partition(".")
    known = timm_tags()
    if base not in known:
        raise ConfigError(f"timm's architecture {base!r:.80} is not one that is computed here{nearest(base, known)}")
    tag = tag or (as_text(pretrained, "tag") if pretrained.get("tag") is not None else "")
    return f"{base}.{tag}" if tag and tag in known[base] else base


def _timm_settings(cfg: Mapping[str, Any], pretrained: Mapping[str, Any], args: Mapping[str, Any]) -> dict[str, Any]:
    """The fields that timm would give the model: what its record of the weights says, then model_args."""
    found: dict[str, Any] = {}
    for source in (pretrained, cfg):  # the second tells of the model that was saved, the first of where it came from
        found |= {key: as_field(key, source[key]) for key in ("num_classes", "global_pool") if source.get(key) is not None}
    if (size := pretrained.get("input_size")) is not None:
        if not isinstance(size, list) or len(size) != 3:
            raise ConfigError(f"input_size wants [channels, height, width], got {size!r:.80}")
        found["in_chans"] = as_count(size[0], "input_size")
        if pretrained.get("fixed_input_size"):
            found["img_size"] = as_size(size[1:], "input_size")
    found |= {key: as_field(key, value) for key, value in args.items() if key in FIELDS}
    _refuse_variants(args, found.get("global_pool"))
    return found


def _refuse_variants(args: Mapping[str, Any], pool: Any) -> None:
    """ConfigError for an argument that makes the model another one than is computed here."""
    for key, value in args.items():
        plain = PLAIN.get(key, ((pool == "avg"),) if key == "fc_norm" else ())
        if key in (*FIELDS, *TRAINING) or any(
            value is choice or (type(value) is type(choice) and value == choice) for choice in plain
        ):
            continue
        raise ConfigError(f"model_args: {key!r:.80} {value!r:.80} makes a model that is not computed here")


def _timm_labels(cfg: Mapping[str, Any], num_classes: int) -> tuple[str, ...] | None:
    """Names of the classes: a list, or a mapping from their numbers, with descriptions in place of mere ids.

    None where their number is not the model's: timm used to leave the labels of the model that was fine-tuned.
    """
    told = cfg.get("label_names", cfg.get("labels"))
    if told is None or not num_classes:
        return None
    labels = list(told.values()) if isinstance(told, dict) else told
    if not isinstance(labels, list) or not all(isinstance(label, str) for label in labels):
        raise ConfigError("label_names must be texts")
    if isinstance(told, dict):
        numbered = dict(zip((as_number(key, "label_names") for key in told), labels, strict=True))
        if any(number >= num_classes for number in numbered):
            return None
        labels = [numbered.get(number, str(number)) for number in range(num_classes)]  # it may have gaps
    described = as_mapping(cfg, "label_descriptions")
    if not all(isinstance(label, str) for label in described.values()):
        raise ConfigError("label_descriptions must be texts")
    if any(CODED.fullmatch(label) for label in labels):
        labels = [described.get(label, label) for label in labels]
    return tuple(labels) if len(labels) == num_classes else None
