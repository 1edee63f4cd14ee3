"""Arrays that lie in a file: known by shape and dtype, and read only when they are wanted."""

import math
import mmap
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

import numpy as np

Values = np.ndarray[Any, np.dtype[Any]]  # numpy.typing's NDArray[Any], without its import
Bytes = np.ndarray[Any, np.dtype[np.uint8]]
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
    copy: Callable[[Bytes], None] | None = None

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


def _room(size: int) -> Bytes:
    """New memory, in large pages where the system has them: filling it takes a third of the time that small ones take."""
    if not size:
        return np.empty(0, np.uint8)
    room = mmap.mmap(-1, size, **({"flags": mmap.MAP_PRIVATE} if hasattr(mmap, "MAP_PRIVATE") else {}))
    if hasattr(mmap, "MADV_HUGEPAGE"):
        with suppress(OSError):  # of a kernel built without them
            room.madvise(mmap.MADV_HUGEPAGE)
    return np.frombuffer(room, np.uint8)


def _usable(view: Values) -> bool:
    return view.flags.c_contiguous and view.flags.aligned and view.dtype.isnative and view.flags.writeable


def _padded(size: int) -> int:
    return -(-size // LINE) * LINE
