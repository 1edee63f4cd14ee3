"""Moving between feature maps (B, C, H, W), tokens (B, N, C) in row order, and heads (B, H, N, D)."""

from reforg.arrays import Array, namespace


def to_tokens(maps: Array) -> Array:
    """[B, C, H, W] -> [B, H W, C]."""
    xp = namespace(maps)
    batch, channels, height, width = maps.shape
    return xp.matrix_transpose(xp.reshape(maps, (batch, channels, height * width)))


def to_maps(tokens: Array, grid: tuple[int, int]) -> Array:
    """[B, N, C] -> [B, C, *grid]."""
    xp = namespace(tokens)
    return xp.reshape(xp.matrix_transpose(tokens), (tokens.shape[0], tokens.shape[2], *grid))


def split_heads(x: Array, parts: int, num_heads: int) -> tuple[Array, ...]:
    """[B, N, parts H D] -> `parts` arrays [B, H, N, D]: queries, keys and values lie side by side, heads inside each."""
    xp = namespace(x)
    batch, count, width = x.shape
    x = xp.reshape(x, (batch, count, parts, num_heads, width // (parts * num_heads)))
    x = xp.permute_dims(x, (2, 0, 3, 1, 4))
    return tuple(x[part, ...] for part in range(parts))


def merge_heads(x: Array) -> Array:
    """[B, H, N, D] -> [B, N, H D]."""
    xp = namespace(x)
    batch, num_heads, count, depth = x.shape
    return xp.reshape(xp.permute_dims(x, (0, 2, 1, 3)), (batch, count, num_heads * depth))
