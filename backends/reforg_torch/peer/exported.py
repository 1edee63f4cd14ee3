"""torch eager's forward passes as ONNX graphs: `python -m reforg_torch.peer.exported FOLDER NAME B C H W`.

FOLDER has config.json and weights.npz, and is given NAME, a graph for images of that shape, with the weights in a file beside
it. What goes wrong is the last line on standard error, with exit code 1. The peers that run graphs (reforg_onnx) call it.
"""

import json
import sys
import traceback
from pathlib import Path
from typing import Any

import numpy as np
import torch
from onnxscript import opset18 as op

from reforg.config import Config
from reforg_torch.peer import BUILDERS, forward_of

CONFIGS: dict[str, type[Config]] = {kind.__name__: kind for kind in BUILDERS}


def main() -> None:
    """Export, or say in a line why not."""
    folder, name, *shape = sys.argv[1:]
    try:
        export(Path(folder), name, [int(size) for size in shape])
    except Exception as error:  # whatever torch can raise
        traceback.print_exc()
        sys.exit((str(error).strip() or type(error).__name__).splitlines()[0])


def export(folder: Path, name: str, shape: list[int]) -> None:
    """Write the graph for images of that shape. Raises what torch eager and the exporter raise."""
    settings = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    config = CONFIGS[settings.pop("class")](**settings)
    with np.load(folder / "weights.npz") as weights:
        graph = Graph(forward_of(config, dict(weights), "float32", torch.device("cpu"))).eval()
    images = torch.zeros(shape)
    with torch.inference_mode():
        graph(images)  # its own errors are told plainly here; from within the exporter they are not
        program: Any = torch.onnx.export(graph, (images,), dynamo=True, verbose=False, custom_translation_table=TRANSLATED)
    program.save(folder / name, external_data=True)  # a graph alone must be below 2 GB


class Graph(torch.nn.Module):  # type: ignore[misc]
    """A forward pass in the form that the exporter takes."""

    def __init__(self, forward: Any) -> None:
        super().__init__()
        self.run = forward

    def forward(self, images: Any) -> Any:
        """(B, in_chans, H, W) -> (B, num_classes)."""
        return self.run(images)


def sort(x: Any, *, stable: bool = True, dim: int = -1, descending: bool = False) -> Any:  # noqa: ARG001 - TopK is stable
    """torch.sort with `stable`, which the exporter lacks: TopK of all there are; of equal values the first comes first."""
    return op.TopK(x, [x.shape[dim]], axis=dim, largest=int(descending), sorted=1)


TRANSLATED = {torch.ops.aten.sort.stable: sort}

if __name__ == "__main__":
    main()
