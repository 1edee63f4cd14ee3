"""`reforg info`: what one model is and costs, as text or JSON."""

import json
from dataclasses import asdict
from itertools import groupby
from textwrap import wrap
from typing import Annotated, Any

import typer

from reforg.catalog import labels, published
from reforg.catalog.names import EMBEDDED, build_config, resolve
from reforg.cli.app import app
from reforg.cli.complete import model_names
from reforg.cli.settings import parsed
from reforg.cli.tables import WIDTH, show, table_of, tell
from reforg.costs.cost import cost
from reforg.images.preprocessing import of_name
from reforg.models import embedded


@app.command(short_help="A model's config, parameters, MACs, memory, tokens, preprocessing.")
def info(
    name: Annotated[str, typer.Argument(metavar="NAME", help="A model, alias or timm's tagged name.", autocompletion=model_names)],
    changes: Annotated[
        list[str] | None, typer.Option("--set", metavar="KEY=VALUE", help="A field of the config to change: keep_rate=0.5.")
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON instead of tables.")] = False,
) -> None:
    """Tell what a model is: its config, what it costs block by block, what goes in, and where its weights are found."""
    told = described(name, parsed(changes or []))
    if as_json:
        typer.echo(json.dumps({**told, "preprocessing": told["preprocessing"] and asdict(told["preprocessing"])}, indent=2))
        return
    typer.echo(name if told["name"] == name else f"{name}, which is {told['name']}")
    size = "x".join(map(str, told["image"]))
    _tell("parameters", f"{told['params']:,}")
    _tell("MACs", f"{told['macs'] / 1e9:,.3f} G for an image of {size}: {_shares(told['by_operation'], told['macs'])}")
    _tell("memory", *_memory(told))
    _tell("accuracy", _published(told["accuracy"]))
    _tell("input", str(told["preprocessing"] or "not known; give its fields"))
    _tell("classes", _classes(told["name"], told["config"]["num_classes"]))
    _tell("weights", *told["weights"])
    _tell("config", " ".join(f"{key}={value}".replace(", ", ",") for key, value in told["config"].items()))
    typer.echo("")
    show(_costs(told["by_block"], told["tokens"], told["macs"]))


def described(name: str, changes: dict[str, Any]) -> dict[str, Any]:
    """What there is to tell about a model, as plain values and its preprocessing."""
    config = build_config(name, **changes)
    spent = cost(config)
    accuracy = published.accuracy(name, **changes)
    return {
        "name": resolve(name),
        "family": config.family,
        "image": list(config.image_shape),
        "params": spent.params,
        "macs": spent.macs,
        "accuracy": accuracy and asdict(accuracy),
        "preprocessing": of_name(name, config),
        "weights": published.where(name),
        "config": asdict(config),
        "by_block": spent.by_block,
        "tokens": spent.tokens,
        "by_operation": spent.by_operation,
        "dtype": spent.dtype,
        "weight_bytes": spent.weight_bytes,
        "activation_bytes": spent.activation_bytes,
        "largest": spent.largest,
        "largest_bytes": spent.largest_bytes,
        "peak_bytes": spent.peak_bytes,
        "by_layer": {layer: asdict(cost) for layer, cost in spent.by_layer.items()},
    }


def _shares(by_operation: dict[str, int], total: int) -> str:
    """Each operation's share of the multiplications, the largest first."""
    found = sorted(by_operation.items(), key=lambda entry: -entry[1])
    return ", ".join(f"{operation} {macs / total:.1%}" for operation, macs in found)


def _memory(told: dict[str, Any]) -> tuple[str, str]:
    """Bytes of weights, and of what an image leaves behind."""
    weights, activations, peak, largest = (
        f"{told[f'{what}_bytes'] / 1e6:,.2f} MB" for what in ("weight", "activation", "peak", "largest")
    )
    return (
        f"{weights} of weights in {told['dtype']}",
        f"{activations} of activations for an image, at most {peak} at once; {told['largest']} is the largest, {largest}",
    )


def _published(accuracy: dict[str, Any] | None) -> str:
    if accuracy is None:
        return "none published for this config"
    return f"{accuracy['value']}% top-1 on {accuracy['images']} ({accuracy['source']}; {accuracy['model']})"


def _classes(name: str, count: int) -> str:
    if not count:
        return "none: pooled features come out"
    known = embedded.LABELS if name in EMBEDDED else labels.builtin(count)
    return f"{count:,} ({', '.join(label.partition(',')[0] for label in known[:3])}, ...)" if known else f"{count:,}"


def _tell(what: str, *texts: str) -> None:
    """Lines of the report under one subject; long ones go on below."""
    lines = [line for text in texts for line in wrap(text, WIDTH - 14, break_long_words=False, break_on_hyphens=False)]
    for number, line in enumerate(lines):
        tell("" if number else what, line)


def _costs(by_block: dict[str, int], tokens: dict[str, int], total: int) -> Any:
    """Cost by part; parts that follow each other and cost the same stand in one row."""
    table = table_of("part", "tokens", "MMACs each", "share")
    rows = [(name, macs, _tokens_of(name, tokens)) for name, macs in by_block.items()]
    for (macs, count, _), group in groupby(rows, lambda row: (row[1], row[2], row[0].partition(".")[0])):
        names = [name for name, *_ in group]
        part = names[0] if len(names) == 1 else f"{names[0]} to {names[-1].rpartition('.')[2]}"
        table.add_row(part, "" if count is None else str(count), f"{macs / 1e6:,.2f}", f"{len(names) * macs / total:.1%}")
    return table


def _tokens_of(name: str, tokens: dict[str, int]) -> int | None:
    """How many tokens a part has: a ViT's block its own, a Shunted block its stage's."""
    stage = name.partition(".")[0].replace("block", "stage").replace("patch_embed", "stage")
    return tokens.get(name, tokens.get(stage))
