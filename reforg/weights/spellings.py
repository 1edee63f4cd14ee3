"""Weights under the names of other programs, read and written by the tables of `spelling_tables`."""

import re
from collections import Counter
from collections.abc import Iterable, Mapping
from typing import Any, NamedTuple

import numpy as np

from reforg.errors import WeightsError, nearest
from reforg.host import on_host
from reforg.weights.spelling_tables import ALIASES, CLASSIFIERS, OFFICIAL, SOURCES, TIMM, Name


class Spelled(NamedTuple):
    """Weights under official names; whose names they had; and what was set aside because no forward pass reads it."""

    weights: dict[str, Any]
    source: str
    unread: tuple[str, ...]


def official(weights: Mapping[str, Any]) -> Spelled:
    """The weights under the official code's names, whichever program named them; unknown names stay as they are.

    LayerScale's gains are `gamma_1` in DeiT III, whose class token has no position, and `ls1.gamma` in DINOv2.
    Raises WeightsError where a tensor comes in two spellings, or a part of a qkv is missing.
    """
    source, table = _recognised(weights)
    told = SOURCES[source]
    short = {name: _without_prefix(name, told.prefixes) for name in weights}
    unread = tuple(name for name in weights if short[name] in told.unread)
    if table == _with_leaves(TIMM) and _class_has_position(weights):
        table = {}
    found: dict[str, Any] = {}
    parts: dict[str, dict[int, Any]] = {}
    inverse = _inverted(table)
    for name in (name for name in weights if name not in unread):
        ours, part = _ours(short[name], inverse)
        if (ours in found and part is None) or (part is not None and part in parts.get(ours, {})):
            raise WeightsError(f"weights: {ours} came in both its spellings")
        value = _from_jax(ours, on_host(weights[name])) if source == "jax" else weights[name]
        found[ours] = value
        if part is not None:
            parts.setdefault(ours, {})[part] = on_host(value)
    found |= {name: _side_by_side(name, pieces) for name, pieces in parts.items()}
    return Spelled(found, source, unread)


def spelled(weights: Mapping[str, Any], spelling: str, num_heads: int | None = None) -> dict[str, Any]:
    """Weights of any spelling in the names and layout of one; WeightsError where it has no place for a tensor.

    num_heads: of the model; needed for "jax" where the width is not one of the papers' models.
    """
    spelling = ALIASES.get(spelling, spelling)
    if spelling not in SOURCES:
        raise WeightsError(f"there is no spelling {spelling!r}{nearest(str(spelling), SOURCES)} (known: {', '.join(SOURCES)})")
    found = official(weights).weights
    if spelling == OFFICIAL:
        return found
    table, prefix = _class_of(found, spelling)
    heads = _heads(found, num_heads) if spelling == "jax" else 0
    written: dict[str, Any] = {}
    for name, value in found.items():
        theirs = _theirs(name, table)
        if theirs is None and spelling != "timm":  # which has the official names for everything else
            raise WeightsError(f"weights: {spelling} has no name for {name}, so these weights cannot be spelled so")
        names = (theirs or name,) if theirs is None or isinstance(theirs, str) else theirs
        pieces = [value] if len(names) == 1 else np.split(on_host(value), 3)
        for new, piece in zip(names, pieces, strict=True):
            written[new if new.startswith(CLASSIFIERS) else prefix + new] = _to_jax(name, on_host(piece), heads) if heads else piece
    return written


def _class_of(weights: Mapping[str, Any], spelling: str) -> tuple[dict[str, Name], str]:
    """The table of the class that these weights would be of there, and the prefix of its names."""
    tables = SOURCES[spelling].tables
    if spelling == "jax":
        return tables[0], ""
    if spelling == "timm":
        return _with_leaves(tables["blocks.0.norm11.weight" in weights]), ""
    plain, distilled, scaled = tables
    if "blocks.0.ls1.gamma" in weights:
        return _with_leaves(scaled), ""
    family, table = ("deit.", distilled) if "dist_token" in weights else ("vit.", plain)
    return _with_leaves(table), family if "head.weight" in weights else ""


def _heads(weights: Mapping[str, Any], told: int | None) -> int:
    """The number of heads, as told, or as the papers' models of this width have."""
    from reforg.catalog.names import WIDTHS  # here, because reading weights needs no model

    width = weights["cls_token"].shape[-1] if "cls_token" in weights else 0
    heads = told or {embed_dim: heads for embed_dim, _, heads in WIDTHS.values()}.get(width)
    if heads is not None and width % heads:
        raise WeightsError(f"weights: a width of {width} does not divide into {heads} heads")
    if heads is None:
        raise WeightsError(
            f"weights: Google's layout splits heads, and a width of {width} does not tell their number; give num_heads"
        )
    return heads


