"""What a plan is made of: matrices in one array, and steps between them that know everything but the images.

A program is made once for a number of images of one size. Its steps are data: each has the name of the intermediate that it
makes, and what it needs is in its fields, so that any executor can run it, and a reader or a test can stop behind any of them.
"""

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt

Floats = npt.NDArray[np.float32]
LINE = 16  # floats of a line of the cache, at which matrices begin


@dataclass(frozen=True)
class Layout:
    """How an executor wants its matrices: rows filled up to a multiple of `panel`, and those that a product reads in chunks.

    A chunk is `chunk` columns wide, its rows `depth` floats apart; chunk 0: no chunks.
    """

    panel: int = 1
    chunk: int = 0
    depth: int = 0

    def padded(self, columns: int) -> int:
        """The columns of a whole row."""
        return -(-columns // self.panel) * self.panel


@dataclass(frozen=True)
class Matrix:
    """Rows and columns that begin at `start`: column c of row r is at start + (c // chunk) * leap + r * pitch + c % chunk."""

    start: int
    rows: int
    columns: int
    pitch: int
    leap: int

    def from_column(self, column: int, columns: int) -> "Matrix":
        """Some of the columns of a matrix without chunks."""
        return Matrix(self.start + column, self.rows, columns, self.pitch, self.leap)

    def part(self, index: int, parts: int) -> "Matrix":
        """One of so many equal parts of the rows."""
        rows = self.rows // parts
        return Matrix(self.start + index * rows * self.pitch, rows, self.columns, self.pitch, self.leap)


@dataclass(frozen=True)
class Packed:
    """Weights as an executor packs them: for a "product" with [O, K], as one "row" of numbers, or as "rows" as they are.

    part: of the array's rows. name: of what is not a weight, but made of some.
    """

    array: Any
    kind: str
    part: tuple[int, int] | None = None
    name: str = ""

    @property
    def key(self) -> tuple[int | str, str, tuple[int, int] | None]:
        """Two of the same key are packed but once."""
        return self.name or id(self.array), self.kind, self.part


@dataclass(frozen=True)
class Step:
    """One step. name: the intermediate that it makes; kind: what it does; fields: matrices, weights and numbers by name."""

    name: str
    kind: str
    target: Matrix
    fields: dict[str, Any]


@dataclass
class Program:
    """Steps for `images` images, and `size` floats of memory. results: what they make; kind: how a call returns them."""

    layout: Layout
    images: int
    steps: list[Step] = field(default_factory=list)
    size: int = 0
    results: "list[Tokens]" = field(default_factory=list)
    kind: Callable[[list[Any]], Any] = list
    _named: dict[tuple[str, bool], Matrix] = field(default_factory=dict)

    def matrix(self, name: str, rows: int, columns: int, product: bool = False) -> Matrix:
        """Memory for a matrix; of the same name as an earlier one, in its place. product: whether products read it."""
        layout, room = self.layout, self._named.get((name, product))
        chunked = product and layout.chunk > 0
        pitch = layout.depth if chunked else layout.padded(columns)
        wide = -(-columns // layout.chunk) if chunked else 1
        size = wide * rows * pitch
        start = room.start if room is not None and size <= room.leap else self._take(size)
        if room is None or size > room.leap:
            self._named[name, product] = Matrix(start, 0, 0, 0, size)
        return Matrix(start, rows, columns, pitch, rows * pitch if chunked else layout.chunk)

    def place(self, name: str) -> int:
        """Where the whole-rowed matrix of that name begins."""
        return self._named[name, False].start

    def _take(self, size: int) -> int:
        start = self.size
        self.size += -(-size // LINE) * LINE
        return start

    def add(self, name: str, kind: str, target: Matrix, **fields: Any) -> Matrix:
        """Append a step -> the matrix that it makes."""
        self.steps.append(Step(name, kind, target, fields))
        return target

    # The steps that many models have

    def norm(
        self, name: str, source: Matrix, parameters: tuple[Any, Any], eps: float, rows: tuple[int, int], place: str, product: bool = True
    ) -> Matrix:  # fmt: skip
        """Layer norm of each image's first rows. rows: how many of how many."""
        wanted, there = rows
        target = self.matrix(place, self.images * wanted, source.columns, product)
        weight, bias = parameters
        return self.add(
            name, "norm", target, source=source, weight=Packed(weight, "row"), bias=Packed(bias, "row"), eps=eps, group=wanted,
            tokens=there,
        )  # fmt: skip

    def linear(
        self, name: str, source: Matrix, parameters: tuple[Any, Any], place: str | Matrix, part: tuple[int, int] | None = None,
        end: str = "plain", product: bool = False, gain: Any = None,
    ) -> Matrix:  # fmt: skip
        """[rows, K] W^T + b, of which `part` are the rows of W. end: "plain", "gelu", "relu", or "add" to what is at `place`."""
        weight, bias = parameters
        columns = weight.shape[0] if part is None else part[1] - part[0]
        target = place if isinstance(place, Matrix) else self.matrix(place, source.rows, columns, product)
        return self.add(
            name, "linear", target, source=source, weight=Packed(weight, "product", part),
            bias=None if bias is None else Packed(bias, "row", part), end=end, gain=None if gain is None else Packed(gain, "row"),
        )  # fmt: skip


@dataclass(frozen=True)
class Tokens:
    """What stands for an array while a program is made: the matrix that will hold it, and its shape as the reference sees it.

    count: rows an image; None where an image has but one, and the array no axis for it.
    """

    program: Program
    matrix: Matrix
    count: int | None

    @property
    def shape(self) -> tuple[int, ...]:
        """(B, N, C), or (B, C)."""
        images, columns = self.program.images, self.matrix.columns
        return (images, columns) if self.count is None else (images, self.count, columns)

    @property
    def rows(self) -> int:
        """Rows of each image."""
        return self.count or 1


@dataclass(frozen=True)
class Images:
    """What stands for the images."""

    program: Program
    shape: tuple[int, int, int, int]


Emit = Callable[..., Any]


class UnplannedError(Exception):
    """What no step is known for; the model is then computed operation by operation."""
