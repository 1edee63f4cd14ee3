"""The page's tables: faults, selections, all differences."""

import re
from collections.abc import Iterator, Sequence
from html import escape

from reforg.verification.findings import NOT_SEEN, Difference, Findings, Selection
from reforg.verification.show.wording import (
    MEAN,
    SHAPE,
    UNBOUNDED,
    closest,
    figure,
    kind_of,
    name_of,
    place,
    shape,
    shapes,
    share,
    times,
)

Cell = tuple[str, str]  # class of the style sheet, and HTML


def safe(text: str) -> str:
    """A text from elsewhere as HTML: one line, cut where it is too long, nothing in it a tag or an attribute."""
    return escape(name_of(text))


def path(name: str) -> str:
    """A name as HTML that may be broken after its dots, and where it is too long for a line."""
    return "<wbr>".join(escape(piece) for piece in re.findall(r"[^.]{0,40}\.|[^.]{1,40}", name_of(name)))


def faults(report: Findings) -> str:
    """Every fault with its explanation."""
    headings = ("", "#"), ("", "value"), ("w", "what it is"), ("n", "error"), ("n", "limit"), ("n", "error / limit"), ("", "where")
    rows = [_fault(number, fault) for number, fault in enumerate(report.faults, 1)]
    caption = "Faults, in the order of execution. Errors and limits are shares of the largest wanted value."
    return _table(caption, headings, rows)


def _fault(number: int, fault: Difference) -> list[Cell]:
    operation = "" if fault.operation == fault.name else f'<br><span class="soft">arising in</span> {path(fault.operation)}'
    return [("", str(number)), ("name", f"<b>{path(fault.name)}</b>{operation}"), ("w", _what(fault)), *_figures(fault)]


def _figures(difference: Difference) -> list[Cell]:
    """Error, limit, error / limit, where."""
    kind = kind_of(difference)
    if kind in (SHAPE, UNBOUNDED):
        told = "wrong shape" if kind == SHAPE else "without bound"
        return [("n", told), ("n", "&ndash;"), ("n", "&ndash;"), ("p", safe(place(difference)) or "&ndash;")]
    where = "root mean square" if kind == MEAN else place(difference)
    return [
        ("n", figure(difference.worst)),
        ("n", figure(difference.limit)),
        ("n", times(share(difference))),
        ("p", safe(where) or "&ndash;"),
    ]


def _what(difference: Difference) -> str:
    """Explanation, note, and shapes where they differ."""
    told = []
    if difference.explanation:
        told.append(f'<strong class="cause">{safe(difference.explanation)}</strong>')
    if difference.note:
        told.append(safe(difference.note))
    if difference.shape_got != difference.shape_wanted:
        told.append(shapes(difference))
    return "<br>".join(told) or '<span class="soft">no known variant explains it</span>' * (not difference.passed)


def differences(report: Findings) -> str:
    """Every compared value."""
    headings = ("", "value"), ("n", "error"), ("n", "limit"), ("n", "error / limit"), ("", "where"), ("", "shape"), ("", "remarks")
    rows = []
    for difference in report.differences:
        mark = "" if difference.passed else ' <span class="off">beyond its limit</span>'
        named = ("name", f"{path(difference.name)}{mark}")
        rows.append([named, *_figures(difference), ("n", shape(difference.shape_wanted)), ("w", _remarks(difference))])
    return _table("Every compared value, in the order of execution.", headings, rows)


def _remarks(difference: Difference) -> str:
    return _what(difference) if difference.passed or difference.explanation or difference.note else ""


def selections(report: Findings) -> str:
    """One row for each reorganization, with the image nearest to its limit."""
    headings = (
        ("", "block"),
        ("", "verdict"),
        ("n", "closest margin"),
        ("n", "its limit"),
        ("", "of image"),
        ("n", "flips"),
        ("", "order"),
    )
    caption = "Selections: the last kept score less the first dropped one, and how far rounding can move that difference."
    return _table(caption, headings, [_selection(selection) for selection in report.selections])


def _selection(selection: Selection) -> list[Cell]:
    image, seen = closest(selection), selection.verdict != NOT_SEEN
    figures = ("&ndash;",) * 3 if image is None else (figure(selection.margins[image]), figure(selection.limits[image]), str(image))
    order = ("another" if selection.reordered else "falling attention") if seen else "&ndash;"
    return [
        ("name", path(selection.path)),
        ("", safe(selection.verdict)),
        *zip(("n", "n", ""), figures, strict=True),
        ("n", f"{sum(selection.flips):,}" if seen else "&ndash;"),
        ("", order),
    ]


def _table(caption: str, headings: Sequence[Cell], rows: Sequence[Sequence[Cell]]) -> str:
    """A table in a box of its own that scrolls where the page is narrow; the first named cell heads its row."""
    head = "".join(f'<th scope="col"{_class(look)}>{text}</th>' for look, text in headings)
    body = "".join(f"<tr>{''.join(_cells(row))}</tr>" for row in rows)
    return (
        f'<p class="said">{escape(caption)}</p><div class="scroll" role="region" tabindex="0" aria-label="table">'
        f'<table aria-label="{escape(caption)}"><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table></div>'
    )


def _cells(row: Sequence[Cell]) -> Iterator[str]:
    for look, text in row:
        yield f'<th scope="row"{_class(look)}>{text}</th>' if look == "name" else f"<td{_class(look)}>{text}</td>"


def _class(look: str) -> str:
    return f' class="{look}"' if look else ""


def folded(title: str, inside: str) -> str:
    """What is shown once its title is opened."""
    return f"<details>\n<summary>{title}</summary>\n{inside}\n</details>\n"
