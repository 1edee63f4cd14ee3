"""The formats of an output: how it is written from a journal's lines, and which rows of a finished one are errors."""

import csv
import json
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from io import TextIOWrapper
from itertools import islice
from pathlib import Path
from typing import Any, BinaryIO

from reforg.classification.rows import encoded
from reforg.errors import ConfigError
from reforg.files import either

GROUP = 512  # rows of a parquet file that are written at once


@dataclass(frozen=True)
class Columns:
    """How many classes and how many features a row has; None: the features were not asked for."""

    classes: int
    features: int | None = None


def _write_jsonl(lines: Iterable[bytes], file: BinaryIO, columns: Columns) -> None:  # noqa: ARG001 - as the others
    file.writelines(lines)


def _write_csv(lines: Iterable[bytes], file: BinaryIO, columns: Columns) -> None:
    """Columns path, label_1, probability_1, …, features_0, …, error; empty where there is no answer."""
    text = TextIOWrapper(file, encoding="utf-8", errors="backslashreplace", newline="")
    table = csv.writer(text)
    ranks, places = range(1, columns.classes + 1), range(columns.features or 0)
    answers = [name for rank in ranks for name in (f"label_{rank}", f"probability_{rank}")]
    table.writerow(["path", *answers, *(f"features_{place}" for place in places), "error"])
    for row in map(json.loads, lines):
        pairs = zip(row["labels"], row["probabilities"], strict=True)
        answer = [value for pair in pairs for value in pair] or [None] * 2 * len(ranks)
        features = row.get("features") or [None] * len(places)
        table.writerow([row["path"], *answer, *features, row["error"]])
    text.detach()


def _write_parquet(lines: Iterable[bytes], file: BinaryIO, columns: Columns) -> None:
    """Columns path, labels, probabilities, features where asked for, error; names that are not UTF-8 as in JSON."""
    import pyarrow as pa
    from pyarrow.parquet import ParquetWriter

    fields = [("path", pa.string()), ("labels", pa.list_(pa.string())), ("probabilities", pa.list_(pa.float32()))]
    if columns.features is not None:
        fields.append(("features", pa.list_(pa.float32(), columns.features)))
    schema = pa.schema([*fields, ("error", pa.string())])
    rows = map(_as_utf8, map(json.loads, lines))
    with ParquetWriter(file, schema) as table:
        while group := list(islice(rows, GROUP)):
            table.write_table(pa.Table.from_pylist(group, schema))


def _as_utf8(value: Any) -> Any:
    """A row with its texts as UTF-8 can say them."""
    if isinstance(value, dict):
        return {key: _as_utf8(entry) for key, entry in value.items()}
    if isinstance(value, list) and value and isinstance(value[0], str):
        return [_as_utf8(entry) for entry in value]
    return encoded(value).decode() if isinstance(value, str) else value


def _rows_of_jsonl(path: Path) -> Iterator[tuple[str, bool]]:
    with path.open("rb") as file:
        for line in file:
            row = json.loads(line)
            yield row["path"], row["error"] is not None


def _rows_of_csv(path: Path) -> Iterator[tuple[str, bool]]:
    with path.open(encoding="utf-8", newline="") as file:
        for row in csv.DictReader(file):
            yield row["path"], row["error"] != ""


def _rows_of_parquet(path: Path) -> Iterator[tuple[str, bool]]:
    from pyarrow.parquet import ParquetFile

    with ParquetFile(path) as table:
        for batch in table.iter_batches(columns=["path", "error"]):
            yield from zip(batch.column("path").to_pylist(), batch.column("error").is_valid().to_pylist(), strict=True)


@dataclass(frozen=True)
class Format:
    """How a kind of file is written, and whose its rows are, with whether they are errors."""

    write: Callable[[Iterable[bytes], BinaryIO, Columns], None]
    rows: Callable[[Path], Iterator[tuple[str, bool]]]


FORMATS = {
    ".jsonl": Format(_write_jsonl, _rows_of_jsonl),
    ".csv": Format(_write_csv, _rows_of_csv),
    ".parquet": Format(_write_parquet, _rows_of_parquet),
}


def format_of(output: Path) -> Format:
    """The format that a file's name asks for; ConfigError where there is none, or what it needs is not installed."""
    suffix = output.suffix.lower()
    if suffix not in FORMATS:
        raise ConfigError(f"output {str(output)!r} must end in {either(list(FORMATS))}")
    if suffix == ".parquet":
        _need_pyarrow()
    return FORMATS[suffix]


def _need_pyarrow() -> None:
    try:
        import pyarrow.parquet  # noqa: F401 - at once, for its memory too
    except ImportError as error:
        raise ConfigError("a .parquet output needs pyarrow: pip install 'reforg[parquet]'") from error


def failures(output: Path, paths: Sequence[str]) -> int:
    """How many rows of a finished output for `paths` are errors; ConfigError where it is no such output, or of other images."""
    try:
        rows = list(format_of(output).rows(output))
        same = [encoded(path) for path, _ in rows] == [encoded(path) for path in paths]
    except (OSError, ValueError, LookupError, TypeError, AttributeError, RecursionError, csv.Error) as error:
        told = f"was not written by reforg classify, --overwrite replaces it: {error!s:.200}"
        raise ConfigError(f"output {str(output)!r} {told}") from error
    if not same:
        raise ConfigError(f"output {str(output)!r} is finished, but of other images: --overwrite replaces it")
    return sum(failed for _, failed in rows)
