"""An ONNX graph as verification walks it: which node makes and which nodes read a tensor, what is constant, what is only layout."""

from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from reforg.verification.error_model.layouts import fitted

Values = np.ndarray[Any, np.dtype[Any]]
Shape = tuple[int, ...]
# Operators whose result holds the values of their first input, as they stand or in another layout.
LAYOUT = frozenset({"Reshape", "Transpose", "Identity", "Flatten", "Squeeze", "Unsqueeze", "Cast", "Dropout"})


@dataclass(frozen=True, eq=False)
class Node:
    """One node: its operator, the operator's domain, the path of the module that it came from ("" where unknown), its tensors."""

    kind: str
    domain: str
    path: str
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]

    @property
    def output(self) -> str:
        """The first result."""
        return self.outputs[0]

    def other(self, name: str) -> str:
        """The other operand of a node with two."""
        return self.inputs[1] if self.inputs[0] == name else self.inputs[0]


class Graph:
    """Nodes in the order of execution, floating constants by name, and the shape of every floating tensor in one run."""

    def __init__(self, nodes: Sequence[Node], weights: Mapping[str, Values], values: Mapping[str, Values]) -> None:
        """weights: initializers. values: of every floating tensor in a run; those that no input reaches are constants too."""
        self.nodes = [node for node in nodes if any(node.outputs)]
        self.makers = {name: node for node in self.nodes for name in node.outputs}
        self._readers: dict[str, list[Node]] = {}
        for node in self.nodes:
            for name in dict.fromkeys(node.inputs):
                self._readers.setdefault(name, []).append(node)
        self.shapes: dict[str, Shape] = {name: value.shape for name, value in values.items()}
        fixed = set(weights)
        for node in self.nodes:
            if all(name in fixed or not name for name in node.inputs):
                fixed.update(node.outputs)
        self.constants = dict(weights) | {name: value for name, value in values.items() if name in fixed}

    def readers(self, name: str) -> list[Node]:
        """The nodes that read a tensor."""
        return self._readers.get(name, [])

    def vector(self, name: str, size: int) -> bool:
        """Whether a tensor is a constant of that many values."""
        return name in self.constants and self.constants[name].size == size

    def back(self, name: str, kinds: Collection[str] = LAYOUT) -> Iterator[str]:
        """A tensor, and what it was before each layout operator that led to it, the nearest first."""
        seen: set[str] = set()
        while name not in seen:
            seen.add(name)
            yield name
            node = self.makers.get(name)
            if node is None or node.kind not in kinds or not node.inputs:
                return
            name = node.inputs[0]

    def onward(self, names: Iterable[str], passes: Callable[[Node], bool]) -> Iterator[str]:
        """Tensors, and all that is made of them by nodes that pass, nearest first."""
        queue = list(dict.fromkeys(names))
        seen = set(queue)
        for name in queue:
            yield name
            for node in self.readers(name):
                if passes(node) and node.output not in seen:
                    seen.add(node.output)
                    queue.append(node.output)

    def relaid(self, name: str) -> Iterator[str]:
        """A tensor, and everything that layout operators make of it, nearest first."""
        return self.onward([name], lambda node: node.kind in LAYOUT)

    def fitting(self, names: Iterable[str], shape: Shape, far: bool = False) -> str:
        """Of tensors with the same values, the first (far: the last) of that shape; else the first of that rank, or of a layout

        that can be brought into that shape; else the first.
        """
        choice = [name for name in names if name in self.shapes]
        exact = [name for name in choice if self.shapes[name] == shape]
        if exact:
            return exact[-1 if far else 0]
        alike = (name for name in choice if len(self.shapes[name]) == len(shape))
        other = (name for name in choice if fits(self.shapes[name], shape))
        return next(alike, "") or next(other, "") or next(iter(choice), "")


def fits(shape: Shape, wanted: Shape) -> bool:
    """Whether an array of a shape is of the wanted one in some layout."""
    return fitted(np.zeros(shape), np.zeros(wanted))[0].shape == wanted
