"""Records what every module of a torch model puts out, under its path.

`reforg.verification.candidate.recording` says what a recorder is.
"""

import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, nullcontext
from typing import Any

import ml_dtypes
import numpy as np
import torch

Values = np.ndarray[Any, np.dtype[Any]]
OUTPUT = "logits"  # the name of what the whole model returns
COMPILED = "_orig_mod"  # under which torch.compile keeps the module; compiled code need not heed hooks
# Classes that do nothing when a model is evaluated, by the end of their names; a trace has no entry for them.
IDLE = re.compile(r"(Dropout[123]?d?|DropPath|Identity|StochasticDepth)$")


def matches(candidate: Any) -> bool:
    """Whether it is a module, which this recorder records."""
    return isinstance(candidate, torch.nn.Module)


def record(candidate: torch.nn.Module, images: Any, autocast: str | None = None) -> dict[str, Values]:
    """NumPy images (B, C, H, W) -> path -> output of every module that ran, in the order of execution, and "logits".

    Recorded in eval mode and without gradients; the module is left as it was. Of a tuple or a mapping, its first tensor.
    A module that ran several times has each output under path@0, path@1, and the last one under its path as well.
    autocast: the name of torch's dtype in which torch.autocast runs it. What the module raises is passed on.
    """
    module = getattr(candidate, COMPILED, candidate)
    place, kind = _parameters_of(module)
    batch = torch.from_numpy(np.array(images)).to(device=place, dtype=kind)
    mixed = nullcontext() if autocast is None else torch.autocast(place.type, getattr(torch, autocast))
    run = Run()
    with _hooked(module, run), _evaluated(module), torch.no_grad(), mixed:
        output = module(batch)
    logits = output.get(OUTPUT) if isinstance(output, Mapping) else _first(output)
    return run.values() if logits is None else run.values() | {OUTPUT: _copied(logits)}


def _parameters_of(module: torch.nn.Module) -> tuple[torch.device, torch.dtype]:
    """Where a module's first floating parameter or buffer lies, and its dtype."""
    for tensor in (*module.parameters(), *module.buffers()):
        if tensor.is_floating_point():
            return tensor.device, tensor.dtype
    return torch.get_default_device(), torch.get_default_dtype()


@contextmanager
def _evaluated(module: torch.nn.Module) -> Iterator[None]:
    """In eval mode; afterwards every module is in the mode that it had."""
    modes = [(part, part.training) for part in module.modules()]
    module.eval()
    try:
        yield
    finally:
        for part, mode in modes:
            part.training = mode


@contextmanager
def _hooked(module: torch.nn.Module, run: "Run") -> Iterator[None]:
    """With hooks on every module but the whole one, which tell `run` what happens; afterwards without them."""
    paths: dict[torch.nn.Module, list[str]] = {}
    for path, part in module.named_modules(remove_duplicate=False):
        if path and not _is_idle(part):
            paths.setdefault(part, []).append(path)
    hooks = []
    for part, names in paths.items():
        hooks.append(part.register_forward_pre_hook(lambda *_, names=names: run.enter(names)))
        hooks.append(part.register_forward_hook(lambda _part, _given, output: run.leave(output)))
    try:
        yield
    finally:
        for hook in hooks:
            hook.remove()


def _is_idle(module: torch.nn.Module) -> bool:
    return IDLE.search(type(module).__name__) is not None and next(module.parameters(), None) is None


class Run:
    """What happens in one forward pass: which modules are running, and what each has put out."""

    def __init__(self) -> None:
        self.running: list[str] = []
        self.outputs: dict[str, list[Values]] = {}

    def enter(self, paths: list[str]) -> None:
        """A module starts; of its several paths, as one GELU for all blocks has, that within the module that calls it."""
        caller = next(reversed(self.running), "")
        self.running.append(next((path for path in paths if path.startswith(f"{caller}.")), paths[0]))

    def leave(self, output: Any) -> None:
        """A module has ended: its output is copied at once, because an in-place operation may overwrite it."""
        path, tensor = self.running.pop(), _first(output)
        if tensor is not None:
            self.outputs.setdefault(path, []).append(_copied(tensor))

    def values(self) -> dict[str, Values]:
        """Every output under its name."""
        found: dict[str, Values] = {}
        for path, outputs in self.outputs.items():
            if len(outputs) > 1:
                found |= {f"{path}@{number}": output for number, output in enumerate(outputs)}
            found[path] = outputs[-1]
        return found


def _first(output: Any) -> torch.Tensor | None:
    """The first tensor of what a module returned; None where there is none."""
    if isinstance(output, torch.Tensor):
        return output
    inside = output.values() if isinstance(output, Mapping) else output if isinstance(output, list | tuple) else ()
    return next((tensor for tensor in map(_first, inside) if tensor is not None), None)


def _copied(tensor: torch.Tensor) -> Values:
    """A copy on the host, in the dtype that the tensor has."""
    tensor = tensor.detach().to("cpu", copy=True).contiguous()
    if tensor.dtype == torch.bfloat16:  # which torch and NumPy do not exchange, but by its bits
        bits: Values = tensor.view(torch.int16).numpy()
        return bits.view(ml_dtypes.bfloat16)
    values: Values = tensor.numpy()
    return values
