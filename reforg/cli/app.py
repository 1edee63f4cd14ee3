"""The application: how it starts, and how it ends. Exit code 0: done; 1: the answer is no; 2: the user's mistake."""

import sys
from typing import Annotated

import typer

from reforg.cli.tables import tell
from reforg.errors import ReforgError
from reforg.models import environment
from reforg.version import __version__

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
    except SystemExit as error:  # typer's, where the reader of our output has gone, as `head` does; and of completion
        return 0 if isinstance(error.__context__, BrokenPipeError) else int(error.code or 0)
    except OSError as error:
        if debug:
            raise
        typer.echo(f"reforg: cannot write: {error.strerror or error}", err=True)
        return 2
    if code == INTERRUPTED:
        typer.echo("reforg: interrupted", err=True)
    return int(code or 0)


@app.callback()
def _options(
    context: typer.Context,
    version: Annotated[bool, typer.Option("--version", help="Print the version and the backends found, and leave.")] = False,
) -> None:
    if version:
        typer.echo(f"reforg {__version__}")
        for name, state in environment.backends().items():
            tell(name, state)
        raise typer.Exit
    if context.invoked_subcommand is None:
        typer.echo(context.get_help())
