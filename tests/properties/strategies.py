"""Random micro-models and images for `@prop`, how a library runs them, and what it may differ by.

Every function here that takes `lib` and returns a strategy may stand in `@prop` as it is. JAX compiles every new shape,
so it gets few of them.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass, fields, replace
from functools import cache, lru_cache
from typing import Any

import ml_dtypes
import numpy as np
from hypothesis import assume
from hypothesis import strategies as st

from reforg import shunted, vit
from reforg.catalog.synthetic import uniform, weights
from reforg.config import ShuntedConfig, VitConfig
from reforg.families import shapes
from reforg.models.backend import load
from reforg.ops import REFERENCE, Recorder, untraced

ROUNDING = {"float64": 2.0**-53, "float32": 2.0**-24, "float16": 2.0**-11, "bfloat16": 2.0**-8}
TINY = {"float64": 2.0**-1022, "float32": 2.0**-126, "float16": 2.0**-24, "bfloat16": 2.0**-126}  # absolute, near zero
seeds = st.integers(0, 10**6)


def compiles(lib: Any) -> bool:
    return lib.name.startswith("jax")


def sizes(*choices: Any) -> Any:
    """A strategy of one of these, of the last one for libraries that compile."""
    return lambda lib: st.just(choices[-1]) if compiles(lib) else st.sampled_from(choices)


def whole(least: int, most: int) -> Any:
    """A whole number; for libraries that compile, one in the middle."""
    return lambda lib: st.just((least + most) // 2) if compiles(lib) else st.integers(least, most)


def rates(lib: Any) -> Any:
    """Keep rates below 1."""
    return st.just(0.4) if compiles(lib) else st.floats(0.05, 0.99)


def rates_and_none(lib: Any) -> Any:
    """A keep rate, 1 or None for each of three blocks."""
    return st.just([None, 0.4, 0.4]) if compiles(lib) else st.lists(st.none() | st.just(1.0) | rates(lib), min_size=3, max_size=3)


def grids(lib: Any) -> Any:
    """Rows and columns, rarely equal."""
    return st.just((2, 3)) if compiles(lib) else st.tuples(st.integers(1, 4), st.integers(1, 5))


def singles(lib: Any) -> Any:
    """The dtypes whose sums are formed in themselves."""
    return st.sampled_from(["float64", "float32"])


def model_dtypes(lib: Any) -> Any:
    """The same for whole models, which take JAX seconds to compile."""
    return st.just("float64") if compiles(lib) else singles(lib)


def dtypes(lib: Any) -> Any:
    """Every dtype that the library has: the standard knows no halves, and CuPy's bfloat16 is partial."""
    halves = {"strict": [], "cupy": ["float16"]}.get(lib.name, ["float16", "bfloat16"])
    return st.sampled_from(["float64", "float32", *halves])


def halves(lib: Any) -> Any:
    """Half precision, or float32 where the library has none; of JAX, the one made for it."""
    found = {"strict": ["float32"], "cupy": ["float16"], "jax": ["bfloat16"], "jax-jit": ["bfloat16"]}
    return st.sampled_from(found.get(lib.name, ["float16", "bfloat16"]))


def cast(array: np.ndarray, dtype: str) -> np.ndarray:
    with np.errstate(over="ignore"):
        return np.asarray(array).astype(ml_dtypes.bfloat16 if dtype == "bfloat16" else dtype)


def doubles(array: Any) -> np.ndarray:
    return np.asarray(array).astype(np.float64)


def normal(seed: int, *shape: int, dtype: str = "float64") -> np.ndarray:
    """Normally distributed numbers, rounded to the dtype."""
    return cast(np.random.default_rng(seed).standard_normal(shape), dtype)


def near(got: np.ndarray, wanted: Any, dtype: str, terms: int, size: Any = None) -> None:
    """Assert that a result differs by no more than the rounding of a sum of `terms` terms in `dtype`.

    A sum of n terms errs by at most n u times the sum of the terms' sizes (Higham, "Accuracy and Stability of Numerical
    Algorithms", section 4.2), and every multiplication, root or exponential in it by a few u more. `size`, by default the
    largest wanted value, is that sum of sizes. Halves are summed in float32 and rounded once.
    """
    assert got.dtype == cast(np.zeros(1), dtype).dtype
    wanted = doubles(wanted)
    assert got.shape == wanted.shape
    largest = np.abs(wanted).max(initial=0.0) if size is None else size
    inner = ROUNDING["float32"] if dtype in ("float16", "bfloat16") else ROUNDING[dtype]
    outer = ROUNDING[dtype] if dtype in ("float16", "bfloat16") else 0.0
    limit = (1.01 * outer + (terms + 8) * inner) * largest + TINY[dtype]
    worst = np.abs(doubles(got) - wanted).max(initial=0.0)
    assert worst <= limit, f"off by {worst:.2e}, allowed {limit:.2e}"


