"""A program: steps in their order, and the memory of the matrices between them, which knows everything but the images.

It is made once for a number of images of one size. Its steps are data (see `steps`), so any executor can run it.
"""

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, Protocol

from reforg.plans.matrices import LINE, Layout, Matrix, Packed
from reforg.plans.steps import Depthwise, DepthwiseEnd, Linear, Norm, NormEnd, ProductEnd, Step


class Result(Protocol):
    """What a program makes, to whoever runs it: where it lies, and how the caller sees it."""

    @property
    def matrix(self) -> Matrix:
        """Where it lies."""

    @property
    def shape(self) -> tuple[int, ...]:
        """As the reference has it, images first."""

    def seen(self, rows: Any) -> Any:
        """[B N, C], what the matrix holds -> the array that this stands for, a view of it."""


@dataclass
class Program:
    """Steps for `images` images, and `size` floats of memory.

    only_logits: whether nothing is read of what it makes but logits. results: what it makes; kind: how a call returns them.
    """

    layout: Layout
    images: int
    only_logits: bool = False
    steps: list[Step] = field(default_factory=list)
    size: int = 0
    results: list[Result] = field(default_factory=list)
    kind: Callable[[list[Any]], Any] = list
    _named: dict[tuple[str, bool], tuple[int, int]] = field(default_factory=dict)

    def matrix(self, name: str, rows: int, columns: int, product: bool = False, heads: int = 1) -> Matrix:
        """Memory for a matrix; of the same name as an earlier one, in its place.

        product: whether products read it. heads: how many columns belong together, where they are read head by head.
        """
        layout = self.layout
        if product and layout.chunk:
            chunk, pitch = layout.chunk, layout.depth
        elif heads > 1 and layout.panel > 1 and heads % layout.panel == 0:
            chunk, pitch = heads, heads
        else:
            chunk, pitch = layout.padded(columns), layout.apart(columns)
        wide = -(-columns // chunk)
        leap = rows * pitch if wide > 1 or product else layout.chunk or chunk
        size = wide * rows * pitch
        key = name, product
        if key not in self._named or self._named[key][1] < size:  # a larger one is taken anew: what has the old place keeps it
            self._named[key] = self._take(size), size
        return Matrix(self._named[key][0], rows, columns, pitch, chunk, leap)

    def place(self, name: str) -> int:
        """Where the whole-rowed matrix of that name begins."""
        return self._named[name, False][0]

    def own(self, name: str) -> str:
        """A name for memory that no later step shares: what lies there is a result of the call."""
        return f"{name} after {len(self.steps)} steps"

    def _take(self, size: int) -> int:
        start = self.size
        self.size += -(-size // LINE) * LINE
        return start

    def add(self, step: Step) -> Matrix:
        """Append a step -> the matrix that it makes."""
        self.steps.append(step)
        return step.target

    # The steps that many models have

    def norm(
        self,
        name: str,
        source: Matrix,
        parameters: tuple[Any, Any],
        eps: float,
        place: str,
        product: bool = True,
        rows: tuple[int, int] = (1, 1),
        end: NormEnd = "plain",
    ) -> Matrix:
        """Layer norm of each image's first rows, of so many, (1, 1) for all."""
        wanted, there = rows
        target = self.matrix(place, source.rows // there * wanted, source.columns, product)
        weight, bias = parameters
        return self.add(Norm(name, target, source, Packed(weight, "row"), Packed(bias, "row"), eps, wanted, there, end))

    def linear(
        self,
        name: str,
        source: Matrix,
        parameters: tuple[Any, Any],
        place: str | Matrix,
        part: tuple[int, int] | None = None,
        end: ProductEnd = "plain",
        gain: Any = None,
        heads: int = 1,
    ) -> Matrix:
        """[rows, K] W^T + b, of which `part` are the rows of W, into memory of a name or into a matrix."""
        weight, bias = parameters
        columns = weight.shape[0] if part is None else part[1] - part[0]
        target = place if isinstance(place, Matrix) else self.matrix(place, source.rows, columns, heads=heads)
        return self.add(Linear(name, target, Packed(weight, "product", part), row(bias, part), row(gain), end, source))

    def depthwise(
        self, name: str, source: Matrix, grid: tuple[int, int], parameters: tuple[Any, Any], target: Matrix, end: DepthwiseEnd
    ) -> Matrix:
        """A 3x3 convolution of each channel with its own."""
        weight, bias = parameters
        return self.add(Depthwise(name, target, source, Packed(weight, "taps"), row(bias), end, *grid))


def row(array: Any, part: tuple[int, int] | None = None) -> Packed | None:
    """A bias or a gain as executors pack it; None for none."""
    return None if array is None else Packed(array, "row", part)
