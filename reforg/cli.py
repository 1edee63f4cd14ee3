"""The command line. Exit code 0: done; 1: the answer is no; 2: the user's mistake, one line on standard error."""

import json
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.markup import escape
from rich.table import Table

import reforg
from reforg import demo as demonstration
from reforg.errors import ConfigError, ReforgError, nearest
from reforg.names import build_config

WIDTH = 80  # columns that every table fits, so that no figure is cut
INTERRUPTED = 130  # what typer makes of Ctrl-C

app = typer.Typer(
    name="reforg",
    help="ViT, DeiT, DeiT III, EViT and Shunted Transformer without a framework, exact to the official code.",
    epilog="--debug, anywhere, shows the traceback of an error instead of its sentence.",
    context_settings={"help_option_names": ["-h", "--help"]},
    invoke_without_command=True,
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
)


def main(arguments: list[str] | None = None) -> None:
    """Run the command line and leave with its exit code."""
    sys.exit(run(sys.argv[1:] if arguments is None else arguments))


def run(arguments: list[str]) -> int:
    """The exit code of a command line; a mistake's one sentence goes to standard error."""
    debug = "--debug" in arguments
    arguments = [argument for argument in arguments if argument != "--debug"]
    try:
        code = app(arguments, standalone_mode=False)
    except (ReforgError, typer.TyperException) as error:
        if debug:
            raise
        message = error.format_message() if isinstance(error, typer.TyperException) else str(error)
        typer.echo(f"reforg: {' '.join(message.split())}", err=True)
        return 2
    except BrokenPipeError:  # the reader of our output has gone, as `head` does
        sys.stderr.close()
        return 0
    except OSError as error:
        if debug:
            raise
        typer.echo(f"reforg: cannot write: {error.strerror or error}", err=True)
        return 2
    if code == INTERRUPTED:
        typer.echo("reforg: interrupted", err=True)
    return int(code or 0)


def _show(table: Table) -> None:
    """On a terminal in its colours; into a file or a pipe as plain lines without trailing blanks."""
    console = Console()
    console.width = max(console.width, WIDTH) if console.is_terminal else WIDTH
    if console.is_terminal:
        console.print(table)
        return
    with console.capture() as written:
        console.print(table)
    typer.echo("\n".join(line.rstrip() for line in written.get().splitlines()))


@app.callback()
def _options(
    context: typer.Context,
    version: Annotated[bool, typer.Option("--version", help="Print the version and leave.")] = False,
) -> None:
    if version:
        typer.echo(f"reforg {reforg.__version__}")
    elif context.invoked_subcommand is None:
        typer.echo(context.get_help())


@app.command(short_help="Classify 500 images with three models, draw what EViT kept.")
def demo(
    as_json: Annotated[bool, typer.Option("--json", help="Print the figures as JSON instead of a table.")] = False,
    output: Annotated[Path, typer.Option(metavar="FILE", help="Where the picture goes.")] = Path("reforg-demo.png"),
    backend: Annotated[str, typer.Option(metavar="NAME", help="numpy, cupy, torch, jax, or another installed one.")] = "numpy",
    dtype: Annotated[str, typer.Option(metavar="NAME", help="float64, float32, float16 or bfloat16.")] = "float32",
    device: Annotated[str | None, typer.Option(metavar="NAME", help="The backend's own name of a device.")] = None,
    batch_size: Annotated[int, typer.Option(min=1, metavar="N", help="Images a forward pass.")] = 50,
) -> None:
    """Classify real images with three trained models; print how well and how fast, and draw what EViT kept."""
    status = Console(stderr=True)
    with status.status("") as shown:
        results = demonstration.run(output, backend, dtype, device, batch_size, lambda text: shown.update(escape(text)))
    if as_json:
        typer.echo(json.dumps(results.as_dict(), indent=2))
        return
    _show(_demo_table(results))
    typer.echo(f"{results.images} test images of Fashion-MNIST, {results.backend}, {results.dtype}. Picture: {output}")


def _table(*headings: str) -> Table:
    """A table that fits 80 columns: words to the left, figures to the right, no name cut."""
    table = Table(box=SIMPLE_HEAD, show_edge=False, pad_edge=False, collapse_padding=True)
    for heading in headings:
        table.add_column(heading, justify="left" if heading in ("model", "tokens") else "right", no_wrap=True)
    return table


