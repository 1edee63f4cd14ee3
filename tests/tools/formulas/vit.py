"""What ViT, DeiT, DeiT III and EViT compute, shape by shape. Shapes: B images, N tokens, C channels, H heads."""

from formulas.ledger import INDEX_BYTES, Ledger, Value, view
from reforg.config import VitConfig
from reforg.errors import ShapeError
from reforg.evit import Schedule


def book(ledger: Ledger, images: Value, config: VitConfig) -> dict[str, int]:
    """Book a forward pass over [B, in_chans, H, W]; the patches and fused tokens that enter each block's MLP."""
    height, width = images.shape[2:]
    if height % config.patch_size or width % config.patch_size:
        raise ShapeError(f"cost: image {height}x{width} does not divide into {config.patch_size}x{config.patch_size} patches")
    schedule, special, tokens = Schedule(config), config.num_special, {}
    x = _embed(ledger, images, config)
    for number in range(config.depth):
        path = f"blocks.{number}"
        x = _block(ledger, path, x, config, schedule.count(number, x.shape[1] - special))
        tokens[path] = x.shape[1] - special
    _classify(ledger, x if config.global_pool == "avg" else ledger.same("layer_norm", "norm", x), config)
    return tokens


def _embed(ledger: Ledger, images: Value, config: VitConfig) -> Value:
    """[B, in_chans, H, W] -> [B, S + N, C]: patches, special tokens, positions."""
    batch, width, special = images.shape[0], config.embed_dim, config.num_special
    maps = _stem(ledger, images, config)
    count = maps.shape[2] * maps.shape[3]
    patches = view(maps, batch, count, width)
    table = _positions(ledger, (maps.shape[2], maps.shape[3]), config)
    if config.no_embed_class:
        return ledger.made((batch, special + count, width), ledger.made(patches.shape, patches, table))
    return ledger.made((batch, special + count, width), ledger.made((batch, special + count, width), patches), table)


def _stem(ledger: Ledger, images: Value, config: VitConfig) -> Value:
    path = "patch_embed.proj"
    if config.stem == "patch":
        return ledger.conv2d(path, images, config.patch_size)
    x = ledger.same("batch_norm", f"{path}.1", ledger.conv2d(f"{path}.0", images, 4))
    for gelu in (2, 5):
        x = ledger.conv2d(f"{path}.{gelu + 1}", ledger.same("gelu", f"{path}.{gelu}", x), 2)
        x = ledger.same("batch_norm", f"{path}.{gelu + 2}", x)
    return x


def _positions(ledger: Ledger, grid: tuple[int, int], config: VitConfig) -> Value:
    """[1, S + N, C], or without S; made anew where the grid is not the config's."""
    table = ledger.weight("pos_embed")
    if grid == config.grid:
        return table
    maps = ledger.made((1, config.embed_dim, *grid), table)
    kept = 0 if config.no_embed_class else config.num_special
    resampled = ledger.made((1, kept + grid[0] * grid[1], config.embed_dim), maps)
    ledger.without_weights("resize", "pos_embed", resampled.shape, maps)
    return resampled


def _block(ledger: Ledger, path: str, x: Value, config: VitConfig, count: int) -> Value:
    """[B, S + N, C] -> [B, S + N', C]: attention, reorganization where `count` is below N, MLP."""
    updates, scores = [], []
    for branch in config.branches:
        normed = ledger.same("layer_norm", f"{path}.norm1{branch}", x)
        update, attended = _attention(ledger, f"{path}.attn{branch}", normed, config)
        updates.append(_scaled(ledger, path, 1, branch, update, config))
        scores.append(attended)
    x = _added(ledger, x, updates)
    if count < x.shape[1] - config.num_special:
        x = _reorganize(ledger, path, x, _mean_of(ledger, scores), count, config)
    updates = []
    for branch in config.branches:
        hidden = ledger.linear(f"{path}.mlp{branch}.fc1", ledger.same("layer_norm", f"{path}.norm2{branch}", x))
        update = ledger.linear(f"{path}.mlp{branch}.fc2", ledger.same("gelu", f"{path}.mlp{branch}.act", hidden))
        updates.append(_scaled(ledger, path, 2, branch, update, config))
    return _added(ledger, x, updates)


def _attention(ledger: Ledger, path: str, x: Value, config: VitConfig) -> tuple[Value, Value]:
    """[B, S + N, C] -> [B, S + N, C], class attention [B, N]."""
    (batch, count, width), heads = x.shape, config.num_heads
    head = view(ledger.linear(f"{path}.qkv", x), batch, heads, count, width // heads)
    context, probabilities = ledger.attention(path, head, head, head)
    scores = ledger.made((batch, count - config.num_special), probabilities)
    return ledger.linear(f"{path}.proj", view(context, batch, count, width)), scores


def _reorganize(ledger: Ledger, path: str, x: Value, scores: Value, count: int, config: VitConfig) -> Value:
    """[B, S + N, C], [B, N] -> [B, S + count, C], one more where the others are fused."""
    (batch, _, width), (_, candidates) = x.shape, scores.shape
    order = ledger.made(scores.shape, scores, item_bytes=INDEX_BYTES)
    ledger.without_weights("rank", f"{path}.kept", (batch, count), order)
    gathered = [ledger.made((batch, count, width), x, order)]
    parts = [x, gathered[0]]
    if config.fuse_token:
        rest = ledger.made((batch, candidates - count, width), x, order)
        weights = ledger.made((batch, candidates - count), scores, order)
        gathered += [rest, weights]
        parts.append(ledger.made((batch, 1, width), ledger.made(rest.shape, rest, weights)))
    kept = config.num_special + count + config.fuse_token
    result = ledger.made((batch, kept, width), *parts)
    ledger.without_weights("gather", f"{path}.reorganized", result.shape, *gathered)
    return result


def _scaled(ledger: Ledger, path: str, number: int, branch: str, x: Value, config: VitConfig) -> Value:
    return x if config.init_values is None else ledger.made(x.shape, x, ledger.weight(config.gain(path, number, branch)))


def _added(ledger: Ledger, x: Value, updates: list[Value]) -> Value:
    for update in updates:
        x = ledger.made(x.shape, x, update)
    return x


def _mean_of(ledger: Ledger, values: list[Value]) -> Value:
    """The mean of arrays of one shape: their sum, divided; a single one is itself."""
    if len(values) == 1:
        return values[0]
    return ledger.made(values[0].shape, _added(ledger, values[0], values[1:]))


def _classify(ledger: Ledger, x: Value, config: VitConfig) -> None:
    """[B, S + N, C] -> [B, num_classes], or [B, C] without heads."""
    batch, _, width = x.shape
    if config.global_pool == "avg":
        states = [ledger.same("layer_norm", "fc_norm", ledger.made((batch, width), x))]
    else:
        states = [view(x, batch, width)] * config.num_special
    if config.heads:
        states = [ledger.linear(head, state) for head, state in zip(config.heads, states, strict=True)]
    _mean_of(ledger, states)
