"""What stands for the things in a pickle that are neither containers nor tensors: names, which do nothing."""

from dataclasses import dataclass


@dataclass(frozen=True)
class Global:
    """A class or function that a pickle names; it is never imported."""

    path: str

    def __str__(self) -> str:
        return self.path


@dataclass(frozen=True)
class Stub:
    """An object of a class that is not read: only the name of its class is kept."""

    kind: str

    def __str__(self) -> str:
        return self.kind
