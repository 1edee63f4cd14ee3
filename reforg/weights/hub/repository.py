"""A repository: where its weights lie, and what they are the weights of."""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from reforg.catalog.names import build_config
from reforg.catalog.sources import is_hub_id
from reforg.errors import ConfigError, WeightsError
from reforg.images.preprocessing import Preprocessing
from reforg.weights.hub.files import CONFIG, PREPROCESSOR, Files, read_object
from reforg.weights.hub.timm import of_timm
from reforg.weights.hub.transformers import of_transformers

PART = r"(?!.*(?:--|\.\.))(?!.*\.git$)\w(?:[\w.-]{0,94}\w)?"
OWNER_AND_NAME = re.compile(rf"{PART}/{PART}", re.ASCII)
REVISION = re.compile(r"(?!.*(?:\.\.|//))\w[\w./+-]{0,254}(?<!/)", re.ASCII)


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


def fetch(source: str) -> Repository:
    """The repository of `hf-hub:owner/name` or `hf-hub:owner/name@revision`, downloaded or from the cache.

    All its files are of one commit. Raises WeightsError for everything that can go wrong on the way.
    """
    files = Files(*_split(source))
    try:
        cfg = read_object(files.path(CONFIG), CONFIG)
        if "architecture" in cfg and "model_type" not in cfg:
            found = of_timm(cfg)
        else:
            found = of_transformers(cfg, read_object(path, PREPROCESSOR) if (path := files.optional(PREPROCESSOR)) else None)
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


def _differing(name: str, settings: Mapping[str, Any]) -> dict[str, Any]:
    """The settings whose values are not the name's own; ConfigError where the config cannot be."""
    own, wanted = build_config(name), build_config(name, **settings)
    return {key: getattr(wanted, key) for key in settings if getattr(wanted, key) != getattr(own, key)}
