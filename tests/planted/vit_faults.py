"""Faults of the ViT family: ViT, DeiT, distilled DeiT, DeiT III whole, with parallel branches and with the hMLP stem, EViT."""

import math
import re
from collections.abc import Callable, Iterable, Iterator
from functools import partial
from typing import Any

import numpy as np
import torch
from planting import FAMILIES, UNITS, Family, Fault, faulty, forced, ran, register, size_of_rows, spelled
from torch import Tensor, nn
from torch.nn import functional
from vit_modules import VisionTransformer

Plant = Callable[[Any, Any], None]
MICRO = {"img_size": 24, "patch_size": 4, "num_classes": 10, "embed_dim": 24, "num_heads": 3}
EVIT = MICRO | {"depth": 6, "drop_loc": (1, 3), "keep_rate": 0.7}
DEIT = MICRO | {"depth": 3}
HMLP = DEIT | {"stem": "hmlp", "patch_size": 16, "img_size": 64}
SHAPE, LARGE = (2, 3, 24, 24), (2, 3, 64, 64)

for _name, _model, _config, _seed, _shape in (
    ("evit", "evit_small_patch16_224", EVIT | {"fuse_token": True}, 1, SHAPE),
    ("evit-drop", "evit_small_patch16_224", EVIT | {"fuse_token": False}, 2, SHAPE),
    ("deit", "deit_small_patch16_224", DEIT, 8, SHAPE),
    ("distilled", "deit_small_distilled_patch16_224", DEIT, 9, SHAPE),
    ("deit3", "deit3_small_patch16_224", DEIT, 5, SHAPE),
    ("parallel", "deit3_small_patch16_224", DEIT | {"parallel": 2}, 6, SHAPE),
    ("hmlp", "deit3_small_patch16_224", HMLP, 7, LARGE),
):
    register(Family(_name, _model, _config, _seed, _shape, VisionTransformer))

ALL = ("evit", "evit-drop", "deit", "distilled", "deit3", "parallel", "hmlp")
EVITS = ("evit", "evit-drop")
BLOCKS = {"evit": ((1, ""), (4, "")), "evit-drop": ((1, ""), (4, "")), "parallel": ((0, ""), (2, "1"))}  # number, branch
USUAL = ((0, ""), (2, ""))
REORGANIZING = (1, 3)


def block(module: Any, place: Any) -> Any:
    return module.blocks[place if isinstance(place, int) else place[0]]


def attention(module: Any, place: Any) -> Any:
    return block(module, place).get_submodule(f"attn{place[1]}")


def inside(name: str, last: str = "") -> Callable[[Any], str]:
    """Of a branch's module: attn, attn1, and what is in it."""
    return lambda place: f"blocks.{place[0]}.{name}{place[1]}{last}"


def at_block(name: str = "") -> Callable[[Any], str]:
    return lambda place: f"blocks.{place if isinstance(place, int) else place[0]}{name}"


def always(name: str) -> Callable[[Any], str]:
    return lambda place: name


def in_blocks(
    kind: str, label: str, plant: Plant, name: Callable[[Any], str], explanation: str, families: Iterable[str] = ALL
) -> Iterator[Fault]:
    """The same fault in every family, at two blocks."""
    for family in families:
        yield Fault(kind, family, label, plant, BLOCKS.get(family, USUAL), name, explanation)


def once(kind: str, label: str, plant: Plant, name: str, explanation: str, families: Iterable[str] = ALL) -> Iterator[Fault]:
    """A fault outside of the blocks."""
    for family in families:
        yield Fault(kind, family, label, plant, (None,), always(name), explanation)


# ---- activations and norms


