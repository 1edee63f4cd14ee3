"""What a forward pass really does, seen from two sides; neither shares any code with `reforg.costs`.

`Counter` stands in the `Ops` record of an actual run: every operation counts what it multiplies by the shapes of the arrays
that it is given, and what it returns. `Tape` runs the same model files on arrays that have a shape and no values, and notes
which array every step reads and makes: the literal lives of all values, at any size, in no time.
"""

from collections.abc import Callable
from dataclasses import dataclass
from math import prod
from typing import Any

import numpy as np

from reforg.families import family_of, shapes
from reforg.ops import REFERENCE, Ops, operations, untraced

MULTIPLIED = {
    "linear": lambda results, x, weight, *_: prod(results[0].shape) * x.shape[-1],
    "conv2d": lambda results, x, weight, *_: prod(results[0].shape) * x.shape[1] * weight.shape[2] * weight.shape[3],
    "depthwise_conv2d": lambda results, x, weight, *_: prod(results[0].shape) * weight.shape[2] * weight.shape[3],
    "attention": lambda results, queries, keys, values, *_: (
        prod(queries.shape) * keys.shape[2] + prod(results[1].shape) * values.shape[3]
    ),
}
PARAMETERS = {"linear": 2, "layer_norm": 2, "conv2d": 2, "depthwise_conv2d": 2, "batch_norm": 4}  # given after x


@dataclass(frozen=True)
class Call:
    """One call of an operation of the record."""

    operation: str
    macs: int
    weight_bytes: int
    result_bytes: tuple[int, ...]


@dataclass(frozen=True)
class Layer:
    """The calls of one operation that together have one name, and the shape that the trace has under it."""

    operation: str
    macs: int
    shape: tuple[int, ...]
    weight_bytes: int
    activation_bytes: int


class Counter:
    """An `Ops` record that counts, and the trace that tells under which name each call's result came out."""

    def __init__(self) -> None:
        self.layers: dict[str, Layer] = {}
        self.calls: list[Call] = []
        self._unnamed: list[Call] = []
        self.ops = REFERENCE.replaced("counter", {name: self._counting(name) for name in operations()})

    def trace(self, name: str, value: Any) -> Any:
        """Whatever was called since the last name is what has this one."""
        if calls := self._unnamed:
            assert len({call.operation for call in calls}) == 1, f"{name} comes from more than one operation"
            self.layers[name] = Layer(
                calls[0].operation,
                sum(call.macs for call in calls),
                tuple(value.shape),
                sum(call.weight_bytes for call in calls),
                sum(sum(call.result_bytes) for call in calls),
            )
            self._unnamed = []
        return value

    def _counting(self, name: str) -> Callable[..., Any]:
        function = getattr(REFERENCE, name)

        def counted(*args: Any) -> Any:
            note = untraced
            if name == "attention":
                *args, note = args
            given = function(*args)
            results = given if isinstance(given, tuple) else (given,)
            weights = [weight for weight in args[1 : 1 + PARAMETERS.get(name, 0)] if weight is not None]
            call = Call(
                name,
                MULTIPLIED[name](results, *args) if name in MULTIPLIED else 0,
                sum(weight.nbytes for weight in weights),
                tuple(result.nbytes for result in results),
            )
            self.calls.append(call)
            self._unnamed.append(call)
            note("context", results[0])
            return given

        return counted


def run(model: Any, images: Any) -> Counter:
    """The counter after a forward pass of a model over images, or of a config over a NumPy batch with weights of zero."""
    counter = Counter()
    config = getattr(model, "config", model)
    nothing = {name: np.zeros(shape, images.dtype) for name, shape in shapes(config).items()}
    family_of(config).forward(getattr(model, "weights", nothing), images, config, counter.ops, counter.trace)
    return counter


class Tape:
    """The steps of a forward pass: the bytes of what each makes, under numbers, and the numbers of what it reads."""

    def __init__(self, item_bytes: int) -> None:
        self.item = item_bytes
        self.sizes: list[int] = []
        self.steps: list[tuple[set[int], set[int]]] = []

    def made(self, shapes: list[tuple[int, ...]], reads: list["Shaped"], item: int | None = None) -> list["Shaped"]:
        made = [Shaped(self, shape, len(self.sizes) + number) for number, shape in enumerate(shapes)]
        self.sizes += [(item or self.item) * prod(shape) for shape in shapes]
        self.steps.append(({value.memory for value in made}, {value.memory for value in reads} - {None}))
        return made

    def peak(self) -> int:
        """The most bytes alive in any step, each step looked at by itself."""
        born, last = {}, {}
        for step, (made, reads) in enumerate(self.steps):
            born |= dict.fromkeys(made, step)
            last |= dict.fromkeys(made | reads, step)
        alive = [0] * len(self.steps)
        for value, size in enumerate(self.sizes):
            for step in range(born[value], last[value] + 1):
                alive[step] += size
        return max(alive)


