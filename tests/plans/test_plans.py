"""Plans: the forward pass as a program of steps, by numba's kernels and by NumPy's calls, held against the reference in float64.

Limits: float32 may differ by 1e-5 of the largest value, some eighty roundings, for networks of two to four blocks, and by four
units of the last place in a single function. Everything else is held to the bit.
"""

import gc
import importlib
import importlib.util
import json
import math
import os
import signal
import subprocess
import sys
import threading
import time
import tracemalloc
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict
from functools import cache

import numpy as np
import pytest
import threadpoolctl
from golden_cases import rms
from stepwise import everything

from reforg import create_model
from reforg.catalog.synthetic import images as synthetic_images
from reforg.errors import BackendError, ConfigError
from reforg.ops import REFERENCE
from reforg.plans.matrices import Layout, Packed
from reforg.plans.program import Program
from reforg_numpy import planning
from reforg_numpy.numpy_engine import memory as plain_memory
from reforg_numpy.numpy_engine import steps as plain_steps
from reforg_numpy.numpy_engine.memory import Memory, Products

LIMIT = 1e-5
NUMBA = importlib.util.find_spec("numba") is not None
needs_numba = pytest.mark.skipif(not NUMBA, reason="numba is not installed")
ENGINES = [pytest.param("numba", marks=needs_numba), "numpy"]
SMALL = {"img_size": 32, "patch_size": 8, "embed_dim": 24, "depth": 3, "num_heads": 2, "num_classes": 5}
WIDE = {"img_size": 32, "patch_size": 8, "embed_dim": 128, "depth": 3, "num_heads": 2, "num_classes": 70}
CROWDED = WIDE | {"embed_dim": 256, "num_heads": 4}  # see reforg.plans.matrices.CROWDED
STAGES = {"embed_dims": (8, 16, 24, 32), "depths": (1,) * 4, "num_heads": (2, 2, 4, 4), "mlp_ratios": (2,) * 4, "num_classes": 5}
CASES = {  # name, settings, height and width
    "vit": ("vit_tiny_patch16_224", SMALL, (32, 32)),
    "vit, whole panels": ("vit_tiny_patch16_224", WIDE, (32, 32)),
    "vit, rows a power of two apart": ("vit_tiny_patch16_224", CROWDED | {"global_pool": "avg"}, (32, 32)),
    "vit, averaged": ("vit_tiny_patch16_224", SMALL | {"global_pool": "avg", "qkv_bias": False}, (32, 32)),
    "vit, pooled features": ("vit_tiny_patch16_224", SMALL | {"num_classes": 0}, (32, 32)),
    "vit, other size": ("vit_tiny_patch16_224", SMALL, (48, 40)),
    "vit, chunks of tokens": ("vit_tiny_patch16_224", SMALL | {"patch_size": 2}, (48, 42)),
    "vit, chunks of channels": ("vit_tiny_patch16_224", SMALL | {"embed_dim": 400, "num_heads": 1, "depth": 2}, (32, 32)),
    "vit, one block": ("vit_tiny_patch16_224", SMALL | {"depth": 1}, (32, 32)),
    "deit, distilled": ("deit_tiny_distilled_patch16_224", SMALL, (32, 32)),
    "deit, distilled features": ("deit_tiny_distilled_patch16_224", SMALL | {"num_classes": 0}, (32, 32)),
    "deit3": ("deit3_small_patch16_224", SMALL, (32, 32)),
    "deit3, parallel": ("deit_small_patch16_18x2_LS", WIDE | {"drop_loc": (0, 1), "keep_rate": 0.6}, (32, 32)),
    "deit3, hmlp": ("deit_small_patch16_18x2_LS", SMALL | {"depth": 2, "stem": "hmlp", "patch_size": 16}, (32, 48)),
    "dinov2": ("vit_small_patch14_dinov2", SMALL | {"patch_size": 14, "img_size": 42, "num_classes": 0}, (42, 42)),
    "evit": ("evit_tiny_patch16_224", WIDE | {"drop_loc": (0, 1, 2)}, (32, 32)),
    "evit, dropping": ("evit_tiny_patch16_224", SMALL | {"drop_loc": (1,), "keep_rate": 0.5, "fuse_token": False}, (32, 32)),
    "evit, last block": ("evit_tiny_patch16_224", SMALL | {"drop_loc": (2,), "global_pool": "avg"}, (32, 32)),
    "evit, counts": ("evit_tiny_patch16_224", SMALL | {"drop_loc": (0, 1), "tokens": (None, 7, 3)}, (32, 32)),
    "evit, distilled": ("deit_tiny_distilled_patch16_224", SMALL | {"drop_loc": (0, 1), "keep_rate": 0.5}, (32, 32)),
    "evit, rows a power of two apart": (
        "deit_tiny_distilled_patch16_224",
        CROWDED | {"drop_loc": (0,), "keep_rate": 0.6},
        (32, 32),
    ),
    "shunted, rows a power of two apart": (
        "shunted_t",
        STAGES | {"embed_dims": (32, 256, 64, 256), "mlp_ratios": (8, 1, 4, 2)},
        (64, 64),
    ),
    "shunted": ("shunted_t", STAGES, (64, 64)),
    "shunted, stem": ("shunted_s", STAGES, (64, 64)),
    "shunted, leftover rows": ("shunted_s", STAGES, (77, 70)),
    "shunted, whole panels": ("shunted_t", STAGES | {"embed_dims": (32, 64, 128, 64)}, (64, 96)),
    "shunted, chunks of channels": ("shunted_t", STAGES | {"embed_dims": (8, 16, 400, 32)}, (64, 64)),
    "shunted, stages alike": (
        "shunted_t",
        STAGES | {"embed_dims": (16,) * 4, "num_heads": (2,) * 4, "sr_ratios": (1,) * 4},
        (4, 4),
    ),
    "shunted, pooled": ("shunted_t", STAGES | {"num_classes": 0}, (64, 64)),
}


