"""How tables are written: in colours on a terminal, as plain lines into a file or a pipe."""

from collections.abc import Mapping, Sequence
from typing import Any, TextIO

import typer
from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.table import Table

WIDTH = 80  # columns that every table fits, so that no figure is cut
WORDS = ("model", "tokens", "part", "program", "operation", "run by")  # headings of columns that hold words


def show(table: Table) -> None:
    """On a terminal in its colours; into a file or a pipe as plain lines without trailing blanks."""
    console = Console()
    console.width = max(console.width, WIDTH) if console.is_terminal else WIDTH
    if console.is_terminal:
        console.print(table)
        return
    with console.capture() as written:
        console.print(table)
    typer.echo("\n".join(line.rstrip() for line in written.get().splitlines()))


def is_terminal(stream: TextIO | None) -> bool:
    """Whether somebody reads along; a stream that was closed before we began is None."""
    return stream is not None and stream.isatty()


def table_of(*headings: str) -> Table:
    """A table that fits 80 columns: words to the left, figures to the right, no name cut."""
    table = Table(box=SIMPLE_HEAD, show_edge=False, pad_edge=False, collapse_padding=True)
    for heading in headings:
        table.add_column(heading, justify="left" if heading in WORDS else "right", no_wrap=True)
    return table


def steps(tokens: Sequence[int]) -> str:
    """Numbers of tokens, stage after stage."""
    return ">".join(map(str, tokens))


def tell(what: str, text: str) -> None:
    """A line of a report: its subject, and what there is to say."""
    typer.echo(f"  {what:<12}{text}")


def alternatives(names: Sequence[str], settings: Mapping[str, Any]) -> str:
    """Names that weights fit, and what of the config they change."""
    if not names:
        return "unknown: no model here has exactly these tensors"
    changed = "".join(f", {key}={value}" for key, value in settings.items())
    return " or ".join(names) + changed
