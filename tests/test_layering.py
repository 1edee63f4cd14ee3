"""Dependencies run one way, file by file, and importing reforg costs next to nothing.

Every import counts, also those inside functions and those under TYPE_CHECKING. `source_files` reads them.
"""

import os
import re
import subprocess
import sys
import tomllib
from importlib.metadata import entry_points
from pathlib import Path

import pytest
import source_files
from source_files import ROOT

SOURCE = ROOT / "reforg"
FRAMEWORKS = {
    *("torch", "jax", "jaxlib", "cupy", "onnxruntime", "tensorflow", "matplotlib"),
    *("PIL", "rich", "typer", "safetensors", "huggingface_hub", "pyarrow"),
}
# A file of a line may import files of the lines above it, and of its own folder; two that share a line do not import each other.
ORDER = """
errors version
arrays
host files
ops config
plans
parameters tokens
evit
vit shunted
families
catalog
images costs
weights
models
classification verification bench demo
cli
__main__
"""
INSIDE_VERIFICATION = """
findings
error_model
candidate replay
diagnosis
show
report
verifier
"""
REFERENCE = ("arrays", "ops", "config", "plans", "evit", "vit", "shunted", "errors")


def lines_of(order: str) -> dict[str, int]:
    """Name of a module or folder -> number of its line, counted from the lowest."""
    return {name: number for number, line in enumerate(order.split("\n")) for name in line.split()}


def place(path: Path, folder: Path) -> str | None:
    """The module or folder directly in `folder` that a file belongs to; None for files elsewhere, and for its `__init__`."""
    if folder not in path.parents or path == folder / "__init__.py":
        return None
    return path.relative_to(folder).parts[0].removesuffix(".py")


def against_the_order(folder: Path, order: str, root: Path = ROOT) -> list[str]:
    """Imports below `folder` that the order does not allow, each as a line."""
    lines = lines_of(order)
    return [
        f"{path.relative_to(root)} imports {other.relative_to(root)}"
        for path, others in source_files.graph(root).items()
        for other in others
        if (own := place(path, folder)) and (below := place(other, folder)) and own != below and lines[below] >= lines[own]
    ]


@pytest.mark.parametrize(
    ("folder", "order"), [(SOURCE, ORDER), (SOURCE / "verification", INSIDE_VERIFICATION)], ids=["reforg", "verification"]
)
def test_a_module_imports_only_what_stands_below_it(folder, order):
    assert {name for path in folder.rglob("*.py") if (name := place(path, folder))} <= set(lines_of(order))
    assert not against_the_order(folder, order)


def test_no_files_import_each_other_in_a_circle():
    assert [source_files.in_words(circle) for circle in source_files.circles(source_files.graph())] == []


def test_nobody_imports_the_root_which_imports_everything():
    importing = {path for path in source_files.python_files() if "reforg" in source_files.imports(path)}
    assert not importing - {SOURCE / "__init__.py"}


INNER = {
    "at its top": "from reforg import low",
    "in a function": "def f():\n    import reforg.low",
    "in a method, of a name": "class C:\n    def f(self):\n        from reforg.low import value",
    "for types": "from typing import TYPE_CHECKING\n\nif TYPE_CHECKING:\n    from reforg.low import value",
}


@pytest.mark.parametrize("inner", INNER.values(), ids=INNER)
def test_a_circle_and_a_breach_are_seen_wherever_the_import_stands(tmp_path, inner):
    (tmp_path / "reforg").mkdir()
    for name, text in (("__init__", ""), ("low", "from reforg.high import value"), ("high", inner), ("apart", "import reforg.low")):
        (tmp_path / "reforg" / f"{name}.py").write_text(text, encoding="utf-8")
    found = source_files.circles(source_files.graph(tmp_path))
    assert [source_files.in_words(circle, tmp_path) for circle in found] == ["reforg/low.py -> reforg/high.py -> reforg/low.py"]
    breaches = ["reforg/low.py imports reforg/high.py", "reforg/apart.py imports reforg/low.py"]
    assert sorted(against_the_order(tmp_path / "reforg", "low apart\nhigh", tmp_path)) == sorted(breaches)


@pytest.mark.parametrize("path", sorted(SOURCE.rglob("*.py")), ids=lambda path: str(path.relative_to(SOURCE)))
def test_the_reference_imports_array_api_compat_and_the_standard_library_only(path):
    if place(path, SOURCE) not in REFERENCE:
        return
    allowed = {"reforg", "array_api_compat", *sys.stdlib_module_names}
    assert {name.split(".")[0] for name in source_files.imports(path)} <= allowed


