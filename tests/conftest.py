"""Array libraries under test: every test that takes `lib` runs on each of them.

NumPy, NumPy with read-only inputs and array-api-strict are always there. torch and JAX (eagerly and under jit) join
where they are installed; `--libraries` names exactly those to test, and fails where one is missing. CuPy runs behind
the marker `gpu`.
"""

import importlib.util
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import pytest

ALWAYS = ("numpy", "numpy-readonly", "strict")
OPTIONAL = {"torch": "torch", "jax": "jax", "jax-jit": "jax", "cupy": "cupy"}
SEEN: Counter[str] = Counter()


@dataclass(frozen=True)
class Library:
    """How a test speaks to one array library."""

    name: str
    asarray: Callable[[Any], Any]
    to_numpy: Callable[[Any], np.ndarray]
    compile: Callable[[Callable[..., Any]], Callable[..., Any]]

    def run(self, function: Callable[..., Any], *arrays: Any, **settings: Any) -> Any:
        """`function` of NumPy arrays (None and mappings of them too), computed by this library, as NumPy arrays."""
        compiled = self.compile(lambda *values: function(*values, **settings))
        return self.back(compiled(*[self.move(array) for array in arrays]))

    def move(self, value: Any) -> Any:
        if value is None:
            return None
        if isinstance(value, dict):
            return {name: self.move(entry) for name, entry in value.items()}
        return self.asarray(value)

    def back(self, value: Any) -> Any:
        if isinstance(value, tuple | list):
            return type(value)(self.back(entry) for entry in value)
        if isinstance(value, dict):
            return {name: self.back(entry) for name, entry in value.items()}
        return self.to_numpy(value)


def _same(value: Any) -> Any:
    return value


def _frozen(value: Any) -> np.ndarray:
    array = np.array(value)
    array.flags.writeable = False
    return array


def _make(name: str) -> Library:
    if name == "numpy":
        return Library(name, np.asarray, np.asarray, _same)
    if name == "numpy-readonly":
        return Library(name, _frozen, np.asarray, _same)
    if name == "strict":
        import array_api_strict

        return Library(name, array_api_strict.asarray, np.from_dlpack, _same)
    if name == "torch":
        import torch

        return Library(name, lambda x: torch.from_numpy(np.array(x)), lambda x: x.detach().numpy(), _same)
    if name == "cupy":
        import cupy

        return Library(name, cupy.asarray, cupy.asnumpy, _same)
    import jax

    jax.config.update("jax_enable_x64", True)
    return Library(name, jax.numpy.asarray, np.asarray, jax.jit if name == "jax-jit" else _same)


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption(
        "--libraries",
        default="",
        help="array libraries to test, separated by commas; a missing one is an error (default: all installed)",
    )


def installed() -> list[str]:
    return [*ALWAYS, *(name for name, module in OPTIONAL.items() if importlib.util.find_spec(module))]


def chosen(config: pytest.Config) -> list[str]:
    return [name for name in config.getoption("--libraries").split(",") if name] or installed()


def pytest_configure(config: pytest.Config) -> None:
    wanted = chosen(config)
    missing = [name for name in wanted if name not in installed()]
    if missing:
        raise pytest.UsageError(f"--libraries asks for {', '.join(missing)}, which is not installed")


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    if "lib" in metafunc.fixturenames:
        marks = {"cupy": [pytest.mark.gpu]}
        metafunc.parametrize(
            "lib", [pytest.param(name, marks=marks.get(name, [])) for name in chosen(metafunc.config)], indirect=True
        )


ABSENT = {("lib", "strict", "float16"), ("backend", "cupy", "bfloat16")}
"""Dtypes that a library does not have: the standard knows no float16, and CuPy's bfloat16 is partial and not offered."""


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Leave out dtypes that a library does not have; tests marked `gpu` say why they do not run where no device answers."""
    impossible = [item for item in items if any(_asks_for(item, *absent) for absent in ABSENT)]
    config.hook.pytest_deselected(items=impossible)
    items[:] = [item for item in items if item not in impossible]
    marked = [item for item in items if item.get_closest_marker("gpu")]
    reason = _no_gpu() if marked else ""
    for item in marked:
        if reason:
            item.add_marker(pytest.mark.skip(reason=reason))


def _asks_for(item: pytest.Item, role: str, name: str, dtype: str) -> bool:
    params = getattr(getattr(item, "callspec", None), "params", {})
    return params.get(role) == name and params.get("dtype") == dtype


def _no_gpu() -> str:
    if "cupy" not in installed():
        return "needs CuPy and a CUDA device: CuPy is not installed"
    import cupy

    try:
        cupy.cuda.runtime.getDeviceCount()
    except cupy.cuda.runtime.CUDARuntimeError as error:
        return f"needs a CUDA device: {error}"
    return ""


@pytest.fixture
def lib(request: pytest.FixtureRequest) -> Library:
    request.node.user_properties.append(("library", request.param))
    return _make(request.param)


def pytest_runtest_logreport(report: pytest.TestReport) -> None:
    if report.when == "call" and report.passed:
        SEEN.update(value for name, value in report.user_properties if name == "library")


def pytest_terminal_summary(terminalreporter: Any) -> None:
    counts = ", ".join(f"{name} {count}" for name, count in sorted(SEEN.items()) if count)
    absent = [name for name in OPTIONAL if name not in installed()]
    terminalreporter.write_line(f"tests passed by array library: {counts or 'none'}")
    if absent:
        terminalreporter.write_line(f"not installed, so not tested: {', '.join(absent)}")
