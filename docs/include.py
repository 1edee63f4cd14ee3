"""Keeps the code that the pages of docs/ show equal to its source.

A page asks for functions or classes by a comment that stands directly above a block of python:

    <!-- include: reforg/evit.py select_attentive fuse_inattentive -->

`python docs/include.py` rewrites the blocks below such comments; `--check` changes nothing, names the pages whose
blocks are not what the source says, and exits 1 if there are any.
"""

import argparse
import ast
import re
import sys
from functools import cache
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
MARKER = re.compile(r"^<!-- include:", re.MULTILINE)
BLOCK = re.compile(
    r"^(?P<marker><!-- include: (?P<file>\S+)(?P<names>(?: \w+)+) -->\n)```python\n(?P<code>.*?)^```$",
    re.MULTILINE | re.DOTALL,
)


class IncludeError(Exception):
    """A comment that cannot be followed: it says which and why."""


@cache
def definitions(path: Path) -> dict[str, str]:
    """Name -> source, decorators included, of every function and class at the top level of a file."""
    text = path.read_text(encoding="utf-8")
    lines = text.splitlines()
    found = {}
    for node in ast.parse(text).body:
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
            first = min([node.lineno, *(decorator.lineno for decorator in node.decorator_list)])
            found[node.name] = "\n".join(lines[first - 1 : node.end_lineno])
    return found


def source(file: str, names: list[str], root: Path = ROOT) -> str:
    """The named definitions of a file of this repository, two blank lines between them."""
    path = root / file
    if not path.is_file():
        raise IncludeError(f"there is no file {file}")
    known = definitions(path)
    missing = [name for name in names if name not in known]
    if missing:
        raise IncludeError(f"{file} defines no {', '.join(missing)} at its top level")
    return "\n\n\n".join(known[name] for name in names) + "\n"


def included(text: str, root: Path = ROOT) -> str:
    """A page's text with the block below every include comment as the source has it now."""
    if len(MARKER.findall(text)) != len(BLOCK.findall(text)):
        raise IncludeError("an include comment is misspelt or does not stand directly above a block of python")
    return BLOCK.sub(lambda found: _filled(found, root), text)


def _filled(found: re.Match[str], root: Path) -> str:
    return f"{found['marker']}```python\n{source(found['file'], found['names'].split(), root)}```"


def stale(root: Path = ROOT) -> dict[Path, str]:
    """Page -> what it should read, for every page below docs/ that does not read so."""
    wanted = {}
    for page in sorted((root / "docs").rglob("*.md")):
        text = page.read_text(encoding="utf-8")
        try:
            fresh = included(text, root)
        except IncludeError as error:
            raise IncludeError(f"{page.relative_to(root).as_posix()}: {error}") from error
        if fresh != text:
            wanted[page] = fresh
    return wanted


def write(page: Path, text: str) -> None:
    """Replace a page whole: written beside it first, then renamed over it."""
    beside = page.with_name(f".{page.name}.new")
    beside.write_text(text, encoding="utf-8", newline="\n")
    beside.replace(page)


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description="Bring the code shown in docs/ up to date with its source.")
    parser.add_argument("--check", action="store_true", help="change nothing; exit 1 and name the pages that are stale")
    check = parser.parse_args(arguments).check
    try:
        wanted = stale()
    except IncludeError as error:
        print(error, file=sys.stderr)
        return 1
    for page, text in wanted.items():
        print(f"{page.relative_to(ROOT).as_posix()}: {'stale, run python docs/include.py' if check else 'rewritten'}")
        if not check:
            write(page, text)
    return 1 if check and wanted else 0


if __name__ == "__main__":
    sys.exit(main())
