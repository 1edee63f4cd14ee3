"""Variants of what comes before the first block: images, patches, positions, special tokens."""

from collections.abc import Callable
from functools import partial
from typing import Any

import numpy as np

from reforg import vit
from reforg.config import VitConfig
from reforg.images.preprocessing.record import HALF, IMAGENET_MEAN, IMAGENET_STD
from reforg.ops import bodies, to_maps, to_tokens
from reforg.ops.resize import resize
from reforg.verification.diagnosis.variants.table import Step, variant
from reforg.verification.error_model.rules import resampled
from reforg.verification.error_model.uncertain import Uncertain, Values

CONVENTIONS = {
    "ImageNet's mean and deviation": (IMAGENET_MEAN, IMAGENET_STD),
    "mean and deviation 0.5": (HALF, HALF),
    "pixels in [0, 1]": ((0.0,) * 3, (1.0,) * 3),
    "pixels in [0, 255]": ((0.0,) * 3, (1 / 255,) * 3),
}


Resampling = Callable[[Uncertain, tuple[int, int]], Uncertain]


def _channel(values: tuple[float, ...]) -> Values:
    return np.array(values)[:, None, None]


def _renormalised(own: str, other: str) -> Callable[[Uncertain], Uncertain]:
    """Images normalised by one convention as they are by another."""
    (mean, std), (other_mean, other_std) = CONVENTIONS[own], CONVENTIONS[other]

    def change(images: Uncertain) -> Uncertain:
        value = (images.value * _channel(std) + _channel(mean) - _channel(other_mean)) / _channel(other_std)
        return images.rounding.rounded(value, images.variance, 4 * images.rounding.stored)

    return change


def _of_images(kind: str, change: Callable[[Uncertain], Uncertain]) -> Step:
    """The first step of a model on images that are changed before."""

    def step(net: Any, images: Uncertain, config: Any) -> Any:
        # The body, not the piece: called by its name, the step would take its own variant again.
        return bodies()[kind](net, change(images), config)

    return step


_CHANGES: list[tuple[str, Callable[[Uncertain], Uncertain]]] = [
    ("image channels reversed (BGR for RGB)", lambda images: images[:, ::-1]),
    ("image rows and columns exchanged", lambda images: images.moved(lambda part: part.swapaxes(2, 3))),
    ("image upside down", lambda images: images[:, :, ::-1]),
    ("image mirrored", lambda images: images[:, :, :, ::-1]),
]
_CHANGES += [
    (f"image normalised with {other} instead of {own}", _renormalised(own, other))
    for own in list(CONVENTIONS)[:3]
    for other in CONVENTIONS
    if other != own
]
for _label, _change in _CHANGES:
    for _kind, _first in (("vit.embed_patches", "patch_embed.proj"), ("shunted.stem", "patch_embed1.conv.0")):
        variant(_kind, _label, _first)(_of_images(_kind, _change))


@variant("vit.embed", "patches in column order", "patch_embed")
def column_order(net: Any, images: Uncertain, config: VitConfig) -> Any:
    """Columns of patches one after the other."""
    return _embed(net, images, config, order=lambda maps: maps.moved(lambda part: part.swapaxes(2, 3)))


def _same(x: Any) -> Any:
    return x


def _embed(
    net: Any,
    images: Uncertain,
    config: VitConfig,
    order: Callable[[Uncertain], Uncertain] = _same,
    table: Callable[[Uncertain, int], Uncertain | None] = lambda positions, special: positions,
    alone: bool | None = None,
    special_last: bool = False,
    exchanged: bool = False,
) -> Any:
    """The reference's embedding with other orders and positions.

    alone: whether patches get their positions before special tokens join them.
    """
    maps = vit.embed_patches(net, images, config)
    patches = net.trace("patch_embed", to_tokens(order(maps)))
    xp, count = patches.rounding, config.num_special
    positions = table(vit.positions(net, (maps.shape[2], maps.shape[3]), config), 0 if config.no_embed_class else count)
    names = config.special_tokens[::-1] if exchanged else config.special_tokens
    special = [xp.broadcast_to(net.weights[name], (images.shape[0], 1, config.embed_dim)) for name in names]
    alone = config.no_embed_class if alone is None else alone
    if positions is not None and alone:
        patches = patches + positions[:, positions.shape[1] - patches.shape[1] :, :]
    x = xp.concat([patches, *special] if special_last else [*special, patches], axis=1)
    if positions is not None and not alone:
        x = x + _padded(positions, x.shape[1])
    return net.trace("embedded", x)


