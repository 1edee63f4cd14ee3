"""What the peers that run ONNX graphs share: the graph, which is torch eager's forward pass as torch exports it.

The export has a process of its own. So the memory of these peers is that of somebody who has the graph already, without torch and
its exporter, while the time until the first logits has the export in it. Everything is written into a temporary folder.
May import reforg.config, and each file its own runtime. Start with `build`; `onnxruntime` and `openvino` call it.
"""

import json
import shutil
import subprocess
import sys
from collections.abc import Callable, Mapping
from dataclasses import asdict
from functools import cache
from importlib.util import find_spec
from pathlib import Path
from tempfile import mkdtemp
from typing import Any
from weakref import finalize

import numpy as np

from reforg.config import Config

EXPORTER = "reforg_torch.peer.exported"
Forward = Callable[[Any], Any]


def _need(*packages: str) -> None:
    """ImportError for the first package that is not installed; none is imported, because only the exporter uses them."""
    for package in packages:
        if find_spec(package) is None:
            raise ModuleNotFoundError(f"no package {package!r}, which exports the graph", name=package)


_need("torch", "onnx", "onnxscript")


def build(
    who: str, config: Config, weights: Mapping[str, Any], dtype: str, device: Any, load: Callable[[Path], Forward]
) -> Forward:
    """A function from images (B, C, H, W) to logits, which exports a graph for the first images of each shape.

    who: for errors. load: a function from a graph's file to the function that runs it. Raises ValueError for a dtype or a
    device that there is not, and at the first call for what torch eager refuses.
    """
    if dtype != "float32":
        raise ValueError(f"no dtype {dtype!r}; {who} has float32 only")
    if device not in (None, "cpu", "CPU"):
        raise ValueError(f"no device {device!r}; {who} has only 'cpu'")
    folder = Path(mkdtemp(prefix="reforg-onnx-"))
    settings = {"class": type(config).__name__, **asdict(config)}
    (folder / "config.json").write_text(json.dumps(settings), encoding="utf-8")
    np.savez(folder / "weights.npz", **weights)

    @cache
    def session(*shape: int) -> Forward:
        return load(exported(folder, shape))

    def run(images: Any) -> Any:
        return session(*images.shape)(images)

    finalize(run, shutil.rmtree, folder, ignore_errors=True)  # not before, because weights may be mapped from it
    return run


def exported(folder: Path, shape: tuple[int, ...]) -> Path:
    """The file of the graph for images of that shape, which did not exist. Raises ValueError in the exporter's words."""
    name = "x".join(map(str, shape)) + ".onnx"
    command = [sys.executable, "-P", "-m", EXPORTER, str(folder), name, *map(str, shape)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)  # noqa: S603 - our own interpreter
    if done.returncode:
        lines = done.stderr.strip().splitlines()
        raise ValueError(lines[-1] if lines else f"the export ended with exit code {done.returncode}")
    return folder / name
