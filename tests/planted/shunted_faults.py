"""Mistakes in ports of the Shunted Transformer, planted in its torch modules: each documented fact broken, at two places."""

import re
from collections.abc import Callable, Sequence
from dataclasses import replace
from types import MethodType
from typing import Any

import torch
from planting import Family, Fault, own_effect, register, spelled
from shunted_modules import Attention, Grid, Mlp, Seen, ShuntedTransformer, Source, Stage, maps_of, tokens_of
from torch import Tensor, nn
from torch.nn import functional

Plant = Callable[[nn.Module, str], None]

FAMILY = "shunted"
STEM = ("patch_embed1.conv.0", "patch_embed1.conv.3")
BLOCKS = ("block1.0", "block4.0")
REDUCED = ("block1.0", "block3.1")  # two ratios, 8 and 4 or 2 and 1
LAST_AT_ONE = ("block3.0", "block3.1")  # whose second half has ratio 1
SEVERAL_HEADS = ("block3.0", "block4.0")  # in each group
WHOLE = ("block4.0",)  # every head sees every token


def build(config: Any) -> nn.Module:
    """The module of a config, which is read as plain numbers."""
    stages = [
        Stage(width, depth, heads, int(width * ratio), reduction)
        for width, depth, heads, ratio, reduction in zip(
            config.embed_dims, config.depths, config.num_heads, config.mlp_ratios, config.sr_ratios, strict=True
        )
    ]
    return ShuntedTransformer(config.in_chans, config.num_classes, stages, config.num_conv, config.qkv_bias)


register(
    Family(
        FAMILY,
        "shunted_t",
        {
            "num_classes": 10,
            "embed_dims": (64, 32, 48, 64),
            "num_heads": (2, 2, 4, 4),
            "mlp_ratios": (1, 2, 2, 2),
            "depths": (1, 1, 2, 1),
            "sr_ratios": (8, 4, 2, 1),
            "num_conv": 1,
        },
        3,
        (1, 3, 64, 96),
        build,
    )
)


def attribute(part: str, name: str, value: Any) -> Plant:
    """An attribute of a submodule of the place is another."""
    return lambda module, place: setattr(module.get_submodule(place + part), name, value)


def method(part: str, name: str, function: Callable[..., Any]) -> Plant:
    """A method of a submodule of the place is another."""

    def plant(module: nn.Module, place: str) -> None:
        owner = module.get_submodule(place + part)
        setattr(owner, name, MethodType(function, owner))

    return plant


def replaced(part: str, make: Callable[[], nn.Module]) -> Plant:
    """A submodule of the place is another."""
    return lambda module, place: module.set_submodule(place + part, make())


def weight(part: str, name: str, change: Callable[[Tensor], Tensor]) -> Plant:
    """A weight of a submodule of the place holds other values."""

    def plant(module: nn.Module, place: str) -> None:
        tensor = getattr(module.get_submodule(place + part), name)
        with torch.no_grad():
            tensor.copy_(change(tensor).contiguous().clone())

    return plant


def unhooked(part: str) -> Plant:
    """What follows in place is recorded here: the hook keeps the tensor itself, not a copy."""
    return lambda module, place: module.get_submodule(place + part).register_forward_hook(lambda _m, _i, output: output.relu_())


def after(*plants: Plant) -> Plant:
    def plant(module: nn.Module, place: str) -> None:
        for one in plants:
            one(module, place)

    return plant


def at(place: str, plant: Plant) -> Plant:
    """The fault at a place of its own."""
    return lambda module, _: plant(module, place)


def fault(name: str, label: str, plant: Plant, places: Sequence[str], shown: str, explanation: str) -> Fault:
    """shown: what follows the place in the name under which it should be reported; "#": the number of the first group."""

    def reported(place: str) -> str:
        return place + shown.replace("#", "" if place in WHOLE else "1")

    return Fault(name, FAMILY, label, plant, tuple(places), reported, explanation)


def two(name: str, label: str, plant: Plant, first: tuple[str, str], second: tuple[str, str]) -> Fault:
    """first, second: name under which it should be reported, expression of its explanation."""
    return Fault(name, FAMILY, label, plant, (None,), lambda _: first[0], first[1], second)


