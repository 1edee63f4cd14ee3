"""Faults planted in torch modules: what a fault is, how a faulty module is made and recorded, whether verify finds the fault."""

import re
import time
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import nn

import reforg
from reforg.catalog import synthetic

Arrays = dict[str, np.ndarray]
UNITS = {"float64": 2.0**-53, "float32": 2.0**-24, "bfloat16": 2.0**-8, "float16": 2.0**-11}  # unit roundoff
PEAK, RMS = 16, 2  # unit roundoffs of a value's size that an effect must reach to count as more than rounding


class Helper(nn.Module):
    """A module that the official code lacks: it is not recorded."""


SILENT = (nn.Dropout, nn.Identity, nn.ModuleList, Helper)


@dataclass(frozen=True)
class Family:
    """A micro model. model: its name in reforg. config: what differs from it. shape: of the images (B, C, H, W).
    build: makes the torch module of a reforg config, with weights still to come.
    """

    name: str
    model: str
    config: Mapping[str, Any]
    seed: int
    shape: tuple[int, int, int, int]
    build: Callable[[Any], nn.Module]

    def reference(self) -> reforg.Model:
        return reforg.create_model(self.model, weights=f"synthetic:{self.seed}", **self.config)

    def images(self, size: int | None = None) -> np.ndarray:
        """float32; of another height and width where a size is given."""
        shape = self.shape if size is None else (*self.shape[:2], size, size)
        return synthetic.images(shape, self.seed)

    def module(self, dtype: str) -> nn.Module:
        """With the reference's weights, for inference, in the dtype."""
        model = self.reference()
        module = self.build(model.config)
        load(module, {name: np.asarray(value) for name, value in model.weights.items()})
        return module.eval().to(getattr(torch, dtype))


FAMILIES: dict[str, Family] = {}


def register(family: Family) -> Family:
    FAMILIES[family.name] = family
    return family


def load(module: nn.Module, weights: Mapping[str, np.ndarray]) -> None:
    """Every weight, and no other; counters of batches may be absent."""
    state = {name: torch.from_numpy(value.copy()) for name, value in weights.items()}
    result = module.load_state_dict(state, strict=False)
    missing = [name for name in result.missing_keys if not name.endswith("num_batches_tracked")]
    if missing or result.unexpected_keys:
        message = f"missing {missing}, unexpected {result.unexpected_keys}"
        raise KeyError(message)


@dataclass(frozen=True)
class Fault:
    """A mistake to be planted.

    plant: changes the module in place, at a place (a block, a stage, a path; None where there is but one). name: the trace
    name under which verify should report it there. explanation: a regular expression that a right explanation matches.
    size: height and width of the images, where they are not the family's. effect: how large the fault's own effect is, in
    unit roundoffs, as (peak, root mean square); by default that of the value at `name`. pair: for two faults at once, the
    second's name and its expression.
    """

    id: str
    family: str
    label: str
    plant: Callable[[nn.Module, Any], None]
    places: tuple[Any, ...]
    name: Callable[[Any], str]
    explanation: str
    pair: tuple[str, str] | None = None
    size: int | None = None
    effect: Callable[["Fault", Any, str], tuple[float, float]] | None = None


@dataclass(frozen=True)
class Row:
    """What verify said of a fault. names: of all that it found. counts: whether the fault is larger than rounding.
    explained: whether every explanation is a right one. peak, rms: the fault's effect in unit roundoffs.
    """

    id: str
    family: str
    label: str
    place: Any
    dtype: str
    counts: bool
    peak: float
    rms: float
    found: bool
    exact: bool
    wanted: tuple[str, ...]
    names: tuple[str, ...]
    explained: bool
    explanation: str
    verdict: str
    seconds: float


def record(module: nn.Module, images: torch.Tensor) -> Arrays:
    """The output of every module that runs, in the order of execution, and the logits.

    Copied at once, because modules in place overwrite what a hook has seen. A module that runs more than once has each
    output under path@0, path@1 and the last under its path. Of a tuple, the first.
    """
    calls: list[tuple[str, np.ndarray]] = []
    handles = [
        part.register_forward_hook(lambda _part, _inputs, output, path=path: calls.append((path, copied(output))))
        for path, part in watched(module)
    ]
    with torch.no_grad():
        output = module(images)
    for handle in handles:
        handle.remove()
    return named(calls) | {"logits": copied(output)}


def watched(module: nn.Module) -> list[tuple[str, nn.Module]]:
    return [(path, part) for path, part in module.named_modules() if path and not isinstance(part, SILENT)]


def copied(output: Any) -> np.ndarray:
    """NumPy's own copy of a tensor, or of a tuple's first; bfloat16, which NumPy lacks, as float32."""
    tensor = output[0] if isinstance(output, tuple) else output
    return np.array((tensor.float() if tensor.dtype == torch.bfloat16 else tensor).detach().numpy(), copy=True)


def named(calls: list[tuple[str, np.ndarray]]) -> Arrays:
    total, so_far = Counter(path for path, _ in calls), Counter[str]()
    values: Arrays = {}
    for path, value in calls:
        if total[path] > 1:
            values[f"{path}@{so_far[path]}"] = value
        so_far[path] += 1
        if so_far[path] == total[path]:
            values[path] = value
    return values


