"""Small torch modules of every family, clean and with one fault each, and how torch exports them to ONNX."""

import importlib.util
import logging
import math
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from types import MethodType, ModuleType
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional

import reforg

EXPORTERS = ("torchscript", "dynamo")
BATCH = 3  # images; not 1 or 2, which exporters tend to bake in


def literal_modules() -> ModuleType:
    """The modules of tests/oracle/literal.py, in forms that both exporters take: no ".mT", no loop over images."""
    place = Path(__file__).parents[2] / "oracle" / "literal.py"
    spec = importlib.util.spec_from_file_location("literal_for_onnx", place)
    found = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(found)
    found.tokens_of = lambda maps: maps.flatten(2).transpose(1, 2)
    found.maps_of = lambda tokens, grid: tokens.transpose(1, 2).reshape(-1, tokens.shape[2], *grid)
    found.Block.fewer = fewer
    return found


def taken(tokens: Tensor, indices: Tensor) -> Tensor:
    """[B, N, C], [B, K] -> [B, K, C]."""
    return tokens.gather(1, indices[:, :, None].expand(-1, -1, tokens.shape[2]))


def fewer(block: nn.Module, x: Tensor, scores: Tensor, count: int) -> Tensor:
    """Kept tokens and the complement, both cut from one ranking of all tokens."""
    special, patches = x[:, : block.special], x[:, block.special :]
    order = scores.topk(scores.shape[1], dim=1, largest=True, sorted=True).indices
    kept, dropped = order[:, :count], order[:, count:]
    return torch.cat([special, taken(patches, kept), *fused_token(block, patches, scores, dropped)], dim=1)


def fused_token(block: nn.Module, patches: Tensor, scores: Tensor, dropped: Tensor) -> list[Tensor]:
    """The sum of the dropped tokens, each times its attention; nothing where the block does not fuse."""
    weighted = taken(patches, dropped) * scores.gather(1, dropped)[:, :, None]
    return [weighted.sum(dim=1, keepdim=True)] if block.fuse else []


literal = literal_modules()


@dataclass(frozen=True)
class Family:
    """How a micro module is built, under which name and config reforg has it, what it takes, and its faults.

    faults: name -> (what breaks the module, the trace name under which that must be reported).
    """

    name: str
    build: Callable[[], nn.Module]
    shape: tuple[int, ...]
    config: dict[str, Any]
    faults: dict[str, tuple[Callable[[nn.Module], None], str]] = field(default_factory=dict)


def module_of(family: Family, fault: str | None = None) -> nn.Module:
    """The module with every weight and statistic drawn anew, so that none stays at 0 or 1, and with a fault."""
    module = family.build().eval()
    generator = torch.Generator().manual_seed(5)
    for name, tensor in module.state_dict().items():
        if tensor.is_floating_point():
            noise = torch.randn(tensor.shape, generator=generator)
            matrix = tensor.ndim in (2, 4)
            tensor.copy_(noise / math.sqrt(math.prod(tensor.shape[1:])) if matrix else 0.2 * noise + name.endswith("weight"))
        if name.endswith("running_var"):
            tensor.copy_(0.5 + tensor.abs())
    if fault is not None:
        family.faults[fault][0](module)
    return module


def model_of(family: Family, module: nn.Module) -> reforg.Model:
    """The reference with a clean module's weights."""
    weights = {name: tensor.double().numpy() for name, tensor in module.state_dict().items() if tensor.ndim}
    return reforg.create_model(family.name, weights=weights, dtype="float64", ops="reference", **family.config)


def images_of(family: Family) -> np.ndarray:
    return np.random.default_rng(7).standard_normal((BATCH, *family.shape), dtype=np.float32)


def export(module: nn.Module, images: np.ndarray, path: Path, exporter: str, **options: Any) -> Path:
    """Write the module to a file, for any number of images."""
    given = (torch.from_numpy(images),)
    with quiet():
        if exporter == "dynamo":
            options = {"dynamic_shapes": ({0: torch.export.Dim("batch")},), "verbose": False} | options
            torch.onnx.export(module, given, path, dynamo=True, **options)
        else:
            options = {"dynamic_axes": {"images": {0: "batch"}}, "input_names": ["images"]} | options
            torch.onnx.export(module, given, path, dynamo=False, **options)
    return path


@contextmanager
def quiet() -> Iterator[None]:
    """Without the exporters' warnings on what they trace, and on what is not installed."""
    loggers = [logging.getLogger(name) for name in ("torch.onnx", "onnxscript", "onnx_ir")]
    levels = [logger.level for logger in loggers]
    for logger in loggers:
        logger.setLevel(logging.CRITICAL)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        for logger, level in zip(loggers, levels, strict=True):
            logger.setLevel(level)


