"""Which tokens a candidate kept, and whether rounding can account for the choice."""

from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property

import numpy as np

from reforg.config import VitConfig
from reforg.evit import fused_token
from reforg.verification.error_model.comparison import INFINITE, MOST, Comparison, variance_of
from reforg.verification.error_model.rules import gather
from reforg.verification.error_model.uncertain import Uncertain
from reforg.verification.findings import DIVERGES, EQUAL, FLIPPED, NOT_SEEN, REORDERED, Difference, Selection
from reforg.verification.replay.changes import record, record_selection
from reforg.verification.replay.rows import FUSED, Indices, Rows, rows_by_indices, rows_by_value, rows_of
from reforg.verification.replay.session import Net, Session


@dataclass(frozen=True)
class Ranked:
    """Tokens [B, S + N, C] and the scores [B, N] by which `count` of them go on.

    shift: how far the tokens that are gathered are from those that were chosen, which is 0 but in a variant.
    """

    tokens: Uncertain
    scores: Uncertain
    count: int
    config: VitConfig
    shift: int = 0

    @cached_property
    def order(self) -> Indices:
        """[B, N]: the candidates for staying by falling score, as the reference ranks them."""
        return np.argsort(-self.scores.value, axis=1, stable=True)

    @cached_property
    def expected(self) -> Rows:
        """The rows that the reference has after its special tokens."""
        return rows_of(self.order[:, : self.count] + self.shift, self.config.fuse_token)


def reorganize(net: Net, path: str, tokens: Uncertain, scores: Uncertain, count: int, config: VitConfig) -> Uncertain:
    """The reference's reorganization with the candidate's own choice, once that is found to be right or wrong.

    [B, S + N, C], [B, N] -> [B, S + K (+ 1), C].
    """
    return rearranged(net, path, Ranked(tokens, scores, count, config))


def rearranged(net: Net, path: str, ranked: Ranked, becomes: str | None = None, rows: Rows | None = None) -> Uncertain:
    """The tokens of ranked ones that go on, as the candidate arranges them: [B, S + K (+ 1), C].

    becomes: the value that they are in the candidate, where that is not `reorganized`. rows: the candidate's, where they are known.
    """
    session, expected = net.session, ranked.expected
    ready = _arranged(net, ranked, expected)
    fused = ready[:, -1:, :] if expected.fused else None
    # Rows show what went on. The indices are only what the candidate says of itself.
    rows = rows or rows_by_value(session, path, ranked.tokens, fused, ranked.config, expected, becomes)
    rows = rows or rows_by_indices(session, path, expected)
    if rows is None:
        # Nothing shows the choice yet. The replay goes on from the reference's, and takes others up if what follows disagrees.
        record_selection(session, _not_shown(path, ranked))
        rows = expected
    else:
        _judge(session, path, ranked, rows)
    if rows is not expected:
        # The blocks behind must get what they got in the candidate, or one other token would be held against all of them.
        ready = _arranged(net, ranked, rows)
    arranged: Uncertain = net.trace(f"{path}.reorganized", ready)
    return arranged


def _arranged(net: Net, ranked: Ranked, rows: Rows) -> Uncertain:
    """Special tokens, then the rows in the candidate's order, the fused one where the candidate has it."""
    tokens, special, kept = ranked.tokens, ranked.config.num_special, rows.kept
    xp, (batch, count) = tokens.rounding, ranked.scores.shape
    parts = [tokens[:, :special, :], gather(tokens, kept + special)]
    place = np.cumsum(rows.tokens != FUSED, axis=1) - 1 + special
    if rows.fused:
        # What the candidate dropped is fused, be it the reference's choice or not: its fused token is judged on its own choice.
        dropped = np.ones((batch, count), dtype=bool)
        np.put_along_axis(dropped, np.clip(kept - ranked.shift, 0, count - 1), False, axis=1)
        inattentive = np.argsort(~dropped, axis=1, stable=True)[:, : int(dropped.sum(axis=1).min())]
        parts.append(fused_token(net, tokens[:, special:, :], ranked.scores, inattentive))
        place = np.where(rows.tokens == FUSED, special + kept.shape[1], place)
    leading = np.broadcast_to(np.arange(special), (batch, special))
    return gather(xp.concat(parts, axis=1), np.concatenate([leading, place], axis=1))


