"""`reforg models`: the table of all models, sorted and filtered."""

import json
from typing import Annotated, Any

import typer

from reforg.catalog import published
from reforg.catalog.names import build_config, list_models, registry
from reforg.cli.app import app
from reforg.cli.complete import model_names
from reforg.cli.tables import show, steps, table_of
from reforg.costs.cost import cost
from reforg.demo import demonstration
from reforg.errors import ConfigError, nearest

# What --sort knows: a row's figure, and whether the largest comes first.
ORDERS = {"name": ("name", False), "params": ("params", False), "macs": ("macs", False), "accuracy": ("accuracy", True)}


@app.command(short_help="List the models with sizes, costs and published accuracy.")
def models(
    pattern: Annotated[str, typer.Argument(help="Names to list, as a shell pattern: 'deit3*'.", autocompletion=model_names)] = "*",
    family: Annotated[str | None, typer.Option(metavar="NAME", help="vit, deit, deit3, evit or shunted.")] = None,
    max_params: Annotated[float | None, typer.Option(metavar="M", help="At most so many million parameters.")] = None,
    max_gmacs: Annotated[float | None, typer.Option(metavar="G", help="At most so many billion multiply-accumulates.")] = None,
    min_accuracy: Annotated[
        float | None, typer.Option(metavar="A", help="At least so much top-1 on ImageNet-1k, in percent.")
    ] = None,
    sort: Annotated[str, typer.Option(metavar="BY", help="name, params, macs or accuracy.")] = "name",
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON instead of a table.")] = False,
) -> None:
    """List the models with their sizes, their costs and the accuracy that was published for them (top-1, in percent)."""
    _check(family, sort)
    rows = [_model_row(name) for name in list_models(pattern) or _named(pattern)]
    wanted = [row for row in rows if _fits(row, family, max_params, max_gmacs, min_accuracy)]
    if not wanted:
        raise ConfigError("no model is within these limits")
    key, falling = ORDERS[sort]
    wanted.sort(key=lambda row: (row[key] is None, -row[key] if falling and row[key] is not None else row[key] or 0))
    if as_json:
        typer.echo(json.dumps(wanted, indent=2))
        return
    table = table_of("model", "px", "M params", "GMACs", "top-1", "tokens")
    for row in wanted:
        accuracy = "" if row["accuracy"] is None else f"{row['accuracy']:.1f}"
        figures = str(row["image"]), f"{row['params'] / 1e6:,.2f}", f"{row['macs'] / 1e9:.2f}", accuracy
        table.add_row(row["name"], *figures, steps(row["tokens"]))
    show(table)
    if any(row["accuracy"] for row in wanted):
        typer.echo("top-1: published accuracy on ImageNet-1k, in percent")


def _check(family: str | None, sort: str) -> None:
    families = sorted({build_config(name).family for name in registry()})
    if family is not None and family not in families:
        raise ConfigError(f"there is no family {family!r}{nearest(family, families)} (known: {', '.join(families)})")
    if sort not in ORDERS:
        raise ConfigError(f"models are not sorted by {sort!r}{nearest(sort, ORDERS)} (known: {', '.join(ORDERS)})")


def _fits(
    row: dict[str, Any], family: str | None, max_params: float | None, max_gmacs: float | None, min_accuracy: float | None
) -> bool:
    """Whether a model is within every limit; one without a published accuracy reaches none."""
    return (
        (family is None or row["family"] == family)
        and (max_params is None or row["params"] <= max_params * 1e6)
        and (max_gmacs is None or row["macs"] <= max_gmacs * 1e9)
        and (min_accuracy is None or (row["accuracy"] is not None and row["accuracy"] >= min_accuracy))
    )


def _named(word: str) -> list[str]:
    """The alias or tagged name that `word` is, or a ConfigError that says what would match."""
    try:
        build_config(word)
    except ConfigError:
        if any(mark in word for mark in "*?[") or not list_models(f"{word}*"):
            hint = nearest(word, list_models()) or "; `reforg models` lists them all"
        else:
            hint = f"; did you mean '{word}*'?"
        raise ConfigError(f"no model matches {word!r}{hint}") from None
    return [word]


def _model_row(name: str) -> dict[str, Any]:
    config, spent, figure = build_config(name), cost(name), published.accuracy(name)
    accuracy = figure.value if figure is not None and figure.images.startswith("ImageNet-1k") else None
    return {
        "name": name,
        "family": config.family,
        "image": config.image_shape[0],
        "params": spent.params,
        "macs": spent.macs,
        "accuracy": accuracy,
        "tokens": demonstration.stages(spent.tokens),
    }
