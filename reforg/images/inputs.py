"""Which images a command line names: files, folders, patterns and lists on standard input, each image once."""

import os
from collections.abc import Iterator, Sequence
from fnmatch import fnmatchcase
from pathlib import PurePath
from typing import BinaryIO

from reforg.errors import ConfigError

STDIN = "-"
WILD = "*?["
SUFFIXES = (  # of the formats that are read
    *(".jpg", ".jpeg", ".jpe", ".jfif", ".png", ".webp", ".gif", ".bmp", ".dib", ".tif", ".tiff", ".avif"),
    *(".ppm", ".pgm", ".pbm", ".pnm"),
)


def image_paths(arguments: Sequence[str], stdin: BinaryIO | None) -> list[str]:
    """The paths of the images that the arguments name, in their order, each image once, under the path it was first found by.

    A folder stands for the images in it and in its subfolders (by their suffix, hidden ones left out, sorted), a pattern as
    'photos/**/*.jpg' for those of them that match, "-" for the paths that `stdin` lists, one a line or separated by NUL.
    A file that is named counts whatever its suffix, and even where it is missing. Raises ConfigError where an argument
    names nothing.
    """
    found: dict[str, str] = {}
    for argument in dict.fromkeys(arguments):
        for path in _of_list(stdin) if argument == STDIN else _of_argument(argument):
            found.setdefault(os.path.abspath(path), path)  # noqa: PTH100 - Path's would follow links
    paths = list(found.values())
    if len(arguments) == 1 and paths == list(arguments) and not os.path.lexists(paths[0]):
        raise ConfigError(f"there is no file or folder {paths[0]!r}")
    return paths


def _of_list(stdin: BinaryIO | None) -> Iterator[str]:
    data = stdin.read() if stdin else b""
    entries = data.split(b"\0") if b"\0" in data else [line.removesuffix(b"\r") for line in data.split(b"\n")]
    paths = [os.fsdecode(entry) for entry in entries if entry]
    if not paths:
        raise ConfigError("standard input lists no image")
    for path in paths:
        yield from _of_path(path)


def _of_argument(argument: str) -> Iterator[str]:
    wild = any(mark in argument for mark in WILD) and not os.path.lexists(argument)
    return _matching(argument) if wild else _of_path(argument)


def _of_path(path: str) -> Iterator[str]:
    if not os.path.isdir(path):  # noqa: PTH112 - a name that no path can have is a missing file
        yield path
        return
    images = list(_images(path))
    if not images:
        raise ConfigError(f"there is no image in folder {path!r} (known by {', '.join(SUFFIXES)})")
    yield from images


def _matching(pattern: str) -> Iterator[str]:
    """The images that a pattern matches; "**" stands for any number of folders, itself in the last place for any files."""
    parts = PurePath(pattern).parts
    fixed = next(place for place, part in enumerate(parts) if any(mark in part for mark in WILD))
    folder, wanted = str(PurePath(*parts[:fixed])), parts[fixed:]
    images = _images(folder, None if "**" in wanted else len(wanted)) if os.path.isdir(folder) else ()  # noqa: PTH112
    matches = [str(PurePath(path)) for path in images if _fits(PurePath(path).relative_to(folder).parts, wanted)]
    if not matches:
        raise ConfigError(f"no image matches {pattern!r}")
    yield from matches


def _fits(parts: Sequence[str], wanted: Sequence[str]) -> bool:
    """Whether the parts of a path match the parts of a pattern."""
    if not wanted:
        return not parts
    if wanted[0] == "**" and _fits(parts, wanted[1:]):
        return True
    if not parts:
        return False
    return _fits(parts[1:], wanted) if wanted[0] == "**" else fnmatchcase(parts[0], wanted[0]) and _fits(parts[1:], wanted[1:])


def _images(folder: str, depth: int | None = None) -> Iterator[str]:
    """The images in a folder, then those in its subfolders, `depth` levels deep: sorted, none of them hidden.

    Links to folders are followed, but no folder is entered twice, so that a loop of links ends.
    """
    entered: set[str] = set()
    for place, folders, files in os.walk(folder, onerror=_refuse, followlinks=True):
        level, real = len(PurePath(place).relative_to(folder).parts), os.path.realpath(place)
        if real in entered or level == depth:
            folders.clear()
            continue
        entered.add(real)
        folders[:] = sorted(name for name in folders if not name.startswith("."))
        for name in sorted(files):
            if not name.startswith(".") and PurePath(name).suffix.lower() in SUFFIXES:
                yield os.path.join(place, name)  # noqa: PTH118 - as the user wrote the folder


def _refuse(error: OSError) -> None:
    raise ConfigError(f"folder {str(error.filename)!r} cannot be read: {error.strerror}")
