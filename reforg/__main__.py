"""`python -m reforg`."""

from reforg.cli import main

main()
