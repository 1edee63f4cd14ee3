"""An answer as a line of JSON: what the journal and a .jsonl file hold, and what the other formats are made from."""

import json
from typing import Any

from reforg.models.answers import Answer


def line(path: str, answer: Answer, features: bool) -> bytes:
    r"""{"path", "labels", "probabilities", "features" where asked for, "error"} and a newline, in UTF-8.

    Every number has as many digits as its dtype needs to come back the same. A name that is not UTF-8 has its bytes as
    Python has them, as "\udcff", which JSON can say.
    """
    row: dict[str, Any] = {"path": path, "labels": answer.labels, "probabilities": answer.probabilities}
    if features:
        row["features"] = None if answer.features is None else [float(str(value)) for value in answer.features]
    row["error"] = answer.error
    return encoded(json.dumps(row, ensure_ascii=False, allow_nan=False)) + b"\n"


def encoded(text: str) -> bytes:
    r"""In UTF-8, bytes of a name that are none as "\udcff"."""
    return text.encode("utf-8", "backslashreplace")
