"""Compiled kernels, kept from one process to the next: whole or not at all, for this processor and these sources only."""

import os
import subprocess
import sys
from hashlib import sha256

import pytest

pytest.importorskip("numba", reason="numba compiles the kernels")

from reforg_numpy import library

START = "import numpy as np, reforg; reforg.create_model('evit_fmnist', ops='numba')(np.zeros((1, 1, 28, 28), np.float32))"


def started(code=START, **environment):
    """What a process says, and prints."""
    done = subprocess.run(
        [sys.executable, "-c", code], timeout=300, capture_output=True, text=True, check=True, env={**os.environ, **environment}
    )
    return done.stderr, done.stdout


def test_the_first_process_says_what_it_is_doing_and_the_next_has_no_need_of_numba(tmp_path):
    said, _ = started(REFORG_CACHE=str(tmp_path / "made"))
    assert said.count("\n") == 1
    assert "compiling kernels for this processor, which takes some seconds, once" in said
    said, printed = started(START + "; import sys; print('numba' in sys.modules)", REFORG_CACHE=str(tmp_path / "made"))
    assert (said, printed) == ("", "False\n")
    assert len(list((tmp_path / "made").iterdir())) == 1, "nothing temporary is left"


def test_nothing_is_asked_of_numba_and_python_that_is_not_there_without_them():
    from llvmlite import binding

    from reforg_numpy.kernels.entry import LINKED, stubs

    linked = "".join(f"declare void @{name}()\n" for name in LINKED)
    text = f"{linked}declare ptr @PyErr_Clear(ptr)\n@PyExc_ValueError = external global ptr\ndeclare void @llvm.trap()\n"
    module = binding.parse_assembly(text)
    module.link_in(binding.parse_assembly("\n".join(stubs(module))))
    assert {function.name for function in module.functions if function.is_declaration} == {*LINKED, "llvm.trap"}
    assert not any(variable.is_declaration for variable in module.global_variables)


@pytest.fixture
def compiler(monkeypatch):
    """Compiles at once, and counts."""
    from reforg_numpy.kernels import entry

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
        f"reforg: compiling kernels for this processor, which takes some seconds, at every start, as {place} cannot be written"
        " (REFORG_CACHE names another)\n"
    )


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
        ({"REFORG_CACHE": "", "XDG_CACHE_HOME": "/caches"}, "/caches/reforg"),
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


def test_another_processor_has_other_kernels(monkeypatch):
    before = library.key()
    monkeypatch.setattr(library.llvm, "get_host_cpu_name", lambda: "another")
    assert library.key() != before
