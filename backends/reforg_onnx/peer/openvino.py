"""The peer openvino: torch eager's graph, compiled by OpenVINO for the CPU."""

import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from reforg.config import Config
from reforg_onnx import peer

# Left to itself, importing it forks a process that tells Intel so over the network. Without this package it does neither.
sys.modules.setdefault("openvino_telemetry", None)  # type: ignore[arg-type]
import openvino  # noqa: E402

name = "openvino"
HINTS = {
    "INFERENCE_PRECISION_HINT": "f32",  # which would be bfloat16 where the processor has it
    # All threads for one batch. THROUGHPUT computes as many batches at once as there are cores, one thread each, and takes twice
    # as long on two cores (measured: 310 ms for 175 with DeiT-S, 439 for 231 with Shunted-S) where one comes after the other.
    "PERFORMANCE_HINT": "LATENCY",
}


def version() -> str:
    """OpenVINO's version."""
    return f"openvino {openvino.__version__.partition('-')[0]}"


def build(config: Config, weights: Mapping[str, Any], dtype: str, device: Any, threads: int | None) -> peer.Forward:
    """A function from images (B, C, H, W) to logits (B, num_classes), both NumPy arrays of float32.

    The logits are OpenVINO's own memory, which its next call overwrites. threads: None for OpenVINO's choice. Raises
    ValueError, see `reforg_onnx.peer.build`.
    """
    hints = HINTS if threads is None else HINTS | {"INFERENCE_NUM_THREADS": str(threads)}

    def load(path: Path) -> peer.Forward:
        core = openvino.Core()
        request = core.compile_model(core.read_model(path), "CPU", hints).create_infer_request()
        return lambda images: request.infer([images], share_inputs=True, share_outputs=True)[0]

    return peer.build(name, config, weights, dtype, device, load)
