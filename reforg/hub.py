"""Weights from the Hugging Face Hub: `hf-hub:owner/name`, of timm's repositories and of transformers'.

huggingface_hub fetches and caches, so its environment variables hold (HF_HOME, HF_HUB_CACHE, HF_HUB_OFFLINE, HF_TOKEN,
HF_ENDPOINT). Only config.json, preprocessor_config.json and one file of weights are ever asked for.
"""

import json
import logging
import math
import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NoReturn

from reforg.config import LARGEST_DEPTH, VitConfig
from reforg.errors import ConfigError, WeightsError, nearest
from reforg.names import build_config, registry, timm_tags
from reforg.preprocessing import Preprocessing, of_timm, of_transformers
from reforg.sources import is_hub_id

PART = r"(?!.*(?:--|\.\.))(?!.*\.git$)\w(?:[\w.-]{0,94}\w)?"
OWNER_AND_NAME = re.compile(rf"{PART}/{PART}", re.ASCII)
REVISION = re.compile(r"(?!.*(?:\.\.|//))\w[\w./+-]{0,254}(?<!/)", re.ASCII)
COMMIT = re.compile(r"[0-9a-f]{40}")
CONFIG, PREPROCESSOR = "config.json", "preprocessor_config.json"
WEIGHTS = ("model.safetensors", "pytorch_model.bin")
SHARDS = ("model.safetensors.index.json", "pytorch_model.bin.index.json")
LARGEST_CONFIG = 4 * 2**20  # bytes; ImageNet-22k's names take a quarter of it
LARGEST_COUNT, LARGEST_NUMBER = 2**20, 1e30  # what a file may ask for, before anything is computed from it
LONGEST_TEXT = 200
CODED = re.compile(r"n\d{8}|/[a-z]/\w+", re.ASCII)  # labels that tell nobody anything: WordNet's and Open Images' ids


@dataclass(frozen=True)
class Repository:
    """What a repository holds: where its weights lie, and what they are the weights of.

    weights: a .safetensors or .bin file in the cache. name: a reforg model, perhaps with timm's tag. settings: fields of
    its VitConfig that differ from the name's own. labels: of the classes, in order; None where they are not told.
    preprocessing: None where the repository tells none.
    """

    weights: Path
    name: str
    settings: dict[str, Any]
    labels: tuple[str, ...] | None
    preprocessing: Preprocessing | None


@dataclass
class _Described:
    """What a config.json says, before the values that the name has anyway are left out."""

    name: str
    settings: dict[str, Any]
    labels: tuple[str, ...] | None = None
    preprocessing: Preprocessing | None = None


def fetch(source: str) -> Repository:
    """The repository of `hf-hub:owner/name` or `hf-hub:owner/name@revision`, downloaded or from the cache.

    All its files are of one commit. Raises WeightsError for everything that can go wrong on the way.
    """
    files = _Files(*_split(source))
    try:
        cfg = _read(files.path(CONFIG), CONFIG)
        if "architecture" in cfg and "model_type" not in cfg:
            found = _timm(cfg)
        else:
            found = _transformers(cfg, _read(path, PREPROCESSOR) if (path := files.optional(PREPROCESSOR)) else None)
        settings = _differing(found.name, found.settings)
    except ConfigError as error:
        raise files.error(str(error)) from error
    except RecursionError as error:  # of a message that shows an entry
        raise files.error(f"{CONFIG} is nested too deeply") from error
    return Repository(files.weights(), found.name, settings, found.labels, found.preprocessing)


def _split(source: str) -> tuple[str, str | None]:
    """Owner/name, and the revision where one is given."""
    name, at, revision = source.partition(":")[2].partition("@")
    if not is_hub_id(source) or not OWNER_AND_NAME.fullmatch(name) or (at and not REVISION.fullmatch(revision)):
        raise WeightsError(f"weights: {source!r:.200} is no Hub id, which is 'hf-hub:owner/name' or 'hf-hub:owner/name@revision'")
    return name, revision if at else None


class _AbsentError(Exception):
    """The repository does not have the file."""


class _UnreachableError(Exception):
    """The file is not in the cache, and nobody can be asked for it."""


@contextmanager
def _quiet() -> Iterator[None]:
    """Without the library's own words about what it tries again: what comes of it is told in one sentence."""
    logger = logging.getLogger("huggingface_hub")
    before = logger.level
    logger.setLevel(logging.ERROR)
    try:
        yield
    finally:
        logger.setLevel(before)


