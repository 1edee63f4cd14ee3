"""The pages of README and docs, and their examples."""

import doctest
import re
import warnings
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
PAGES = sorted(page for page in [ROOT / "README.md", *(ROOT / "docs").rglob("*.md")] if page.is_file())
NAMES = [page.relative_to(ROOT).as_posix() for page in PAGES]
FENCE = re.compile(
    r"^(?P<indent>[ ]*)(?P<fence>```+|~~~+)[^\n]*\n(?P<body>.*?)^(?P=indent)(?P=fence)[ ]*$", re.MULTILINE | re.DOTALL
)


def is_included(text: str, start: int) -> bool:
    """Whether the block that starts there is copied from the source; its prompts, if any, belong to the docstring."""
    return text[:start].rstrip("\n").rpartition("\n")[2].startswith("<!-- include:")


def prompts(text: str) -> Iterator[tuple[int, str]]:
    """The blocks with >>> prompts: line of the first prompt's block, and the text with the fence's indentation taken off."""
    for found in FENCE.finditer(text):
        if ">>>" in found["body"] and not is_included(text, found.start()):
            body = "".join(line.removeprefix(found["indent"]) for line in found["body"].splitlines(keepends=True))
            yield text.count("\n", 0, found.start("body")), body


def run_examples(name: str, text: str) -> str:
    """Run a page's examples, one after the other with the same variables; the report of what failed, empty if nothing did."""
    report: list[str] = []
    shared: dict[str, object] = {"__name__": "__main__"}
    for line, body in prompts(text):
        parsed = doctest.DocTestParser().get_doctest(body, shared, name, name, line)
        runner = doctest.DocTestRunner(verbose=False)
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            runner.run(parsed, out=report.append, clear_globs=False)
        shared = parsed.globs
    return "".join(report)