def _recognised(names: Iterable[str]) -> tuple[str, dict[str, Name]]:
    """The source and table that know the most of these names; the official ones where no other knows any."""
    templates = Counter(_template(name)[0] for name in names)
    best, chosen = 0, (OFFICIAL, dict[str, Name]())
    for source, told in SOURCES.items():
        for table in told.tables:
            full = table if source == "jax" else _with_leaves(table)
            inverse = _inverted(full)
            known = sum(count for template, count in templates.items() if _without_prefix(template, told.prefixes) in inverse)
            if known > best:
                best, chosen = known, (source, full)
    return chosen


def _class_has_position(weights: Mapping[str, Any]) -> bool:
    """Whether the positions are not those of a square of patches alone."""
    shape = tuple(getattr(weights.get("pos_embed"), "shape", ()))
    return len(shape) != 3 or round(shape[1] ** 0.5) ** 2 != shape[1]


def _with_leaves(table: Mapping[str, Name]) -> dict[str, Name]:
    """The table with a row for each weight and bias, beside the rows of what is one tensor."""
    found: dict[str, Name] = dict(table)
    for ours, theirs in table.items():
        for leaf in (".weight", ".bias"):
            found[ours + leaf] = (
                theirs + leaf if isinstance(theirs, str) else (theirs[0] + leaf, theirs[1] + leaf, theirs[2] + leaf)
            )
    return found


def _inverted(table: Mapping[str, Name]) -> dict[str, tuple[str, int | None]]:
    """Their name -> ours, and which of the three parts it is."""
    found: dict[str, tuple[str, int | None]] = {}
    for ours, theirs in table.items():
        if isinstance(theirs, str):
            found[theirs] = (ours, None)
        else:
            found |= {name: (ours, part) for part, name in enumerate(theirs)}
    return found


def _template(name: str) -> tuple[str, str]:
    """A name with "#" in place of its block's number, and the number."""
    found = re.search(r"(?<=[._])\d+(?=[./])", name)
    return (name[: found.start()] + "#" + name[found.end() :], found[0]) if found else (name, "")


def _ours(name: str, inverse: Mapping[str, tuple[str, int | None]]) -> tuple[str, int | None]:
    template, number = _template(name)
    if template not in inverse:
        return name, None
    ours, part = inverse[template]
    return ours.replace("#", number), part


def _theirs(name: str, table: Mapping[str, Name]) -> Name | None:
    template, number = _template(name)
    theirs = table.get(template)
    if theirs is None or isinstance(theirs, str):
        return theirs and theirs.replace("#", number)
    query, key, value = (part.replace("#", number) for part in theirs)
    return query, key, value


def _without_prefix(name: str, prefixes: tuple[str, ...]) -> str:
    return next((name.removeprefix(prefix) for prefix in prefixes if name.startswith(prefix)), name)


def _side_by_side(name: str, pieces: Mapping[int, Any]) -> Any:
    """Queries, keys and values as one tensor."""
    if len(pieces) != 3:
        raise WeightsError(f"weights: {name} is made of queries, keys and values, and only {len(pieces)} of them are there")
    if len({piece.dtype for piece in pieces.values()}) > 1:
        raise WeightsError(f"weights: queries, keys and values of {name} are of different dtypes")
    try:
        return np.concatenate([pieces[part] for part in range(3)])
    except ValueError as error:
        raise WeightsError(f"weights: queries, keys and values of {name} do not fit together: {error}") from error


def _from_jax(name: str, array: Any) -> Any:
    """Google's layout to torch's: kernels are (in, out), heads have an axis of their own, convolutions are (H, W, in, out)."""
    if name.endswith("attn.proj.weight") and array.ndim == 3:
        array = array.reshape(array.shape[0] * array.shape[1], array.shape[2])
    elif name.endswith("attn.qkv.weight") and array.ndim == 3:
        array = array.reshape(array.shape[0], array.shape[1] * array.shape[2])
    elif name.endswith("attn.qkv.bias"):
        array = array.reshape(-1)
    axes = {2: (1, 0), 4: (3, 2, 0, 1)}.get(array.ndim)
    return np.ascontiguousarray(array.transpose(axes)) if axes else array


def _to_jax(name: str, array: Any, num_heads: int) -> Any:
    """Torch's layout to Google's."""
    axes = {2: (1, 0), 4: (2, 3, 1, 0)}.get(array.ndim)
    array = array.transpose(axes) if axes else array
    if name.endswith("attn.proj.weight"):
        array = array.reshape(num_heads, -1, array.shape[1])
    elif name.endswith("attn.qkv.weight"):
        array = array.reshape(array.shape[0], num_heads, -1)
    elif name.endswith("attn.qkv.bias"):
        array = array.reshape(num_heads, -1)
    return np.ascontiguousarray(array)
