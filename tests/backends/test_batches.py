"""How the NumPy backend goes through a batch: in parts, on threads, with BLAS held to one thread and let go afterwards."""

import itertools
import os
import subprocess
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from typing import NamedTuple

import numpy as np
import pytest
import threadpoolctl

import reforg
from reforg import shunted, vit
from reforg.catalog.synthetic import images
from reforg.errors import ShapeError
from reforg_numpy import batches

WIDE = batches.CACHED  # bytes an image, so that every image is a part of its own
SMALL = {"img_size": 32, "patch_size": 8, "embed_dim": 24, "depth": 3, "num_heads": 2, "num_classes": 5, "drop_loc": (0, 2)}
STAGES = {"embed_dims": (8, 16, 24, 32), "depths": (1,) * 4, "num_heads": (2, 2, 4, 4), "mlp_ratios": (2,) * 4, "num_classes": 5}
pytestmark = pytest.mark.usefixtures("all_blas_threads")


class Pair(NamedTuple):
    first: np.ndarray
    second: np.ndarray


def blas_threads():
    """Of NumPy's BLAS, as threadpoolctl finds them anew; SciPy, which others may load, has one of its own."""
    ours = {library["filepath"] for library in batches.controller().info()}
    found = threadpoolctl.ThreadpoolController().select(user_api="blas").info()
    return [library["num_threads"] for library in found if library["filepath"] in ours]


@pytest.fixture(params=[1, 2, 3])
def workers(request, monkeypatch):
    monkeypatch.setattr(batches, "threads", lambda: request.param)
    return request.param


@pytest.fixture
def two(monkeypatch):
    monkeypatch.setattr(batches, "threads", lambda: 2)


def numbers(batch):
    return np.arange(batch, dtype=np.float64)[:, None]


# parts


@pytest.mark.parametrize("batch", range(2, 9))
def test_the_parts_are_the_batch_in_its_order(workers, batch):
    np.testing.assert_array_equal(batches.run(lambda part: part * 2, numbers(batch), WIDE), numbers(batch) * 2)


