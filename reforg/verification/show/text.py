"""A report as plain text: one screen of at most 80 columns."""

from collections.abc import Iterator
from textwrap import wrap

from reforg.verification.findings import EQUAL, NOT_SEEN, Difference, Findings, Selection, counted
from reforg.verification.show.wording import (
    SHAPE,
    cause,
    closest,
    excess,
    extent,
    figure,
    headline,
    kind_of,
    name_of,
    shapes,
    some,
    summary,
)

WIDTH = 80
FAULTS, SELECTIONS, NAMES = 6, 12, 3  # how many of each are told one by one, so that it stays one screen


def report_text(report: Findings) -> str:
    """The verdict in words, what was compared, every fault, the selections, the notes."""
    sections = [
        [headline(report), *_facts(report)],
        *(list(_fault(number, fault)) for number, fault in enumerate(report.faults[:FAULTS], 1)),
        list(_rest(report)),
        list(_selections(report.selections)),
        list(_notes(report)),
    ]
    return "\n\n".join("\n".join(lines) for lines in sections if lines)


def _facts(report: Findings) -> Iterator[str]:
    yield from _line("model", f"{name_of(report.model)}, {counted(report.images, 'image')}")
    yield from _line("candidate", f"{name_of(report.candidate)}, in {report.dtype}")
    yield from _line("compared", summary(report))
    if report.unknown:
        yield from _line("unknown", f"{counted(len(report.unknown), 'name')}: {some(report.unknown, NAMES)}")
    if report.unseen:
        yield from _line("unseen", f"{counted(len(report.unseen), 'name')}: {some(report.unseen, NAMES)}")


def _fault(number: int, fault: Difference) -> Iterator[str]:
    yield from _wrapped(f"{number}. {cause(fault)}: {excess(fault)}", "", "   ")
    yield from _wrapped(extent(fault), "   ", "     ")
    if fault.shape_got != fault.shape_wanted and kind_of(fault) != SHAPE:
        yield f"   {shapes(fault)}"
    if fault.note:
        yield from _wrapped(name_of(fault.note), "   ", "     ")
    known = f"explained by: {name_of(fault.explanation)}" if fault.explanation else "no known variant explains it"
    yield from _wrapped(known, "   ", "     ")


def _rest(report: Findings) -> Iterator[str]:
    """Faults that are not told one by one."""
    rest = [fault.operation for fault in report.faults[FAULTS:]]
    if rest:
        yield from _wrapped(f"{counted(len(rest), 'more fault')}: {some(rest, 2 * NAMES)}", "", "   ")


def _selections(selections: tuple[Selection, ...]) -> Iterator[str]:
    """One line for each; where there are very many, those that are not equal come first."""
    if not selections:
        return
    # Which ones are told is a matter of their verdict; in what order, of the model.
    shown = sorted(selections, key=lambda selection: selection.verdict == EQUAL)[:SELECTIONS]
    width = min(24, max(len("selection"), *(len(selection.path) for selection in shown)))
    yield f"{'selection':<{width}}  {'':<33}{'margin':>9}  {'limit':>8}  {'flips':>5}"
    yield from (_selection(selection, width) for selection in selections if selection in shown)
    if len(shown) < len(selections):
        yield f"and {len(selections) - len(shown):,} more"


def _selection(selection: Selection, width: int) -> str:
    """The image nearest to its limit, and the flips of all images."""
    image = closest(selection)
    margin, limit = (selection.margins[image], selection.limits[image]) if image is not None else (0.0, 0.0)
    flips = "-" if selection.verdict == NOT_SEEN else f"{sum(selection.flips):,}"
    path = name_of(selection.path, 24)
    return f"{path:<{width}}  {selection.verdict:<33}{figure(margin):>9}  {figure(limit):>8}  {flips:>5}"


def _notes(report: Findings) -> Iterator[str]:
    for note in report.notes:
        yield from _wrapped(f"note: {name_of(note, 1000)}", "", "  ")


def _line(what: str, text: str) -> list[str]:
    return _wrapped(text, f"  {what:<11}", " " * 13)


def _wrapped(text: str, first: str, later: str) -> list[str]:
    """Lines of at most WIDTH columns; names are never cut in two."""
    return wrap(text, WIDTH, initial_indent=first, subsequent_indent=later, break_long_words=False, break_on_hyphens=False)
