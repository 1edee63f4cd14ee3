"""What `weights=` may name besides files: synthetic weights, and repositories of the Hub."""

import re
from typing import Any

SYNTHETIC = "synthetic"
HUB = ("hf-hub:", "hf_hub:")


def is_hub_id(source: Any) -> bool:
    """Whether it names a repository of the Hub, well or badly spelled."""
    return isinstance(source, str) and source.startswith(HUB)


def is_synthetic(source: Any) -> bool:
    """Whether it names synthetic weights, well or badly spelled."""
    return isinstance(source, str) and source.partition(":")[0] == SYNTHETIC


def seed_of(source: Any) -> int | None:
    """The seed that "synthetic" or "synthetic:7" names; None where it names something else."""
    found = re.fullmatch(rf"{SYNTHETIC}(?::(\d{{1,19}}))?", source) if isinstance(source, str) else None
    return int(found[1] or 0) if found else None