def _padded(positions: Uncertain, count: int) -> Uncertain:
    """Zeros behind, or the first ones only, where a table has not as many entries as there are tokens."""
    lacking = count - positions.shape[1]
    if lacking < 0:
        return positions[:, :count, :]
    return positions.moved(lambda part: np.pad(part, ((0, 0), (0, lacking), (0, 0)))) if lacking else positions


def _rolled(step: int) -> Callable[[Uncertain, int], Uncertain]:
    return lambda positions, special: positions.moved(lambda part: np.roll(part, step, axis=1))


def _patches_rolled(step: int) -> Callable[[Uncertain, int], Uncertain]:
    def table(positions: Uncertain, special: int) -> Uncertain:
        moved = positions[:, special:, :].moved(lambda part: np.roll(part, step, axis=1))
        return positions.rounding.concat([positions[:, :special, :], moved], axis=1)

    return table


def _shifted(positions: Uncertain, special: int) -> Uncertain:
    """Every token the position of the one behind it; the last keeps its own."""
    return positions.moved(lambda part: np.concatenate([part[:, 1:], part[:, -1:]], axis=1))


def _held_back(positions: Uncertain, special: int) -> Uncertain:
    """Every token the position of the one before it; the first keeps its own."""
    return positions.moved(lambda part: np.concatenate([part[:, :1], part[:, :-1]], axis=1))


def _patches_from_first(positions: Uncertain, special: int) -> Uncertain:
    """Patches counted from the class token's position on."""
    first = positions[:, :special, :]
    return positions.rounding.concat([first, positions[:, : positions.shape[1] - special, :]], axis=1)


def _transposed(positions: Uncertain, special: int) -> Uncertain:
    """The grid of positions read by columns, where it is square."""
    side = int((positions.shape[1] - special) ** 0.5)
    if side * side != positions.shape[1] - special:
        return positions
    turned = to_tokens(to_maps(positions[:, special:, :], (side, side)).moved(lambda part: part.swapaxes(2, 3)))
    return positions.rounding.concat([positions[:, :special, :], turned], axis=1)


for _label, _changes in (
    ("positions missing", {"table": lambda positions, special: None}),
    ("positions shifted by one, the last first", {"table": _rolled(1)}),
    ("positions shifted by one, the first last", {"table": _rolled(-1)}),
    ("positions shifted by one: each token has the next one's", {"table": _shifted}),
    ("positions shifted by one: each token has the one before's", {"table": _held_back}),
    ("positions of the patches shifted by one, the last first", {"table": _patches_rolled(1)}),
    ("positions of the patches shifted by one, the first last", {"table": _patches_rolled(-1)}),
    ("positions of the patches counted from the class token's", {"table": _patches_from_first}),
    ("positions by columns instead of rows", {"table": _transposed}),
    ("positions added before the class token joins, which gets none", {"alone": True}),
    ("positions added after the class token joins", {"alone": False}),
    ("special tokens behind the patches", {"special_last": True}),
    ("special tokens exchanged", {"exchanged": True}),
    ("positions added twice", {"table": lambda positions, special: positions + positions}),
):
    variant("vit.embed", _label, "embedded")(partial(_embed, **_changes))


@variant("vit.embed", "positions from the first patches' entries, the class token's among them", "embedded")
def from_the_start(net: Any, images: Uncertain, config: VitConfig) -> Any:
    """Patches get the table's first entries, and special tokens none."""
    return _embed(net, images, config, alone=True, table=lambda positions, special: positions[:, : positions.shape[1] - special, :])


