"""Memory for numbers in float32, and what is said where there is no more of it."""

import numpy as np
import numpy.typing as npt

from reforg.plans.matrices import LINE

Floats = npt.NDArray[np.float32]


def aligned(size: int) -> Floats:
    """Memory for so many floats that begins with a line of the cache; the system gives what of it is touched."""
    room = np.empty(size + LINE, np.float32)
    start = -room.ctypes.data % (LINE * room.itemsize) // room.itemsize
    return room[start : start + size]


class FullError(Exception):
    """More constants than an engine has room for. size: floats of the one that did not fit."""

    def __init__(self, size: int) -> None:
        super().__init__(size)
        self.size = size
