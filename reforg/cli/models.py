"""`reforg models`."""

import json
from typing import Annotated, Any

import typer

import reforg
from reforg import demo as demonstration
from reforg.cli.app import app
from reforg.cli.tables import show, steps, table_of
from reforg.errors import ConfigError, nearest
from reforg.names import build_config


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
    table = table_of("model", "px", "parameters", "GMACs", "tokens")
    for row in rows:
        figures = str(row["image"]), f"{row['params']:,}", f"{row['macs'] / 1e9:.2f}"
        table.add_row(row["name"], *figures, steps(row["tokens"]))
    show(table)


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
