"""Which token each row of a candidate is, read off what follows a reorganization.

Traces seldom hold indices. But all that stands between a reorganization and the next attention treats each token alone, so the
rows of `blocks.N.norm2`, say, are what the reference makes of single tokens: the nearest one tells which it was. A row near to none
is the fused token.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from reforg.config import VitConfig
from reforg.ops import Network, Recorder
from reforg.verification.error_model.comparison import MEAN, SHORT, variance_of
from reforg.verification.error_model.layouts import fitted
from reforg.verification.error_model.rules import OPERATIONS
from reforg.verification.error_model.uncertain import Uncertain, Values
from reforg.verification.replay.changes import record_sharpness
from reforg.verification.replay.recovery import after_attention
from reforg.verification.replay.session import Session
from reforg.vit import feed_forward

Indices = npt.NDArray[np.intp]
Flags = npt.NDArray[np.bool_]
Nearness = Callable[[Uncertain, Uncertain, Indices, Values], Flags]
SHARP = 2.0  # units of what rounding allows: what is one token within rounding cannot be another that is so far from it
CLEAR = 0.5  # of the distance to the second nearest token: a row no further than that from the nearest is that token
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


def rows_of(kept: Indices, fuses: bool) -> Rows:
    """The reference's own arrangement: kept tokens, then the fused one."""
    return Rows(np.pad(kept, ((0, 0), (0, 1)), constant_values=FUSED) if fuses else kept)


def rows_by_value(
    session: Session,
    path: str,
    tokens: Uncertain,
    fused: Uncertain | None,
    config: VitConfig,
    expected: Rows,
    becomes: str | None,
) -> Rows | None:
    """The candidate's rows, by the value that shows them most sharply; None where none does.

    Rows that are tokens within rounding tell more than rows that are merely near, and a reading with as many fused tokens as
    there should be more than another. Where tokens are so much alike that a value's rounding hides which is which, they are the
    expected. tokens: [B, S + N, C], what there is to choose from. fused: [B, 1, C], the expected one. How sharply they are seen,
    in units of what rounding allows, is put on record.
    """
    special, total = config.num_special, tokens.shape[1]
    every = tokens if fused is None else tokens.rounding.concat([tokens, fused], axis=1)
    views = list(_views(session, path, every, config) if becomes is None else _as_rows(session, every, becomes))
    # A value may hold rows so close to each other, for its rounding, that two tokens could be told for one another. A later value
    # may keep them apart: so all views are looked at, until one is sharp enough that no other can be right.
    best, sharpest = None, -1.0
    for predicted, got in views:
        single = predicted[:, :total, :]
        found = _as_expected(predicted, got, expected, special) or _matched(single, got, special, _within, expected.fused)
        if found is None or found.fused != expected.fused:
            continue
        sharpness = _sharpness(predicted, got, special)
        if sharpness > sharpest or best is None:
            best, sharpest = found, sharpness
        if sharpness > SHARP or got.shape[1] != special + expected.tokens.shape[1]:
            break
    record_sharpness(session, path, sharpest)
    return best or _roughly(views, total, expected, special)


def _roughly(views: list[tuple[Uncertain, Uncertain]], total: int, expected: Rows, special: int) -> Rows | None:
    """The rows by the first value whose rows are near enough to one of the `total` tokens each."""
    for nearness, strict in ((_within, False), (_clear, True), (_clear, False)):
        for predicted, got in views:
            found = _matched(predicted[:, :total, :], got, special, nearness, expected.fused and strict)
            if found is not None and (found.fused == expected.fused or not strict):
                return found
    return None


def rows_by_indices(session: Session, path: str, expected: Rows) -> Rows | None:
    """The rows by the indices that the candidate itself holds; None where it holds none, or what cannot be indices."""
    kept = session.values.get(f"{path}.kept")
    if kept is None or kept.ndim != 2 or len(kept) != len(expected.tokens):
        return None
    numbers = np.nan_to_num(kept, nan=-1.0).astype(np.intp)
    if numbers.min() < 0 or numbers.max() >= session.latest[f"{path}.attended"].shape[1]:
        return None
    return rows_of(numbers, expected.fused)


