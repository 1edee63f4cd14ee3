"""Arrays that lie in a file: known by shape and dtype, and read only when they are wanted."""

import math
import mmap
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from reforg.weights.checkpoints import limits
from reforg.weights.checkpoints.limits import require

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


def read(entries: Mapping[str, Entry], size: int) -> dict[str, Values]:
    """The arrays of a file of `size` bytes, each in C order, aligned and in this machine's byte order.

    What lies so in the file is not copied: such an array is a private mapping of the file's pages, read as they are
    used. All copies share one piece of memory. An entry of several names is one array.
    """
    most, wanted = limits.grown(size, limits.SHARING), sum(entry.nbytes for entry in entries.values())
    require(wanted <= most, f"its tensors would take more than {most:,} bytes, the file has {size:,}")
    different = {id(entry): entry for entry in entries.values()}
    views = {key: entry.view() for key, entry in different.items()}
    copied = [key for key, view in views.items() if not _usable(view)]
    room = _room(sum(_padded(views[key].nbytes) for key in copied))
    position = 0
    for key in copied:
        view, copy = views[key], different[key].copy
        target = np.ndarray(view.shape, view.dtype.newbyteorder("="), room, position)
        if copy is None:
            target[...] = view
        else:
            copy(room[position : position + view.nbytes])
        views[key] = target
        position += _padded(view.nbytes)
    return {name: views[id(entry)] for name, entry in entries.items()}


def _room(size: int) -> Bytes:
    """New memory, whose pages the system hands out at once where it can: faster than one after the other as they are used.

    Large pages would be faster still, but a virtual machine may have to find them first, which takes longer than all else.
    """
    if not size:
        return np.empty(0, np.uint8)
    populated = {"flags": mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS | mmap.MAP_POPULATE} if hasattr(mmap, "MAP_POPULATE") else {}
    return np.frombuffer(mmap.mmap(-1, size, **populated), np.uint8)


def _usable(view: Values) -> bool:
    return view.flags.c_contiguous and view.flags.aligned and view.dtype.isnative and view.flags.writeable


def _padded(size: int) -> int:
    return -(-size // LINE) * LINE
