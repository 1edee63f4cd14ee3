"""The peer that `reforg bench` holds reforg against: the same models in torch, eagerly, as torch's users write them.

Written from the papers with torch.nn.functional, and independent of reforg's forward passes; of reforg it reads configs only.
Everything is left at torch's defaults (on CUDA that means TF32 in cuDNN's convolutions). `reforg.bench.peers` says what a peer is.
May import reforg.config and torch. Start with `build`, below, then `vit`.
"""

from collections.abc import Callable, Mapping
from dataclasses import fields
from typing import Any

import torch

from reforg.config import Config, ShuntedConfig, VitConfig
from reforg_torch.peer import shunted, vit

name = "torch eager"
Forward = Callable[[Any], Any]
BUILDERS: dict[type[Config], Callable[[Any, dict[str, Any]], Forward]] = {VitConfig: vit.build, ShuntedConfig: shunted.build}
# What the forward passes heed. A config with any other field asks for something that they would silently leave out.
KNOWN: dict[type[Config], set[str]] = {
    VitConfig: {
        *("family", "img_size", "patch_size", "in_chans", "num_classes", "embed_dim", "depth", "num_heads", "mlp_ratio"),
        *("qkv_bias", "norm_eps", "init_values", "no_embed_class", "distilled", "global_pool", "parallel", "stem", "keep_rate"),
        *("drop_loc", "fuse_token", "tokens", "antialias", "modules"),
    },
    ShuntedConfig: {
        *("family", "img_size", "in_chans", "num_classes", "embed_dims", "depths", "num_heads", "mlp_ratios", "sr_ratios"),
        *("num_conv", "qkv_bias", "norm_eps"),
    },
}  # fmt: skip


def version() -> str:
    """Torch's version."""
    return f"torch {torch.__version__}"


def build(config: Config, weights: Mapping[str, Any], dtype: str, device: Any, threads: int | None) -> Forward:
    """A function from images (B, C, H, W), a NumPy array of float32, to logits (B, num_classes) as a NumPy array.

    weights: float32 NumPy arrays under the official names; used where they lie if dtype and device allow. threads: for
    torch.set_num_threads. Raises ValueError for a config, a dtype or a device that it does not know.
    """
    return built(config, weights, dtype, device, threads, lambda forward: forward)


def built(
    config: Config, weights: Mapping[str, Any], dtype: str, device: Any, threads: int | None, made: Callable[[Forward], Forward]
) -> Forward:
    """As `build`; what runs is what `made` makes of the forward pass from tensors to tensors."""
    if threads is not None:
        torch.set_num_threads(threads)
    place = torch.get_default_device() if device is None else torch.device(device)
    forward, kind = made(forward_of(config, weights, dtype, place)), getattr(torch, dtype)

    @torch.inference_mode()  # type: ignore[untyped-decorator]
    def run(images: Any) -> Any:
        logits = forward(torch.from_numpy(images).to(device=place, dtype=kind)).cpu()
        return (logits.float() if kind == torch.bfloat16 else logits).numpy()

    answer: Forward = run
    return answer


def forward_of(config: Config, weights: Mapping[str, Any], dtype: str, place: Any) -> Forward:
    """The forward pass from images (B, C, H, W) to logits (B, num_classes), tensors of that dtype on that device."""
    _check(config, dtype)
    kind = getattr(torch, dtype)
    tensors = {key: torch.from_numpy(value).to(device=place, dtype=kind).contiguous() for key, value in weights.items()}
    return BUILDERS[type(config)](config, tensors)


def _check(config: Any, dtype: str) -> None:
    known = KNOWN.get(type(config), set())
    unknown = {entry.name for entry in fields(config)} - known if known else {type(config).__name__}
    if unknown:
        raise ValueError(f"no {', '.join(sorted(unknown))}; torch's peers know the fields of VitConfig and ShuntedConfig")
    if dtype not in ("float64", "float32", "float16", "bfloat16"):
        raise ValueError(f"no dtype {dtype!r}; torch has float64, float32, float16 and bfloat16")
