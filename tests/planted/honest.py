"""Honest programs held against verify: how often it is wrong about them, and how small an error it finds in them.

python tests/planted/honest.py [--models N] [--first SEED] [--dtype D]... [--engine E]... [--keep SHARE] [--power N]

Random models of every family are computed by torch, by torch under autocast and with operands rounded as TF32 does, by NumPy, by
JAX under jit, by onnxruntime, and by sums taken one term after the other. No report may name a fault: one that does is printed, and
the exit code is 1. With --keep, verify gets a random share of the values, and the logits. The first table tells the largest share
of a limit that an honest value takes, by dtype and kind of operation.
With --power, the second tells from how large a relative error on one is found: in one element, in units of the root mean square
of the operation's output, and in all elements, multiplied by 1 + error.
"""

import argparse
import math
import random
import sys
import tempfile
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import ExitStack
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import planting
import torch
import vit_modules
from shunted_faults import build as build_shunted
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

import reforg
from reforg import shunted, vit
from reforg.catalog import synthetic
from reforg.config import ShuntedConfig
from reforg.errors import ReforgError
from reforg.ops import REFERENCE, Ops, Recorder, untraced

sys.path.insert(0, str(Path(__file__).parent.parent / "tools"))
from onnx_files import export  # it lies in the folder of tools

Arrays = dict[str, Any]
ENGINES = {  # in turn, from model to model
    "float64": ("torch", "sequential", "bias first"),
    "float32": ("torch", "numpy", "sequential", "torch", "jax", "bias first", "sequential", "torch", "bias first", "onnx"),
    "tf32": ("tf32 to nearest", "tf32 truncated"),
    "bfloat16": ("torch",),
    "float16": ("torch",),
    "autocast-bfloat16": ("torch",),
    "autocast-float16": ("torch",),
}
NAMES = {
    "vit": "vit_small_patch16_224", "evit": "evit_small_patch16_224", "deit3": "deit3_small_patch16_224",
    "distilled": "deit_small_distilled_patch16_224", "parallel": "deit_small_patch16_18x2", "hmlp": "deit3_small_patch16_224",
    "shunted": "shunted_t",
}  # fmt: skip
PROBED = ("distilled", "evit", "hmlp", "shunted")  # which have every kind of operation between them
STEPS = 10  # of a bisection over RANGE, which leave it uncertain by a twentieth
RANGE = (-18.0, 6.0)  # powers of 10


@dataclass(frozen=True)
class Case:
    """A random model, the images (B, C, H, W) that it gets, and the seed of both."""

    seed: int
    family: str
    model: reforg.Model
    images: np.ndarray

    def module(self, dtype: str) -> nn.Module:
        """In torch, with the weights in the dtype, or in float32 where torch rounds by itself."""
        config = self.model.config
        module = build_shunted(config) if isinstance(config, ShuntedConfig) else vit_modules.VisionTransformer(config)
        planting.load(module, {name: np.asarray(value) for name, value in self.model.weights.items()})
        return module.eval().to(getattr(torch, dtype, torch.float32))


def case(seed: int, family: str | None = None) -> Case:
    """Random sizes, options and weights of one of the families."""
    chance = random.Random(seed)
    family = family or chance.choice(sorted(NAMES))
    config, shape = sizes(chance, family)
    plain = reforg.create_model(NAMES[family], weights=f"synthetic:{seed}", dtype="float64", ops="reference", **config)
    weights = varied(chance, {name: np.asarray(value) for name, value in plain.weights.items()})
    model = reforg.create_model(NAMES[family], weights=weights, dtype="float64", ops="reference", **config)
    return Case(seed, family, model, synthetic.images(shape, seed) * np.float32(chance.choice((1, 1, 3))))


def sizes(chance: random.Random, family: str) -> tuple[dict[str, Any], tuple[int, ...]]:
    """A config, and the shape of the images."""
    batch = chance.randint(1, 3)
    if family == "shunted":
        widths = chance.choice([(16, 16, 32, 32), (32, 16, 32, 64)])
        config = {
            "num_classes": 5, "embed_dims": widths, "num_heads": chance.choice([(2, 2, 4, 4), (2, 4, 2, 8)]),
            "mlp_ratios": (2, 2, 2, 2), "depths": (1, 2, 1, 1), "sr_ratios": chance.choice([(8, 4, 2, 1), (4, 2, 2, 1)]),
            "num_conv": chance.choice((0, 1, 2)),
        }  # fmt: skip
        return config, (batch, 3, 64, chance.choice((64, 96)))
    heads, depth, patch = chance.randint(1, 4), chance.randint(2, 5), 16 if family == "hmlp" else 4
    size = (patch * chance.randint(3, 7), patch * chance.randint(3, 7))
    config = {
        "img_size": size, "patch_size": patch, "num_classes": chance.choice((5, 10)), "depth": depth, "num_heads": heads,
        "embed_dim": heads * chance.choice((8, 16, 32)), "mlp_ratio": chance.choice((2.0, 4.0)), "qkv_bias": chance.random() < 0.8,
    }  # fmt: skip
    if family == "hmlp":
        config["stem"] = "hmlp"
    if family in ("evit", "distilled", "parallel"):
        places = tuple(sorted(chance.sample(range(depth), min(2, depth))))
        config |= {"keep_rate": round(chance.uniform(0.3, 0.95), 2), "drop_loc": places, "fuse_token": chance.random() < 0.5}
    return config, (batch, 3, *size)


