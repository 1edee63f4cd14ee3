"""The rows that a product reads: as they lie, or windows of maps and images, which are gathered first."""

from collections.abc import Callable, Iterable

import numpy as np

from reforg.plans.steps import Convolve, Linear
from reforg_numpy.memory import Floats
from reforg_numpy.numpy_engine.memory import Memory, in_place

WINDOWS = 1 << 19  # numbers of windows that are gathered before a product reads them


def read_rows(step: Linear | Convolve, memory: Memory) -> Callable[[], Iterable[Floats]]:
    """The rows of a product: all of them as they lie, or windows of maps or images."""
    if isinstance(step, Convolve):
        return windows_of(step, memory)
    source = memory.view(step.source)
    return lambda: (source,)


def windows_of(step: Convolve, memory: Memory) -> Callable[[], Iterable[Floats]]:
    """Windows of maps or images as rows, gathered for some lines at a time."""
    size, stride, padding, down, across = step.size, step.stride, step.padding, step.out_height, step.out_width
    if step.source is None:  # images have their channels first, and weights for them as well
        maps, across_maps, order = memory.images, (1, 2), (1, 2, 0, 3, 4)
    else:
        maps = in_place(memory.view(step.source), (memory.count, step.height, step.width, step.channels))
        across_maps, order = (0, 1), (0, 1, 3, 4, 2)
    room = tuple(edge + 2 * padding if axis in across_maps else edge for axis, edge in enumerate(maps.shape[1:]))
    inside = tuple(slice(padding, -padding or None) if axis in across_maps else slice(None) for axis in range(3))
    inner = step.inner
    lines = max(1, WINDOWS // (across * inner))

    def run() -> Iterable[Floats]:
        padded = memory.room("padded", *room)
        for image in maps:
            seen = image
            if padding:
                padded[...] = 0
                padded[inside] = image
                seen = padded
            windows = np.lib.stride_tricks.sliding_window_view(seen, (size, size), across_maps).transpose(order)
            windows = windows[::stride, ::stride][:down, :across]
            for top in range(0, down, lines):
                some = windows[top : top + lines]
                rows = memory.room("windows", *some.shape)
                rows[...] = some
                yield rows.reshape(-1, inner)

    return run
