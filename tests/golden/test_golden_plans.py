"""The golden layer of plans: float32, held against what the official PyTorch code computed in float64.

Two limits, both derived: an intermediate is no further from the official one than four times the reference's float32 is, or
than one rounding of the largest value, where that is more; and `reforg.verify`, whose error model knows each operation's rounding,
takes the plan for a right port in float32.
"""

import importlib.util

import numpy as np
import pytest
from golden_cases import CASES, MICRO, TRAINED, WITH_1000_LOGITS, distance, images_of, in_batches, model_of, rms
from stepwise import everything

import reforg

ENGINES = [
    pytest.param("numba", marks=pytest.mark.skipif(importlib.util.find_spec("numba") is None, reason="numba is not installed")),
    "numpy",
]
ROUNDING = 2.0**-24
WAYS = [  # of running a program: its engine, and whether norms and depthwise convolutions are one step with the product behind
    pytest.param("numba", False, marks=ENGINES[0].marks, id="numba, apart"),
    pytest.param("numba", True, marks=ENGINES[0].marks, id="numba, joined"),
    pytest.param("numpy", False, id="numpy"),
]


@pytest.fixture(params=ENGINES)
def engine(request):
    return request.param


@pytest.mark.parametrize("name", [name for name in MICRO if CASES[name].taps()])
@pytest.mark.parametrize(("engine", "joined"), WAYS)
def test_every_step_of_the_micro_models_is_the_official_one(name, engine, joined, monkeypatch):
    case, images = CASES[name], images_of(CASES[name])
    official, reference = case.taps(), model_of(case, dtype="float32", ops="reference").trace(images)
    seen, wrong = 0, {}
    for path, got in everything(engine, model_of(case, dtype="float32", ops=engine), images, reference, monkeypatch, joined):
        if path in official:
            limit = max(4 * distance(reference[path], official[path]), ROUNDING)
            seen, error = seen + 1, distance(got, official[path])
            wrong |= {path: (error, limit)} if not error <= limit else {}
    assert wrong == {}
    assert seen >= len(official) / 5  # the rest is inside of larger steps


@pytest.mark.parametrize("name", MICRO)
@pytest.mark.parametrize(("engine", "joined"), WAYS)
def test_the_steps_of_the_micro_models_pass_as_a_port_in_float32(name, engine, joined, monkeypatch):
    case, images = CASES[name], images_of(CASES[name])
    exact = model_of(case, dtype="float64")
    port = dict(everything(engine, model_of(case, dtype="float32", ops=engine), images, exact.trace(images), monkeypatch, joined))
    report = reforg.verify(port, exact, images.astype(np.float32), dtype="float32")
    assert report.passed, report


FIRST = {"evit_small_k07_fuse", "deit3_small", "shunted_t"}  # at every run; the others leave the same steps to the longer one


@pytest.mark.parametrize("name", [pytest.param(name, marks=() if name in FIRST else pytest.mark.full) for name in WITH_1000_LOGITS])
def test_logits_are_as_near_to_the_truth_as_torch_s(name, engine):
    case, recorded = CASES[name], CASES[name].arrays()
    logits = model_of(case, dtype="float32", ops=engine)(images_of(case))
    ours, theirs = rms(logits - recorded["logits"]), rms(recorded["logits_float32"] - recorded["logits"])
    assert ours <= case.entry["limits"]["float32_rms_ratio"] * theirs


@pytest.mark.parametrize("name", TRAINED)
def test_trained_models_answer_as_the_official_ones_do(name, engine):
    case = CASES[name]
    logits = in_batches(model_of(case, dtype="float32", ops=engine), images_of(case))
    recorded = case.arrays()["logits"]
    np.testing.assert_array_equal(logits.argmax(axis=1), recorded.argmax(axis=1))
    assert distance(logits, recorded) < 1e-5
