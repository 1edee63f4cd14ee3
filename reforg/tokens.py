"""Where every token of a depth comes from in the image, read from a trace."""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from reforg.arrays import Array
from reforg.errors import ConfigError
from reforg.host import on_host

Weights = npt.NDArray[np.float64]


@dataclass(frozen=True)
class TokenMap:
    """The tokens that go on after one reorganization, special tokens left out; T of them, from P patches.

    weights (B, T, P): how much of each patch is in each token: 1 for a kept patch; for a fused token the product of
    the class attentions with which the patch was fused, over all fusions. A patch is in at most one token.
    owner (B, P): the token that holds the patch, -1 where it was dropped. fused (B, T): whether a token is a fusion.
    grid: rows and columns of patches; patches are counted row by row from 0.
    """

    weights: Weights
    owner: npt.NDArray[np.int64]
    fused: npt.NDArray[np.bool_]
    grid: tuple[int, int]

    @property
    def kept(self) -> npt.NDArray[np.bool_]:
        """(B, P): whether a patch goes on as a token of its own."""
        held = self.owner >= 0
        return held & ~np.take_along_axis(self.fused, np.maximum(self.owner, 0), axis=1)


def token_map(trace: Mapping[str, Array]) -> dict[str, TokenMap]:
    """For each reorganization of a trace, by the block's path ("blocks.3"), where its tokens come from.

    Needs the entries patch_embed.proj, patch_embed and embedded, and cls_attention, kept and reorganized of each block that
    drops tokens.
    Empty where nothing was dropped. ConfigError names an entry that is missing.
    """
    if not isinstance(trace, Mapping):
        raise ConfigError(f"token_map wants the mapping that model.trace returns, got {type(trace).__name__}")
    blocks = [found[1] for name in trace if isinstance(name, str) and (found := re.fullmatch(r"(blocks\.\d+)\.kept", name))]
    if not blocks:
        _check_nothing_dropped(trace)
        return {}
    grid = tuple(_entry(trace, "patch_embed.proj").shape[2:])
    batch, patches = _entry(trace, "patch_embed").shape[:2]
    special = _entry(trace, "embedded").shape[1] - patches
    origin: Weights = np.broadcast_to(np.eye(patches), (batch, patches, patches))
    owner = np.broadcast_to(np.arange(patches), (batch, patches))
    fused = np.zeros((batch, patches), dtype=bool)
    maps = {}
    for path in blocks:
        kept = _entry(trace, f"{path}.kept")
        fuses = _entry(trace, f"{path}.reorganized").shape[1] - special - kept.shape[1] == 1
        owner = _owner(owner, kept, fused.shape[1], fuses)
        origin, fused = _reorganized(origin, fused, kept, _scores(trace, path), fuses)
        maps[path] = TokenMap(origin, owner, fused, (int(grid[0]), int(grid[1])))
    return maps


def _check_nothing_dropped(trace: Mapping[str, Array]) -> None:
    """ConfigError where a trace without any `kept` does not show that as many tokens leave the last block as were embedded."""
    blocks = [name for name in trace if isinstance(name, str) and re.fullmatch(r"blocks\.\d+", name)]
    if not blocks or _entry(trace, "embedded").shape[1] != _entry(trace, blocks[-1]).shape[1]:
        raise ConfigError("token_map: the trace does not show which tokens were kept; trace without names=")


def _reorganized(
    origin: Weights, fused: npt.NDArray[np.bool_], kept: npt.NDArray[Any], scores: Weights, fuses: bool
) -> tuple[Weights, npt.NDArray[np.bool_]]:
    """Patches in each token [B, N, P], before -> after; the dropped tokens' rows, times their scores, make the fused one."""
    dropped = np.ones(scores.shape, dtype=bool)
    np.put_along_axis(dropped, kept, False, axis=1)
    rest = np.einsum("bn,bnp->bp", scores * dropped, origin)[:, None]
    chosen = np.take_along_axis(origin, kept[:, :, None], axis=1)
    flags = np.take_along_axis(fused, kept, axis=1)
    if not fuses:
        return chosen, flags
    return np.concatenate([chosen, rest], axis=1), np.concatenate([flags, np.ones((len(kept), 1), dtype=bool)], axis=1)


def _owner(owner: npt.NDArray[np.int64], kept: npt.NDArray[Any], count: int, fuses: bool) -> npt.NDArray[np.int64]:
    """Owners [B, P] among `count` tokens -> among the kept ones [B, K] and the fused one: followed by number, since an
    attention may round to zero.
    """
    place = np.full((len(kept), count + 1), kept.shape[1] if fuses else -1)
    place[:, -1] = -1  # what was dropped before, whose owner is -1, stays dropped
    np.put_along_axis(place, kept, np.broadcast_to(np.arange(kept.shape[1]), kept.shape), axis=1)
    return np.take_along_axis(place, np.where(owner < 0, count, owner), axis=1)


def _scores(trace: Mapping[str, Array], path: str) -> Weights:
    """Class attention [B, N] by which the block chose: its own, or the mean of its parallel branches."""
    name = f"{path}.cls_attention" if f"{path}.cls_attention" in trace else f"{path}.attn.cls_attention"
    return _entry(trace, name).astype(np.float64)


def _entry(trace: Mapping[str, Array], name: str) -> npt.NDArray[Any]:
    if name not in trace:
        raise ConfigError(f"token_map: the trace has no entry {name!r}; trace without names=, or name it too")
    return on_host(trace[name])
