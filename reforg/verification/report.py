"""The answer of `reforg.verify`: what was found out, and every way to show it."""

import os
from dataclasses import dataclass
from typing import Any

from reforg.verification.findings import Findings


@dataclass(frozen=True)
class Report(Findings):
    """The answer of `reforg.verify`; see API and docs/verify.md. Its fields are those of `Findings`."""

    def __str__(self) -> str:
        from reforg.verification.show.text import report_text

        return report_text(self)

    def as_dict(self) -> dict[str, Any]:
        """The report as JSON has it; `reforg/data/verify.schema.json` is its schema."""
        from reforg.verification.show.documents import as_dict

        return as_dict(self)

    def to_json(self, path: str | os.PathLike[str]) -> None:
        """Write the report as JSON; the file appears whole or not at all. Raises ConfigError where it cannot be written."""
        from reforg.verification.show.documents import write_json

        write_json(self, path)

    def to_html(self, path: str | os.PathLike[str]) -> None:
        """Write the report as one HTML page that needs nothing beside it. Raises ConfigError where it cannot be written."""
        from reforg.verification.show.documents import write_html

        write_html(self, path)
