"""`reforg verify`: its options; the report on the terminal and into files."""

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from reforg.cli.app import app
from reforg.cli.complete import model_names
from reforg.cli.settings import parsed
from reforg.cli.tables import show
from reforg.cli.trace import created
from reforg.errors import ConfigError, printable
from reforg.files import check_place

if TYPE_CHECKING:
    from reforg.verification.report import Report


def _precisions(incomplete: str) -> list[str]:
    """Names of precisions that begin so."""
    from reforg.verification.error_model.precision import PRECISIONS

    return [name for name in PRECISIONS if name.startswith(incomplete)]


@app.command(short_help="Whether a port computes a model, and where it first goes wrong.")
def verify(
    candidate: Annotated[
        str, typer.Argument(metavar="CANDIDATE", help="The port's arrays by name, .npz or .safetensors, or the port itself, .onnx.")
    ],
    model: Annotated[
        str, typer.Option(metavar="NAME", help="A model, or a Hub id, hf-hub:owner/name.", autocompletion=model_names)
    ],
    images: Annotated[
        list[str],
        typer.Option(metavar="X", help="What the port was given: pictures, a folder, a file with one array, or synthetic:SEED."),
    ],
    weights: Annotated[str | None, typer.Option(metavar="W", help="A file, a Hub id, or synthetic:SEED.")] = None,
    settings: Annotated[
        list[str] | None, typer.Option("--set", metavar="KEY=VALUE", help="A setting of the model: keep_rate=0.5. Repeatable.")
    ] = None,
    dtype: Annotated[
        str,
        typer.Option(metavar="NAME", help="What the port computed in: float32, tf32, bfloat16, ...", autocompletion=_precisions),
    ] = "float32",
    rename: Annotated[
        list[str] | None,
        typer.Option(metavar="OLD=NEW", help="A name of the port's and the trace's: 'layers.*.ln=blocks.*.norm1'. Repeatable."),
    ] = None,
    batch: Annotated[int | None, typer.Option(min=1, metavar="N", help="How many synthetic images; otherwise 2.")] = None,
    json_file: Annotated[Path | None, typer.Option("--json", metavar="FILE", help="Write the report to a .json file.")] = None,
    html_file: Annotated[Path | None, typer.Option("--html", metavar="FILE", help="Write the report to an .html page.")] = None,
    quiet: Annotated[bool, typer.Option("--quiet", help="Print nothing; the exit code tells.")] = False,
) -> None:
    """Compare a port's values with what the reference makes, in float64, of the port's own values before them.

    The exit code is 1 where an operation is wrong, beyond the rounding of --dtype; the first such, in the order of
    execution, is named, with the mistake that reproduces the port's values where one is known.
    """
    from reforg.verification.error_model.precision import precision_of

    precision_of(dtype)
    _check_places(json_file, html_file)
    report = _verified(candidate, model, weights, settings, images, batch, dtype, _renaming(rename or []))
    if json_file is not None:
        report.to_json(json_file)
    if html_file is not None:
        report.to_html(html_file)
    if not quiet:
        _print(report, json_file, html_file)
    if not report.passed:
        raise typer.Exit(1)


def _check_places(json_file: Path | None, html_file: Path | None) -> None:
    """Refuse a place where nothing can be written before anything is computed."""
    for option, path, ending in (("--json", json_file, ".json"), ("--html", html_file, ".html")):
        if path is not None:
            check_place(path, option, ConfigError, (ending,))


def _verified(
    candidate: str,
    model: str,
    weights: str | None,
    settings: Sequence[str] | None,
    images: Sequence[str],
    batch: int | None,
    dtype: str,
    rename: dict[str, str] | None,
) -> "Report":
    """The report; any mistake is a ReforgError."""
    from reforg.verification.candidate.image_batch import images_of
    from reforg.verification.verifier import verify as verified

    made = created(model, weights, parsed(settings or []), dtype="float64")
    return verified(candidate, made, images_of(images, made, batch), dtype, rename)


def _renaming(pairs: Sequence[str]) -> dict[str, str] | None:
    """'layers.0.ln=blocks.0.norm1' -> old name: new name."""
    found: dict[str, str] = {}
    for pair in pairs:
        old, _, new = pair.partition("=")
        if not old or not new:
            raise ConfigError(f"--rename wants OLD=NEW, as in --rename 'layers.*.ln=blocks.*.norm1', got {pair!r:.80}")
        if old in found:
            raise ConfigError(f"--rename {old!r} is given twice")
        found[old] = new
    return found or None


def _print(report: "Report", json_file: Path | None, html_file: Path | None) -> None:
    """The report for the terminal, and which files it is in, too."""
    from reforg.verification.show.screen import report_table

    show(report_table(report))
    for path in (json_file, html_file):
        if path is not None:
            typer.echo(f"{printable(str(path))}: the whole report")
