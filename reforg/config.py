"""What makes one model differ from another, as frozen values; every impossible value is a ConfigError that says why."""

import operator
from collections.abc import Sequence
from dataclasses import Field, dataclass, fields
from numbers import Real
from typing import Any, ClassVar

from reforg.errors import BackendError, ConfigError, nearest

Size = int | tuple[int, int]
ITEM_BYTES = {"float64": 8, "float32": 4, "float16": 2, "bfloat16": 2}  # of the dtypes in which a model computes
DTYPES = tuple(ITEM_BYTES)
BATCH_NORM_EPS = 1e-5  # of every batch norm, as torch's
SHUNTED_STEM_EPS = 1e-5  # layer norms after a patch embedding and inside attention; blocks and stages have the config's norm_eps
LARGEST_COUNT, LARGEST_DEPTH = 2**24, 2**10  # what may be asked for, before anything is computed from it


class Config:
    """What every family's config has: a frozen dataclass with these fields, each with a default, and fields of its own.

    family: its word in messages and tables. num_classes: 0 for a model that answers with pooled features.
    """

    __dataclass_fields__: ClassVar[dict[str, Field[Any]]]
    family: str
    img_size: Size
    in_chans: int
    num_classes: int
    norm_eps: float

    def __post_init__(self) -> None:
        for field in fields(self):
            object.__setattr__(self, field.name, _frozen(getattr(self, field.name)))
        check_count("in_chans", self.in_chans, 1)
        check_count("num_classes", self.num_classes, 0)
        check_size(self.img_size)
        _check_number("norm_eps", self.norm_eps)

    @property
    def image_shape(self) -> tuple[int, int]:
        """Height and width of the images that the weights are for, in pixels."""
        return self.img_size if isinstance(self.img_size, tuple) else (self.img_size, self.img_size)


