"""What a torch module computes on its way, and how it is held against a trace of reforg."""

import math
import os
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from timm.layers import DropPath
from torch import nn
from torch.overrides import TorchFunctionMode

SILENT = (nn.Dropout, nn.Identity, DropPath)  # nothing happens in them, so a trace has no entry for them
DOUBLE = 1e-10  # of a tensor's largest value: float64 through a few blocks, summed in another order
Arrays = dict[str, np.ndarray]


@dataclass
class Tally:
    """How many tensors were compared in float64 throughout, and the worst share of a largest value by which one was off."""

    tensors: int = 0
    worst: float = 0.0
    where: str = ""
    rounded: int = 0  # compared with what others compute in float32 on the way; not in `worst`

    def note(self, name: str, off: float, limit: float) -> None:
        if limit > DOUBLE:
            self.rounded += 1
            return
        self.tensors += 1
        if off > self.worst:
            test = os.environ.get("PYTEST_CURRENT_TEST", "").rpartition("::")[2].removesuffix(" (call)")
            self.worst, self.where = off, f"{name} in {test}"


TALLY = Tally()


def randomised(module: nn.Module, seed: int) -> nn.Module:
    """The module in float64, for inference, with every weight and statistic drawn anew; nothing stays at 0 or 1."""
    generator = torch.Generator().manual_seed(seed)
    for name, tensor in module.double().eval().state_dict().items():
        noise = torch.randn(tensor.shape, generator=generator, dtype=torch.float64)
        if name.endswith("running_var"):
            tensor.copy_(0.5 + noise.square())
        elif tensor.is_floating_point():
            tensor.copy_(noise / math.sqrt(math.prod(tensor.shape[1:])) if name.endswith("weight") else noise)
    return module


def weights_of(module: nn.Module) -> Arrays:
    return {name: tensor.numpy() for name, tensor in module.state_dict().items()}


def shapes_of(module: nn.Module) -> dict[str, tuple[int, ...]]:
    return {name: tuple(tensor.shape) for name, tensor in module.state_dict().items() if tensor.ndim}


def random_images(seed: int, *shape: int) -> torch.Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def record(module: nn.Module, images: torch.Tensor, **arguments: Any) -> Arrays:
    """The output of every module that is called, in the order of execution, and the logits.

    Outputs are copied at once, because modules in place overwrite them. A module that is called more than once has each
    call under `path@0`, `path@1` and the last under its path.
    """
    calls: list[tuple[str, np.ndarray]] = []

    def hook(path: str) -> Callable[..., None]:
        def copy(module: nn.Module, inputs: Any, output: Any) -> None:
            first = output[0] if isinstance(output, tuple) else output
            calls.append((path, to_numpy(first).copy()))

        return copy

    watched = [(path, child) for path, child in module.named_modules() if path and not isinstance(child, SILENT)]
    handles = [child.register_forward_hook(hook(path)) for path, child in watched]
    with torch.no_grad():
        logits = module(images, **arguments)
    for handle in handles:
        handle.remove()
    return named(calls) | {"logits": to_numpy(logits)}


def to_numpy(tensor: torch.Tensor) -> np.ndarray:
    """bfloat16, which NumPy lacks, as float32."""
    return (tensor.float() if tensor.dtype == torch.bfloat16 else tensor).numpy()


class Attentions(TorchFunctionMode):
    """What goes into and comes out of each softmax, and of the product that follows it, in timm's attention that is not fused."""

    def __init__(self) -> None:
        super().__init__()
        self.steps: list[Arrays] = []
        self.open = False

    def __torch_function__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = function(*args, **(kwargs or {}))
        if function is torch.Tensor.softmax:
            self.steps.append({"scores": to_numpy(args[0]).copy(), "probs": to_numpy(result).copy()})
            self.open = True
        elif self.open and function in (torch.Tensor.matmul, torch.Tensor.__matmul__):
            self.steps[-1]["context"] = to_numpy(result).copy()
            self.open = False
        return result


def attention_of_timm(module: nn.Module, images: torch.Tensor) -> Arrays:
    """`embedded`, and each attention's scores, probabilities, context and class attention, under the names of a trace."""
    for block in module.blocks:
        block.attn.fused_attn = False
    embedded: list[np.ndarray] = []
    module.blocks[0].register_forward_pre_hook(lambda block, inputs: embedded.append(to_numpy(inputs[0]).copy()))
    with torch.no_grad(), Attentions() as watch:
        module(images)
    found = {"embedded": embedded[0]}
    for number, step in enumerate(watch.steps):
        step["cls_attention"] = step["probs"][:, :, 0, module.num_prefix_tokens :].mean(axis=1)
        found |= {f"blocks.{number}.attn.{what}": value for what, value in step.items()}
    return found


def named(calls: list[tuple[str, np.ndarray]]) -> Arrays:
    total, so_far = Counter(path for path, _ in calls), Counter[str]()
    taps: Arrays = {}
    for path, value in calls:
        if total[path] > 1:
            taps[f"{path}@{so_far[path]}"] = value
        so_far[path] += 1
        if so_far[path] == total[path]:
            taps[path] = value
    return taps


def disagreements(got: Mapping[str, np.ndarray], wanted: Mapping[str, np.ndarray], limit: float = DOUBLE) -> dict[str, str]:
    """Name -> what is wrong, for every wanted tensor that `got` lacks or has otherwise; empty where all is well."""
    found = {name: disagreement(got[name], value, limit, name) if name in got else "missing" for name, value in wanted.items()}
    return {name: reason for name, reason in found.items() if reason}


def disagreement(got: np.ndarray, wanted: np.ndarray, limit: float = DOUBLE, name: str = "a result") -> str:
    """Why the two are not equal to `limit` times the largest value; an empty text where they are."""
    if got.shape != wanted.shape:
        return f"shape {got.shape} instead of {wanted.shape}"
    worst, largest = float(np.max(np.abs(got - wanted))), float(np.max(np.abs(wanted)))
    TALLY.note(name, worst / (largest or 1.0), limit)
    return "" if worst <= limit * largest else f"off by {worst:.2e}, largest value {largest:.2e}"
