"""Which name of the trace another program's module stands for: timm's, transformers', and queries, keys and values apart."""

import re
from collections.abc import Callable, Collection
from dataclasses import dataclass

from reforg.weights.spelling_tables import (
    DINOV2_4,
    DINOV2_5,
    DISTILLED_HEADS,
    TIMM_PARALLEL,
    TRANSFORMERS_4,
    TRANSFORMERS_5,
    Name,
)

QUERIES_KEYS_VALUES = (("q", "k", "v"), ("q_proj", "k_proj", "v_proj"), ("query", "key", "value"), ("to_q", "to_k", "to_v"))
NUMBER = re.compile(r"(?<=\.)\d+(?=\.|$)")
# Modules without weights of their own, beside the spellings of those that have some: theirs, ours.
TIMM_OUTPUTS = {
    "blocks.#.attns.0.attn": "blocks.#.attn",
    "blocks.#.attns.1.attn": "blocks.#.attn1",
    "blocks.#.attns.0.ls": "blocks.#.ls1",
    "blocks.#.attns.1.ls": "blocks.#.ls11",
    "blocks.#.ffns.0.mlp.act": "blocks.#.mlp.act",
    "blocks.#.ffns.1.mlp.act": "blocks.#.mlp1.act",
    "blocks.#.ffns.0.mlp": "blocks.#.mlp",
    "blocks.#.ffns.1.mlp": "blocks.#.mlp1",
    "blocks.#.ffns.0.ls": "blocks.#.ls2",
    "blocks.#.ffns.1.ls": "blocks.#.ls21",
}
TRANSFORMERS_OUTPUTS = {
    "embeddings.patch_embeddings": "patch_embed",
    "embeddings": "embedded",
    "encoder.layer.#.attention": "blocks.#.attn",
    "encoder.layer.#.intermediate.intermediate_act_fn": "blocks.#.mlp.act",
    "encoder.layer.#.layer_scale1": "blocks.#.ls1",
    "encoder.layer.#.mlp.activation": "blocks.#.mlp.act",
    "encoder.layer.#.mlp.activation_fn": "blocks.#.mlp.act",
    "encoder.layer.#.mlp": "blocks.#.mlp",
    "encoder.layer.#.layer_scale2": "blocks.#.ls2",
    "encoder.layer.#": "blocks.#",
    "layers.#.attention": "blocks.#.attn",
    "layers.#.mlp.activation_fn": "blocks.#.mlp.act",
    "layers.#.mlp": "blocks.#.mlp",
    "layers.#": "blocks.#",
}


@dataclass(frozen=True)
class Place:
    """Where a value belongs: under a name of the trace, of which it is one of `parts` parts, counted from 0."""

    name: str
    part: int = 0
    parts: int = 1


def _table() -> dict[str, Place]:
    """Their name, with "#" for the block's number -> its place."""
    found = {theirs: Place(ours) for theirs, ours in (TIMM_OUTPUTS | TRANSFORMERS_OUTPUTS).items()}
    spellings: tuple[dict[str, Name], ...]
    spellings = TIMM_PARALLEL, TRANSFORMERS_4, TRANSFORMERS_5, DINOV2_4, DINOV2_5, DISTILLED_HEADS
    for ours, theirs in (pair for table in spellings for pair in table.items()):
        names = (theirs,) if isinstance(theirs, str) else theirs
        found |= {name: Place(ours, part, len(names)) for part, name in enumerate(names)}
    return found


def places(known: Collection[str]) -> Callable[[str], Place | None]:
    """The function that tells a name's place among the known names of a trace; None for a name that has none.

    A module that ran several times is known by its path, though a trace may have only path@0, path@1.
    """
    table, names = _table(), {name.partition("@")[0] for name in known} | set(known)

    def place(name: str) -> Place | None:
        found = Place(name) if name in names else _translated(name, table) or _projection(name, names)
        return found if found is not None and found.name in names else None

    return place


def _translated(name: str, table: dict[str, Place]) -> Place | None:
    """The place of a module whose name one of the tables has."""
    number = NUMBER.search(name)
    if number is None:
        return table.get(name)
    found = table.get(f"{name[: number.start()]}#{name[number.end() :]}")
    return found and Place(found.name.replace("#", number[0]), found.part, found.parts)


def _projection(name: str, names: Collection[str]) -> Place | None:
    """The place of queries, keys or values that are computed apart: in attn.qkv, or in attn.q, attn.kv, attn.kv1, attn.kv2."""
    path, _, leaf = name.rpartition(".")
    base = leaf.rstrip("0123456789")
    branch = leaf.removeprefix(base)
    part = next((triple.index(base) for triple in QUERIES_KEYS_VALUES if base in triple), None)
    if part is None:
        return None
    if f"{path}.qkv" in names:
        return Place(f"{path}.qkv{branch}", part, 3)
    return Place(f"{path}.kv{branch}", part - 1, 2) if part else Place(f"{path}.q")
