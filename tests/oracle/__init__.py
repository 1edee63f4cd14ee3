"""Holds reforg against other people's modules, in an environment of its own: `pytest tests/oracle -c pyproject.toml`."""
