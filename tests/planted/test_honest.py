"""What honest programs compute passes: random models of every family, dtype and engine, and those that once were told a fault."""

import random
import sys
from pathlib import Path

import pytest

torch = pytest.importorskip("torch")
sys.path.insert(0, str(Path(__file__).parent))
from honest import ENGINES, Tally, alarms, candidate, case, examined  # noqa: E402  they import what may be missing

import reforg  # noqa: E402

BUILT_IN = {
    dtype: [engine for engine in dict.fromkeys(engines) if engine not in ("jax", "onnx")] for dtype, engines in ENGINES.items()
}
ONCE = {  # told a fault before the error model knew, and what it knows now
    "tokens that are alike round alike": [
        ("bfloat16", "torch", 1066, 1.0), ("bfloat16", "torch", 1109, 1.0), ("float16", "torch", 1109, 1.0),
    ],
    "the nearest value shows which tokens were kept": [("autocast-bfloat16", "torch", 1064, 1.0)],
    "weights are rounded alike for all tokens": [
        ("tf32", "tf32 to nearest", 3006, 0.5), ("tf32", "tf32 truncated", 3013, 0.5), ("autocast-float16", "torch", 3091, 0.5),
    ],
    "GELU is no straight line": [("tf32", "tf32 truncated", 3097, 0.5), ("bfloat16", "torch", 5001, 0.15)],
    "softmax is no straight line": [("autocast-bfloat16", "torch", 5032, 0.15)],
    "the fused token may be like one that was dropped": [("bfloat16", "torch", 5015, 0.15)],
    "rows behind the next attention tell their order": [("tf32", "tf32 to nearest", 5006, 0.15), ("bfloat16", "torch", 5045, 0.15)],
    "rounding may change which tokens are kept": [("bfloat16", "torch", 5084, 0.15), ("float16", "torch", 5007, 0.15)],
    "the next norm shows which tokens were kept": [("float16", "torch", 3008, 0.5), ("bfloat16", "torch", 5055, 0.15)],
    "one token is not kept twice": [("autocast-bfloat16", "torch", 8095, 0.15)],
}  # fmt: skip


@pytest.mark.parametrize("dtype", ENGINES)
def test_random_models_pass(dtype: str) -> None:
    tally = alarms(dtype, range(12), BUILT_IN[dtype], keep=1.0)
    assert tally.alarms == 0
    assert tally.values > 200
    assert 0.1 < max(share for share, _ in tally.shares.values()) <= 1.0


@pytest.mark.parametrize("dtype", ENGINES)
def test_random_models_of_which_half_the_values_are_known_pass(dtype: str) -> None:
    tally = alarms(dtype, range(100, 112), BUILT_IN[dtype], keep=0.5)
    assert tally.alarms == 0
    assert tally.values > 100


@pytest.mark.parametrize("reason", ONCE)
def test_what_was_once_told_a_fault_passes(reason: str, tmp_path: Path) -> None:
    for dtype, engine, seed, keep in ONCE[reason]:
        tally = Tally()
        examined(tally, case(seed), engine, dtype, tmp_path, keep)
        assert (tally.models, tally.alarms) == (1, 0), (dtype, engine, seed)


def test_an_error_of_a_hundredth_is_no_rounding(tmp_path: Path) -> None:
    """Of the values that the first seeds hold every tenth is changed in its largest element, and every change is found."""
    chance, changed = random.Random(0), 0
    for seed in range(6):
        one = case(seed)
        values = candidate(one, "torch", "float32", tmp_path)
        for name in chance.sample(sorted(values), len(values) // 10):
            value = values[name].copy()
            value.flat[abs(value).argmax()] *= 1.01
            report = reforg.verify(values | {name: value}, one.model, one.images)
            changed += 1
            assert not report.passed, (seed, name)
    assert changed > 20
