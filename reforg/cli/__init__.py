"""The command line: one module a command, which reads options, calls one wing and prints what came of it.

May import everything below it; nothing but `__main__` imports it. Start with `app`: how a command ends, and with which exit code.
`settings`, `tables` and `complete` are what commands share.
"""

from reforg.cli import bench, classify, convert, demo, env, info, models, trace, verify
from reforg.cli.app import app, main, run

__all__ = ["app", "bench", "classify", "convert", "demo", "env", "info", "main", "models", "run", "trace", "verify"]
