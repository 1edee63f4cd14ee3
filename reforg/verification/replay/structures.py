"""What a verification knows of a family beyond its forward pass: how its blocks are made. Of a family without a row it says less.

Without a row no value is recovered from those that follow it, and an order of rows is not looked for: a fault is then reported
under the first value that shows it. Everything else, comparison, limits and variants of single layers, comes from the forward pass.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from reforg.config import Config, ShuntedConfig, VitConfig

OUTPUTS = {"vit.embed": "embedded", "shunted.stem": "patch_embed1"}
"""The trace names of what units make that have no path of their own."""
BLOCKS = ("vit.block", "shunted.block")
"""The units whose sums tell one of their terms: see `recovery`."""
LAST_NORMS = {"vit.classify": "norm", "shunted.classify": "norm4"}
"""The norm before each classifier."""


@dataclass(frozen=True)
class Structure:
    """How a family's blocks are made.

    width: (config, path) -> channels of the tokens of a block. before: path -> the trace name of what comes into a block.
    branches: config -> endings of the names of parallel branches. gain: (config, path, number, branch) -> the weight by which an
    update is multiplied before it is added, None where it is not. drops: arguments of a block's piece -> whether it reorganizes.
    special: config -> how many tokens come before the patches; None where nothing reads an order off their rows.
    """

    width: Callable[[Any, str], int]
    before: Callable[[str], str]
    branches: Callable[[Any], tuple[str, ...]] = lambda _config: ("",)
    gain: Callable[[Any, str, int, str], str | None] = lambda _config, _path, _number, _branch: None
    drops: Callable[[tuple[Any, ...]], bool] = lambda _arguments: False
    special: Callable[[Any], int | None] = lambda _config: None


def _before_vit_block(path: str) -> str:
    number = int(path.rpartition(".")[2])
    return f"blocks.{number - 1}" if number else "embedded"


def _before_shunted_block(path: str) -> str:
    stage, _, number = path.rpartition(".")
    return f"{stage}.{int(number) - 1}" if int(number) else f"patch_embed{stage.removeprefix('block')}"


def _vit_gain(config: VitConfig, path: str, number: int, branch: str) -> str | None:
    return None if config.init_values is None else config.gain(path, number, branch)


def _vit_drops(arguments: tuple[Any, ...]) -> bool:
    _, tokens, config, count = arguments
    return bool(count < tokens.shape[1] - config.num_special)


STRUCTURES: dict[type[Config], Structure] = {
    VitConfig: Structure(
        width=lambda config, _path: int(config.embed_dim),
        before=_before_vit_block,
        branches=lambda config: tuple(config.branches),
        gain=_vit_gain,
        drops=_vit_drops,
        special=lambda config: int(config.num_special),
    ),
    ShuntedConfig: Structure(
        width=lambda config, path: int(config.embed_dims[int(path[len("block")]) - 1]),
        before=_before_shunted_block,
    ),
}


def structure_of(config: Config) -> Structure | None:
    """How the blocks of a config's family are made; None for a family without a row."""
    return STRUCTURES.get(type(config))
