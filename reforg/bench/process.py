"""A worker as its parent sees it: a process that answers questions, and that may die."""

import json
import os
import signal
import subprocess
import sys
import tempfile
from collections.abc import Mapping
from contextlib import suppress
from types import TracebackType
from typing import Any, Self

from reforg.errors import BackendError

THREADS = ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS", "NPROC")  # the last is what XLA reads
GROUP = 0 if hasattr(os, "killpg") else None  # of its own, in which are what it starts: a compiler, an exporter
COMMAND = (sys.executable, "-P", "-m", "reforg.bench.worker")  # -P: nothing is imported from the folder we stand in


class Worker:
    """A process of one contestant. Questions and answers are lines of JSON over its standard input and output.

    It ends when it is closed, and what it has started with it, or when its parent is gone and nobody asks it anything more.
    Its temporary files (a compiler's cache, an exported graph) are gone then, and it finds none of an earlier one.
    """

    def __init__(self, label: str, threads: int | None = None) -> None:
        self.label = label
        self._complaints = tempfile.TemporaryFile()  # noqa: SIM115 - closed with the process
        self._folder = tempfile.TemporaryDirectory(prefix="reforg-bench-", ignore_cleanup_errors=True)  # removed with the process
        environment = os.environ | ({} if threads is None else dict.fromkeys(THREADS, str(threads)))
        environment |= {"TMPDIR": self._folder.name}
        pipe = subprocess.PIPE
        self._process = subprocess.Popen(  # noqa: S603 - our own interpreter
            COMMAND, stdin=pipe, stdout=pipe, stderr=self._complaints, env=environment, text=True, process_group=GROUP
        )

    def ask(self, question: Mapping[str, Any]) -> dict[str, Any]:
        """The worker's answer; BackendError where it says why it cannot, and where it has ended without a word."""
        try:
            self._stdin.write(json.dumps(question) + "\n")
            self._stdin.flush()
        except BrokenPipeError as error:
            raise self._death() from error
        line = self._stdout.readline()
        if not line.endswith("\n"):
            raise self._death()
        answer: dict[str, Any] = json.loads(line)
        if "error" in answer:
            raise BackendError(answer["error"])
        return answer

    @property
    def _stdin(self) -> Any:
        return self._process.stdin

    @property
    def _stdout(self) -> Any:
        return self._process.stdout

    def _death(self) -> BackendError:
        """How the process ended, in a sentence."""
        code = self._process.wait()
        if code < 0:
            name = signal.Signals(-code).name
            hint = ", as the system does where memory runs out" if name == "SIGKILL" else ""
            return BackendError(f"{self.label}: its process was ended by {name}{hint}")
        self._complaints.seek(0)
        lines = self._complaints.read().decode(errors="replace").strip().splitlines()
        return BackendError(f"{self.label}: its process ended with exit code {code}" + (f": {lines[-1]}" if lines else ""))

    def close(self) -> None:
        """End the process and those that it has started, whatever they do."""
        self._kill()
        self._process.wait()
        with suppress(BrokenPipeError):  # what was not yet read by it
            self._stdin.close()
        self._stdout.close()
        self._complaints.close()
        self._folder.cleanup()

    def _kill(self) -> None:
        if GROUP is None:
            self._process.kill()
            return
        with suppress(ProcessLookupError, PermissionError):  # it has ended, and all of its group; macOS says the latter
            os.killpg(self._process.pid, signal.SIGKILL)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self.close()
