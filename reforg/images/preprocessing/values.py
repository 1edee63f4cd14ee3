"""What a file or a user says about preprocessing, checked: whole numbers, pairs, one value a channel, words, flags."""

import math
from collections.abc import Mapping, Sequence
from typing import Any

from reforg.errors import ConfigError

LARGEST_SIDE, LARGEST_NUMBER = 2**16, 1e30  # what a file may ask for, so that no later product overflows


def statistic(name: str, value: Any, channels: int) -> tuple[float, ...]:
    """One finite number a channel; a single one counts for all."""
    values = tuple(value) if isinstance(value, list | tuple) else (value,)
    values = values * channels if len(values) == 1 else values
    if len(values) != channels:
        raise ConfigError(f"preprocessing {name} wants one value for each of {channels} channels, got {len(values)}")
    for entry in values:
        if not is_number(entry):
            raise ConfigError(f"preprocessing {name} wants numbers, got {entry!r:.80}")
    return tuple(float(entry) for entry in values)


def averaged(name: str, value: Any, channels: Any) -> Any:
    """The statistic, or the mean of its values where there is not one for each channel."""
    if not isinstance(value, list | tuple) or len(value) in (0, 1, channels):
        return value
    return math.fsum(statistic(name, value, len(value))) / len(value)


def pair(name: str, value: Any) -> tuple[int, int]:
    """(height, width) of whole numbers; one number is both."""
    height, width = as_tuple(value, name, None, length=2) if isinstance(value, Sequence) else (value, value)
    for side in (height, width):
        check_count(name, side)
    return height, width


def check_count(name: str, value: Any) -> None:
    """Refuse what is no whole number from 1 to LARGEST_SIDE."""
    if not isinstance(value, int) or isinstance(value, bool) or not 1 <= value <= LARGEST_SIDE:
        raise ConfigError(f"preprocessing {name} must be a whole number from 1 to {LARGEST_SIDE}, got {value!r:.80}")


def as_tuple(value: Any, name: str, default: Any, length: int) -> tuple[Any, ...]:
    """A list of so many entries as a tuple; `default` in place of None."""
    value = default if value is None else value
    if not isinstance(value, list | tuple) or len(value) != length:
        raise ConfigError(f"preprocessing {name} wants {length} numbers, got {value!r:.80}")
    return tuple(value)


def entry_or(cfg: Mapping[str, Any], key: str, default: Any) -> Any:
    """The entry, or the default where there is none or it is null."""
    value = cfg.get(key)
    return default if value is None else value


def flag(cfg: Mapping[str, Any], key: str, default: bool) -> bool:
    """The entry, which must be true or false."""
    value = entry_or(cfg, key, default)
    if not isinstance(value, bool):
        raise ConfigError(f"preprocessing {key} must be true or false, got {value!r:.80}")
    return value


def check_word(name: str, value: Any, known: Mapping[str, Any] | Sequence[str]) -> str:
    """The word, which must be one of those known."""
    if not isinstance(value, str) or value not in known:
        raise ConfigError(f"preprocessing {name} must be one of {', '.join(known)}, got {value!r:.80}")
    return value


def is_number(value: Any) -> bool:
    """Whether a finite number of a size that can be computed with."""
    return isinstance(value, int | float) and not isinstance(value, bool) and -LARGEST_NUMBER <= value <= LARGEST_NUMBER
