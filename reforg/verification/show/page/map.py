"""An error map as a picture: tokens by channels, from faint blue far within the limit to purple at the largest error."""

import base64
import io
import math
from collections.abc import Iterator
from html import escape

import numpy as np
import numpy.typing as npt

from reforg.verification.findings import Difference, ErrorMap
from reforg.verification.show.wording import name_of, times

WIDTH, LEFT, TOP, MARGIN = 720, 72, 24, 24  # CSS pixels of the picture, and of what is left free beside and above it
LEAST = -3.0  # power of ten below which an error, in units of its limit, has no colour
NEAR = (58, 110, 190)  # within the limit, the more opaque the nearer to it
BEYOND = ((251, 191, 36), (249, 115, 22), (220, 38, 38), (162, 28, 175))  # from the limit to the largest error
LEVELS = 256
TALLEST, LOWEST, CELL = 420, 36, 6  # pixels: of a picture, and of a row where there are few

Levels = npt.NDArray[np.uint8]


def drawn(fault: Difference, errors: ErrorMap) -> str:
    """The map with its axes as SVG, and its legend."""
    rows, columns = errors.values.shape
    top = _top(errors.values)
    height = min(TALLEST, max(LOWEST, CELL * rows))
    inside = _picture(errors.values, top, TOP, height) + "".join(_axes(fault, errors, height)) + _mark(errors.values, height)
    label = f"Errors of {name_of(fault.name)}: {rows} by {columns} cells; the largest is {times(10.0**top)} times its limit"
    size = f'viewBox="0 0 {LEFT + WIDTH + MARGIN} {TOP + height + 8}"'
    return f'<svg class="map" role="img" aria-label="{escape(label)}" {size}>{inside}</svg>{legend(top)}'


def legend(top: float) -> str:
    """The colours from LEAST to `top`, powers of ten, with what they stand for."""
    shades = 10.0 ** np.linspace(LEAST, top, LEVELS, dtype=np.float32)[None]
    ticks = "".join(
        f'<text class="axis" x="{LEFT + WIDTH * (power - LEAST) / (top - LEAST):.1f}" y="34">{text}</text>'
        for power, text in ((LEAST, "0.001"), (0.0, "1, the limit"), (top, times(10.0**top)))
    )
    label = "Colours: blue within the limit, the fainter the smaller; yellow, orange, red, purple beyond it"
    size = f'viewBox="0 0 {LEFT + WIDTH + MARGIN} 40"'
    return f'<svg class="map" role="img" aria-label="{label}" {size}>{_picture(shades, top, 8, 12)}{ticks}</svg>'


def _picture(values: npt.NDArray[np.float32], top: float, y: float, height: float) -> str:
    """Cells as a picture in its frame, `y` pixels down."""
    box = f'x="{LEFT}" y="{y}" width="{WIDTH}" height="{height}"'
    return f'<image {box} preserveAspectRatio="none" href="{_png(values, top)}"/><rect class="frame" {box}/>'


def _top(values: npt.NDArray[np.float32]) -> float:
    """The power of ten of the largest finite error, at least 1 (ten times the limit)."""
    finite = values[np.isfinite(values)]
    return max(1.0, math.log10(max(float(finite.max(initial=0.0)), 1e-30)))


def _power(level: float, top: float) -> float:
    return LEAST + level * (top - LEAST)


def _colour(power: float, top: float) -> tuple[int, int, int, int]:
    """Red, green, blue and opacity of an error of 10**power limits."""
    if power < 0:
        return *NEAR, round(150 * (1 - power / LEAST))
    place = min(power / top, 1.0) * (len(BEYOND) - 1)
    first = min(int(place), len(BEYOND) - 2)
    red, green, blue = (round(a + (b - a) * (place - first)) for a, b in zip(BEYOND[first], BEYOND[first + 1], strict=True))
    return red, green, blue, 255


def _levels(values: npt.NDArray[np.float32], top: float) -> Levels:
    """[R, C] -> [R, C]: errors on the log scale from LEAST to `top`; what is no number is the largest."""
    clean = np.nan_to_num(values.astype(np.float64), nan=np.inf, posinf=10.0**top)
    powers = np.log10(np.clip(clean, 10.0**LEAST, 10.0**top))
    levels: Levels = np.rint((LEVELS - 1) * (powers - LEAST) / (top - LEAST)).astype(np.uint8)
    return levels


def _png(values: npt.NDArray[np.float32], top: float) -> str:
    """A picture of one pixel a cell, as an address that holds it whole."""
    from PIL import Image

    colours = [_colour(_power(level / (LEVELS - 1), top), top) for level in range(LEVELS)]
    image = Image.frombytes("P", values.shape[::-1], _levels(values, top).tobytes())
    image.putpalette([part for colour in colours for part in colour[:3]])
    file = io.BytesIO()
    image.save(file, "PNG", optimize=True, transparency=bytes(colour[3] for colour in colours))
    return "data:image/png;base64," + base64.b64encode(file.getvalue()).decode("ascii")


def _axes(fault: Difference, errors: ErrorMap, height: float) -> Iterator[str]:
    """Where each image's rows begin, and numbers of columns."""
    rows, columns = errors.shape[0], errors.shape[-1]
    images = fault.shape_wanted[0] if fault.shape_wanted and rows % max(fault.shape_wanted[0], 1) == 0 else 1
    for number in range(0, images, -(-images * 14 // int(height))):
        y, length = TOP + height * number / images, WIDTH if number else 0
        yield f'<text class="axis end" x="{LEFT - 6}" y="{y + 11:.1f}">image {number}</text>'
        yield f'<path class="cut" d="M{LEFT - 4} {y:.1f}h{length + 4}"/>'
    for part in range(5):
        column = (columns - 1) * part // 4
        yield f'<text class="axis" x="{LEFT + WIDTH * (column + 0.5) / columns:.1f}" y="{TOP - 8}">{column:,}</text>'


def _mark(values: npt.NDArray[np.float32], height: float) -> str:
    """A ring around the largest error."""
    rows, columns = values.shape
    row, column = np.unravel_index(int(np.argmax(np.nan_to_num(values, nan=np.inf))), values.shape)
    x, y = LEFT + WIDTH * (int(column) + 0.5) / columns, TOP + height * (int(row) + 0.5) / rows
    return f'<circle class="halo" cx="{x:.1f}" cy="{y:.1f}" r="7"/><circle class="ring" cx="{x:.1f}" cy="{y:.1f}" r="7"/>'