# models


@dataclass(frozen=True)
class Case:
    """One micro-model: its config and the seed of its weights. Shown as the fields that are not the default's."""

    config: Any
    seed: int = 0

    def __repr__(self) -> str:
        default = VitConfig() if isinstance(self.config, VitConfig) else ShuntedConfig()
        own = [(f.name, getattr(self.config, f.name)) for f in fields(self.config)]
        told = ", ".join(f"{name}={value!r}" for name, value in own if value != getattr(default, name))
        return f"Case({type(self.config).__name__}({told}), seed={self.seed})"

    def changed(self, **settings: Any) -> "Case":
        return replace(self, config=replace(self.config, **settings))

    @property
    def patches(self) -> int:
        return math.prod(self.config.grid)

    def weights(self, dtype: str = "float64") -> dict[str, np.ndarray]:
        return {name: cast(value, dtype) for name, value in synthetic(self.config, self.seed).items()}

    def images(self, seed: int, batch: int = 2, dtype: str = "float64", size: Any = None) -> np.ndarray:
        return cast(2.0 * uniform("images", (batch, self.config.in_chans, *(size or self.config.image_shape)), seed), dtype)


@lru_cache(256)
def synthetic(config: Any, seed: int) -> Mapping[str, np.ndarray]:
    return weights(shapes(config), seed)


def transformer(
    grid: tuple[int, int], patch: int, heads: tuple[int, int], depth: int, pool: str, distilled: bool, seed: int, **settings: Any
) -> Case:
    """A micro-ViT from choices that fit together: heads of so many channels; a distilled model reads its two tokens."""
    config = VitConfig(
        img_size=(grid[0] * patch, grid[1] * patch),
        patch_size=patch,
        embed_dim=math.prod(heads),
        num_heads=heads[0],
        depth=depth,
        distilled=distilled,
        global_pool="token" if distilled else pool,
        **settings,
    )
    return Case(config, seed)


COMPILED = (  # the two models that stand for all where every new one has to be compiled
    {
        "grid": (2, 3), "patch": 2, "heads": (2, 4), "depth": 1, "in_chans": 3, "num_classes": 3, "mlp_ratio": 2.0, "pool": "avg",
        "distilled": False, "qkv_bias": True, "no_embed_class": False, "init_values": None, "parallel": 2, "norm_eps": 1e-6,
        "antialias": True, "modules": "timm",
    },
    {
        "grid": (3, 2), "patch": 2, "heads": (2, 4), "depth": 2, "in_chans": 3, "num_classes": 3, "mlp_ratio": 2.0, "pool": "token",
        "distilled": True, "qkv_bias": False, "no_embed_class": True, "init_values": 0.1, "parallel": 1, "norm_eps": 1e-5,
        "antialias": False, "modules": "official",
    },
)  # fmt: skip
ANY = {
    "grid": st.tuples(st.integers(1, 4), st.integers(1, 5)).filter(lambda grid: math.prod(grid) > 1),
    "patch": st.integers(1, 3),
    "heads": st.sampled_from([(1, 4), (2, 4), (2, 3), (3, 2), (4, 2), (4, 4)]),
    "depth": st.integers(1, 3),
    "in_chans": st.integers(1, 3),
    "num_classes": st.sampled_from([3, 1, 0]),
    "mlp_ratio": st.sampled_from([1.0, 2.0, 2.5]),
    "pool": st.sampled_from(["token", "avg"]),
    "distilled": st.booleans(),
    "qkv_bias": st.booleans(),
    "no_embed_class": st.booleans(),
    "init_values": st.sampled_from([None, 0.1]),
    "parallel": st.sampled_from([1, 2]),
    "norm_eps": st.sampled_from([1e-6, 1e-5, 1e-3]),
    "antialias": st.booleans(),
    "modules": st.sampled_from(["timm", "official"]),
}


