"""Symbols: what stands for an array while a forward pass is recorded. They have a shape and a place, and no values.

A forward pass calls recorders with them (`recorders`), which append steps. Whatever else it does with a symbol, an operation
that nobody records, an operator, a function of the array library, raises UnrecordableError: that forward pass has no plan.
"""

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, NoReturn

from reforg.plans.matrices import Matrix
from reforg.plans.program import Program

OPERATORS = (
    "add", "sub", "mul", "truediv", "floordiv", "mod", "pow", "matmul", "and", "or", "xor", "lshift", "rshift", "divmod",
)  # fmt: skip
ALONE = (
    "neg", "pos", "abs", "invert", "eq", "ne", "lt", "le", "gt", "ge", "getitem", "setitem", "len", "iter", "contains", "bool",
    "int", "float", "complex", "index", "array", "array_ufunc", "array_function",
)  # fmt: skip


class UnrecordableError(Exception):
    """A forward pass did something with a symbol that no recorder knows: it is computed operation by operation instead."""


def _refusing(name: str) -> Callable[..., NoReturn]:
    def refuse(self: Any, *arguments: Any, **settings: Any) -> NoReturn:
        del arguments, settings
        raise UnrecordableError(f"{type(self).__name__}.{name}")

    return refuse


class Symbol:
    """What all symbols refuse."""

    def check(self) -> None:
        """Raises UnrecordableError where what it stands for is no longer there, as it has been computed over."""

    def __array_namespace__(self, api_version: str | None = None) -> "Views":
        return VIEWS

    def __getattr__(self, name: str) -> NoReturn:
        if name.startswith("__"):  # by which libraries ask what a value is, and must hear that it is nothing of theirs
            raise AttributeError(name)
        raise UnrecordableError(f"{type(self).__name__}.{name}")


for _operator in (*ALONE, *OPERATORS, *(f"r{name}" for name in OPERATORS)):
    setattr(Symbol, f"__{_operator}__", _refusing(f"__{_operator}__"))


@dataclass(frozen=True, eq=False)
class Tokens(Symbol):
    """Stands for tokens, or for one row of each image: the matrix that will hold them, and a shape as the reference sees it.

    count: rows an image; None where an image has but one, and the array no axis for it.
    after: how many steps there were when it was made. Blocks add to their tokens in place, so later ones may overwrite them.
    """

    program: Program
    matrix: Matrix
    count: int | None
    after: int = field(init=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "after", len(self.program.steps))

    def check(self) -> None:
        """See `Symbol.check`: no later step may have the same target."""
        if any(step.target.start == self.matrix.start for step in self.program.steps[self.after :]):
            raise UnrecordableError("tokens that a later block has overwritten")

    @property
    def shape(self) -> tuple[int, ...]:
        """(B, N, C), or (B, C)."""
        images, columns = self.program.images, self.matrix.columns
        return (images, columns) if self.count is None else (images, self.count, columns)

    @property
    def rows(self) -> int:
        """Rows of each image."""
        return self.count or 1

    def seen(self, rows: Any) -> Any:
        """[B N, C], what the matrix holds -> the array that this stands for, a view of it."""
        return rows.reshape(self.shape)


@dataclass(frozen=True, eq=False)
class Maps(Symbol):
    """Stands for tokens [B, N, C] seen as maps [B, C, H, W]."""

    tokens: Tokens
    grid: tuple[int, int]

    def check(self) -> None:
        """See `Symbol.check`."""
        self.tokens.check()

    @property
    def shape(self) -> tuple[int, int, int, int]:
        """(B, C, H, W)."""
        images, _, columns = self.tokens.shape
        return (images, columns, *self.grid)

    @property
    def program(self) -> Program:
        """The tokens' own, as the matrix."""
        return self.tokens.program

    @property
    def matrix(self) -> Matrix:
        """See `program`."""
        return self.tokens.matrix

    def seen(self, rows: Any) -> Any:
        """[B N, C], what the matrix holds -> the array that this stands for, a view of it."""
        return self.tokens.seen(rows).swapaxes(1, 2).reshape(self.shape)


@dataclass(frozen=True, eq=False)
class Images(Symbol):
    """Stands for the images [B, C, H, W], which lie in no matrix of the program."""

    program: Program
    shape: tuple[int, ...]


@dataclass(frozen=True, eq=False)
class Transposed(Symbol):
    """Stands for tokens [B, C, N], on their way to maps."""

    tokens: Tokens


class Views:
    """As much of an array namespace as turns tokens into maps (reforg.ops.to_maps), which moves nothing."""

    __name__ = "reforg.plans.symbols"  # by which array-api-compat tells namespaces apart

    def __repr__(self) -> str:
        return self.__name__

    def matrix_transpose(self, x: Any) -> Transposed:
        """[B, N, C] -> [B, C, N]."""
        if isinstance(x, Tokens) and x.count is not None:
            return Transposed(x)
        raise UnrecordableError(f"matrix_transpose of {type(x).__name__}")

    def reshape(self, x: Any, shape: tuple[int, ...]) -> Maps:
        """[B, C, N] -> [B, C, H, W]."""
        if isinstance(x, Transposed) and len(shape) == 4:
            maps = Maps(x.tokens, (shape[2], shape[3]))
            if maps.shape == tuple(shape) and shape[2] * shape[3] == x.tokens.count:
                return maps
        raise UnrecordableError(f"reshape of {type(x).__name__}")

    def __getattr__(self, name: str) -> NoReturn:
        if name.startswith("__"):
            raise AttributeError(name)
        raise UnrecordableError(f"a function {name} of arrays")


VIEWS = Views()
