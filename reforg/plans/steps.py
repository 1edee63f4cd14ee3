"""The steps of a program: a class for each kind, whose fields are all that an executor needs besides the images.

A step reads matrices of its program and makes one, its target. It has the name of the intermediate that it makes, so that a reader
or a test can stop behind any of them. Shapes are those of whole matrices: of B images with n rows each, [B n, C].

Words that several kinds share: `group` is how many rows a step makes of each image, `tokens` how many rows it reads of each;
`special` is how many of these stand before the patches; `end` is what a step does to its result before it is done with it.

A new kind is a class and its row in `COMPUTES` here, a function and its row in each executor's table, and what records it.
"""

import re
from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import Literal

from reforg.plans.matrices import Matrix, Packed

ProductEnd = Literal["plain", "gelu", "relu", "add"]
NormEnd = Literal["plain", "gelu"]
DepthwiseEnd = Literal["sum", "gelu of sum", "more"]


@dataclass(frozen=True)
class Step:
    """What all have. name: the intermediate that it makes; target: where."""

    name: str
    target: Matrix

    @property
    def others(self) -> list[Matrix]:
        """The matrices that it reads, or makes besides its target."""
        return [value for name, value in vars(self).items() if isinstance(value, Matrix) and name != "target"]

    def macs(self, images: int) -> int | None:  # noqa: ARG002 - some kinds count by image
        """Multiply-accumulates for so many images, as reforg.cost counts them; None where it has none."""
        return None


@dataclass(frozen=True)
class Norm(Step):
    """Layer norm over the columns of each image's first `group` rows, of `tokens`: [B tokens, C] -> [B group, C]; end: of it."""

    source: Matrix
    weight: Packed
    bias: Packed
    eps: float
    group: int
    tokens: int
    end: NormEnd


@dataclass(frozen=True)
class Depthwise(Step):
    """A 3x3 convolution, with zeros around, of each channel of maps with its own taps: [B height width, C] -> the same.

    end: "sum" with the source, "gelu of sum", or "more" of what is at the target already.
    """

    source: Matrix
    weight: Packed
    bias: Packed | None
    end: DepthwiseEnd
    height: int
    width: int

    def macs(self, images: int) -> int:  # noqa: ARG002 - the images are in the rows
        """Nine taps for each number that it makes."""
        return 9 * self.target.rows * self.target.columns


@dataclass(frozen=True)
class Product(Step, ABC):
    """Rows times a matrix: [rows, K] W^T + bias -> [rows, O]; what it reads its rows from, the kinds of it say.

    gain: of each column; where the end is "add", of the whole before it is added to the target; else of the product alone, whose
    bias comes behind it, as a batch norm's does.
    """

    weight: Packed
    bias: Packed | None
    gain: Packed | None
    end: ProductEnd

    @property
    @abstractmethod
    def inner(self) -> int:
        """K, the columns of what it reads."""

    def macs(self, images: int) -> int:  # noqa: ARG002 - the images are in the rows
        """Every number that it makes is a sum of K products."""
        return self.target.rows * self.inner * self.target.columns


@dataclass(frozen=True)
class Linear(Product):
    """A product of the rows of a matrix [rows, K].

    first: the step that makes these rows, where an executor computes both together; recorders leave it out.
    """

    source: Matrix
    first: Norm | Depthwise | None = None

    @property
    def inner(self) -> int:
        """K, the columns of the source."""
        return self.source.columns

    def macs(self, images: int) -> int:
        """Its own, and those of the step before it that it takes along."""
        return super().macs(images) + (0 if self.first is None else self.first.macs(images) or 0)


@dataclass(frozen=True)
class Convolve(Product):
    """A product of windows: maps [B height width, channels], or the images where the source is None, -> [B H' W', O].

    A window is size x size pixels, one lies `stride` behind the other, and `padding` zeros are around a map. H' and W' are
    out_height and out_width.
    """

    source: Matrix | None
    size: int
    stride: int
    padding: int
    channels: int
    height: int
    width: int
    out_height: int
    out_width: int

    @property
    def inner(self) -> int:
        """K, the numbers of a window."""
        return self.channels * self.size * self.size


@dataclass(frozen=True)
class Attention(Step):
    """softmax(scale Q K^T) V of each image's heads: [B group, heads depth], twice [B key_count, heads depth] -> [B group, ...].

    column: of the target, at which the first head's context begins. attended: where the class token's probabilities go, a row
    for each head of each image, [B heads, key_count]; None where nobody reads them.
    """

    source: Matrix
    keys: Matrix
    values: Matrix
    key_count: int
    group: int
    heads: int
    depth: int
    scale: float
    column: int
    attended: Matrix | None

    def macs(self, images: int) -> int:
        """Of the scores, and of the mix of the values."""
        return 2 * images * self.group * self.key_count * self.heads * self.depth


@dataclass(frozen=True)
class Embed(Step):
    """Special tokens, then patches and their positions: [B tokens, C] -> [B (special + tokens), C].

    weight: the special tokens, positions included, [special, C]. bias: the patches' positions [tokens, C].
    """

    source: Matrix
    tokens: int
    special: int
    weight: Packed
    bias: Packed


@dataclass(frozen=True)
class Reorganize(Step):
    """EViT's: [B tokens, C] -> [B group, C], the special tokens, the `kept` attentive ones, and with `fuse` the others as one.

    attended: the class token's probabilities of every head of each of the parallel branches, [branches B heads, tokens].
    """

    source: Matrix
    attended: Matrix
    tokens: int
    group: int
    special: int
    kept: int
    fuse: bool
    heads: int
    branches: int


@dataclass(frozen=True)
class Take(Step):
    """The first `group` of each image's `tokens` rows: [B tokens, C] -> [B group, C]."""

    source: Matrix
    tokens: int
    group: int


@dataclass(frozen=True)
class Pool(Step):
    """The mean of each image's rows but the special ones: [B tokens, C] -> [B, C]."""

    source: Matrix
    tokens: int
    special: int


@dataclass(frozen=True)
class Mean(Step):
    """The mean of two matrices: [B, C], [B, C] -> [B, C]."""

    source: Matrix
    other: Matrix


COMPUTES: dict[type[Step], tuple[str, ...]] = {
    Norm: ("layer_norm", "gelu"),
    Linear: ("linear", "gelu", "relu"),
    Convolve: ("conv2d", "batch_norm", "gelu", "relu"),
    Depthwise: ("depthwise_conv2d", "gelu"),
    Attention: ("attention", "softmax"),
    Embed: ("vit.embed",),
    Reorganize: ("evit.reorganize", "rank", "gather"),
    Take: ("gather",),
    Pool: ("pooled",),
    Mean: ("pooled",),
}
"""Every kind of step -> the operations and pieces of the reference that it computes, or takes part in; the first names it."""


def label(step: Step) -> str:
    """What a breakdown calls a step: its operation, and the layer that it is of in any block."""
    kind, end = COMPUTES[type(step)][0], getattr(step, "end", "plain")
    layer = re.sub(r"^blocks?\d*\.\d+\.?|^patch_embed\d?\.?|@\d+$|\d$", "", step.name)
    if isinstance(step, Linear):
        if end == "add" and layer != "attended":  # a sum has the block's own name, which says nothing of the layer
            layer = "mlp.fc2"
        if step.first is not None:
            kind = f"{COMPUTES[type(step.first)][0]} + {kind}"
    return f"{kind} {layer}{f' + {end}' if end != 'plain' else ''}".strip()
