"""A report as JSON and as a page, written whole or not at all."""

import json
import math
import os
from pathlib import Path
from typing import Any

from reforg.errors import ConfigError
from reforg.files import check_place, replacing
from reforg.verification.findings import Difference, Findings, Selection
from reforg.verification.show.wording import kind_of, share
from reforg.version import __version__

SCHEMA = 1


def as_dict(report: Findings) -> dict[str, Any]:
    """Plain values, as `reforg/data/verify.schema.json` describes them.

    What is no finite number is None: JSON has no infinity and no NaN. Error maps are left to the page.
    """
    faults = [_difference(fault) for fault in report.faults]
    return {
        "schema": SCHEMA,
        "reforg": __version__,
        "model": _text(report.model),
        "dtype": report.dtype,
        "candidate": _text(report.candidate),
        "images": int(report.images),
        "passed": report.passed,
        "verdict": report.verdict,
        "explanation": _optional(report.explanation),
        "first": faults[0] if faults else None,
        "faults": faults,
        "differences": [_difference(difference) for difference in report.differences],
        "selections": [_selection(selection) for selection in report.selections],
        "unknown": [_text(name) for name in report.unknown],
        "unseen": [_text(name) for name in report.unseen],
        "notes": [_text(note) for note in report.notes],
    }


def write_json(report: Findings, path: str | os.PathLike[str]) -> None:
    """Write `as_dict` as a file of JSON in ASCII. Raises ConfigError where it cannot be written."""
    _write(json.dumps(as_dict(report), indent=2, allow_nan=False) + "\n", path)


def write_html(report: Findings, path: str | os.PathLike[str]) -> None:
    """Write one page that needs nothing beside it. Raises ConfigError where it cannot be written."""
    from reforg.verification.show.page.document import report_page

    _write(report_page(report), path)


def _difference(difference: Difference) -> dict[str, Any]:
    where = difference.where
    return {
        "name": _text(difference.name),
        "operation": _text(difference.operation),
        "passed": bool(difference.passed),
        "kind": kind_of(difference),
        "worst": _finite(difference.worst),
        "limit": _finite(difference.limit),
        "share": _finite(share(difference)),
        "where": None if where is None else [int(index) for index in where],
        "shape_got": [int(size) for size in difference.shape_got],
        "shape_wanted": [int(size) for size in difference.shape_wanted],
        "explanation": _optional(difference.explanation),
        "note": _text(difference.note),
    }


def _selection(selection: Selection) -> dict[str, Any]:
    return {
        "path": _text(selection.path),
        "verdict": selection.verdict,
        "reordered": bool(selection.reordered),
        "margins": [_finite(margin) for margin in selection.margins],
        "limits": [_finite(limit) for limit in selection.limits],
        "flips": [int(count) for count in selection.flips],
    }


def _finite(value: float) -> float | None:
    return float(value) if math.isfinite(value) else None


def _optional(text: str | None) -> str | None:
    return None if text is None else _text(text)


def _text(text: str) -> str:
    """The text; halves of characters, which strict readers of JSON refuse, are spelled out."""
    return text.encode("utf-8", "backslashreplace").decode("utf-8")


def _write(text: str, path: str | os.PathLike[str]) -> None:
    if not isinstance(path, str | os.PathLike):
        raise ConfigError(f"report: the name of a file is wanted, got {type(path).__name__}")
    place = Path(path)
    check_place(place, "report:", ConfigError)
    try:
        with replacing(place) as unfinished:
            unfinished.write_bytes(text.encode("utf-8"))
    except OSError as error:
        raise ConfigError(f"report: {str(place)!r} cannot be written: {error.strerror or error}") from error