def vits(lib: Any, **changed: Any) -> Any:
    """ViT, DeiT, DeiT III and whatever lies between, keeping all tokens; keywords are strategies in place of these."""
    flavours = [{name: st.just(value) for name, value in one.items()} for one in COMPILED] if compiles(lib) else [ANY]
    own = {"seed": st.integers(0, 20), "drop_loc": st.just(())} | changed
    return st.one_of(*(st.builds(transformer, **(flavour | own)) for flavour in flavours))


def evits(lib: Any, **changed: Any) -> Any:
    """The same with token reorganization: every block has a rate of its own, some of them 1."""
    if compiles(lib):
        return vits(lib, **changed).map(lambda case: reorganizing(case, case.config.distilled, (0.5, 0.7, 0.5)))
    own = st.lists(st.just(1.0) | rates(lib), min_size=3, max_size=3)
    return st.builds(reorganizing, vits(lib, **changed), st.booleans(), own)


def reorganizing(case: Case, fuse: bool, rates: Any) -> Case:
    return case.changed(fuse_token=fuse, keep_rate=tuple(rates[: case.config.depth]))


def pyramid(side: tuple[int, int], width: int, ratios: tuple[int, ...], mlp: float, num_conv: int, **settings: Any) -> Case:
    """A micro-Shunted Transformer; the ratios are those that the grids of its stages have room for."""
    seed = settings.pop("seed")
    config = ShuntedConfig(
        img_size=side,
        embed_dims=(width,) * 4,
        num_heads=(2, 2, 2, 2),
        sr_ratios=ratios,
        mlp_ratios=(mlp,) * 4,
        num_conv=num_conv,
        depths=(1, 1, 1, 1),
        **settings,
    )
    return Case(config, seed)


def shunteds(lib: Any) -> Any:
    """Shunted Transformers whose images are 32 to 40 pixels a side, mostly no multiple of 32."""
    small = compiles(lib)
    return st.builds(
        pyramid,
        side=st.just((32, 35)) if small else st.tuples(st.sampled_from([32, 33, 36, 40]), st.sampled_from([32, 34, 39])),
        width=st.just(4) if small else st.sampled_from([4, 6, 8]),
        ratios=st.just((4, 2, 2, 1)) if small else st.sampled_from([(8, 4, 2, 1), (4, 2, 2, 1), (6, 2, 1, 1), (1, 4, 2, 1)]),
        mlp=st.just(1.0) if small else st.sampled_from([1.0, 1.5]),
        num_conv=st.just(0) if small else st.integers(0, 1),
        in_chans=st.just(3) if small else st.sampled_from([1, 3]),
        num_classes=st.just(3) if small else st.sampled_from([3, 0]),
        qkv_bias=st.just(True) if small else st.booleans(),
        norm_eps=st.just(1e-6) if small else st.sampled_from([1e-6, 1e-4]),
        seed=st.integers(0, 20),
    )


# running


@cache
def program(name: str, compiler: Any, config: Any, call: tuple[tuple[str, Any], ...] = (), kind: str = "") -> Any:
    """The compiled forward pass of a config; kind "traced": logits and every intermediate, "fast": by the backend's operations."""
    module, traced = (vit if isinstance(config, VitConfig) else shunted), kind == "traced"
    ops = fast_operations(name) if kind == "fast" else REFERENCE

    def run(weights: Any, images: Any) -> Any:
        record = Recorder()
        logits = module.forward(weights, images, config, ops, record if traced else untraced, **dict(call))
        return (logits, record.values) if traced else logits

    return compiler(run)


def fast_operations(library: str) -> Any:
    """What the library's own backend computes faster than the reference; the reference where it has none."""
    name = {"numpy-readonly": "numpy", "jax-jit": "jax"}.get(library, library)
    return REFERENCE if name == "strict" else load(name).ops


def run(lib: Any, case: Case, images: np.ndarray, weights: Any = None, kind: str = "", **call: Any) -> Any:
    """Logits of the library, as a NumPy array; kind "traced": also the intermediates by name."""
    frozen = tuple((name, tuple(value) if isinstance(value, list) else value) for name, value in sorted(call.items()))
    own = case.weights(dtype_of(images)) if weights is None else weights
    return lib.back(program(lib.name, lib.compile, case.config, frozen, kind)(lib.move(own), lib.move(images)))


