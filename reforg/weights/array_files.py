"""The one writer of files of arrays: weights, and the traces that a candidate is verified by."""

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy as np

from reforg.errors import ReforgError
from reforg.files import replacing

if TYPE_CHECKING:
    from pathlib import Path

ENDINGS = (".safetensors", ".npz")


def write_arrays(path: "Path", arrays: Mapping[str, Any], metadata: Mapping[str, str], what: str, error: type[ReforgError]) -> None:
    """Write NumPy arrays by name to .npz, or with metadata to .safetensors; the file appears whole or not at all.

    `error`, whose sentence begins with `what`, where that cannot be.
    """
    ordered: dict[str, Any] = {name: np.ascontiguousarray(value) for name, value in arrays.items()}
    try:
        with replacing(path) as unfinished:
            if path.suffix.lower() == ".npz":
                with unfinished.open("wb") as file:  # to a name that ends in .NPZ, savez would add another ending
                    np.savez(file, **ordered)
            else:
                _as_safetensors(unfinished, ordered, metadata, what, error)
    except OSError as problem:
        raise error(f"{what} {str(path)!r} cannot be written: {problem.strerror or problem}") from problem


def _as_safetensors(path: "Path", arrays: dict[str, Any], metadata: Mapping[str, str], what: str, error: type[ReforgError]) -> None:
    from safetensors import SafetensorError
    from safetensors.numpy import save_file

    try:
        save_file(arrays, path, dict(metadata))
    except (SafetensorError, KeyError, TypeError) as problem:  # of a name or a dtype that the format does not have
        raise error(f"{what} cannot be written as safetensors: {problem}") from problem
