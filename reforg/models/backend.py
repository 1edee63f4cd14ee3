"""What a backend is, which are installed (by the entry-point group "reforg.backends"), and arrays brought to one."""

from collections.abc import Callable, Hashable, Mapping
from dataclasses import dataclass
from importlib.metadata import EntryPoint, entry_points
from typing import Any, Protocol

import numpy as np

from reforg.arrays import Array
from reforg.errors import BackendError, ConfigError, nearest
from reforg.ops import Ops

GROUP = "reforg.backends"
REFUSALS = (ValueError, TypeError, BufferError, RuntimeError, AssertionError)  # with which frameworks say that they cannot


@dataclass(frozen=True)
class Call:
    """What a call of a model asks for.

    forward: a pure function from weights, images and operations to an array, or a tuple or list of arrays, all [B, ...].
    key: equal for two that compute the same. only_logits: whether nothing is read of what it computes but logits.
    bytes_per_image: the size of the widest intermediate of an image.
    """

    forward: Callable[[Mapping[str, Array], Any, Ops], Any]
    key: Hashable
    only_logits: bool
    bytes_per_image: int


class Plans(Protocol):
    """What a backend may prepare once for a model's weights, and use for every call."""

    watch: Callable[[str, float, int | None], None] | None
    """Who is told of every step: what it is called, its share of the wall time in seconds, its multiply-accumulates."""

    def run(self, call: Call, images: Array) -> Any:
        """What `call.forward` makes of the images; None where it has no plan for that."""

    def table(self) -> Mapping[str, str]:
        """Who runs operations and pieces where there is a plan."""


class Backend(Protocol):
    """What an entry point of the group names: a module (or object) with these members.

    Its functions raise ValueError with one sentence for what they cannot do; reforg turns that into a BackendError.
    """

    name: str
    namespace: Any
    """The array-api-compat namespace of its arrays."""
    ops: Ops
    """The reference's operations, some of them replaced by faster ones with the same results."""

    def version(self) -> str:
        """The framework and its version."""

    def dtype(self, name: str) -> Any:
        """Its dtype for "float64", "float32", "float16" or "bfloat16"."""

    def asarray(self, value: Any, dtype: Any, device: Any) -> Array:
        """Any array (buffer protocol or DLPack) as its own, without a copy where dtype and device allow."""

    def to_numpy(self, array: Array) -> np.ndarray[Any, np.dtype[Any]]:
        """Its array as a NumPy array on the host."""

    # More members may be left out. Without these, there are no plans:
    #
    # `choices`, a tuple of names of several ways to run plans, any of which may be asked for as `ops`, and
    #
    # def plans(self, weights: Mapping[str, Array], dtype: str, choice: str | None) -> Plans | None:
    #     """Plans for a model with these weights, of the best choice where None is named; None where there are none."""
    #
    # And without this one, it is taken for `forward(images)`:
    #
    # def run(self, forward: Callable[[Array], Any], images: Array, bytes_per_image: int) -> Any:
    #     """`forward`, which treats each image of a batch alone, of the images: whole, in parts, or on threads.
    #
    #     It returns an array, or a tuple or list of arrays, all [B, ...]. bytes_per_image: of its widest intermediate.
    #     """


def installed(group: str = GROUP) -> dict[str, EntryPoint]:
    """Name -> entry point of everything that some installed package declares in the group, without importing any."""
    return {point.name: point for point in entry_points(group=group)}


def load(name: str) -> Backend:
    """The backend of that name, imported; BackendError where it, or the framework it stands on, is missing."""
    backend: Backend = imported("backend", name, installed())
    return backend


def named(kind: str, name: str, points: Mapping[str, EntryPoint]) -> EntryPoint:
    """The entry point of that name; BackendError names the nearest one where there is none. kind: for the error."""
    if not isinstance(name, str) or name not in points:
        known = sorted(points)
        raise BackendError(f"there is no {kind} {name!r}{nearest(str(name), known)} (installed: {', '.join(known) or 'none'})")
    return points[name]


def imported(kind: str, name: str, points: Mapping[str, EntryPoint]) -> Any:
    """What the entry point of that name stands for; BackendError where it, or the framework it stands on, is missing."""
    point = named(kind, name, points)
    try:
        return point.load()
    except ImportError as error:
        missing = f"{kind} {name!r} needs the package {error.name or name!r}, which is not installed"
        raise BackendError(missing + _hint(kind, name, point)) from error
    except Exception as error:  # whatever a framework's start can raise
        raise BackendError(f"{kind} {name!r} cannot be loaded: {_reason(error)}") from error


def _hint(kind: str, name: str, point: EntryPoint) -> str:
    """How to install what is missing, where we have an extra for it: one of that name, or one for all of that kind."""
    extras = (point.dist.metadata.get_all("Provides-Extra") or ()) if point.dist is not None and point.dist.name == "reforg" else ()
    extra = next((extra for extra in (name, f"{kind}s") if extra in extras), None)
    return "" if extra is None else f": pip install 'reforg[{extra}]'"


def check(backend: Backend, dtype: str, device: Any) -> None:
    """BackendError where the backend has no such dtype or no such device, found out before anything is computed."""
    try:
        backend.asarray(np.zeros(1, np.float32), backend.dtype(dtype), device)
    except REFUSALS as error:
        where = "" if device is None else f" on device {device!r}"
        raise BackendError(f"backend {backend.name!r} cannot compute in {dtype}{where}: {_reason(error)}") from error


def check_ops(backend: Backend, ops: Any) -> None:
    """ConfigError where the backend has no such way to compute."""
    known = ("auto", "reference", *getattr(backend, "choices", ()))
    if not isinstance(ops, str) or ops not in known:
        *others, last = map(repr, known)
        raise ConfigError(f"ops must be {', '.join(others)} or {last}, got {ops!r}")


def prepared(backend: Backend, weights: Mapping[str, Array], dtype: str, ops: str) -> Plans | None:
    """The backend's plans for these weights; None where it has none, or none are wanted. Raises BackendError."""
    make = getattr(backend, "plans", None)
    if make is None or ops == "reference":
        return None
    try:
        found: Plans | None = make(weights, dtype, None if ops == "auto" else ops)
    except REFUSALS as error:
        raise BackendError(f"backend {backend.name!r} cannot compute: {_reason(error)}") from error
    return found


def convert(backend: Backend, value: Any, dtype: str, device: Any, what: str) -> Array:
    """`value` as an array of the backend; BackendError says what could not be brought there and why."""
    try:
        return backend.asarray(value, backend.dtype(dtype), device)
    except REFUSALS as error:
        raise BackendError(f"{what} cannot be brought to backend {backend.name!r} as {dtype}: {_reason(error)}") from error


def _reason(error: Exception) -> str:
    """The first line of what a framework says, or at least what it calls it."""
    lines = str(error).strip().splitlines()
    return lines[0] if lines else type(error).__name__
