"""`@prop`: a property, written once and tried on every array library, with as many examples as that library has time for.

Properties of whole models (`HEAVY`) try four examples in ten, unless `--full` asks for all.

The examples are the same at every run, unless `--examples N` asks for N times as many new ones; their seed then stands
in the header and beside the counterexample, and `--hypothesis-seed` repeats them.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import wraps
from typing import Any

import pytest
from hypothesis import HealthCheck, Phase, given, note, seed, settings
from hypothesis.strategies import SearchStrategy

TRIES = {"numpy": 25, "numpy-readonly": 5, "strict": 8, "torch": 15, "jax": 2, "jax-jit": 3, "cupy": 5}
HEAVY = ("test_models", "test_planned", "test_precision")
SLOW = [HealthCheck.too_slow, HealthCheck.filter_too_much, HealthCheck.large_base_example]


@contextmanager
def compiled_in_haste(lib: Any) -> Iterator[None]:
    """JAX without most optimizations: here every program runs once or twice, and compiling it is what takes time."""
    if not lib.name.startswith("jax"):
        yield
        return
    import jax

    before = jax.config.read("jax_disable_most_optimizations")
    jax.config.update("jax_disable_most_optimizations", True)
    try:
        yield
    finally:
        jax.config.update("jax_disable_most_optimizations", before)


def prop(most: int = 1000, **drawn: Any) -> Callable[[Callable[..., None]], Callable[..., None]]:
    """Make a test of `check(lib, **examples)`. Each keyword is a strategy, or a function that makes one for a library.

    most: the largest number of examples to try, for properties whose literal side is slow.
    """

    def declare(check: Callable[..., None]) -> Callable[..., None]:
        def test(lib: Any, request: pytest.FixtureRequest) -> None:
            tried, times = [0], request.config.getoption("--examples")
            number = int(request.config.getoption("--hypothesis-seed")) if times else None

            @wraps(check)
            def counted(lib: Any, **examples: Any) -> None:
                tried[0] += 1
                if number is not None:
                    note(f"--examples {times} --hypothesis-seed {number}")
                check(lib, **examples)

            number_of_examples = min(TRIES[lib.name], most) * (times or 1)
            if check.__module__.rpartition(".")[2] in HEAVY and not (times or request.config.getoption("--full")):
                number_of_examples = -(-number_of_examples * 4 // 10)
            strategies = {name: value if isinstance(value, SearchStrategy) else value(lib) for name, value in drawn.items()}
            search = given(**strategies)(counted)
            search = settings(
                max_examples=number_of_examples,
                derandomize=number is None,
                deadline=None,
                database=None,
                phases=(Phase.generate, Phase.shrink),
                suppress_health_check=SLOW,
            )(search)
            with compiled_in_haste(lib):
                (search if number is None else seed(number)(search))(lib)
            request.node.user_properties.append(("examples", tried[0]))

        test.__name__, test.__qualname__, test.__module__ = check.__name__, check.__qualname__, check.__module__
        test.__doc__ = check.__doc__
        return test

    return declare
