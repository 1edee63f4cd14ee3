"""What a user asks to be measured: contestants, cases, and how long; every mistake is found before anything runs."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from reforg.bench import peers
from reforg.catalog.names import build_config
from reforg.config import Config, check_dtype
from reforg.costs.cost import cost
from reforg.errors import ConfigError, nearest
from reforg.models.backend import installed, load, named

MODELS = ("deit_small_patch16_224", "evit_small_patch16_224", "shunted_s")
OPS = ("reference", "auto")
PICTURES = (".png", ".svg")


@dataclass(frozen=True)
class Contestant:
    """A program that takes part. kind: "backend" or "peer"; name: its entry point's; ops: which operations of a backend.

    device: as that program spells it; None for the one that it takes by itself.
    """

    kind: str
    name: str
    ops: str = ""
    device: str | None = None


@dataclass(frozen=True)
class Case:
    """What all contestants compute: `batch` images through a model whose config has `settings` in place of its own values."""

    model: str
    settings: Mapping[str, Any]
    dtype: str
    batch: int

    @property
    def config(self) -> Config:
        """The model's config."""
        return build_config(self.model, **self.settings)

    @property
    def title(self) -> str:
        """What tells it from other cases."""
        height, width = self.config.image_shape
        return f"{self.model}, {height}x{width}, batch {self.batch}, {self.dtype}"


@dataclass(frozen=True)
class Request:
    """The options of `reforg bench`. seconds: of a turn. against: peers; None for `peers.UNASKED`, where they can be imported.

    backends, against: NAME, or NAME@DEVICE.
    """

    models: Sequence[str] = MODELS
    batches: Sequence[int] = (8,)
    backends: Sequence[str] = ("numpy",)
    ops: Sequence[str] = OPS
    dtypes: Sequence[str] = ("float32",)
    sizes: Sequence[int] = ()
    settings: Mapping[str, Any] = field(default_factory=dict)
    against: Sequence[str] | None = None
    rounds: int = 7
    seconds: float = 1.0
    threads: int | None = None
    breakdown: bool = False

    def check(self) -> None:
        """ConfigError, ShapeError or BackendError for what cannot be measured, found out from the words alone."""
        for backend in self.backends:
            named("backend", placed(backend)[0], installed())
        for peer in self.against or ():
            named("peer", placed(peer)[0], peers.installed())
        if set(self.ops) - set(OPS):  # ways that some backend has besides
            own = [choice for backend in self.backends for choice in getattr(load(placed(backend)[0]), "choices", ())]
            known = list(dict.fromkeys([*OPS, *own]))
            for choice in self.ops:
                if choice not in known:
                    raise ConfigError(f"there are no ops {choice!r}{nearest(choice, known)} (known: {', '.join(known)})")
        for dtype in self.dtypes:
            check_dtype(dtype)
        if not math.isfinite(self.seconds):
            raise ConfigError(f"--seconds must be a number of seconds, got {self.seconds}")
        if self.sizes and "img_size" in self.settings:
            raise ConfigError("img_size is given twice, by --img-size and by --set")
        for case in self.cases():
            cost(case.config, batch=case.batch)

    def cases(self) -> list[Case]:
        """Every model at every size, in every dtype, with every batch."""
        sizes: list[dict[str, Any]] = [{"img_size": size} for size in self.sizes] or [{}]
        return [
            Case(model, {**self.settings, **size}, dtype, batch)
            for model in self.models
            for size in sizes
            for dtype in self.dtypes
            for batch in self.batches
        ]

    def contestants(self) -> list[Contestant]:
        """The backends with each of their operations, and the peers; those that nobody asked for may yet turn out to be missing."""
        own = [Contestant("backend", name, ops, device) for name, device in map(placed, self.backends) for ops in self.ops]
        others = [name for name in peers.UNASKED if name in peers.installed()] if self.against is None else self.against
        return own + [Contestant("peer", name, "", device) for name, device in map(placed, others)]


def placed(word: str) -> tuple[str, str | None]:
    """The name of a program and, where it follows behind an @, the device that it is to run on."""
    name, marked, device = word.partition("@")
    if not name or (marked and not device):
        raise ConfigError(f"{word!r} wants a name before the @ and a device behind it")
    return name, device or None