@pytest.fixture(params=ENGINES)
def engine(request):
    return request.param


@pytest.fixture(params=[1, pytest.param(2, marks=pytest.mark.full), 3])
def count(request, monkeypatch):
    """How many threads compute."""
    monkeypatch.setattr(planning, "threads_allowed", lambda: request.param)
    return request.param


def made(case, **arguments):
    name, settings, _ = CASES[case]
    return create_model(name, "synthetic:3", **{"dtype": "float32"} | arguments, **settings)


def pictures(case, batch=3):
    _, _, size = CASES[case]
    return synthetic_images((batch, 3, *size))


def truth(case):
    return made(case, dtype="float64", ops="reference")


def results_of(model, case):
    images = pictures(case, 5)
    return model(images), model.features(images), *model.answer(images)


@cache
def exact_results(case):
    return results_of(truth(case), case)


@cache
def rounded_results(case):
    return results_of(made(case, ops="reference"), case)


def distance(got, wanted):
    assert got.shape == wanted.shape
    return np.abs(got - wanted).max(initial=0.0) / (np.abs(wanted).max(initial=0.0) or 1.0)


# each step


@pytest.mark.parametrize("case", CASES)
def test_every_step_makes_the_intermediate_whose_name_it_has(engine, case, monkeypatch):
    images = pictures(case)
    trace = truth(case).trace(images)
    seen = 0
    for name, got in everything(engine, made(case, ops=engine), images, trace, monkeypatch):
        assert distance(got, trace[name]) < LIMIT, name
        seen += 1
    assert seen >= 0.5 * len({name for name in trace if name.endswith(("norm1", "attn.qkv", "fc1", "attn.q", "logits", "act"))})


# whole models


@pytest.mark.parametrize("case", CASES)
def test_logits_features_and_answers_are_the_reference_s(engine, count, case):
    results = [results_of(made(case, ops=engine), case), exact_results(case), rounded_results(case)]
    for got, exact, rounded in zip(*results, strict=True):  # one case is as sensitive as LIMIT to the reference's own rounding
        assert distance(got, exact) < max(LIMIT, 2 * distance(rounded, exact))


