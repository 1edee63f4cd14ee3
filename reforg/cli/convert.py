"""`reforg convert`: a checkpoint of any kind into one safetensors file, and what was found in it."""

import json
from pathlib import Path
from typing import Annotated

import typer

from reforg.cli.app import app
from reforg.cli.tables import alternatives, tell
from reforg.errors import printable


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
    from reforg.weights.convert import convert as convert_weights

    done = convert_weights(source, output, model, container, spelling)
    if as_json:
        typer.echo(json.dumps(done.as_dict() | {"output": str(output)}, indent=2))
        return
    typer.echo(f"{printable(str(output))}: {done.tensors:,} tensors, {done.values:,} values, {done.bytes / 1e6:,.1f} MB")
    tell("model", alternatives(done.models, done.settings))
    tell("read from", f"{done.kind}, {f'its {done.container!r}' if done.container else 'its tensors'}")
    tell("sha256", f"{done.sha256} (of {done.source})")
    for number, text in enumerate(done.discarded or ("nothing",)):
        tell("" if number else "left aside", text)
