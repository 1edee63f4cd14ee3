"""Which tokens a candidate kept, read off what follows, and whether rounding can account for the choice.

Traces seldom hold indices. But all that stands between a reorganization and the next attention treats each token alone, so the
rows of `blocks.N.norm2`, say, are what the reference makes of single tokens: the nearest one tells which it was. A row near to none
is the fused token.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from reforg.config import VitConfig
from reforg.evit import fuse_inattentive
from reforg.ops import Network, Recorder
from reforg.verification.comparison import INFINITE, MEAN, MOST, SHORT, Comparison, variance_of
from reforg.verification.layouts import fitted
from reforg.verification.report import DIVERGES, EQUAL, FLIPPED, REORDERED, Difference, Selection
from reforg.verification.rules import OPERATIONS, gather
from reforg.verification.uncertain import Uncertain, Values
from reforg.vit import feed_forward

if TYPE_CHECKING:
    from reforg.verification.replay import Replay, Session

Indices = npt.NDArray[np.intp]
Flags = npt.NDArray[np.bool_]
Nearness = Callable[[Uncertain, Uncertain, Indices, Values], Flags]
Fuse = Callable[[Uncertain, Uncertain], Uncertain]
CLEAR = 0.5  # of the distance to the second nearest token: a row no further than that from the nearest is that token
NOT_SEEN = "not seen"
FUSED = np.iinfo(np.intp).min  # in place of a token's number, which is negative where a special token was taken for a patch


@dataclass(frozen=True)
class Rows:
    """For each row [B, N'] of the candidate after its special tokens, which token it is, or FUSED."""

    tokens: Indices

    @property
    def fused(self) -> bool:
        """Whether there is a fused token."""
        return bool(np.any(self.tokens == FUSED))

    @property
    def kept(self) -> Indices:
        """The kept tokens [B, K] in the candidate's order."""
        kept: Indices = self.tokens[self.tokens != FUSED].reshape(len(self.tokens), -1)
        return kept


def reorganize(
    net: "Replay", path: str, tokens: Uncertain, scores: Uncertain, count: int, config: VitConfig, ranking: Uncertain | None = None,
    fuse: Fuse = fuse_inattentive, fuses: bool | None = None, shift: int = 0, becomes: str | None = None,
) -> Uncertain:  # fmt: skip
    """The reference's reorganization with the candidate's own choice, once that is found to be right or wrong.

    [B, S + N, C], [B, N] -> [B, S + K (+ 1), C]. ranking: scores to choose by, where they are not the ones to fuse by.
    fuses: whether a fused token is wanted, by default as the config says. shift: what the indices are off by when tokens
    are gathered. becomes: the value that the tokens that go on are, where that is not `reorganized`.
    """
    session, special = net.session, config.num_special
    fuses = config.fuse_token if fuses is None else fuses
    ranking = scores if ranking is None else ranking
    order = np.argsort(-ranking.value, axis=1, stable=True)
    expected = _rows_of(order[:, :count] + shift, fuses)
    rows = _seen(session, path, tokens, config, expected, becomes) or _told(session, path, expected)
    if rows is None:
        session.selections[path] = _unseen(path, ranking, order, count)
        rows = expected
    else:
        _judge(session, path, ranking, order, count, (rows, expected), shift)
    arranged: Uncertain = net.trace(f"{path}.reorganized", _arranged(tokens, scores, rows, special, fuse, shift))
    return arranged


def _rows_of(kept: Indices, fuses: bool) -> Rows:
    """The reference's own arrangement: kept tokens, then the fused one."""
    return Rows(np.pad(kept, ((0, 0), (0, 1)), constant_values=FUSED) if fuses else kept)


def _arranged(tokens: Uncertain, scores: Uncertain, rows: Rows, special: int, fuse: Fuse, shift: int) -> Uncertain:
    """Special tokens, then the rows in the candidate's order, the fused one where the candidate has it."""
    xp, (batch, count) = tokens.rounding, scores.shape
    kept = rows.kept
    parts = [tokens[:, :special, :], gather(tokens, kept + special)]
    place = np.cumsum(rows.tokens != FUSED, axis=1) - 1 + special
    if rows.fused:
        dropped = np.ones((batch, count), dtype=bool)
        np.put_along_axis(dropped, np.clip(kept - shift, 0, count - 1), False, axis=1)
        index = np.argsort(~dropped, axis=1, stable=True)[:, : int(dropped.sum(axis=1).min())]
        parts.append(fuse(gather(tokens[:, special:, :], index), gather(scores, index)))
        place = np.where(rows.tokens == FUSED, special + kept.shape[1], place)
    leading = np.broadcast_to(np.arange(special), (batch, special))
    return gather(xp.concat(parts, axis=1), np.concatenate([leading, place], axis=1))


def _seen(
    session: "Session", path: str, tokens: Uncertain, config: VitConfig, expected: Rows, becomes: str | None
) -> Rows | None:  # fmt: skip
    """The candidate's rows, by the first value that shows them; None where none does.

    Rows that are tokens within rounding tell more than rows that are merely near, and a reading with as many fused tokens as
    there should be more than another. Where tokens are so much alike that a value's rounding hides which is which, they are the
    expected.
    """
    views = list(_views(session, path, tokens, config) if becomes is None else _as_rows(session, tokens, becomes))
    for predicted, got in views:
        found = _as_expected(predicted, got, expected, config.num_special)
        found = found or _matched(predicted, got, config.num_special, _within)
        if found is not None and found.fused == expected.fused:
            return found
    for nearness, strict in ((_within, False), (_clear, True), (_clear, False)):
        for predicted, got in views:
            found = _matched(predicted, got, config.num_special, nearness)
            if found is not None and (found.fused == expected.fused or not strict):
                return found
    return None


def _told(session: "Session", path: str, expected: Rows) -> Rows | None:
    """The rows by the indices that the candidate itself holds; None where it holds none, or what cannot be indices."""
    kept = session.values.get(f"{path}.kept")
    if kept is None or kept.ndim != 2 or len(kept) != len(expected.tokens):
        return None
    numbers = np.nan_to_num(kept, nan=-1.0).astype(np.intp)
    if numbers.min() < 0 or numbers.max() >= session.latest[f"{path}.attended"].shape[1]:
        return None
    return _rows_of(numbers, expected.fused)


def _views(session: "Session", path: str, tokens: Uncertain, config: VitConfig) -> Iterator[tuple[Uncertain, Uncertain]]:
    """What the reference makes of every token that came in, beside the candidate's rows of it after the reorganization.

    The nearest ones first; the last are as far as the next attention.
    """
    name = f"{path}.reorganized"
    if name in session.assumed:
        yield tokens, session.assumed[name]
    yield from _as_rows(session, tokens, name)
    hidden = session.recovered(path)
    if hidden is not None:
        yield tokens, hidden
    if not any(session.holds(follower) for follower in _followers(path, config)):
        return
    recorder = Recorder()
    net = Network(session.weights, OPERATIONS, recorder)
    recorder(path, feed_forward(net, path, tokens, config))
    for follower, predicted in recorder.values.items():
        yield from _as_rows(session, predicted, follower)


def _followers(path: str, config: VitConfig) -> Iterator[str]:
    for branch in config.branches:
        yield f"{path}.norm2{branch}"
        yield from (f"{path}.mlp{branch}{part}" for part in ("", ".fc1", ".act", ".fc2"))
    yield path


def _as_rows(session: "Session", predicted: Uncertain, name: str) -> Iterator[tuple[Uncertain, Uncertain]]:
    """The candidate's value as [B, N', C], where it holds it and that can be brought to it."""
    if not session.holds(name):
        return
    got, (batch, _, width) = session.values[name], predicted.shape
    if got.size % (batch * width):
        return
    value, _ = fitted(got, np.empty((batch, got.size // (batch * width), width)))
    if value.ndim == 3 and value.shape[::2] == (batch, width):
        yield predicted, session.rounding.exact(value)


def _matched(predicted: Uncertain, got: Uncertain, special: int, nearness: Nearness) -> Rows | None:
    """Which token each row [B, S + N', C] is, of those [B, S + N, C]; None where more than one row of an image is none."""
    pairs = zip(_images(predicted), _images(got[:, special:, :]), strict=True)
    found = np.stack([_nearest(*pair, special, nearness) for pair in pairs])
    unmatched = (found == FUSED).sum(axis=1)
    if not found.shape[1] or unmatched.max() > 1 or unmatched.min() != unmatched.max():
        return None
    return Rows(np.where(found == FUSED, FUSED, found - special))


def _as_expected(predicted: Uncertain, got: Uncertain, expected: Rows, special: int) -> Rows | None:
    """The expected tokens in the candidate's order, if its rows can be just these within rounding; None where they cannot."""
    if got.shape[1] != special + expected.tokens.shape[1] or np.any(expected.kept < 0):
        return None
    pairs = zip(_images(predicted), _images(got[:, special:, :]), expected.kept, strict=True)
    found = [_paired(tokens[kept + special], rows, kept) for tokens, rows, kept in pairs]
    return Rows(np.stack(found)) if all(len(one) for one in found) else None


def _paired(tokens: Uncertain, rows: Uncertain, numbers: Indices) -> Indices:
    """For each row [N', C] which of as many tokens [K, C] it is, each token once, nearest pairs first; FUSED for a row too many.

    Empty where a row is not its token within rounding.
    """
    distances = _distances(rows.value, tokens.value)
    found = np.full(len(distances), FUSED)
    taken = np.full(len(distances), 0)
    for pair in np.argsort(distances, axis=None, kind="stable"):
        row, token = divmod(int(pair), len(numbers))
        if found[row] == FUSED and np.isfinite(distances[row, token]):
            found[row], taken[row] = numbers[token], token
            distances[:, token] = np.inf
    near = _within(tokens[taken], rows, taken, distances) | (found == FUSED)
    return found if np.all(near) else found[:0]


def _images(x: Uncertain) -> Iterator[Uncertain]:
    return (x[number] for number in range(x.shape[0]))


def _nearest(predicted: Uncertain, rows: Uncertain, special: int, nearness: Nearness) -> Indices:
    """For each row [N', C] the number of the token [N, C] that it is; FUSED for one that is none. Patches before special tokens."""
    distances = _distances(rows.value, predicted.value)
    found = np.full(len(distances), FUSED)
    for first, last in ((0, special), (special, distances.shape[1])):
        nearest = first + np.argmin(distances[:, first:last], axis=1)
        found = np.where(nearness(predicted[nearest], rows, nearest, distances), nearest, found)
    return found


def _within(nearest: Uncertain, rows: Uncertain, numbers: Indices, distances: Values) -> Flags:  # noqa: ARG001
    """Whether each row is its nearest token within rounding."""
    deviation = np.sqrt(variance_of(nearest, rows.spread), dtype=np.float64)
    shares = np.minimum(np.abs(rows.value - nearest.value) / deviation, 1e9) ** 2
    return np.asarray(np.mean(shares, axis=1) <= (MEAN + SHORT / shares.shape[1] ** 0.5) ** 2)


def _clear(nearest: Uncertain, rows: Uncertain, numbers: Indices, distances: Values) -> Flags:  # noqa: ARG001
    """Whether each row is much nearer to its nearest token than to any other, as where one more thing is wrong."""
    if distances.shape[1] < 2:
        return np.ones(len(distances), dtype=bool)
    first = np.take_along_axis(distances, numbers[:, None], axis=1)[:, 0]
    lowest, second = np.partition(distances, 1, axis=1)[:, :2].T
    return np.asarray((first <= lowest) & (first <= CLEAR**2 * second))


def _distances(a: Values, b: Values) -> Values:
    """Squared distances [N', N] of rows [N', C] and [N, C]."""
    squared = np.sum(a * a, axis=1)[:, None] + np.sum(b * b, axis=1) - 2 * a @ b.T
    distances: Values = np.maximum(squared, 0.0)
    return distances


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


def drawn(seed: int) -> Callable[..., Uncertain]:
    """A reorganization that chooses by scores which are off as rounding may have them off."""

    def step(net: "Replay", path: str, tokens: Uncertain, scores: Uncertain, count: int, config: VitConfig) -> Uncertain:
        noise = np.random.default_rng([seed, len(path), *path.encode()]).standard_normal(scores.shape)
        moved = scores.value + noise * np.sqrt(variance_of(scores), dtype=np.float64)
        return reorganize(net, path, tokens, scores, count, config, ranking=Uncertain(moved, scores.variance, scores.rounding))

    return step
