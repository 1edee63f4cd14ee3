"""`reforg trace`: the intermediates of some images, into a file."""

import json
from collections.abc import Mapping, Sequence
from inspect import signature
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from reforg.cli.app import app
from reforg.cli.complete import backends, dtypes, model_names
from reforg.cli.settings import parsed
from reforg.errors import ConfigError, printable
from reforg.files import check_place
from reforg.version import __version__

if TYPE_CHECKING:
    from reforg.models.model import Model


@app.command(short_help="Every intermediate of a model, into a file.")
def trace(
    images: Annotated[
        list[str],
        typer.Argument(metavar="IMAGES...", help="Pictures, folders, a file with one array (B, C, H, W), or synthetic:SEED."),
    ],
    model: Annotated[
        str, typer.Option(metavar="NAME", help="A model, or a Hub id, hf-hub:owner/name.", autocompletion=model_names)
    ],
    output: Annotated[Path, typer.Option(metavar="FILE", help="A .safetensors or .npz file.")],
    weights: Annotated[str | None, typer.Option(metavar="W", help="A file, a Hub id, or synthetic:SEED.")] = None,
    settings: Annotated[
        list[str] | None, typer.Option("--set", metavar="KEY=VALUE", help="A setting of the model: keep_rate=0.5. Repeatable.")
    ] = None,
    backend: Annotated[
        str, typer.Option(metavar="NAME", help="numpy, cupy, torch, jax, or another installed one.", autocompletion=backends)
    ] = "numpy",
    dtype: Annotated[
        str, typer.Option(metavar="NAME", help="float64, float32, float16 or bfloat16.", autocompletion=dtypes)
    ] = "float32",
    device: Annotated[str | None, typer.Option(metavar="NAME", help="The backend's own name of a device.")] = None,
    names: Annotated[
        list[str] | None, typer.Option(metavar="PATTERN", help="Which to keep: 'blocks.3.*'. Repeatable; otherwise all.")
    ] = None,
    batch: Annotated[int | None, typer.Option(min=1, metavar="N", help="How many synthetic images; otherwise 2.")] = None,
) -> None:
    """Write what every module of a model puts out, under the name that the official code's module has, by the reference.

    Without --names the images are in the file too, as "images": what another program needs to compute the same.
    """
    check_place(output, "output", ConfigError, (".safetensors", ".npz"))
    made = created(model, weights, parsed(settings or []), backend=backend, dtype=dtype, device=device)
    found = _traced(made, images, names, batch)
    _write(output, found, made, weights)
    size = sum(array.nbytes for array in found.values())
    typer.echo(f"{printable(str(output))}: {len(found):,} arrays, {size / 1e6:,.1f} MB")


def created(model: str, weights: str | None, settings: Mapping[str, Any], **options: Any) -> "Model":
    """The model that the options of a command line name; any mistake is a ReforgError."""
    from reforg.models.creation import create_model

    for key in settings:
        if key in signature(create_model).parameters:  # which has an option of its own, or none
            raise ConfigError(f"{model} has no setting {key!r}")
    return create_model(model, weights, **options, **settings)


def _traced(model: "Model", images: Sequence[str], names: Sequence[str] | None, batch: int | None) -> dict[str, Any]:
    """Name -> NumPy array, in the order of execution; before them the images, unless names were asked for."""
    from reforg.host import on_host
    from reforg.verification.candidate.image_batch import images_of

    given = images_of(images, model, batch, whole=not names)
    arrays = {name: on_host(value) for name, value in model.trace(given, names).items()}
    return arrays if names else {"images": given, **arrays}


def _write(output: Path, arrays: Mapping[str, Any], model: "Model", weights: str | None) -> None:
    """The file; the header of .safetensors, which keeps no order, says what was computed and in which order."""
    from dataclasses import asdict

    from reforg.catalog.sources import is_hub_id, is_synthetic
    from reforg.verification.candidate import files

    source = weights or ""
    told = {
        "reforg": __version__, "model": model.name, "dtype": model.dtype,
        "weights": source if is_hub_id(source) or is_synthetic(source) else Path(source).name,
        "config": json.dumps(asdict(model.config)), "order": json.dumps(list(arrays)),
    }  # fmt: skip
    files.write(output, arrays, told)
