"""The command line: one module a command."""

from reforg.cli import bench, classify, convert, demo, env, info, models, trace, verify
from reforg.cli.app import app, main, run

__all__ = ["app", "bench", "classify", "convert", "demo", "env", "info", "main", "models", "run", "trace", "verify"]
