"""Where in a checkpoint the weights are, and what else it holds."""

from collections.abc import Mapping
from typing import Any, NamedTuple

from reforg.checkpoints import Entry, Stub
from reforg.errors import WeightsError, nearest

# Names under which training programs keep weights, the first that is there is taken; then those of averaged weights.
CONTAINERS = ("model", "state_dict", "model_state_dict", "model_state", "net", "module", "weights", "params")
AVERAGED = ("model_ema", "state_dict_ema", "ema_state_dict", "ema")
# What wrappers of a whole model (DistributedDataParallel, torch.compile, Lightning) put before every name.
PREFIXES = ("module.", "_orig_mod.", "model.")
NESTED = 4  # containers within containers that are looked into


class Found(NamedTuple):
    """The weights of a checkpoint by their names in it, in which container they were, and what was left aside."""

    weights: dict[str, Any]
    container: str
    discarded: tuple[str, ...]


def find(content: Any, where: str, container: str | None = None) -> Found:
    """The weights in a checkpoint's content, without the prefixes of wrappers; WeightsError where there are none.

    container: which one to take where there are several ("model_ema"); by default the first of CONTAINERS, then of AVERAGED.
    """
    path: list[str] = []
    discarded: list[str] = []
    while (name := _chosen(content, container if not path else None, where)) is not None and len(path) < NESTED:
        discarded += [f"{key} ({described(value)})" for key, value in content.items() if key != name]
        path.append(name)
        content = content[name]
    if not isinstance(content, Mapping) or not any(_is_array(value) for value in content.values()):
        raise WeightsError(f"weights: {where} holds no weights by name, but {described(content)}")
    if not path:  # beside weights at the top level of a file, a training program may have kept its figures
        discarded += [f"{key} ({described(value)})" for key, value in content.items() if _is_figure(key, value)]
        content = {key: value for key, value in content.items() if not _is_figure(key, value)}
    return Found(_named(content, where), ".".join(path), tuple(discarded))


def described(value: Any) -> str:
    """What a value of a checkpoint is, in a few words."""
    if isinstance(value, Entry):
        return f"a tensor {value.shape}"
    if isinstance(value, Stub):
        return f"an object of {value.path}"
    arrays = sum(_is_array(item) for item in _leaves(value))
    if isinstance(value, Mapping | list | tuple):
        kind = "mapping" if isinstance(value, Mapping) else "list"
        if not value:
            return f"an empty {kind}"
        shown = ", ".join(str(key)[:40] for key in list(value)[:6]) if isinstance(value, Mapping) else ""
        return f"{arrays:,} tensors" if arrays else f"a {kind} of {len(value):,}" + (f": {shown}" if shown else "")
    text = repr(value) if isinstance(value, int | float | bool | str | None) else type(value).__name__
    return text if len(text) <= 60 else text[:57] + "..."


def _chosen(content: Any, asked: str | None, where: str) -> str | None:
    """The container to open next; None where the content is no container of weights but, it seems, the weights."""
    if not isinstance(content, Mapping):
        return None
    inside = [key for key, value in content.items() if isinstance(key, str) and _has_arrays(value)]
    if asked is not None:
        if asked not in inside:
            raise WeightsError(
                f"weights: {where} has no container {asked!r}{nearest(asked, inside)} (there are: {', '.join(inside)})"
            )
        return asked
    return next((name for name in (*CONTAINERS, *AVERAGED) if name in inside), None)


def _has_arrays(value: Any) -> bool:
    return isinstance(value, Mapping) and any(_is_array(item) or _has_arrays_below(item) for item in value.values())


def _has_arrays_below(value: Any) -> bool:
    return isinstance(value, Mapping) and any(_is_array(item) for item in value.values())


def _leaves(value: Any) -> list[Any]:
    """Everything in a container that is no container; it does not contain itself, but may share parts."""
    found: list[Any] = []
    seen: set[int] = set()
    pending = [value]
    while pending:
        item = pending.pop()
        if isinstance(item, Mapping | list | tuple):
            if id(item) not in seen:
                seen.add(id(item))
                pending.extend(item.values() if isinstance(item, Mapping) else item)
        else:
            found.append(item)
    return found


def _named(content: Mapping[Any, Any], where: str) -> dict[str, Any]:
    """Names without a prefix that all of them have; WeightsError for a name that is no text, or a value that is no array."""
    for name, value in content.items():
        if not isinstance(name, str):
            raise WeightsError(f"weights: {where}: names must be text, got {name!r:.60}")
        if not _is_array(value):
            raise WeightsError(f"weights: {where}: {name!r:.100} is no tensor, but {described(value)}")
    names = {name: name for name in content}
    while prefix := next((prefix for prefix in PREFIXES if all(short.startswith(prefix) for short in names.values())), None):
        names = {name: short.removeprefix(prefix) for name, short in names.items()}
    return {names[name]: value for name, value in content.items()}


def _is_figure(key: Any, value: Any) -> bool:
    return isinstance(key, str) and isinstance(value, int | float | str | None)


def _is_array(value: Any) -> bool:
    return isinstance(value, Entry) or (hasattr(value, "shape") and hasattr(value, "dtype"))
