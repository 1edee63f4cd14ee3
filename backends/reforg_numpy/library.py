"""The compiled kernels, kept from one process to the next: numba is imported only to compile them, LLVM to load them."""

import ctypes
import importlib.metadata
import os
import sys
import tempfile
from collections.abc import Callable
from functools import cache
from hashlib import sha256
from pathlib import Path
from typing import Any

import llvmlite.binding as llvm

NAME = "reforg_kernels"
ADDRESS, WHOLE = ctypes.c_void_p, ctypes.c_int64
FUNCTION = ctypes.CFUNCTYPE(
    None, ADDRESS, WHOLE, ADDRESS, WHOLE, ADDRESS, WHOLE, ADDRESS, WHOLE, ADDRESS, ADDRESS, WHOLE, WHOLE, WHOLE
)  # fmt: skip
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

    Never one that everybody can write to, as a temporary one: what is there is run.
    """
    if chosen := os.environ.get("REFORG_CACHE"):
        return Path(chosen)
    try:
        return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "reforg"
    except RuntimeError:
        return None


def key() -> str:
    """A word that differs where the kernels, their compilers or the processor do."""
    here = Path(__file__).parent
    shared = (here / name for name in ("shapes.py", "codes.py", "program.py", "coefficients.py"))
    words = sha256()
    for path in sorted((*shared, *(here / "kernels").glob("*.py"))):
        words.update(path.read_bytes())
    versions = [importlib.metadata.version(package) for package in ("numba", "llvmlite")]
    for word in (*versions, llvm.get_process_triple(), llvm.get_host_cpu_name(), llvm.get_host_cpu_features().flatten()):
        words.update(word.encode() + b"\0")
    return words.hexdigest()[:32]


def kept(path: Path) -> bytes | None:
    """What is kept there; None where nothing is, or not as it was written."""
    try:
        content = path.read_bytes()
    except OSError:
        return None
    digest, code = content[:DIGEST], content[DIGEST:]
    return code if digest == sha256(code).digest() else None


def compiled(path: Path | None) -> bytes:
    """Compile, and keep it there for the next process; where that cannot be, say so."""
    room = path is not None and writable(path.parent)
    where = "no folder for them is known" if path is None else f"{path.parent} cannot be written"
    often = "once" if room else f"at every start, as {where} (REFORG_CACHE names another)"
    sys.stderr.write(f"reforg: compiling kernels for this processor, which takes some seconds, {often}\n")
    from reforg_numpy.kernels.entry import object_code

    code = object_code(NAME, machine())
    if path is not None and room:
        keep(path, sha256(code).digest() + code)
    return code


def writable(place: Path) -> bool:
    """Whether files can be made in a folder, which is made where it is not there."""
    try:
        place.mkdir(parents=True, exist_ok=True)
        tempfile.TemporaryFile(dir=place).close()
    except OSError:
        return False
    return True


def keep(path: Path, content: bytes) -> None:
    """Under a temporary name first, so that no other process finds half of it."""
    with tempfile.TemporaryDirectory(dir=path.parent, prefix=".kernels-") as place:
        written = Path(place) / path.name
        written.write_bytes(content)
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
