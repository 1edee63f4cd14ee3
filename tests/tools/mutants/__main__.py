"""`python tests/tools/mutants`: see score.py."""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))  # where this package lies
from mutants.score import main

sys.exit(main())
