"""Finding the programs that reforg is measured beside, by the entry-point group "reforg.peers"."""

from collections.abc import Callable, Mapping
from importlib.metadata import EntryPoint
from typing import Any, Protocol

import numpy as np

from reforg.config import Config
from reforg.models import backend

GROUP = "reforg.peers"
UNASKED = ("torch",)  # who takes part where nobody is asked for; the others take many seconds to compile or to export a model
Images = np.ndarray[Any, np.dtype[Any]]


class Peer(Protocol):
    """What an entry point of the group names: a module (or object) that makes the same models of another program.

    Its functions raise ValueError with one sentence for what they cannot do.
    """

    name: str
    """What it is called in tables, such as "torch eager"."""

    def version(self) -> str:
        """The program and its version."""

    def build(
        self, config: Config, weights: Mapping[str, Any], dtype: str, device: Any, threads: int | None
    ) -> Callable[[Images], Images]:
        """A function from images (B, C, H, W) to logits (B, num_classes), both NumPy arrays on the host.

        weights: float32 NumPy arrays under the official names, to be read and not written. threads: how many the program may
        use; None is its own choice. The images are float32; the logits may be of any floating dtype of NumPy's, and may be
        overwritten by the next call.
        """


def installed() -> dict[str, EntryPoint]:
    """Name -> entry point of every peer that some installed package declares, without importing any."""
    return backend.installed(GROUP)


def load(name: str) -> Peer:
    """The peer of that name, imported; BackendError where it, or the program it stands on, is missing."""
    peer: Peer = backend.imported("peer", name, installed())
    return peer
