"""One way in: what a file is, is told by its content; what is wrong with it, by one sentence that names the file."""

import mmap
import stat
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from reforg.checkpoints import npz, tensor_files, torch_files, zips
from reforg.checkpoints.tree import check_tree
from reforg.errors import WeightsError


@dataclass(frozen=True)
class Checkpoint:
    """What a file holds, in containers whose leaves are entries, plain values and stubs; and what kind of file it is."""

    kind: str
    content: Any
    metadata: dict[str, str]


def opened(path: Path) -> Checkpoint:
    """The content of a checkpoint; WeightsError where there is none that can be trusted. No tensor is read yet."""
    try:
        checkpoint = _read(path)
        check_tree(checkpoint.content)
    except WeightsError as error:
        raise WeightsError(f"weights: {str(path)!r} is refused: {error}") from error
    except FileNotFoundError as error:
        raise WeightsError(f"weights: there is no file {str(path)!r}{_hub_hint(path)}") from error
    except OSError as error:
        raise WeightsError(f"weights: {str(path)!r} cannot be read: {error.strerror or error}") from error
    return checkpoint


def _read(path: Path) -> Checkpoint:
    status = path.stat()
    if not stat.S_ISREG(status.st_mode):
        raise WeightsError("it is a folder" if stat.S_ISDIR(status.st_mode) else "it is no regular file")
    if not status.st_size:
        raise WeightsError("it is empty")
    with path.open("rb") as file:
        buffer = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_COPY)
    start = buffer[:16]
    if start[:4] in (b"PK\3\4", b"PK\5\6"):
        return _archive(buffer)
    if torch_files.is_before_1_6(buffer):
        return Checkpoint("torch checkpoint of before 1.6", torch_files.read_before_1_6(buffer), {})
    if path.suffix == ".safetensors" or tensor_files.is_safetensors(start):
        return Checkpoint("safetensors", *tensor_files.read_safetensors(path, buffer))
    raise WeightsError(_guess(start))


def _archive(buffer: mmap.mmap) -> Checkpoint:
    records = zips.records(buffer)
    if torch_files.is_archive(records):
        return Checkpoint("torch checkpoint", torch_files.read_archive(buffer, records), {})
    if npz.is_npz(records):
        return Checkpoint("npz", npz.read_npz(buffer, records), {})
    raise WeightsError("it is an archive, but neither torch's nor NumPy's")


def _hub_hint(path: Path) -> str:
    """How to name a repository of the Hub, where a path looks like one."""
    looks = len(path.parts) == 2 and not path.suffix[1:].isalpha()
    return f"; a repository of the Hub is written 'hf-hub:{path}'" if looks else ""


def _guess(start: bytes) -> str:
    """What a file that is no checkpoint seems to be."""
    known = {
        b"\x93NUMPY": "it is a single array (.npy); save the arrays by name with numpy.savez",
        b"\x80": "it is a plain pickle, which only running it could open; save it with torch.save or as safetensors",
        b"\x1f\x8b": "it is compressed (gzip); unpack it first",
        b"\x89HDF": "it is HDF5 (Keras, TensorFlow), which is not read",
        b"version https://": "it is a Git LFS pointer, not the file itself; fetch it with `git lfs pull`",
        b"<": "it is a web page, not a checkpoint; the download went wrong",
    }
    return next(
        (told for magic, told in known.items() if start.startswith(magic)), "it is neither torch's, NumPy's nor safetensors"
    )
