"""`reforg demo`: its options, and the table of its three models."""

import json
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from reforg.cli.app import app
from reforg.cli.tables import show, steps, table_of
from reforg.demo import demonstration
from reforg.errors import printable


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
    show(_demo_table(results))
    typer.echo(
        f"{results.images} test images of Fashion-MNIST, {results.backend}, {results.dtype}. Picture: {printable(str(output))}"
    )


def _demo_table(results: demonstration.Results) -> Table:
    table = table_of("model", "accuracy", "images/s", "tokens", "MMACs/image", "parameters")
    for row in results.models:
        figures = f"{row.accuracy:.1%}", f"{row.images_per_second:,.0f}", steps(row.tokens)
        table.add_row(row.name, *figures, f"{row.macs / 1e6:.1f}", f"{row.params:,}")
    return table
