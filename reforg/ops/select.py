"""Ranking tokens and gathering them."""

from reforg.arrays import Array, arange, namespace


def rank(scores: Array) -> Array:
    """[B, N] -> [B, N], the indices of each row by falling score; equal scores keep the lower index first.

    torch's top-k leaves the order of equal scores open; this is ONNX TopK's rule.
    """
    return namespace(scores).argsort(-scores, axis=-1, stable=True)


def gather(tokens: Array, indices: Array) -> Array:
    """[B, N, ...], [B, K] -> [B, K, ...]: for each image the tokens of the given indices, in their order."""
    xp = namespace(tokens, indices)
    batch, count = tokens.shape[:2]
    rows = indices + count * arange(batch, like=indices, dtype=indices.dtype)[:, None]
    picked = xp.take(
        xp.reshape(tokens, (batch * count, *tokens.shape[2:])), xp.reshape(rows, (rows.shape[0] * rows.shape[1],)), axis=0
    )
    return xp.reshape(picked, (*indices.shape, *tokens.shape[2:]))
