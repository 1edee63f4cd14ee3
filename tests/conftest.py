"""Array libraries under test: every test that takes `lib` runs on each of them.

NumPy, NumPy with read-only inputs and array-api-strict are always there. torch and JAX (eagerly and under jit) join
where they are installed; `--libraries` names exactly those to test, and fails where one is missing. CuPy runs behind
the marker `gpu`.

Where tests run side by side (`-n auto`), BLAS has one thread in each worker and in what a worker starts: threads of several
processes that wait for one another on the same cores take many times as long. Tests of threads ask for `all_blas_threads`.
Kernels that are not kept yet are compiled once, ahead of the workers, which wait for them.
"""

import importlib.util
import os
import random
import subprocess
import sys
import tempfile
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from threading import Thread
from typing import Any

import numpy as np
import pytest
import threadpoolctl

HERE = Path(__file__).parent
ALWAYS = ("numpy", "numpy-readonly", "strict")
OPTIONAL = {"torch": "torch", "jax": "jax", "jax-jit": "jax", "cupy": "cupy"}
OF_NO_LIBRARY = {  # files, the Hub, pictures, pages, commands: the same with any array library
    *("catalog/test_labels.py", "catalog/test_published.py", "cli/test_info.py", "docs/test_commands.py", "docs/test_pages.py"),
    *("images/test_images.py", "test_families.py", "test_files.py", "test_house.py", "test_layering.py", "test_mutants.py"),
    "test_public.py",
    *("verification/test_reports.py", "weights/test_fuzz.py", "weights/test_hostile.py", "weights/test_hub.py"),
}
THREADS = ("OPENBLAS_NUM_THREADS", "OMP_NUM_THREADS")  # which NumPy and torch read when they are loaded, as NumPy is by now
BLAS = threadpoolctl.ThreadpoolController().select(user_api="blas").lib_controllers
GRADIENTS = ("torch", "jax-jit")  # libraries that differentiate; tests marked `gradient` run on these
COMPILING = pytest.StashKey["Compiling"]()
SEEN: Counter[str] = Counter()
TRIED: Counter[str] = Counter()
PROPERTIES: set[str] = set()


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


def _to_torch(value: Any) -> Any:
    """A tensor; bfloat16, which torch and NumPy do not exchange, by its bits."""
    import ml_dtypes
    import torch

    array = np.array(value)
    if array.dtype == ml_dtypes.bfloat16:
        return torch.from_numpy(array.view(np.int16)).view(torch.bfloat16)
    return torch.from_numpy(array)


def _from_torch(value: Any) -> np.ndarray:
    import ml_dtypes
    import torch

    value = value.detach()
    if value.dtype == torch.bfloat16:
        return value.contiguous().view(torch.int16).numpy().view(ml_dtypes.bfloat16)
    return value.numpy()


def _make(name: str) -> Library:
    if name == "numpy":
        return Library(name, np.asarray, np.asarray, _same)
    if name == "numpy-readonly":
        return Library(name, _frozen, np.asarray, _same)
    if name == "strict":
        import array_api_strict

        return Library(name, array_api_strict.asarray, np.from_dlpack, _same)
    if name == "torch":
        return Library(name, _to_torch, _from_torch, _same)
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
        help="array libraries to test, separated by commas; a missing one is an error, and tests that concern none are left out"
        " (default: all installed, and all tests)",
    )
    parser.addoption(
        "--full",
        action="store_true",
        help="run the cases marked `full` too, and every property with as many examples as its library has time for",
    )
    parser.addoption(
        "--examples",
        type=int,
        default=0,
        metavar="N",
        help="search for counterexamples: every property tries N times as many examples, new ones at each run",
    )


def installed() -> list[str]:
    return [*ALWAYS, *(name for name, module in OPTIONAL.items() if importlib.util.find_spec(module))]


def chosen(config: pytest.Config) -> list[str]:
    return [name for name in config.getoption("--libraries").split(",") if name] or installed()


def pytest_configure(config: pytest.Config) -> None:
    config.addinivalue_line("markers", "gradient: runs on the libraries that differentiate")
    config.addinivalue_line("markers", "without(*libraries): does not run on these, for which it takes too long")
    if config.getoption("numprocesses", 0) and importlib.util.find_spec("numba"):
        config.stash[COMPILING] = compile_ahead()
    if hasattr(config, "workerinput"):
        for name in THREADS:
            os.environ.setdefault(name, "1")
    if config.getoption("--examples") and config.getoption("--hypothesis-seed") is None:
        config.option.hypothesis_seed = str(random.randrange(2**32))
    wanted = chosen(config)
    missing = [name for name in wanted if name not in installed()]
    if missing:
        raise pytest.UsageError(f"--libraries asks for {', '.join(missing)}, which is not installed")


@dataclass(frozen=True)
class Compiling:
    """A process that compiles numba's kernels, and the file that is locked as long as it does."""

    process: subprocess.Popen[bytes]
    lock: Path


def compile_ahead() -> Compiling:
    """Begin to compile the kernels, where none are kept."""
    import fcntl

    lock, name = tempfile.mkstemp(prefix="reforg-kernels-")
    fcntl.flock(lock, fcntl.LOCK_EX)
    code = "from reforg_numpy.numba_engine.library import kernels; kernels()"
    process = subprocess.Popen([sys.executable, "-c", code], pass_fds=[lock])
    os.close(lock)  # the other process has the file open, and with it the lock
    return Compiling(process, Path(name))


