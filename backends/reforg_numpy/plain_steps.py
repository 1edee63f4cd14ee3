"""Steps of a program as NumPy's calls on views of its memory, which are made once.

Each function of STEPS takes a step and the memory, and returns what computes it: a call without arguments.
"""

from collections.abc import Callable
from typing import Any

import numpy as np

from reforg_numpy import coefficients
from reforg_numpy.program import Floats, Matrix, Packed, Program, Step

Run = Callable[[], None]
BLOCK = 1 << 15  # numbers of a block whose many passes stay in the cache


class Memory:
    """A program's memory, the images that it is given, and rooms for what arises within a step."""

    def __init__(self, program: Program, shape: tuple[int, ...]) -> None:
        self.images: Floats = np.zeros((program.images, *shape), np.float32)
        self._floats: Floats = np.empty(program.size, np.float32)
        self._rooms: dict[str, Floats] = {}
        self.count = program.images

    def view(self, matrix: Matrix) -> Floats:
        """[rows, columns], as it lies."""
        rows = self._floats[matrix.start : matrix.start + matrix.rows * matrix.pitch - (matrix.pitch - matrix.columns)]
        return np.lib.stride_tricks.as_strided(
            rows, (matrix.rows, matrix.columns), (matrix.pitch * rows.itemsize, rows.itemsize), writeable=True
        )

    def room(self, name: str, *shape: int) -> Floats:
        """Memory of some shape; of the same name, the same memory: so only within a step."""
        size = int(np.prod(shape))
        if name not in self._rooms or self._rooms[name].size < size:
            self._rooms[name] = np.empty(size, np.float32)
        return self._rooms[name][:size].reshape(shape)


def weight(packed: Packed | None) -> Any:
    """As a step reads it: [O, K], or a row; None for none."""
    if packed is None:
        return None
    array = packed.array if packed.part is None else packed.array[slice(*packed.part)]
    if packed.kind == "pixels":
        return np.ascontiguousarray(array.transpose(0, 2, 3, 1)).reshape(len(array), -1)
    if packed.kind == "taps":
        return np.ascontiguousarray(array.reshape(len(array), -1).T)
    return array.reshape(len(array), -1) if packed.kind == "planes" else array


def gelu(x: Floats, memory: Memory) -> None:
    """[...] in place, block by block; see reforg_numpy.kernels.functions."""
    flat = x.reshape(-1)
    for start in range(0, flat.size, BLOCK):
        block = flat[start : start + BLOCK]
        square, above, below = (memory.room(name, block.size) for name in ("square", "above", "below"))
        np.clip(block, -coefficients.ERF_END, coefficients.ERF_END, out=square)
        square *= square
        polynomial(square, coefficients.ERF_ABOVE, above)
        polynomial(square, coefficients.ERF_BELOW, below)
        above *= block
        above /= below
        np.clip(above, -1.0, 1.0, out=above)
        above += np.float32(1.0)
        above *= np.float32(0.5)
        block *= above


def polynomial(x: Floats, values: tuple[float, ...], out: Floats) -> None:
    """The polynomial with those coefficients, lowest power first."""
    np.multiply(x, np.float32(values[-1]), out=out)
    for value in values[-2:0:-1]:
        out += np.float32(value)
        out *= x
    out += np.float32(values[0])


def norm_rows(x: Floats, gain: Any, bias: Any, eps: float, out: Floats) -> None:
    """[rows, C] -> the same, normed."""
    np.subtract(x, x.mean(axis=1, keepdims=True), out=out)
    variance = np.einsum("rc,rc->r", out, out)
    variance /= np.float32(x.shape[1])
    variance += np.float32(eps)
    np.sqrt(variance, out=variance)
    out /= variance[:, None]
    out *= gain
    out += bias


