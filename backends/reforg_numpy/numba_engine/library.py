"""The compiled kernels, kept from one process to the next: numba is imported only to compile them, LLVM to load them."""

import ctypes
import importlib.metadata
import inspect
import os
import stat
import sys
import tempfile
from collections.abc import Callable
from functools import cache
from hashlib import sha256
from pathlib import Path
from typing import Any

import llvmlite.binding as llvm

from reforg.plans import matrices
from reforg_numpy import coefficients

NAME = "reforg_kernels"
ADDRESS, WHOLE = ctypes.c_void_p, ctypes.c_int64
FUNCTION = ctypes.CFUNCTYPE(
    None, ADDRESS, WHOLE, ADDRESS, WHOLE, ADDRESS, WHOLE, ADDRESS, WHOLE, ADDRESS, ADDRESS, WHOLE, WHOLE, WHOLE
)
DIGEST = sha256().digest_size


@cache
def kernels() -> Callable[..., None]:
    """`kernels.entry.entry` of this process: what was kept, or compiled now and then kept. It holds no lock of Python's."""
    llvm.initialize_native_target()
    llvm.initialize_native_asmprinter()
    place = folder()
    path = None if place is None else place / f"kernels-{key()}"
    code = None if path is None else kept(path)
    return loaded(compiled(path) if code is None else code)


def folder() -> Path | None:
    """Where what is compiled is kept: REFORG_CACHE, or a folder of this user's for such things; None for a user without a home.

    An XDG_CACHE_HOME that depends on the current folder is passed over, as its specification has it.
    """
    try:
        if chosen := os.environ.get("REFORG_CACHE"):
            return Path(chosen).expanduser()
        caches = Path(os.environ.get("XDG_CACHE_HOME", ""))
        return (caches if caches.is_absolute() else Path.home() / ".cache") / "reforg"
    except RuntimeError:
        return None


def key() -> str:
    """A word that differs where the kernels, their compilers, what these are told, or the processor do."""
    here = Path(__file__).parent
    own = (here / name for name in ("library.py", "shapes.py", "codes.py"))
    shared = (Path(inspect.getfile(module)) for module in (coefficients, matrices))  # that kernels read numbers of
    words = sha256()
    for path in sorted((*own, *shared, *(here / "kernels").glob("*.py"))):
        words.update(path.read_bytes())
    versions = [importlib.metadata.version(package) for package in ("numba", "llvmlite")]
    told = sorted(f"{name}={value}" for name, value in os.environ.items() if name.startswith("NUMBA_"))
    for word in (*versions, *told, llvm.get_process_triple(), llvm.get_host_cpu_name(), llvm.get_host_cpu_features().flatten()):
        words.update(word.encode() + b"\0")
    return words.hexdigest()[:32]


def kept(path: Path) -> bytes | None:
    """What is kept there; None where nothing is, or not as it was written, or where others could have written it."""
    try:
        if not (private(path.parent) and private(path)):
            return None
        content = path.read_bytes()
    except OSError:
        return None
    digest, code = content[:DIGEST], content[DIGEST:]
    return code if digest == sha256(code).digest() else None


def compiled(path: Path | None) -> bytes:
    """Compile, and keep it there for the next process; where that cannot be, say so."""
    why = "no folder for them is known" if path is None else obstacle(path.parent)
    often = f"at every start, as {why} (REFORG_CACHE names another)" if why else "once"
    say(f"compiling kernels for this processor, which takes up to a minute, {often}")
    from reforg_numpy.numba_engine.kernels.entry import object_code

    code = object_code(NAME, machine())
    if path is not None and not why:
        try:
            keep(path, sha256(code).digest() + code)
        except OSError as error:
            say(f"the kernels are not kept in {path.parent}: {error.strerror}")
    return code


def say(text: str) -> None:
    """To the user, where there is somebody to tell."""
    if sys.stderr is not None:
        sys.stderr.write(f"reforg: {text}\n")


def private(place: Path) -> bool:
    """Whether it is this user's or the system's, and nobody else can write there: what is kept is run."""
    if not hasattr(os, "getuid"):
        return True  # what is in the folder of a user of Windows is the user's
    found = place.stat()
    return found.st_uid in (0, os.getuid()) and not found.st_mode & (stat.S_IWGRP | stat.S_IWOTH)


def obstacle(place: Path) -> str:
    """Why nothing can be kept in a folder, which is made where it is not there; "" where it can."""
    try:
        place.mkdir(mode=0o700, parents=True, exist_ok=True)
        if not private(place):
            return f"others can write to {place}"
        tempfile.TemporaryFile(dir=place).close()
    except OSError:
        return f"{place} cannot be written"
    return ""


def keep(path: Path, content: bytes) -> None:
    """Under a temporary name first, so that no other process finds half of it."""
    with tempfile.TemporaryDirectory(dir=path.parent, prefix=".kernels-") as place:
        written = Path(place) / path.name
        written.write_bytes(content)
        written.chmod(0o644)
        written.replace(path)


def machine() -> Any:
    """LLVM's machine for this processor."""
    return llvm.Target.from_triple(llvm.get_process_triple()).create_target_machine(
        cpu=llvm.get_host_cpu_name(), features=llvm.get_host_cpu_features().flatten(), opt=3, jit=True, codemodel="jitdefault"
    )


def loaded(code: bytes) -> Callable[..., None]:
    """The function of some object code."""
    engine = llvm.create_mcjit_compiler(llvm.parse_assembly(""), machine())
    engine.add_object_file(llvm.ObjectFileRef.from_data(code))
    engine.finalize_object()
    function: Any = FUNCTION(engine.get_function_address(NAME))
    function.engine = engine  # whose memory it is
    found: Callable[..., None] = function
    return found