class Shaped:
    """An array of the Array API standard as far as the model files look at one, without its values."""

    float32, float64, dtype = "float32", "float64", "float64"
    device = None

    def __init__(self, tape: Tape, shape: tuple[int, ...], memory: int | None) -> None:
        self.tape, self.shape, self.memory = tape, tuple(shape), memory

    def __array_namespace__(self, api_version: str | None = None) -> Any:
        return Namespace

    def view(self, change: Callable[[Any], Any]) -> "Shaped":
        """The same memory as NumPy would look at it: no values are held, however large the shape."""
        return Shaped(self.tape, change(np.broadcast_to(np.int8(0), self.shape)).shape, self.memory)

    def __getitem__(self, key: Any) -> "Shaped":
        return self.view(lambda array: array[key])

    def _with(self, other: Any) -> "Shaped":
        reads = [value for value in (self, other) if isinstance(value, Shaped)]
        return self.tape.made([np.broadcast_shapes(*(value.shape for value in reads))], reads)[0]

    __add__ = __mul__ = __truediv__ = _with


def _reduced(x: Shaped, axis: int, keepdims: bool = False) -> Shaped:
    axis %= len(x.shape)
    shape = [1 if place == axis else side for place, side in enumerate(x.shape) if keepdims or place != axis]
    return x.tape.made([shape], [x])[0]


class Namespace:
    """The functions of the standard that the model files call outside of the operations."""

    float32, float64 = "float32", "float64"
    mean = sum = staticmethod(_reduced)

    @staticmethod
    def astype(x: Shaped, dtype: Any, copy: bool = True) -> Shaped:
        return x

    @staticmethod
    def broadcast_to(x: Shaped, shape: tuple[int, ...]) -> Shaped:
        return x.view(lambda array: np.broadcast_to(array, shape))

    @staticmethod
    def permute_dims(x: Shaped, axes: tuple[int, ...]) -> Shaped:
        return x.view(lambda array: np.transpose(array, axes))

    @staticmethod
    def matrix_transpose(x: Shaped) -> Shaped:
        return x.view(lambda array: np.swapaxes(array, -1, -2))

    @staticmethod
    def reshape(x: Shaped, shape: tuple[int, ...]) -> Shaped:
        assert prod(x.shape) == prod(shape)
        return Shaped(x.tape, shape, x.memory)

    @staticmethod
    def concat(arrays: list[Shaped], axis: int) -> Shaped:
        shape = list(arrays[0].shape)
        shape[axis] = sum(array.shape[axis] for array in arrays)
        return arrays[0].tape.made([shape], arrays)[0]


def _convolved(x: Shaped, weight: Shaped, bias: Any, stride: int, padding: int) -> Shaped:
    sides = [len(range(0, side + 2 * padding - size + 1, stride)) for side, size in zip(x.shape[2:], weight.shape[2:], strict=True)]
    return x.tape.made([(x.shape[0], weight.shape[0], *sides)], [x])[0]


def _gathered(tokens: Shaped, indices: Shaped) -> Shaped:
    return tokens.tape.made([(*indices.shape, *tokens.shape[2:])], [tokens, indices])[0]


def _same(x: Shaped, *_: Any) -> Shaped:
    return x.tape.made([x.shape], [x])[0]


SHAPED = Ops(
    linear=lambda x, weight, *_: x.tape.made([(*x.shape[:-1], weight.shape[0])], [x])[0],
    layer_norm=_same, batch_norm=_same, gelu=_same, relu=_same,
    attention=lambda q, k, v, *_: tuple(q.tape.made([(*q.shape[:3], v.shape[3]), (*q.shape[:3], k.shape[2])], [q, k, v])),
    conv2d=_convolved,
    depthwise_conv2d=lambda x, weight, bias, padding: _convolved(x, weight, bias, 1, padding),
    resize=lambda x, size, *_: x.tape.made([(*x.shape[:2], *size)], [x])[0],
    rank=lambda scores: scores.tape.made([scores.shape], [scores], np.dtype(np.int64).itemsize)[0],
    gather=_gathered,
)  # fmt: skip


def taped(config: Any, size: tuple[int, int], batch: int, item_bytes: int) -> Tape:
    """The tape of a forward pass over images of `size`; weights lie in no memory that counts."""
    tape = Tape(item_bytes)
    weights = {name: Shaped(tape, shape, None) for name, shape in shapes(config).items()}
    (images,) = tape.made([(batch, config.in_chans, *size)], [])
    family_of(config).forward(weights, images, config, SHAPED)
    return tape