def with_sigmoid(self: nn.Module, x: Tensor) -> Tensor:
    return x * torch.sigmoid(1.702 * x)


TANH: Plant = attribute(".mlp.act", "approximate", "tanh")
SIGMOID: Plant = method(".mlp.act", "forward", with_sigmoid)


def epsilons() -> list[Fault]:
    """Norms of every kind with another kind's epsilon, or one that is a little off."""
    kinds = (
        ("block", "", ("block1.0.norm1", "block3.1.norm2"), (1e-5, 1e-3, 1.1e-6)),
        ("stage", "", ("norm1", "norm4"), (1e-5,)),
        ("attention", "", ("block1.0.attn.norm1", "block3.0.attn.norm2"), (1e-6, 1.1e-5)),
        ("embedding", "", ("patch_embed1.norm", "patch_embed3.norm"), (1e-6, 1.1e-5)),
        ("batch", "", ("patch_embed1.conv.1", "patch_embed1.conv.4"), (1e-3, 1e-6)),
    )
    return [
        fault(
            f"epsilon-{kind}-{eps:g}",
            f"epsilon {eps:g} in a norm of kind {kind}",
            attribute("", "eps", eps),
            places,
            shown,
            rf"^epsilon (about )?{re.escape(spelled(eps))}$",
        )
        for kind, shown, places, values in kinds
        for eps in values
    ]


def reduction_at(number: str | None, norm: bool, gelu: bool) -> Plant:
    """Merged tokens without their norm or their GELU: of one group, or of both."""

    def finished(self: Attention, group: str, merged: Tensor) -> Tensor:
        plain = number is not None and group != number
        x = getattr(self, f"norm{group}")(merged) if norm or plain else merged
        return self.act(x) if gelu or plain else x

    return method(".attn", "finished", finished)


def tokens_themselves(self: Attention, number: str, maps: Tensor) -> Source:
    """At ratio 1 nothing is done."""
    return (tokens_of(maps), (maps.shape[2], maps.shape[3])) if number == "2" else Attention.reduced(self, number, maps)


def gelus() -> list[Fault]:
    """Other forms of GELU; after a reduction one GELU serves both groups, so both its calls are wrong."""
    found = [
        fault("gelu-tanh", "GELU by tanh in the MLP", TANH, BLOCKS, ".mlp.act", "^GELU: tanh"),
        fault("gelu-sigmoid", "GELU by sigmoid in the MLP", SIGMOID, BLOCKS, ".mlp.act", "^GELU: sigmoid"),
    ]
    for place in REDUCED:
        for kind, plant in (
            ("tanh", attribute(".attn.act", "approximate", "tanh")),
            ("sigmoid", method(".attn.act", "forward", with_sigmoid)),
        ):
            shown = [(f"{place}.attn.act@{call}", f"^GELU: {kind}") for call in (0, 1)]
            found.append(two(f"reduction-gelu-{kind}-{place}", f"GELU by {kind} after the reduction", at(place, plant), *shown))
    return found


def seeing(change: Callable[[list[Seen]], list[Seen]]) -> Plant:
    """Groups of heads see what was made for others."""
    return method(".attn", "seen", lambda self, groups: change(groups))


def at_one(name: str, label: str, plant: Plant) -> Fault:
    """GELU is called once only, so its output has the name of two calls' last; what the fault does is measured at kv2."""

    def effect(one: Fault, place: str, dtype: str) -> tuple[float, float]:
        return own_effect(one, place, dtype, f"{place}.attn.kv2")

    return replace(fault(name, label, plant, LAST_AT_ONE, ".attn.act", f"{label}$"), effect=effect)


