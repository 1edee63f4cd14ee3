"""Two faults of the ViT family at once: in different blocks, which must both be found, and in the same block."""

from typing import Any

from planting import Fault, exceeds, own_effect
from torch import nn
from vit_faults import FAULTS

KNOWN = {(fault.family, fault.id): fault for fault in FAULTS}
Place = tuple[int, str] | int | None


def together(family: str, one: str, place: Place, other: str, other_place: Place) -> Fault:
    """Both faults, the one that runs first named first."""
    first, second = KNOWN[family, one], KNOWN[family, other]

    def plant(module: nn.Module, _: Any) -> None:
        first.plant(module, place)
        second.plant(module, other_place)

    return Fault(
        f"{one}+{other}",
        family,
        f"{first.label}; {second.label}",
        plant,
        (f"{place}, {other_place}",),
        lambda _: first.name(place),
        first.explanation,
        (second.name(other_place), second.explanation),
        effect=of_the_smaller,
    )


def of_the_smaller(fault: Fault, place: Any, dtype: str) -> tuple[float, float]:
    """The smaller one's effect: a pair counts only where both are larger than rounding."""
    names = (fault.name(place), fault.pair[0]) if fault.pair else (fault.name(place),)
    return min((own_effect(fault, place, dtype, name) for name in names), key=lambda effect: exceeds(*effect))


APART = (
    together("evit", "gelu-tanh", (1, ""), "norm1-eps-1e-05", (4, "")),
    together("evit", "fused-normalised", 1, "fused-average", 3),
    together("evit", "maximum-of-heads", 1, "gelu-relu", (4, "")),
    together("evit", "scale-missing", (1, ""), "count-floor", 3),
    together("evit", "positions-rolled", None, "heads-rolled", (4, "")),
    together("evit", "channels-reversed", None, "fused-missing", 3),
    together("evit-drop", "off-by-one", 1, "column-for-row", 3),
    together("evit-drop", "fused-extra", 1, "kv-exchanged", (4, "")),
    together("deit", "qkv-no-bias", (0, ""), "proj-transposed", (2, "")),
    together("distilled", "mlp-no-residual", (0, ""), "heads-summed", None),
    together("deit3", "attention-no-gain", (0, ""), "mlp-gain-plus-1", (2, "")),
    together("deit3", "gains-swapped", (0, ""), "no-last-norm", None),
    together("parallel", "attentions-in-turn", (0, ""), "mlp-first-left-out", (2, "1")),
    together("hmlp", "batch-norm-eps", 1, "attention-residual-twice", (2, "")),
)
SAME = (
    together("evit", "scale-missing", (1, ""), "gelu-tanh", (1, "")),
    together("evit", "maximum-of-heads", 1, "gelu-sigmoid", (1, "")),
    together("evit", "norm1-eps-0.001", (1, ""), "fused-normalised", 1),
    together("deit3", "heads-reversed", (0, ""), "mlp-no-gain", (0, "")),
    together("deit3", "attention-no-residual", (2, ""), "fc2-no-bias", (2, "")),
    together("deit", "attention-residual-twice", (0, ""), "mlp-no-residual", (0, "")),
)
PAIRS = (*APART, *SAME)
