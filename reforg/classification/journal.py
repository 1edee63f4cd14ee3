"""The journal beside an output: what was asked, and the rows that are finished, so that a run that ended can go on."""

import json
import os
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any

from reforg.classification.rows import encoded
from reforg.errors import ConfigError, ReforgError

KIND = "reforg classify, unfinished"


class Journal:
    """An append-only file: a header, then a row a line. Its rows may be cut anywhere; what is whole is kept."""

    def __init__(self, path: Path, file: IO[bytes]) -> None:
        self.path = path
        self._file = file

    @property
    def empty(self) -> bool:
        """Whether there is nothing to go on with."""
        return not self.path.stat().st_size

    def begin(self, asked: Mapping[str, Any]) -> None:
        """Forget what is there; note what is asked."""
        self._file.truncate(0)
        self.append(encoded(json.dumps({"kind": KIND, "asked": asked}, ensure_ascii=False)) + b"\n")

    def append(self, data: bytes) -> None:
        """Write rows, in the file when this returns."""
        rest = memoryview(data)
        while rest:
            rest = rest[self._file.write(rest) :]

    def asked(self) -> dict[str, Any] | None:
        """What the run that began the journal was asked; None where it ended before it could say. ConfigError: no journal."""
        with self.path.open("rb") as file:
            line = file.readline()
        if not line.endswith(b"\n"):
            return None
        try:
            header = json.loads(line)
            kind, asked = header["kind"], header["asked"]
        except (ValueError, LookupError, TypeError, RecursionError):
            kind, asked = None, None
        if kind != KIND or not isinstance(asked, dict):
            raise ConfigError(f"{str(self.path)!r} is no journal of an unfinished run: --overwrite starts anew")
        return asked

    def keep(self, paths: Sequence[str], batch_size: int) -> tuple[int, int]:
        """Drop what follows the last whole batch of rows for `paths`; how many rows that leaves, and how many are errors.

        Only whole batches, because a sum's rounding may depend on how many images are computed at once.
        """
        kept, rows, errors = (0, 0), 0, 0
        with self.path.open("rb") as file:
            end = offset = len(file.readline())
            for line, path in zip(file, paths, strict=False):
                if (failed := _failed(line, path)) is None:
                    break
                rows, errors, offset = rows + 1, errors + failed, offset + len(line)
                if rows % batch_size == 0 or rows == len(paths):
                    kept, end = (rows, errors), offset
        self._file.truncate(end)
        return kept

    def lines(self) -> Iterator[bytes]:
        """The rows."""
        with self.path.open("rb") as file:
            file.readline()
            yield from file


def _failed(line: bytes, path: str) -> bool | None:
    """Whether the row is an error; None where it is not whole, or not the row of that path."""
    try:
        row = json.loads(line) if line.endswith(b"\n") else {}
        return row["error"] is not None if row["path"] == path else None
    except (ValueError, LookupError, TypeError, RecursionError):
        return None


@contextmanager
def open_journal(output: Path) -> Iterator[Journal]:
    """The journal of an output, for one process at a time; a new one where there is none. Without rows it does not stay."""
    path = output.with_name(f".{output.name}.unfinished")
    with refusing(output):
        file = path.open("ab", buffering=0)
    with file:
        _lock(file, output)
        try:
            yield Journal(path, file)
        finally:
            if not os.fstat(file.fileno()).st_size:
                path.unlink(missing_ok=True)


@contextmanager
def refusing(output: Path, hint: str = "") -> Iterator[None]:
    """What the system refuses, as one sentence about the output."""
    try:
        yield
    except OSError as error:
        raise ReforgError(f"output {str(output)!r} cannot be written: {error.strerror or error}{hint}") from error


def _lock(file: IO[bytes], output: Path) -> None:
    """Refuse a file that another process holds, or has just finished with; a lock goes with its process, however that ends."""
    try:
        import fcntl

        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        raise ConfigError(f"output {str(output)!r} is being written by another process") from None
    except (ImportError, OSError):  # a system, or a file system, without such locks
        return
    if not os.fstat(file.fileno()).st_nlink:
        raise ConfigError(f"output {str(output)!r} was being written by another process, which has just ended")