@dataclass
class _Files:
    """The files of one commit of a repository; the first that is fetched tells which commit that is."""

    repository: str
    revision: str | None
    local: bool = False  # whether the Hub was out of reach once: it is not waited for again

    def error(self, what: str) -> WeightsError:
        return WeightsError(f"weights: Hub repository {self.repository!r}: {what}")

    def path(self, filename: str) -> Path:
        """Where a file lies in the cache, fetched if need be; WeightsError where it cannot be had."""
        try:
            return self._fetched(filename)
        except _AbsentError as error:
            raise self.error(f"there is no {filename}") from error
        except _UnreachableError as error:
            raise self.error(f"{filename} is not in the cache, and {error}") from error

    def optional(self, filename: str) -> Path | None:
        """The same, but None where the repository does not have it, or nobody can be asked whether it has."""
        try:
            return self._fetched(filename)
        except (_AbsentError, _UnreachableError):
            return None

    def weights(self) -> Path:
        """The file of weights, safetensors rather than pickled."""
        reasons = []
        for filename in WEIGHTS:
            try:
                return self._fetched(filename)
            except (_AbsentError, _UnreachableError) as error:
                reasons.append(error)
        for filename in SHARDS:
            if self.optional(filename):
                raise self.error(f"the weights are in several files ({filename}), and only a single one is read")
        for reason in reasons:
            if isinstance(reason, _UnreachableError):
                raise self.error(f"neither {' nor '.join(WEIGHTS)} is in the cache, and {reason}")
        raise self.error(f"there is neither {' nor '.join(WEIGHTS)}")

    def _fetched(self, filename: str) -> Path:
        try:
            from huggingface_hub import constants, errors, hf_hub_download
        except ImportError as error:
            raise self.error("this needs huggingface-hub: pip install 'reforg[hub]'") from error
        try:
            with _quiet():
                path = Path(hf_hub_download(self.repository, filename, revision=self.revision, local_files_only=self.local))
        except errors.LocalEntryNotFoundError as error:
            self.local = True
            status = getattr(getattr(error.__cause__, "response", None), "status_code", None)  # of an answer that is no file
            reason = "the Hub cannot be reached" if status is None else f"the Hub answers with status {status}"
            raise _UnreachableError("HF_HUB_OFFLINE is set" if constants.HF_HUB_OFFLINE else reason) from error
        except errors.EntryNotFoundError as error:
            raise _AbsentError(filename) from error
        except Exception as error:  # the library passes on the kinds of whatever transport it uses
            self._refused(filename, error, errors)
        if COMMIT.fullmatch(path.parent.name):
            self.revision = path.parent.name
        return path

    def _refused(self, filename: str, error: Exception, errors: Any) -> NoReturn:
        """The error of a file that could be asked for and was not given."""
        if isinstance(error, errors.GatedRepoError):
            what = "access is restricted: ask for it on the repository's page, then log in with 'hf auth login'"
        elif isinstance(error, errors.RepositoryNotFoundError):
            what = "there is no such repository, or it is private and needs 'hf auth login'"
        elif isinstance(error, errors.RevisionNotFoundError):
            what = f"there is no revision {self.revision!r}"
        else:
            (line, *_) = str(error).strip().splitlines() or [type(error).__name__]
            what = f"{filename} cannot be fetched: {line:.200}"
        raise self.error(what) from error


def _read(path: Path, name: str) -> dict[str, Any]:
    """A JSON object from a file of a bounded size; ConfigError for anything else."""
    try:
        with path.open("rb") as file:
            text = file.read(LARGEST_CONFIG + 1)
        if len(text) > LARGEST_CONFIG:
            raise ConfigError(f"{name} is larger than {LARGEST_CONFIG // 2**20} MB")
        found = json.loads(text)
    except (OSError, ValueError, RecursionError) as error:  # of JSON, of UTF-8, of numbers with thousands of digits
        raise ConfigError(f"{name} cannot be read: {str(error) or type(error).__name__:.200}") from error
    if not isinstance(found, dict):
        raise ConfigError(f"{name} must hold an object, got {type(found).__name__}")
    return found


def _differing(name: str, settings: Mapping[str, Any]) -> dict[str, Any]:
    """The settings whose values are not the name's own; ConfigError where the config cannot be."""
    own, wanted = build_config(name), build_config(name, **settings)
    return {key: getattr(wanted, key) for key in settings if getattr(wanted, key) != getattr(own, key)}


# timm -----------------------------------------------------------------------------------------------------------------

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


def _timm(cfg: dict[str, Any]) -> _Described:
    """What timm's config.json describes, in its nested form or in the older flat one."""
    nested = "pretrained_cfg" in cfg
    pretrained = _mapping(cfg, "pretrained_cfg") if nested else cfg
    args = {key: value for key, value in _mapping(cfg, "model_args").items() if value is not None}
    name = _timm_name(cfg, pretrained)
    settings = _timm_settings(cfg, pretrained, args)
    config = build_config(name, **settings)
    labels = _timm_labels({**pretrained, **cfg}, config.num_classes)
    told = pretrained.get("input_size")
    sides = config.image_shape if told is None or pretrained.get("fixed_input_size") else told[1:]
    return _Described(name, settings, labels, of_timm(pretrained | {"input_size": [config.in_chans, *sides]}))