def _positions(make: Resampling) -> Any:
    """Positions resampled by another rule; where the grid is the config's there is nothing to resample."""

    def step(net: Any, grid: tuple[int, int], config: VitConfig) -> Any:
        table: Uncertain = net.weights["pos_embed"]
        if grid == config.grid:
            return table
        special = 0 if config.no_embed_class else config.num_special
        maps = make(to_maps(table[:, special:, :], config.grid), grid)
        return net.trace("pos_embed", table.rounding.concat([table[:, :special, :], to_tokens(maps)], axis=1))

    return step


def _by(method: str, antialias: bool) -> Resampling:
    return lambda maps, grid: resampled(maps, grid, method, antialias)


def _at(coordinates: Callable[[int, int], Any], cubic: bool, a: float = -0.75) -> Resampling:
    """Resampling at other source coordinates, which are a function of source and target size; borders repeated."""

    def make(maps: Uncertain, grid: tuple[int, int]) -> Uncertain:
        value = maps.value
        for axis in (2, 3):
            matrix = _matrix(coordinates(value.shape[axis], grid[axis - 2]), value.shape[axis], cubic, a)
            value = np.moveaxis(np.tensordot(matrix, value, axes=(1, axis)), 0, axis)
        return Uncertain(value, resampled(maps, grid).variance, maps.rounding)

    return make


def _matrix(centres: Values, size: int, cubic: bool, a: float) -> Values:
    """Weights [target, source] of cubic or linear interpolation at the given coordinates."""
    matrix = np.zeros((len(centres), size))
    for row, centre in enumerate(centres):
        first = int(np.floor(centre))
        for tap in range(first - 1, first + 3) if cubic else range(first, first + 2):
            matrix[row, min(max(tap, 0), size - 1)] += _weight(abs(tap - centre), cubic, a)
    return matrix


def _weight(distance: float, cubic: bool, a: float) -> float:
    if not cubic:
        return max(0.0, 1.0 - distance)
    if distance < 1:
        return ((a + 2) * distance - (a + 3)) * distance * distance + 1
    return (((distance - 5) * distance + 8) * distance - 4) * a if distance < 2 else 0.0


def _corners(source: int, target: int) -> Any:
    return np.arange(target) * ((source - 1) / max(target - 1, 1))


def _centres(source: int, target: int) -> Any:
    return (np.arange(target) + 0.5) * (source / target) - 0.5


def _scaled(offset: float) -> Callable[[int, int], Any]:
    """Sizes with a small number added before they are divided, as DINO's code does."""
    return lambda source, target: (np.arange(target) + 0.5) * (source / (target + offset)) - 0.5


def _nearest(source: int, target: int) -> Any:
    return np.floor(np.arange(target) * (source / target))


for _label, _make in (
    ("bicubic with antialiasing", _by("bicubic", antialias=True)),
    ("bicubic without antialiasing", _by("bicubic", antialias=False)),
    ("bilinear", _by("bilinear", antialias=False)),
    ("bilinear with antialiasing", _by("bilinear", antialias=True)),
    ("bicubic with align_corners", _at(_corners, cubic=True)),
    ("bilinear with align_corners", _at(_corners, cubic=False)),
    ("bicubic with a = -0.5", _at(_centres, cubic=True, a=-0.5)),
    ("bicubic with 0.1 added to the size", _at(_scaled(0.1), cubic=True)),
    ("nearest", _at(_nearest, cubic=False)),
):
    variant("vit.positions", f"positions resampled: {_label}", "pos_embed")(_positions(_make))


@variant("vit.positions", "positions resampled with the special tokens' among them", "pos_embed")
def flattened(net: Any, grid: tuple[int, int], config: VitConfig) -> Any:
    """Along the one axis of all entries."""
    table: Uncertain = net.weights["pos_embed"]
    special = 0 if config.no_embed_class else config.num_special
    wanted = grid[0] * grid[1] + special
    line = table.moved(lambda part: np.matrix_transpose(part)[:, :, None, :])
    value = np.matrix_transpose(resize(line.value, (1, wanted), "bilinear")[:, :, 0, :])
    return net.trace("pos_embed", table.rounding.rounded(value, None, 16 * table.rounding.stored))
