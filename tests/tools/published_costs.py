"""Published costs beside ours, and which rule of counting would give which figure.

    python tests/tools/published_costs.py        prints both tables and what follows from them, as Markdown

The figures are those of the tables of Touvron et al. 2021 [DeiT], 2022 [DeiT III], Liang et al. 2022 [EViT] and Ren et al. 2022
[Shunted]. What tools count is read from fvcore's `jit_handles.py` and torchprofile's `handlers.py`.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import cache, cached_property
from math import prod

import reforg
from reforg.catalog.names import build_config
from reforg.costs.cost import Cost
from reforg.costs.ledger import Layer
from reforg.families import shapes


@dataclass(frozen=True, eq=False)
class Row:
    """A published line: the model, its parameters in millions and its GMACs as they are printed; None where neither is."""

    label: str
    name: str
    params: str | None
    gmacs: str | None
    settings: dict[str, object] = field(default_factory=dict)

    @cached_property
    def cost(self) -> Cost:
        return reforg.cost(self.name, **self.settings)


def _rows() -> list[Row]:
    found = [
        Row(f"DeiT-{letter}", f"deit_{size}_patch16_224", params, gmacs)
        for letter, size, params, gmacs in (
            ("Ti", "tiny", "5.717416", "1.3"), ("S", "small", "22.050664", "4.6"), ("B", "base", "86.567656", "17.6"),
        )
    ]  # fmt: skip
    found += [
        Row(f"DeiT-{letter} distilled", f"deit_{size}_distilled_patch16_224", params, None)
        for letter, size, params in (("Ti", "tiny", "5.910800"), ("S", "small", "22.436432"), ("B", "base", "87.338192"))
    ]
    for fuse, word in ((True, "fused"), (False, "dropped")):
        for rate, gmacs in ((0.9, "4.0"), (0.8, "3.5"), (0.7, "3.0"), (0.6, "2.6"), (0.5, "2.3")):
            settings = {"keep_rate": rate, "fuse_token": fuse}
            found.append(Row(f"EViT-S {rate} {word}", "evit_small_patch16_224", "22.1", gmacs, settings))
    for rate, gmacs in ((1.0, "17.56"), (0.9, "15.40"), (0.8, "13.33"), (0.7, "11.61"), (0.6, "10.09"), (0.5, "8.82")):
        found.append(Row(f"EViT-B {rate}", "evit_base_patch16_224", "86.6", gmacs, {"keep_rate": rate}))
    for side, gmacs in ((272, "4.56"), (288, "4.50"), (304, "4.44")):
        found.append(Row(f"EViT-S at {side}", f"evit_small_patch16_{side}", "22.1", gmacs))
    for letter, name, params, gmacs in (
        ("S", "small_patch16_224", "22.059496", "4.6"), ("M", "medium_patch16_224", "38.849512", "8.0"),
        ("B", "base_patch16_224", "86.585320", "17.5"), ("L", "large_patch16_224", "304.374760", "61.6"),
        ("H", "huge_patch14_224", "632.126440", "167.4"), ("S at 384", "small_patch16_384", "22.0", "15.5"),
        ("B at 384", "base_patch16_384", "86.9", "55.5"), ("L at 384", "large_patch16_384", "304.8", "191.2"),
    ):  # fmt: skip
        found.append(Row(f"DeiT III-{letter}", f"deit3_{name}", params, gmacs))
    for letter, params, gmacs in (("T", "11.5", "2.1"), ("S", "22.4", "4.9"), ("B", "39.6", "8.1")):
        found.append(Row(f"Shunted-{letter}", f"shunted_{letter.lower()}", params, gmacs))
    return found


ROWS = _rows()
COUNTED = [row for row in ROWS if row.gmacs is not None]


def row(label: str) -> Row:
    return next(row for row in ROWS if row.label == label)


def fits(value: float, published: str, down: bool = False) -> bool:
    """Whether a value (in the unit of the print) rounds, or is cut, to the digits that were printed."""
    digits = len(published.partition(".")[2])
    return f"{math.floor(value * 10**digits) / 10**digits if down else value:.{digits}f}" == published


# what else than multiplications could be counted, in elements


def _elements(cost: Cost, *operations: str) -> int:
    return sum(prod(layer.shape) for layer in cost.by_layer.values() if layer.operation in operations)


def _scores(row: Row) -> int:
    """Attention's probabilities, each of which is scaled and goes through softmax."""
    return sum(layer.macs // (2 * layer.shape[-1]) for layer in row.cost.by_layer.values() if layer.operation == "attention")


def _biases(row: Row) -> int:
    known = shapes(build_config(row.name, **row.settings))
    multiplying = ("linear", "conv2d", "depthwise_conv2d")
    return sum(
        prod(layer.shape) for name, layer in row.cost.by_layer.items() if layer.operation in multiplying and f"{name}.bias" in known
    )


ELEMENTWISE: dict[str, Callable[[Row], int]] = {
    "values of layer norms": lambda row: _elements(row.cost, "layer_norm"),
    "GELUs": lambda row: _elements(row.cost, "gelu"),
    "scores": _scores,
    "biases": _biases,
}


# the rules


def _kept(row: Row, keep: Callable[[str, Layer], bool]) -> int:
    return sum(layer.macs for name, layer in row.cost.by_layer.items() if keep(name, layer))


def _changed(row: Row, **settings: object) -> int:
    own = {key: value for key, value in settings.items() if row.name.startswith("evit")}
    return reforg.cost(row.name, **{**row.settings, **own}).macs


def _without_class_token(row: Row) -> int:
    """The blocks on the patches alone: one token less in every linear map, and in both attention products."""
    total = row.cost.macs
    for name, layer in row.cost.by_layer.items():
        if name.startswith("blocks.") and layer.macs:
            tokens = layer.shape[-2]
            power = 2 if layer.operation == "attention" else 1
            total -= layer.macs - layer.macs // tokens**power * (tokens - 1) ** power
    return total


@dataclass(frozen=True, eq=False)
class Rule:
    """A way to count a forward pass, and whether its figures are cut instead of rounded."""

    what: str
    count: Callable[[Row], int]
    down: bool = False

    def fits(self, row: Row) -> bool:
        return fits(counted(self, row) / 1e9, row.gmacs or "", self.down)


@cache
def counted(rule: Rule, row: Row) -> int:
    return rule.count(row)


RULES = [
    Rule("ours: multiplications of linear maps, convolutions and the two attention products", lambda row: row.cost.macs),
    Rule("ours, cut to the printed digits instead of rounded", lambda row: row.cost.macs, down=True),
    Rule(
        "fvcore: ours, 5 for each value of a layer norm, 2 of a batch norm",
        lambda row: row.cost.macs + 5 * _elements(row.cost, "layer_norm") + 2 * _elements(row.cost, "batch_norm"),
    ),
    Rule(
        "torchprofile: ours, 1 for each value of a layer norm, 1 for each scaled score",
        lambda row: row.cost.macs + _elements(row.cost, "layer_norm") + _scores(row),
    ),
    Rule(
        "ours, 1 for each value normed, GELU, score and bias",
        lambda row: row.cost.macs + sum(count(row) for count in ELEMENTWISE.values()) + _elements(row.cost, "batch_norm"),
    ),
    Rule(
        "ours without attention's products, which tools that see modules only leave out",
        lambda row: _kept(row, lambda _, x: x.operation != "attention"),
    ),
    Rule("ours with q k^T only", lambda row: row.cost.macs - row.cost.by_operation["attention"] // 2),
    Rule("ours without the head", lambda row: _kept(row, lambda name, _: not name.startswith("head"))),
    Rule("ours without patch embeddings", lambda row: _kept(row, lambda name, _: not name.startswith("patch_embed"))),
    Rule("ours without depthwise convolutions", lambda row: _kept(row, lambda _, x: x.operation != "depthwise_conv2d")),
    Rule("ours without the class token", _without_class_token),
    Rule("ours, a fused token in every pruned block", lambda row: _changed(row, fuse_token=True)),
    Rule("ours, a fused token in none", lambda row: _changed(row, fuse_token=False)),
]
OURS, CUT, FVCORE, *_ = RULES
SHUNTED = "Shunted-T", "Shunted-S", "Shunted-B"


def letter(rule: Rule) -> str:
    return chr(ord("A") + RULES.index(rule))


def deviating(rule: Rule) -> list[Row]:
    return [row for row in COUNTED if not rule.fits(row)]


# what follows


def same_operations(*labels: str) -> bool:
    """Whether models do exactly the same operations of the record, with the same shapes, under the same names."""
    first, *others = [row(label).cost.by_layer for label in labels]
    return all(other == first for other in others)


def room(row: Row) -> int:
    """How many more MACs than ours still round to the printed figure; below 0: how many fewer it takes."""
    digits = len((row.gmacs or "").partition(".")[2])
    return int((float(row.gmacs or 0) + 0.5 * 10**-digits) * 1e9) - row.cost.macs


def lack(row: Row) -> int:
    """How many more MACs than ours it takes to round to the printed figure; below 0: how many may be left out."""
    digits = len((row.gmacs or "").partition(".")[2])
    return math.ceil((float(row.gmacs or 0) - 0.5 * 10**-digits) * 1e9) - row.cost.macs


def most(from_row: Row, to_row: Row) -> int:
    """The most that any non-negative weights of the elementwise kinds can add to one row within the room of another."""
    return int(room(from_row) * max(count(to_row) / count(from_row) for count in ELEMENTWISE.values()))


def single_omissions() -> dict[str, int]:
    """Parts outside the blocks whose omission alone makes all three Shunted figures fit, with their MACs in Shunted-S."""
    parts = {
        f"the {word} patch embedding": f"patch_embed{stage}.proj" for stage, word in ((2, "second"), (3, "third"), (4, "fourth"))
    }
    parts |= {"the stem's first convolution": "patch_embed1.conv.0", "the stem's last convolution": "patch_embed1.conv.{last}"}
    found = {}
    for part, path in parts.items():
        names = {x: path.format(last=3 * getattr(build_config(x.name), "num_conv", 0) + 3) for x in map(row, SHUNTED)}
        if all(fits((x.cost.macs - x.cost.by_layer[name].macs) / 1e9, x.gmacs or "") for x, name in names.items()):
            found[part] = row("Shunted-S").cost.by_layer[names[row("Shunted-S")]].macs
    return found


# the page


def table() -> str:
    lines = ["| model | params (M), published | ours | GMACs, published | ours | difference | to the digit |", "|---" * 7 + "|"]
    for x in ROWS:
        macs = x.cost.macs / 1e9
        cells = [x.label, x.params or "", f"{x.cost.params / 1e6:.6f}", x.gmacs or "", f"{macs:.4f}"]
        cells += [f"{macs / float(x.gmacs) - 1:+.2%}", "yes" if OURS.fits(x) else "no"] if x.gmacs else ["", ""]
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines)


def matrix() -> str:
    """Where a rule gives the printed figure, "="; else what it gives."""
    lines = [f"{letter(rule)}. {rule.what}: {sum(map(rule.fits, COUNTED))} of {len(COUNTED)}" for rule in RULES]
    lines += ["", f"| model | published | {' | '.join(map(letter, RULES))} |", "|---" * (len(RULES) + 2) + "|"]
    for x in COUNTED:
        cells = ["=" if rule.fits(x) else f"{counted(rule, x) / 1e9:.5g}" for rule in RULES]
        lines.append(f"| {x.label} | {x.gmacs} | {' | '.join(cells)} |")
    return "\n".join(lines)


def findings() -> str:
    """What cannot all hold, with the figures that show it."""
    fitting = len(COUNTED) - len(deviating(OURS))
    others = (f"{x.label} ({' '.join(letter(rule) for rule in RULES if rule.fits(x)) or 'none'})" for x in deviating(OURS))
    return "\n".join([
        f"By our rule {fitting} of {len(COUNTED)} figures come out to the printed digit. The others, and the rules that give them: "
        f"{', '.join(others)}. No rule above gives all, and none can:",
        "",
        _one_network(), _room(), _shunted(), _dropped(), _positions(),
    ])  # fmt: skip


def _one_network() -> str:
    three = "DeiT-B", "EViT-B 1.0", "DeiT III-B"
    assert same_operations(*three)
    cut = sum(x.label.startswith("DeiT") for x in deviating(CUT))
    giving = [rule for rule in RULES if rule.fits(row("DeiT III-B"))]
    assert not any(rule.fits(row("DeiT-B")) for rule in giving)
    return (
        f"- {', '.join(three)} are one network (DeiT III scales its branches besides, and adds no position to the class token), "
        f"printed as {', '.join(row(label).gmacs or '' for label in three)}. If figures are rounded, 17.56 (at least 17.555) "
        f"excludes 17.5 (below 17.55); if they are cut, 17.6 (at least 17.6) excludes 17.56 (below 17.57). Rules "
        f"{' and '.join(map(letter, giving))} give 17.5, not 17.6; cutting loses {cut} figures of the DeiT papers."
    )


def _room() -> str:
    base, huge, large = row("EViT-B 1.0"), row("DeiT III-H"), row("DeiT III-L at 384")
    assert all(lack(wanted) > most(base, wanted) for wanted in (huge, large))
    given = [f"{counted(FVCORE, x) / 1e9:.2f}" for x in (huge, large, base)]
    return (
        f"- {huge.label} wants {lack(huge) / 1e6:.1f} M more than we count, {large.label} {lack(large) / 1e6:.1f} M more; "
        f"{base.label}'s 17.56 leaves room for {room(base) / 1e6:.2f} M. Whatever one counts for each of "
        f"{', '.join(ELEMENTWISE)}, within that room it adds at most {most(base, huge) / 1e6:.1f} M and "
        f"{most(base, large) / 1e6:.1f} M to them. fvcore's rule gives {given[0]} and {given[1]}, and {given[2]} for {base.label}."
    )


def _shunted() -> str:
    small = row("Shunted-S")
    assert lack(small) < room(small) < 0
    assert all(CUT.fits(x) and fits(x.cost.params / 1e6, x.params or "", down=True) for x in map(row, SHUNTED))
    omitted = ", ".join(f"{part} ({macs / 1e6:.1f} M)" for part, macs in single_omissions().items())
    without = next(rule for rule in RULES if "depthwise" in rule.what)
    return (
        f"- Shunted-S is printed {-room(small) / 1e6:.1f} M to {-lack(small) / 1e6:.1f} M below our count, so no rule that counts "
        f"more gives it. That paper seems to cut: cut, all its GMACs and parameters come out, Shunted-T's 11.5 M "
        f"({row('Shunted-T').cost.params / 1e6:.3f}) too. Rounded, its GMACs would come out without any one of {omitted}; "
        f"without depthwise convolutions T and S do, but B becomes {counted(without, row('Shunted-B')) / 1e9:.2f}."
    )


def _dropped() -> str:
    fused, dropped = (row(f"EViT-S 0.8 {word}").cost.macs / 1e9 for word in ("fused", "dropped"))
    always = next(rule for rule in RULES if "in every" in rule.what)
    assert all(always.fits(x) for x in COUNTED if x.label.startswith("EViT"))
    return (
        f"- EViT-S at 0.8 is printed as 3.5 fused and dropped; we count {fused:.4f} and {dropped:.4f}. With a fused token "
        f"counted where none is (rule {letter(always)}) every figure of EViT comes out."
    )


def _positions() -> str:
    large, small = row("DeiT III-S at 384").cost.params / 1e6, row("DeiT III-S").cost.params / 1e6
    others = [x.label for x in ROWS if x.params and not fits(x.cost.params / 1e6, x.params)]
    assert others == ["DeiT III-S at 384", "Shunted-T"]
    return (
        f"- Parameters: DeiT III-S at 384 is printed with 22.0 M; it has {large:.3f} M, 576 positions instead of 196. The model "
        f"at 224 has {small:.3f} M, which is 22.0 where it is cut. All but this one and Shunted-T's come out rounded."
    )


def main() -> None:
    print(f"{table()}\n\n{matrix()}\n\n{findings()}")


if __name__ == "__main__":
    main()
