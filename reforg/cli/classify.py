"""`reforg classify`: its options; answers as a table, as lines of JSON, or into a file that a later run can go on with."""

import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated

import typer
from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from rich.table import Table
from rich.text import Text

from reforg.classification.journal import open_journal
from reforg.classification.outputs import Columns, failures
from reforg.classification.request import Request
from reforg.classification.rows import line
from reforg.classification.writing import Writing, check_output, check_state
from reforg.cli.app import app
from reforg.cli.complete import backends, dtypes, model_names
from reforg.cli.settings import parsed
from reforg.cli.tables import is_terminal, show
from reforg.errors import ConfigError, printable
from reforg.images.inputs import image_paths
from reforg.models.answers import BATCH_SIZE, THREADS, Answer, Classifier


@app.command(short_help="What a model says about images.")
def classify(
    images: Annotated[
        list[str], typer.Argument(metavar="IMAGE|FOLDER...", help="Files, folders, quoted patterns, or - for a list on stdin.")
    ],
    model: Annotated[
        str, typer.Option(metavar="NAME", help="A model, or a Hub id, hf-hub:owner/name.", autocompletion=model_names)
    ],
    weights: Annotated[str | None, typer.Option(metavar="W", help="A file, a Hub id, or synthetic:SEED.")] = None,
    labels: Annotated[Path | None, typer.Option(metavar="FILE", help="Names of the classes; otherwise the model's.")] = None,
    top_k: Annotated[int | None, typer.Option(min=1, metavar="K", help="Classes an answer names: 5, or all of fewer.")] = None,
    backend: Annotated[
        str, typer.Option(metavar="NAME", help="numpy, cupy, torch, jax, or another installed one.", autocompletion=backends)
    ] = "numpy",
    dtype: Annotated[
        str, typer.Option(metavar="NAME", help="float64, float32, float16 or bfloat16.", autocompletion=dtypes)
    ] = "float32",
    device: Annotated[str | None, typer.Option(metavar="NAME", help="The backend's own name of a device.")] = None,
    batch_size: Annotated[int, typer.Option(min=1, metavar="N", help="Images a forward pass.")] = BATCH_SIZE,
    settings: Annotated[
        list[str] | None, typer.Option("--set", metavar="KEY=VALUE", help="A setting of the model: keep_rate=0.5. Repeatable.")
    ] = None,
    preprocess: Annotated[
        list[str] | None, typer.Option(metavar="KEY=VALUE", help="A change of the preparation: crop_ratio=1.0. Repeatable.")
    ] = None,
    features: Annotated[bool, typer.Option("--features", help="Write each image's pooled embedding, too.")] = False,
    threads: Annotated[int, typer.Option(min=1, metavar="N", help="Threads that decode.")] = THREADS,
    resume: Annotated[bool, typer.Option("--resume", help="Go on with a run that did not finish.")] = False,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace an output, or start it anew.")] = False,
    output: Annotated[Path | None, typer.Option(metavar="FILE", help="A .jsonl, .csv or .parquet file.")] = None,
) -> None:
    """Classify images: a table on a terminal, lines of JSON into a pipe, a file with --output.

    An image that cannot be read is a row with its error, and the exit code is 1. A run that ended early, whatever ended it,
    goes on with the same command and --resume; its file is the same as if nothing had happened.
    """
    _check(output, features, resume or overwrite)
    request = Request(
        model,
        weights,
        labels,
        top_k,
        backend,
        dtype,
        device,
        batch_size,
        parsed(settings or []),
        parsed(preprocess or [], "--preprocess"),
        features,
        threads,
    )
    paths = image_paths(images, sys.stdin.buffer if sys.stdin else None)
    if output is not None:
        failed = _write(request, paths, output, resume, overwrite)
    else:
        failed = (_print_table if is_terminal(sys.stdout) else _print_lines)(request.classifier(), paths)
    if failed:
        typer.echo(f"reforg: {failed:,} of {len(paths):,} images could not be read", err=True)
        raise typer.Exit(1)