def reductions() -> list[Fault]:
    """Which keys each half sees, and what is done to them after they are merged."""

    def one_source(self: Attention, x: Tensor, grid: Grid) -> list[Source]:
        """Both groups' kv read what the first reduction has made."""
        return Attention.sources(self, x, grid)[:1] * 2

    exchanged = "reductions exchanged between the halves|halves of the queries and of the heads exchanged"  # the same thing
    return [
        fault("reductions-exchanged", "each half of the heads sees the other's keys", seeing(lambda groups: groups[::-1]), REDUCED,
              ".attn.proj", exchanged),
        fault("reductions-first", "both halves see the first keys", seeing(lambda groups: [groups[0]] * 2), REDUCED,
              ".attn.proj", "both halves see the first reduction"),
        fault("reductions-second", "both halves see the second keys", seeing(lambda groups: [groups[1]] * 2), REDUCED,
              ".attn.proj", "both halves see the second reduction"),
        fault("reductions-one-source", "both halves' kv read the first reduction", method(".attn", "sources", one_source),
              REDUCED, ".attn.kv2", "first reduction"),
        at_one("no-gelu-at-one", "no GELU at ratio 1", reduction_at("2", norm=True, gelu=False)),
        fault("no-norm-at-one", "no norm at ratio 1", reduction_at("2", norm=False, gelu=True), LAST_AT_ONE,
              ".attn.act@1", "no norm at ratio 1|norm missing"),
        at_one("neither-at-one", "no norm and no GELU at ratio 1", reduction_at("2", norm=False, gelu=False)),
        at_one("nothing-at-one", "no convolution, norm and GELU at ratio 1", method(".attn", "reduced", tokens_themselves)),
        fault("no-gelu", "no GELU after the reductions", reduction_at(None, norm=True, gelu=False), REDUCED,
              ".attn.kv1", "no GELU after the key reduction"),
    ]  # fmt: skip


def placed(function: Callable[[Attention, str, Tensor, Tensor, Tensor], Any]) -> Plant:
    """The local convolution goes elsewhere: number of the group, keys, values, local -> keys, values, beside."""
    return method(".attn", "placed", function)


def upsampled(self: Attention, beside: Tensor, grid: Grid, context: Tensor) -> Tensor:
    """The reduced map, each value repeated over what it was merged from."""
    ratio = round((context.shape[1] / beside.shape[1]) ** 0.5)
    return tokens_of(functional.interpolate(maps_of(beside, grid), scale_factor=ratio, mode="nearest"))


def locals_() -> list[Fault]:
    """The local convolution in the wrong place, of the wrong tensor, with the wrong weights."""
    to_output = after(placed(lambda self, number, keys, values, local: (keys, values, local)), method(".attn", "fitted", upsampled))
    return [
        fault("local-missing", "local convolution missing", placed(
              lambda self, number, keys, values, local: (keys, values, None)), BLOCKS, ".attn.proj", "local convolution missing"),
        fault("local-to-output", "local convolution added to the output, not to V", to_output, LAST_AT_ONE,
              ".attn.proj", "added to the output where it belongs to V"),
        fault("local-to-output-at-one", "the same at ratio 1 only", placed(
              lambda self, number, keys, values, local: (keys, values, local) if number == "2" else (keys, values + local, None)),
              LAST_AT_ONE, ".attn.proj", "added to the output where it belongs to V"),
        fault("local-to-values", "local convolution added to V, not to the output",
              placed(lambda self, number, keys, values, local: (keys, values + local, None)), WHOLE,
              ".attn.proj", "added to V where it belongs to the output"),
        fault("local-of-keys", "local convolution of K", method(".attn", "detailed", lambda self, keys, values: keys),
              BLOCKS, ".attn.local_conv#", "local convolution of K instead of V$"),
        fault("local-to-keys", "local convolution added to K", placed(
              lambda self, number, keys, values, local: (keys + local, values, None)),
              BLOCKS, ".attn.proj", "local convolution added to K"),
        fault("local-transposed", "local convolution's kernel transposed", weight("", "weight", lambda w: w.transpose(2, 3)),
              ("block1.0.attn.local_conv1", "block4.0.attn.local_conv"), "", "kernel rows and columns swapped"),
    ]  # fmt: skip


