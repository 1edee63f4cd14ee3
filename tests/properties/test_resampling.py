"""Resampling of images and of position embeddings: against Keys' kernel in loops, and what any resampling must keep."""

import literal
import numpy as np
from examples import prop
from hypothesis import strategies as st
from strategies import doubles, dtypes, grids, near, normal, seeds, vits

from reforg import ops, vit

methods = st.sampled_from(["bicubic", "bilinear"])
choices = st.booleans()
GROWTH = 2.0  # of a number under one axis' taps: the sizes of a row's weights sum to 1.6 at most


def sides(lib):
    """Rows and columns, 1 to 9 of each."""
    return st.sampled_from([(4, 3), (2, 5)]) if lib.name.startswith("jax") else st.tuples(st.integers(1, 9), st.integers(1, 9))


def resized(lib, x, size, method, antialias):
    return lib.run(ops.resize, x, size=size, method=method, antialias=antialias)


def size_of(x):
    return GROWTH**2 * np.abs(doubles(x)).max(initial=0.0)


@prop(seed=seeds, source=sides, target=sides, method=methods, antialias=choices, dtype=dtypes)
def test_resampling_weighs_the_pixels_by_its_kernel(lib, seed, source, target, method, antialias, dtype):
    x = normal(seed, 2, 2, *source, dtype=dtype)
    wanted = [literal.resize(doubles(image), target, method, antialias) for image in x]
    near(resized(lib, x, target, method, antialias), wanted, dtype, 2 * (4 + max(source)), size_of(x))


@prop(seed=seeds, source=sides, method=methods, antialias=choices, dtype=dtypes)
def test_resampling_to_the_same_size_changes_nothing(lib, seed, source, method, antialias, dtype):
    x = normal(seed, 2, 2, *source, dtype=dtype)
    np.testing.assert_array_equal(resized(lib, x, source, method, antialias), x)


@prop(value=st.floats(-8.0, 8.0, width=16), source=sides, target=sides, method=methods, antialias=choices, dtype=dtypes)
def test_resampling_leaves_constants_constant(lib, value, source, target, method, antialias, dtype):
    x = np.full((1, 1, *source), value).astype(normal(0, dtype=dtype).dtype)
    wanted = np.full((1, 1, *target), float(x.ravel()[0]))
    near(resized(lib, x, target, method, antialias), wanted, dtype, 2 * (4 + max(source)), size_of(x))


@prop(seed=seeds, source=sides, target=sides, method=methods, antialias=choices, factor=st.integers(-3, 3))
def test_resampling_is_linear(lib, seed, source, target, method, antialias, factor):
    x, other = normal(seed, 1, 2, *source), normal(seed + 1, 1, 2, *source)
    got = resized(lib, x + factor * other, target, method, antialias)
    wanted = resized(lib, x, target, method, antialias) + factor * resized(lib, other, target, method, antialias)
    near(got, wanted, "float64", 40, size_of(x) + 3 * size_of(other))


@prop(seed=seeds, source=sides, target=sides, method=methods, antialias=choices)
def test_resampling_a_mirrored_image_mirrors_the_result(lib, seed, source, target, method, antialias):
    x = normal(seed, 1, 2, *source)
    plain = resized(lib, x, target, method, antialias)
    for axis in (2, 3):
        mirrored = resized(lib, np.flip(x, axis).copy(), target, method, antialias)
        near(mirrored, np.flip(plain, axis), "float64", 40, size_of(x))


@prop(seed=seeds, source=sides, target=sides, method=methods, antialias=choices)
def test_rows_and_columns_are_resampled_alike(lib, seed, source, target, method, antialias):
    x = normal(seed, 1, 2, *source)
    turned = resized(lib, x.swapaxes(2, 3).copy(), target[::-1], method, antialias)
    near(turned.swapaxes(2, 3), resized(lib, x, target, method, antialias), "float64", 40, size_of(x))


@prop(seed=seeds, source=sides, target=sides, method=methods, antialias=choices)
def test_rows_and_columns_are_resampled_one_after_the_other_in_any_order(lib, seed, source, target, method, antialias):
    x = normal(seed, 1, 2, *source)
    both = resized(lib, x, target, method, antialias)
    for between in ((target[0], source[1]), (source[0], target[1])):
        steps = resized(lib, resized(lib, x, between, method, antialias), target, method, antialias)
        near(steps, both, "float64", 40, size_of(x))


@prop(seed=seeds, source=sides, more=sides)
def test_bilinear_enlarging_needs_no_antialiasing(lib, seed, source, more):
    x, target = normal(seed, 1, 2, *source), tuple(a + b for a, b in zip(source, more, strict=True))
    near(resized(lib, x, target, "bilinear", True), resized(lib, x, target, "bilinear", False), "float64", 40, size_of(x))


@prop(case=vits, target=grids, seed=seeds)
def test_positions_are_resampled_over_the_grid_and_special_tokens_keep_theirs(lib, case, target, seed):
    config, special = case.config, 1 + case.config.distilled
    table = normal(seed, 1, special + case.patches, config.embed_dim)
    got = lib.run(lambda x: vit.resample_positions(x, special, config.grid, target, config.antialias), table)
    maps = literal.on_grid(table[0, special:], config.grid)
    wanted = [*table[0, :special], *literal.row_order(literal.resize(maps, target, "bicubic", config.antialias))]
    near(got, [wanted], "float64", 40, size_of(table))
    np.testing.assert_array_equal(got[:, :special], table[:, :special])
