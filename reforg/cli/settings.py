"""`--set key=value` and its like: values as a user types them."""

import json
import re
from collections.abc import Iterable
from itertools import accumulate
from typing import Any

from reforg.errors import ConfigError

EXAMPLES = {"--set": "keep_rate=0.5", "--preprocess": "crop_ratio=1.0"}
LONGEST = 1000  # characters of a value
DEEPEST = 32  # lists within lists; counted here, since how deep Python reads depends on what else raised its limit
NUMBER = re.compile(r"[+-]?(\d+\.|\.\d+)")  # as people write them, and JSON does not
WORDS = {"True": True, "False": False, "None": None}


def parsed(pairs: Iterable[str], option: str = "--set") -> dict[str, Any]:
    """'keep_rate=0.5', 'drop_loc=3,6,9', 'fuse_token=false' -> values by key; ConfigError for what is no pair, or comes twice."""
    found: dict[str, Any] = {}
    for pair in pairs:
        key, equals, text = pair.partition("=")
        key = key.strip()
        if not equals or not key.isidentifier():
            raise ConfigError(f"{option} wants KEY=VALUE, as in {option} {EXAMPLES[option]}, got {pair!r:.80}")
        if key in found:
            raise ConfigError(f"{option} {key} is given twice")
        found[key] = value_of(text.strip())
    return found


def value_of(text: str) -> Any:
    """A number, true, false, null, a list (with or without its brackets), or else the text itself."""
    if text in WORDS:
        return WORDS[text]
    if len(text) > LONGEST:
        raise ConfigError(f"a value of {len(text):,} characters is no setting: {text[:40]!r}...")
    if max(accumulate((mark in "[{") - (mark in "]}") for mark in text), default=0) > DEEPEST:
        raise ConfigError(f"a value nested so deep is no setting: {text[:40]!r}...")
    try:
        value = json.loads(text if NUMBER.fullmatch(text) is None else repr(float(text)))
    except ValueError:
        inner = text[1:-1] if text[:1] + text[-1:] in ("()", "[]") else text
        parts = [part.strip() for part in inner.split(",") if part.strip()]
        return tuple(map(value_of, parts)) if "," in inner else text
    return tuple(value) if isinstance(value, list) else value
