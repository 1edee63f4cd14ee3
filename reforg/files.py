"""Files written whole or not at all, and only where they can be."""

import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING

from reforg.errors import ReforgError

if TYPE_CHECKING:
    from pathlib import Path


# Opening a pipe or a terminal neither waits for the other end nor takes it over; Windows has the first of these flags.
OPENING = getattr(os, "O_BINARY", 0) | getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_NOCTTY", 0)


def check_place(path: "Path", what: str, error: type[ReforgError], endings: Sequence[str] = (), overwrite: bool = True) -> None:
    """`error` where no file can be written there, told before anything is computed; `what` begins its sentence.

    A link, a pipe or a device is no place, because the file is renamed to it when it is whole.
    """
    name = f"{what} {str(path)!r}"
    if endings and path.suffix.lower() not in endings:
        raise error(f"{name} must end in {either(endings)}")
    if "\0" in str(path):
        raise error(f"{name} cannot be written: no name holds a null byte")
    try:
        folder, taken, exists = path.parent.is_dir(), path.is_dir(), path.exists()
        other = path.is_symlink() or (exists and not path.is_file())
    except OSError as problem:  # names that the system does not take
        raise error(f"{name} cannot be written: {problem.strerror or problem}") from problem
    if taken:
        raise error(f"{name} is a folder")
    if other:
        raise error(f"{name} is a link, a pipe or a device: give the name of a file")
    if not folder:
        raise error(f"{name} cannot be written: there is no folder {str(path.parent)!r}")
    if not os.access(path.parent, os.W_OK):
        raise error(f"{name} cannot be written: nothing may be written in {str(path.parent)!r}")
    if exists and not overwrite:
        raise error(f"{name} is there already: --overwrite replaces it")


def either(words: Sequence[str]) -> str:
    """The words, with commas between them and "or" before the last."""
    return " or ".join(filter(None, (", ".join(words[:-1]), words[-1])))


@contextmanager
def replacing(path: "Path") -> Iterator["Path"]:
    """A name in a temporary folder beside `path`; what is written there gets the name `path` only once all is written."""
    import tempfile  # only where something is written
    from pathlib import Path

    with tempfile.TemporaryDirectory(dir=path.parent, prefix=f".{path.name}.") as folder:
        written = Path(folder) / path.name
        yield written
        like = written.with_name("new")
        like.touch()
        written.chmod(like.stat().st_mode)  # as any new file of this user's; some writers are stricter
        written.replace(path)
