"""`python tests/tools/hostile FOLDER CANARY`: the worker of worker.py."""

import sys
from pathlib import Path

sys.path[0] = str(Path(__file__).parents[1])  # where this package lies, for the folder itself
from hostile.worker import work  # noqa: E402  it is found there

work(Path(sys.argv[1]), Path(sys.argv[2]))
