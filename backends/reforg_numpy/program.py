"""What a plan is made of: matrices in one array, and steps between them that know everything but the images.

A program is made once for a number of images of one size. Its steps are data: each has the name of the intermediate that it
makes, and what it needs is in its fields, so that any executor can run it, and a reader or a test can stop behind any of them.
"""

import re
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from reforg_numpy.matrices import LINE, Layout, Matrix, Packed


@dataclass(frozen=True)
class Step:
    """One step. name: the intermediate that it makes; kind: what it does; fields: matrices, weights and numbers by name."""

    name: str
    kind: str
    target: Matrix
    fields: dict[str, Any]


WATCHED = {  # kind of a step -> the operation or the piece of the reference that it computes
    "norm": "layer_norm", "linear": "linear", "attention": "attention", "depthwise": "depthwise_conv2d", "embed": "vit.embed",
    "reorganize": "evit.reorganize", "take": "gather", "pool": "pooled", "mean": "pooled",
}  # fmt: skip


def label(step: Step) -> str:
    """What a breakdown calls a step: its operation, and the layer that it is of in any block."""
    kind = "conv2d" if step.fields.get("before") in ("planes", "pixels") else WATCHED[step.kind]
    layer = re.sub(r"^blocks?\d*\.\d+\.?|^patch_embed\d?\.?|@\d+$|\d$", "", step.name)
    if step.kind == "linear" and step.fields["end"] == "add" and layer != "attended":
        layer = "mlp.fc2"
    first = f"{WATCHED[before]} + " if (before := step.fields.get("before")) in WATCHED else ""
    ending = f" + {step.fields['end']}" if step.fields.get("end", "plain") != "plain" else ""
    return f"{first}{kind} {layer}{ending}".strip()


def macs(step: Step, images: int) -> int | None:
    """Multiply-accumulates of a step, as reforg.cost counts them; None where it has none."""
    fields, rows = step.fields, step.target.rows
    if step.kind == "linear":
        mixed = 9 * rows * fields["inner"] if fields["before"] == "depthwise" else 0
        return int(rows * fields["inner"] * step.target.columns) + mixed
    if step.kind == "attention":
        return int(2 * images * fields["group"] * fields["key_count"] * fields["heads"] * fields["depth"])
    return 9 * rows * step.target.columns if step.kind == "depthwise" else None


