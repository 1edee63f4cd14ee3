"""Arrays that lie in a file: known by shape and dtype, and read only when they are wanted."""

import math
import mmap
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

Values = npt.NDArray[Any]
LINE = 64  # bytes; where the copies begin


@dataclass(frozen=True)
class Entry:
    """Shape and dtype of an array, both checked against the file, and the function that finds its bytes there.

    copy: fills memory with the bytes as they lie in the file, where that is all that is needed of a copy; reading a
    file into memory is faster than copying a mapping of it.
    """

    shape: tuple[int, ...]
    dtype: np.dtype[Any]
    view: Callable[[], Values]
    copy: Callable[[npt.NDArray[np.uint8]], None] | None = None

    @property
    def nbytes(self) -> int:
        """Bytes that the array takes in memory."""
        return math.prod(self.shape) * self.dtype.itemsize


def read(entries: Mapping[str, Entry]) -> dict[str, Values]:
    """The arrays, each in C order, aligned and in this machine's byte order.

    What lies so in the file is not copied: such an array is a private mapping of the file's pages, read as they are
    used. All copies share one piece of memory.
    """
    views = {name: entry.view() for name, entry in entries.items()}
    copied = [name for name, view in views.items() if not _usable(view)]
    room = _room(sum(_padded(views[name].nbytes) for name in copied))
    position = 0
    for name in copied:
        view, copy = views[name], entries[name].copy
        target = np.ndarray(view.shape, view.dtype.newbyteorder("="), room, position)
        if copy is None:
            target[...] = view
        else:
            copy(room[position : position + view.nbytes])
        views[name] = target
        position += _padded(view.nbytes)
    return views


def _room(size: int) -> npt.NDArray[np.uint8]:
    """New memory, whose pages the system hands out at once where it can: much faster than one after the other as they are used."""
    if not size:
        return np.empty(0, np.uint8)
    populated = {"flags": mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS | mmap.MAP_POPULATE} if hasattr(mmap, "MAP_POPULATE") else {}
    return np.frombuffer(mmap.mmap(-1, size, **populated), np.uint8)


def _usable(view: Values) -> bool:
    return view.flags.c_contiguous and view.flags.aligned and view.dtype.isnative and view.flags.writeable


def _padded(size: int) -> int:
    return -(-size // LINE) * LINE
