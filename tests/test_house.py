"""How large things may grow, and that every folder says what it is: so that a newcomer finds the way without a guide.

What is apart, and why, is said by where it lies or how it is declared, never by its name:

- constructors (`__init__`) may have more parameters: they fill the fields of an object;
- kernels (functions in a backend's folder `kernels`) may have more parameters: what is compiled takes arrays, places and sizes
  one by one;
- the signature of a command (a function under `@app.command` or `@app.callback`) is the table of its options: its parameters and
  its lines do not count, what it does below them counts as everywhere.
"""

import ast
import re
from collections.abc import Iterator
from pathlib import Path

import pytest
from source_files import ROOT, folders, parsed, python_files

ENTRIES = 30  # directly in reforg/: what its listing shows at once
MODULES = 14  # of a folder, its __init__ among them
LINES = 300  # of a module
BODY = 40  # lines of a function
PARAMETERS = 9
Function = ast.FunctionDef | ast.AsyncFunctionDef


def sources(root: Path = ROOT) -> list[Path]:
    """The packages' files, and the scripts that write pages and golden files."""
    return sorted([*python_files(root), *root.glob("docs/*.py"), *root.glob("golden/record/*.py")])


def functions(path: Path) -> Iterator[Function]:
    return (node for node in ast.walk(parsed(path)) if isinstance(node, Function))


def is_command(function: Function) -> bool:
    return any(re.match(r"app\.(command|callback)\(", ast.unparse(decorator)) for decorator in function.decorator_list)


def length(function: Function) -> int:
    """Lines from `def` to the end; of a command, those below its signature."""
    first = function.body[0] if is_command(function) else function
    return function.end_lineno - first.lineno + 1


def parameters(path: Path, function: Function) -> int:
    """How many there are, `self`, `*args` and `**kwargs` among them; none where they are apart."""
    if function.name == "__init__" or is_command(function) or path.parent.name == "kernels":
        return 0
    own = function.args
    every = [*own.posonlyargs, *own.args, *own.kwonlyargs, own.vararg, own.kwarg]
    return sum(argument is not None for argument in every)


def crowded(root: Path = ROOT) -> list[str]:
    """Folders with too much in them."""
    entries = [entry for entry in (root / "reforg").iterdir() if entry.name != "__pycache__"]
    found = [f"reforg: {len(entries)} entries"] if len(entries) > ENTRIES else []
    counts = {folder: len(list(folder.glob("*.py"))) for folder in {path.parent for path in sources(root)}}
    return found + [f"{folder.relative_to(root)}: {count} modules" for folder, count in sorted(counts.items()) if count > MODULES]


def long_modules(root: Path = ROOT) -> list[str]:
    counts = {path: len(path.read_text(encoding="utf-8").splitlines()) for path in sources(root)}
    return [f"{path.relative_to(root)}: {count} lines" for path, count in counts.items() if count > LINES]


def long_functions(root: Path = ROOT) -> list[str]:
    every = [(path, function, length(function)) for path in sources(root) for function in functions(path)]
    return [f"{path.relative_to(root)}: {function.name} has {count} lines" for path, function, count in every if count > BODY]


def wide_functions(root: Path = ROOT) -> list[str]:
    every = [(path, function, parameters(path, function)) for path in sources(root) for function in functions(path)]
    named = ((f"{path.relative_to(root)}: {function.name}", count) for path, function, count in every)
    return [f"{name} has {count} parameters" for name, count in named if count > PARAMETERS]


def test_folders_are_listed_at_a_glance():
    assert crowded() == []


def test_modules_are_short():
    assert long_modules() == []


def test_functions_are_short():
    assert long_functions() == []


def test_functions_take_few_parameters():
    assert wide_functions() == []


FOLDERS = sorted({path.parent for folder in folders() for path in folder.rglob("*.py")})


@pytest.mark.parametrize("folder", FOLDERS, ids=lambda folder: folder.relative_to(ROOT).as_posix())
def test_a_folder_says_what_lives_there_what_it_may_import_and_where_to_start(folder):
    told = ast.get_docstring(parsed(folder / "__init__.py")) or ""
    assert len(told.splitlines()) >= 3
    assert re.search("[Mm]ay import ", told.replace("\n", " "))
    (start,) = re.findall(r"Start with `([\w.]+)", told.replace("\n", " "))
    first = start.partition(".")[0]
    defined = {node.id for node in ast.walk(parsed(folder / "__init__.py")) if isinstance(node, ast.Name)}
    defined |= {node.name for node in parsed(folder / "__init__.py").body if isinstance(node, Function)}
    assert first in defined or (folder / first).is_dir() or (folder / f"{first}.py").is_file()


@pytest.mark.parametrize("folder", ["reforg/data", "golden"])
def test_a_folder_without_a_package_has_a_readme(folder):
    assert len((ROOT / folder / "README.md").read_text(encoding="utf-8").splitlines()) >= 3


# The checks above, on files that are too large on purpose.

LONG = "def f():\n" + "    x = 1\n" * 40
WIDE = "def f(self, a, b, c, d, e, /, f, *args, g, **rest):\n    pass\n"


def written(root: Path, name: str, text: str) -> Path:
    path = root / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text, encoding="utf-8")
    return path


def test_what_is_too_large_is_told(tmp_path):
    for number in range(29):
        written(tmp_path, f"reforg/module{number}.py", "")
    assert crowded(tmp_path) == ["reforg: 29 modules"]
    written(tmp_path, "reforg/long.py", "x = 1\n" * 301)
    written(tmp_path, "reforg/functions.py", f"class C:\n    {WIDE.replace('    ', '        ')}\n\n{LONG}")
    assert crowded(tmp_path) == ["reforg: 31 entries", "reforg: 31 modules"]
    assert long_modules(tmp_path) == ["reforg/long.py: 301 lines"]
    assert long_functions(tmp_path) == ["reforg/functions.py: f has 41 lines"]
    assert wide_functions(tmp_path) == ["reforg/functions.py: f has 10 parameters"]


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("reforg/a.py", f"class C:\n    {WIDE.replace('    ', '        ').replace('def f', 'def __init__')}"),
        ("backends/reforg_x/kernels/a.py", WIDE),
        ("reforg/cli/a.py", f"@app.command(name='f')\n{WIDE}"),
        ("reforg/cli/a.py", "@app.command()\ndef f(\n" + "    a=1,\n" * 50 + "):\n    pass\n"),
    ],
    ids=["constructor", "kernel", "options", "lines of options"],
)
def test_what_is_apart_is_not(tmp_path, name, text):
    written(tmp_path, name, text)
    assert wide_functions(tmp_path) == long_functions(tmp_path) == []


def test_a_command_that_does_too_much_is_told(tmp_path):
    written(tmp_path, "reforg/cli/a.py", f"@app.command()\n{LONG}")
    assert long_functions(tmp_path) == []
    written(tmp_path, "reforg/cli/b.py", f"@app.command()\n{LONG}    x = 2\n")
    assert long_functions(tmp_path) == ["reforg/cli/b.py: f has 41 lines"]