def mixtures() -> list[Fault]:
    """Scale, heads, keys and values."""

    def by_heads(self: Attention, kv: Tensor) -> tuple[Tensor, Tensor]:
        """[B, M, h 2 D]: each head's keys beside its values."""
        keys, values = kv.unflatten(2, (self.group, 2, -1)).unbind(3)
        return keys.flatten(2), values.flatten(2)

    def crossed_queries(self: Attention, queries: Tensor) -> Any:
        return Attention.parts(self, queries)[::-1]

    return [
        fault("scale-missing", "scale missing", method(".attn", "scale", lambda self, depth: 1.0), BLOCKS,
              ".attn.proj", "scale missing"),
        fault("scale-twice", "scale applied twice", method(".attn", "scale", lambda self, depth: 1 / depth), BLOCKS,
              ".attn.proj", "scale applied twice"),
        fault("scale-width", "scale by the width", method(".attn", "scale", lambda self, depth: self.proj.in_features**-0.5),
              BLOCKS, ".attn.proj", "scale by the width"),
        fault("kv-exchanged", "keys and values exchanged", method(".attn", "halves", lambda self, kv: kv.chunk(2, dim=2)[::-1]),
              BLOCKS, ".attn.local_conv#", "keys and values exchanged"),
        fault("kv-by-head", "keys and values interleaved by head", method(".attn", "halves", by_heads),
              SEVERAL_HEADS, ".attn.local_conv#", "interleaved by head"),
        fault("halves-exchanged", "halves of the heads exchanged at the concatenation", method(".attn", "joined",
              lambda self, mixed: torch.cat(mixed[::-1], dim=2)), REDUCED, ".attn.proj", "halves of the heads exchanged$"),
        fault("queries-exchanged", "halves of the queries exchanged", method(".attn", "parts", crossed_queries), REDUCED,
              ".attn.proj", "halves of the queries exchanged$"),
        fault("heads-not-back", "the head axis not transposed back", method(".attn", "merged",
              lambda self, context: context.flatten(1).unflatten(1, (context.shape[2], -1))), SEVERAL_HEADS,
              ".attn.proj", "head axis is not transposed back"),
    ]  # fmt: skip


def hidden(make: Callable[[Mlp, Tensor, Grid], Tensor]) -> Plant:
    return method(".mlp", "hidden", make)


def networks() -> list[Fault]:
    """The MLP, residual sums, pooling."""

    def without(last: bool) -> Plant:
        def added(self: nn.Module, x: Tensor, update: Tensor, last_sum: bool) -> Tensor:
            return update if last_sum is last else x + update

        return method("", "added", lambda self, x, update, last=False: added(self, x, update, last))

    return [
        fault("mlp-plain", "MLP without its depthwise convolution", hidden(lambda self, y, grid: self.act(y)), BLOCKS,
              ".mlp.act", r"depthwise convolution missing"),
        fault("mlp-detail-alone", "gelu(dwconv(y))", hidden(lambda self, y, grid: self.act(self.dwconv(y, grid))), BLOCKS,
              ".mlp.act", r"the depthwise convolution alone"),
        fault("mlp-gelu-of-detail", "y + gelu(dwconv(y))", hidden(lambda self, y, grid: y + self.act(self.dwconv(y, grid))),
              BLOCKS, ".mlp.act", r"y \+ gelu\(dwconv\(y\)\)"),
        fault("mlp-gelu-first", "dwconv(gelu(y))", hidden(lambda self, y, grid: self.dwconv(self.act(y), grid)), BLOCKS,
              ".mlp.dwconv.dwconv", r"GELU before the depthwise convolution: dwconv\(gelu\(y\)\)"),
        fault("residual-attention", "residual of attention missing", without(last=False), BLOCKS, ".norm2",
              "residual missing: attention alone"),
        fault("residual-mlp", "residual of the MLP missing", without(last=True), BLOCKS, "", "residual missing: MLP alone"),
        Fault("first-token", FAMILY, "first token for the mean", at("", method("", "pooled", lambda self, x: x[:, 0])), (None,),
              lambda _: "head", "first token for the mean"),
        Fault("last-norm", FAMILY, "last norm missing", at("norm4", replaced("", nn.Identity)), (None,), lambda _: "head",
              "last norm missing|norm missing"),
    ]  # fmt: skip


def stems() -> list[Fault]:
    """The stem of convolutions. Where a layer is missing, nothing is recorded of it, and the next one shows it."""
    path = "patch_embed1.conv"
    found = [
        fault("unhooked", "the hook keeps what ReLU overwrites", unhooked(""), (f"{path}.1", f"{path}.4"), "", "ReLU overwrote it"),
        fault("stem-padding", "padding 2 for 3", attribute("", "padding", (2, 2)), (f"{path}.0",), "", "^padding 2"),
    ]
    for position in (0, 3):
        norm, relu, following = (f"{path}.{position + step}" for step in (1, 2, 3))
        found += [
            Fault(
                "stem-relu",
                FAMILY,
                "ReLU missing",
                replaced("", nn.Identity),
                (relu,),
                lambda _, name=following: name,
                "ReLU missing",
            ),
            Fault(
                "stem-norm",
                FAMILY,
                "batch norm missing",
                replaced("", nn.Identity),
                (norm,),
                lambda _, name=relu: name,
                "batch norm missing",
            ),
        ]
    return found