def test_no_framework_and_no_backend_is_named_in_the_reference_or_the_models():
    for path in SOURCE.rglob("*.py"):
        named = {name.split(".")[0] for name in source_files.imports(path)}
        assert not named & {"torch", "jax", "cupy", "reforg_numpy", "reforg_torch", "reforg_jax", "reforg_cupy"}, path


# What single files may import besides: the program that a peer runs, and what exports to it. JAX's peer is the reference itself,
# compiled, so it alone has reforg's forward passes; the other peers would be no second opinion if they had.
BESIDES = {
    "reforg_torch/peer/exported.py": {"onnxscript"},
    "reforg_onnx/peer/onnxruntime.py": {"onnxruntime"},
    "reforg_onnx/peer/openvino.py": {"openvino"},
    "reforg_jax/peer.py": {"reforg.families"},
}


def test_plans_import_the_operations_and_the_configs_only():
    of_plans = [others for path, others in source_files.graph().items() if place(path, SOURCE) == "plans"]
    assert {place(other, SOURCE) for others in of_plans for other in others} <= {"ops", "config", "plans"}


def test_a_backend_imports_only_the_operations_and_its_own_framework():
    for folder in (ROOT / "backends").glob("reforg_*"):
        own = folder.name.removeprefix("reforg_")
        allowed = {"reforg", "array_api_compat", "numpy", "ml_dtypes", "threadpoolctl", own, folder.name, *sys.stdlib_module_names}
        allowed |= {"numba", "llvmlite"} if own == "numpy" else set()  # compiles kernels on NumPy's arrays
        for path in folder.rglob("*.py"):
            besides = BESIDES.get(path.relative_to(folder.parent).as_posix(), set())
            seen = r"reforg\.config" if "peer" in path.with_suffix("").parts else r"reforg\.(ops|plans(\..+)?)"
            for name in source_files.imports(path):
                package = name.split(".")[0]
                assert package in allowed | besides, f"{path} imports {name}"
                assert package != "reforg" or re.fullmatch(seen, name) or name in besides, f"{path} imports {name}"


def test_files_that_may_import_more_are_there_and_do():
    for path, besides in BESIDES.items():
        assert besides <= source_files.imports(ROOT / "backends" / path), path


def test_model_files_are_short():
    for name in ("vit.py", "evit.py", "shunted.py"):
        assert len((SOURCE / name).read_text(encoding="utf-8").splitlines()) <= 200


def test_importing_reforg_loads_no_framework():
    code = "import sys, reforg; reforg.list_models(); print(*sorted({name.split('.')[0] for name in sys.modules}))"
    loaded = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True).stdout.split()
    assert not FRAMEWORKS & set(loaded)


def test_importing_reforg_takes_no_longer_than_importing_numpy(tmp_path):
    code = (
        "from clock import now\nt = [now()]\nfor name in 'numpy', 'reforg.models.creation':\n"
        "    __import__(name)\n    t.append(now())\nprint(t[1] - t[0], t[2] - t[1])"
    )
    compiled = {name: value for name, value in os.environ.items() if name != "PYTHONDONTWRITEBYTECODE"}
    compiled["PYTHONPYCACHEPREFIX"] = str(tmp_path)  # from the second start on, sources are compiled, as where reforg is installed
    compiled["PYTHONPATH"] = os.pathsep.join([str(ROOT / "tests" / "tools"), *filter(None, [os.environ.get("PYTHONPATH")])])

    def seconds():
        started = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True, env=compiled)
        return map(float, started.stdout.split())

    seconds()
    numpys, reforgs = zip(*(seconds() for _ in range(7)), strict=True)
    assert min(reforgs) < min(numpys)


def test_every_backend_folder_is_an_entry_point():
    declared = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]["entry-points"]
    groups = [declared["reforg.backends"], declared["reforg.peers"]]
    named = {module.split(".")[0] for group in groups for module in group.values()}
    assert named == {path.name for path in (ROOT / "backends").glob("reforg_*")}
    assert {point.name for point in entry_points(group="reforg.backends")} >= set(groups[0])


def test_golden_recording_scripts_never_import_reforg():
    for path in (ROOT / "golden" / "record").glob("*.py"):
        assert not {name for name in source_files.imports(path) if name.split(".")[0].startswith("reforg")}, path