def _views(session: Session, path: str, tokens: Uncertain, config: VitConfig) -> Iterator[tuple[Uncertain, Uncertain]]:
    """What the reference makes of every token that came in, beside the candidate's rows of it after the reorganization.

    The nearest ones first; the last are as far as the next attention.
    """
    name = f"{path}.reorganized"
    if name in session.assumed:
        yield tokens, session.assumed[name]
    yield from _as_rows(session, tokens, name)
    hidden = after_attention(session, path)
    if hidden is not None:
        yield tokens, hidden
    if not any(session.holds(follower) for follower in _followers(path, config)):
        return
    # The reference's own MLP and the next norm, of every token that came in: what they make of the token that a row is, the row
    # holds.
    recorder = Recorder()
    net = Network(session.weights, OPERATIONS, recorder)
    recorder(path, feed_forward(net, path, tokens, config))
    for norm, projection in _next(path, config):
        normed = net.layer_norm(norm, recorder.values[path], config.norm_eps)
        if projection:
            net.linear(projection, normed)
    for follower, predicted in recorder.values.items():
        yield from _as_rows(session, predicted, follower)


def _followers(path: str, config: VitConfig) -> Iterator[str]:
    """What treats each token alone: the block's MLP, and what comes before the next attention."""
    for branch in config.branches:
        yield f"{path}.norm2{branch}"
        yield from (f"{path}.mlp{branch}{part}" for part in ("", ".fc1", ".act", ".fc2"))
    yield path
    for norm, projection in _next(path, config):
        yield from (norm, projection)


def _next(path: str, config: VitConfig) -> Iterator[tuple[str, str]]:
    """The norms that read a block's tokens, each with the linear layer that reads it; after the last block there is none."""
    number = int(path.rpartition(".")[2]) + 1
    if number == config.depth and config.global_pool != "avg":
        yield "norm", ""
    elif number < config.depth:
        yield from ((f"blocks.{number}.norm1{branch}", f"blocks.{number}.attn{branch}.qkv") for branch in config.branches)