def norm(step: Step, memory: Memory) -> Run:
    """Layer norm of the first `group` of an image's `tokens` rows."""
    source, target, eps = memory.view(step.fields["source"]), memory.view(step.target), step.fields["eps"]
    wanted, there = step.fields["group"], step.fields["tokens"]
    gain, bias, after = weight(step.fields["weight"]), weight(step.fields["bias"]), step.fields["end"] == "gelu"
    rows = source if wanted == there else source.reshape(-1, there, source.shape[1])[:, :wanted]

    def run() -> None:
        norm_rows(rows if wanted == there else rows.reshape(target.shape), gain, bias, eps, target)
        if after:
            gelu(target, memory)

    return run


def linear(step: Step, memory: Memory) -> Run:
    """A product, and what comes at its end."""
    rows, matrix = read_rows(step, memory), weight(step.fields["weight"]).T
    bias, gain, end = weight(step.fields["bias"]), weight(step.fields["gain"]), step.fields["end"]
    target = memory.view(step.target)
    adding = end == "add"

    def run() -> None:
        out = memory.room("sums", *target.shape) if adding else target
        np.matmul(rows(), matrix, out=out)
        if gain is not None and not adding:
            np.multiply(out, gain, out=out)
        if bias is not None:
            np.add(out, bias, out=out)
        if end == "gelu":
            gelu(out, memory)
        elif end == "relu":
            np.maximum(out, np.float32(0.0), out=out)
        elif adding:
            if gain is not None:
                out *= gain
            np.add(target, out, out=target)

    return run


def read_rows(step: Step, memory: Memory) -> Callable[[], Floats]:
    """What the rows of a product are: as they lie, or windows of maps or images, gathered tap by tap."""
    fields = step.fields
    if fields["before"] == "rows":
        source = memory.view(fields["source"])
        return lambda: source
    size, stride, padding = fields["size"], fields["stride"], fields["padding"]
    height, width, channels = fields["height"], fields["width"], fields["channels"]
    planes = fields["before"] == "planes"
    maps = (
        memory.images
        if planes
        else memory.view(fields["source"]).reshape(memory.count, height, width, channels).transpose(0, 3, 1, 2)
    )
    down, across = fields["out_height"], fields["out_width"]
    order = (0, 2, 3, 1, 4, 5) if planes else (0, 2, 3, 4, 5, 1)

    def run() -> Floats:
        padded = memory.room("padded", memory.count, channels, height + 2 * padding, width + 2 * padding) if padding else maps
        if padding:
            padded[...] = 0
            padded[:, :, padding : padding + height, padding : padding + width] = maps
        windows = np.lib.stride_tricks.sliding_window_view(padded, (size, size), (2, 3))[:, :, ::stride, ::stride]
        rows = memory.room("windows", memory.count * down * across, fields["inner"])
        windows = windows[:, :, :down, :across].transpose(order)
        rows.reshape(windows.shape)[...] = windows
        return rows

    return run


def attention(step: Step, memory: Memory) -> Run:
    """All heads of all images; scores in one room, and the class token's probabilities kept where they are wanted."""
    fields, images = step.fields, memory.count
    heads, depth, group, count = fields["heads"], fields["depth"], fields["group"], fields["key_count"]

    def split(matrix: Matrix, rows: int) -> Floats:
        return (
            memory.view(matrix).reshape(images, rows, -1)[:, :, : heads * depth].reshape(images, rows, heads, depth).swapaxes(1, 2)
        )

    queries, keys, values = split(fields["source"], group), split(fields["keys"], count), split(fields["values"], count)
    column, whole = fields["column"], memory.view(step.target)
    target = whole[:, column : column + heads * depth].reshape(images, group, heads, depth).swapaxes(1, 2)
    attended = None if fields["attended"] is None else memory.view(fields["attended"]).reshape(images, heads, count)
    scale = np.float32(fields["scale"])

    def run() -> None:
        scores = memory.room("scores", images, heads, group, count)
        np.matmul(queries, keys.swapaxes(2, 3), out=scores)
        scores *= scale
        scores -= scores.max(axis=-1, keepdims=True)
        np.exp(scores, out=scores)
        scores /= scores.sum(axis=-1, keepdims=True)
        if attended is not None:
            attended[...] = scores[:, :, 0]
        mixed = memory.room("mixed", images, heads, group, depth)
        np.matmul(scores, values, out=mixed)
        target[...] = mixed

    return run