class Sigmoid(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return x * torch.sigmoid(1.702 * x)


def activations() -> Iterator[Fault]:
    for kind, make, explanation in (
        ("gelu-tanh", partial(nn.GELU, approximate="tanh"), "GELU: tanh"),
        ("gelu-sigmoid", Sigmoid, "GELU: sigmoid"),
        ("gelu-relu", nn.ReLU, "GELU: ReLU"),
    ):

        def plant(module: Any, place: Any, make: Any = make) -> None:
            block(module, place).get_submodule(f"mlp{place[1]}").act = make()

        yield from in_blocks(kind, f"{explanation} for erf", plant, inside("mlp", ".act"), explanation)


def norms() -> Iterator[Fault]:
    for eps in (1e-5, 1e-12, 1e-3, 1.1e-5, 2e-5):
        told = rf"epsilon (about )?{re.escape(spelled(eps))}$"
        for norm in ("norm1", "norm2"):

            def plant(module: Any, place: Any, norm: str = norm, eps: float = eps) -> None:
                block(module, place).get_submodule(f"{norm}{place[1]}").eps = eps

            yield from in_blocks(f"{norm}-eps-{eps:g}", f"{norm} with epsilon {eps:g}", plant, inside(norm), told)

        def plant_last(module: Any, place: Any, eps: float = eps) -> None:
            module.norm.eps = eps

        yield from once(f"norm-eps-{eps:g}", f"the last norm with epsilon {eps:g}", plant_last, "norm", told)


# ---- attention


def scaled(scale: Callable[[int, int], float]) -> Plant:
    """By the head's width and the model's."""

    def plant(module: Any, place: Any) -> None:
        part = attention(module, place)
        width = part.proj.in_features
        part.scale = scale(width // part.heads, width)

    return plant


def merged(change: Callable[[Tensor], Tensor]) -> Plant:
    """With the context (B, H, N, D) changed before heads are merged."""

    def plant(module: Any, place: Any) -> None:
        part = attention(module, place)
        merge = part.merge
        part.merge = lambda context: merge(change(context))

    return plant


def not_transposed(module: Any, place: Any) -> None:
    part = attention(module, place)
    part.merge = lambda context: context.reshape(context.shape[0], context.shape[2], -1)


def split_by_head(module: Any, place: Any) -> None:
    part = attention(module, place)

    def split(x: Tensor) -> tuple[Tensor, ...]:
        batch, count, _ = x.shape
        return x.reshape(batch, count, part.heads, 3, -1).permute(3, 0, 2, 1, 4).unbind(0)

    part.split = split


def in_order(*order: int) -> Plant:
    def plant(module: Any, place: Any) -> None:
        part = attention(module, place)
        split = part.split
        part.split = lambda x: tuple(split(x)[number] for number in order)

    return plant


ATTENTIONS = (
    ("scale-missing", "attention scale missing", scaled(lambda depth, width: 1.0), "scale missing"),
    ("scale-twice", "attention scale applied twice", scaled(lambda depth, width: 1 / depth), "scale applied twice"),
    ("scale-width", "attention scaled by the width", scaled(lambda depth, width: width**-0.5), "scale by the width"),
    ("heads-rolled", "heads moved on by one", merged(lambda x: x.roll(1, dims=1)), "heads permuted: moved on"),
    ("heads-reversed", "heads in reverse order", merged(lambda x: x.flip(1)), "heads in reverse|first and the last exchanged"),
    ("heads-not-back", "head axis not transposed back", not_transposed, "not transposed back"),
    ("qkv-by-head", "qkv by head (H, 3, D)", split_by_head, r"\(H, 3, D\)"),
    ("qk-exchanged", "queries and keys exchanged", in_order(1, 0, 2), "queries and keys exchanged"),
    ("kv-exchanged", "keys and values exchanged", in_order(0, 2, 1), "keys and values exchanged"),
)


def attentions() -> Iterator[Fault]:
    for kind, label, plant, explanation in ATTENTIONS:
        yield from in_blocks(kind, label, plant, inside("attn", ".proj"), explanation)


# ---- weights


def transposed(module: Any, place: Any) -> None:
    weight = attention(module, place).proj.weight
    weight.data = weight.data.T.contiguous()


def without_bias(*path: str) -> Plant:
    """Of the layer of that path in a branch of a block; of the model where there is no place."""

    def plant(module: Any, place: Any) -> None:
        first, rest = path[0], path[1:]
        whole = module if place is None else block(module, place)
        whole.get_submodule(".".join((first + ("" if place is None else place[1]), *rest))).bias.data.zero_()

    return plant


def weights() -> Iterator[Fault]:
    yield from in_blocks("proj-transposed", "proj's weight transposed", transposed, inside("attn", ".proj"), "weight transposed")
    for part, layer in (("attn", "qkv"), ("attn", "proj"), ("mlp", "fc1"), ("mlp", "fc2")):
        plant = without_bias(part, layer)
        yield from in_blocks(f"{layer}-no-bias", f"bias of {layer} dropped", plant, inside(part, f".{layer}"), "bias dropped")
    yield from once("head-no-bias", "bias of head dropped", without_bias("head"), "head", "bias dropped")
    for path, families in (("patch_embed.proj", ALL[:-1]), ("patch_embed.proj.6", ("hmlp",))):
        plant = without_bias(*path.split("."))
        yield from once("patch-no-bias", "bias of the patch embedding dropped", plant, path, "bias dropped", families)


# ---- residuals, LayerScale, parallel branches

Join = Callable[[Tensor, list[Tensor]], Tensor]


def joined(number: int, join: Join) -> Plant:
    def plant(module: Any, place: Any) -> None:
        setattr(block(module, place), f"join{number}", join)

    return plant


def rescaled(numbers: tuple[int, ...], change: Callable[[Any, int, str, Tensor], Tensor]) -> Plant:
    """Every branch's LayerScale after attention (1), MLP (2) or both."""

    def plant(module: Any, place: Any) -> None:
        part = block(module, place)
        usual = part.layer_scale
        part.layer_scale = lambda number, suffix, x: (
            change(part, number, suffix, x) if number in numbers else usual(number, suffix, x)
        )

    return plant


def gain(part: Any, number: int, suffix: str) -> Tensor:
    return part.get_parameter(f"gamma_{number}" + (f"_{suffix}" if suffix else ""))


def residuals() -> Iterator[Fault]:
    for number, what, name in ((1, "attention", at_block(".norm2")), (2, "MLP", at_block())):
        alone, doubled = joined(number, lambda x, updates: sum(updates)), joined(number, lambda x, updates: x + x + sum(updates))
        kind = what.lower()
        yield from in_blocks(f"{kind}-no-residual", f"residual missing: {what}", alone, name, f"residual missing: {what}")
        yield from in_blocks(
            f"{kind}-residual-twice", f"residual doubled: {what}", doubled, name, f"residual added twice at {what}"
        )


def layer_scales() -> Iterator[Fault]:
    scaled_ones = ("deit3", "parallel", "hmlp")
    for numbers, what, name in (((1,), "attention", at_block(".norm2")), ((2,), "MLP", at_block())):
        kind = what.lower()
        plant = rescaled(numbers, lambda part, number, suffix, x: x)
        told = rf"LayerScale missing \({what}\)"
        yield from in_blocks(f"{kind}-no-gain", f"LayerScale missing: {what}", plant, name, told, scaled_ones)
        plant = rescaled(numbers, lambda part, number, suffix, x: (1 + gain(part, number, suffix)) * x)
        told = rf"LayerScale as 1 \+ gain \({what}\)"
        yield from in_blocks(f"{kind}-gain-plus-1", f"LayerScale as 1 + gain: {what}", plant, name, told, scaled_ones)
    plant = rescaled((1, 2), lambda part, number, suffix, x: gain(part, 3 - number, suffix) * x)
    told = "LayerScale swapped: gamma_1 and gamma_2"
    yield from in_blocks("gains-swapped", "LayerScales swapped", plant, at_block(".norm2"), told, scaled_ones)


def in_turn(*names: str) -> Plant:
    """Branches of attention, MLP or both one after the other."""

    def plant(module: Any, place: Any) -> None:
        part = block(module, place)

        def one_by_one(name: str, number: int, x: Tensor) -> tuple[Tensor, list[Tensor]]:
            scores = []
            for suffix in part.suffixes:
                output = part.part(name, suffix)(part.part(f"norm{number}", suffix)(x))
                scores.append(output[1] if name == "attn" else output)
                x = x + part.layer_scale(number, suffix, output[0] if name == "attn" else output)
            return x, scores

        def attended(x: Tensor) -> tuple[Tensor, Tensor]:
            x, scores = one_by_one("attn", 1, x)
            return x, torch.stack(scores).mean(dim=0)

        if "attn" in names:
            part.attended = attended
        if "mlp" in names:
            part.fed_forward = lambda x: one_by_one("mlp", 2, x)[0]

    return plant


def branches() -> Iterator[Fault]:
    only, places = ("parallel",), in_blocks
    yield from places(
        "branches-in-turn", "branches in turn", in_turn("attn", "mlp"), at_block(".norm11"), "one after the other", only
    )
    told = "attentions one after the other"
    yield from places("attentions-in-turn", "attentions in turn", in_turn("attn"), at_block(".norm11"), told, only)
    yield from places("mlps-in-turn", "MLPs in turn", in_turn("mlp"), at_block(".norm21"), "MLPs one after the other", only)
    for number, what, name in ((1, "attention", at_block(".norm2")), (2, "MLP", at_block())):
        kind = what.lower()
        for which, index, word in (("first", 1, "first"), ("second", 0, "second")):
            plant = joined(number, lambda x, updates, index=index: x + updates[index])
            told = f"the {word} {what} left out"
            yield from places(f"{kind}-{which}-left-out", f"the {word} {what} left out", plant, name, told, only)
        plant = joined(number, lambda x, updates: x + sum(updates) / 2)
        yield from places(f"{kind}s-averaged", f"{what}s averaged", plant, name, f"mean of the {what}s", only)


# ---- reorganization


def at_norm2(dtype: str, fault: Fault, place: Any) -> tuple[np.ndarray, np.ndarray, Any, Any]:
    """The faulty and the right norm2 after a reorganization, given the faulty run's own values, and what each chose by."""
    family = FAMILIES[fault.family]
    values = ran(family, faulty(fault, place, dtype), dtype)
    images = torch.from_numpy(family.images()).to(getattr(torch, dtype)).double().numpy()
    modules = faulty(fault, place, dtype, double=True), family.module(dtype).double()
    got, wanted = (forced(module, values, images, f"blocks.{place}.norm2") for module in modules)
    return got, wanted, block(modules[0], place).last, block(modules[1], place).last


def of_choice(fault: Fault, place: Any, dtype: str) -> tuple[float, float]:
    """The effect on the tokens that go on, in any order; where other tokens were chosen, the score that the worst lacks."""
    got, wanted, mine, right = at_norm2(dtype, fault, place)
    unit = UNITS[dtype]
    if got.shape != wanted.shape or mine is None:
        return float("inf"), float("inf")
    scores, lack = right[0].numpy(), 0.0
    for image, (theirs, ours) in enumerate(zip(mine[1].numpy(), right[1].numpy(), strict=True)):
        extra, missing = np.setdiff1d(theirs, ours), np.setdiff1d(ours, theirs)
        if len(extra):
            lack = max(lack, float(scores[image, missing].max() - scores[image, extra].min()) / scores[image].max())
    return (lack / unit, 0.0) if lack else size_of_rows(got, wanted, unit)


def method(name: str, make: Callable[[Any], Any]) -> Plant:
    """A method of the block replaced by what `make` makes of the block."""

    def plant(module: Any, place: Any) -> None:
        part = block(module, place)
        setattr(part, name, make(part))

    return plant


def ranked(by: Callable[[Any, Tensor, Tensor], Tensor]) -> Plant:
    """Another ranking by attention's scores and probabilities (B, H, N, N), by which tokens are fused too."""

    def plant(module: Any, place: Any) -> None:
        part = block(module, place).attn
        part.ranking = lambda scores, probabilities: by(part, scores, probabilities)

    return plant


def counted(how: Callable[[float, int], int]) -> Plant:
    return method("count", lambda part: lambda candidates: how(part.rate, candidates))


def taken(x: Tensor, indices: Tensor) -> Tensor:
    return x.gather(1, indices[:, :, None].expand(-1, -1, x.shape[2]))


def shifted_gather(part: Any) -> Any:
    """Indices of patches used on all tokens."""
    usual = part.reorganized

    def reorganized(before: Tensor, x: Tensor, scores: Tensor, count: int) -> Tensor:
        part.gathered = lambda before, patches, kept: taken(x, kept)
        return usual(before, x, scores, count)

    return reorganized


def normalised(part: Any) -> Any:
    usual = part.fused

    def fused(patches: Tensor, scores: Tensor, kept: Tensor) -> Tensor:
        dropped = torch.ones_like(scores).scatter(1, kept, 0.0)
        return usual(patches, scores / (scores * dropped).sum(dim=1, keepdim=True), kept)

    return fused


def from_before(part: Any) -> Any:
    usual = part.reorganized

    def reorganized(before: Tensor, x: Tensor, scores: Tensor, count: int) -> Tensor:
        mixed = torch.cat([x[:, : part.special], before[:, part.special :]], dim=1)
        return usual(before, mixed, scores, count)

    return reorganized


def average_of_dropped(patches: Tensor, scores: Tensor, kept: Tensor) -> Tensor:
    dropped = torch.ones_like(scores).scatter(1, kept, 0.0)[:, :, None]
    return (patches * dropped).sum(dim=1, keepdim=True) / dropped.sum(dim=1, keepdim=True)


def of_kept(patches: Tensor, scores: Tensor, kept: Tensor) -> Tensor:
    return (taken(patches, kept) * scores.gather(1, kept)[:, :, None]).sum(dim=1, keepdim=True)


def after_mlp(part: Any) -> Any:
    def forward(x: Tensor) -> Tensor:
        before = x
        x, scores = part.attended(x)
        return part.reorganized(before, part.fed_forward(x), scores, part.count(scores.shape[1]))

    return forward


SELECTIONS = (
    ("count-floor", "floor for ceil", counted(lambda rate, n: math.floor(rate * n)), "kept count: floor"),
    ("count-round", "round for ceil", counted(lambda rate, n: round(rate * n)), "kept count: (round|floor)"),
    ("count-class", "class token counted", counted(lambda rate, n: math.ceil(rate * (n + 1))), "kept count: (the class|one more)"),
    ("count-more", "one token more", counted(lambda rate, n: math.ceil(rate * n) + 1), "kept count: (one more|the class token)"),
    ("count-less", "one token less", counted(lambda rate, n: math.ceil(rate * n) - 1), "kept count: (one less|floor|round)"),
    (
        "before-softmax", "scores before softmax",
        ranked(lambda part, scores, probabilities: scores[:, :, 0, part.special :].mean(dim=1)), "scores before softmax",
    ),
    (
        "maximum-of-heads", "maximum over the heads",
        ranked(lambda part, scores, probabilities: probabilities[:, :, 0, part.special :].amax(dim=1)), "maximum over the heads",
    ),
    (
        "column-for-row", "column for row",
        ranked(lambda part, scores, probabilities: probabilities[:, :, part.special :, 0].mean(dim=1)), "column for row",
    ),
    (
        "smallest", "smallest for largest",
        method("chosen", lambda part: lambda scores, count: scores.topk(count, dim=1, largest=False).indices),
        "smallest for largest",
    ),
    ("off-by-one", "indices off by one", method("reorganized", shifted_gather), "indices off by one"),
    (
        "from-before", "gathered, and fused, from before attention's residual",
        method("reorganized", from_before), "gathered from before attention",
    ),
    ("after-mlp", "reorganization after the MLP", method("forward", after_mlp), "reorganization after the MLP"),
)  # fmt: skip
FUSIONS = (
    ("fused-normalised", "fused token divided by the sum", method("fused", normalised), "divided by the sum"),
    ("fused-average", "fused token a plain average", method("fused", lambda part: average_of_dropped), "plain average"),
    ("fused-missing", "fused token missing", method("fuses", lambda part: False), "fused token missing"),
    (
        "kept-from-before", "kept tokens from before attention's residual, the fused one from behind",
        method("gathered", lambda part: lambda before, patches, kept: taken(before, kept)), "before attention's residual",
    ),
    ("fused-of-kept", "fused token of the kept tokens", method("fused", lambda part: of_kept), "of the kept tokens"),
)  # fmt: skip
PLACES_OF_COUNTS = {  # where another rule makes another number
    ("count-round", "evit"): (1,), ("count-round", "evit-drop"): (1,), ("count-class", "evit"): (3,),
    ("count-class", "evit-drop"): (),
}  # fmt: skip


def reorganizations() -> Iterator[Fault]:
    for kind, label, plant, explanation in (*SELECTIONS, *FUSIONS):
        for family in EVITS if (kind, label, plant, explanation) in SELECTIONS else EVITS[:1]:
            places = PLACES_OF_COUNTS.get((kind, family), REORGANIZING)
            yield Fault(kind, family, label, plant, places, at_block(".norm2"), explanation, effect=of_choice)
    plant, told = method("fuses", lambda part: True), "fused token where none belongs"
    yield Fault("fused-extra", "evit-drop", told, plant, REORGANIZING, at_block(".norm2"), told, effect=of_choice)


# ---- before the blocks


def positioned(change: Callable[[Any, Tensor], Tensor]) -> Plant:
    """With the table (1, S + N, C) changed."""

    def plant(module: Any, place: Any) -> None:
        usual = module.positions
        module.positions = lambda grid: change(module, usual(grid))

    return plant


def patches_rolled(module: Any, table: Tensor) -> Tensor:
    return torch.cat([table[:, : module.special], table[:, module.special :].roll(1, dims=1)], dim=1)


def patches_only(module: Any, place: Any) -> None:
    module.joined = lambda special, patches, table: torch.cat([special, patches + table[:, module.special :]], dim=1)


def class_too(module: Any, place: Any) -> None:
    def joined(special: Tensor, patches: Tensor, table: Tensor) -> Tensor:
        return torch.cat([special, patches], dim=1) + functional.pad(table, (0, 0, 0, special.shape[1]))

    module.joined = joined


def resampled(**changes: Any) -> Plant:
    def plant(module: Any, place: Any) -> None:
        module.resampling = module.resampling | changes

    return plant


def positions() -> Iterator[Fault]:
    first, bare = "blocks.0.norm1", ("deit3", "parallel", "hmlp")
    others = tuple(family for family in ALL if family not in bare)
    rolled = positioned(lambda module, table: table.roll(1, dims=1))
    yield from once("positions-rolled", "positions shifted by one", rolled, first, "positions .*shifted by one")
    told = "positions of the patches shifted by one"
    yield from once("patch-positions-rolled", "the patches' positions shifted", positioned(patches_rolled), first, told, others)
    told = "positions added before the class token"
    yield from once("positions-patches-only", "positions before the class token joins", patches_only, first, told, others)
    told = "positions added after the class token"
    yield from once("positions-class-too", "positions after the class token joins", class_too, first, told, bare)
    missing = positioned(lambda module, table: torch.zeros_like(table))
    yield from once("positions-missing", "positions missing", missing, first, "positions missing")
    yield from resamplings()


def resamplings() -> Iterator[Fault]:
    for family in ALL:
        antialiased = FAMILIES[family].reference().config.antialias
        other = "without" if antialiased else "with"
        for kind, plant, explanation in (
            ("antialias", resampled(antialias=not antialiased), f"bicubic {other} antialiasing"),
            ("align-corners", resampled(align_corners=True, antialias=False), "bicubic with align_corners"),
            ("bilinear", resampled(mode="bilinear"), "bilinear with antialiasing$" if antialiased else "bilinear$"),
        ):
            for size in (64 * 3, 64 * 2) if family == "hmlp" else (16, 32):
                larger = kind == "bilinear" and size > MICRO["img_size"]  # antialiasing then does nothing
                told = "bilinear( with antialiasing)?$" if larger else explanation
                label = f"positions resampled to {size} pixels: {kind}"
                yield Fault(f"resampled-{kind}-{size}", family, label, plant, (None,), always("blocks.0.norm1"), told, size=size)


def kernels(change: Callable[[Tensor], Tensor]) -> Plant:
    """The first convolution's kernel (O, I, kh, kw) changed."""

    def plant(module: Any, place: Any) -> None:
        layer = module.patch_embed.proj
        layer = layer[0] if isinstance(layer, nn.Sequential) else layer
        layer.weight.data = change(layer.weight.data).contiguous()

    return plant


def by_columns(module: Any, place: Any) -> None:
    usual = module.patch_embed.ordered
    module.patch_embed.ordered = lambda maps: usual(maps.transpose(2, 3))


def renormalised(module: Any, place: Any) -> None:
    """By mean and deviation 0.5 instead of ImageNet's."""
    mean, deviation = torch.tensor([0.485, 0.456, 0.406]), torch.tensor([0.229, 0.224, 0.225])

    def prepared(images: Tensor) -> Tensor:
        pixels = images.double() * deviation[:, None, None] + mean[:, None, None]
        return ((pixels - 0.5) / 0.5).to(images.dtype)

    module.prepared = prepared


def channels_reversed(module: Any, place: Any) -> None:
    module.prepared = lambda images: images.flip(1)


def patches() -> Iterator[Fault]:
    swapped = kernels(lambda kernel: kernel.transpose(2, 3))
    for first, families in (("patch_embed.proj", ALL[:-1]), ("patch_embed.proj.0", ("hmlp",))):
        told = "channels.* reversed"
        yield from once("channels-reversed", "channels reversed", channels_reversed, first, told, families)
        told = "rows and columns swapped"
        yield from once("kernel-swapped", "kernel rows and columns swapped", swapped, first, told, families)
        told = "normalised with mean and deviation 0.5 instead of ImageNet"
        yield from once("other-mean", "the other mean and deviation", renormalised, first, told, families)
    yield from once("column-order", "patches in column order", by_columns, "patch_embed", "column order")


# ---- behind the blocks


def mean_pooled(module: Any, place: Any) -> None:
    module.states = lambda x: [x.mean(dim=1)] * module.special


def norm_after_pooling(module: Any, place: Any) -> None:
    module.classified = lambda x: module.answer([module.norm(x.mean(dim=1))] * module.special)


def no_last_norm(module: Any, place: Any) -> None:
    module.classified = lambda x: module.answer(module.states(x))


def answered(combine: Callable[[Tensor, Tensor], Tensor]) -> Plant:
    def plant(module: Any, place: Any) -> None:
        module.answer = lambda states: combine(module.head(states[0]), module.head_dist(states[1]))

    return plant


def heads_exchanged(module: Any, place: Any) -> None:
    module.states = lambda x: [x[:, 1], x[:, 0]]


def classifiers() -> Iterator[Fault]:
    yield from once("mean-pooled", "mean pooled for the class token", mean_pooled, "head", "mean of all tokens for the class token")
    yield from once("norm-after-pooling", "norm after pooling", norm_after_pooling, "norm", "norm after pooling")
    yield from once("no-last-norm", "last norm missing", no_last_norm, "head", "last norm missing")
    only = ("distilled",)
    yield from once("one-head", "one head only", answered(lambda one, two: one), "logits", "only the class token's head", only)
    yield from once("heads-summed", "sum of the heads", answered(lambda one, two: one + two), "logits", "sum of the heads", only)
    yield from once("heads-exchanged", "heads exchanged", heads_exchanged, "head", "the heads exchanged", only)


# ---- hMLP


def of_stem(plant: Callable[[nn.Sequential, int], None]) -> Plant:
    return lambda module, place: plant(module.patch_embed.proj, place)


def with_epsilon(stem: nn.Sequential, place: int) -> None:
    stem[place].eps = 1e-3


def of_batch(stem: nn.Sequential, place: int) -> None:
    """The statistics of the batch, as in training."""
    norm = stem[place]

    def forward(x: Tensor) -> Tensor:
        return functional.batch_norm(x, None, None, norm.weight, norm.bias, training=True, eps=norm.eps)

    norm.forward = forward


def with_relu(stem: nn.Sequential, place: int) -> None:
    stem[place] = nn.ReLU()


def stems() -> Iterator[Fault]:
    for kind, label, plant, places, told in (
        ("batch-norm-eps", "batch norm with epsilon 1e-3", with_epsilon, (1, 4), "epsilon 1e-3"),
        ("batch-statistics", "statistics of the batch", of_batch, (1, 7), "statistics of the batch"),
        ("stem-relu", "ReLU for GELU in the stem", with_relu, (2, 5), "GELU: ReLU"),
    ):
        yield Fault(kind, "hmlp", label, of_stem(plant), places, lambda place: f"patch_embed.proj.{place}", told)


FAULTS = (
    *activations(), *norms(), *attentions(), *weights(), *residuals(), *layer_scales(), *branches(), *reorganizations(),
    *positions(), *patches(), *classifiers(), *stems(),
)  # fmt: skip
