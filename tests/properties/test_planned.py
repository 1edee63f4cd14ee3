"""Plans over random configs, batches and numbers of threads: no further from the truth than rounding in float32 may take them."""

import importlib.util
from unittest.mock import patch

import numpy as np
import pytest
from examples import prop
from hypothesis import strategies as st
from strategies import agree, allowance, clear_choice, doubles, evits, run, seeds, shunteds

from reforg.models import backend
from reforg.models.model import Model
from reforg_numpy import planning

ENGINES = ["numpy", *(["numba"] if importlib.util.find_spec("numba") else [])]
planned_only = pytest.mark.without("numpy-readonly", "strict", "torch", "jax", "jax-jit", "cupy")  # plans are NumPy's
engines, batches, threads = st.sampled_from(ENGINES), st.integers(1, 5), st.integers(1, 3)
sizes = st.sampled_from([1.0, 1e-3, 1e-12, 1e4])  # of the pixels


def planned(case, engine):
    """A model whose calls go by plans."""
    return Model("drawn", case.config, case.weights("float32"), backend.load("numpy"), "float32", None, engine, check_finite=False)


def exact(lib, case, images):
    return run(lib, case, doubles(images), {name: doubles(value) for name, value in case.weights("float32").items()})


@planned_only
@prop(case=evits, seed=seeds, engine=engines, batch=batches, count=threads, size=sizes)
def test_a_plan_of_vit_deit_or_evit_computes_the_model(lib, case, seed, engine, batch, count, size):
    images = case.images(seed, batch, "float32") * np.float32(size)
    clear_choice(case, images, "float32")
    with patch.object(planning, "threads_allowed", lambda: count):
        logits = planned(case, engine)(images)
    agree(logits, exact(lib, case, images), allowance(case, images, "float32"))


@planned_only
@prop(most=12, case=shunteds, seed=seeds, engine=engines, batch=batches, count=threads, size=sizes)
def test_a_plan_of_a_shunted_transformer_computes_the_model(lib, case, seed, engine, batch, count, size):
    images = case.images(seed, batch, "float32") * np.float32(size)
    with patch.object(planning, "threads_allowed", lambda: count):
        logits = planned(case, engine)(images)
    agree(logits, exact(lib, case, images), allowance(case, images, "float32"))


@planned_only
@prop(case=evits, seed=seeds, engine=engines, value=st.sampled_from([np.nan, np.inf, -np.inf, 3e38]), batch=st.integers(2, 4))
def test_what_is_not_finite_touches_no_other_image(lib, case, seed, engine, value, batch):
    model, images = planned(case, engine), case.images(seed, batch, "float32")
    alone = model(images)
    images[1, 0, 0, 0] = value
    with np.errstate(all="ignore"):
        spoiled = model(images)
    others = np.arange(batch) != 1
    np.testing.assert_array_equal(spoiled[others], alone[others])
