"""Weight files from strangers, read without a framework: nothing in them runs, no figure in them is believed unchecked.

reader (which kind of file?) -> torch_files, npz, tensor_files -> entries, whose bytes are read when they are wanted. A pickle is
run by a small machine of our own (`pickles`, `machine`), for which a class is a name (`imports`, `stubs`) and never code.
May import errors and files only. Start with `reader`, then `limits`.
"""

from reforg.weights.checkpoints.entry import Entry, read
from reforg.weights.checkpoints.reader import Checkpoint, open_checkpoint
from reforg.weights.checkpoints.stubs import Stub

__all__ = ["Checkpoint", "Entry", "Stub", "open_checkpoint", "read"]