def test_sums_over_many_tokens_are_rounded_no_more_than_the_reference_s(engine):
    """A thousand numbers summed one by one are rounded a thousand times; in runs, as a BLAS does, far less."""
    settings = {"img_size": 74, "patch_size": 2, "embed_dim": 64, "depth": 6, "num_heads": 2, "num_classes": 5}
    images = synthetic_images((2, 3, 74, 74))
    got, exact, rounded = (
        create_model("vit_tiny_patch16_224", "synthetic:3", dtype=dtype, ops=ops, **settings).features(images)
        for dtype, ops in (("float32", engine), ("float64", "reference"), ("float32", "reference"))
    )
    assert rms(got - exact) <= 1.5 * rms(rounded - exact)


@pytest.mark.parametrize("case", [case for case in CASES if case.startswith("shunted")])
def test_a_pyramid_is_the_reference_s(engine, case):
    images = pictures(case)
    got, wanted = made(case, ops=engine).features(images, pyramid=True), truth(case).features(images, pyramid=True)
    assert isinstance(got, list)
    assert len(got) == 4
    assert max(map(distance, got, wanted)) < LIMIT


@pytest.mark.parametrize("case", ["evit", "shunted"])
def test_a_batch_is_its_images_one_by_one(engine, case):
    model, images = made(case, ops=engine), pictures(case, 7)
    alone = np.concatenate([model(images[n : n + 1]) for n in range(7)])
    assert distance(model(images), alone) < LIMIT
    assert model(images[:0]).shape == (0, *alone.shape[1:])


@pytest.mark.parametrize("schedule", [{"keep_rate": 0.3}, {"keep_rate": [0.9, 0.5, 1.0]}, {"tokens": 4}, {"tokens": [None, 9, 2]}])
def test_arguments_of_the_call_choose_another_program(engine, schedule):
    model, images, exact = made("evit", ops=engine), pictures("evit"), truth("evit")
    for arguments in ({}, schedule, {}, schedule):
        assert distance(model(images, **arguments), exact(images, **arguments)) < LIMIT


def test_a_batch_larger_than_a_part_goes_in_parts(engine, monkeypatch):
    module = importlib.import_module(f"reforg_numpy.{engine}_engine.engine")
    monkeypatch.setattr(module, "AT_ONCE", 1 << 14)
    model, images = made("evit", ops=engine), pictures("evit", 11)
    assert distance(model(images), truth("evit")(images)) < LIMIT
    assert len(model._plans._programs) > 0
    assert max(program.images for program, _ in model._plans._programs.values()) < 11


def test_a_plan_forgets_what_was_used_long_ago(engine):
    model, exact = made("vit", ops=engine), truth("vit")
    for batch in range(1, 2 * planning.KEPT):
        images = pictures("vit", batch)
        assert distance(model(images), exact(images)) < LIMIT
    assert len(model._plans._programs) == planning.KEPT


@needs_numba
def test_where_constants_fill_the_memory_an_engine_begins_anew(monkeypatch):
    from reforg_numpy.numba_engine import packing

    monkeypatch.setattr(packing, "CONSTANTS", 0)
    monkeypatch.setattr(importlib.import_module("reforg_numpy.numba_engine.engine"), "AT_ONCE", 1 << 14)  # parts of two sizes
    model, exact = made("vit", ops="numba"), truth("vit")
    engines = []
    for side in (*range(32, 168, 8), 4000):
        images = synthetic_images((3, 3, side, 32))
        assert distance(model(images), exact(images)) < LIMIT
        engines.append(model._plans._engine)
    assert engines[0] is not engines[-1]


def test_images_that_cannot_be_written_or_do_not_lie_in_a_row_do_as_well(engine):
    model, images = made("vit", ops=engine), pictures("vit").astype(np.float32)
    wanted = model(images)
    images.flags.writeable = False
    np.testing.assert_array_equal(model(images), wanted)
    np.testing.assert_array_equal(model(np.asfortranarray(images)), wanted)
    assert distance(model(images[::-1]), wanted[::-1]) < LIMIT


def test_neither_images_nor_weights_change(engine):
    model, images = made("evit", ops=engine), pictures("evit").astype(np.float32)
    before, weights = images.copy(), {name: array.copy() for name, array in model.weights.items()}
    model(images)
    np.testing.assert_array_equal(images, before)
    for name, array in model.weights.items():
        np.testing.assert_array_equal(array, weights[name])