def _as_rows(session: Session, predicted: Uncertain, name: str) -> Iterator[tuple[Uncertain, Uncertain]]:
    """The candidate's value as [B, N', C], where it holds it and that can be brought to it."""
    if not session.holds(name):
        return
    got, (batch, _, width) = session.values[name], predicted.shape
    if got.size % (batch * width):
        return
    value, _ = fitted(got, np.empty((batch, got.size // (batch * width), width)))
    if value.ndim == 3 and value.shape[::2] == (batch, width):
        yield predicted, session.rounding.exact(value)


def _matched(predicted: Uncertain, got: Uncertain, special: int, nearness: Nearness, fuses: bool) -> Rows | None:
    """Which token each row [B, S + N', C] is, of those [B, S + N, C]; None where more than one row of an image is none.

    fuses: whether one row is none; of two rows that are the same token, then, the farther one.
    """
    pairs = zip(_images(predicted), _images(got[:, special:, :]), strict=True)
    found = np.stack([_nearest(*pair, special, nearness, fuses) for pair in pairs])
    unmatched = (found == FUSED).sum(axis=1)
    if not found.shape[1] or unmatched.max() > 1 or unmatched.min() != unmatched.max():
        return None
    return Rows(np.where(found == FUSED, FUSED, found - special))


def _as_expected(predicted: Uncertain, got: Uncertain, expected: Rows, special: int) -> Rows | None:
    """The expected tokens in the candidate's order, if its rows can be just these within rounding; None where they cannot.

    predicted: [B, S + N (+ 1), C], the expected fused token last.
    """
    if got.shape[1] != special + expected.tokens.shape[1] or np.any(expected.kept < 0):
        return None
    places = np.where(expected.tokens == FUSED, predicted.shape[1] - 1, expected.tokens + special)
    pairs = zip(_images(predicted), _images(got[:, special:, :]), places, expected.tokens, strict=True)
    found = [_paired(tokens[place], rows, numbers) for tokens, rows, place, numbers in pairs]
    return Rows(np.stack(found)) if all(len(one) for one in found) else None


def _paired(tokens: Uncertain, rows: Uncertain, numbers: Indices) -> Indices:
    """For each row [K, C] the number of the token [K, C] that it is, each once, nearest pairs first; empty where one is not."""
    distances = _distances(rows.value, tokens.value)
    taken = _one_each(distances)
    near = _within(tokens[taken], rows, taken, distances)
    return numbers[taken] if np.all(near) else numbers[:0]


def _one_each(distances: Values) -> Indices:
    """[K, K] -> for each row a column, each once, nearest pairs first."""
    taken, free = np.full(len(distances), -1), np.ones(len(distances), dtype=bool)
    # Not the best sum of distances, which an assignment would give: pairs that are certain come first, and leave less to the rest.
    for pair in np.argsort(distances, axis=None, kind="stable"):
        row, column = divmod(int(pair), distances.shape[1])
        if taken[row] < 0 and free[column]:
            taken[row], free[column] = column, False
    return taken


def order_of(got: Values, predicted: Values, special: int) -> Indices:
    """[B, S + N, C] twice -> [B, N]: which row of the prediction each row of the candidate is nearest to, each once."""
    pairs = zip(got[:, special:], predicted[:, special:], strict=True)
    return np.stack([_one_each(_distances(rows, tokens)) for rows, tokens in pairs])


def _images(x: Uncertain) -> Iterator[Uncertain]:
    return (x[number] for number in range(x.shape[0]))


def _nearest(predicted: Uncertain, rows: Uncertain, special: int, nearness: Nearness, fuses: bool) -> Indices:
    """For each row [N', C] the number of the token [N, C] that it is; FUSED for one that is none. Patches before special tokens."""
    distances = _distances(rows.value, predicted.value)
    found = np.full(len(distances), FUSED)
    for first, last in ((0, special), (special, distances.shape[1])):
        nearest = first + np.argmin(distances[:, first:last], axis=1)
        found = np.where(nearness(predicted[nearest], rows, nearest, distances), nearest, found)
    # The fused token may be near enough to one that was dropped to be taken for it. No token is kept twice, so of a pair of rows
    # that are the same token the farther one is the fused.
    if fuses and np.all(found != FUSED):
        twice = np.flatnonzero(np.bincount(found)[found] > 1)
        far = distances[twice, found[twice]]
        found[twice[np.argmax(far)] if len(twice) == 2 else []] = FUSED
    return found


def _within(nearest: Uncertain, rows: Uncertain, numbers: Indices, distances: Values) -> Flags:  # noqa: ARG001
    """Whether each row is its nearest token within rounding."""
    return np.asarray(_shares(nearest, rows) <= 1)


def _shares(tokens: Uncertain, rows: Uncertain) -> Values:
    """How far each row [N', C] is from a token [N', C], in units of what rounding allows."""
    deviation = np.sqrt(variance_of(tokens, rows.spread), dtype=np.float64)
    squares = np.minimum(np.abs(rows.value - tokens.value) / deviation, 1e9) ** 2
    return np.asarray(np.sqrt(np.mean(squares, axis=1)) / (MEAN + SHORT / squares.shape[1] ** 0.5))


def _clear(nearest: Uncertain, rows: Uncertain, numbers: Indices, distances: Values) -> Flags:  # noqa: ARG001
    """Whether each row is much nearer to its nearest token than to any other, as where one more thing is wrong."""
    if distances.shape[1] < 2:
        return np.ones(len(distances), dtype=bool)
    first = np.take_along_axis(distances, numbers[:, None], axis=1)[:, 0]
    lowest, second = np.partition(distances, 1, axis=1)[:, :2].T
    return np.asarray((first <= lowest) & (first <= CLEAR**2 * second))


def _sharpness(predicted: Uncertain, got: Uncertain, special: int) -> float:
    """How far the second nearest token [B, S + N, C] is from a row [B, S + N', C] at least, and the second nearest row from such
    a token, in units of what rounding allows.
    """
    found = [np.full(1, np.inf)]
    for tokens, rows in zip(_images(predicted), _images(got[:, special:, :]), strict=True):
        distances = _distances(rows.value, tokens.value)
        if min(distances.shape) > 1:
            nearest = np.unique(np.argmin(distances, axis=1))
            found.append(_shares(tokens[_second(distances)], rows))
            found.append(_shares(tokens[nearest], rows[_second(distances.T[nearest])]))
    return float(np.min(np.concatenate(found)))


def _second(distances: Values) -> Indices:
    """[N, M] -> [N]: the second nearest of each row."""
    return np.argpartition(distances, 1, axis=1)[:, 1]


def _distances(a: Values, b: Values) -> Values:
    """Squared distances [N', N] of rows [N', C] and [N, C]."""
    squared = np.sum(a * a, axis=1)[:, None] + np.sum(b * b, axis=1) - 2 * a @ b.T
    distances: Values = np.maximum(squared, 0.0)
    return distances
