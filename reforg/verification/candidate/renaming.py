"""From the candidate's names to those of the trace: as the user says, less the prefixes of wrappers, out of others' spellings."""

import re
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from reforg.errors import ConfigError, nearest
from reforg.verification.candidate.module_names import Place, places

Values = np.ndarray[Any, np.dtype[Any]]
Rename = Mapping[str, str] | Callable[[str], str | None] | None
NESTED = 4  # prefixes of wrappers within wrappers, as in module._orig_mod.model.blocks.0


@dataclass(frozen=True)
class Renamed:
    """Arrays under names of the trace, in the order given; names that have no place there; and what was done, in sentences."""

    values: dict[str, Values]
    unknown: tuple[str, ...]
    notes: tuple[str, ...]


def renamed(given: Mapping[str, Values], known: Sequence[str], rename: Rename, model: str) -> Renamed:
    """The candidate's arrays under names of the trace.

    rename: old name -> new name, where both may have one "*" that stands for the same text; or a function, whose None
    leaves a value out. What it gives, and what it does not mention, may be in timm's or transformers' spelling, or have a
    wrapper's prefix. Queries, keys and values apart are joined along their last axis. Raises ConfigError where no name is
    known, where two come to the same one, and where parts do not fit together.
    """
    names = _asked(given, rename)
    place = places(known)
    prefix = _wrapper(names.values(), known, place)
    found = {old: place(new) or place(new.removeprefix(prefix)) for old, new in names.items()}
    placed = _without_repeats({old: there for old, there in found.items() if there is not None})
    _check_targets(placed, found, rename, known)
    if not placed:
        raise ConfigError(_nothing_known(list(given), known, model))
    values, apart = _joined(given, placed)
    # A module that only holds others, as a list of blocks, has no name in the trace. That is nothing to tell the user.
    containers = {old[: dot.start()] for old in placed for dot in re.finditer(r"\.", old)}
    left = [old for old in names if old not in placed and old not in containers]
    notes = (*_of_names(names, placed, prefix), *_of_parts(placed, values), *apart.values())
    return Renamed(values, (*left, *(old for old, there in placed.items() if there.name in apart)), notes)


def _asked(given: Mapping[str, Values], rename: Rename) -> dict[str, str]:
    """Each of the candidate's names -> what the user calls it; those that a function leaves out are not in it."""
    if rename is None:
        return {name: name for name in given}
    if isinstance(rename, Mapping):
        return _mapped(given, rename)
    if not callable(rename):
        raise ConfigError(f"rename must be a mapping or a function, got {type(rename).__name__}")
    answers = {name: rename(name) for name in given}
    for name, new in answers.items():
        if new is not None and not isinstance(new, str):
            raise ConfigError(f"rename: the function must return a name or None, and returned {type(new).__name__} for {name!r}")
    return {name: new for name, new in answers.items() if new is not None}


def _mapped(given: Mapping[str, Values], rename: Mapping[str, str]) -> dict[str, str]:
    """The same by a mapping: exact names before patterns, and of several patterns the first."""
    for old, new in rename.items():
        if not (isinstance(old, str) and isinstance(new, str)) or old.count("*") > 1 or new.count("*") > old.count("*"):
            raise ConfigError(f"rename: {old!r} to {new!r}: both must be names, with at most one '*' that stands for the same text")
    names, used = {}, set[str]()
    for name in given:
        matching = [name] if name in rename else [old for old in rename if _starred(old, name) is not None]
        names[name] = rename[matching[0]].replace("*", _starred(matching[0], name) or "") if matching else name
        used.update(matching)
    if idle := [old for old in rename if old not in used]:
        raise ConfigError(f"rename: the candidate has no {idle[0]!r}{nearest(idle[0], given)}")
    return names


def _starred(pattern: str, name: str) -> str | None:
    """What the star of a pattern stands for in a name; None where the pattern has none or does not match."""
    before, star, after = pattern.partition("*")
    fits = star and len(name) >= len(before) + len(after) and name.startswith(before) and name.endswith(after)
    return name[len(before) : len(name) - len(after)] if fits else None