def linear_maps() -> list[Fault]:
    """Biases dropped, weights transposed."""
    biases = (
        ("sr", ("block1.0.attn.sr1", "block3.1.attn.sr2")),
        ("q", ("block2.0.attn.q", "block4.0.attn.q")),
        ("kv", ("block1.0.attn.kv2", "block4.0.attn.kv")),
        ("proj", ("block1.0.attn.proj", "block3.0.attn.proj")),
        ("local", ("block2.0.attn.local_conv2", "block4.0.attn.local_conv")),
        ("fc1", ("block1.0.mlp.fc1", "block3.1.mlp.fc1")),
        ("fc2", ("block2.0.mlp.fc2", "block4.0.mlp.fc2")),
        ("dwconv", ("block2.0.mlp.dwconv.dwconv", "block3.0.mlp.dwconv.dwconv")),
        ("stem", ("patch_embed1.conv.6",)),
        ("embedding", ("patch_embed2.proj", "patch_embed4.proj")),
        ("head", ("head",)),
    )
    found = [
        fault(f"bias-{kind}", f"bias dropped: {kind}", attribute("", "bias", None), places, "", "^bias dropped")
        for kind, places in biases
    ]
    transposed = weight("", "weight", lambda w: w.transpose(0, 1))
    return [
        *found,
        fault(
            "proj-transposed",
            "proj's weight transposed",
            transposed,
            ("block2.0.attn.proj", "block4.0.attn.proj"),
            "",
            "^weight transposed",
        ),
    ]


def pairs() -> list[Fault]:
    """Two faults at once: in different stages, and three times in one block."""
    no_bias, scale = attribute("", "bias", None), method(".attn", "scale", lambda self, depth: 1.0)
    swapped = weight("", "weight", lambda w: w.transpose(2, 3))
    plain = hidden(lambda self, y, grid: self.act(y))
    alone = method("", "added", lambda self, x, update, last=False: x + update if last else update)
    return [
        two("pair-gelu-epsilon", "GELU by tanh; epsilon", after(at("block1.0", TANH),
            at("block3.1.norm1", attribute("", "eps", 1e-3))),
            ("block1.0.mlp.act", "GELU: tanh"), ("block3.1.norm1", "epsilon 1e-3")),
        two("pair-relu-bias", "ReLU missing; bias of the head", after(at("patch_embed1.conv.2", replaced("", nn.Identity)),
            at("head", no_bias)), ("patch_embed1.conv.3", "ReLU missing"), ("head", "bias dropped")),
        two("pair-kernel-bias", "kernel transposed; bias of a later embedding", after(at("block1.0.attn.local_conv1", swapped),
            at("patch_embed3.proj", no_bias)),
            ("block1.0.attn.local_conv1", "rows and columns"), ("patch_embed3.proj", "bias dropped")),
        two("pair-scale-plain", "scale missing; MLP without its depthwise convolution, same block", after(at("block3.0", scale),
            at("block3.0", plain)), ("block3.0.attn.proj", "scale missing"), ("block3.0.mlp.act", "convolution missing")),
        two("pair-biases", "bias of q and of the reduction, same block", after(at("block2.0.attn.q", no_bias),
            at("block2.0.attn.sr1", no_bias)), ("block2.0.attn.q", "bias dropped"), ("block2.0.attn.sr1", "bias dropped")),
        two("pair-residual-gelu", "residual of attention missing; GELU by sigmoid, same block", after(at("block1.0", alone),
            at("block1.0", SIGMOID)), ("block1.0.norm2", "residual missing"), ("block1.0.mlp.act", "GELU: sigmoid")),
    ]  # fmt: skip


FAULTS = tuple(
    one for group in (epsilons, gelus, reductions, locals_, mixtures, networks, stems, linear_maps, pairs) for one in group()
)
