"""`reforg bench`: its options, and the tables of what came out."""

import json
import re
import signal
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from itertools import accumulate
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.progress import Progress, TextColumn
from rich.table import Table

from reforg.bench import contest
from reforg.bench.contest import Outcome, Result
from reforg.bench.plot import draw, need_matplotlib
from reforg.bench.report import Figures, as_dict, fastest_peer, figures, slowing
from reforg.bench.request import MODELS, PICTURES, Request
from reforg.cli.app import app
from reforg.cli.complete import backends, dtypes, model_names, peers
from reforg.cli.settings import parsed
from reforg.cli.tables import WIDTH, is_terminal, show, table_of, tell
from reforg.costs.cost import cost
from reforg.errors import ConfigError, printable
from reforg.files import check_place, replacing

BUSY = 1.0  # load average from which on other programs disturb


@app.command(short_help="How fast models are, beside other programs on the same weights.")
def bench(
    models: Annotated[
        list[str] | None, typer.Argument(metavar="[MODEL]...", help="Models to measure.", autocompletion=model_names)
    ] = None,
    batch: Annotated[str, typer.Option(metavar="N,...", help="Images a forward pass: 8, or 1,8.")] = "8",
    backend: Annotated[
        str,
        typer.Option(metavar="NAME,...", help="numpy, cupy, torch, jax; on a device of it: torch@cuda.", autocompletion=backends),
    ] = "numpy",
    ops: Annotated[
        str, typer.Option(metavar="NAME,...", help="reference, auto, or a way of the backend's: numba, numpy.")
    ] = "reference,auto",
    dtype: Annotated[
        str, typer.Option(metavar="NAME,...", help="float64, float32, float16 or bfloat16.", autocompletion=dtypes)
    ] = "float32",
    against: Annotated[
        str | None,
        typer.Option(
            metavar="PEER,...",
            help="torch (by default), torch.compile, onnxruntime, openvino, jax, torch@cuda, none.",
            autocompletion=peers,
        ),
    ] = None,
    rounds: Annotated[int, typer.Option(min=1, metavar="N", help="Turns of each program.")] = 7,
    seconds: Annotated[float, typer.Option(min=0, metavar="S", help="How long a turn takes; at least one forward pass.")] = 1.0,
    threads: Annotated[
        int | None, typer.Option(min=1, max=4096, metavar="N", help="Threads of each program; otherwise its choice.")
    ] = None,
    img_size: Annotated[str | None, typer.Option(metavar="N,...", help="Sides of the images, in pixels.")] = None,
    settings: Annotated[
        list[str] | None, typer.Option("--set", metavar="KEY=VALUE", help="A setting of the models: keep_rate=0.5. Repeatable.")
    ] = None,
    breakdown: Annotated[bool, typer.Option("--breakdown", help="Tell in which operations reforg's time goes.")] = False,
    json_file: Annotated[Path | None, typer.Option("--json", metavar="FILE", help="Write all rounds to a .json file.")] = None,
    plot: Annotated[Path | None, typer.Option(metavar="FILE", help="Draw a .png or .svg file.")] = None,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace files that are there.")] = False,
) -> None:
    """Measure models on random weights, beside other programs that compute the same.

    Each program has a process of its own. They take turns, so that whatever else the machine does falls on all of them; every
    figure is the median of the rounds, with the quartiles beside it. Where their logits differ, the exit code is 1.
    """
    request = Request(
        tuple(dict.fromkeys(models or MODELS)),
        _numbers("--batch", batch),
        _words("--backend", backend),
        _words("--ops", ops),
        _words("--dtype", dtype),
        () if img_size is None else _numbers("--img-size", img_size),
        parsed(settings or []),
        _peers(against),
        rounds,
        seconds,
        threads,
        breakdown,
    )
    _check_files(json_file, plot, overwrite)
    request.check()
    try:
        with _terminable(), _progress() as report:
            outcome = contest.run(request, report)
    except contest.DisagreementError as error:
        typer.echo(f"reforg: {error}", err=True)
        raise typer.Exit(1) from error
    _write(outcome, json_file, plot)  # first: whoever reads the tables may go away
    _print(outcome)
    for file, what in ((json_file, "all rounds"), (plot, "plot")):
        if file is not None:
            typer.echo(f"{printable(str(file))}: {what}")


def _words(option: str, text: str) -> tuple[str, ...]:
    """The different words between commas."""
    words = tuple(dict.fromkeys(word.strip() for word in text.split(",")))
    if "" in words:
        raise ConfigError(f"{option} wants names separated by commas, got {text!r}")
    return words


def _numbers(option: str, text: str) -> tuple[int, ...]:
    """The different whole numbers between commas, each at least 1."""
    words = [word.strip() for word in text.split(",")]
    if not all(re.fullmatch(r"0*[1-9][0-9]{0,18}", word) for word in words):
        raise ConfigError(f"{option} wants whole numbers of at least 1, separated by commas, got {text!r}")
    return tuple(dict.fromkeys(int(word) for word in words))


def _peers(text: str | None) -> tuple[str, ...] | None:
    """The peers that are asked for; None where that is left open."""
    return () if text == "none" else text if text is None else _words("--against", text)


def _check_files(json_file: Path | None, plot: Path | None, overwrite: bool) -> None:
    if json_file is not None:
        check_place(json_file, "--json", ConfigError, (".json",), overwrite)
    if plot is not None:
        check_place(plot, "--plot", ConfigError, PICTURES, overwrite)
        need_matplotlib()