def ran(family: Family, module: nn.Module, dtype: str, size: int | None = None) -> Arrays:
    """What a module computes of the family's images."""
    return record(module, torch.from_numpy(family.images(size)).to(getattr(torch, dtype)))


def faulty(fault: Fault, place: Any, dtype: str, double: bool = False) -> nn.Module:
    """The module with the fault; `double`: in float64 with the weights rounded to the dtype."""
    module = FAMILIES[fault.family].module(dtype)
    if double:
        module = module.double()
    fault.plant(module, place)
    return module


class Reached(Exception):
    """Not an error: the value that was wanted is there, and the forward pass can end."""


def forced(module: nn.Module, values: Mapping[str, np.ndarray], images: np.ndarray, name: str) -> np.ndarray:
    """The module's value at `name` in float64, every module before it having put out what `values` has of it."""
    calls, found = Counter[str](), []

    def replace(path: str, output: Any) -> Any:
        key = f"{path}@{calls[path]}" if f"{path}@{calls[path]}" in values else path
        calls[path] += 1
        if name in (key, path) and (key == name or f"{path}@{calls[path]}" not in values):
            found.append(copied(output))
            raise Reached
        return instead(output, values.get(key))

    handles = [
        part.register_forward_hook(lambda _part, _inputs, output, path=path: replace(path, output))
        for path, part in watched(module)
    ]
    try:
        with torch.no_grad():
            found.append(copied(module(torch.from_numpy(images).double())))
    except Reached:
        pass
    for handle in handles:
        handle.remove()
    return found[0]


def instead(output: Any, value: np.ndarray | None) -> Any:
    """A module's output with the recorded value in its place, where there is one of that shape."""
    first = output[0] if isinstance(output, tuple) else output
    if value is None or value.shape != tuple(first.shape):
        return output
    tensor = torch.from_numpy(value.astype(np.float64))
    return (tensor, *output[1:]) if isinstance(output, tuple) else tensor


def own_effect(fault: Fault, place: Any, dtype: str, name: str | None = None) -> tuple[float, float]:
    """The fault's effect on the value that should show it, given the faulty run's own values before: peak, RMS in unit roundoffs.

    Both the right and the faulty operation are computed in float64 from what the faulty run in `dtype` had.
    """
    family = FAMILIES[fault.family]
    name = fault.name(place) if name is None else name
    values = ran(family, faulty(fault, place, dtype), dtype, fault.size)
    images = torch.from_numpy(family.images(fault.size)).to(getattr(torch, dtype)).double().numpy()
    got = forced(faulty(fault, place, dtype, double=True), values, images, name)
    wanted = forced(family.module(dtype).double(), values, images, name)
    return size_of(got, wanted, UNITS[dtype])


def size_of(got: np.ndarray, wanted: np.ndarray, unit: float) -> tuple[float, float]:
    """The largest difference in units of the largest wanted value, and the same of root mean squares."""
    if got.shape != wanted.shape:
        return float("inf"), float("inf")
    error = got - wanted
    peak = np.max(np.abs(error)) / (np.max(np.abs(wanted)) * unit)
    return float(peak), float(np.sqrt(np.mean(error**2) / np.mean(wanted**2)) / unit)


def size_of_rows(got: np.ndarray, wanted: np.ndarray, unit: float) -> tuple[float, float]:
    """The same for tokens (B, N, C) in any order: each got row against the nearest wanted one."""
    if got.shape != wanted.shape:
        return float("inf"), float("inf")
    distances = np.linalg.norm(got[:, :, None] - wanted[:, None], axis=3)
    nearest = np.take_along_axis(wanted, distances.argmin(axis=2)[:, :, None], axis=1)
    return size_of(got, nearest, unit)


def exceeds(peak: float, rms: float) -> bool:
    """Whether an effect is larger than rounding."""
    return peak >= PEAK or rms >= RMS


def judged(fault: Fault, place: Any, dtype: str) -> Row:
    """What verify says of a fault at a place, run in a dtype."""
    family = FAMILIES[fault.family]
    peak, rms = (fault.effect or own_effect)(fault, place, dtype)
    values = ran(family, faulty(fault, place, dtype), dtype, fault.size)
    begun = time.perf_counter()
    report = reforg.verify(values, family.reference(), family.images(fault.size), dtype=dtype)
    seconds = time.perf_counter() - begun
    wanted = (fault.name(place), *([] if fault.pair is None else fault.pair[:1]))
    patterns = (fault.explanation, *([] if fault.pair is None else fault.pair[1:]))
    names = tuple(found.name for found in report.faults)
    told = tuple(found.explanation or "" for found in report.faults)
    explained = len(told) == len(patterns) and all(map(re.search, patterns, told))
    return Row(
        fault.id,
        fault.family,
        fault.label,
        place,
        dtype,
        exceeds(peak, rms),
        peak,
        rms,
        not report.passed,
        names[:1] == wanted[:1] and set(wanted) <= set(names),
        wanted,
        names,
        explained,
        "; ".join(told),
        report.verdict,
        seconds,
    )


def spelled(number: float) -> str:
    """0.00001 -> "1e-5"."""
    return re.sub(r"\.?0*e", "e", re.sub(r"e([+-])0*", r"e\1", f"{number:.3e}")).replace("e+", "e")
