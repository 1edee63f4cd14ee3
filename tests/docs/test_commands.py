"""Every command of README and docs, typed in an empty folder: what comes out is what the page shows.

A block of "console" is a session: lines that begin with "$ " are typed, the others are what the terminal answers. The page's
Python examples run before, in the same folder, because they make the files that the commands read. What no two runs have
in common (speeds, versions) is not compared.
"""

import os
import re
import shutil
import subprocess
import sys
import sysconfig
from collections.abc import Iterator
from pathlib import Path

import pytest
from pages import FENCE, PAGES, ROOT, run_examples

SHARED = Path(os.environ.get("REFORG_SHARED", ROOT.parent / "shared")) / "checkpoints"
TYPED = ("reforg", "head", "cat", "ls", "rm")
VOLATILE = {
    re.compile(r"\d[\d,.]*(?= images/s)"): "#",
    re.compile(r"\d+\.\d+(?= s\b)"): "#",
    re.compile(r"(?<=numpy )\d+\.\d+\.\d+\S*"): "#",
    re.compile(r"^(\w+_fmnist +\d+\.\d%) +[\d,]+", re.MULTILINE): r"\1 #",  # the column of the demo's speeds
}
LONG = re.compile(r"\d+\.\d{7,}")
ENVIRONMENT = {key: value for key, value in os.environ.items() if key not in ("COLUMNS", "FORCE_COLOR")}
ENVIRONMENT["PATH"] = os.pathsep.join([sysconfig.get_path("scripts"), str(Path(sys.executable).parent), os.environ["PATH"]])


def sessions(text: str) -> Iterator[tuple[str, str]]:
    """Each command of a page's sessions, and the answer that the page shows."""
    for found in FENCE.finditer(text):
        if found.group().lstrip().startswith("```console"):
            for piece in re.split(r"^\$ ", found["body"], flags=re.MULTILINE)[1:]:
                command, _, answer = piece.partition("\n")
                yield command, answer


WITH_SESSIONS = [page for page in PAGES if list(sessions(page.read_text(encoding="utf-8")))]


def steady(text: str) -> str:
    """Without what differs from run to run or, beyond five digits, between processors, and without blanks at the ends."""
    for pattern, mark in VOLATILE.items():
        text = pattern.sub(mark, text)
    text = LONG.sub(lambda found: f"{float(found[0]):.5f}", text)
    return "\n".join(line.rstrip() for line in text.strip().splitlines())


def typed(command: str, folder: Path) -> str:
    done = subprocess.run(
        ["bash", "-c", command],
        cwd=folder,
        env=ENVIRONMENT,
        check=False,
        text=True,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
    )
    return done.stdout


def cases():
    """Each page with commands; the one whose commands take as long as all the others' is a further case."""
    for page in WITH_SESSIONS:
        name = page.relative_to(ROOT).as_posix()
        yield pytest.param(page, id=name, marks=pytest.mark.full if name == "docs/verify.md" else ())


@pytest.mark.parametrize("page", list(cases()))
def test_what_a_page_shows_is_what_comes_out(page, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    text = page.read_text(encoding="utf-8")
    assert not run_examples(page.name, text)
    for name in sorted(set(re.findall(r"\b\w+_fmnist\.pth\b", text))):
        if not (SHARED / name).exists():
            pytest.skip(f"{name} is not here; REFORG_SHARED names the folder of its checkpoints")
        shutil.copy(SHARED / name, tmp_path)
    wrong = []
    for command, answer in sessions(text):
        assert command.split()[0] in TYPED, f"no test types {command!r}"
        came = typed(command, tmp_path)
        if steady(came) != steady(answer):
            wrong.append(f"$ {command}\n{came}")
    assert not wrong, "\n".join(wrong)


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.relative_to(ROOT).as_posix())
def test_no_command_stands_outside_a_session(page):
    for found in FENCE.finditer(page.read_text(encoding="utf-8")):
        if not found.group().lstrip().startswith("```console"):
            commands = re.findall(r"^(?:\$ )?reforg \w.*$", found["body"], re.MULTILINE)
            assert not [command for command in commands if "--backend cupy" not in command], "what needs no GPU is typed"


def test_a_wrong_answer_is_found_out(tmp_path):
    text = "```console\n$ ls\nnothing\n$ reforg --version | head -1\nreforg 7.0.0\n```\n"
    assert list(sessions(text)) == [("ls", "nothing\n"), ("reforg --version | head -1", "reforg 7.0.0\n")]
    assert steady(typed("reforg --version | head -1", tmp_path)) != steady("reforg 7.0.0\n")
    assert steady("3.2 s, 1,204.5 images/s") == steady("17.9 s, 3 images/s")
    assert steady("evit_fmnist   87.6%    520  49>36") == steady("evit_fmnist   87.6%  1,520  49>36")
    assert steady("evit_fmnist   87.6%    520  49>36") != steady("evit_fmnist   87.5%    520  49>36")
