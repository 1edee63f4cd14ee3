"""The page's pictures: errors in the order of execution, error maps of faults, margins of selections."""

import math
from collections.abc import Iterator, Sequence
from html import escape

from reforg.verification import page_map
from reforg.verification.page_chart import Column, Group, chart, scale_of
from reforg.verification.page_tables import folded
from reforg.verification.report import DIVERGES, Difference, Report, Selection
from reforg.verification.wording import NOT_SEEN, counted, extent, figure, name_of, parts, share, summary, times

MAPS = 6  # error maps on a page, each of up to 100 kB


def errors(report: Report) -> str:
    """The chart of all differences, faults numbered as in their table."""
    numbers = {fault.name: str(number) for number, fault in reversed(list(enumerate(report.faults, 1)))}
    columns = [_error(difference, numbers.get(difference.name, "")) for difference in report.differences]
    groups = [
        Group(_part(label, report, found), [columns[number] for number in found])
        for label, found in parts(difference.name for difference in report.differences)
    ]
    scale = scale_of([column.value for column in columns], low=-2, high=1, least=-4)
    label = f"Bars on a log scale: error in units of its limit. {summary(report)}. The table of all differences has the figures."
    keys = {"fault": "fault", "beyond": "beyond its limit, not a fault of its own", "within": "within its limit", "limit": "limit"}
    present = {column.look for column in columns} | {"limit"}
    return _figure(chart(groups, scale, label, line=1.0), "Error of each value in units of its limit.", keys, present)


def _part(label: str, report: Report, numbers: Sequence[int]) -> str:
    """A block's own path; what stands before the first and after the last block by what it is."""
    names = [report.differences[number].name for number in numbers]
    return "head" if "logits" in names or "head" in names else name_of(label, 40)


def _error(difference: Difference, number: str) -> Column:
    found = share(difference)
    look = "fault" if number else "within" if difference.passed else "beyond"
    said = f"{times(found)} of the limit" if math.isfinite(found) else "no limit holds"
    return Column(found, look, f"{name_of(difference.name)}: {extent(difference)} ({said})", number)


def margins(selections: Sequence[Selection]) -> str:
    """The chart of every image's margin at every reorganization, beside its limit."""
    groups = [Group(name_of(selection.path, 40), list(_images(selection))) for selection in selections]
    columns = [column for group in groups for column in group.columns]
    if not columns:
        return ""
    values = [value for column in columns for value in (column.value, column.limit or 0.0)]
    logs = [math.log10(value) for value in values if 0 < value < math.inf] or [0.0]
    scale = scale_of(values, low=math.floor(min(logs)), high=max(math.ceil(max(logs)), math.floor(min(logs)) + 1), least=-14)
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


def maps(report: Report) -> str:
    """The first fault's map, or why there is none, and the next faults' folded away."""
    found = {errors.name: errors for errors in report.maps if errors.values.size}
    first, *others = report.faults
    told = _map(first, found) if first.name in found else f"<p>None: {escape(extent(first))}.</p>"
    rest = "".join(_map(fault, found) for fault in others[: MAPS - 1] if fault.name in found)
    return told + (folded("Error maps of other faults", rest) if rest else "")


def _map(fault: Difference, found: dict[str, page_map.ErrorMap]) -> str:
    errors = found[fault.name]
    rows, columns = errors.shape[0], errors.shape[-1]
    coarse = "" if errors.values.shape == errors.shape else "; each cell is the largest of several"
    text = f"{name_of(fault.name)}: {rows:,} rows (tokens or pixels) by {columns:,} channels{coarse}. The ring is the largest."
    return _framed(escape(text), "", page_map.drawn(fault, errors))
