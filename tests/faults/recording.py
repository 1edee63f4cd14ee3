"""What the modules of a torch model return, by their paths."""

from collections import Counter
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

SILENT = (nn.Dropout, nn.Identity, nn.ModuleList)
DTYPES = {"float64": torch.float64, "float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}
AUTOCAST = "autocast-"


def record(module: nn.Module, images: np.ndarray[Any, Any], dtype: str = "float64", copies: bool = True) -> dict[str, Any]:
    """[B, 3, H, W] -> name -> array, in the order in which the modules ended; "logits" last.

    The module is brought to the dtype; "autocast-bfloat16" leaves weights and images in float32. A path called more than once has
    path@0, path@1, and path for the last one. copies: whether a hook copies what it sees, which an in-place module may overwrite.
    """
    module.to(DTYPES[dtype] if dtype in DTYPES else torch.float32).eval()
    calls: list[tuple[str, Tensor]] = []
    hooks = [part.register_forward_hook(_keeper(calls, path, copies)) for path, part in _audible(module)]
    batch = torch.tensor(images, dtype=next(module.parameters()).dtype)
    try:
        with torch.no_grad(), _casting(dtype):
            logits = module(batch)
    finally:
        for hook in hooks:
            hook.remove()
    return _named(calls) | {"logits": _array(logits)}


def _audible(module: nn.Module) -> list[tuple[str, nn.Module]]:
    return [(path, part) for path, part in module.named_modules() if path and not isinstance(part, SILENT)]


def _keeper(calls: list[tuple[str, Tensor]], path: str, copies: bool) -> Any:
    def keep(_module: nn.Module, _inputs: Any, output: Any) -> None:
        value = output[0] if isinstance(output, tuple) else output
        calls.append((path, value.clone() if copies else value))

    return keep


def _casting(dtype: str) -> Any:
    kind = DTYPES[dtype.removeprefix(AUTOCAST)]
    return torch.autocast("cpu", kind, enabled=dtype.startswith(AUTOCAST))


def _named(calls: list[tuple[str, Tensor]]) -> dict[str, Any]:
    """Values by name; a path that was called more than once stands right after the last of its numbered ones."""
    totals, seen = Counter(path for path, _ in calls), Counter[str]()
    named: dict[str, Any] = {}
    for path, value in calls:
        array = _array(value)
        if totals[path] > 1:
            named[f"{path}@{seen[path]}"] = array
        seen[path] += 1
        if seen[path] == totals[path]:
            named[path] = array
    return named


def _array(value: Tensor) -> Any:
    """NumPy has no bfloat16: that becomes float32, which holds all of it."""
    return (value.float() if value.dtype == torch.bfloat16 else value).numpy().copy()
