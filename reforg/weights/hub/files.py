"""The files of a repository: fetched, or found in the cache, all of one commit."""

import json
import logging
import re
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NoReturn

from reforg.errors import ConfigError, WeightsError

COMMIT = re.compile(r"[0-9a-f]{40}")
CONFIG, PREPROCESSOR = "config.json", "preprocessor_config.json"
WEIGHTS = ("model.safetensors", "pytorch_model.bin")
SHARDS = ("model.safetensors.index.json", "pytorch_model.bin.index.json")
LARGEST_CONFIG = 4 * 2**20  # bytes; ImageNet-22k's names take a quarter of it


class AbsentError(Exception):
    """The repository does not have the file."""


class UnreachableError(Exception):
    """The file is not in the cache, and nobody can be asked for it."""


@contextmanager
def _quiet() -> Iterator[None]:
    """Without the library's own words about what it tries again: what comes of it is told in one sentence."""
    logger = logging.getLogger("huggingface_hub")
    before = logger.level
    logger.setLevel(logging.ERROR)
    try:
        yield
    finally:
        logger.setLevel(before)


@dataclass
class Files:
    """The files of one commit of a repository; the first that is fetched tells which commit that is."""

    repository: str
    revision: str | None
    local: bool = False  # whether the Hub was out of reach once: it is not waited for again

    def error(self, what: str) -> WeightsError:
        """What is wrong, in a sentence that names the repository."""
        return WeightsError(f"weights: Hub repository {self.repository!r}: {what}")

    def path(self, filename: str) -> Path:
        """Where a file lies in the cache, fetched if need be; WeightsError where it cannot be had."""
        try:
            return self._fetched(filename)
        except AbsentError as error:
            raise self.error(f"there is no {filename}") from error
        except UnreachableError as error:
            raise self.error(f"{filename} is not in the cache, and {error}") from error

    def optional(self, filename: str) -> Path | None:
        """The same, but None where the repository does not have it, or nobody can be asked whether it has."""
        try:
            return self._fetched(filename)
        except (AbsentError, UnreachableError):
            return None

    def weights(self) -> Path:
        """The file of weights, safetensors rather than pickled."""
        reasons = []
        for filename in WEIGHTS:
            try:
                return self._fetched(filename)
            except (AbsentError, UnreachableError) as error:
                reasons.append(error)
        for filename in SHARDS:
            if self.optional(filename):
                raise self.error(f"the weights are in several files ({filename}), and only a single one is read")
        for reason in reasons:
            if isinstance(reason, UnreachableError):
                raise self.error(f"neither {' nor '.join(WEIGHTS)} is in the cache, and {reason}")
        raise self.error(f"there is neither {' nor '.join(WEIGHTS)}")

    def _fetched(self, filename: str) -> Path:
        try:
            from huggingface_hub import constants, errors, hf_hub_download
        except ImportError as error:
            raise self.error("this needs huggingface-hub: pip install 'reforg[hub]'") from error
        try:
            with _quiet():
                path = Path(hf_hub_download(self.repository, filename, revision=self.revision, local_files_only=self.local))
        except errors.LocalEntryNotFoundError as error:
            self.local = True
            status = getattr(getattr(error.__cause__, "response", None), "status_code", None)  # of an answer that is no file
            reason = "the Hub cannot be reached" if status is None else f"the Hub answers with status {status}"
            raise UnreachableError("HF_HUB_OFFLINE is set" if constants.HF_HUB_OFFLINE else reason) from error
        except errors.EntryNotFoundError as error:
            raise AbsentError(filename) from error
        except Exception as error:  # the library passes on the kinds of whatever transport it uses
            self._refused(filename, error, errors)
        if COMMIT.fullmatch(path.parent.name):
            self.revision = path.parent.name
        return path

    def _refused(self, filename: str, error: Exception, errors: Any) -> NoReturn:
        """The error of a file that could be asked for and was not given."""
        if isinstance(error, errors.GatedRepoError):
            what = "access is restricted: ask for it on the repository's page, then log in with 'hf auth login'"
        elif isinstance(error, errors.RepositoryNotFoundError):
            what = "there is no such repository, or it is private and needs 'hf auth login'"
        elif isinstance(error, errors.RevisionNotFoundError):
            what = f"there is no revision {self.revision!r}"
        else:
            (line, *_) = str(error).strip().splitlines() or [type(error).__name__]
            what = f"{filename} cannot be fetched: {line:.200}"
        raise self.error(what) from error


def read_object(path: Path, name: str) -> dict[str, Any]:
    """A JSON object from a file of a bounded size; ConfigError for anything else."""
    try:
        with path.open("rb") as file:
            text = file.read(LARGEST_CONFIG + 1)
        if len(text) > LARGEST_CONFIG:
            raise ConfigError(f"{name} is larger than {LARGEST_CONFIG // 2**20} MB")
        found = json.loads(text)
    except (OSError, ValueError, RecursionError) as error:  # of JSON, of UTF-8, of numbers with thousands of digits
        raise ConfigError(f"{name} cannot be read: {str(error) or type(error).__name__:.200}") from error
    if not isinstance(found, dict):
        raise ConfigError(f"{name} must hold an object, got {type(found).__name__}")
    return found
