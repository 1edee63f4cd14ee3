"""The command line: one module a command."""

from reforg.cli import convert, demo, models
from reforg.cli.app import app, main, run

__all__ = ["app", "convert", "demo", "main", "models", "run"]
