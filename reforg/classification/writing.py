"""An output being written: rows go to its journal batch by batch, and become the output at the end."""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from reforg.classification.journal import Journal, refusing
from reforg.classification.outputs import Columns, format_of
from reforg.classification.request import difference
from reforg.classification.rows import line
from reforg.errors import ConfigError
from reforg.files import check_place
from reforg.models.answers import Classifier


@dataclass
class Writing:
    """How far an output's rows for `paths` are: `done` of them are in the journal, `failed` of these hold an error."""

    output: Path
    journal: Journal
    paths: Sequence[str]
    done: int = 0
    failed: int = 0

    def start(self, asked: Mapping[str, Any], batch_size: int, resume: bool) -> None:
        """Go on where the journal's run ended, which must have been asked the same, or begin anew."""
        before = self.journal.asked() if resume else None
        if before is None:
            with refusing(self.output):
                self.journal.begin(asked)
        elif differing := difference(before, asked):
            raise ConfigError(f"output {str(self.output)!r}: its unfinished run was asked otherwise, {differing}")
        else:
            self.done, self.failed = self.journal.keep(self.paths, batch_size)

    def compute(self, classifier: Classifier) -> Iterator[int]:
        """Answer what is left; after each batch, how many rows are done."""
        for batch in classifier.batches(self.paths[self.done :]):
            paths = self.paths[self.done : self.done + len(batch)]
            with refusing(self.output, f"; {self.kept}"):
                self.journal.append(b"".join(line(path, row, classifier.features) for path, row in zip(paths, batch, strict=True)))
            self.done += len(batch)
            self.failed += sum(answer.error is not None for answer in batch)
            yield self.done

    def finish(self, columns: Columns) -> None:
        """The journal's rows as the output, whole or not at all; then the journal goes.

        The temporary name is always the same, so that one left by a run that was killed is written over.
        """
        written = _part_of(self.output)
        try:
            with refusing(self.output, f"; {self.kept}"):
                with written.open("wb") as file:
                    format_of(self.output).write(self.journal.lines(), file, columns)
                written.replace(self.output)
                self.journal.path.unlink()
        finally:
            with suppress(OSError):  # what went wrong before is told, not what cannot be cleaned up
                written.unlink(missing_ok=True)

    @property
    def kept(self) -> str:
        """How much of the work an end now leaves, and how to go on."""
        return f"{self.done:,} of {len(self.paths):,} answers are kept in {str(self.journal.path)!r}: --resume goes on"


def _part_of(output: Path) -> Path:
    """The temporary name under which an output is written."""
    return output.with_name(f".{output.name}.unfinished.part")


def check_output(output: Path) -> None:
    """ConfigError where there can be no such file."""
    format_of(output)
    for name in (output, _part_of(output)):
        check_place(name, "output", ConfigError)


def check_state(output: Path, journal: Journal, resume: bool, overwrite: bool) -> None:
    """ConfigError where something is there that was neither to be resumed nor to be replaced."""
    if resume or overwrite:
        return
    if not journal.empty:
        unfinished = f"an unfinished run of it is kept in {str(journal.path)!r}"
        raise ConfigError(f"output {str(output)!r}: {unfinished}: --resume goes on, --overwrite starts anew")
    if output.exists():
        raise ConfigError(f"output {str(output)!r} is there already: --overwrite replaces it")