def varied(chance: random.Random, weights: Arrays) -> Arrays:
    """For two models of three, weights as training leaves them: of unequal size, some channels and biases far larger."""
    if chance.random() < 1 / 3:
        return weights
    draw, found = np.random.default_rng(chance.randrange(2**32)), {}
    for name, value in weights.items():
        scaled = value if name.endswith("running_var") else value * np.exp(draw.normal(0, 0.4))
        if value.ndim and draw.random() < 0.1:
            scaled = scaled.copy()
            scaled[draw.integers(len(value))] *= 10
        large = name.endswith(".bias") and draw.random() < 0.1
        found[name] = np.asarray(scaled * (30 if large else 1), np.float32)
    return found


# What computes a case ---------------------------------------------------------------------------------------------------------


class OperandsRounded(TorchFunctionMode):
    """What products and convolutions read has 11 bits, as the tensor cores of a GPU have it: rounded to nearest, or cut off."""

    PRODUCTS = ("linear", "conv2d", "matmul", "__matmul__", "einsum")

    def __init__(self, truncated: bool) -> None:
        super().__init__()
        self.truncated = truncated

    def __torch_function__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if getattr(function, "__name__", "") in self.PRODUCTS:
            args = tuple(
                self.shorter(part) if number < 2 and isinstance(part, Tensor) else part for number, part in enumerate(args)
            )
        return function(*args, **(kwargs or {}))

    def shorter(self, x: Tensor) -> Tensor:
        """float32 with the 13 last bits of its significand zero."""
        bits = x.detach().contiguous().view(torch.int32)
        half = 0 if self.truncated else 0x0FFF + ((bits >> 13) & 1)
        return ((bits + half) & ~0x1FFF).view(torch.float32)


def rounding_of(engine: str, dtype: str) -> ExitStack:
    """The contexts in which torch computes as a dtype has it."""
    stack = ExitStack()
    if dtype.startswith("autocast-"):
        stack.enter_context(torch.autocast("cpu", getattr(torch, dtype.removeprefix("autocast-"))))
    if dtype == "tf32":
        stack.enter_context(OperandsRounded(engine.endswith("truncated")))
    return stack


def by_torch(one: Case, engine: str, dtype: str, change: tuple[str, Callable[[Tensor], Tensor]] | None = None) -> Arrays:
    """Every module's output. change: the path of a module whose output is changed, and how."""
    module = one.module(dtype)
    images = torch.from_numpy(one.images).to(next(module.parameters()).dtype)
    if change is not None:
        path, function = change
        module.get_submodule(path).register_forward_hook(lambda _part, _given, output: function(output))
    with rounding_of(engine, dtype):
        return planting.record(module, images)


def by_reference(one: Case, ops: Ops, kind: Any, wrap: Callable[[Any], Any] = lambda function: function) -> Arrays:
    """The trace of the reference's source in a dtype with other operations. wrap: what compiles it."""
    forward: Any = shunted.forward if isinstance(one.model.config, ShuntedConfig) else vit.forward

    def traced(weights: Any, images: Any) -> Arrays:
        recorder = Recorder(None)
        forward(weights, images, one.model.config, ops, recorder)
        return recorder.values

    weights = {name: np.asarray(value, kind) for name, value in one.model.weights.items()}
    values = {name: np.asarray(value) for name, value in wrap(traced)(weights, one.images.astype(kind)).items()}
    return values if one.seed % 2 else {name: value for name, value in values.items() if has_module(name)}


def by_jax(one: Case) -> Arrays:
    import jax

    def compiled(function: Any) -> Any:
        return lambda weights, images: jax.jit(function)(*jax.tree.map(jax.numpy.asarray, (weights, images)))

    return by_reference(one, REFERENCE, np.float32, compiled)