def fused_attention(attn: nn.Module, x: Tensor) -> tuple[Tensor, Tensor | None]:
    """Attention by torch's one function for it, as timm has it by default."""
    heads = attn.qkv(x).reshape(x.shape[0], x.shape[1], 3, attn.heads, -1).permute(2, 0, 3, 1, 4)
    context = functional.scaled_dot_product_attention(*heads.unbind(0))
    merged = context.transpose(1, 2).reshape(x.shape)
    return attn.proj(merged), torch.zeros(x.shape[0], x.shape[1] - attn.special)


def with_fused_attention(module: nn.Module) -> nn.Module:
    for block in module.blocks:
        block.attn.forward = MethodType(fused_attention, block.attn)
    return module


def vit(grid: int, patch: int, rates: tuple[float, ...], fuse: bool = False, **options: Any) -> nn.Module:
    return literal.VisionTransformer((grid, grid), patch, 3, 10, 24, 3, 96, rates, fuse, **options)


def micro(**settings: Any) -> dict[str, Any]:
    return {"img_size": 24, "patch_size": 4, "num_classes": 10, "embed_dim": 24, "depth": 3, "num_heads": 3} | settings


def attribute(path: str, name: str, value: Any) -> Callable[[nn.Module], None]:
    """The fault that an attribute of a submodule is another."""
    return lambda module: setattr(module.get_submodule(path), name, value)


def method(path: str, name: str, function: Callable[..., Any]) -> Callable[[nn.Module], None]:
    """The fault that a method of a submodule is another."""

    def broken(module: nn.Module) -> None:
        owner = module.get_submodule(path)
        setattr(owner, name, MethodType(function, owner))

    return broken


def replaced(path: str, part: nn.Module) -> Callable[[nn.Module], None]:
    """The fault that a submodule is another."""
    return lambda module: module.set_submodule(path, part)


def mixed(
    scale: Callable[[Tensor], float] = lambda queries: queries.shape[3] ** -0.5, axis: int = 3, merged: bool = True
) -> Callable[..., Any]:
    """A wrong `Mix.mix`: by scale, by the axis of the softmax, or with heads merged as they lie."""

    def mix(attn: nn.Module, queries: Tensor, keys: Tensor, values: Tensor) -> tuple[Tensor, Tensor]:
        probabilities = (queries @ keys.transpose(2, 3) * scale(queries)).softmax(dim=axis)
        context = probabilities @ values
        batch, heads, count, depth = context.shape
        whole = context.transpose(1, 2) if merged else context
        return whole.reshape(batch, count, heads * depth), probabilities

    return mix


def averaging_fewer(block: nn.Module, x: Tensor, scores: Tensor, count: int) -> Tensor:
    """The fused token divided by the sum of the attentions."""
    special, patches = x[:, : block.special], x[:, block.special :]
    order = scores.topk(scores.shape[1], dim=1).indices
    kept, dropped = order[:, :count], order[:, count:]
    weights = scores.gather(1, dropped)[:, :, None]
    token = (taken(patches, dropped) * weights).sum(dim=1, keepdim=True) / weights.sum(dim=1, keepdim=True)
    return torch.cat([special, taken(patches, kept), token], dim=1)


def least_fewer(block: nn.Module, x: Tensor, scores: Tensor, count: int) -> Tensor:
    """The least attentive tokens are kept."""
    return fewer(block, x, -scores, count)


def from_normed(block: nn.Module, x: Tensor) -> tuple[Tensor, Tensor]:
    """The residual of attention starts from the normed tokens."""
    normed = block.norm1(x)
    update, scores = block.attn(normed)
    return normed + update, scores[:, :, None]


def one_after_the_other(block: nn.Module, x: Tensor) -> tuple[Tensor, Tensor]:
    """Parallel branches, of which the second reads what the first has made."""
    first, scores = block.attn(block.norm1(x))
    x = x + block.scaled(1, "", first)
    second, _ = block.attn1(block.norm11(x))
    return x + block.scaled(1, "1", second), scores[:, :, None].expand(-1, -1, 2)


def unscaled(block: nn.Module, number: int, suffix: str, x: Tensor) -> Tensor:
    """Without LayerScale."""
    return x


def patches_by_column(embedding: nn.Module, images: Tensor) -> Tensor:
    return literal.tokens_of(embedding.proj(images).transpose(2, 3))


def positions_for_all(module: nn.Module, images: Tensor) -> Tensor:
    """Positions of the patches, of which the class token gets the first."""
    tokens = module.cls_token.expand(images.shape[0], -1, -1) + module.pos_embed[:, :1]
    return torch.cat([tokens, module.patch_embed(images) + module.pos_embed], dim=1)