@dataclass
class Program:
    """Steps for `images` images, and `size` floats of memory. results: what they make; kind: how a call returns them."""

    layout: Layout
    images: int
    steps: list[Step] = field(default_factory=list)
    size: int = 0
    results: "list[Tokens | Maps]" = field(default_factory=list)
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
        if key not in self._named or self._named[key][1] < size:
            self._named[key] = self._take(size), size
        return Matrix(self._named[key][0], rows, columns, pitch, chunk, leap)

    def place(self, name: str) -> int:
        """Where the whole-rowed matrix of that name begins."""
        return self._named[name, False][0]

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
        self, name: str, source: Matrix, parameters: tuple[Any, Any], eps: float, place: str, product: bool = True,
        rows: tuple[int, int] = (1, 1), end: str = "plain",
    ) -> Matrix:  # fmt: skip
        """Layer norm of each image's first rows, of so many. end: "plain", or "gelu" of it."""
        wanted, there = rows
        target = self.matrix(place, source.rows // there * wanted, source.columns, product)
        weight, bias = parameters
        return self.add(
            name, "norm", target, source=source, weight=Packed(weight, "row"), bias=Packed(bias, "row"), eps=eps, group=wanted,
            tokens=there, end=end,
        )  # fmt: skip

    def linear(
        self, name: str, source: Matrix, parameters: tuple[Any, Any], place: str | Matrix, part: tuple[int, int] | None = None,
        end: str = "plain", product: bool = False, gain: Any = None, heads: int = 1,
    ) -> Matrix:  # fmt: skip
        """[rows, K] W^T + b, of which `part` are the rows of W. end: "plain", "gelu", "relu", or "add" to what is at `place`."""
        weight, bias = parameters
        columns = weight.shape[0] if part is None else part[1] - part[0]
        target = place if isinstance(place, Matrix) else self.matrix(place, source.rows, columns, product, heads)
        return self.add(
            name, "linear", target, source=source, inner=source.columns, weight=Packed(weight, "product", part),
            bias=None if bias is None else Packed(bias, "row", part), end=end, gain=None if gain is None else Packed(gain, "row"),
            before="rows",
        )  # fmt: skip

    def convolve(
        self, name: str, source: "Maps | Images", parameters: tuple[Any, Any], place: str, stride: int, padding: int = 0,
        norm: tuple[Packed, Packed] | None = None, end: str = "plain",
    ) -> "Maps":  # fmt: skip
        """A convolution, as a product of windows; norm: the gain and the shift of a batch norm behind it (see `folded`)."""
        weight, bias = parameters
        columns, channels, size, _ = weight.shape
        height, width = source.shape[2:]
        out_height, out_width = (height + 2 * padding - size) // stride + 1, (width + 2 * padding - size) // stride + 1
        target = self.matrix(place, self.images * out_height * out_width, columns)
        gain, shift = norm or (None, None if bias is None else Packed(bias, "row"))
        fields = {"source": source.matrix} if isinstance(source, Maps) else {}
        planes = not fields
        self.add(
            name, "linear", target, **fields, inner=channels * size * size, weight=Packed(weight, "planes" if planes else "pixels"),
            bias=shift, gain=gain, end=end, before="planes" if planes else "pixels", size=size, stride=stride, padding=padding,
            channels=channels, height=height, width=width, out_height=out_height, out_width=out_width,
        )  # fmt: skip
        return Maps(Tokens(self, target, out_height * out_width), (out_height, out_width))

    def depthwise(
        self, name: str, source: Matrix, grid: tuple[int, int], parameters: tuple[Any, Any], target: Matrix, end: str
    ) -> Matrix:  # fmt: skip
        """A 3x3 convolution of each channel with its own. end: "sum" with the source, "gelu of sum", or "more" of the target."""
        weight, bias = parameters
        return self.add(
            name, "depthwise", target, source=source, weight=Packed(weight, "taps"),
            bias=None if bias is None else Packed(bias, "row"), end=end, height=grid[0], width=grid[1],
        )  # fmt: skip


def folded(weights: Any, path: str, bias: Any = None, eps: float = 1e-5) -> tuple[Packed, Packed]:
    """A batch norm's running statistics as gain and shift of what comes before its layer's own bias."""
    gain = weights[f"{path}.weight"] / np.sqrt(weights[f"{path}.running_var"] + np.float32(eps))
    mean = weights[f"{path}.running_mean"]
    shift = weights[f"{path}.bias"] - (mean if bias is None else mean - bias) * gain
    return Packed(gain, "row", None, f"{path} gain"), Packed(shift, "row", None, f"{path} shift")


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

    def __array_namespace__(self, api_version: str | None = None) -> type["Views"]:
        return Views

    def seen(self, rows: Any) -> Any:
        """[B N, C], what the matrix holds -> the array that this stands for, a view of it."""
        return rows.reshape(self.shape)


@dataclass(frozen=True)
class Maps:
    """What stands for tokens [B, N, C] seen as maps [B, C, H, W]."""

    tokens: Tokens
    grid: tuple[int, int]

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


class Views:
    """As much of an array namespace as turns tokens into maps (reforg.ops.to_maps)."""

    @staticmethod
    def matrix_transpose(tokens: Tokens) -> Tokens:
        """Only on the way to `reshape`."""
        return tokens

    @staticmethod
    def reshape(tokens: Tokens, shape: tuple[int, ...]) -> Maps:
        """[B, C, N] -> [B, C, H, W]."""
        _, _, height, width = shape
        return Maps(tokens, (height, width))


@dataclass(frozen=True)
class Images:
    """What stands for the images."""

    program: Program
    shape: tuple[int, ...]