def exported(one: Case, folder: Path) -> Path:
    """The case's module as an ONNX file."""
    return export.export(one.module("float32"), one.images, folder / f"{one.seed}.onnx", "torchscript")


def candidate(one: Case, engine: str, dtype: str, folder: Path) -> Any:
    """What verify gets."""
    if engine == "numpy":
        return by_reference(one, REFERENCE, np.float32)
    if engine in ("sequential", "bias first"):
        return by_reference(one, sequential(engine == "bias first"), np.dtype(dtype))
    if engine == "jax":
        return by_jax(one)
    return exported(one, folder) if engine == "onnx" else by_torch(one, engine, dtype)


def has_module(name: str) -> bool:
    """Whether a forward hook of the official program sees the value."""
    inner = ("embedded", "attended", "reorganized", "kept", "scores", "probs", "context", "cls_attention")
    return name.rpartition(".")[2] not in inner and ".ls" not in name


# Sums taken one term after the other, the worst order there is ------------------------------------------------------------------


def added(terms: np.ndarray, axis: int) -> np.ndarray:
    """The sum over an axis, every partial sum rounded."""
    return np.take(np.add.accumulate(terms, axis=axis, dtype=terms.dtype), [-1], axis=axis)


def linear(x: np.ndarray, weight: np.ndarray, bias: np.ndarray | None = None, first: bool = False) -> np.ndarray:
    return biased(x[..., None, :] * weight, bias, first)


def biased(terms: np.ndarray, bias: np.ndarray | None, first: bool) -> np.ndarray:
    """[..., O, K] -> [..., O], the terms' sums plus the bias; first: the bias is what the sums start from."""
    if bias is None or not first:
        y = added(terms, -1)[..., 0]
        return y if bias is None else y + bias
    return added(np.concatenate([np.broadcast_to(bias[:, None], (*terms.shape[:-1], 1)), terms], axis=-1), -1)[..., 0]


def windows(x: np.ndarray, size: tuple[int, ...], stride: int, padding: int) -> np.ndarray:
    """[B, C, H, W] -> [B, H', W', C, kh, kw]."""
    padded = np.pad(x, ((0, 0), (0, 0), (padding, padding), (padding, padding)))
    found = np.lib.stride_tricks.sliding_window_view(padded, size, axis=(2, 3))[:, :, ::stride, ::stride]
    return found.transpose(0, 2, 3, 1, 4, 5)


def conv2d(
    x: np.ndarray, weight: np.ndarray, bias: np.ndarray | None = None, stride: int = 1, padding: int = 0, first: bool = False
) -> np.ndarray:
    patches = windows(x, weight.shape[2:], stride, padding)
    y = [linear(image.reshape(*image.shape[:2], -1), weight.reshape(len(weight), -1), bias, first) for image in patches]
    return np.stack(y).transpose(0, 3, 1, 2)


def depthwise_conv2d(
    x: np.ndarray, weight: np.ndarray, bias: np.ndarray | None = None, padding: int = 1, first: bool = False
) -> np.ndarray:
    terms = windows(x, weight.shape[2:], 1, padding) * weight[:, 0]
    return biased(terms.reshape(*terms.shape[:4], -1), bias, first).transpose(0, 3, 1, 2)


def layer_norm(x: np.ndarray, weight: np.ndarray, bias: np.ndarray, eps: float) -> np.ndarray:
    """The variance as E[x^2] - E[x]^2, in one pass."""
    kind, count = x.dtype.type, x.dtype.type(x.shape[-1])
    mean = added(x, -1) / count
    variance = np.maximum(added(x * x, -1) / count - mean * mean, kind(0))
    return (x - mean) * (kind(1) / np.sqrt(variance + kind(eps))) * weight + bias


def softmax(x: np.ndarray) -> np.ndarray:
    powers = np.exp(x - x.max(axis=-1, keepdims=True))
    return powers / added(powers, -1)


def attention(queries: np.ndarray, keys: np.ndarray, values: np.ndarray, scale: float, trace: Any = untraced) -> Any:
    scores = trace("scores", added(queries[..., None, :] * keys[..., None, :, :], -1)[..., 0] * queries.dtype.type(scale))
    probabilities = trace("probs", softmax(scores))
    products = probabilities[..., None] * values[..., None, :, :]
    return trace("context", added(products, -2)[..., 0, :]), probabilities


def sequential(first: bool) -> Ops:
    """The reference's operations with such sums, which end with the bias or start from it."""
    products = {"linear": linear, "conv2d": conv2d, "depthwise_conv2d": depthwise_conv2d}
    others = {"layer_norm": layer_norm, "softmax": softmax, "attention": attention}
    return REFERENCE.replaced("sequential", others | {name: partial(step, first=first) for name, step in products.items()})


