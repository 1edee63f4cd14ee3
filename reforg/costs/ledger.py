"""What one forward pass does, as it is written down: its steps and their memory, and its operations by their trace names."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from math import prod
from typing import Any

Shape = tuple[int, ...]


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


class Ledger:
    """The steps of one forward pass in order, which memory each of them makes and reads, and the layers they belong to.

    A step is whatever makes an array: an operation of the record, a sum, a mean, a concatenation. Memory is a number, and
    all views of an array share the number of its memory.
    """

    def __init__(self, item_bytes: int) -> None:
        self.item_bytes = item_bytes
        """Bytes of one value in the dtype asked for."""
        self.layers: dict[str, Layer] = {}
        self.sizes: list[int] = []
        """Bytes of every piece of memory, by its number."""
        self.steps: list[tuple[tuple[int, ...], tuple[int, ...]]] = []
        """For every step the memory that it makes, and the memory that it reads."""
        self._unnamed: list[tuple[Layer, tuple[int, ...]]] = []  # calls whose name the trace has yet to tell, and their results
        self._results: list[tuple[int, str]] = []  # every operation's results: their memory and the layer's name
        self._traced: dict[int, str] = {}  # the first trace name of every memory that has one

    def step(self, shapes: Sequence[Shape], reads: tuple[int, ...], item_bytes: int | None = None) -> tuple[int, ...]:
        """Write down a step by the shapes that it makes and the memory that it reads; the numbers of the memory that it makes."""
        first, size = len(self.sizes), item_bytes or self.item_bytes
        self.sizes += [size * prod(shape) for shape in shapes]
        made = tuple(range(first, len(self.sizes)))
        self.steps.append((made, reads))
        return made

    def called(self, operation: str, shape: Shape, macs: int = 0, weight_bytes: int = 0) -> None:
        """Write down that the latest step is an operation of the record. The trace will tell its name."""
        made, _ = self.steps[-1]
        layer = Layer(operation, macs, shape, weight_bytes, sum([self.sizes[memory] for memory in made]))
        self._unnamed.append((layer, made))

    def trace(self, name: str, value: Any) -> Any:
        """The trace of the forward pass. Model files name a value where it arises, so the calls since the last name made it."""
        if self._unnamed:
            self._name(name, value.shape)
        if value.memory is not None:
            self._traced.setdefault(value.memory, name)
        return value

    def _name(self, name: str, shape: Shape) -> None:
        """Book the calls that have no name yet under this one; those of another kind than the last under their kind, too."""
        last, _ = self._unnamed[-1]
        for layer, made in self._unnamed:
            same = layer.operation == last.operation
            path = name if same else f"{name}.{layer.operation}"
            self.layers[path] = _added(self.layers.get(path), layer, shape if same else layer.shape)
            self._results += [(memory, path) for memory in made]
        self._unnamed = []

    @property
    def largest(self) -> tuple[str, int]:
        """Trace name and bytes of the largest result of an operation, the first of equals.

        A result has its own trace name, as attention's probabilities have beside the context; or its layer's, as each of the
        gathered arrays has that only together get a name.
        """
        if not self._results:
            return "", 0
        memory, layer = max(self._results, key=lambda result: self.sizes[result[0]])
        return self._traced.get(memory, layer), self.sizes[memory]


def _added(before: Layer | None, layer: Layer, shape: Shape) -> Layer:
    """What has a name already, if anything has, and one more call, which together lead to a value of this shape."""
    if before is None:
        return layer if layer.shape == shape else replace(layer, shape=shape)
    return Layer(
        layer.operation,
        before.macs + layer.macs,
        shape,
        before.weight_bytes + layer.weight_bytes,
        before.activation_bytes + layer.activation_bytes,
    )


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
