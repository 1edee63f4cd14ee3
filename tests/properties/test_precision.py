"""How far narrower numbers may lead from the papers in float64: by the roundings of that very model, and by no more.

The limit and where it comes from: `strategies.allowance`.
"""

import literal
import pytest
from examples import prop
from strategies import agree, allowance, clear_choice, doubles, dtype_of, evits, halves, run, seeds, shunteds, vits


def exact(one, case, images, dtype):
    """The paper's value in float64 for weights and images rounded to the dtype."""
    weights = {name: doubles(value) for name, value in case.weights(dtype).items()}
    return [one(weights, image, case.config) for image in doubles(images)]


@pytest.mark.without("jax")
@prop(case=evits, seed=seeds)
def test_float32_stays_within_its_roundings(lib, case, seed):
    images = case.images(seed, dtype="float32")
    clear_choice(case, images, "float32")
    got = run(lib, case, images)
    assert dtype_of(got) == "float32"
    agree(got, exact(literal.vit, case, images, "float32"), allowance(case, images, "float32"))


@pytest.mark.without("jax")
@prop(most=8, case=shunteds, seed=seeds)
def test_float32_of_shunted_stays_within_its_roundings(lib, case, seed):
    images = case.images(seed, 1, "float32")
    got = run(lib, case, images)
    assert dtype_of(got) == "float32"
    agree(got, exact(literal.shunted, case, images, "float32"), allowance(case, images, "float32"))


@pytest.mark.without("jax")
@prop(case=vits, seed=seeds, dtype=halves)
def test_halves_stay_within_their_roundings(lib, case, seed, dtype):
    images = case.images(seed, dtype=dtype)
    got = run(lib, case, images)
    assert dtype_of(got) == dtype
    agree(got, exact(literal.vit, case, images, dtype), allowance(case, images, dtype))


@pytest.mark.without("jax")
@prop(most=6, case=shunteds, seed=seeds, dtype=halves)
def test_halves_of_shunted_stay_within_their_roundings(lib, case, seed, dtype):
    images = case.images(seed, 1, dtype)
    got = run(lib, case, images)
    assert dtype_of(got) == dtype
    agree(got, exact(literal.shunted, case, images, dtype), allowance(case, images, dtype))


@prop(case=evits, seed=seeds)
def test_the_shorter_the_rounding_the_nearer_to_float64(lib, case, seed):
    """float64 is nearer to the paper than float32 is allowed to be, by the ratio of their roundings."""
    images = case.images(seed, dtype="float32")
    clear_choice(case, images, "float32")
    wide = {name: doubles(value) for name, value in case.weights("float32").items()}
    wanted = exact(literal.vit, case, images, "float32")
    agree(run(lib, case, doubles(images), wide), wanted, 2.0**-28 * allowance(case, images, "float32"))
