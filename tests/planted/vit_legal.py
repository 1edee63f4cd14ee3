"""What is no fault: the same model of the ViT family computed in another order, or with its tokens in one."""

from collections.abc import Callable
from typing import Any

import torch
from planting import FAMILIES, record
from torch import Tensor, nn
from torch.nn import functional
from vit_faults import EVITS
from vit_modules import Attention, Block, Mlp

import reforg


class ComposedNorm(nn.Module):
    """A layer norm made of its parts, in float32 at least."""

    def __init__(self, norm: nn.LayerNorm) -> None:
        super().__init__()
        self.weight, self.bias, self.eps = norm.weight, norm.bias, norm.eps

    def forward(self, x: Tensor) -> Tensor:
        wide = x.float() if x.itemsize < 4 else x
        centred = wide - wide.mean(dim=-1, keepdim=True)
        normed = centred / torch.sqrt((centred * centred).mean(dim=-1, keepdim=True) + self.eps)
        return (normed * self.weight + self.bias).to(x.dtype)


class ComposedGelu(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return x * 0.5 * (1 + torch.erf(x * 2**-0.5))


def in_image_order(block: Block) -> None:
    usual = block.chosen
    block.chosen = lambda scores, count: usual(scores, count).sort(dim=1).values


def fused_first(block: Block) -> None:
    """Right behind the class token."""
    usual = block.reorganized

    def reorganized(before: Tensor, x: Tensor, scores: Tensor, count: int) -> Tensor:
        tokens = usual(before, x, scores, count)
        if not block.fuses:
            return tokens
        return torch.cat([tokens[:, : block.special], tokens[:, -1:], tokens[:, block.special : -1]], dim=1)

    block.reorganized = reorganized


def scaled_before(attention: Attention) -> None:
    attention.scores = lambda queries, keys: (queries * attention.scale) @ keys.transpose(-2, -1)


def in_one(attention: Attention) -> None:
    attention.mix = lambda queries, keys, values, probabilities: functional.scaled_dot_product_attention(
        queries, keys, values, scale=attention.scale
    )


def composed_norms(block: Block) -> None:
    for name, part in list(block.named_children()):
        if isinstance(part, nn.LayerNorm):
            setattr(block, name, ComposedNorm(part))


def composed_gelu(mlp: Mlp) -> None:
    mlp.act = ComposedGelu()


def everywhere(kind: type[nn.Module], change: Callable[[Any], None]) -> Callable[[nn.Module], None]:
    def changed(module: nn.Module) -> None:
        for part in list(module.modules()):
            if isinstance(part, kind):
                change(part)

    return changed


LEGAL = {  # what is done, and in which families
    "kept tokens in image order": (everywhere(Block, in_image_order), EVITS),
    "fused token right after the class token": (everywhere(Block, fused_first), EVITS[:1]),
    "(q * s) @ k^T": (everywhere(Attention, scaled_before), tuple(FAMILIES)),
    "scaled_dot_product_attention": (everywhere(Attention, in_one), tuple(FAMILIES)),
    "composed layer norm": (everywhere(Block, composed_norms), tuple(FAMILIES)),
    "composed GELU": (everywhere(Mlp, composed_gelu), tuple(FAMILIES)),
}


def legal(what: str, family: str, dtype: str) -> reforg.Report:
    """What verify says of a legal variant; under autocast it runs the module, whose weights are float32, itself."""
    micro, mixed = FAMILIES[family], dtype.startswith("autocast-")
    module = micro.module("float32" if mixed else dtype)
    LEGAL[what][0](module)
    candidate = module if mixed else record(module, torch.from_numpy(micro.images()).to(getattr(torch, dtype)))
    return reforg.verify(candidate, micro.reference(), micro.images(), dtype=dtype)