def _timm_name(cfg: Mapping[str, Any], pretrained: Mapping[str, Any]) -> str:
    """The architecture, with the tag where it is one of timm's: a fine-tuned model may have any."""
    base, _, tag = _text(cfg, "architecture").partition(".")
    known = timm_tags()
    if base not in known:
        raise ConfigError(f"timm's architecture {base!r:.80} is not one that is computed here{nearest(base, known)}")
    tag = tag or (_text(pretrained, "tag") if pretrained.get("tag") is not None else "")
    return f"{base}.{tag}" if tag and tag in known[base] else base


def _timm_settings(cfg: Mapping[str, Any], pretrained: Mapping[str, Any], args: Mapping[str, Any]) -> dict[str, Any]:
    """The fields that timm would give the model: what its record of the weights says, then model_args."""
    found: dict[str, Any] = {}
    for source in (pretrained, cfg):  # the second tells of the model that was saved, the first of where it came from
        found |= {key: _field(key, source[key]) for key in ("num_classes", "global_pool") if source.get(key) is not None}
    if (size := pretrained.get("input_size")) is not None:
        if not isinstance(size, list) or len(size) != 3:
            raise ConfigError(f"input_size wants [channels, height, width], got {size!r:.80}")
        found["in_chans"] = _count(size[0], "input_size")
        if pretrained.get("fixed_input_size"):
            found["img_size"] = _size(size[1:], "input_size")
    found |= {key: _field(key, value) for key, value in args.items() if key in FIELDS}
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
        numbered = dict(zip((_number(key, "label_names") for key in told), labels, strict=True))
        if any(number >= num_classes for number in numbered):
            return None
        labels = [numbered.get(number, str(number)) for number in range(num_classes)]  # it may have gaps
    described = _mapping(cfg, "label_descriptions")
    if not all(isinstance(label, str) for label in described.values()):
        raise ConfigError("label_descriptions must be texts")
    if any(CODED.fullmatch(label) for label in labels):
        labels = [described.get(label, label) for label in labels]
    return tuple(labels) if len(labels) == num_classes else None


# transformers ---------------------------------------------------------------------------------------------------------


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


