"""How much a file may ask for before it is refused. Each limit is far beyond what checkpoints of these models hold."""

import math
from collections.abc import Sequence

from reforg.errors import WeightsError

OPERATIONS = 1_000_000  # steps of a pickle: 48 double blocks with their optimizer and three averages take 560,000
PICKLE = 256 << 20  # bytes of an archive's pickle
TEXT = 64 << 20  # bytes of text and byte strings that a pickle may hold
PIECE = 1 << 20  # bytes of a single one that are kept; a longer one is an array's data, and inert
LINE = 1 << 16  # bytes of an argument that ends with its line
INTEGER = 256  # bytes of an integer
KEY = 20  # digits of a storage's key
MARKS = 256  # marks open at a time
DEPTH = 100  # containers within containers
DIMENSIONS = 64  # of an array: NumPy's own limit
RECORDS = 50_000  # files in an archive
HEADER = 4 << 20  # bytes of an archive's directory, or of a safetensors header
INFLATION = 20, 1 << 20  # a compressed record may grow to this many times its size, or to this many bytes
SHARING = 4, 64 << 20  # all tensors together may take this many times the file's size, and so many bytes


def check_sides(shape: Sequence[int], what: str) -> None:
    """WeightsError for more dimensions, or for an empty array of more elements but for its empty side, than NumPy can have."""
    require(len(shape) <= DIMENSIONS, f"{what} has {len(shape)} dimensions")
    require(math.prod(side or 1 for side in shape) < 1 << 48, f"{what} has impossible sizes")


def grown(size: int, limit: tuple[int, int]) -> int:
    """The most bytes that `size` bytes of a file may stand for."""
    factor, least = limit
    return least + factor * size


def require(fact: bool, sentence: str) -> None:
    """WeightsError with the sentence, unless the fact holds."""
    if not fact:
        raise WeightsError(sentence)