@dataclass(frozen=True)
class VitConfig(Config):
    """ViT, DeiT, DeiT III and EViT. Keywords as in timm and in the official code; sizes in pixels.

    keep_rate: one rate for the blocks in drop_loc, or one value a block; below 1 a block reorganizes its tokens.
    tokens: the number of tokens to keep instead, for every block (int) or one value (or None) a block.
    init_values: where LayerScale starts in training; None means no LayerScale.
    antialias: how positions are resampled to another image size (True as timm, False as EViT and DeiT).
    modules: whose module names weights and traces have, "timm" or "official".
    """

    family: str = "vit"
    img_size: Size = 224
    patch_size: int = 16
    in_chans: int = 3
    num_classes: int = 1000
    embed_dim: int = 768
    depth: int = 12
    num_heads: int = 12
    mlp_ratio: float = 4.0
    qkv_bias: bool = True
    norm_eps: float = 1e-6
    init_values: float | None = None
    no_embed_class: bool = False
    distilled: bool = False
    global_pool: str = "token"
    parallel: int = 1
    stem: str = "patch"
    keep_rate: float | tuple[float, ...] = 1.0
    drop_loc: tuple[int, ...] = (3, 6, 9)
    fuse_token: bool = True
    tokens: int | tuple[int | None, ...] | None = None
    antialias: bool = True
    modules: str = "timm"

    def __post_init__(self) -> None:
        super().__post_init__()
        for name in ("patch_size", "embed_dim", "depth", "num_heads"):
            check_count(name, getattr(self, name), 1, LARGEST_DEPTH if name == "depth" else LARGEST_COUNT)
        _check_number("mlp_ratio", self.mlp_ratio)
        _check_choice("global_pool", self.global_pool, ("token", "avg"))
        _check_choice("stem", self.stem, ("patch", "hmlp"))
        _check_choice("parallel", self.parallel, (1, 2))
        for name in ("qkv_bias", "no_embed_class", "distilled", "fuse_token", "antialias"):
            _check_choice(name, getattr(self, name), (True, False))
        if self.init_values is not None:
            _check_number("init_values", self.init_values)
        self._check_combinations()
        self._check_schedule()

    def _check_combinations(self) -> None:
        if self.embed_dim % self.num_heads:
            raise ConfigError(f"embed_dim {self.embed_dim} does not divide into num_heads {self.num_heads}")
        if any(side % self.patch_size for side in self.image_shape):
            raise ConfigError(f"img_size {self.img_size} does not divide into patches of {self.patch_size} pixels")
        if not 1 <= self.embed_dim * self.mlp_ratio < 2**31:
            raise ConfigError(f"mlp_ratio {self.mlp_ratio} leaves no hidden layer beside embed_dim {self.embed_dim}")
        if self.distilled and self.global_pool != "token":
            raise ConfigError("distilled models read their two tokens: global_pool must be 'token'")
        if self.stem == "hmlp" and (self.patch_size != 16 or self.embed_dim % 4):
            got = f"got patch_size {self.patch_size}, embed_dim {self.embed_dim}"
            raise ConfigError(f"stem 'hmlp' makes patches of 16 pixels and needs embed_dim divisible by 4; {got}")

    def _check_schedule(self) -> None:
        if not isinstance(self.drop_loc, tuple):
            raise ConfigError(f"drop_loc wants the numbers of blocks, counted from 0, got {self.drop_loc!r}")
        for block in self.drop_loc:
            check_count("drop_loc", block, 0)
        if len(set(self.drop_loc)) != len(self.drop_loc):
            raise ConfigError(f"drop_loc names a block twice: {self.drop_loc}")
        (*_, rate) = checked_rates(self.keep_rate, self.depth)
        if not isinstance(self.keep_rate, tuple) and rate is not None and rate < 1:
            outside = [block for block in self.drop_loc if block not in range(self.depth)]
            if outside:
                blocks = f"blocks 0 to {self.depth - 1}"
                raise ConfigError(f"drop_loc {self.drop_loc} does not fit depth {self.depth}, {blocks}: give drop_loc too")
        per_block(self.tokens, self.depth, "tokens")

    @property
    def grid(self) -> tuple[int, int]:
        """Patches of such an image, vertically and horizontally."""
        height, width = self.image_shape
        return height // self.patch_size, width // self.patch_size

    @property
    def special_tokens(self) -> tuple[str, ...]:
        """The learned tokens that stand before the patches, by their names in the weights."""
        return ("cls_token", "dist_token") if self.distilled else ("cls_token",)

    @property
    def num_special(self) -> int:
        """How many tokens stand before the patches."""
        return len(self.special_tokens)

    @property
    def branches(self) -> tuple[str, ...]:
        """Suffixes of the names of a block's parallel branches: norm1, norm11; attn, attn1; mlp, mlp1."""
        return ("", "1")[: self.parallel]

    @property
    def heads(self) -> tuple[str, ...]:
        """Names of the classifiers, one for each token they read; none where num_classes is 0."""
        return (("head", "head_dist") if self.distilled else ("head",)) if self.num_classes else ()

    @property
    def hidden_dim(self) -> int:
        """Width of the MLP's hidden layer."""
        return int(self.embed_dim * self.mlp_ratio)

    @property
    def keep_rates(self) -> tuple[float, ...]:
        """The keep rate of every block."""
        if isinstance(self.keep_rate, tuple):
            return tuple(1.0 if rate is None else rate for rate in checked_rates(self.keep_rate, self.depth))
        rate = checked_rates(self.keep_rate, 1)[0] or 1.0
        return tuple(rate if block in self.drop_loc else 1.0 for block in range(self.depth))

    def gain(self, path: str, number: int, branch: str) -> str:
        """Name of LayerScale's gain after attention (number 1) or MLP (2): gamma_1, gamma_1_1, or timm's ls1.gamma."""
        if self.modules == "timm":
            return f"{path}.ls{number}{branch}.gamma"
        return f"{path}.gamma_{number}" + (f"_{branch}" if branch else "")