# False alarms -------------------------------------------------------------------------------------------------------------------


def kind_of(name: str, one: Case, names: Iterable[str]) -> str:
    """The operation that makes a value, and those that no value stands between."""
    path, leaf, weights = name.partition("@")[0], name.rpartition(".")[2].partition("@")[0], one.model.weights
    weight = weights.get(f"{path}.weight")
    if leaf == "proj" and ".attn" in path:
        return "linear" if any(other.endswith(".context") for other in names) else "attention, linear"
    if f"{path}.running_var" in weights:
        return "batch norm"
    if weight is not None and weight.ndim == 4:
        return "depthwise" if weight.shape[1] == 1 else "convolution"
    if weight is not None:
        return "linear" if weight.ndim == 2 else "layer norm"
    if path.startswith(("patch_embed1.conv.", "patch_embed.proj.")):
        return "relu" if path.startswith("patch_embed1") else "gelu"
    if leaf == "act":
        return "gelu"
    return (
        leaf if leaf in ("scores", "probs", "context", "cls_attention", "reorganized", "embedded", "logits") else "sums and others"
    )


@dataclass
class Tally:
    """Of one dtype: models looked at, those that overflowed or could not be exported, those with a fault, values, worst shares."""

    models: int = 0
    left_out: int = 0
    alarms: int = 0
    values: int = 0
    seconds: float = 0.0
    shares: dict[str, tuple[float, str]] = field(default_factory=dict)

    def add(self, one: Case, engine: str, report: reforg.Report) -> None:
        self.models += 1
        self.values += len(report.differences)
        names = [difference.name for difference in report.differences]
        for difference in report.differences:
            share = difference.worst / difference.limit if difference.limit else math.inf if difference.worst else 0.0
            kind = kind_of(difference.name, one, names)
            if share >= self.shares.get(kind, (0.0, ""))[0]:
                self.shares[kind] = share, f"{difference.name}, {one.family} {one.seed}, {engine}"
        self.alarms += not report.passed


def alarms(dtype: str, seeds: Iterable[int], engines: Iterable[str], keep: float) -> Tally:
    """Verify models of a dtype that have no fault; tell of those that it finds one in."""
    tally, wanted = Tally(), set(engines)
    with tempfile.TemporaryDirectory() as folder:
        for seed in seeds:
            engine = ENGINES[dtype][seed % len(ENGINES[dtype])]
            if not wanted or engine in wanted:
                examined(tally, case(seed), engine, dtype, Path(folder), keep)
    return tally


def examined(tally: Tally, one: Case, engine: str, dtype: str, folder: Path, keep: float) -> None:
    values = candidate(one, engine, dtype, folder)
    if isinstance(values, Mapping):
        if not all(np.all(np.isfinite(value)) for value in values.values()):
            tally.left_out += 1
            return
        chance = random.Random(one.seed)
        values = {name: value for name, value in values.items() if name == "logits" or chance.random() < keep}
    begun = time.perf_counter()
    try:
        report = reforg.verify(values, one.model, one.images, dtype=dtype)
    except ReforgError as error:
        tally.left_out += 1
        print(f"{dtype} {engine} {one.family} {one.seed}: {type(error).__name__}: {error}", flush=True)
        return
    tally.seconds += time.perf_counter() - begun
    tally.add(one, engine, report)
    for fault in report.faults:
        print(f"FALSE ALARM {dtype} {engine} {one.family} {one.seed}: {fault}", flush=True)


# The power to find ---------------------------------------------------------------------------------------------------------------


def one_element(place: int, size: float) -> Callable[[Tensor], Tensor]:
    """One element off by `size` times the root mean square of all."""

    def change(x: Tensor) -> Tensor:
        y = x.double().flatten()
        y[place % y.numel()] += size * x.double().square().mean().sqrt()
        return y.view(x.shape).to(x.dtype)

    return change


def every_element(_place: int, size: float) -> Callable[[Tensor], Tensor]:
    return lambda x: (x.double() * (1 + size)).to(x.dtype)


def least(one: Case, engine: str, dtype: str, path: str, make: Callable[[int, float], Any], place: int) -> float:
    """The smallest error of a module's output that is found; infinity where none is."""
    low, high = RANGE
    for _ in range(STEPS):
        middle = (low + high) / 2
        values = by_torch(one, engine, dtype, (path, make(place, 10**middle)))
        if reforg.verify(values, one.model, one.images, dtype=dtype).passed:
            low = middle
        else:
            high = middle
    return math.inf if high == RANGE[1] else 10**high


