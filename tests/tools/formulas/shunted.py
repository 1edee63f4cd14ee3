"""What the Shunted Transformer computes, shape by shape. Shapes: B images, N tokens, C channels, h heads of D channels."""

from formulas.ledger import Ledger, Value, view
from reforg.config import ShuntedConfig
from reforg.errors import ShapeError


def book(ledger: Ledger, images: Value, config: ShuntedConfig) -> dict[str, int]:
    """Book a forward pass over [B, in_chans, H, W]; the tokens that each stage has."""
    tokens, maps = {}, images
    for stage in range(4):
        name = str(stage + 1)
        maps = _stem(ledger, maps, config) if stage == 0 else ledger.conv2d(f"patch_embed{name}.proj", maps, 2, 1)
        batch, width, *grid = maps.shape
        x = ledger.same("layer_norm", f"patch_embed{name}.norm", _tokens(maps))
        for number in range(config.depths[stage]):
            x = _block(ledger, f"block{name}.{number}", x, (grid[0], grid[1]), config, stage)
        x = ledger.same("layer_norm", f"norm{name}", x)
        maps = view(x, batch, width, *grid)
        tokens[f"stage{name}"] = grid[0] * grid[1]
    pooled = ledger.made((batch, width), x)
    if config.num_classes:
        ledger.linear("head", pooled)
    return tokens


def _stem(ledger: Ledger, images: Value, config: ShuntedConfig) -> Value:
    """[B, in_chans, H, W] -> [B, C, H / 4, W / 4]."""
    x = images
    for position in range(0, 3 * config.num_conv + 3, 3):
        path = f"patch_embed1.conv.{position}"
        x = ledger.conv2d(path, x, 1, 1) if position else ledger.conv2d(path, x, 2, 3)
        x = ledger.same("batch_norm", f"patch_embed1.conv.{position + 1}", x)
        x = ledger.same("relu", f"patch_embed1.conv.{position + 2}", x)
    path = f"patch_embed1.conv.{3 * config.num_conv + 3}"
    _check_covered(path, x.shape[2], x.shape[3], 2)
    return ledger.conv2d(path, x, 2)


def _block(ledger: Ledger, path: str, x: Value, grid: tuple[int, int], config: ShuntedConfig, stage: int) -> Value:
    """[B, N, C] -> [B, N, C]."""
    normed = ledger.same("layer_norm", f"{path}.norm1", x)
    attend = _plain_attention if config.reductions(stage) == (1,) else _reduced_attention
    context = attend(ledger, f"{path}.attn", normed, grid, config, stage)
    x = ledger.made(x.shape, x, ledger.linear(f"{path}.attn.proj", context))
    y = ledger.linear(f"{path}.mlp.fc1", ledger.same("layer_norm", f"{path}.norm2", x))
    detail = ledger.depthwise_conv2d(f"{path}.mlp.dwconv.dwconv", _maps(y, grid))
    hidden = ledger.same("gelu", f"{path}.mlp.act", ledger.made(y.shape, y, detail))
    return ledger.made(x.shape, x, ledger.linear(f"{path}.mlp.fc2", hidden))


def _plain_attention(ledger: Ledger, path: str, x: Value, grid: tuple[int, int], config: ShuntedConfig, stage: int) -> Value:
    """[B, N, C] -> [B, N, C]: all heads over all tokens, and the values' detail beside what they see."""
    queries, kv = ledger.linear(f"{path}.q", x), ledger.linear(f"{path}.kv", x)
    values = view(kv, *x.shape)
    local = ledger.depthwise_conv2d(f"{path}.local_conv", _maps(values, grid))
    context = _heads(ledger, f"{path}.branches.0", queries, kv, values, config.num_heads[stage])
    added = ledger.made(x.shape, context, local)
    return ledger.made(x.shape, added)


def _reduced_attention(ledger: Ledger, path: str, x: Value, grid: tuple[int, int], config: ShuntedConfig, stage: int) -> Value:
    """[B, N, C] -> [B, N, C]: each half of the heads over its own merged tokens, whose values have their detail added."""
    batch, count, width = x.shape
    queries = ledger.linear(f"{path}.q", x)
    ratios = list(enumerate(config.reductions(stage), 1))
    merged = [_merged(ledger, path, _maps(x, grid), branch, ratio) for branch, ratio in ratios]
    projected = [ledger.linear(f"{path}.kv{branch}", source) for (branch, _), source in zip(ratios, merged, strict=True)]
    contexts = []
    for (branch, ratio), kv in zip(ratios, projected, strict=True):
        half = view(kv, batch, kv.shape[1], width // 2)
        local = ledger.depthwise_conv2d(f"{path}.local_conv{branch}", _maps(half, (grid[0] // ratio, grid[1] // ratio)))
        enhanced = ledger.made(half.shape, half, local)
        own = view(queries, batch, count, width // 2)
        contexts.append(_heads(ledger, f"{path}.branches.{branch - 1}", own, kv, enhanced, config.num_heads[stage] // 2))
    return ledger.made(x.shape, *contexts)


def _merged(ledger: Ledger, path: str, maps: Value, branch: int, ratio: int) -> Value:
    """[B, C, H, W] -> [B, (H / r)(W / r), C]."""
    _check_covered(f"{path}.sr{branch}", maps.shape[2], maps.shape[3], ratio)
    x = ledger.same("layer_norm", f"{path}.norm{branch}", _tokens(ledger.conv2d(f"{path}.sr{branch}", maps, ratio)))
    return ledger.same("gelu", f"{path}.act@{branch - 1}", x)


def _heads(ledger: Ledger, path: str, queries: Value, keys: Value, values: Value, heads: int) -> Value:
    """Queries [B, N, h D], memory of keys, values [B, M, h D] -> context [B, N, h D]."""
    batch, count, width = queries.shape
    near = view(queries, batch, heads, count, width // heads)
    far = (batch, heads, values.shape[1], width // heads)
    context, _ = ledger.attention(path, near, view(keys, *far), view(values, *far))
    return view(context, *queries.shape)


def _tokens(maps: Value) -> Value:
    batch, width, height, breadth = maps.shape
    return view(maps, batch, height * breadth, width)


def _maps(tokens: Value, grid: tuple[int, int]) -> Value:
    return view(tokens, tokens.shape[0], tokens.shape[2], *grid)


def _check_covered(path: str, height: int, width: int, ratio: int) -> None:
    """The forward pass refuses such an image, so it has no cost."""
    if min(height, width) < ratio:
        raise ShapeError(f"shunted: {path} gets {height}x{width} and would leave nothing; the image is too small")