def keys_before_queries(attn: nn.Module, x: Tensor) -> tuple[Tensor, Tensor]:
    keys, queries, values = (part.unflatten(2, (attn.heads, -1)).transpose(1, 2) for part in attn.qkv(x).chunk(3, dim=2))
    context, probabilities = attn.mix(queries, keys, values)
    return attn.proj(context), probabilities[:, :, 0, attn.special :].mean(dim=1)


def scores_of_one_head(attn: nn.Module, x: Tensor) -> tuple[Tensor, Tensor]:
    queries, keys, values = (part.unflatten(2, (attn.heads, -1)).transpose(1, 2) for part in attn.qkv(x).chunk(3, dim=2))
    context, probabilities = attn.mix(queries, keys, values)
    return attn.proj(context), probabilities[:, 0, 0, attn.special :]


def one_less(block: nn.Module, candidates: int, keep_rate: Any, tokens: Any) -> int:
    """The count rounded down."""
    return math.floor(block.rate * candidates)


def heads_summed(module: nn.Module, images: Tensor) -> Tensor:
    x = module.embedded(module.embed(images))
    for block in module.blocks:
        x = block(x)
    x = module.norm(x)
    return module.head(x[:, 0]) + module.head_dist(x[:, 1])


def both_heads_of_the_class_token(module: nn.Module, images: Tensor) -> Tensor:
    x = module.embedded(module.embed(images))
    for block in module.blocks:
        x = block(x)
    x = module.norm(x)
    return (module.head(x[:, 0]) + module.head_dist(x[:, 0])) / 2


def without_detail(mlp: nn.Module, x: Tensor, grid: tuple[int, int]) -> Tensor:
    return mlp.fc2(mlp.act(mlp.fc1(x)))


def without_local(
    attn: nn.Module,
    number: int,
    queries: Tensor,
    maps: Tensor,
    reduction: nn.Module,
    norm: nn.Module,
    kv: nn.Module,
    local: nn.Module,
) -> Tensor:
    keys, values = kv(attn.act(norm(literal.tokens_of(reduction(maps))))).chunk(2, dim=2)
    parts = (part.unflatten(2, (attn.half, -1)).transpose(1, 2) for part in (queries, keys, values))
    return attn.branches[number].mix(*parts)[0]


TANH = nn.GELU(approximate="tanh")

