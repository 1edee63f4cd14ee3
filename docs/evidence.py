"""Run again what docs/evidence.md reports, and write what came out into it: `make evidence`.

    python docs/evidence.py [PART]... [--python OTHER]

A part stands in the page between `<!-- ran: PART -->` and `<!-- end -->`. Without names all parts run, one after the other, which
takes an hour and a half; OTHER is another environment's interpreter (the oracle's, or one with torch and JAX). A part whose
command fails keeps what the page said of it, and the exit code is 1.
"""

import argparse
import os
import re
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

from reforg.bench.report import SLOWING

ROOT = Path(__file__).resolve().parent.parent
PAGE = ROOT / "docs" / "evidence.md"
LIBRARIES = "numpy,numpy-readonly,strict,torch,jax,jax-jit"


def whole(answer: str) -> str:
    """An answer that is Markdown itself."""
    return answer.strip()


def last_lines(answer: str) -> str:
    """What pytest sums up with: counts by library, properties and examples, passed and skipped."""
    summing = re.compile(r"^(tests passed|properties:|oracle:|half precision:|not installed|\d+ passed)")
    lines = [line for line in answer.splitlines() if summing.match(line)]
    if not any(" passed" in line for line in lines):
        raise SystemExit(f"pytest sums up in other words than expected:\n{answer[-2000:]}")
    return "\n".join(["```", *lines, "```"])


def caught(answer: str) -> str:
    """How many rows of a table of mutations name a test that went red."""
    rows = [line for line in answer.splitlines() if line.startswith("| ")][1:]
    green = [row for row in rows if "**" in row or "not tried" in row]
    if not rows:
        raise SystemExit(f"no table came:\n{answer[-2000:]}")
    return f"{len(rows) - len(green)} of {len(rows)} went red."


def by_file(_: str) -> str:
    """The counts by file of the page that was written, without those by kind of change and without the survivors."""
    report = (ROOT / "docs" / "mutants.md").read_text(encoding="utf-8")
    return report[report.index("Models and operations have") : report.index("| change |")].strip()


@dataclass(frozen=True)
class Part:
    """A command, the words after the interpreter's name, and what of its answer the page shows."""

    words: tuple[str, ...]
    shown: Callable[[str], str]


PARTS = {
    "costs": Part(("tests/tools/published_costs.py",), whole),
    "oracle": Part(("-m", "pytest", "-q", "-c", "pyproject.toml", "tests/oracle"), last_lines),
    "tests": Part(("-m", "pytest", "-q", "-n", "auto"), last_lines),
    "libraries": Part(("-m", "pytest", "-q", "-n", "auto", "--full", "--libraries", LIBRARIES), last_lines),
    "properties": Part(
        ("-m", "pytest", "-q", "-n", "auto", "tests/properties", "--libraries", LIBRARIES, "--examples", "3"), last_lines
    ),
    "broken": Part(("tests/properties/broken.py",), caught),
    "traps": Part(("tests/tools/traps.py",), caught),
    "mutants": Part(("tests/tools/mutants", "--page", "docs/mutants.md"), by_file),
    "bench": Part(("docs/bench.py",), whole),
}


def ran(name: str, python: str) -> str | None:
    """A part's text for the page; None where its command failed."""
    part = PARTS[name]
    environment = {key: value for key, value in os.environ.items() if name != "bench" or key not in SLOWING}
    started = time.monotonic()
    done = subprocess.run([python, *part.words], cwd=ROOT, env=environment, check=False, text=True, stdout=subprocess.PIPE)
    if done.returncode:
        print(f"{name}: `python {' '.join(part.words)}` ended with {done.returncode}\n{done.stdout[-3000:]}", file=sys.stderr)
        return None
    took = time.monotonic() - started
    spent = f"{took:.0f} s" if took < 120 else f"{took / 60:.0f} minutes"
    return f"`python {' '.join(part.words)}`, {datetime.now(UTC):%Y-%m-%d}, in {spent}:\n\n{part.shown(done.stdout)}"


def placed(page: str, name: str, text: str) -> str:
    """The page with a part's text between its marks."""
    marks = re.compile(rf"(<!-- ran: {name} -->\n).*?(<!-- end -->)", re.DOTALL)
    if len(marks.findall(page)) != 1:
        raise SystemExit(f"the page has no place for {name!r}")
    return marks.sub(lambda found: f"{found[1]}\n{text}\n\n{found[2]}", page)


def main() -> int:
    """The exit code."""
    parser = argparse.ArgumentParser(description="Run again what docs/evidence.md reports.")
    parser.add_argument("parts", nargs="*", metavar="PART", help=f"of {', '.join(PARTS)}; all where none is named")
    parser.add_argument("--python", default=sys.executable, help="the interpreter that runs the parts")
    chosen = parser.parse_args()
    if unknown := [name for name in chosen.parts if name not in PARTS]:
        parser.error(f"there is no part {unknown[0]!r} (parts: {', '.join(PARTS)})")
    failed = False
    for name in chosen.parts or PARTS:
        text = ran(name, chosen.python)
        failed |= text is None
        if text is not None:
            new = PAGE.with_name(f".{PAGE.name}.new")
            new.write_text(placed(PAGE.read_text(encoding="utf-8"), name, text), encoding="utf-8", newline="\n")
            new.replace(PAGE)
            print(f"{name}: written", flush=True)
    return int(failed)


if __name__ == "__main__":
    sys.exit(main())
