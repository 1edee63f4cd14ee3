"""Which tokens a candidate kept, and whether rounding can account for the choice."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from reforg.config import VitConfig
from reforg.evit import fuse_inattentive
from reforg.verification.error_model.comparison import INFINITE, MOST, Comparison, variance_of
from reforg.verification.error_model.rules import gather
from reforg.verification.error_model.uncertain import Uncertain
from reforg.verification.findings import DIVERGES, EQUAL, FLIPPED, NOT_SEEN, REORDERED, Difference, Selection
from reforg.verification.replay.rows import FUSED, Indices, Rows, rows_of, seen, told

if TYPE_CHECKING:
    from reforg.verification.replay.replay import Replay, Session

Fuse = Callable[[Uncertain, Uncertain], Uncertain]


def reorganize(
    net: "Replay", path: str, tokens: Uncertain, scores: Uncertain, count: int, config: VitConfig, ranking: Uncertain | None = None,
    fuse: Fuse = fuse_inattentive, fuses: bool | None = None, shift: int = 0, becomes: str | None = None,
    rows: Rows | None = None, source: Uncertain | None = None,
) -> Uncertain:  # fmt: skip
    """The reference's reorganization with the candidate's own choice, once that is found to be right or wrong.

    [B, S + N, C], [B, N] -> [B, S + K (+ 1), C]. ranking: scores to choose by, where they are not the ones to fuse by.
    fuses: whether a fused token is wanted, by default as the config says. shift: what the indices are off by when tokens
    are gathered. becomes: the value that the tokens that go on are, where that is not `reorganized`.
    rows: the candidate's, where they are known. source: the tokens [B, S + N, C] to fuse, where those are others.
    """
    session, special = net.session, config.num_special
    fuses = config.fuse_token if fuses is None else fuses
    ranking = scores if ranking is None else ranking
    order = np.argsort(-ranking.value, axis=1, stable=True)
    expected = rows_of(order[:, :count] + shift, fuses)
    ready = _arranged((tokens, source or tokens), scores, expected, special, fuse, shift)
    fused = ready[:, -1:, :] if expected.fused else None
    rows = rows or seen(session, path, tokens, fused, config, expected, becomes) or told(session, path, expected)
    if rows is None:
        session.selections[path] = _unseen(path, ranking, order, count)
        rows = expected
    else:
        _judge(session, path, ranking, order, count, (rows, expected), shift)
    if rows is not expected:
        ready = _arranged((tokens, source or tokens), scores, rows, special, fuse, shift)
    arranged: Uncertain = net.trace(f"{path}.reorganized", ready)
    return arranged


def _arranged(
    both: tuple[Uncertain, Uncertain], scores: Uncertain, rows: Rows, special: int, fuse: Fuse, shift: int
) -> Uncertain:  # fmt: skip
    """Special tokens, then the rows in the candidate's order, the fused one where the candidate has it; both: to keep, to fuse."""
    tokens, source = both
    xp, (batch, count) = tokens.rounding, scores.shape
    kept = rows.kept
    parts = [tokens[:, :special, :], gather(tokens, kept + special)]
    place = np.cumsum(rows.tokens != FUSED, axis=1) - 1 + special
    if rows.fused:
        dropped = np.ones((batch, count), dtype=bool)
        np.put_along_axis(dropped, np.clip(kept - shift, 0, count - 1), False, axis=1)
        index = np.argsort(~dropped, axis=1, stable=True)[:, : int(dropped.sum(axis=1).min())]
        parts.append(fuse(gather(source[:, special:, :], index), gather(scores, index)))
        place = np.where(rows.tokens == FUSED, special + kept.shape[1], place)
    leading = np.broadcast_to(np.arange(special), (batch, special))
    return gather(xp.concat(parts, axis=1), np.concatenate([leading, place], axis=1))


def _judge(
    session: "Session", path: str, ranking: Uncertain, order: Indices, count: int, both: tuple[Rows, Rows], shift: int
) -> None:
    """Record whether the candidate's choice is the reference's, one that rounding accounts for, or wrong."""
    rows, expected = both
    kept = rows.kept
    images = [_choice(ranking, number, order[number, :count], kept[number] - shift) for number in range(len(order))]
    right = kept.shape[1] == count and rows.fused == expected.fused
    flips = tuple(image.flips for image in images)
    reordered = not np.array_equal(rows.tokens, expected.tokens)
    verdict = (
        DIVERGES if not right or any(image.excess > 1 for image in images)
        else FLIPPED if any(flips) else REORDERED if reordered else EQUAL
    )  # fmt: skip
    margins, limits = _margins(ranking, order, count)
    session.selections[path] = Selection(path, margins, limits, flips, reordered, verdict)
    session.note(_compared(path, ranking, rows, images, (expected.tokens.shape[1], right)))