@dataclass(frozen=True)
class ShuntedConfig(Config):
    """Shunted Transformer. One value a stage; sr_ratios is the reduction of the coarser half of the heads."""

    family: str = "shunted"
    img_size: Size = 224
    in_chans: int = 3
    num_classes: int = 1000
    embed_dims: tuple[int, ...] = (64, 128, 256, 512)
    depths: tuple[int, ...] = (1, 2, 4, 1)
    num_heads: tuple[int, ...] = (2, 4, 8, 16)
    mlp_ratios: tuple[float, ...] = (8, 8, 4, 4)
    sr_ratios: tuple[int, ...] = (8, 4, 2, 1)
    num_conv: int = 0
    qkv_bias: bool = True
    norm_eps: float = 1e-6

    def __post_init__(self) -> None:
        super().__post_init__()
        check_count("num_conv", self.num_conv, 0, LARGEST_DEPTH)
        _check_choice("qkv_bias", self.qkv_bias, (True, False))
        for name in ("embed_dims", "depths", "num_heads", "sr_ratios", "mlp_ratios"):
            values = getattr(self, name)
            if not isinstance(values, tuple) or len(values) != 4:
                raise ConfigError(f"{name} wants one value for each of the 4 stages, got {values!r}")
            for value in values:
                if name == "mlp_ratios":
                    _check_number(name, value)
                else:
                    check_count(name, value, 1, LARGEST_DEPTH if name == "depths" else LARGEST_COUNT)
        for stage, (width, heads, ratio) in enumerate(zip(self.embed_dims, self.num_heads, self.sr_ratios, strict=True), 1):
            _check_stage(stage, width, heads, ratio)
        for stage, (width, more) in enumerate(zip(self.embed_dims, self.mlp_ratios, strict=True), 1):
            if not 1 <= width * more < 2**31:
                raise ConfigError(f"stage {stage}: mlp_ratios {more} leaves no hidden layer beside embed_dims {width}")

    def reductions(self, stage: int) -> tuple[int, ...]:
        """By how much each group of heads reduces its keys: (r, r / 2) for two halves, or (1,) for all heads."""
        ratio = self.sr_ratios[stage]
        return (ratio, ratio // 2) if ratio > 1 else (1,)

    def hidden_dim(self, stage: int) -> int:
        """Width of the MLP's hidden layer."""
        return int(self.embed_dims[stage] * self.mlp_ratios[stage])


def per_block(value: Any, depth: int, name: str) -> tuple[Any, ...]:
    """One value for every block: the same for all, or as given, whose number must then be `depth` (or 1)."""
    if not isinstance(value, Sequence) or isinstance(value, str):
        value = (value,)
    if len(value) not in (1, depth):
        raise ConfigError(f"{name} wants one value, or one for each of the {depth} blocks, got {len(value)}")
    values = tuple(value) * (depth if len(value) == 1 else 1)
    if name == "tokens":
        for count in values:
            if count is not None:
                check_count("tokens", count, 1)
    return values


def checked_rates(value: Any, depth: int) -> tuple[float | None, ...]:
    """Keep rates for every block, each in (0, 1]; None leaves a block to its own rate."""
    rates = per_block(value, depth, "keep_rate")
    for rate in rates:
        if rate is not None and (not _is_number(rate) or not 0 < rate <= 1):
            raise ConfigError(f"keep_rate must lie in (0, 1], got {rate!r}")
    return tuple(None if rate is None else float(rate) for rate in rates)


def _is_number(value: Any) -> bool:
    return isinstance(value, Real) and not isinstance(value, bool)


def check_size(value: Any) -> None:
    """Refuse what is no img_size: one whole number of pixels, or (height, width)."""
    sides = value if isinstance(value, list | tuple) else (value,) * 2
    if len(sides) != 2:
        raise ConfigError(f"img_size wants one number or (height, width), got {value!r}")
    for side in sides:
        check_count("img_size", side, 1)


def _check_stage(stage: int, width: int, heads: int, ratio: int) -> None:
    if width % heads:
        raise ConfigError(f"stage {stage}: embed_dims {width} does not divide into num_heads {heads}")
    if ratio > 1 and (ratio % 2 or heads % 2):
        why = "a reduction gives half of the heads half of the ratio, so both must be even"
        raise ConfigError(f"stage {stage}: {why}; got sr_ratios {ratio}, num_heads {heads}")


def check_dtype(dtype: Any) -> None:
    """BackendError for what is no dtype of a model."""
    if not isinstance(dtype, str) or dtype not in DTYPES:
        raise BackendError(f"there is no dtype {dtype!r}{nearest(str(dtype), DTYPES)} (known: {', '.join(DTYPES)})")


def check_count(name: str, value: Any, least: int, most: int = LARGEST_COUNT) -> None:
    """Refuse what is no whole number from `least` to `most`."""
    try:
        whole = None if isinstance(value, bool) else operator.index(value)
    except TypeError:
        whole = None
    if whole is None or whole < least:
        raise ConfigError(f"{name} must be a whole number of at least {least}, got {value!r}")
    if whole > most:
        raise ConfigError(f"{name} must be at most {most:,}, got {value!r:.40}")


def _check_number(name: str, value: Any) -> None:
    if not _is_number(value) or not 0 < value < float("inf"):
        raise ConfigError(f"{name} must be a positive number, got {value!r}")


def _check_choice(name: str, value: Any, choices: tuple[Any, ...]) -> None:
    if not any(value is choice or (type(value) is type(choice) and value == choice) for choice in choices):
        raise ConfigError(f"{name} must be one of {', '.join(map(repr, choices))}, got {value!r}")


def _frozen(value: Any) -> Any:
    """Lists as tuples and numbers as Python's own, so that a config can be compared, hashed and written as JSON."""
    if isinstance(value, list | tuple):
        return tuple(_frozen(one) for one in value)
    if isinstance(value, bool | str):
        return value
    try:
        return operator.index(value)
    except TypeError:
        return float(value) if isinstance(value, Real) else value