def _wrapper(names: Iterable[str], known: Sequence[str], place: Callable[[str], Place | None]) -> str:
    """The prefix without which most names are known, as "module." of a wrapper; nothing where more are known as they are.

    The trace's own paths are no wrappers: "blocks.0." is never taken off.
    """
    found: Counter[str] = Counter()
    for name in names:
        parts = name.split(".")
        if place(name) is not None:
            found[""] += len(parts) > 1  # "logits" and "head" stand outside of many a wrapper
            continue
        prefixes = (".".join([*parts[:count], ""]) for count in range(1, min(len(parts), NESTED + 1)))
        found.update(prefix for prefix in prefixes if place(name.removeprefix(prefix)) is not None)
    outside = [prefix for prefix in found if prefix and not any(name.startswith(prefix) for name in known)]
    best = max(outside, key=lambda prefix: (found[prefix], -len(prefix)), default="")
    return best if found[best] >= found[""] else ""


def _without_repeats(placed: Mapping[str, Place]) -> dict[str, Place]:
    """Without the parts of what is there as a whole, too."""
    whole = {there.name for there in placed.values() if there.parts == 1}
    return {old: there for old, there in placed.items() if there.parts == 1 or there.name not in whole}


def _check_targets(placed: Mapping[str, Place], found: Mapping[str, Place | None], rename: Rename, known: Sequence[str]) -> None:
    """ConfigError where two values have one place, or where the user's own word for a value is no name."""
    taken: dict[Place, str] = {}
    for old, there in placed.items():
        if there in taken:
            raise ConfigError(f"the candidate's {taken[there]!r} and {old!r} would both be {there.name}; rename= tells them apart")
        taken[there] = old
    for old, new in rename.items() if isinstance(rename, Mapping) else ():
        if old in found and found[old] is None:
            raise ConfigError(f"rename: {new!r}, for {old!r}, is no name of the trace{nearest(new, known)}")


def _nothing_known(given: Sequence[str], known: Sequence[str], model: str) -> str:
    if not given:
        return "the candidate holds no arrays"
    theirs, ours = (", ".join(map(repr, some)) for some in (given[:3], _examples(known)))
    return (
        f"none of the candidate's {len(given):,} names is one of {model}'s trace: "
        f"it has {theirs}, the trace {ours}; rename= says which is which"
    )


def _examples(known: Sequence[str]) -> Sequence[str]:
    """Three names of a trace, from where its layers are, and the last."""
    return known if len(known) < 3 else (known[len(known) // 8], known[len(known) // 4], known[-1])


def _joined(given: Mapping[str, Values], placed: Mapping[str, Place]) -> tuple[dict[str, Values], dict[str, str]]:
    """The arrays under their names, parts of one side by side; and names of which a part is missing, with a sentence on it."""
    sources: dict[str, dict[int, str]] = {}
    for old, there in placed.items():
        sources.setdefault(there.name, {})[there.part] = old
    values, apart = {}, {}
    whole = {there.name: there.parts for there in placed.values()}
    for name, parts in sources.items():
        if len(parts) == whole[name]:
            values[name] = _side_by_side(name, [given[parts[part]] for part in sorted(parts)])
        else:
            found = ", ".join(map(repr, parts.values()))
            apart[name] = f"{name} is not compared: of its {whole[name]} parts the candidate has {found} only"
    return values, apart


def _side_by_side(name: str, parts: Sequence[Values]) -> Values:
    """Parts (..., C) along the last axis; with the heads apart, (B, H, N, D), along a new first one."""
    if len(parts) == 1:
        return parts[0]
    if len({part.shape for part in parts}) > 1 or not parts[0].ndim:
        shapes = ", ".join(str(part.shape) for part in parts)
        raise ConfigError(f"the candidate's parts of {name} do not fit together: their shapes are {shapes}")
    return np.stack(parts) if parts[0].ndim == 4 else np.concatenate(parts, axis=-1)


def _of_names(names: Mapping[str, str], placed: Mapping[str, Place], prefix: str) -> Iterator[str]:
    """What was done to names, in sentences."""
    if prefix:
        yield f"names were read without their prefix {prefix!r}"
    moved = [old for old, there in placed.items() if there.parts == 1 and there.name != names[old].removeprefix(prefix)]
    if moved:
        yield f"{len(moved):,} names were translated, as {moved[0]!r} to {placed[moved[0]].name}"


def _of_parts(placed: Mapping[str, Place], values: Mapping[str, Values]) -> Iterator[str]:
    """What was joined, in a sentence."""
    joined = dict.fromkeys(there.name for there in placed.values() if there.parts > 1 and there.name in values)
    for name in list(joined)[:1]:
        parts = ", ".join(repr(old) for old, there in placed.items() if there.name == name)
        yield f"parts were joined to {len(joined):,} values, as {parts} to {name}"
