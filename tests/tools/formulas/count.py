"""The figures of `reforg.cost`, and the ledger behind them, by formulas alone."""

from dataclasses import asdict
from math import prod
from typing import Any

from formulas import shunted, vit
from formulas.ledger import Ledger, peak_bytes
from reforg.config import ITEM_BYTES, Config, VitConfig
from reforg.families import shapes


def booked(config: Config, images: tuple[int, int, int, int], item_bytes: int) -> tuple[Ledger, dict[str, int]]:
    """The ledger of a forward pass over images of that shape, and the tokens of its parts."""
    ledger = Ledger(shapes(config), item_bytes)
    given = ledger.made(images)
    return ledger, vit.book(ledger, given, config) if isinstance(config, VitConfig) else shunted.book(ledger, given, config)


def cost(config: Config, size: tuple[int, int], batch: int, dtype: str) -> dict[str, Any]:
    """Every figure of a `Cost`, under its name; layers as mappings."""
    item = ITEM_BYTES[dtype]
    ledger, tokens = booked(config, (batch, config.in_chans, *size), item)
    largest, largest_bytes = ledger.largest
    by_block: dict[str, int] = {}
    by_operation: dict[str, int] = {}
    for name, layer in ledger.layers.items():
        if layer.macs:
            block = _block(name)
            by_block[block] = by_block.get(block, 0) + layer.macs
            by_operation[layer.operation] = by_operation.get(layer.operation, 0) + layer.macs
    sizes = {name: prod(shape) for name, shape in shapes(config).items()}
    return {
        "params": sum(size for name, size in sizes.items() if "running" not in name),
        "macs": sum(by_block.values()),
        "by_block": by_block,
        "tokens": tokens,
        "by_operation": by_operation,
        "by_layer": {name: asdict(layer) for name, layer in ledger.layers.items()},
        "dtype": dtype,
        "weight_bytes": item * sum(sizes.values()),
        "activation_bytes": sum(layer.activation_bytes for layer in ledger.layers.values()),
        "largest": largest,
        "largest_bytes": largest_bytes,
        "peak_bytes": peak_bytes(ledger),
    }


def _block(name: str) -> str:
    """The part of the model that a layer belongs to: its first word, with its number where it is a block."""
    first, *rest = name.split(".")
    return ".".join([first, *rest[:1]]) if first.startswith("block") else first