def _steps(tokens: list[int]) -> str:
    return ">".join(map(str, tokens))


def _demo_table(results: demonstration.Results) -> Table:
    table = _table("model", "accuracy", "images/s", "tokens", "MMACs/image", "parameters")
    for row in results.models:
        figures = f"{row.accuracy:.1%}", f"{row.images_per_second:,.0f}", _steps(row.tokens)
        table.add_row(row.name, *figures, f"{row.macs / 1e6:.1f}", f"{row.params:,}")
    return table


@app.command(short_help="Weights of any format into one safetensors file.")
def convert(
    source: Annotated[
        str, typer.Argument(metavar="IN", help="A .pth, .pt, .npz or .safetensors file, or a Hub id, hf-hub:owner/name.")
    ],
    output: Annotated[Path, typer.Argument(metavar="OUT", help="A name that ends in .safetensors (or .npz).")],
    model: Annotated[str | None, typer.Option(metavar="NAME", help="Whose weights they are; otherwise found out.")] = None,
    container: Annotated[
        str | None, typer.Option(metavar="NAME", help="Which part of a checkpoint, as model_ema; otherwise the model.")
    ] = None,
    spelling: Annotated[
        str, typer.Option(metavar="NAME", help="Names to write: official, timm, transformers, transformers5 or jax.")
    ] = "official",
    as_json: Annotated[bool, typer.Option("--json", help="Print what was done as JSON.")] = False,
) -> None:
    """Read weights of any format, run nothing in them, and write them as safetensors; tell what was left aside."""
    from reforg.convert import convert as convert_weights

    done = convert_weights(source, output, model, container, spelling)
    if as_json:
        typer.echo(json.dumps(done.as_dict() | {"output": str(output)}, indent=2))
        return
    typer.echo(f"{output}: {done.tensors:,} tensors, {done.values:,} values, {done.bytes / 1e6:,.1f} MB")
    _tell("model", _alternatives(done.models, done.settings))
    _tell("read from", f"{done.kind}, {f'its {done.container!r}' if done.container else 'its tensors'}")
    _tell("sha256", f"{done.sha256} (of {done.source})")
    for number, text in enumerate(done.discarded or ("nothing",)):
        _tell("" if number else "left aside", text)


def _tell(what: str, text: str) -> None:
    typer.echo(f"  {what:<12}{text}")


def _alternatives(names: Sequence[str], settings: Mapping[str, Any]) -> str:
    """Names that weights fit, and what of the config they change."""
    if not names:
        return "unknown: no model here has exactly these tensors"
    changed = "".join(f", {key}={value}" for key, value in settings.items())
    return " or ".join(names) + changed


@app.command()
def models(
    pattern: Annotated[str, typer.Argument(help="Names to list, as a shell pattern: 'deit3*'.")] = "*",
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON instead of a table.")] = False,
) -> None:
    """List the models with their sizes and costs."""
    names = reforg.list_models(pattern) or _named(pattern)
    rows = [_model_row(name) for name in names]
    if as_json:
        typer.echo(json.dumps(rows, indent=2))
        return
    table = _table("model", "px", "parameters", "GMACs", "tokens")
    for row in rows:
        figures = str(row["image"]), f"{row['params']:,}", f"{row['macs'] / 1e9:.2f}"
        table.add_row(row["name"], *figures, _steps(row["tokens"]))
    _show(table)


def _named(word: str) -> list[str]:
    """The alias or tagged name that `word` is, or a ConfigError that says what would match."""
    try:
        build_config(word)
    except ConfigError:
        if any(mark in word for mark in "*?[") or not reforg.list_models(f"{word}*"):
            hint = nearest(word, reforg.list_models()) or "; `reforg models` lists them all"
        else:
            hint = f"; did you mean '{word}*'?"
        raise ConfigError(f"no model matches {word!r}{hint}") from None
    return [word]


def _model_row(name: str) -> dict[str, Any]:
    config, cost = build_config(name), reforg.cost(name)
    return {
        "name": name, "family": config.family, "image": config.image_shape[0], "params": cost.params, "macs": cost.macs,
        "tokens": demonstration.stages(cost.tokens),
    }  # fmt: skip


if __name__ == "__main__":
    main()
