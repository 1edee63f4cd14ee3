"""A forward pass without its numbers: every operation is booked with what it multiplies and what it leaves in memory.

The shapes of weights come from `parameters.shapes`; what a layer multiplies follows from its weight's shape and the
number of places where that weight is applied.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from math import prod

Shape = tuple[int, ...]
INDEX_BYTES = 8  # of one index of `rank`, whatever the dtype of the values


@dataclass(frozen=True)
class Layer:
    """One traced operation, or several of one kind under one name. Bytes are for the batch, in the dtype asked for.

    operation: its name in the `Ops` record. macs: multiplications of a linear map, a convolution or attention's two
    products, else 0. shape: of what the trace has under this name. weight_bytes: of the weight, bias and running
    statistics that the operation is given. activation_bytes: of all that the operation returns, which is more than
    `shape` tells for attention (the probabilities too), rank (the whole order, in int64) and gather (each gathered array).
    """

    operation: str
    macs: int
    shape: Shape
    weight_bytes: int
    activation_bytes: int


@dataclass(frozen=True)
class Value:
    """An array of the forward pass: its shape, and the number of the memory that it lies in; None for a weight's."""

    shape: Shape
    memory: int | None


class Ledger:
    """The operations of one forward pass in order, as layers, and which memory each of them makes and reads.

    Its methods have the names of `Network`'s and take and return values without numbers.
    """

    def __init__(self, weights: Mapping[str, Shape], item_bytes: int) -> None:
        self.layers: dict[str, Layer] = {}
        self.sizes: list[int] = []
        """Bytes of every piece of memory, by its number."""
        self.steps: list[tuple[tuple[int, ...], tuple[int, ...]]] = []
        """For every step the memory that it makes, and the memory that it reads."""
        self.largest = ("", 0)
        """Trace name and bytes of the largest result of an operation; the first of equals."""
        self._weights, self._item = weights, item_bytes

    def weight(self, name: str) -> Value:
        """A parameter, which lies in memory of its own kind."""
        return Value(self._weights[name], None)

    def made(self, shape: Shape, *reads: Value, item_bytes: int | None = None) -> Value:
        """The result of a sum, product, mean or concatenation of `reads`, or an input, which reads nothing."""
        return self._step((shape,), reads, item_bytes or self._item)[0]

    def linear(self, path: str, x: Value) -> Value:
        """[..., I] -> [..., O]."""
        places = prod(x.shape[:-1])
        return self._layer("linear", path, (*x.shape[:-1], self._weights[f"{path}.weight"][0]), x, places)

    def conv2d(self, path: str, x: Value, stride: int, padding: int = 0) -> Value:
        """[B, C, H, W] -> [B, O, H', W']."""
        out, _, *kernel = self._weights[f"{path}.weight"]
        sides = [(side + 2 * padding - size) // stride + 1 for side, size in zip(x.shape[2:], kernel, strict=True)]
        return self._layer("conv2d", path, (x.shape[0], out, *sides), x, x.shape[0] * prod(sides))

    def depthwise_conv2d(self, path: str, x: Value) -> Value:
        """[B, C, H, W] -> [B, C, H, W], whose padding keeps the size."""
        return self._layer("depthwise_conv2d", path, x.shape, x, x.shape[0] * prod(x.shape[2:]))

    def same(self, operation: str, path: str, x: Value) -> Value:
        """A norm or an activation: [...] -> [...], and nothing that counts."""
        return self._layer(operation, path, x.shape, x, 0)

    def attention(self, path: str, queries: Value, keys: Value, values: Value) -> tuple[Value, Value]:
        """[B, H, N, D], [B, H, M, D] twice -> context [B, H, N, D], probabilities [B, H, N, M]; traced under `path`."""
        batch, heads, count, depth = queries.shape
        shapes = queries.shape, (batch, heads, count, keys.shape[2])
        context, probabilities = self._step(shapes, (queries, keys, values), self._item)
        held = self._item * (prod(shapes[0]) + prod(shapes[1]))
        self.layers[f"{path}.context"] = Layer("attention", 2 * prod(shapes[1]) * depth, shapes[0], 0, held)
        self._compare(f"{path}.context", context)
        self._compare(f"{path}.probs", probabilities)
        return context, probabilities

    def without_weights(self, operation: str, path: str, shape: Shape, *results: Value) -> None:
        """Book resize, rank or gather: traced under `path` with `shape`, its results already made."""
        held = sum(self.sizes[result.memory] for result in results if result.memory is not None)
        self.layers[path] = Layer(operation, 0, shape, 0, held)
        for result in results:
            self._compare(path, result)

    def _layer(self, operation: str, path: str, shape: Shape, x: Value, places: int) -> Value:
        """A layer that applies its weight at so many places."""
        (result,) = self._step((shape,), (x,), self._item)
        parts = ("weight", "bias", "running_mean", "running_var")
        shapes = [self._weights[f"{path}.{part}"] for part in parts if f"{path}.{part}" in self._weights]
        weight_bytes = self._item * sum(map(prod, shapes))
        macs = places * prod(shapes[0]) if places else 0
        self.layers[path] = Layer(operation, macs, shape, weight_bytes, self._item * prod(shape))
        self._compare(path, result)
        return result

    def _step(self, shapes: tuple[Shape, ...], reads: tuple[Value, ...], item_bytes: int) -> tuple[Value, ...]:
        first = len(self.sizes)
        self.sizes += [item_bytes * prod(shape) for shape in shapes]
        numbers = tuple(range(first, len(self.sizes)))
        self.steps.append((numbers, tuple(value.memory for value in reads if value.memory is not None)))
        return tuple(Value(shape, number) for shape, number in zip(shapes, numbers, strict=True))

    def _compare(self, name: str, result: Value) -> None:
        size = 0 if result.memory is None else self.sizes[result.memory]
        self.largest = (name, size) if size > self.largest[1] else self.largest


def view(value: Value, *shape: int) -> Value:
    """The same memory in another shape: reshaped, transposed, sliced, broadcast or split."""
    return Value(shape, value.memory)


def peak_bytes(ledger: Ledger) -> int:
    """The most bytes that live at once: a value is born in the step that makes it and dies after the last that reads it.

    A value that nothing reads dies with the step that made it. While a step runs, what it reads and what it makes both live.
    """
    last = {number: step for step, (made, reads) in enumerate(ledger.steps) for number in (*made, *reads)}
    dying: dict[int, int] = {}
    for number, step in last.items():
        dying[step] = dying.get(step, 0) + ledger.sizes[number]
    live = peak = 0
    for step, (made, _) in enumerate(ledger.steps):
        live += sum(ledger.sizes[number] for number in made)
        peak = max(peak, live)
        live -= dying.get(step, 0)
    return peak
