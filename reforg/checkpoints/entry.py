"""Arrays that lie in a file: known by shape and dtype, and read only when they are wanted."""

import math
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

Values = npt.NDArray[Any]
LINE = 64  # bytes; where the copies begin


@dataclass(frozen=True)
class Entry:
    """Shape and dtype of an array, both checked against the file, and the function that finds its bytes there."""

    shape: tuple[int, ...]
    dtype: np.dtype[Any]
    view: Callable[[], Values]

    @property
    def nbytes(self) -> int:
        """Bytes that the array takes in memory."""
        return math.prod(self.shape) * self.dtype.itemsize


def read(entries: Mapping[str, Entry]) -> dict[str, Values]:
    """The arrays, each in C order, aligned and in this machine's byte order.

    What lies so in the file is not copied: such an array is a private mapping of the file's pages, read as they are
    used. All copies share one allocation, because the system gives out one large piece faster than many small ones.
    """
    with ThreadPoolExecutor(4) as pool:  # checksums and inflation run outside of the interpreter's lock
        views = dict(zip(entries, pool.map(lambda entry: entry.view(), entries.values()), strict=True))
    copied = [name for name, view in views.items() if not _usable(view)]
    room = np.empty(sum(_padded(views[name].nbytes) for name in copied), np.uint8)
    position = 0
    for name in copied:
        view = views[name]
        target = np.ndarray(view.shape, view.dtype.newbyteorder("="), room, position)
        target[...] = view
        views[name] = target
        position += _padded(view.nbytes)
    return views


def _usable(view: Values) -> bool:
    return view.flags.c_contiguous and view.flags.aligned and view.dtype.isnative and view.flags.writeable


def _padded(size: int) -> int:
    return -(-size // LINE) * LINE