def probes(one: Case, chance: random.Random) -> Iterator[tuple[str, str]]:
    """A kind of operation and a module for it, once for each kind."""
    module = one.module("float32")
    names = [path for path, part in planting.watched(module) if not isinstance(part, nn.Sequential)]
    chance.shuffle(names)
    found: dict[str, str] = {}
    outputs = by_torch(one, "", "float32")
    for path in names:
        if path in outputs and not isinstance(module.get_submodule(path), vit_modules.Attention | vit_modules.PatchEmbed):
            found.setdefault(kind_of(path, one, ()), path)
    yield from found.items()


def power(dtype: str, seeds: Iterable[int]) -> dict[str, list[tuple[float, float]]]:
    """Kind of operation -> for each module tried the least error found, in one element and in all."""
    found: dict[str, list[tuple[float, float]]] = {}
    for seed in seeds:
        one, chance = case(seed, PROBED[seed % len(PROBED)]), random.Random(seed)
        engine = ENGINES[dtype][seed % len(ENGINES[dtype])] if dtype == "tf32" else "torch"
        for kind, path in probes(one, chance):
            place = chance.randrange(10**9)
            pair = least(one, engine, dtype, path, one_element, place), least(one, engine, dtype, path, every_element, place)
            found.setdefault(kind, []).append(pair)
    return found


# Tables --------------------------------------------------------------------------------------------------------------------------


def table(title: str, columns: list[str], cells: Mapping[tuple[str, str], str]) -> str:
    kinds = list(dict.fromkeys(kind for kind, _ in cells))
    rows = [[title, *columns], ["---"] * (1 + len(columns))]
    rows += [[kind, *(cells.get((kind, column), "") for column in columns)] for kind in sorted(kinds)]
    widths = [max(len(row[number]) for row in rows) for number in range(len(rows[0]))]
    return "\n".join("| " + " | ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)) + " |" for row in rows)


def geometric(numbers: list[float]) -> float:
    return math.exp(sum(map(math.log, numbers)) / len(numbers))


def parsed() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--models", type=int, default=200, help="of each dtype")
    parser.add_argument("--keep", type=float, default=1.0, metavar="SHARE", help="of the values, for verify; 1 by default")
    parser.add_argument("--first", type=int, default=0, help="the first model's seed")
    parser.add_argument("--dtype", action="append", choices=ENGINES)
    parser.add_argument("--engine", action="append", default=[], help="only what this one computes")
    parser.add_argument(
        "--power",
        type=int,
        default=0,
        metavar="N",
        help="also the least errors found, in N models of each dtype (4: of each family that is probed)",
    )
    return parser.parse_args()


def told(tallies: Mapping[str, Tally]) -> str:
    lines = []
    for dtype, tally in tallies.items():
        kind, (share, where) = max(tally.shares.items(), key=lambda item: item[1][0], default=("none", (0.0, "nothing")))
        lines.append(
            f"{dtype}: {tally.models} models, {tally.values:,} values, {tally.alarms} false alarms, {tally.left_out} left out, "
            f"{tally.seconds:.0f} s; largest share {share:.2f} ({kind}: {where})"
        )
    cells = {(kind, dtype): f"{share:.2f}" for dtype, tally in tallies.items() for kind, (share, _) in tally.shares.items()}
    return "\n".join([*lines, table("largest share of a limit", list(tallies), cells)])


def told_of_power(found: Mapping[str, Mapping[str, list[tuple[float, float]]]]) -> str:
    """Geometric means over the modules that were tried."""
    tables = []
    for number, what in enumerate(("one element, of the RMS", "all elements")):
        cells = {
            (kind, dtype): f"{geometric([pair[number] for pair in pairs]):.1e}"
            for dtype, kinds in found.items()
            for kind, pairs in kinds.items()
        }
        tables.append(table(f"least error found: {what}", list(found), cells))
    return "\n".join(tables)


def main() -> int:
    torch.set_num_threads(1)
    arguments = parsed()
    dtypes = arguments.dtype or list(ENGINES)
    seeds = range(arguments.first, arguments.first + arguments.models)
    tallies = {dtype: alarms(dtype, seeds, arguments.engine, arguments.keep) for dtype in dtypes}
    if seeds:
        print(told(tallies), flush=True)
    if arguments.power:
        print(told_of_power({dtype: power(dtype, range(arguments.power)) for dtype in dtypes}))
    return int(any(tally.alarms for tally in tallies.values()))


if __name__ == "__main__":
    sys.exit(main())
