"""Faults that only Shunted can have: key reduction, local convolution, detail MLP."""

from typing import Any

from torch import Tensor, nn

from faults.attention_faults import PROJ, REDUCED, attention_of
from faults.modules import maps_of, tokens_of
from faults.table import fault

RATIO_TWO = {"shunted": ("block3.0", "block3.1")}  # whose second half of the heads has ratio 1
WHOLE = {"shunted": ("block4.0",)}
MLPS = {"shunted": ("block1.0", "block3.1")}


def _after(attention: Any, norm: bool, gelu: bool) -> Any:
    """What follows the reducing convolutions, with less at ratio 1."""

    def step(number: int, x: Tensor) -> Tensor:
        plain = number == 2
        x = x if plain and not norm else attention.get_submodule(f"norm{number}")(x)
        return x if plain and not gelu else attention.act(x)

    return step


@fault("no-gelu-at-one", "no GELU at ratio 1", RATIO_TWO, "{}.attn.act", r"no GELU at ratio 1", ("{}.attn.kv2",))
def no_gelu_at_one(module: Any, place: str) -> None:
    attention = attention_of(module, place)
    attention.after = _after(attention, norm=True, gelu=False)


@fault("no-norm-gelu-at-one", "no norm and no GELU at ratio 1", RATIO_TWO, "{}.attn.act", r"no norm and no GELU.*ratio 1",
       ("{}.attn.kv2",))  # fmt: skip
def no_norm_gelu_at_one(module: Any, place: str) -> None:
    attention = attention_of(module, place)
    attention.after = _after(attention, norm=False, gelu=False)


@fault("local-missing", "local convolution missing", REDUCED, PROJ, r"local convolution missing")
def local_missing(module: Any, place: str) -> None:
    attention_of(module, place).enhanced = lambda pair, local, grid: pair


@fault("local-missing-whole", "local convolution missing (ratio 1)", WHOLE, PROJ, r"local convolution missing")
def local_missing_whole(module: Any, place: str) -> None:
    attention = attention_of(module, place)
    attention.whole = lambda q, kv, grid: attention.group(q, *attention.sides(kv))


@fault("local-to-values", "local convolution added to V where it belongs to the output", WHOLE, PROJ, r"local.*added to V where")
def local_to_values(module: Any, place: str) -> None:
    attention = attention_of(module, place)
    attention.whole = lambda q, kv, grid: attention.group(q, *type(attention).enhanced(
        attention, attention.sides(kv), attention.local_conv, grid))  # fmt: skip


@fault("local-to-output", "local convolution added to the output where it belongs to V", RATIO_TWO, PROJ,
       r"local.*added to the output where")  # fmt: skip
def local_to_output(module: Any, place: str) -> None:
    """The coarser half's map is repeated to the queries' grid, the other's has it already."""
    attention = attention_of(module, place)
    locals_of: list[Tensor] = []

    def kept(pair: Any, local: nn.Module, grid: Any) -> Any:
        locals_of.append(local(maps_of(pair[1], grid)))
        return pair

    def joined(first: Tensor, second: Tensor) -> Tensor:
        coarse, fine = locals_of
        locals_of.clear()
        sides = [fine.shape[axis] // coarse.shape[axis] for axis in (2, 3)]
        coarse = coarse.repeat_interleave(sides[0], dim=2).repeat_interleave(sides[1], dim=3)
        return type(attention).joined(attention, first + tokens_of(coarse), second + tokens_of(fine))

    attention.enhanced, attention.joined = kept, joined


@fault("keys-enhanced", "K enhanced instead of V: its convolution, added to it", REDUCED, "{}.attn.local_conv1",
       r"local convolution of K", ("{}.attn.local_conv2", PROJ))  # fmt: skip
def keys_enhanced(module: Any, place: str) -> None:
    attention_of(module, place).enhanced = lambda pair, local, grid: (pair[0] + tokens_of(local(maps_of(pair[0], grid))), pair[1])


@fault("local-to-keys", "V's convolution added to K", REDUCED, PROJ, r"local convolution added to K")
def local_to_keys(module: Any, place: str) -> None:
    attention_of(module, place).enhanced = lambda pair, local, grid: (pair[0] + tokens_of(local(maps_of(pair[1], grid))), pair[1])


@fault("no-dwconv", "MLP without its depthwise convolution: gelu(y)", MLPS, "{}.mlp.act", r"depthwise convolution missing|gelu\(y\)")
def no_dwconv(module: Any, place: str) -> None:
    mlp = module.get_submodule(place).mlp
    mlp.hidden = lambda y, grid: mlp.act(y)


@fault("dwconv-alone", "MLP: gelu(dwconv(y)), without y", MLPS, "{}.mlp.act", r"gelu\(dwconv\(y\)\)|convolution alone")
def dwconv_alone(module: Any, place: str) -> None:
    mlp = module.get_submodule(place).mlp
    mlp.hidden = lambda y, grid: mlp.act(mlp.dwconv(y, grid))


@fault("dwconv-beside", "MLP: y + gelu(dwconv(y))", MLPS, "{}.mlp.act", r"y \+ gelu\(dwconv\(y\)\)", ("{}.mlp.fc2",))
def dwconv_beside(module: Any, place: str) -> None:
    mlp = module.get_submodule(place).mlp
    mlp.hidden = lambda y, grid: y + mlp.act(mlp.dwconv(y, grid))


@fault("first-token", "first token for the mean", {"shunted": ("",)}, "head", r"first token")
def first_token(module: Any, place: str) -> None:
    module.pooled = lambda x: x[:, 0]
