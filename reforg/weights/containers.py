"""Where in a checkpoint the weights are: under which names programs put them, and which prefixes they put before every name."""

from collections.abc import Mapping
from typing import Any, NamedTuple

from reforg.errors import WeightsError, nearest
from reforg.weights.checkpoints import Stub
from reforg.weights.contents import described, is_array

# Names under which training programs keep weights, the first that is there is taken; then those of averaged weights.
CONTAINERS = ("model", "state_dict", "model_state_dict", "model_state", "net", "module", "weights", "params")
AVERAGED = ("model_ema", "state_dict_ema", "ema_state_dict", "ema")
# What wrappers of a whole model (DistributedDataParallel, torch.compile, Lightning) put before every name.
PREFIXES = ("module.", "_orig_mod.", "model.")
NESTED = 4  # containers within containers that are looked into
MOST, LONGEST = 20_000, 300  # tensors, and characters of a name; the largest of these models has 3,000 of up to 50
EXTRA = "_extra_state"  # the end of a name under which a module of torch keeps what is no tensor


class Found(NamedTuple):
    """The weights of a checkpoint by their names in it, in which container they were, and what was left aside."""

    weights: dict[str, Any]
    container: str
    aside: tuple[tuple[Any, Any], ...]


def find(content: Any, where: str, container: str | None = None) -> Found:
    """The weights in a checkpoint's content, without the prefixes of wrappers; WeightsError where there are none.

    container: which one to take where there are several ("model_ema"); by default the first of CONTAINERS, then of AVERAGED.
    """
    path: list[str] = []
    aside: list[tuple[Any, Any]] = []
    while (name := _chosen(content, container if not path else None, where)) is not None and len(path) < NESTED:
        aside += [(key, value) for key, value in content.items() if key != name]
        path.append(name)
        content = content[name]
    if not isinstance(content, Mapping) or not any(is_array(value) for value in content.values()):
        raise WeightsError(f"weights: {where} holds no weights by name, but {described(content)}{_hint(content)}")
    beside = [(key, value) for key, value in content.items() if _is_no_weight(key, value, top=not path)]
    names = {key for key, _ in beside}
    weights = {key: value for key, value in content.items() if key not in names}
    return Found(_named(weights, where), ".".join(path), (*aside, *beside))


def _hint(content: Any) -> str:
    """Which containers there are, where none of them has a name that says that it is the model."""
    inside = _with_arrays(content)
    return f"; container= takes one of them: {', '.join(map(repr, inside[:8]))}" if inside else ""


def _chosen(content: Any, asked: str | None, where: str) -> str | None:
    """The container to open next; None where the content is no container of weights but, it seems, the weights."""
    if not isinstance(content, Mapping):
        return None
    inside = _with_arrays(content)
    if asked is not None:
        if asked not in inside:
            there = ", ".join(map(repr, inside[:8])) or "none"
            raise WeightsError(f"weights: {where} has no container {asked!r}{nearest(asked, inside)} (there are: {there})")
        return asked
    return next((name for name in (*CONTAINERS, *AVERAGED) if name in inside), None)


def _with_arrays(content: Any) -> list[str]:
    """The names in a mapping whose values are mappings with tensors in them, or one level below."""
    known: dict[tuple[int, int], bool] = {}
    if not isinstance(content, Mapping):
        return []
    return [key for key, value in content.items() if isinstance(key, str) and len(key) <= LONGEST and _has_arrays(value, 2, known)]


def _has_arrays(value: Any, levels: int, known: dict[tuple[int, int], bool]) -> bool:
    """Whether a mapping holds tensors so many levels deep. known: answers, because parts may be shared thousands of times."""
    if not isinstance(value, Mapping):
        return False
    if (id(value), levels) not in known:
        known[id(value), levels] = any(
            is_array(item) or (levels > 1 and _has_arrays(item, levels - 1, known)) for item in value.values()
        )
    return known[id(value), levels]


def _named(content: Mapping[Any, Any], where: str) -> dict[str, Any]:
    """Names without a prefix that all of them have; WeightsError for a name that is no text, or a value that is no array."""
    if len(content) > MOST:
        raise WeightsError(f"weights: {where} holds {len(content):,} tensors, more than any model")
    for name, value in content.items():
        if not isinstance(name, str):
            raise WeightsError(f"weights: {where}: names must be text, got {name!r:.60}")
        if len(name) > LONGEST:
            raise WeightsError(f"weights: {where}: it has a name of {len(name):,} characters, {name[:60]!r}...")
        if not is_array(value):
            raise WeightsError(f"weights: {where}: {name!r:.100} is no tensor, but {described(value)}")
    names = {name: name for name in content}
    while prefix := next((prefix for prefix in PREFIXES if all(short.startswith(prefix) for short in names.values())), None):
        names = {name: short.removeprefix(prefix) for name, short in names.items()}
    return {names[name]: value for name, value in content.items()}


def _is_no_weight(key: Any, value: Any, top: bool) -> bool:
    """Whether it is what programs keep beside weights: a module's extra state; at the top of a file, figures and options.

    A tensor of a kind that is not read is no such thing, nor is a list, which somebody may take for one.
    """
    if not isinstance(key, str) or is_array(value) or (isinstance(value, Stub) and value.is_tensor):
        return False
    plain = isinstance(value, int | float | str | Mapping | Stub | None)
    return plain and (top or key.endswith(EXTRA))