def depthwise(step: Step, memory: Memory) -> Run:
    """Nine taps, each of all pixels at once."""
    fields, images = step.fields, memory.count
    height, width, end = fields["height"], fields["width"], fields["end"]
    source, target = memory.view(fields["source"]), memory.view(step.target)
    taps, bias, channels = weight(fields["weight"]), weight(fields["bias"]), step.target.columns

    def run() -> None:
        padded = memory.room("padded", images, height + 2, width + 2, channels)
        padded[...] = 0
        padded[:, 1:-1, 1:-1] = source.reshape(images, height, width, channels)
        sums = memory.room("sums", images, height, width, channels)
        product = memory.room("product", images, height, width, channels)
        sums[...] = 0 if bias is None else bias
        for number, tap in enumerate(taps):
            row, column = divmod(number, 3)
            np.multiply(padded[:, row : row + height, column : column + width], tap, out=product)
            sums += product
        flat = sums.reshape(target.shape)
        np.add(target if end == "more" else source, flat, out=target)
        if end == "gelu of sum":
            gelu(target, memory)

    return run


def embed(step: Step, memory: Memory) -> Run:
    """Special tokens as they are, patches and their positions."""
    fields, images = step.fields, memory.count
    special, count = fields["special"], fields["tokens"]
    source = memory.view(fields["source"]).reshape(images, count, -1)
    target = memory.view(step.target).reshape(images, special + count, -1)
    firsts, table = weight(fields["weight"]), weight(fields["bias"])

    def run() -> None:
        target[:, :special] = firsts
        np.add(source, table, out=target[:, special:])

    return run


def reorganize(step: Step, memory: Memory) -> Run:
    """Image by image: attentive tokens in their order, the others as one."""
    fields, images = step.fields, memory.count
    special, kept, fuse = fields["special"], fields["kept"], fields["fuse"]
    source = memory.view(fields["source"]).reshape(images, fields["tokens"], -1)
    target = memory.view(step.target).reshape(images, fields["group"], -1)
    attended = memory.view(fields["attended"]).reshape(fields["branches"], images, fields["heads"], -1)

    def run() -> None:
        scores = attended[..., special:].mean(axis=2).mean(axis=0)
        order = np.argsort(-scores, axis=-1, stable=True)
        target[:, :special] = source[:, :special]
        for image in range(images):
            candidates, first, others = source[image, special:], order[image, :kept], order[image, kept:]
            np.take(candidates, first, axis=0, out=target[image, special : special + kept])
            if fuse:
                np.matmul(scores[image, others], candidates[others], out=target[image, -1])

    return run


def take(step: Step, memory: Memory) -> Run:
    """The first `group` of an image's `tokens` rows."""
    fields = step.fields
    source, target = memory.view(fields["source"]), memory.view(step.target)
    rows = np.lib.stride_tricks.as_strided(
        source, (memory.count, fields["group"], source.shape[1]), (fields["tokens"] * source.strides[0], *source.strides)
    )

    def run() -> None:
        target.reshape(rows.shape)[...] = rows

    return run


def pool(step: Step, memory: Memory) -> Run:
    """The mean of an image's tokens but the special ones."""
    source = memory.view(step.fields["source"]).reshape(memory.count, step.fields["tokens"], -1)[:, step.fields["special"] :]
    target = memory.view(step.target)

    def run() -> None:
        np.mean(source, axis=1, out=target)

    return run


def mean(step: Step, memory: Memory) -> Run:
    """The mean of two."""
    first, second, target = memory.view(step.fields["source"]), memory.view(step.fields["other"]), memory.view(step.target)

    def run() -> None:
        np.add(first, second, out=target)
        np.divide(target, np.float32(2.0), out=target)

    return run


STEPS: dict[str, Callable[[Step, Memory], Run]] = {
    "norm": norm, "linear": linear, "attention": attention, "depthwise": depthwise, "embed": embed, "reorganize": reorganize,
    "take": take, "pool": pool, "mean": mean,
}  # fmt: skip
