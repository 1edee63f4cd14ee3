"""Where numbers lie: matrices in one array, and weights as an executor packs them."""

from dataclasses import dataclass, replace
from typing import Any

LINE = 16  # floats of a line of the cache, at which matrices begin
CROWDED = 256  # floats: a tile's rows so far apart are more than a first-level cache has places for


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

    def apart(self, columns: int) -> int:
        """Floats from a whole row to the next: rows that lie a multiple of CROWDED apart have the same few places in a cache."""
        padded = self.padded(columns)
        return padded + LINE if self.chunk and padded % CROWDED == 0 else padded


@dataclass(frozen=True)
class Matrix:
    """Rows and columns that begin at `start`: column c of row r is at start + (c // chunk) * leap + r * pitch + c % chunk.

    One whose rows are whole has a single chunk, and for `leap` a chunk of those that products read: for any chunk, column c of
    it is c further on.
    """

    start: int
    rows: int
    columns: int
    pitch: int
    chunk: int
    leap: int

    def from_column(self, column: int, columns: int) -> "Matrix":
        """Some of the columns, from the first of a chunk or of a matrix of a single chunk."""
        start = self.start + column // self.chunk * self.leap + column % self.chunk
        return replace(self, start=start, columns=columns)

    def from_row(self, row: int, rows: int) -> "Matrix":
        """Some of the rows."""
        return replace(self, start=self.start + row * self.pitch, rows=rows)


@dataclass(frozen=True)
class Packed:
    """Weights as an executor packs them: for a "product" with [O, K], or with the windows of "planes" or of "pixels"
    [O, C, kh, kw]; as the "taps" [C, 1, kh, kw] of a depthwise convolution; as one "row" of numbers, or as "rows" as they are.

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
