"""What this machine is and what reforg finds on it, for `reforg --version` and for reports of bugs."""

import os
import platform
import sys
from importlib.metadata import PackageNotFoundError, version
from typing import Any

from reforg.errors import BackendError
from reforg.models.backend import check, installed, load
from reforg.version import __version__

PACKAGES = (
    "numpy", "array-api-compat", "ml-dtypes", "threadpoolctl", "pillow", "safetensors", "typer", "rich", "huggingface-hub",
    "pyarrow", "matplotlib", "torch", "jax", "cupy-cuda13x", "numba", "onnx", "onnxruntime", "onnxscript", "openvino",
)  # fmt: skip
# What changes how fast or how exactly it computes, or where weights are looked for.
VARIABLES = (
    "OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "OPENBLAS_CORETYPE", "OPENBLAS_L2_SIZE", "MKL_NUM_THREADS",
    "CUDA_VISIBLE_DEVICES", "CUPY_TF32", "JAX_PLATFORMS", "JAX_ENABLE_X64", "HF_HOME", "HF_HUB_CACHE", "HF_HUB_OFFLINE",
)  # fmt: skip


def backends() -> dict[str, str]:
    """Name -> version and, of those that cannot compute here, why not; every backend found is loaded."""
    return {name: _state(name) for name in sorted(installed())}


def _state(name: str) -> str:
    try:
        backend = load(name)
        check(backend, "float32", None)
    except BackendError as error:
        return str(error).removeprefix(f"backend {name!r} ")
    return backend.version()


def report() -> dict[str, Any]:
    """Versions, machine, backends, and the variables of the environment that matter, all as plain values."""
    return {
        "reforg": __version__,
        "python": f"{platform.python_version()} ({platform.python_implementation()}, {sys.platform})",
        "machine": f"{platform.machine()}, {_processor()}, {len(os.sched_getaffinity(0)) if _counts() else os.cpu_count()} cores",
        "system": platform.platform(),
        "blas": _blas(),
        "backends": backends(),
        "packages": {name: found for name in PACKAGES if (found := _version(name))},
        "environment": {name: os.environ[name] for name in VARIABLES if name in os.environ},
    }


def _counts() -> bool:
    return hasattr(os, "sched_getaffinity")


def _version(package: str) -> str | None:
    try:
        return version(package)
    except PackageNotFoundError:
        return None


def _processor() -> str:
    """The processor's own name, where the system tells it."""
    try:
        with open("/proc/cpuinfo", encoding="utf-8") as file:  # noqa: PTH123 - one line of a system file
            return next((line.partition(":")[2].strip() for line in file if line.startswith("model name")), "unknown processor")
    except OSError:
        return platform.processor() or "unknown processor"


def _blas() -> str:
    """What NumPy multiplies matrices with."""
    import numpy as np

    told: Any = np.show_config(mode="dicts")
    blas = told.get("Build Dependencies", {}).get("blas", {})
    return f"{blas.get('name', 'unknown')} {blas.get('version', '')}".strip()
