"""Arrays in files: a candidate's by name, the one that images are in, and a trace to be written. Nothing in a file is run."""

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from reforg.errors import ConfigError, ImageError, ReforgError, WeightsError
from reforg.weights import checkpoints
from reforg.weights.array_files import write_arrays
from reforg.weights.checkpoints import Entry
from reforg.weights.containers import LONGEST, MOST
from reforg.weights.contents import described

Values = np.ndarray[Any, np.dtype[Any]]
IMAGES = "images"  # under which a file of several arrays holds the images
NPY = ".npy"
MAGIC = b"\x93NUMPY"


def arrays(path: str | os.PathLike[str]) -> dict[str, Values]:
    """Name -> array of a candidate's file: .safetensors, .npz, or what torch.save writes of a mapping. Raises ConfigError."""
    return _by_name(path, "candidate", ConfigError)


def image_array(path: str | os.PathLike[str]) -> Values:
    """The images (B, C, H, W) of a file: an .npy file, or the only array, or that named "images", of .npz or .safetensors.

    Shape and dtype are as they are in the file. Raises ImageError.
    """
    if Path(path).suffix.lower() == NPY:
        return _of_npy(Path(path))
    found = _by_name(path, IMAGES, ImageError)
    if len(found) > 1 and IMAGES not in found:
        names = ", ".join(map(repr, list(found)[:3]))
        raise ImageError(f"images: {_named(path)} holds {len(found):,} arrays, {names}, ..., and none of them is called 'images'")
    return found.get(IMAGES, next(iter(found.values())))


def write(path: Path, values: Mapping[str, Values], metadata: Mapping[str, str]) -> None:
    """Write arrays to .safetensors, with metadata, or to .npz; the file appears whole or not at all. Raises ConfigError."""
    write_arrays(path, values, metadata, "output", ConfigError)


def _named(path: str | os.PathLike[str]) -> str:
    return repr(os.fsdecode(path))


def _by_name(path: str | os.PathLike[str], what: str, error: type[ReforgError]) -> dict[str, Values]:
    """Name -> array; `error` begins with `what` the file was to be."""
    try:
        checkpoint = checkpoints.open_checkpoint(path)
    except WeightsError as problem:
        raise error(f"{what}: {str(problem).removeprefix('weights: ')}") from problem
    try:
        return checkpoints.read(_entries(checkpoint.content), checkpoint.size)
    except WeightsError as problem:
        raise error(f"{what}: {_named(path)} is refused: {problem}") from problem


def _entries(content: Any) -> dict[str, Entry]:
    """What a file holds by name; of a list, its first array. WeightsError for what is no array."""
    if not isinstance(content, Mapping) or not content:
        raise WeightsError(f"it holds no arrays by name, but {described(content)}")
    if len(content) > MOST:
        raise WeightsError(f"it holds {len(content):,} arrays, more than any trace")
    found = {}
    for name, value in content.items():
        if not isinstance(name, str) or len(name) > LONGEST:
            raise WeightsError(f"its names must be text of at most {LONGEST} characters, got {str(name)!r:.60}")
        first = value[0] if isinstance(value, list | tuple) and value else value
        if not isinstance(first, Entry):
            raise WeightsError(f"{name!r:.100} is no array, but {described(value)}")
        found[name] = first
    return found


def _of_npy(path: Path) -> Values:
    """The array of an .npy file; ImageError says what is wrong with it."""
    try:
        return _mapped(path)
    except ReforgError:
        raise
    except OSError as error:
        raise ImageError(f"images: {_named(path)} cannot be read: {error.strerror or error}") from error
    except Exception as error:  # NumPy's reader raises whatever it comes upon in a header: TokenError, OverflowError, ...
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise ImageError(f"images: {_named(path)} is refused: {reason:.200}") from error


def _mapped(path: Path) -> Values:
    """A copy of the array, whose pages are mapped first: no size in the header is believed."""
    if path.exists() and not path.is_file():  # a pipe would be waited for
        raise ImageError(f"images: {_named(path)} is no file of an array")
    with path.open("rb") as file:
        if file.read(len(MAGIC)) != MAGIC:
            raise ImageError(f"images: {_named(path)} is no .npy file")
    return np.array(np.load(path, mmap_mode="r", allow_pickle=False))
