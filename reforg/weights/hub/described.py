"""What a repository's config.json says of a model: what `timm` and `transformers` return and `repository` reads."""

from dataclasses import dataclass
from typing import Any

from reforg.images.preprocessing import Preprocessing


@dataclass
class Described:
    """What a config.json says, before the values that the name has anyway are left out."""

    name: str
    settings: dict[str, Any]
    labels: tuple[str, ...] | None = None
    preprocessing: Preprocessing | None = None