@pytest.mark.parametrize(
    ("bytes_per_image", "largest"), [(10 * WIDE, 1), (WIDE, 1), (WIDE // 2, 2), (WIDE // 3, 3), (WIDE // 100, 4)]
)
def test_a_part_fits_the_cache_and_leaves_work_for_every_thread(two, bytes_per_image, largest):
    batch = max(8, batches.SMALL // bytes_per_image + 1)
    sizes = []
    batches.run(lambda part: (sizes.append(len(part)), part)[1], numbers(batch), bytes_per_image)
    assert sum(sizes) == batch
    assert max(sizes) == min(largest if bytes_per_image > WIDE // 50 else batch, WIDE // bytes_per_image or 1, -(-batch // 2))


@pytest.mark.parametrize("batch", [0, 1, 3])
def test_what_is_done_before_threads_have_started_is_done_at_once(two, batch):
    seen = []
    batches.run(lambda part: (seen.append((len(part), threading.get_ident())), part)[1], numbers(batch), 8)
    assert seen == [(batch, threading.get_ident())]


def test_tuples_and_lists_of_results_are_joined_one_by_one(two):
    twice, thrice = batches.run(lambda part: (part * 2, part * 3), numbers(5), WIDE)
    np.testing.assert_array_equal(twice, numbers(5) * 2)
    np.testing.assert_array_equal(thrice, numbers(5) * 3)
    assert isinstance(batches.run(lambda part: [part], numbers(5), WIDE), list)
    assert batches.run(lambda part: Pair(part, -part), numbers(5), WIDE).second[4, 0] == -4


# threads


def test_parts_run_at_the_same_time(two):
    meet = threading.Barrier(2, timeout=10)
    batches.run(lambda part: (meet.wait(), part)[1], numbers(2), WIDE)


def test_blas_has_one_thread_meanwhile_and_as_many_as_before_afterwards(two):
    before = blas_threads()
    seen = batches.run(lambda part: np.array([[max(blas_threads())]]), numbers(4), WIDE)
    assert set(seen.ravel()) == {1}
    assert blas_threads() == before


def test_blas_gets_its_threads_back_after_an_error(two):
    def fail(part):
        raise ShapeError("no")

    before = blas_threads()
    with pytest.raises(ShapeError, match="no"):
        batches.run(fail, numbers(4), WIDE)
    assert blas_threads() == before


def test_the_first_error_stops_what_has_not_begun(two):
    begun = itertools.count()

    def fail(part):
        next(begun)
        time.sleep(0.01)
        raise ShapeError("no")

    with pytest.raises(ShapeError):
        batches.run(fail, numbers(64), WIDE)
    assert next(begun) < 64


def from_several_threads(calls):
    def call(seed):
        time.sleep(0.002 * (seed % 5))
        return batches.run(lambda part: (time.sleep(0.003), np.array([[max(blas_threads())]]))[1], numbers(3), WIDE)

    with ThreadPoolExecutor(4) as users:
        return set(np.concatenate(list(users.map(call, range(calls)))).ravel())


def test_calls_from_several_threads_leave_blas_as_it_was(two):
    before = blas_threads()
    assert from_several_threads(24) == {1}
    assert blas_threads() == before


@pytest.mark.skipif(min(blas_threads()) < 2, reason="BLAS has one thread here")
def test_a_limit_that_another_thread_of_the_callers_has_set_stays(two):
    with threadpoolctl.threadpool_limits(2, user_api="blas"):
        from_several_threads(24)
        assert set(blas_threads()) == {2}


def test_an_interruption_while_blas_is_being_held_leaves_it_as_it_was(two, monkeypatch):
    before = blas_threads()
    with monkeypatch.context() as broken:
        broken.setattr(batches.Thread, "start", lambda self: (_ for _ in ()).throw(RuntimeError("can't start new thread")))
        with pytest.raises(RuntimeError, match="new thread"):
            batches.run(lambda part: part, numbers(4), WIDE)
    with monkeypatch.context() as broken:
        broken.setattr(batches.Event, "wait", interrupted_once())
        with pytest.raises(KeyboardInterrupt):
            batches.run(lambda part: part, numbers(4), WIDE)
    assert (blas_threads(), batches.ONE_BLAS_THREAD.before) == (before, [])
    assert set(batches.run(lambda part: np.array([[max(blas_threads())]]), numbers(4), WIDE).ravel()) == {1}
    assert blas_threads() == before


def interrupted_once():
    """Event.wait, of which the main thread's first call is interrupted."""
    wait, calls = batches.Event.wait, itertools.count()

    def waited(self, timeout=None):
        if threading.current_thread() is threading.main_thread() and self is batches.ONE_BLAS_THREAD.awaited and not next(calls):
            raise KeyboardInterrupt
        return wait(self, timeout)

    return waited


FORKING = """
import os, signal
import numpy as np
import threadpoolctl
from reforg_numpy import batches

def blas_threads():
    return [library["num_threads"] for library in threadpoolctl.ThreadpoolController().select(user_api="blas").info()]

def fork(part):
    child = os.fork()
    if not child:
        signal.alarm(20)
        right = blas_threads() == before and len(batches.run(lambda part: part, numbers, batches.CACHED)) == 4
        os._exit(0 if right and blas_threads() == before else 1)
    return np.array([[os.waitpid(child, 0)[1]]])

before, numbers = blas_threads(), np.arange(4.0)[:, None]
batches.threads = lambda: 2
assert set(batches.run(fork, numbers[:2], batches.CACHED).ravel()) == {0}
"""


@pytest.mark.skipif(not hasattr(os, "fork"), reason="there is no fork here")
def test_a_child_forked_in_the_middle_of_a_batch_has_its_blas_back():
    """In a process of its own: torch and JAX, where they are loaded, have threads of their own that no fork survives."""
    command = [sys.executable, "-W", "ignore::DeprecationWarning", "-c", FORKING]
    environment = {name: value for name, value in os.environ.items() if name != "OPENBLAS_NUM_THREADS"}
    done = subprocess.run(command, env=environment, check=False, capture_output=True, text=True, timeout=60)
    assert (done.returncode, done.stderr) == (0, "")


def test_no_more_threads_than_the_caller_lets_blas_have():
    with threadpoolctl.threadpool_limits(1, user_api="blas"):
        assert batches.threads() == 1
        seen = set()
        batches.run(lambda part: (seen.add(threading.get_ident()), part)[1], numbers(4), WIDE)
        assert seen == {threading.get_ident()}


def test_the_number_of_threads_is_not_lost_while_another_call_holds_blas(monkeypatch):
    monkeypatch.setattr(batches.os, "sched_getaffinity", lambda pid: set(range(8)), raising=False)
    before = batches.threads()
    assert before == min(blas_threads())
    with batches.ONE_BLAS_THREAD.held():
        assert batches.threads() == before


def test_what_numpy_does_about_overflow_is_the_callers_choice(two):
    with np.errstate(over="raise"), pytest.raises(FloatingPointError):
        batches.run(lambda part: np.exp(part + 1000.0), numbers(4), WIDE)
    with np.errstate(over="ignore"):
        assert np.isinf(batches.run(lambda part: np.exp(part + 1000.0), numbers(4), WIDE)).all()


# models


@pytest.fixture
def in_parts(monkeypatch, workers):
    monkeypatch.setattr(batches, "SMALL", 0)
    monkeypatch.setattr(batches, "CACHED", 1)


@pytest.mark.parametrize("ops", ["reference", "auto"])
@pytest.mark.parametrize(("name", "settings", "side"), [("evit_tiny_patch16_224", SMALL, 32), ("shunted_t", STAGES, 64)])
def test_logits_features_and_answers_are_those_of_the_whole_batch(in_parts, name, settings, side, ops):
    model = reforg.create_model(name, weights="synthetic:3", dtype="float64", ops=ops, **settings)
    batch = images((5, 3, side, side), 1).astype(np.float64)
    module = shunted if name == "shunted_t" else vit
    wanted = module.forward(model.weights, batch, model.config)
    states = module.features(model.weights, batch, model.config)
    near = {"rtol": 1e-11, "atol": 1e-12}
    np.testing.assert_allclose(model(batch), wanted, **near)
    np.testing.assert_allclose(model.features(batch), states, **near)
    np.testing.assert_allclose(model.answer(batch)[1], wanted, **near)


def test_a_pyramid_comes_back_whole(in_parts):
    model = reforg.create_model("shunted_t", weights="synthetic:3", dtype="float64", **STAGES)
    batch = images((5, 3, 64, 64), 1).astype(np.float64)
    for got, wanted in zip(
        model.features(batch, pyramid=True), shunted.features(model.weights, batch, model.config, pyramid=True), strict=True
    ):
        np.testing.assert_allclose(got, wanted, rtol=1e-11, atol=1e-12)


def test_an_image_that_is_too_small_is_one_sentence_on_threads_too(in_parts):
    model = reforg.create_model("shunted_t", weights="synthetic:3", **STAGES)
    with pytest.raises(ShapeError, match="the image is too small"):
        model(np.zeros((4, 3, 20, 20), np.float32))


def test_what_the_config_keeps_does_not_bind_a_call_that_keeps_less():
    model = reforg.create_model("vit_tiny_patch16_224", "synthetic", **{**SMALL, "depth": 2, "drop_loc": (0,)}, tokens=12)
    assert model(np.zeros((4, 3, 16, 16), np.float32), tokens=2).shape == (4, 5)


@pytest.mark.parametrize(("name", "settings"), [("evit_tiny_patch16_224", SMALL), ("shunted_t", STAGES)])
@pytest.mark.parametrize("side", [(0, 64), (64, 0)])
def test_an_image_without_pixels_is_one_sentence(name, settings, side):
    model = reforg.create_model(name, weights="synthetic:3", **settings)
    images = np.zeros((2, 3, *side), np.float32)
    for call in (model, model.trace, lambda x: model.apply(model.weights, x)):
        with pytest.raises(ShapeError, match=f"image (of )?{side[0]}x{side[1]} (has no pixels|does not divide)"):
            call(images)
