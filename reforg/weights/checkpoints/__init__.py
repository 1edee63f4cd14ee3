"""Weight files from strangers, read without a framework: nothing in them runs, no figure in them is believed unchecked."""

from reforg.weights.checkpoints.entry import Entry, read
from reforg.weights.checkpoints.reader import Checkpoint, opened
from reforg.weights.checkpoints.stubs import Stub

__all__ = ["Checkpoint", "Entry", "Stub", "opened", "read"]
