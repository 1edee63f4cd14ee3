"""Files written whole or not at all."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pathlib import Path


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
