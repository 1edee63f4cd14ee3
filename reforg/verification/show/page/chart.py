"""Charts over the order of execution on a log scale, as SVG: each value's error, each image's margin."""

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from html import escape

LEFT, RIGHT, ABOVE, HEIGHT, BELOW = 56, 8, 22, 118, 26  # of one row, in CSS pixels
WIDEST, NARROWEST, MOST = 28.0, 7.0, 126  # pixels of a column, and columns of a row
LETTER = 6.2  # pixels, rather too many, of a letter of 11 pixels' height


@dataclass(frozen=True)
class Column:
    """One thing on the chart. value: where it stands, infinity at the top. limit: its own limit, if it has one.

    look: a class of the style sheet. title: what is told where somebody points at it. label: what stands above it.
    """

    value: float
    look: str
    title: str
    label: str = ""
    limit: float | None = None


@dataclass(frozen=True)
class Group:
    """Columns of one block."""

    label: str
    columns: Sequence[Column]


@dataclass(frozen=True)
class Scale:
    """Decades from `low` to `high`, as powers of ten."""

    low: int
    high: int

    def height(self, value: float) -> float:
        """How far above the floor a value stands, in pixels; what lies outside stands on the edge."""
        if value <= 10.0**self.low or math.isnan(value):
            return 0.0
        if math.isinf(value):
            return float(HEIGHT)
        return HEIGHT * min(1.0, (math.log10(value) - self.low) / (self.high - self.low))

    def ticks(self) -> list[int]:
        """At most six powers of ten, one of them 1 where it lies among them."""
        step = -(-(self.high - self.low) // 6)
        start = -(-self.low // step) * step
        return list(range(start, self.high + 1, step))


def scale_of(values: Sequence[float], low: int, high: int, least: int) -> Scale:
    """Whole decades that hold the finite values and both ends, but nothing below `least`."""
    logs = [math.log10(value) for value in values if 0 < value < math.inf]
    bottom = min([low, *(math.floor(log) for log in logs)])
    return Scale(max(least, bottom), max([high, *(math.ceil(log) for log in logs)]))


def chart(groups: Sequence[Group], scale: Scale, label: str, line: float | None = None) -> str:
    """One SVG of as many rows as it takes. label: what it shows, for those who do not see it. line: a limit that all share."""
    rows = packed(groups)
    step = max(NARROWEST, min(WIDEST, (MOST * NARROWEST) / max(_count(row) for row in rows)))
    width = LEFT + RIGHT + max(step * max(_count(row) for row in rows), 240)
    tall = ABOVE + HEIGHT + BELOW
    drawn = "".join(_row(row, scale, step, number * tall, line) for number, row in enumerate(rows))
    style = f"max-width:{width:.0f}px;min-width:min({width:.0f}px,44rem)"
    size = f'viewBox="0 0 {width:.0f} {len(rows) * tall}" width="{width:.0f}" height="{len(rows) * tall}" style="{style}"'
    return f'<svg class="chart" role="img" aria-label="{escape(label)}" {size}>{drawn}</svg>'


def packed(groups: Sequence[Group]) -> list[list[Group]]:
    """Groups in rows of at most MOST columns, as few rows as can be, and those about equally long; too large ones are cut."""
    pieces = [
        Group(group.label, group.columns[start : start + MOST]) for group in groups for start in range(0, len(group.columns), MOST)
    ]
    wanted = len(_filled(pieces, MOST))
    most = next(most for most in range(1, MOST + 1) if len(_filled(pieces, most)) == wanted)
    return _filled(pieces, most)


def _filled(pieces: Sequence[Group], most: int) -> list[list[Group]]:
    rows: list[list[Group]] = []
    for piece in pieces:
        if rows and _count(rows[-1]) + len(piece.columns) <= most:
            rows[-1].append(piece)
        else:
            rows.append([piece])
    return rows


def _count(row: Sequence[Group]) -> int:
    return sum(len(group.columns) for group in row)


def _row(row: Sequence[Group], scale: Scale, step: float, top: float, line: float | None) -> str:
    right, floor = LEFT + step * _count(row), top + ABOVE + HEIGHT
    pieces, left, labelled = [], float(LEFT), -math.inf
    for number, group in enumerate(row):
        pieces.append(_band(group, left, step, top, number))
        left += step * len(group.columns)
    pieces += _grid(scale, right, floor)
    left = float(LEFT)
    for column in (column for group in row for column in group.columns):
        pieces.append(_column(column, scale, left, step, floor))
        if column.label and left - labelled >= LETTER * len(column.label) + 1:
            above = 10 if math.isinf(column.value) else 6  # clear of the arrow
            pieces.append(_text(left + step / 2, floor - HEIGHT - above, column.label, "mark"))
            labelled = left
        left += step
    if line is not None:
        y = floor - scale.height(line)
        pieces.append(f'<path class="limit" d="M{LEFT} {y:.1f}H{right:.1f}"/>')
    return "".join(pieces)


def _band(group: Group, left: float, step: float, top: float, number: int) -> str:
    """The ground that a block's columns stand on, every other one shaded, with its name below, as much of it as fits."""
    width = step * len(group.columns)
    shade = " odd" if number % 2 else ""
    drawn = f'<rect class="band{shade}" x="{left:.1f}" y="{top + ABOVE}" width="{width:.1f}" height="{HEIGHT + BELOW - 6}"/>'
    short = group.label.rpartition(".")[2]
    fitting = next((label for label in (group.label, short) if LETTER * len(label) <= width), "")
    return drawn + (_text(left + width / 2, top + ABOVE + HEIGHT + 14, fitting, "axis") if fitting else "")


def _grid(scale: Scale, right: float, floor: float) -> Iterator[str]:
    for power in scale.ticks():
        y = floor - scale.height(10.0**power)
        yield f'<path class="grid" d="M{LEFT} {y:.1f}H{right:.1f}"/>'
        yield _text(LEFT - 6, y + 4, f"1e{power}" if not -3 <= power <= 3 else f"{10.0**power:g}", "axis end")


def _column(column: Column, scale: Scale, left: float, step: float, floor: float) -> str:
    """A bar from the floor, its own limit as a dash, and a place to point at as high as the row."""
    height, inner = max(scale.height(column.value), 2.0), step * 0.72
    x = left + (step - inner) / 2
    bar = f'<rect class="{column.look}" x="{x:.2f}" y="{floor - height:.1f}" width="{inner:.2f}" height="{height:.1f}"/>'
    if column.limit is not None:
        y = floor - scale.height(column.limit)
        bar += f'<path class="limit" d="M{left:.1f} {y:.1f}h{step:.1f}"/>'
    if math.isinf(column.value):  # an arrow: it stands above every scale
        middle, top = left + step / 2, floor - HEIGHT
        bar += f'<path class="{column.look}" d="M{middle - 5:.1f} {top}h10l-5 -7z"/>'
    place = f'<rect class="hit" x="{left:.1f}" y="{floor - HEIGHT:.1f}" width="{step:.1f}" height="{HEIGHT}"/>'
    return f"<g><title>{escape(column.title)}</title>{bar}{place}</g>"


def _text(x: float, y: float, text: str, look: str) -> str:
    return f'<text class="{look}" x="{x:.1f}" y="{y:.1f}">{escape(text)}</text>'