@dataclass(frozen=True)
class _Choice:
    """One image: how many kept tokens are not the reference's, what the worst of them lacks, the limit of that, which it is."""

    flips: int
    lack: float
    limit: float
    token: int

    @property
    def excess(self) -> float:
        """The lack in units of its limit."""
        return self.lack / self.limit if self.limit else (INFINITE if self.flips else 0.0)


def _choice(ranking: Uncertain, image: int, wanted: Indices, kept: Indices) -> _Choice:
    """How the kept tokens of an image differ from the wanted ones."""
    extra, missing = np.setdiff1d(kept, wanted), np.setdiff1d(wanted, kept)
    if np.any(extra < 0):
        return _Choice(len(extra), INFINITE, 0.0, int(extra[0]))
    if not len(extra) or not len(missing):
        return _Choice(len(extra), 0.0, 1.0, -1)
    value, spread = ranking.value[image], variance_of(ranking)[image].astype(np.float64)
    lacks = value[missing][:, None] - value[extra]
    limits = MOST * np.sqrt(spread[missing][:, None] + spread[extra])
    at = np.unravel_index(np.argmax(lacks / limits), lacks.shape)
    return _Choice(len(extra), float(lacks[at]), float(limits[at]), int(extra[at[1]]))


def _margins(ranking: Uncertain, order: Indices, count: int) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """Of each image the last kept score less the first dropped, and what rounding can make of that."""
    count = min(count, order.shape[1] - 1)
    pair = order[:, count - 1 : count + 1]
    value, spread = (np.take_along_axis(part, pair, axis=1) for part in (ranking.value, variance_of(ranking)))
    limits = MOST * np.sqrt(spread.sum(axis=1))
    return tuple(map(float, value[:, 0] - value[:, 1])), tuple(map(float, limits))


def _unseen(path: str, ranking: Uncertain, order: Indices, count: int) -> Selection:
    margins, limits = _margins(ranking, order, count)
    return Selection(path, margins, limits, (0,) * len(margins), False, NOT_SEEN)


def _compared(path: str, ranking: Uncertain, rows: Rows, images: list[_Choice], wanted: tuple[int, bool]) -> Comparison:
    """The choice as a comparison: by the score that the worst token lacks, or by the number of rows."""
    count, right = wanted
    number = int(np.argmax([image.excess for image in images]))
    worst = images[number]
    batch, got = rows.tokens.shape
    scale = float(np.max(np.abs(ranking.value[number]))) or 1.0
    lack, limit = (worst.lack / scale, worst.limit / scale) if right else (INFINITE, 0.0)
    where = (number, worst.token) if right else None
    difference = Difference(
        f"{path}.kept", f"{path}.reorganized", lack, limit, where, (batch, got), (batch, count), note="the choice of tokens"
    )
    return Comparison(difference, rows.tokens.astype(np.float64), ranking.rounding.exact(np.zeros((batch, 0))))


def choosing(seeds: Indices, order: Indices | None = None) -> Callable[..., Uncertain]:
    """A reorganization that chooses by scores which are off as rounding may have them off; for seed 0, by the scores.

    seeds: [B], of each image. order: [B, K'], by which the rows after the special tokens go on. Fewer images are the first ones.
    """

    def step(net: "Replay", path: str, tokens: Uncertain, scores: Uncertain, count: int, config: VitConfig) -> Uncertain:
        batch, candidates = scores.shape
        draws = (np.random.default_rng([int(seed), image, *path.encode()]) for image, seed in enumerate(seeds[:batch]))
        noise = np.stack([draw.standard_normal(candidates) for draw in draws])
        noise *= np.where(seeds > 0, 0.5 ** (seeds // 2 % 4), 0.0)[:batch, None]  # limits are wider than most errors
        moved = scores.value + noise * np.sqrt(variance_of(scores), dtype=np.float64)
        rows = rows_of(np.argsort(-moved, axis=1, stable=True)[:, :count], config.fuse_token)
        if order is not None:
            rows = Rows(np.take_along_axis(rows.tokens, order[:batch], axis=1))
        return reorganize(net, path, tokens, scores, count, config, rows=rows)

    return step
