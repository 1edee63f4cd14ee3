"""The peer onnxruntime: torch eager's graph, run on the CPU with all of onnxruntime's optimizations, as by default."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import onnxruntime

from reforg.config import Config
from reforg_onnx import peer

name = "onnxruntime"
ERRORS = 3  # the log level that leaves out warnings


def version() -> str:
    """The version of onnxruntime."""
    return f"onnxruntime {onnxruntime.__version__}"


def build(config: Config, weights: Mapping[str, Any], dtype: str, device: Any, threads: int | None) -> peer.Forward:
    """A function from images (B, C, H, W) to logits (B, num_classes), both NumPy arrays of float32.

    threads: within an operation; None for as many as there are cores. Raises ValueError, see `reforg_onnx.peer.build`.
    """

    def load(path: Path) -> peer.Forward:
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = threads or 0
        options.log_severity_level = ERRORS
        session = onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])
        (given,) = session.get_inputs()
        return lambda images: session.run(None, {given.name: images})[0]

    return peer.build(name, config, weights, dtype, device, load)
