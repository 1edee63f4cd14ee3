"""A report for the terminal, in colours and tables; into a file or a pipe it is as wide and says as much."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

from rich.box import SIMPLE_HEAD
from rich.console import Console, ConsoleOptions, RenderableType, RenderResult
from rich.table import Table
from rich.text import Text

from reforg.verification.findings import DIVERGES, EQUAL, NOT_SEEN, Difference, Findings, Selection, counted
from reforg.verification.show.wording import (
    MEAN,
    SHAPE,
    UNBOUNDED,
    closest,
    figure,
    headline,
    kind_of,
    name_of,
    parts,
    shapes,
    share,
    some,
    summary,
    times,
)

NAMES, FAULTS = 6, 50  # unknown and unseen names, and faults, that are told one by one
CELLS, COLUMNS = 5, 3  # characters of a bar, and bars beside each other in 80 columns
NAME, NUMBER = 12, 7  # characters of a block's name and of an error in units of its limit


def report_table(report: Findings) -> Table:
    """What is to be printed, by `reforg.cli.tables.show` say: verdict, facts, faults, selections, a bar for each block, notes.

    80 columns are enough for it.
    """
    pieces: list[RenderableType] = [Text(headline(report), style=f"bold {_colour(report)}"), _facts(report)]
    if report.faults:
        pieces += [Text(), _faults(report.faults)]
    if report.selections:
        pieces += [Text(), _selections(report.selections)]
    if len(report.differences) > 1:
        pieces += [Text(), Text("largest error of each block, in units of its limit", style="bold"), _bars(report.differences)]
    if report.notes:
        pieces += [Text(), *(Text(f"note: {name_of(note, 1000)}", style="dim") for note in report.notes)]
    page = Table.grid()
    for piece in pieces:
        page.add_row(piece)
    return page


def _colour(report: Findings) -> str:
    return "red" if report.verdict == DIVERGES else "green" if report.verdict == EQUAL else "yellow"


def _facts(report: Findings) -> Table:
    facts = {
        "model": f"{name_of(report.model)}, {counted(report.images, 'image')}",
        "candidate": f"{name_of(report.candidate)}, in {report.dtype}",
        "compared": summary(report),
        "unknown": some(report.unknown, NAMES),
        "unseen": some(report.unseen, NAMES),
    }
    grid = Table.grid()
    for what, told in facts.items():
        if told:
            grid.add_row(Text(f"  {what:<11}", style="dim"), Text(told, overflow="fold"))
    return grid


def _faults(faults: Sequence[Difference]) -> Table:
    """A row for each; below its name what explains it."""
    table = Table(box=SIMPLE_HEAD, show_edge=False, pad_edge=False, collapse_padding=True)
    table.add_column("#", justify="right")
    table.add_column("fault", overflow="fold", ratio=1)
    for heading in ("error", "limit", "times"):
        table.add_column(heading, justify="right", no_wrap=True)
    table.add_column("index", overflow="fold")
    for number, fault in enumerate(faults[:FAULTS], 1):
        table.add_row(str(number), _fault(fault), *_figures(fault))
    if len(faults) > FAULTS:
        table.add_row("", f"and {len(faults) - FAULTS:,} more")
    return table


def _fault(fault: Difference) -> Text:
    told = Text(name_of(fault.name), style="bold red")
    if fault.operation != fault.name:
        told.append(f"\n  in {name_of(fault.operation)}", style="not bold red")
    if fault.shape_got != fault.shape_wanted:
        told.append(f"\n  {shapes(fault)}", style="not bold default")
    if fault.note:
        told.append(f"\n  {name_of(fault.note)}", style="not bold default")
    if fault.explanation:
        told.append(f"\n  {name_of(fault.explanation)}", style="not bold cyan")
    return told


def _figures(fault: Difference) -> tuple[str, str, str, str]:
    kind, index = kind_of(fault), "" if fault.where is None else ", ".join(str(int(axis)) for axis in fault.where)
    if kind in (SHAPE, UNBOUNDED):
        return "shape" if kind == SHAPE else "unbounded", "", "", index
    return figure(fault.worst), figure(fault.limit), times(share(fault)), "rms" if kind == MEAN else index


def _selections(selections: Sequence[Selection]) -> Table:
    """A row for each, with the image whose margin is nearest to its limit."""
    table = Table(box=SIMPLE_HEAD, show_edge=False, pad_edge=False, collapse_padding=True)
    table.add_column("selection", overflow="fold")
    table.add_column("")
    for heading in ("margin", "limit", "flips"):
        table.add_column(heading, justify="right", no_wrap=True)
    for selection in selections:
        image = closest(selection)
        pair = ("", "") if image is None else (figure(selection.margins[image]), figure(selection.limits[image]))
        flips = "-" if selection.verdict == NOT_SEEN else f"{sum(selection.flips):,}"
        look = "red" if selection.verdict == DIVERGES else "green" if selection.verdict == EQUAL else "yellow"
        table.add_row(Text(name_of(selection.path)), Text(selection.verdict, style=look), *pair, flips)
    return table


@dataclass(frozen=True)
class Bar:
    """As much of CELLS characters as an error is of its limit; all of them where it is beyond."""

    share: float

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        filled, free = ("#", ".") if options.ascii_only else ("\u2588", "\u2591")
        count = CELLS if self.share > 1 else math.ceil(CELLS * self.share)
        colour = "red" if self.share > 1 else "green"
        yield Text.assemble((filled * count, colour), (free * (CELLS - count), "dim"))


def _bars(differences: Sequence[Difference]) -> Table:
    """A bar for each block, in the order of execution down the first column, then the next."""
    found = [
        (label, max(share(differences[number]) for number in numbers))
        for label, numbers in parts([difference.name for difference in differences])
    ]
    rows = -(-len(found) // COLUMNS)
    grid = Table.grid(padding=(0, 1))
    for _ in range(COLUMNS):
        grid.add_column(width=NAME)
        grid.add_column(width=CELLS)
        grid.add_column(width=NUMBER, justify="right")
    for row in range(rows):
        cells: list[RenderableType] = []
        for label, most in found[row::rows]:
            look = "red" if most > 1 else ""
            told = times(most) if math.isfinite(most) else "beyond"
            cells += [Text(name_of(label, NAME), style=look), Bar(most), Text(told, style=look)]
        grid.add_row(*cells)
    return grid
