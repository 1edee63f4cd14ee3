"""The page's pictures: errors in the order of execution, error maps of faults, margins of selections."""

import math
from collections.abc import Iterator, Sequence
from html import escape

from reforg.verification.findings import DIVERGES, NOT_SEEN, Difference, ErrorMap, Findings, Selection, counted
from reforg.verification.show.page import map as page_map
from reforg.verification.show.page.chart import Column, Group, chart, scale_of
from reforg.verification.show.page.tables import folded
from reforg.verification.show.wording import axes_of_map, extent, figure, name_of, parts, share, summary, times

MAPS = 6  # error maps on a page, each of up to 100 kB


def errors(report: Findings) -> str:
    """The chart of all differences, faults numbered as in their table."""
    numbers = {fault.name: str(number) for number, fault in reversed(list(enumerate(report.faults, 1)))}
    columns = [_error(difference, numbers.get(difference.name, "")) for difference in report.differences]
    found = parts([difference.name for difference in report.differences])
    groups = [Group(label, [columns[number] for number in members]) for label, members in found]
    scale = scale_of([column.value for column in columns], low=-2, high=1, least=-4)
    label = f"Bars on a log scale: error in units of its limit. {summary(report)}. The table of all differences has the figures."
    keys = {"fault": "fault", "beyond": "beyond its limit, not a fault of its own", "within": "within its limit", "limit": "limit"}
    present = {column.look for column in columns} | {"limit"}
    return _figure(chart(groups, scale, label, line=1.0), "Error of each value in units of its limit.", keys, present)


def _error(difference: Difference, number: str) -> Column:
    found = share(difference)
    look = "fault" if number else "within" if difference.passed else "beyond"
    said = f"; {times(found)} of the limit" if math.isfinite(found) else ""
    return Column(found, look, f"{name_of(difference.name)}: {extent(difference)}{said}", number)


def margins(selections: Sequence[Selection]) -> str:
    """The chart of every image's margin at every reorganization, beside its limit."""
    groups = [Group(name_of(selection.path, 40), list(_images(selection))) for selection in selections]
    columns = [column for group in groups for column in group.columns]
    if not columns:
        return ""
    values = [value for column in columns for value in (column.value, column.limit or 0.0)]
    logs = [math.log10(value) for value in values if 0 < value < math.inf] or [0.0]
    scale = scale_of(values, low=math.ceil(min(logs)) - 1, high=math.floor(max(logs)) + 1, least=-14)
    keys = {"fault": "another choice than rounding allows", "close": "margin no larger than its limit", "within": "margin"}
    label = "Bars on a log scale: margin of each image at each reorganization; dashes: its limit. The table below has the figures."
    caption = "Margin of each image at each reorganization: where it is below its limit, rounding may choose otherwise."
    return _figure(
        chart(groups, scale, label), caption, keys | {"limit": "its limit"}, {column.look for column in columns} | {"limit"}
    )


def _images(selection: Selection) -> Iterator[Column]:
    for image, (margin, limit, flips) in enumerate(zip(selection.margins, selection.limits, selection.flips, strict=True)):
        wrong = flips > 0 and selection.verdict == DIVERGES
        look = "fault" if wrong else "within" if margin > limit else "close"
        seen = "choice not seen" if selection.verdict == NOT_SEEN else counted(flips, "flip")
        title = f"{name_of(selection.path)}, image {image}: margin {figure(margin)}, limit {figure(limit)}, {seen}"
        yield Column(margin, look, title, limit=limit)


def _figure(inside: str, caption: str, keys: dict[str, str], present: set[str]) -> str:
    """A chart with its caption and a key of the looks that are present."""
    told = "".join(f'<li><span class="key {look}"></span>{text}</li>' for look, text in keys.items() if look in present)
    return _framed(caption, f'<ul class="keys">{told}</ul>', inside)


def _framed(caption: str, keys: str, inside: str) -> str:
    """A picture under its caption, in a box of its own that scrolls where the page is narrow."""
    box = f'<div class="scroll" role="region" tabindex="0" aria-label="{caption}">{inside}</div>'
    return f"<figure><figcaption>{caption}</figcaption>{keys}{box}</figure>"


def maps(report: Findings) -> str:
    """The error map of the first fault that has one, and the next ones' folded away; empty where none has."""
    found = {errors.name: errors for errors in report.maps if errors.values.size}
    faults = [(number, fault) for number, fault in enumerate(report.faults, 1) if fault.name in found]
    first, *others = [_map(number, fault, found[fault.name]) for number, fault in faults[:MAPS]] or [""]
    return first + (folded("Error maps of the next faults", "".join(others)) if others else "")


def _map(number: int, fault: Difference, errors: ErrorMap) -> str:
    rows, columns = errors.shape[0], errors.shape[-1]
    coarse = "" if errors.values.shape == errors.shape else "; each cell is the largest of several"
    row, column = axes_of_map(fault)
    size = f"{rows:,} rows, one for each {row}, {columns:,} columns, one for each {column}{coarse}"
    text = f"Fault {number}, {name_of(fault.name)}: {size}. The ring is the largest."
    return _framed(escape(text), "", page_map.drawn(fault, errors))
