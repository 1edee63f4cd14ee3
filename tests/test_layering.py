"""Dependencies run one way, and importing reforg costs next to nothing."""

import ast
import os
import subprocess
import sys
import tomllib
from importlib.metadata import entry_points
from pathlib import Path

import pytest

import reforg

SOURCE = Path(reforg.__file__).parent
ROOT = SOURCE.parent
FRAMEWORKS = {
    *("torch", "jax", "jaxlib", "cupy", "onnxruntime", "tensorflow", "matplotlib"),
    *("PIL", "rich", "typer", "safetensors", "huggingface_hub", "pyarrow"),
}
# Which modules of reforg a module may import when it is imported; everything else is imported where it is used.
LAYERS = (
    *("errors", "dtypes", "arrays", "host", "ops", "config", "evit", "vit", "shunted", "parameters", "names", "costs", "synthetic"),
    *("sources", "files", "checkpoints", "contents", "containers", "spelling_tables", "spellings", "mismatch"),
    *("preprocessing", "transforms"),
    *("formats", "colours", "images", "labels", "published", "hub", "loading", "embedded", "weights"),
    *("backend", "environment", "tokens", "models", "creation", "classification", "picture", "demo", "convert", "bench"),
    *("verification", "simulation", "cli", "__main__"),
)
REFERENCE = ("arrays", "ops", "config", "evit", "vit", "shunted", "errors")


def module_of(path: Path) -> str:
    return path.relative_to(SOURCE).parts[0].removesuffix(".py")


def imports(path: Path) -> list[tuple[str, bool]]:
    """Every module that a file imports, and whether it does so at its top level."""
    tree = ast.parse(path.read_text(encoding="utf-8"))
    top = {id(node) for node in tree.body}
    found = []
    for node in ast.walk(tree):
        names = [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
        if isinstance(node, ast.ImportFrom):
            names = [f"reforg.{alias.name}" for alias in node.names] if node.module == "reforg" else [node.module or ""]
        found += [(name, id(node) in top) for name in names]
    return found


@pytest.mark.parametrize("path", sorted(SOURCE.rglob("*.py")), ids=lambda path: str(path.relative_to(SOURCE)))
def test_a_module_imports_only_what_stands_below_it(path):
    own = module_of(path)
    if own == "__init__":
        return  # imports lazily; see below
    for name, at_top in imports(path):
        if name.startswith("reforg.") and at_top:
            other = name.split(".")[1]
            assert other == own or LAYERS.index(other) < LAYERS.index(own), f"{own} imports {other}"


@pytest.mark.parametrize("path", sorted(SOURCE.rglob("*.py")), ids=lambda path: str(path.relative_to(SOURCE)))
def test_the_reference_imports_array_api_compat_and_the_standard_library_only(path):
    if module_of(path) not in REFERENCE:
        return
    allowed = {"reforg", "array_api_compat", *sys.stdlib_module_names}
    assert {name.split(".")[0] for name, _ in imports(path)} <= allowed


def test_no_framework_and_no_backend_is_named_in_the_reference_or_the_models():
    for path in SOURCE.rglob("*.py"):
        named = {name.split(".")[0] for name, _ in imports(path)}
        assert not named & {"torch", "jax", "cupy", "reforg_numpy", "reforg_torch", "reforg_jax", "reforg_cupy"}, path


# What single files may import besides: the program that a peer runs, and what exports to it. JAX's peer is the reference itself,
# compiled, so it alone has reforg's forward passes; the other peers would be no second opinion if they had.
BESIDES = {
    "reforg_torch/peer/exported.py": {"onnxscript"},
    "reforg_onnx/peer/onnxruntime.py": {"onnxruntime"},
    "reforg_onnx/peer/openvino.py": {"openvino"},
    "reforg_jax/peer.py": {"reforg.families"},
}


def test_a_backend_imports_only_the_operations_and_its_own_framework():
    for folder in (ROOT / "backends").glob("reforg_*"):
        own = folder.name.removeprefix("reforg_")
        allowed = {"reforg", "array_api_compat", "numpy", "ml_dtypes", "threadpoolctl", own, folder.name, *sys.stdlib_module_names}
        allowed |= {"numba", "llvmlite"} if own == "numpy" else set()  # compiles kernels on NumPy's arrays
        for path in folder.rglob("*.py"):
            besides = BESIDES.get(path.relative_to(folder.parent).as_posix(), set())
            seen = "reforg.config" if "peer" in path.with_suffix("").parts else "reforg.ops"
            for name, _ in imports(path):
                assert name.split(".")[0] in allowed | besides, f"{path} imports {name}"
                assert not name.startswith("reforg.") or name in {seen} | besides, f"{path} imports {name}"


def test_files_that_may_import_more_are_there_and_do():
    for path, besides in BESIDES.items():
        assert besides <= {name for name, _ in imports(ROOT / "backends" / path)}, path


def test_model_files_are_short():
    for name in ("vit.py", "evit.py", "shunted.py"):
        assert len((SOURCE / name).read_text(encoding="utf-8").splitlines()) <= 200


def test_importing_reforg_loads_no_framework():
    code = "import sys, reforg; reforg.list_models(); print(*sorted({name.split('.')[0] for name in sys.modules}))"
    loaded = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True).stdout.split()
    assert not FRAMEWORKS & set(loaded)


def test_importing_reforg_takes_no_longer_than_importing_numpy(tmp_path):
    code = (
        "import time\nt = [time.perf_counter()]\nfor name in 'numpy', 'reforg.models.creation':\n"
        "    __import__(name)\n    t.append(time.perf_counter())\nprint(t[1] - t[0], t[2] - t[1])"
    )
    compiled = {name: value for name, value in os.environ.items() if name != "PYTHONDONTWRITEBYTECODE"}
    compiled["PYTHONPYCACHEPREFIX"] = str(tmp_path)  # from the second start on, sources are compiled, as where reforg is installed

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
        assert not {name for name, _ in imports(path) if name.split(".")[0].startswith("reforg")}, path