def _transformers(cfg: dict[str, Any], preprocessor: dict[str, Any] | None) -> _Described:
    """What transformers' config.json describes."""
    told = cfg.get("model_type")
    if told is None:
        raise ConfigError(f"{CONFIG} is neither timm's, which names an architecture, nor transformers', which names a model_type")
    word = _text(cfg, "model_type")
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
        prepared = of_transformers(preprocessor, settings["img_size"], word, settings["in_chans"])
    return _Described(_nearest_name(kind, settings), settings, None if generic else labels, prepared)


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
        _count(cfg.get("hidden_size", 768), "hidden_size"),
        _count(cfg.get("num_attention_heads", 12), "num_attention_heads"),
    )
    for key, choices in (STANDARD | {"head_dim": (width // heads,)}).items():
        if key in cfg and not any(type(cfg[key]) is type(choice) and cfg[key] == choice for choice in choices):
            raise ConfigError(f"{key} {cfg[key]!r:.80} makes a model that is not computed here")


def _transformers_settings(cfg: Mapping[str, Any], kind: _Kind) -> dict[str, Any]:
    """The fields of ours that transformers names otherwise; its defaults, which are not timm's, where it tells nothing."""
    width = _count(cfg.get("hidden_size", 768), "hidden_size")
    own: dict[str, Any]
    if kind.scaled:
        own = {"mlp_ratio": _positive(cfg, "mlp_ratio", 4.0), "init_values": _positive(cfg, "layerscale_value", 1.0)}
    else:
        own = {"mlp_ratio": _ratio(width, _count(cfg.get("intermediate_size", 3072), "intermediate_size"))}
    return own | {
        "img_size": _size(cfg.get("image_size", 224), "image_size"),
        "patch_size": _field("patch_size", cfg.get("patch_size", kind.patch_size)),
        "in_chans": _count(cfg.get("num_channels", 3), "num_channels"),
        "embed_dim": width,
        "depth": _field("depth", cfg.get("num_hidden_layers", 12)),
        "num_heads": _count(cfg.get("num_attention_heads", 12), "num_attention_heads"),
        "qkv_bias": _flag(cfg.get("qkv_bias", True), "qkv_bias"),
        "norm_eps": _positive(cfg, "layer_norm_eps", kind.norm_eps),
        "antialias": False,  # as its interpolate_pos_encoding
    }


def _transformers_labels(cfg: Mapping[str, Any]) -> tuple[str, ...]:
    """The names of the classes, as many as the classifier has; LABEL_0 and so on where it tells only their number."""
    if "id2label" not in cfg:
        count = _count(cfg.get("num_labels", 2), "num_labels", 0)  # 2 is transformers' default
        return tuple(f"LABEL_{number}" for number in range(count))
    told = _mapping(cfg, "id2label")
    numbered = {_number(key, "id2label"): label for key, label in told.items()}
    if sorted(numbered) != list(range(len(told))) or not all(isinstance(label, str) for label in numbered.values()):
        raise ConfigError("id2label must name the classes 0, 1, 2 and so on")
    return tuple(numbered[number] for number in range(len(told)))


def _nearest_name(kind: _Kind, settings: Mapping[str, Any]) -> str:
    """The name of the family that has most in common: width, then depth, patch and image size."""
    side = settings["img_size"] if isinstance(settings["img_size"], int) else max(settings["img_size"])
    wanted = (settings["embed_dim"], settings["depth"], settings["patch_size"], side)

    def distance(own: VitConfig) -> tuple[int, ...]:
        has = (own.embed_dim, own.depth, own.patch_size, max(own.image_shape))
        return tuple(abs(left - right) for left, right in zip(has, wanted, strict=True))

    family = {name: build_config(name) for name in registry() if re.fullmatch(kind.pattern, name)}
    near = {name: distance(own) for name, own in family.items() if isinstance(own, VitConfig)}
    return min(near, key=lambda name: near[name])


def _ratio(width: int, hidden: int) -> float:
    """The mlp_ratio that gives just this hidden width: int(width * ratio) rounds down."""
    ratio = hidden / width
    return ratio if int(width * ratio) == hidden else math.nextafter(ratio, math.inf)


# values that anybody may have written ---------------------------------------------------------------------------------


def _field(key: str, value: Any) -> Any:
    """A field of VitConfig, bounded; what is wrong with it beyond that, the config says."""
    if key == "img_size":
        return _size(value, key)
    if key == "patch_size":
        size = _size(value, key)
        if not isinstance(size, int):
            raise ConfigError(f"patch_size {size} is not square")
        return size
    if key in ("mlp_ratio", "init_values"):
        return _positive({key: value}, key, 1.0)
    if key in ("qkv_bias", "no_embed_class"):
        return _flag(value, key)
    if key == "global_pool":
        if value not in ("token", "avg"):
            raise ConfigError(f"global_pool {value!r:.80} makes a model that is not computed here")
        return value
    return _count(value, key, 0 if key == "num_classes" else 1, LARGEST_DEPTH if key == "depth" else LARGEST_COUNT)


def _count(value: Any, name: str, least: int = 1, most: int = LARGEST_COUNT) -> int:
    if type(value) is not int or not least <= value <= most:
        raise ConfigError(f"{name} must be a whole number from {least} to {most}, got {value!r:.80}")
    return value


def _flag(value: Any, name: str) -> bool:
    if not isinstance(value, bool):
        raise ConfigError(f"{name} must be true or false, got {value!r:.80}")
    return value


def _positive(cfg: Mapping[str, Any], name: str, default: float) -> float:
    value = cfg.get(name, default)
    if not isinstance(value, int | float) or isinstance(value, bool) or not 0 < value < LARGEST_NUMBER:
        raise ConfigError(f"{name} must be a positive number, got {value!r:.80}")
    return float(value)


def _size(value: Any, name: str) -> int | tuple[int, int]:
    """One number, or (height, width) where they differ."""
    if not isinstance(value, list):
        return _count(value, name)
    if len(value) not in (1, 2):
        raise ConfigError(f"{name} wants one number or [height, width], got {value!r:.80}")
    height, width = _count(value[0], name), _count(value[-1], name)
    return height if height == width else (height, width)


def _number(key: str, name: str) -> int:
    """The number of a class, which JSON's keys spell as text."""
    if not re.fullmatch(r"\d{1,7}", key, re.ASCII):
        raise ConfigError(f"{name} must be numbered, got {key!r:.80}")
    return int(key)


def _mapping(cfg: Mapping[str, Any], key: str) -> dict[str, Any]:
    """The object under a key; an empty one where there is none."""
    value = cfg.get(key)
    if value is not None and not isinstance(value, dict):
        raise ConfigError(f"{key} must be an object, got {type(value).__name__}")
    return value or {}


def _text(cfg: Mapping[str, Any], key: str) -> str:
    value = cfg.get(key)
    if not isinstance(value, str):
        raise ConfigError(f"{key} must be text, got {type(value).__name__}")
    if len(value) > LONGEST_TEXT:
        raise ConfigError(f"{key} is {len(value)} characters long")
    return value