def _judge(session: Session, path: str, ranked: Ranked, rows: Rows) -> None:
    """Record whether the candidate's choice is the reference's, one that rounding accounts for, or wrong."""
    order, count, expected, kept = ranked.order, ranked.count, ranked.expected, rows.kept
    images = [_deviation(ranked.scores, number, order[number, :count], kept[number] - ranked.shift) for number in range(len(order))]
    right = kept.shape[1] == count and rows.fused == expected.fused
    flips = tuple(image.flips for image in images)
    reordered = not np.array_equal(rows.tokens, expected.tokens)
    # Attention does not mind the order of tokens. Another order is no fault, and neither is a choice that rounding may turn.
    verdict = (
        DIVERGES
        if not right or any(image.excess > 1 for image in images)
        else FLIPPED
        if any(flips)
        else REORDERED
        if reordered
        else EQUAL
    )
    margins, limits = _margins(ranked)
    record_selection(session, Selection(path, margins, limits, flips, reordered, verdict))
    record(session, _compared(path, ranked.scores, rows, images, (expected.tokens.shape[1], right)), supplied=False)


@dataclass(frozen=True)
class _Deviation:
    """One image: how many kept tokens are not the reference's, what the worst of them lacks, the limit of that, which it is."""

    flips: int
    lack: float
    limit: float
    token: int

    @property
    def excess(self) -> float:
        """The lack in units of its limit."""
        return self.lack / self.limit if self.limit else (INFINITE if self.flips else 0.0)


def _deviation(scores: Uncertain, image: int, wanted: Indices, kept: Indices) -> _Deviation:
    """How the kept tokens of an image differ from the wanted ones."""
    extra, missing = np.setdiff1d(kept, wanted), np.setdiff1d(wanted, kept)
    if np.any(extra < 0):
        return _Deviation(len(extra), INFINITE, 0.0, int(extra[0]))
    if not len(extra) or not len(missing):
        return _Deviation(len(extra), 0.0, 1.0, -1)
    value, spread = scores.value[image], variance_of(scores)[image].astype(np.float64)
    lacks = value[missing][:, None] - value[extra]
    limits = MOST * np.sqrt(spread[missing][:, None] + spread[extra])
    at = np.unravel_index(np.argmax(lacks / limits), lacks.shape)
    return _Deviation(len(extra), float(lacks[at]), float(limits[at]), int(extra[at[1]]))


def _margins(ranked: Ranked) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """Of each image the last kept score less the first dropped, and what rounding can make of that."""
    count = min(ranked.count, ranked.order.shape[1] - 1)
    pair = ranked.order[:, count - 1 : count + 1]
    value, spread = (np.take_along_axis(part, pair, axis=1) for part in (ranked.scores.value, variance_of(ranked.scores)))
    limits = MOST * np.sqrt(spread.sum(axis=1))
    return tuple(map(float, value[:, 0] - value[:, 1])), tuple(map(float, limits))


def _not_shown(path: str, ranked: Ranked) -> Selection:
    margins, limits = _margins(ranked)
    return Selection(path, margins, limits, (0,) * len(margins), False, NOT_SEEN)


def _compared(path: str, scores: Uncertain, rows: Rows, images: list[_Deviation], wanted: tuple[int, bool]) -> Comparison:
    """The choice as a comparison: by the score that the worst token lacks, or by the number of rows."""
    count, right = wanted
    number = int(np.argmax([image.excess for image in images]))
    worst = images[number]
    batch, got = rows.tokens.shape
    scale = float(np.max(np.abs(scores.value[number]))) or 1.0
    lack, limit = (worst.lack / scale, worst.limit / scale) if right else (INFINITE, 0.0)
    where = (number, worst.token) if right else None
    difference = Difference(
        f"{path}.kept", f"{path}.reorganized", lack, limit, where, (batch, got), (batch, count), note="the choice of tokens"
    )
    return Comparison(difference, rows.tokens.astype(np.float64), scores.rounding.exact(np.zeros((batch, 0))))


def choosing(seeds: Indices, order: Indices | None = None) -> Callable[..., Uncertain]:
    """A reorganization that chooses by scores which are off as rounding may have them off; for seed 0, by the scores.

    seeds: [B], of each image. order: [B, K'], by which the rows after the special tokens go on. Fewer images are the first ones.
    """

    def step(net: Net, path: str, tokens: Uncertain, scores: Uncertain, count: int, config: VitConfig) -> Uncertain:
        batch, candidates = scores.shape
        draws = (np.random.default_rng([int(seed), image, *path.encode()]) for image, seed in enumerate(seeds[:batch]))
        noise = np.stack([draw.standard_normal(candidates) for draw in draws])
        noise *= np.where(seeds > 0, 0.5 ** (seeds // 2 % 4), 0.0)[:batch, None]  # limits are wider than most errors
        moved = scores.value + noise * np.sqrt(variance_of(scores), dtype=np.float64)
        rows = rows_of(np.argsort(-moved, axis=1, stable=True)[:, :count], config.fuse_token)
        if order is not None:
            rows = Rows(np.take_along_axis(rows.tokens, order[:batch], axis=1))
        return rearranged(net, path, Ranked(tokens, scores, count, config), rows=rows)

    return step