@pytest.hookimpl(optionalhook=True)
def pytest_configure_node(node: Any) -> None:
    compiling = node.config.stash.get(COMPILING, None)
    node.workerinput["compiling"] = str(compiling.lock) if compiling else ""


def pytest_unconfigure(config: pytest.Config) -> None:
    if compiling := config.stash.get(COMPILING, None):
        compiling.lock.unlink()
        if compiling.process.wait():
            raise RuntimeError("the kernels could not be compiled ahead of the workers")


def pytest_report_header(config: pytest.Config) -> str | None:
    times = config.getoption("--examples")
    return f"searching: --examples {times} --hypothesis-seed {config.getoption('--hypothesis-seed')}" if times else None


def pytest_ignore_collect(collection_path: Path, config: pytest.Config) -> bool | None:
    """Where array libraries are named, the tests that none of them concerns are left out."""
    of_none = collection_path in {HERE / name for name in OF_NO_LIBRARY}
    return True if config.getoption("--libraries") and of_none else None


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    if "lib" in metafunc.fixturenames:
        marks = {"cupy": [pytest.mark.gpu]}
        metafunc.parametrize(
            "lib", [pytest.param(name, marks=marks.get(name, [])) for name in chosen(metafunc.config)], indirect=True
        )


ABSENT = {("lib", "strict", "float16"), ("backend", "cupy", "bfloat16")}
"""Dtypes that a library does not have: the standard knows no float16, and CuPy's bfloat16 is partial and not offered."""


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Leave out dtypes that a library does not have, and cases marked `full` without `--full`.

    Tests marked `gpu` say why they do not run where no device answers.
    """
    impossible = [item for item in items if any(_asks_for(item, *absent) for absent in ABSENT) or _left_out(item, config)]
    config.hook.pytest_deselected(items=impossible)
    kept = set(items) - set(impossible)
    items[:] = [item for item in items if item in kept]
    marked = [item for item in items if item.get_closest_marker("gpu")]
    reason = _no_gpu() if marked else ""
    for item in marked:
        if reason:
            item.add_marker(pytest.mark.skip(reason=reason))


def _asks_for(item: pytest.Item, role: str, name: str, dtype: str) -> bool:
    params = getattr(getattr(item, "callspec", None), "params", {})
    return params.get(role) == name and params.get("dtype") == dtype


def _left_out(item: pytest.Item, config: pytest.Config) -> bool:
    """Whether its marks leave it out: it is a further case, wants gradients, or names the library as one that takes too long."""
    if item.get_closest_marker("full") and not config.getoption("--full"):
        return True
    library = getattr(getattr(item, "callspec", None), "params", {}).get("lib")
    without = item.get_closest_marker("without")
    lacking = item.get_closest_marker("gradient") is not None and library not in GRADIENTS
    return lacking or (without is not None and library in without.args)


def _no_gpu() -> str:
    if "cupy" not in installed():
        return "needs CuPy and a CUDA device: CuPy is not installed"
    import cupy

    try:
        cupy.cuda.runtime.getDeviceCount()
    except cupy.cuda.runtime.CUDARuntimeError as error:
        return f"needs a CUDA device: {error}"
    return ""


def set_blas_threads(*counts: int) -> None:
    """From a thread that ends: what a thread sets while it lives, no other can change for it."""
    setting = Thread(target=lambda: [library.set_num_threads(count) for library, count in zip(BLAS, counts, strict=True)])
    setting.start()
    setting.join()


@pytest.fixture(scope="session", autouse=True)
def kernels(request: pytest.FixtureRequest) -> None:
    """A worker begins when the kernels are compiled that another process is compiling for all of them."""
    if name := getattr(request.config, "workerinput", {}).get("compiling"):
        import fcntl

        with Path(name).open() as lock:
            fcntl.flock(lock, fcntl.LOCK_SH)


@pytest.fixture(scope="session", autouse=True)
def blas_threads_before(request: pytest.FixtureRequest) -> list[int]:
    """As many as BLAS has; in a worker it has one from here on."""
    before = [library.get_num_threads() for library in BLAS]
    if hasattr(request.config, "workerinput"):
        set_blas_threads(*[1] * len(BLAS))
    return before


@pytest.fixture
def all_blas_threads(blas_threads_before: list[int]) -> Iterator[None]:
    """BLAS has all of its threads meanwhile."""
    now = [library.get_num_threads() for library in BLAS]
    set_blas_threads(*blas_threads_before)
    yield
    set_blas_threads(*now)


@pytest.fixture
def lib(request: pytest.FixtureRequest) -> Library:
    request.node.user_properties.append(("library", request.param))
    return _make(request.param)


def pytest_runtest_logreport(report: pytest.TestReport) -> None:
    if report.when == "call" and report.passed:
        told = dict(report.user_properties)
        if "library" in told:
            SEEN[told["library"]] += 1
        if "examples" in told:
            TRIED[told["library"]] += told["examples"]
            PROPERTIES.add(report.nodeid.partition("[")[0])


def pytest_terminal_summary(terminalreporter: Any) -> None:
    counts = ", ".join(f"{name} {count}" for name, count in sorted(SEEN.items()) if count)
    tried = ", ".join(f"{name} {count}" for name, count in sorted(TRIED.items()))
    absent = [name for name in OPTIONAL if name not in installed()]
    terminalreporter.write_line(f"tests passed by array library: {counts or 'none'}")
    if tried:
        terminalreporter.write_line(f"properties: {len(PROPERTIES)}; examples tried by array library: {tried}")
    if absent:
        terminalreporter.write_line(f"not installed, so not tested: {', '.join(absent)}")
