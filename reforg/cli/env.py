"""`reforg env`: what this machine is and has, for reports of bugs."""

import json
from typing import Annotated

import typer

from reforg.cli.app import app
from reforg.cli.tables import tell
from reforg.models import environment


@app.command(short_help="What a report of a bug should hold: machine, versions, backends.")
def env(as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False) -> None:
    """Tell what this machine is and what reforg finds on it; paste it into a report of a bug."""
    told = environment.report()
    if as_json:
        typer.echo(json.dumps(told, indent=2))
        return
    for what, value in told.items():
        if not isinstance(value, dict):
            tell(what, value)
        elif value:
            typer.echo(f"  {what}")
            for name, state in value.items():
                typer.echo(f"    {name:<22}{state}")
