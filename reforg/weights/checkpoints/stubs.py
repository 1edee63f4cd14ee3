"""What stands for the things in a pickle that are neither containers nor tensors: names, which do nothing."""

from dataclasses import dataclass


@dataclass(frozen=True)
class Named:
    """A dotted path, as a pickle spells it."""

    path: str

    def __str__(self) -> str:
        return self.path


class Global(Named):
    """A class or function that a pickle names; it is never imported."""


class Stub(Named):
    """An object that is not read: only the path of its class is kept."""

    @property
    def is_tensor(self) -> bool:
        """Whether it stands for a tensor of a kind that is not read."""
        return self.path.startswith(("torch._utils._rebuild_", "torch._tensor._rebuild_", "tensor of "))