EVIT_FUSED = Family(
    "evit_small_patch16_224",
    lambda: vit(6, 4, (1, 0.7, 0.7), fuse=True),
    (3, 24, 24),
    micro(drop_loc=(1, 2), keep_rate=0.7, fuse_token=True),
    {
        "tanh": (replaced("blocks.1.mlp.act", TANH), "blocks.1.mlp.act"),
        "epsilon": (attribute("blocks.1.norm2", "eps", 1e-3), "blocks.1.norm2"),
        "no bias": (attribute("blocks.1.attn.qkv", "bias", None), "blocks.1.attn.qkv"),
        "fused token divided": (method("blocks.1", "fewer", averaging_fewer), "blocks.1.reorganized"),
        "one head's scores": (method("blocks.1.attn", "forward", scores_of_one_head), "blocks.1.attn.cls_attention"),
    },
)
EVIT_DROPPED = Family(
    "evit_small_patch16_224",
    lambda: vit(6, 4, (1, 0.7, 0.7)),
    (3, 24, 24),
    micro(drop_loc=(1, 2), keep_rate=0.7, fuse_token=False),
    {
        "least attentive": (method("blocks.1", "fewer", least_fewer), "blocks.1.reorganized"),
        "rounded down": (method("blocks.2", "count", one_less), "blocks.2.reorganized"),
        "whole width's scale": (method("blocks.0.attn", "mix", mixed(lambda queries: 24**-0.5)), "blocks.0.attn.scores"),
        "softmax over queries": (method("blocks.0.attn", "mix", mixed(axis=2)), "blocks.0.attn.probs"),
        "heads not merged": (method("blocks.1.attn", "mix", mixed(merged=False)), "blocks.1.attn.proj"),
    },
)
DEIT3 = Family(
    "deit3_small_patch16_224",
    lambda: vit(6, 4, (1, 1, 1), gains=True, bare_class=True),
    (3, 24, 24),
    micro(),
    {
        "no LayerScale": (method("blocks.1", "scaled", unscaled), "blocks.1.attended"),
        "class token's position": (method("", "embed", positions_for_all), "embedded"),
        "patches by column": (method("patch_embed", "forward", patches_by_column), "patch_embed"),
        "residual of the norm": (method("blocks.1", "attention", from_normed), "blocks.1.attended"),
        # Square scores with axes exchanged are read as another layout of the right ones, so that the next value shows the fault.
        "keys first": (method("blocks.2.attn", "forward", keys_before_queries), "blocks.2.attn.probs"),
    },
)
PARALLEL = Family(
    "deit3_small_patch16_224",
    lambda: vit(6, 4, (1, 1, 1), gains=True, bare_class=True, branches=2),
    (3, 24, 24),
    micro(parallel=2),
    {
        "not parallel": (method("blocks.0", "attention", one_after_the_other), "blocks.0.norm11"),
        "tanh": (replaced("blocks.1.mlp1.act", TANH), "blocks.1.mlp1.act"),
        "epsilon": (attribute("blocks.2.norm21", "eps", 1e-3), "blocks.2.norm21"),
        "no bias": (attribute("blocks.1.attn1.proj", "bias", None), "blocks.1.attn1.proj"),
        "no LayerScale": (method("blocks.2", "scaled", unscaled), "blocks.2.attended"),
    },
)
HMLP = Family(
    "deit3_small_patch16_224",
    lambda: vit(4, 16, (1, 1), gains=True, bare_class=True, stem="hmlp"),
    (3, 64, 64),
    micro(img_size=64, patch_size=16, stem="hmlp", depth=2),
    {
        "batch norm's epsilon": (attribute("patch_embed.proj.1", "eps", 0.1), "patch_embed.proj.1"),
        "no GELU": (replaced("patch_embed.proj.2", nn.Identity()), "patch_embed.proj.2"),
        "tanh": (replaced("patch_embed.proj.5", TANH), "patch_embed.proj.5"),
        "no bias": (attribute("patch_embed.proj.6", "bias", None), "patch_embed.proj.7"),
        "no norm": (replaced("norm", nn.Identity()), "norm"),
    },
)
VIT = Family(
    "vit_tiny_patch16_224",
    lambda: with_fused_attention(vit(6, 4, (1, 1, 1))),
    (3, 24, 24),
    micro(),
    {
        "tanh": (replaced("blocks.0.mlp.act", TANH), "blocks.0.mlp.act"),
        "no activation": (replaced("blocks.2.mlp.act", nn.Identity()), "blocks.2.mlp.act"),
        "no norm": (replaced("blocks.1.norm1", nn.Identity()), "blocks.1.norm1"),
        "no bias": (attribute("blocks.1.mlp.fc2", "bias", None), "blocks.1.mlp.fc2"),
        "epsilon": (attribute("norm", "eps", 1e-3), "norm"),
    },
)
DISTILLED = Family(
    "deit_tiny_distilled_patch16_224",
    lambda: vit(6, 4, (1, 1), distilled=True),
    (3, 24, 24),
    micro(depth=2),
    {
        "heads summed": (method("", "forward", heads_summed), "logits"),
        "one token for both heads": (method("", "forward", both_heads_of_the_class_token), "head_dist"),
        "no bias": (attribute("head", "bias", None), "head"),
        "whole width's scale": (method("blocks.1.attn", "mix", mixed(lambda queries: 24**-0.5)), "blocks.1.attn.scores"),
        "heads not merged": (method("blocks.0.attn", "mix", mixed(merged=False)), "blocks.0.attn.proj"),
    },
)
SHUNTED = Family(
    "shunted_t",
    lambda: literal.ShuntedTransformer(
        3, 10, (64, 32, 48, 64), (1, 1, 1, 1), (2, 2, 4, 4), (64, 64, 96, 128), (8, 4, 2, 1), 1, qkv_bias=True
    ),
    (3, 64, 96),
    {
        "num_classes": 10, "embed_dims": (64, 32, 48, 64), "num_heads": (2, 2, 4, 4), "mlp_ratios": (1, 2, 2, 2),
        "depths": (1, 1, 1, 1), "sr_ratios": (8, 4, 2, 1), "num_conv": 1,
    },
    {
        "no detail": (method("block2.0.mlp", "forward", without_detail), "block2.0.mlp.act"),
        "no local convolution": (method("block1.0.attn", "group", without_local), "block1.0.attn.branches.0.context"),
        "no ReLU": (replaced("patch_embed1.conv.2", nn.Identity()), "patch_embed1.conv.2"),
        "epsilon": (attribute("block3.0.attn.norm2", "eps", 1e-2), "block3.0.attn.norm2"),
        "tanh": (replaced("block4.0.mlp.act", TANH), "block4.0.mlp.act"),
    },
)  # fmt: skip
FAMILIES = {
    "evit fused": EVIT_FUSED, "evit dropped": EVIT_DROPPED, "deit3": DEIT3, "parallel": PARALLEL, "hmlp": HMLP, "vit": VIT,
    "distilled": DISTILLED, "shunted": SHUNTED,
}  # fmt: skip
