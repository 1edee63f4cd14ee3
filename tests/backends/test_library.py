"""Compiled kernels, kept from one process to the next: whole or not at all, for this processor and these sources only."""

import ast
import errno
import os
import subprocess
import sys
from hashlib import sha256
from pathlib import Path
from types import SimpleNamespace

import pytest

pytest.importorskip("numba", reason="numba compiles the kernels")

import reforg
from reforg_numpy.numba_engine import library

START = "import numpy as np, reforg; reforg.create_model('evit_fmnist', ops='numba')(np.zeros((1, 1, 28, 28), np.float32))"


def started(code=START, **environment):
    """What a process says, and prints."""
    done = subprocess.run(
        [sys.executable, "-c", code], timeout=300, capture_output=True, text=True, check=True, env={**os.environ, **environment}
    )
    return done.stderr, done.stdout


def test_the_first_process_says_what_it_is_doing_and_the_next_has_no_need_of_numba(tmp_path):
    surroundings = {"REFORG_CACHE": str(tmp_path / "made"), "NUMBA_OPT": "0"}  # compiles in half the time
    said, _ = started(**surroundings)
    assert said.count("\n") == 1
    assert "compiling kernels for this processor, which takes up to a minute, once" in said
    said, printed = started(START + "; import sys; print('numba' in sys.modules)", **surroundings)
    assert (said, printed) == ("", "False\n")
    assert len(list((tmp_path / "made").iterdir())) == 1, "nothing temporary is left"


def test_nothing_is_asked_of_numba_and_python_that_is_not_there_without_them():
    from llvmlite import binding

    from reforg_numpy.numba_engine.kernels.entry import LINKED, stubs

    linked = "".join(f"declare void @{name}()\n" for name in LINKED)
    text = f"{linked}declare ptr @PyErr_Clear(ptr)\n@PyExc_ValueError = external global ptr\ndeclare void @llvm.trap()\n"
    module = binding.parse_assembly(text)
    module.link_in(binding.parse_assembly("\n".join(stubs(module))))
    assert {function.name for function in module.functions if function.is_declaration} == {*LINKED, "llvm.trap"}
    assert not any(variable.is_declaration for variable in module.global_variables)


def test_a_function_that_a_process_may_not_have_is_refused():
    from llvmlite import binding

    from reforg_numpy.numba_engine.kernels.entry import stubs

    with pytest.raises(ValueError, match="the kernels call expf, which a process may not have"):
        list(stubs(binding.parse_assembly("declare float @expf(float)")))


@pytest.fixture
def compiler(monkeypatch):
    """Compiles at once, and counts."""
    from reforg_numpy.numba_engine.kernels import entry

    asked = []
    monkeypatch.setattr(entry, "object_code", lambda name, _machine: asked.append(name) or b"code")
    return asked


def test_what_is_kept_is_what_was_compiled(tmp_path, compiler):
    path = tmp_path / "new" / "kernels"
    assert library.kept(path) is None
    assert library.compiled(path) == library.kept(path) == b"code"
    assert len(compiler) == 1


@pytest.mark.parametrize("content", [b"", b"code", sha256(b"code").digest() + b"cod", sha256(b"code").digest()[:-1] + b"\0code"])
def test_what_is_not_as_it_was_written_is_not_loaded(tmp_path, content):
    path = tmp_path / "kernels"
    path.write_bytes(content)
    assert library.kept(path) is None


def test_where_nothing_can_be_kept_a_process_says_so_and_goes_on(tmp_path, compiler, capsys):
    place = tmp_path / "file"
    place.write_bytes(b"")
    assert library.compiled(place / "kernels") == b"code"
    assert compiler == [library.NAME]
    assert capsys.readouterr().err == (
        f"reforg: compiling kernels for this processor, which takes up to a minute, at every start, as {place} cannot be written"
        " (REFORG_CACHE names another)\n"
    )


def test_where_the_disk_is_full_a_process_says_so_and_goes_on(tmp_path, compiler, capsys, monkeypatch):
    def full(path, content):
        raise OSError(errno.ENOSPC, "No space left on device", str(path))

    monkeypatch.setattr(library, "keep", full)
    assert library.compiled(tmp_path / "kernels") == b"code"
    said = capsys.readouterr().err.splitlines()
    assert said[1:] == [f"reforg: the kernels are not kept in {tmp_path}: No space left on device"]
    assert list(tmp_path.iterdir()) == []


def test_a_process_without_anybody_to_tell_goes_on(tmp_path, compiler, monkeypatch):
    monkeypatch.setattr(sys, "stderr", None)
    assert library.compiled(tmp_path / "kernels") == b"code"


of_users = pytest.mark.skipif(not hasattr(os, "getuid"), reason="folders of this system have no modes")


@of_users
def test_what_is_made_only_its_user_can_write(tmp_path, compiler):
    before = os.umask(0)
    try:
        library.compiled(tmp_path / "made" / "kernels")
    finally:
        os.umask(before)
    assert [path.stat().st_mode & 0o777 for path in (tmp_path / "made", tmp_path / "made" / "kernels")] == [0o700, 0o644]