def _check(output: Path | None, features: bool, again: bool) -> None:
    """Refuse options that do not go together, and a place where nothing can be written, before anything is read."""
    if output is not None:
        check_output(output)
    elif again:
        raise ConfigError("--resume and --overwrite are about a file: give --output too")
    elif features and is_terminal(sys.stdout):
        raise ConfigError("--features needs --output, or a pipe: a table has no room for them")


def _write(request: Request, paths: Sequence[str], output: Path, resume: bool, overwrite: bool) -> int:
    """Answers into a file, through its journal; how many of them are errors."""
    with open_journal(output) as journal:
        check_state(output, journal, resume, overwrite)
        if resume and journal.empty and output.exists() and not overwrite:
            failed = failures(output, paths)
            typer.echo(f"{printable(str(output))}: finished, {len(paths):,} images, nothing to resume")
            return failed
        classifier = request.classifier()
        width = classifier.width()
        writing = Writing(output, journal, paths)
        writing.start(request.record(classifier, paths), request.batch_size, resume)
        with _interruptible(writing), _progress(len(paths), writing.done) as advance:
            for done in writing.compute(classifier):
                advance(done)
            writing.finish(Columns(classifier.answered, width if request.features else None))
    typer.echo(f"{printable(str(output))}: {len(paths):,} images")
    return writing.failed


@contextmanager
def _interruptible(writing: Writing) -> Iterator[None]:
    """On Ctrl-C, tell what is kept."""
    try:
        yield
    except KeyboardInterrupt:
        typer.echo(f"reforg: {writing.kept}", err=True)
        raise


@contextmanager
def _progress(total: int, done: int) -> Iterator[Callable[[int], None]]:
    """A bar on standard error, with rate and time left, where that is a terminal; takes how many images are done."""
    rate, start = TextColumn("{task.fields[rate]:,.1f} images/s"), time.perf_counter()
    columns = BarColumn(), MofNCompleteColumn(), rate, TimeRemainingColumn()
    with Progress(*columns, console=Console(stderr=True), transient=True, disable=not is_terminal(sys.stderr)) as bar:
        task = bar.add_task("", total=total, completed=done, rate=0.0)
        yield lambda now: bar.update(task, completed=now, rate=(now - done) / (time.perf_counter() - start))


def _answered(classifier: Classifier, paths: Sequence[str]) -> Iterator[list[tuple[str, Answer]]]:
    """Batch by batch, paths with their answers."""
    classifier.width()
    done = 0
    with _progress(len(paths), 0) as advance:
        for batch in classifier.batches(paths):
            yield list(zip(paths[done : done + len(batch)], batch, strict=True))
            done += len(batch)
            advance(done)


def _print_lines(classifier: Classifier, paths: Sequence[str]) -> int:
    """Answers as lines of JSON, each batch at once; how many of them are errors."""
    failed = 0
    for batch in _answered(classifier, paths):
        typer.echo(b"".join(line(path, answer, classifier.features) for path, answer in batch), nl=False)
        failed += sum(answer.error is not None for _, answer in batch)
    return failed


def _print_table(classifier: Classifier, paths: Sequence[str]) -> int:
    """Answers as a table at the end, of what there is until Ctrl-C; how many of them are errors."""
    table, failed = Table(box=SIMPLE_HEAD, show_edge=False, pad_edge=False), 0
    for heading in ("image", "class", "probability", "next"):
        table.add_column(heading, justify="right" if heading == "probability" else "left", overflow="fold")
    try:
        for batch in _answered(classifier, paths):
            for path, answer in batch:
                table.add_row(*(Text(printable(cell), "red" if answer.error else "") for cell in _cells(path, answer)))
                failed += answer.error is not None
    finally:
        show(table)
    return failed


def _cells(path: str, answer: Answer) -> tuple[str, ...]:
    """The image, its likeliest class with its probability, and the next ones; or what is wrong with it."""
    if answer.error is not None:
        return path, "", "", answer.error
    chances = [f"{probability:.1%}" for probability in answer.probabilities]
    following = [f"{label} {chance}" for label, chance in zip(answer.labels[1:], chances[1:], strict=True)]
    return path, answer.labels[0], chances[0], ", ".join(following)
