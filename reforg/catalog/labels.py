"""Names of classes: ImageNet's, which come with the package, and those of a user's file."""

import gzip
import json
import re
from collections.abc import Sequence
from functools import lru_cache
from importlib import resources
from pathlib import Path
from typing import Any, NoReturn
from unicodedata import category

from reforg.errors import ConfigError

LARGEST = 4 * 2**20  # bytes of a file; ImageNet-21k's names take an eighth of it
MARKED = {1000: "*+", 21843: "* "}  # number of classes -> first letters of its lines in the package's list
SYNSET = re.compile(r"n\d{8}", re.ASCII)  # WordNet's number of a class, which tells nobody anything
UNSHOWN = ("Cc", "Cs")  # what a terminal obeys instead of showing, and what cannot be written


@lru_cache(maxsize=8)
def builtin(num_classes: int) -> tuple[str, ...] | None:
    """The names of ImageNet-1k's 1000 classes or of Google's ImageNet-21k's 21843, in their order; None for another number.

    All the words that WordNet has for a class, "tench, Tinca tinca". One name of ImageNet-1k stands for two classes: "crane",
    134 the bird and 517 the machine.
    """
    if num_classes not in MARKED:
        return None
    content = resources.files("reforg").joinpath("data", "imagenet_labels.txt.gz").read_bytes()
    lines = gzip.decompress(content).decode("utf-8").splitlines()
    return tuple(line[1:] for line in lines if line[0] in MARKED[num_classes])


def read(path: Any) -> tuple[str, ...]:
    """The names in a file, in the order of the classes.

    A text of one name a line, or of a synset and a name ("n01440764 tench"); or JSON: a list, an object {"0": "tench"}, one
    under "id2label", each name also as ["n01440764", "tench"]. Raises ConfigError for every other file.
    """
    where = _where(path)
    text = _text(path, where).strip()
    found = _of_json(text, where) if text[:1] in ("[", "{") else _of_lines(text)
    if not found:
        raise ConfigError(f"{where} names no class")
    return tuple(_name(value, number, where) for number, value in enumerate(found))


def check(labels: Sequence[str], num_classes: int, path: Any) -> None:
    """Refuse names from the file at `path` that are more or fewer than the model's classes."""
    if len(labels) != num_classes:
        raise ConfigError(f"{_where(path)} names {len(labels)} classes, the model has {num_classes}")


def _where(path: Any) -> str:
    try:
        return f"labels: '{Path(path)}'"
    except TypeError as error:
        raise ConfigError(f"labels: wanted the path of a file, got {path!r:.80}") from error


def _text(path: Any, where: str) -> str:
    """The content of a text file of a bounded size, without the mark that some editors put before it."""
    try:
        if Path(path).is_fifo():
            raise ConfigError(f"{where} is a pipe, wanted a file")
        with Path(path).open("rb") as file:
            content = file.read(LARGEST + 1)
    except FileNotFoundError as error:
        raise ConfigError(f"{where} does not exist") from error
    except IsADirectoryError as error:
        raise ConfigError(f"{where} is a folder, wanted a file of one name a line, or JSON") from error
    except (OSError, ValueError) as error:  # a ValueError of a zero byte in the path
        raise ConfigError(f"{where} cannot be read: {getattr(error, 'strerror', None) or error}") from error
    if len(content) > LARGEST:
        raise ConfigError(f"{where} is larger than {LARGEST // 2**20} MB")
    try:
        return content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise ConfigError(f"{where} is not text in UTF-8 (byte {error.start})") from error


def _of_lines(text: str) -> list[str]:
    """One name a line; without the synsets where every line begins with one and goes on."""
    lines = re.split(r"\r\n|\r|\n", text) if text else []
    pairs = [line.split(maxsplit=1) for line in lines]
    if all(len(pair) == 2 and SYNSET.fullmatch(pair[0]) for pair in pairs):
        return [name for _, name in pairs]
    return lines


def _of_json(text: str, where: str) -> list[Any]:
    """The values of a list, or of an object whose keys are the numbers of the classes."""

    def paired(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        found: dict[str, Any] = {}
        for key, value in pairs:
            if key in found:
                raise ConfigError(f"{where} has the key {key!r:.80} twice")
            found[key] = value
        return found

    try:
        content = json.loads(text, object_pairs_hook=paired)
    except RecursionError as error:
        raise ConfigError(f"{where} is nested too deeply") from error
    except ValueError as error:
        raise ConfigError(f"{where} begins as JSON and is none: {error}") from error
    if isinstance(content, dict):
        content = content.get("id2label", content)
    if isinstance(content, dict):
        return _in_order(content, where)
    return content if isinstance(content, list) else _refuse(where, f"has {content!r:.80} under 'id2label', wanted an object")


def _in_order(numbered: dict[str, Any], where: str) -> list[Any]:
    """The values of {"0": ..., "1": ...} by their numbers."""
    for key in numbered:
        if not re.fullmatch(r"0|[1-9]\d{0,7}", key, re.ASCII):
            _refuse(where, f"has the key {key!r:.80}, wanted the numbers of the classes")
    for number in range(len(numbered)):
        if str(number) not in numbered:
            _refuse(where, f"names {len(numbered)} classes, but not class {number}")
    return [numbered[str(number)] for number in range(len(numbered))]


def _name(value: Any, number: int, where: str) -> str:
    """One name, with single spaces in it."""
    if isinstance(value, list) and len(value) == 2 and isinstance(value[0], str) and SYNSET.fullmatch(value[0]):
        value = value[1]
    if not isinstance(value, str):
        _refuse(where, f"names class {number} {value!r:.80}, wanted text")
    name = " ".join(value.split())
    if not name:
        _refuse(where, f"has no name for class {number}: an empty one")
    if unshown := [letter for letter in name if category(letter) in UNSHOWN]:
        _refuse(where, f"has a character that cannot be shown, {unshown[0]!r}, in the name of class {number}")
    return name


def _refuse(where: str, what: str) -> NoReturn:
    raise ConfigError(f"{where} {what}")