def dtype_of(array: np.ndarray) -> str:
    return array.dtype.name


# what rounding may do to a model


def perturbed(case: Case, images: np.ndarray, weights: Any, delta: float, seed: int, **call: Any) -> np.ndarray:
    """Logits in float64 where every intermediate number is off by `delta` of itself, up or down at random."""
    chance = np.random.default_rng(seed)

    def shake(name: str, value: Any) -> Any:
        if value.dtype != np.float64:
            return value
        return value * (1.0 + delta * chance.choice([-1.0, 1.0], value.shape))

    module = vit if isinstance(case.config, VitConfig) else shunted
    return module.forward(weights, images, case.config, trace=shake, **call)


def allowance(case: Case, images: np.ndarray, dtype: str, weights: Any = None, **call: Any) -> float:
    """How far rounding in `dtype` may move the logits of these images: lambda sqrt(k) u R.

    First order: logits = exact + sum of J_i x_i d_i over all traced numbers x_i, J_i the logits' derivative by x_i, d_i its
    relative error, the sum of at most k roundings of at most u each since the traced values before it. Take the roundings as
    independent and of mean zero. Then, by Hoeffding's inequality (as Higham & Mary, "A New Approach to Probabilistic Rounding
    Error Analysis", SIAM J. Sci. Comput. 41, 2019, who so get sqrt(k) u in place of k u), the sum exceeds lambda sqrt(k) u R
    with probability below 2 exp(-lambda^2 / 2), R^2 = sum of (J_i x_i)^2; 3e-8 for lambda = 6. R is what random signs of size
    delta move the logits by, divided by delta: the root mean square over 8 draws.
    k: the longest sum (width, hidden width, pixels of a patch, tokens) and 16 for erf, exponentials, roots and divisions;
    halves are summed in float32 and rounded once, at most four times between traced values.
    """
    inputs = {name: doubles(value) for name, value in (case.weights(dtype) if weights is None else weights).items()}
    images, half = doubles(images), dtype in ("float16", "bfloat16")
    delta = ROUNDING[dtype] if half else 1e-9
    exact = perturbed(case, images, inputs, 0.0, 0, **call)
    moved = [perturbed(case, images, inputs, delta, seed, **call) - exact for seed in range(1, 9)]
    response = math.sqrt(sum(float(np.sum(m * m)) for m in moved) / (8 * exact.size)) / delta
    steps = 4 if half else 16 + longest_sum(case)
    return 6.0 * math.sqrt(steps) * ROUNDING[dtype] * (response + np.abs(exact).max())


def longest_sum(case: Case) -> int:
    config = case.config
    if isinstance(config, VitConfig):
        patch = config.in_chans * config.patch_size**2
        return max(config.hidden_dim, 3 * config.embed_dim, patch, case.patches + config.num_special)
    return max(49 * config.in_chans, 64 * max(config.embed_dims), max(config.image_shape) ** 2 // 16)


def agree(got: np.ndarray, wanted: Any, limit: float) -> None:
    """Assert that logits differ by no more than an allowance."""
    assert got.shape == np.shape(wanted)
    worst = np.abs(doubles(got) - doubles(wanted)).max(initial=0.0)
    assert worst <= limit, f"off by {worst:.2e}, allowed {limit:.2e}"


def clear_choice(case: Case, images: np.ndarray, dtype: str, weights: Any = None, **call: Any) -> None:
    """Leave out images of which rounding decides the tokens that stay: attention closer than the dtype tells apart."""
    own = {name: doubles(value) for name, value in (case.weights(dtype) if weights is None else weights).items()}
    record = Recorder(["*cls_attention", "*kept"])
    vit.forward(own, doubles(images), case.config, trace=record, **call)
    for name, kept in record.values.items():
        if name.endswith(".kept"):
            path, count = name.removesuffix(".kept"), kept.shape[1]
            both = f"{path}.cls_attention"
            scores = -np.sort(-record.values[both if both in record.values else f"{path}.attn.cls_attention"], axis=1)
            last, next_ = scores[:, count - 1], scores[:, count]
            assume(np.min((last - next_) / last) > 3000 * ROUNDING[dtype])
