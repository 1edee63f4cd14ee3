"""Faults of a block's sums: residuals, LayerScale, parallel branches."""

from collections.abc import Callable
from typing import Any

from torch import Tensor

from faults.table import fault

PLACES = {"evit": ("blocks.0", "blocks.4"), "deit": ("blocks.0", "blocks.2"), "deit3": ("blocks.0", "blocks.2"),
          "shunted": ("block1.0", "block3.1", "block4.0")}  # fmt: skip
REORGANIZING = {"evit": ("blocks.3",), "evit drop": ("blocks.1",)}
SCALED = {"deit3": ("blocks.0", "blocks.2"), "hmlp": ("blocks.1",)}
PARALLEL = {"parallel": ("blocks.0", "blocks.2")}
SUM1, SUM2 = "{}.norm2", "{}"  # the first outputs that show either sum

Join = Callable[[Tensor, Tensor], Tensor]


def _method(name: str, replacement: Any) -> Any:
    return lambda module, place: setattr(module.get_submodule(place), name, replacement)


for _slug, _label, _join, _pattern in (
    ("missing", "missing", lambda x, update: update, r"residual missing"),
    ("doubled", "doubled", lambda x, update: x + x + update, r"residual (added twice|doubled)"),
):
    fault(f"residual1-{_slug}", f"attention's residual {_label}", PLACES | REORGANIZING, SUM1, _pattern + r".*attention", ("{}",))(
        _method("join1", _join)
    )
    fault(f"residual2-{_slug}", f"MLP's residual {_label}", PLACES | REORGANIZING, SUM2, _pattern + r".*MLP")(_method("join2", _join))


def _gaining(number: int, gain: Callable[[Any, Tensor], Tensor]) -> Any:
    def plant(module: Any, place: str) -> None:
        block = module.get_submodule(place)
        setattr(block, f"gain{number}", lambda update: gain(block, update))

    return plant


fault("scale1-missing", "first LayerScale missing", SCALED, SUM1, r"LayerScale missing", ("{}",))(
    _gaining(1, lambda block, update: update)
)
fault("scale2-missing", "second LayerScale missing", SCALED, SUM2, r"LayerScale missing")(_gaining(2, lambda block, update: update))
fault("scale1-plus", "first LayerScale as 1 + gamma", SCALED, SUM1, r"LayerScale.*1 \+", ("{}",))(
    _gaining(1, lambda block, update: update * (1 + block.gamma_1))
)
fault("scale2-plus", "second LayerScale as 1 + gamma", SCALED, SUM2, r"LayerScale.*1 \+")(
    _gaining(2, lambda block, update: update * (1 + block.gamma_2))
)


@fault("scales-swapped", "gamma_1 and gamma_2 swapped", SCALED, SUM1, r"LayerScale swapped", ("{}",))
def scales_swapped(module: Any, place: str) -> None:
    block = module.get_submodule(place)
    block.gamma_1, block.gamma_2 = block.gamma_2, block.gamma_1


@fault("attentions-in-turn", "parallel attentions one after the other", PARALLEL, "{}.norm11", r"one after the other", (SUM1, "{}"))
def attentions_in_turn(module: Any, place: str) -> None:
    block = module.get_submodule(place)

    def attend(x: Tensor) -> Tensor:
        x = x + block.gamma_1 * block.attn(block.norm1(x))
        return x + block.gamma_1_1 * block.attn1(block.norm11(x))

    block.attend = attend


@fault("mlps-in-turn", "parallel MLPs one after the other", PARALLEL, "{}.norm21", r"one after the other", ("{}",))
def mlps_in_turn(module: Any, place: str) -> None:
    block = module.get_submodule(place)

    def feed(x: Tensor) -> Tensor:
        x = x + block.gamma_2 * block.mlp(block.norm2(x))
        return x + block.gamma_2_1 * block.mlp1(block.norm21(x))

    block.feed = feed


def _attending(first: float, second: float) -> Any:
    def plant(module: Any, place: str) -> None:
        block = module.get_submodule(place)

        def attend(x: Tensor) -> Tensor:
            one, other = block.attn(block.norm1(x)), block.attn1(block.norm11(x))
            return x + first * block.gamma_1 * one + second * block.gamma_1_1 * other

        block.attend = attend

    return plant


def _feeding(first: float, second: float) -> Any:
    def plant(module: Any, place: str) -> None:
        block = module.get_submodule(place)

        def feed(x: Tensor) -> Tensor:
            one, other = block.mlp(block.norm2(x)), block.mlp1(block.norm21(x))
            return x + first * block.gamma_2 * one + second * block.gamma_2_1 * other

        block.feed = feed

    return plant


for _slug, _label, _shares, _pattern in (
    ("second-left-out", "the second left out", (1.0, 0.0), r"second .*left out"),
    ("first-left-out", "the first left out", (0.0, 1.0), r"first .*left out"),
    ("averaged", "their mean instead of their sum", (0.5, 0.5), r"mean"),
):
    fault(f"attentions-{_slug}", f"parallel attentions: {_label}", PARALLEL, SUM1, _pattern, (f"{{}}.norm21", "{}"))(
        _attending(*_shares)
    )
    fault(f"mlps-{_slug}", f"parallel MLPs: {_label}", PARALLEL, SUM2, _pattern)(_feeding(*_shares))
