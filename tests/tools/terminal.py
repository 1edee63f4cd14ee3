"""The command line as a user types it: in this process, or in one of its own."""

import os
import subprocess
import sys

from reforg import cli

ENVIRONMENT = {key: value for key, value in os.environ.items() if key not in ("COLUMNS", "FORCE_COLOR")}


def typed(capsys, *arguments):
    """Exit code, standard output, standard error, in this process."""
    code = cli.run(list(map(str, arguments)))
    captured = capsys.readouterr()
    return code, captured.out, captured.err


def reforg_command(*arguments, cwd):
    """The command in a process of its own, in an empty folder."""
    return subprocess.run(
        [sys.executable, "-m", "reforg", *arguments], cwd=cwd, env=ENVIRONMENT, check=False, capture_output=True, text=True
    )