@of_users
@pytest.mark.parametrize(("place", "mode"), [("made", 0o777), ("made", 0o770), ("made/kernels", 0o666), ("made/kernels", 0o664)])
def test_what_others_could_have_written_is_not_run(tmp_path, compiler, place, mode):
    path = tmp_path / "made" / "kernels"
    library.compiled(path)
    assert library.kept(path) == b"code"
    (tmp_path / place).chmod(mode)
    assert library.kept(path) is None


@of_users
def test_where_others_can_write_nothing_is_kept_and_a_process_says_so(tmp_path, compiler, capsys):
    tmp_path.chmod(0o777)
    assert library.compiled(tmp_path / "kernels") == b"code"
    assert f"at every start, as others can write to {tmp_path} (REFORG_CACHE names another)\n" in capsys.readouterr().err
    assert list(tmp_path.iterdir()) == []


@of_users
def test_what_is_another_user_s_is_not_run(tmp_path, compiler, monkeypatch):
    path = tmp_path / "kernels"
    library.compiled(path)
    found, own = Path.stat, os.getuid()
    monkeypatch.setattr(library.os, "getuid", lambda: own + 1)
    if own == 0:  # whose files everybody trusts
        changed = SimpleNamespace(st_uid=own + 2, st_mode=found(path).st_mode)
        monkeypatch.setattr(library.Path, "stat", lambda place: changed)
    assert library.kept(path) is None


def test_a_user_without_a_home_keeps_nothing_and_goes_on(monkeypatch, compiler, capsys):
    def homeless():
        raise RuntimeError("Could not determine home directory.")

    for name in ("REFORG_CACHE", "XDG_CACHE_HOME"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(library.Path, "home", homeless)
    assert library.folder() is None
    assert library.compiled(None) == b"code"
    assert "at every start, as no folder for them is known (REFORG_CACHE names another)\n" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("environment", "expected"),
    [
        ({"REFORG_CACHE": "/chosen"}, "/chosen"),
        ({"REFORG_CACHE": "~/chosen", "HOME": "/home/someone"}, "/home/someone/chosen"),
        ({"REFORG_CACHE": "", "XDG_CACHE_HOME": "/caches"}, "/caches/reforg"),
        ({"XDG_CACHE_HOME": "caches", "HOME": "/home/someone"}, "/home/someone/.cache/reforg"),
        ({"HOME": "/home/someone"}, "/home/someone/.cache/reforg"),
    ],
)
def test_the_folder_is_the_user_s(monkeypatch, environment, expected):
    for name in ("REFORG_CACHE", "XDG_CACHE_HOME"):
        monkeypatch.delenv(name, raising=False)
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    assert library.folder().as_posix() == expected


@pytest.mark.parametrize("package", ["numba", "llvmlite"])
def test_other_compilers_have_other_kernels(monkeypatch, package):
    before, versions = library.key(), library.importlib.metadata.version
    monkeypatch.setattr(library.importlib.metadata, "version", lambda name: "0.0" if name == package else versions(name))
    assert library.key() != before


@pytest.mark.parametrize(
    ("asked", "answer"),
    [
        ("get_host_cpu_name", "another"),
        ("get_process_triple", "another"),
        ("get_host_cpu_features", SimpleNamespace(flatten=lambda: "+another")),
    ],
)
def test_another_processor_has_other_kernels(monkeypatch, asked, answer):
    before = library.key()
    monkeypatch.setattr(library.llvm, asked, lambda: answer)
    assert library.key() != before


def test_a_compiler_that_is_told_otherwise_makes_other_kernels(monkeypatch):
    before = library.key()
    monkeypatch.setenv("NUMBA_OPT", "0")
    assert library.key() != before


ROOTS = {"reforg_numpy": Path(library.__file__).parents[2], "reforg": Path(reforg.__file__).parents[1]}


def imported(path):
    """The backend's modules, and those of reforg, that a module imports."""
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.ImportFrom) and (node.module or "").split(".")[0] in ROOTS:
            place = ROOTS[node.module.split(".")[0]].joinpath(*node.module.split("."))
            for alias in node.names:
                module = place / f"{alias.name}.py"
                yield module if module.exists() else place.with_suffix(".py")


def with_all_imported(*paths):
    """Modules, those that they import, and so on."""
    more = {module for path in paths for module in imported(path)} - set(paths)
    return with_all_imported(*paths, *more) if more else paths


SOURCES = sorted(with_all_imported(Path(library.__file__).parent / "kernels" / "entry.py"))


@pytest.mark.parametrize("changed", [Path(library.__file__), *SOURCES], ids=lambda path: path.name)
def test_other_sources_have_other_kernels(monkeypatch, changed):
    before, read = library.key(), Path.read_bytes
    monkeypatch.setattr(library.Path, "read_bytes", lambda path: read(path) + (b"#" if path == changed else b""))
    assert library.key() != before