def test_results_are_the_caller_s_own(engine):
    model, images = made("vit", ops=engine), pictures("vit")
    first = model(images)
    kept = first.copy()
    model(images[::-1])
    np.testing.assert_array_equal(first, kept)


# numbers that nobody expects


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf, 1e38])
@pytest.mark.parametrize("case", ["evit", "deit3", "shunted"])
def test_what_is_not_finite_stays_so_and_touches_no_other_image(engine, case, value):
    model, images = made(case, ops=engine, check_finite=False), pictures(case).astype(np.float32)
    wanted = model(images)
    images[1] = value
    with np.errstate(all="ignore"):
        got, reference = model(images), made(case, ops="reference", check_finite=False)(images)
    np.testing.assert_array_equal(np.isfinite(got[1]), np.isfinite(reference[1]))
    np.testing.assert_allclose(got[[0, 2]], wanted[[0, 2]], rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("scale", [1e-42, 1e-30, 1e12])
def test_tiny_and_huge_images_are_computed_as_the_reference_does(engine, scale):
    images = pictures("vit").astype(np.float32) * np.float32(scale)
    assert distance(made("vit", ops=engine)(images), truth("vit")(images.astype(np.float64))) < LIMIT


# the functions


def gelu_truth(x):
    return np.array([0.5 * v * math.erfc(-v / math.sqrt(2)) for v in x.astype(np.float64)])


def grid():
    return np.concatenate([np.linspace(-12, 12, 4801), [-1e30, -0.0, 0.0, 1e-45, -1e-45, 1e-38, 5.59, 5.61, 1e30]]).astype(
        np.float32
    )


def through(function, values):
    """A function of vectors, of an array: in place, through a kernel made for it."""
    from numba import njit

    from reforg_numpy.numba_engine.kernels.simd import load, store
    from reforg_numpy.numba_engine.shapes import LANES

    @njit
    def run(x):
        for c in range(0, len(x), LANES):
            store(x, c, function(load(x, c)))

    padded = np.zeros(-(-len(values) // 64) * 64, np.float32)
    padded[: len(values)] = values
    run(padded)
    return padded[: len(values)]


def compiled_gelu(x):
    from reforg_numpy.numba_engine.kernels.functions import gelu

    return through(gelu, x)


def plain_gelu(x):
    y = x.copy()
    plain_steps.gelu(y, Memory(Program(Layout(), 1), (1,), Products()))
    return y


@pytest.mark.parametrize("outputs", [4, plain_memory.SMALL // 6 + 1], ids=["small", "large"])
def test_matrices_of_products_are_made_once_and_their_parts_are_views_of_them(outputs):
    weights = np.arange(6.0 * outputs, dtype=np.float32).reshape(outputs, 3, 1, 2)
    products = Products()
    whole = products.matrix(Packed(weights, "planes"))
    np.testing.assert_array_equal(whole, weights.reshape(outputs, 6).T)
    assert whole.flags.c_contiguous == (outputs > 4)
    np.testing.assert_array_equal(products.matrix(Packed(weights, "pixels")), weights.transpose(0, 2, 3, 1).reshape(outputs, 6).T)
    part = products.matrix(Packed(weights, "planes", (1, 3)))
    np.testing.assert_array_equal(part, whole[:, 1:3])
    assert np.shares_memory(part, whole)
    assert products.matrix(Packed(weights, "planes")) is whole


def test_scores_of_a_head_are_taken_below_its_largest_or_where_they_spread_far_row_by_row():
    scores = np.array([[[3.0, 1.0], [2.0, 0.0]], [[0.0, 90.0], [-200.0, -201.0]], [[np.nan, 0.0], [5.0, 6.0]]], np.float32)
    plain_steps.below_largest(scores)
    np.testing.assert_array_equal(scores, [[[0, -2], [-1, -3]], [[-90, 0], [0, -1]], [[np.nan, np.nan], [-1, 0]]])


@pytest.mark.parametrize("function", [pytest.param(compiled_gelu, marks=needs_numba), plain_gelu])
def test_gelu_is_exact_to_the_rounding_of_1_plus_erf(function):
    x = grid()
    error = np.abs(function(x) - gelu_truth(x))
    assert (error <= 4 * 2.0**-24 * np.abs(x.astype(np.float64)) + 1e-45).all()
    with np.errstate(invalid="ignore"):
        special = function(np.array([np.nan, np.inf], np.float32))
    assert math.isnan(special[0])
    assert special[1] == np.inf


@needs_numba
def test_exp_is_exact_to_a_unit_in_the_last_place():
    from reforg_numpy.numba_engine.kernels.functions import exp

    x = np.concatenate([-np.geomspace(1e-8, 200, 5000), [0.0, -np.inf, -87.0, -88.0]]).astype(np.float32)
    got, wanted = through(exp, x), np.exp(x.astype(np.float64))
    normal = wanted > 2.0**-125
    assert np.abs(got[normal] / wanted[normal] - 1).max() < 2.0**-23
    assert (got[~normal] <= 2.0**-124).all()
    assert got[-3] == 0
    assert math.isnan(through(exp, np.array([np.nan], np.float32))[0])


@needs_numba
@pytest.mark.parametrize("steps", [1, 2, 3, 64, 197])
def test_a_tile_is_the_product_of_its_rows(steps):
    from numba import njit

    from reforg_numpy.numba_engine.kernels.simd import load
    from reforg_numpy.numba_engine.kernels.tile import product
    from reforg_numpy.numba_engine.shapes import DEPTH, HEIGHT, LANES, PANEL

    @njit
    def multiplied(source, panel, target, rows, more, starts):
        product(source, 0, panel, 0, steps, target, 0, PANEL, rows, more, load(starts, 0), load(starts, LANES))

    draw = np.random.default_rng(steps)
    source, panel, starts = (draw.standard_normal(shape).astype(np.float32) for shape in ((HEIGHT, DEPTH), (steps, PANEL), PANEL))
    for rows in range(1, HEIGHT + 1):
        target = np.full((HEIGHT + 1, PANEL), 7, np.float32)
        multiplied(source.ravel(), panel.ravel(), target.ravel(), rows, 0, starts)
        wanted = source[:rows, :steps].astype(np.float64) @ panel + starts
        assert np.abs(target[:rows] - wanted).max() < 1e-4
        assert (target[rows:] == 7).all(), "rows that nobody asked for"
        multiplied(source.ravel(), panel.ravel(), target.ravel(), rows, 1, starts)
        assert np.abs(target[:rows] - 2 * wanted).max() < 2e-4


@needs_numba
def test_ranks_are_those_of_the_reference_ties_and_nan_included():
    from reforg_numpy.numba_engine.kernels.select import ranks

    draw = np.random.default_rng(0)
    for values in (
        draw.standard_normal(50), np.round(draw.standard_normal(200), 1), np.zeros(9), [0.0, -0.0, 1.0, -1.0, 0.0],
        [np.nan, 1.0, -np.inf, np.nan, np.inf, -1e-45, 1e-45],
    ):  # fmt: skip
        scores = np.asarray(values, np.float32)
        memory = np.concatenate([scores, np.zeros(2 * len(scores), np.float32)])
        ranks(memory, 0, len(scores), len(scores), 2 * len(scores))
        order = np.argsort(memory[2 * len(scores) :].view(np.int32))
        np.testing.assert_array_equal(order, REFERENCE.rank(scores[None])[0])


# threads


def test_several_threads_of_the_caller_s_get_their_own_results(engine):
    model, batches = made("evit", ops=engine), [synthetic_images((n % 4 + 1, 3, 32, 32), seed=n) for n in range(24)]
    wanted = [model(batch) for batch in batches]
    with ThreadPoolExecutor(6) as pool:
        got = list(pool.map(model, batches))
    for mine, single in zip(got, wanted, strict=True):
        assert distance(mine, single) < LIMIT


def test_blas_keeps_the_threads_that_the_caller_gave_it(engine, all_blas_threads):
    controller = threadpoolctl.ThreadpoolController().select(user_api="blas")
    model, images = made("vit", ops=engine), pictures("vit", 8)
    with controller.limit(limits=1):
        model(images)
        assert {library["num_threads"] for library in controller.info()} == {1}
    before = controller.info()
    model(images)
    assert controller.info() == before


def test_an_error_in_a_thread_is_the_caller_s():
    from reforg_numpy.team import Team

    team = Team()

    def fail(thread):
        if thread == 1:
            raise OSError("no")

    with pytest.raises(OSError, match="no"):
        team.run(3, fail)
    seen = []
    team.run(3, seen.append)
    assert sorted(seen) == [0, 1, 2], "and the team goes on"


@pytest.mark.skipif(not hasattr(signal, "setitimer"), reason="this system has no timers that interrupt")
@pytest.mark.parametrize("reason", [KeyboardInterrupt, SystemExit])
def test_an_interruption_waits_until_all_shares_are_done_whenever_it_comes(reason, monkeypatch):
    from reforg_numpy.team import Team

    def interrupt(_number, _frame):
        raise reason

    team, seen = Team(), set()
    before = signal.signal(signal.SIGALRM, interrupt)
    gc.disable()  # what is raised while hypothesis watches a collection reaches nobody
    try:
        for delay in range(1, 150):
            shares, together = [], threading.Barrier(3)

            def share(thread, shares=shares, together=together):
                together.wait()
                time.sleep(0.003)
                shares.append(thread)

            try:
                signal.setitimer(signal.ITIMER_REAL, delay * 1e-5)
                team.run(3, share)
            except reason:
                seen.add(len(shares))
            assert len(shares) in (0, 3), "an interruption before all of it leaves nothing begun"
            assert sorted(shares) == list(range(len(shares))), "and none is done twice"
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)
        gc.enable()
    assert 3 in seen


@pytest.mark.parametrize("started", [False, True])
def test_an_interruption_while_a_thread_is_started_stays_one_and_the_team_goes_on(started, monkeypatch):
    from reforg_numpy import team

    start, crew, seen = team.start_new_thread, team.Team(), []

    def interrupted(*arguments):
        if started:
            start(*arguments)
        raise KeyboardInterrupt

    monkeypatch.setattr(team, "start_new_thread", interrupted)
    with pytest.raises(KeyboardInterrupt):
        crew.run(2, seen.append)
    monkeypatch.undo()
    crew.run(2, seen.append)
    assert sorted(seen) == [0, 1]


def test_a_task_that_its_caller_was_torn_from_ends_before_the_next_begins():
    from reforg_numpy.team import Job, Team

    team, order, together = Team(), [], threading.Barrier(2)
    team.run(2, lambda thread: None)

    def share(_thread):
        together.wait()
        order.append("first")

    team._job = Job(share, 2)
    team._inboxes[0].put(team._job)  # and not the other's
    team.run(2, lambda thread: order.append("second"))
    assert order == ["first", "first", "second", "second"]


def test_threads_sleep_between_calls(engine):
    model, images = made("vit", ops=engine), pictures("vit", 4)
    for _ in range(3):
        model(images)
    threads = threading.active_count()
    for _ in range(5):
        model(images)
    assert threading.active_count() == threads


@pytest.mark.skipif(not hasattr(os, "fork"), reason="this system has no fork")
@pytest.mark.parametrize("choice", ["numba", "numpy"])
def test_a_child_of_a_fork_computes_too(choice):
    if choice == "numba" and not NUMBA:
        pytest.skip("numba is not installed")
    code = (
        "import os, numpy as np, reforg\n"
        f"model = reforg.create_model('evit_fmnist', ops={choice!r})\n"
        "images = np.random.default_rng(0).standard_normal((6, 1, 28, 28))\n"
        "wanted = model(images)\n"
        "child = os.fork()\n"
        "if child == 0:\n"
        "    os._exit(0 if np.allclose(model(images), wanted, atol=1e-4) else 3)\n"
        "raise SystemExit(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))\n"
    )
    done = subprocess.run([sys.executable, "-W", "ignore", "-c", code], timeout=120, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


# what is made once


@needs_numba
def test_nothing_is_allocated_in_the_steady_state():
    model, images = made("evit", ops="numba"), pictures("evit", 4).astype(np.float32)
    model(images)
    tracemalloc.start()
    model(images)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < 100_000, "counters, a clock and logits; a single intermediate of the batch has more"


def test_models_of_the_same_weights_share_what_is_packed(engine):
    model = made("evit", ops=engine)
    other = model.with_config(keep_rate=0.5)
    assert other._plans is model._plans
    images = pictures("evit")
    exact = truth("evit").with_config(keep_rate=0.5)
    assert distance(other(images), exact(images)) < LIMIT
    assert distance(model(images), truth("evit")(images)) < LIMIT
    assert made("evit", ops=engine)._plans is not model._plans, "other arrays, though of equal values"


# what is asked for


def test_a_model_says_who_runs_its_operations(engine):
    table = made("vit", ops=engine).ops
    assert table["attention"] == table["linear"] == table["vit.block"] == engine
    assert set(made("vit", ops="reference").ops.values()) == {"reference"}
    assert made("vit", dtype="float64").ops["linear"] == "reference"
    assert made("vit").ops["linear"] == ("numba" if NUMBA else "numpy")


def test_apply_and_traces_have_no_plan(engine):
    model, images = made("evit", ops=engine), pictures("evit").astype(np.float32)
    model.apply(model.weights, images)
    model.trace(images)
    assert model._plans._engine is None


@pytest.mark.parametrize("word", ["numbo", "", None, 3])
def test_a_way_that_does_not_exist_is_refused(word):
    with pytest.raises(ConfigError, match="ops must be 'auto', 'reference', 'numba' or 'numpy', got"):
        made("vit", ops=word)


def test_another_backend_has_other_ways():
    from reforg.models.backend import check_ops

    class Plain:
        name = "plain"

    with pytest.raises(ConfigError, match="ops must be 'auto' or 'reference', got 'numba'"):
        check_ops(Plain(), "numba")


def test_a_way_that_was_asked_for_and_is_not_installed_fails_in_a_sentence(monkeypatch):
    monkeypatch.setattr(planning, "installed", lambda engine: engine == "numpy")
    with pytest.raises(
        BackendError, match=r"ops 'numba' need the package 'numba', which is not installed: pip install 'reforg\[cpu\]'"
    ):
        made("vit", ops="numba")
    assert made("vit").ops["linear"] == "numpy"


def test_a_way_that_has_no_such_dtype_fails_in_a_sentence(engine):
    with pytest.raises(BackendError, match="compute in float32 only"):
        made("vit", ops=engine, dtype="float64")


def test_numba_that_may_not_compile_is_not_used(monkeypatch):
    monkeypatch.setenv("NUMBA_DISABLE_JIT", "1")
    planning.installed.cache_clear()
    try:
        assert made("vit").ops["linear"] == "numpy"
    finally:
        planning.installed.cache_clear()


def test_numba_that_cannot_be_imported_is_a_sentence(monkeypatch):
    def broken():
        raise ImportError("numba needs an older NumPy")

    monkeypatch.setitem(planning.ENGINES, "numpy", broken)
    with pytest.raises(BackendError, match="backend 'numpy', ops 'numpy': numba needs an older NumPy"):
        made("vit", ops="numpy")(pictures("vit"))


def test_numbers_of_numpy_s_are_as_good_as_python_s(engine):
    name, settings, _ = CASES["evit"]
    of_numpy = {key: np.int64(value) if type(value) is int else value for key, value in settings.items()}
    model = create_model(name, "synthetic:3", dtype="float32", ops=engine, keep_rate=np.float64(0.5), **of_numpy)
    plain = create_model(name, "synthetic:3", dtype="float32", ops=engine, keep_rate=0.5, **settings)
    assert model.config == plain.config
    assert json.dumps(asdict(model.config)) == json.dumps(asdict(plain.config))
    np.testing.assert_array_equal(model(pictures("evit")), plain(pictures("evit")))


def test_the_plan_is_there_as_soon_as_reforg_is_installed_and_no_engine_before_a_call():
    made = "import sys, reforg; reforg.create_model('evit_fmnist')"
    code = f"{made}; print('numba' in sys.modules, 'reforg_numpy.planning' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], timeout=120, capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["False", "True"]