@contextmanager
def _terminable() -> Iterator[None]:
    """SIGTERM ends the contest as Ctrl-C does, with its workers and its files."""
    before = signal.signal(signal.SIGTERM, lambda *_: sys.exit(128 + signal.SIGTERM))
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


@contextmanager
def _progress() -> Iterator[Callable[[str], None]]:
    """A line on standard error, where that is a terminal, of what is done now; it is drawn anew only when told to."""
    line = Progress(
        TextColumn("{task.description}", markup=False),
        console=Console(stderr=True),
        auto_refresh=False,
        transient=True,
        disable=not is_terminal(sys.stderr),
    )
    with line:
        task = line.add_task("")
        yield lambda text: line.update(task, description=text, refresh=True)


def _write(outcome: Outcome, json_file: Path | None, plot: Path | None) -> None:
    if json_file is not None:
        with replacing(json_file) as unfinished:
            unfinished.write_text(json.dumps(as_dict(outcome), indent=2) + "\n", encoding="utf-8")
    if plot is not None:
        draw(outcome, plot)


def _print(outcome: Outcome) -> None:
    for case, results in outcome.cases:
        typer.echo(f"{case.title}: {cost(case.config).macs / 1e9:,.3f} GMACs an image")
        found = figures(case, results, outcome.yardstick)
        show(_table(results, found))
        if len(found[0].ratios) > 1:
            typer.echo(f"\nimages/s in units of each peer, of which {fastest_peer(results, found)} is the fastest")
            for table in _ratios(results, found):
                show(table)
        for result in results:
            if result.breakdown is not None:
                typer.echo(f"\n{result.entrant.label}: where the {result.breakdown['wall_ms']:,.1f} ms of a batch go")
                show(_breakdown(result.breakdown))
                typer.echo(_floor(result.breakdown))
        typer.echo("")
    _tell_conditions(outcome)


def _table(results: Sequence[Result], found: Sequence[Figures]) -> Table:
    """The figures of a case, a row for each contestant."""
    table = table_of("program", "images/s", "±", "ratio", "±", "ms", "MB", "start", "GMAC/s")
    for result, own in zip(results, found, strict=True):
        speed, ratio = own.images_per_second, own.ratio
        peak = "" if result.peak is None else f"{result.peak:,.0f}"
        table.add_row(
            result.entrant.label,
            _short(speed.median),
            f"{speed.relative:.0%}",
            f"{ratio.median:.2f}",
            f"{ratio.relative:.0%}",
            _short(own.ms_per_batch.median),
            peak,
            f"{result.start:.1f} s",
            f"{own.gmacs_per_second:,.1f}",
        )
    return table


def _ratios(results: Sequence[Result], found: Sequence[Figures]) -> Iterator[Table]:
    """What is ours in units of every peer: a row for each program, a column for each peer, in as many tables as 80 columns want."""
    own = {result.entrant.label: figure for result, figure in zip(results, found, strict=True) if _is_ours(result)}
    left = list(found[0].ratios)
    while left:
        room = WIDTH - max(len(label) for label in (*own, "program"))
        wide = list(accumulate(len(label) + 2 for label in left))
        count = max(1, sum(width <= room for width in wide))
        table = table_of("program", *left[:count])
        for label, figure in own.items():
            table.add_row(label, *(f"{figure.ratios[peer].median:.2f}" for peer in left[:count]))
        left = left[count:]
        yield table


def _is_ours(result: Result) -> bool:
    return result.entrant.contestant.kind == "backend"


def _short(value: float) -> str:
    """Three digits, or all before the point."""
    return f"{value:,.0f}" if value >= 100 else f"{value:.3g}"


def _breakdown(told: dict[str, Any]) -> Table:
    table = table_of("operation", "run by", "calls", "ms", "share", "GFLOP/s")
    for row in told["parts"]:
        speed = "" if row["gflops"] is None else f"{row['gflops']:,.1f}"
        table.add_row(row["operation"], row["run_by"], f"{row['calls']:.0f}", f"{row['ms']:,.2f}", f"{row['share']:.1%}", speed)
    table.add_row("between operations", "", "", f"{told['between_ms']:,.2f}", f"{told['between_share']:.1%}", "")
    return table


def _floor(told: dict[str, Any]) -> str:
    share = told["floor_ms"] / told["wall_ms"]
    peak = f"{told['peak_gflops']:,.1f} GFLOP/s of a large matrix product"
    return f"floor: {told['floor_ms']:,.1f} ms ({share:.0%}), if all multiply-accumulates ran at the {peak}"


def _tell_conditions(outcome: Outcome) -> None:
    """What the figures mean, and what they depend on."""
    request = outcome.request
    times = f"{request.rounds:,} round{'s' * (request.rounds > 1)} of {request.seconds:g} s for each program in turn"
    tell("measured", f"{times}; medians")
    tell("±", "half the distance between the quartiles, as a share of the median")
    tell("ratio", f"images/s in units of {outcome.yardstick.label}, round by round")
    tell("MB", "peak memory of the process; start: from its start to its first logits")
    tell("threads", "each program's own choice" if request.threads is None else str(request.threads))
    tell("versions", ", ".join(dict.fromkeys(entrant.version for entrant in outcome.entrants)))
    if all(entrant.contestant.kind == "backend" for entrant in outcome.entrants) and not outcome.absent:
        tell("peers", "none")
    for reason in outcome.absent.values():
        tell("left out", reason)
    if outcome.load is not None and outcome.load >= BUSY:
        tell("beware", f"other programs were running: load average {outcome.load:.1f} before the first round")
    for name, value in slowing().items():
        tell("beware", f"{name}={value} is set, which can halve NumPy's speed")
