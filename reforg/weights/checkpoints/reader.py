"""One way in: what a file is, is told by its content; what is wrong with it, by one sentence that names the file."""

import mmap
import os
import re
import stat
import weakref
from collections.abc import Callable
from typing import Any, NamedTuple

from reforg.errors import WeightsError
from reforg.files import OPENING
from reforg.weights.checkpoints import limits, torch_files, zips
from reforg.weights.checkpoints.limits import require

Path = str | os.PathLike[str]

# What a file that is no checkpoint seems to be.
KNOWN = {
    b"\x93NUMPY": "it is a single array (.npy); save the arrays by name with numpy.savez",
    b"\x80": "it is a plain pickle, which only running it could open; save it with torch.save or as safetensors",
    b"\x1f\x8b": "it is compressed (gzip); unpack it first",
    b"\x89HDF": "it is HDF5 (Keras, TensorFlow), which is not read",
    b"version https://": "it is a Git LFS pointer, not the file itself; fetch it with `git lfs pull`",
    b"<": "it is a web page, not a checkpoint; the download went wrong",
}


class Checkpoint(NamedTuple):
    """What a file holds, in containers whose leaves are entries, plain values and stubs; its kind, and its size in bytes."""

    kind: str
    content: Any
    size: int


def open_checkpoint(path: Path, thorough: bool = False) -> Checkpoint:
    """The content of a checkpoint; WeightsError where there is none that can be trusted. No tensor is read yet.

    thorough: check the archive's checksum of every tensor that is read, however large.
    """
    try:
        checkpoint = _read(path, thorough)
        _check_tree(checkpoint.content)
    except WeightsError as error:
        raise WeightsError(f"weights: {str(path)!r} is refused: {error}") from error
    except FileNotFoundError as error:
        raise WeightsError(f"weights: there is no file {str(path)!r}{_hub_hint(path)}") from error
    except (OSError, ValueError) as error:  # ValueError: a name that no file can have
        raise WeightsError(f"weights: {str(path)!r} cannot be read: {getattr(error, 'strerror', None) or error}") from error
    return checkpoint


def _read(path: Path, thorough: bool) -> Checkpoint:
    descriptor = os.open(path, os.O_RDONLY | OPENING)
    try:
        buffer = _mapped(descriptor)
        copied = _copier(os.dup(descriptor)) if hasattr(os, "preadv") else None
    finally:
        os.close(descriptor)
    start = buffer[:16]
    if start[:4] in (b"PK\3\4", b"PK\5\6"):
        return _archive(buffer, thorough)
    if torch_files.is_before_1_6(buffer):
        return Checkpoint("torch checkpoint of before 1.6", torch_files.read_before_1_6(buffer, copied), len(buffer))
    has_header = start[6:9] == b"\0\0{"  # of less than 2**48 bytes, and it begins with a brace
    guess = "" if has_header else next((told for magic, told in KNOWN.items() if start.startswith(magic)), "")
    if has_header or (os.fsdecode(path).endswith(".safetensors") and not guess):
        from reforg.weights.checkpoints import tensor_files

        return Checkpoint("safetensors", tensor_files.read_safetensors(path, buffer), len(buffer))
    raise WeightsError(guess or "it is neither torch's, NumPy's nor safetensors")


def _mapped(descriptor: int) -> mmap.mmap:
    """The file's pages, private; asked of the open file, so that nothing can take its place between question and use."""
    status = os.fstat(descriptor)
    if not stat.S_ISREG(status.st_mode):
        raise WeightsError("it is a folder" if stat.S_ISDIR(status.st_mode) else "it is no regular file")
    if not status.st_size:
        raise WeightsError("it is empty")
    return mmap.mmap(descriptor, 0, access=mmap.ACCESS_COPY)


def _copier(descriptor: int) -> Callable[[int, Any], None]:
    """Fills memory with the file's bytes from a position on, for any thread; the file is open as long as this function is held."""

    def copied(position: int, target: Any) -> None:
        filled = 0
        while filled < len(target):
            count = os.preadv(descriptor, [target[filled:]], position + filled)
            if not count:
                raise WeightsError("it became shorter while it was read")
            filled += count

    weakref.finalize(copied, os.close, descriptor)
    return copied


def _archive(buffer: mmap.mmap, thorough: bool) -> Checkpoint:
    records = zips.records(buffer)
    if torch_files.is_archive(records):
        return Checkpoint("torch checkpoint", torch_files.read_archive(buffer, records, thorough), len(buffer))
    from reforg.weights.checkpoints import (
        npz,  # readers of other formats are imported where they are needed: it takes as long as reading
    )

    if npz.is_npz(records):
        return Checkpoint("npz", npz.read_npz(buffer, records, thorough), len(buffer))
    raise WeightsError("it is an archive, but neither torch's nor NumPy's")


def _check_tree(root: Any) -> None:
    """WeightsError where containers nest too deep or contain themselves; every shared part is walked through once."""
    done: set[int] = set()
    path: set[int] = set()
    pending: list[tuple[Any, bool]] = [(item, False) for item in [root] if _is_full(item)]
    while pending:
        value, leaving = pending.pop()
        if leaving:
            path.discard(id(value))
            done.add(id(value))
        elif id(value) not in done:
            require(id(value) not in path, "it holds a container that contains itself")
            require(len(path) < limits.DEPTH, f"it nests containers deeper than {limits.DEPTH}")
            path.add(id(value))
            pending.append((value, True))
            pending.extend((item, False) for item in (value.values() if isinstance(value, dict) else value) if _is_full(item))


def _is_full(value: Any) -> bool:
    """Whether a value is a container with something in it; nothing else can go deeper."""
    return bool(value) and isinstance(value, dict | list | tuple)


def _hub_hint(path: Path) -> str:
    """How to name a repository of the Hub, where a path looks like one."""
    name = os.fsdecode(path)
    looks = re.fullmatch(r"[\w.-]+/[\w.-]+", name) is not None and not name.rpartition(".")[2].isalpha()
    return f"; a repository of the Hub is written 'hf-hub:{path}'" if looks else ""
