"""The Python files of this project, and which of them imports which: wherever the import stands, and whatever it is for."""

import ast
from collections.abc import Iterator
from functools import cache
from graphlib import CycleError, TopologicalSorter
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
PACKAGES = ("reforg", "backends/reforg_*", "golden/reforg_*")


def folders(root: Path = ROOT) -> list[Path]:
    """The import packages of a tree of this project: reforg, every backend, the golden cases."""
    return sorted(folder for pattern in PACKAGES for folder in root.glob(pattern) if folder.is_dir())


def python_files(root: Path = ROOT) -> list[Path]:
    """Every file of every package."""
    return sorted(path for folder in folders(root) for path in folder.rglob("*.py"))


@cache
def parsed(path: Path) -> ast.Module:
    return ast.parse(path.read_text(encoding="utf-8"))


@cache
def modules(root: Path = ROOT) -> dict[str, Path]:
    """Dotted name -> file; a package's name is that of its `__init__`."""
    found = {}
    for folder in folders(root):
        for path in folder.rglob("*.py"):
            parts = path.relative_to(folder.parent).with_suffix("").parts
            found[".".join(parts[:-1] if parts[-1] == "__init__" else parts)] = path
    return found


def _asked(path: Path) -> Iterator[tuple[str, str]]:
    """(module, name taken from it or "") of every import statement of a file, at its top, in functions and under TYPE_CHECKING."""
    for node in ast.walk(parsed(path)):
        if isinstance(node, ast.Import):
            yield from ((alias.name, "") for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert not node.level, f"{path}: imports name their module in full"
            yield from ((node.module, alias.name) for alias in node.names)


def imports(path: Path, root: Path = ROOT) -> set[str]:
    """The modules that a file imports. `from reforg.x import y` imports module y where there is one, and else module x."""
    known = modules(root)
    return {f"{module}.{name}" if name and f"{module}.{name}" in known else module for module, name in _asked(path)}


def graph(root: Path = ROOT) -> dict[Path, list[Path]]:
    """File -> the files of these packages that it imports.

    The root `reforg/__init__.py` is left out: it names everything that is public, and opens it when it is asked for.
    """
    known = modules(root)
    public = known.get("reforg")
    files = {path: [known[name] for name in sorted(imports(path, root)) if name in known] for path in known.values()}
    return {path: [other for other in others if other != public] for path, others in files.items() if path != public}


def circles(files: dict[Path, list[Path]]) -> list[list[Path]]:
    """Circles of files that import each other: one that is found, what is found when it has been cut open, and so on."""
    left = {path: set(others) for path, others in files.items()}
    found = []
    while True:
        try:
            TopologicalSorter({path: sorted(left[path]) for path in sorted(left)}).prepare()
        except CycleError as error:
            circle = error.args[1][::-1]  # graphlib lists each file before the one that imports it
            left[circle[0]].remove(circle[1])
            found.append(circle)
        else:
            return found


def in_words(circle: list[Path], root: Path = ROOT) -> str:
    """A circle as a line: each file imports the one after it."""
    return " -> ".join(path.relative_to(root).as_posix() for path in circle)
