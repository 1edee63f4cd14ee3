"""The pages say what the source says, their examples give what they show, and their links lead somewhere."""

import importlib.util
import re
import shutil
import subprocess
import sys
from pathlib import Path
from types import ModuleType

import pytest
from pages import FENCE, NAMES, PAGES, ROOT, prompts, run_examples

CODE = re.compile(r"(`+)(?!`).*?(?<!`)\1(?!`)", re.DOTALL)
COMMENT = re.compile(r"<!--.*?-->", re.DOTALL)
TARGETS = (
    re.compile(r"\]\(\s*<?([^)\s>]+)>?(?:\s+[\"'][^)]*)?\)"),
    re.compile(r"^\[[^\]]+\]:\s+(\S+)", re.MULTILINE),
    re.compile(r"\b(?:src|href)=[\"']([^\"']+)[\"']"),
)
every_page = pytest.mark.parametrize("page", PAGES, ids=NAMES)


@pytest.fixture(scope="module")
def include() -> ModuleType:
    spec = importlib.util.spec_from_file_location("docs_include", ROOT / "docs" / "include.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def targets(text: str) -> list[str]:
    """Every link of a page, those in code left out."""
    prose = CODE.sub("", COMMENT.sub("", FENCE.sub("", text)))
    return [target for pattern in TARGETS for target in pattern.findall(prose)]


def broken(page: Path) -> list[str]:
    """The relative links of a page that lead to no file of the repository."""
    found = []
    for target in targets(page.read_text(encoding="utf-8")):
        path = target.partition("#")[0]
        if re.match(r"[a-zA-Z][a-zA-Z0-9+.-]*:|//", target) or not path:
            continue
        if not (page.parent / path).exists():
            found.append(target)
    return found


def test_includes_are_current(include: ModuleType) -> None:
    assert [page.relative_to(ROOT).as_posix() for page in include.stale()] == [], "run python docs/include.py"


@every_page
def test_examples(page: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    report = run_examples(page.name, page.read_text(encoding="utf-8"))
    assert not report, report


@every_page
def test_no_prompt_outside_a_block(page: Path) -> None:
    assert not re.findall(r"^\s*>>>.*$", FENCE.sub("", page.read_text(encoding="utf-8")), re.MULTILINE)


@every_page
def test_links(page: Path) -> None:
    assert broken(page) == []


def test_every_mechanism_is_listed_and_has_code_and_an_example() -> None:
    folder = ROOT / "docs" / "mechanisms"
    pages = {page.name: page.read_text(encoding="utf-8") for page in folder.glob("*.md")}
    listed = [target.partition("#")[0] for target in targets(pages.pop("README.md"))]
    assert sorted(pages) == sorted({target for target in listed if "/" not in target})
    for name, text in pages.items():
        assert "<!-- include:" in text, name
        assert list(prompts(text)), name
        assert "\n## Where ports go wrong\n" in text, name


# The checks above, on pages that are wrong on purpose.


def test_a_wrong_output_is_reported() -> None:
    assert "Expected:\n    3\nGot:\n    2\n" in run_examples("page", "```python\n>>> 1 + 1\n3\n```\n")
    assert run_examples("page", "```python\n>>> a = 1\n```\n\ntext\n\n```python\n>>> a + 1\n2\n```\n") == ""


def test_a_warning_is_a_failure() -> None:
    assert "UserWarning" in run_examples("page", "```python\n>>> import warnings\n>>> warnings.warn('old')\n```\n")


def test_a_dead_link_is_reported(tmp_path: Path) -> None:
    page = tmp_path / "page.md"
    page.write_text("[a](gone.md) [b](page.md#top) [c](https://example.org) [d](#top) `[e](code.md)`\n\n[f]: lost.md\n")
    assert broken(page) == ["gone.md", "lost.md"]


PAGE = "text\n\n<!-- include: package/code.py second -->\n```python\nold\n```\n\nmore\n"
SECOND = "@first\ndef second():\n    return x  # here\n"


@pytest.fixture
def repository(tmp_path: Path) -> Path:
    (tmp_path / "package").mkdir()
    (tmp_path / "docs").mkdir()
    shutil.copy(ROOT / "docs" / "include.py", tmp_path / "docs")
    (tmp_path / "package" / "code.py").write_text(f"x = 1\n\n\ndef first():\n    pass\n\n\n{SECOND}")
    (tmp_path / "docs" / "page.md").write_text(PAGE)
    return tmp_path


def run_include(repository: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, str(repository / "docs" / "include.py"), *arguments]
    return subprocess.run(command, capture_output=True, text=True, check=False)


def test_include_rewrites_and_then_agrees(repository: Path) -> None:
    before = run_include(repository, "--check")
    assert (before.returncode, "docs/page.md" in before.stdout) == (1, True)
    assert (repository / "docs" / "page.md").read_text() == PAGE
    assert run_include(repository).returncode == 0
    assert (repository / "docs" / "page.md").read_text() == PAGE.replace("old\n", SECOND)
    after = run_include(repository, "--check")
    assert (after.returncode, after.stdout) == (0, "")
    assert sorted(path.name for path in (repository / "docs").iterdir()) == ["include.py", "page.md"]


@pytest.mark.parametrize(
    ("comment", "complaint"),
    [
        ("<!-- include: package/code.py third -->", "package/code.py defines no third"),
        ("<!-- include: package/none.py second -->", "there is no file package/none.py"),
        ("<!-- include: package/code.py second -->\n", "an include comment"),
        ("<!-- include: package/code.py -->", "an include comment"),
    ],
)
def test_include_says_what_it_cannot_follow(repository: Path, comment: str, complaint: str) -> None:
    (repository / "docs" / "page.md").write_text(PAGE.replace("<!-- include: package/code.py second -->", comment))
    for arguments in ((), ("--check",)):
        done = run_include(repository, *arguments)
        assert done.returncode == 1
        assert f"docs/page.md: {complaint}" in done.stderr
