"""The reference can be differentiated: gradients by torch and JAX against differences of the papers' loops, in float64."""

import literal
import numpy as np
import pytest
from examples import prop
from hypothesis import assume
from strategies import clear_choice, evits, normal, seeds, shunteds

from reforg import shunted, vit

STEP = 1e-7


def slope(lib, loss, weights, images, along):
    """The derivative of `loss(weights, images)` along a direction of every weight and pixel, by the library's gradient."""
    point = {**weights, "images": images}
    if lib.name == "torch":
        moved = {name: lib.move(value).requires_grad_() for name, value in point.items()}
        loss({name: moved[name] for name in weights}, moved["images"]).backward()
        slopes = {name: value.grad for name, value in moved.items()}
        assert all(value is not None for value in slopes.values()), "a weight without a gradient"
    else:
        import jax

        gradient = jax.jit(jax.grad(lambda at: loss({name: at[name] for name in weights}, at["images"])))
        slopes = gradient(lib.move(point))
    return sum(float((lib.back(value) * along[name]).sum()) for name, value in slopes.items())


def differentiates(lib, case, seed, module, one):
    """Assert that the slope is the central difference, as far as that one is sure of itself.

    The difference errs by h^2/6 times the third derivative, which is a third of what it changes by from h to 2 h, and by the
    roundings of the loss, some hundred of 2^-53 of it, divided by h.
    """
    weights, images = case.weights(), case.images(seed, 1)
    if module is vit:
        clear_choice(case, images, "float32")  # so far from a tie that a step does not change the selection
    mix = normal(seed, case.config.num_classes)
    along = {name: normal(seed + 1 + k, *value.shape) for k, (name, value) in enumerate([*weights.items(), ("images", images)])}

    def loss(own, x):
        y = module.forward(own, x, case.config)
        return sum(float(m) * y[0, k] for k, m in enumerate(mix))

    def at(step):
        own = {name: value + step * along[name] for name, value in weights.items()}
        return float(mix @ one(own, (images + step * along["images"])[0], case.config))

    near, far = ((at(h) - at(-h)) / (2 * h) for h in (STEP, 2 * STEP))
    limit = abs(far - near) + 100 * 2.0**-53 * (abs(at(0.0)) + np.abs(mix).sum()) / STEP
    assume(limit < 1e-4 * np.abs(near) + 1e-4)  # else a ReLU turns between the two points
    got = slope(lib, loss, weights, images, along)
    assert abs(got - near) <= limit, f"slope {got}, difference {near}, allowed {limit:.1e}"


def with_classes(lib):
    return evits(lib).map(lambda case: case.changed(num_classes=3))


@pytest.mark.gradient
@prop(most=10, case=with_classes, seed=seeds)
def test_the_gradient_is_the_slope(lib, case, seed):
    differentiates(lib, case, seed, vit, literal.vit)


@pytest.mark.gradient
@pytest.mark.without("jax-jit")  # which takes a quarter of a minute to compile it
@prop(most=4, case=lambda lib: shunteds(lib).map(lambda case: case.changed(num_classes=3)), seed=seeds)
def test_the_gradient_of_shunted_is_the_slope(lib, case, seed):
    differentiates(lib, case, seed, shunted, literal.shunted)
