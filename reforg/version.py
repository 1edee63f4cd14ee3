"""The version of this package; read here by whoever writes it down, so that nobody imports the root for it."""

__version__ = "0.1.0"
