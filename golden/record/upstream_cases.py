"""Write golden/reforg_golden/cases and its manifest from recordings of the official PyTorch code.

    python golden/record/upstream_cases.py RECORDINGS CHECKPOINTS        (needs NumPy and safetensors; never imports reforg)

RECORDINGS holds one .npz a case, as somebody else's program wrote it: `logits`, `logits_float32`, `kept_tokens.J`, `tap.PATH`,
`keys` and `shapes` of the state dict. CHECKPOINTS holds NAME_logits.npz for the Fashion-MNIST models. Values are
copied bit for bit. What others give to the bit is not stored: the same bytes, max(0, x), a map laid out as tokens, and
a block's x + attention + MLP; the manifest's `derived` says which.
"""

import hashlib
import json
import sys
from pathlib import Path

import numpy as np
from safetensors.numpy import save

TARGET = Path(__file__).parents[1] / "reforg_golden"
EVIT = {"repository": "youweiliang/evit", "commit": "5ca95a7"}
DEIT = {"repository": "facebookresearch/deit", "commit": "7e160fe"}
SHUNTED = {"repository": "OliverRensu/Shunted-Transformer", "commit": "6861101"}
TIMM = {"repository": "huggingface/pytorch-image-models", "commit": "v1.0.31"}
OFFICIAL, RELEASE = {"torch": "2.13.0 (CPU)"}, {"torch": "2.14.1", "timm": "1.0.31"}
LIMITS = {"float64": 1e-10, "float32_rms_ratio": 2.0}

MICRO = {"img_size": 24, "patch_size": 4, "num_classes": 10, "embed_dim": 24, "num_heads": 3}
MICRO_EVIT = MICRO | {"depth": 6, "drop_loc": [1, 3], "keep_rate": 0.7}
MICRO_DEIT3 = MICRO | {"depth": 3}
MICRO_SHUNTED = {
    "num_classes": 10, "embed_dims": [64, 32, 48, 64], "num_heads": [2, 2, 4, 4], "mlp_ratios": [1, 2, 2, 2],
    "depths": [1, 1, 2, 1], "sr_ratios": [8, 4, 2, 1], "num_conv": 1,
}  # fmt: skip
CASES = [  # id, model, config, images, seed, source, versions, why
    ("evit_micro_k07_fuse", "evit_small_patch16_224", MICRO_EVIT | {"fuse_token": True}, (2, 3, 24, 24), 1, EVIT, OFFICIAL,
     "two reorganizations with fusion, the second of which may keep or fuse the first one's fused token; every module's output"),
    ("evit_micro_k07_drop", "evit_small_patch16_224", MICRO_EVIT | {"fuse_token": False}, (2, 3, 24, 24), 2, EVIT, OFFICIAL,
     "the same without fusion: dropped tokens are gone; every module's output"),
    ("shunted_micro", "shunted_t", MICRO_SHUNTED, (1, 3, 64, 96), 3, SHUNTED, OFFICIAL,
     "all four reductions, a stem convolution and an image wider than high; every module's output"),
    ("shunted_micro_96x64", "shunted_t", MICRO_SHUNTED, (2, 3, 96, 64), 4, SHUNTED, OFFICIAL,
     "an image higher than wide: rows and columns swapped anywhere show"),
    ("deit3_micro", "deit3_small_patch16_224", MICRO_DEIT3, (2, 3, 24, 24), 5, DEIT, OFFICIAL,
     "LayerScale, and positions that the class token has no part in; every module's output"),
    ("deit3_micro_parallel", "deit3_small_patch16_224", MICRO_DEIT3 | {"parallel": 2}, (2, 3, 24, 24), 6, DEIT, OFFICIAL,
     "two attentions side by side, then two MLPs; every module's output"),
    ("deit3_micro_hmlp", "deit3_small_patch16_224", MICRO_DEIT3 | {"img_size": 64, "patch_size": 16, "stem": "hmlp"},
     (2, 3, 64, 64), 7, DEIT, OFFICIAL, "the hMLP stem with its batch norms; every module's output"),
    ("evit_small_k07_fuse", "evit_small_patch16_224", {}, (2, 3, 224, 224), 11, EVIT, OFFICIAL,
     "the paper's main model at full size: three reorganizations"),
    ("evit_small_k05_drop", "evit_small_patch16_224", {"keep_rate": 0.5, "fuse_token": False}, (2, 3, 224, 224), 12, EVIT, OFFICIAL,
     "keep rate 0.5 without fusion: counts 98, 49, 25"),
    ("evit_small_k07_fuse_288from224", "evit_small_patch16_224", {}, (1, 3, 288, 288), 13, EVIT, OFFICIAL,
     "positions resampled at the call: bicubic without antialiasing"),
    ("deit3_small", "deit3_small_patch16_224", {}, (2, 3, 224, 224), 14, DEIT, OFFICIAL,
     "DeiT III small as published: twelve blocks at full size"),
    ("shunted_t", "shunted_t", {}, (2, 3, 224, 224), 15, SHUNTED, OFFICIAL,
     "Shunted-T as published: eight blocks at full size"),
    ("shunted_s", "shunted_s", {}, (1, 3, 224, 224), 16, SHUNTED, OFFICIAL,
     "Shunted-S as published: 19 blocks and a stem convolution"),
    ("timm_vit_tiny_patch16_224", "vit_tiny_patch16_224", {}, (2, 3, 224, 224), 21, TIMM, RELEASE,
     "ViT tiny at full size, as timm computes it"),
    ("timm_deit_tiny_distilled_patch16_224", "deit_tiny_distilled_patch16_224", {}, (2, 3, 224, 224), 22, TIMM, RELEASE,
     "the distillation token and the mean of two heads"),
    ("timm_deit3_medium_patch16_224", "deit3_medium_patch16_224.fb_in1k", {}, (1, 3, 224, 224), 23, TIMM, RELEASE,
     "timm's spelling of LayerScale (ls1.gamma)"),
]  # fmt: skip
TRAINED = [("evit_fmnist", EVIT), ("deit3_fmnist", DEIT), ("shunted_fmnist", SHUNTED)]


def bits(value: np.ndarray) -> tuple:
    """What two arrays share only where nothing about them differs, the sign of a zero included."""
    return value.dtype.str, value.shape, value.tobytes()


def views(value: np.ndarray) -> dict[str, np.ndarray]:
    """What a float64 map (B, C, H, W) is also recorded as: its positive part, and its pixels as tokens (B, H*W, C)."""
    if value.ndim != 4 or value.dtype != np.float64:
        return {}
    return {"relu": np.maximum(value, 0.0), "tokens": value.reshape(*value.shape[:2], -1).transpose(0, 2, 1)}


def residual(name: str, value: np.ndarray, earlier: dict[str, np.ndarray]) -> list[str] | None:
    """A block's output as (x + attention) + MLP of an earlier x, in the order in which the official blocks add."""
    branches = [f"{name}.attn", f"{name}.mlp"]
    attention, mlp = (earlier.get(branch) for branch in branches)
    if attention is None or mlp is None or attention.shape != value.shape:
        return None
    for source, x in earlier.items():
        if x.shape == value.shape and bits((x + attention) + mlp) == bits(value):
            return ["sum", source, *branches]
    return None


def deduplicate(arrays: dict[str, np.ndarray]) -> tuple[dict[str, np.ndarray], dict[str, list[str]]]:
    """What to store, and name -> [how, *sources] for what its sources, stored or derived earlier, give to the bit."""
    stored: dict[str, np.ndarray] = {}
    derived: dict[str, list[str]] = {}
    known: dict[tuple, list[str]] = {}
    earlier: dict[str, np.ndarray] = {}
    for name, value in arrays.items():
        recipe = known.get(bits(value)) or residual(name, value, earlier)
        if recipe is None:
            stored[name] = value
        else:
            derived[name] = recipe
        earlier[name] = value
        for how, made in {"same": value, **views(value)}.items():
            known.setdefault(bits(made), [how, name])
    return stored, derived


def write(name: str, arrays: dict[str, np.ndarray], state: dict[str, list[int]], entry: dict) -> dict:
    stored, derived = deduplicate(arrays)
    content = save({key: np.ascontiguousarray(value) for key, value in stored.items()}, {"state_dict": json.dumps(state)})
    path = TARGET / "cases" / f"{name}.safetensors"
    path.write_bytes(content)
    digest = hashlib.sha256(content).hexdigest()
    return {"id": name, **entry, "limits": LIMITS, "file": f"cases/{path.name}", "sha256": digest, "derived": derived}


def synthetic_case(recordings: Path, case: tuple) -> dict:
    name, model, config, shape, seed, source, versions, why = case
    with np.load(recordings / f"{name}.npz", allow_pickle=False) as data:
        shapes = [[int(side) for side in text.split(",") if side] for text in data["shapes"].tolist()]
        state = dict(zip(data["keys"].tolist(), shapes, strict=True))
        arrays = {key: data[key] for key in data if key not in ("keys", "shapes")}
    entry = {
        "model": model, "config": config, "weights": f"synthetic:{seed}", "images": {"synthetic": seed, "shape": list(shape)},
        "source": source, "versions": versions, "why": why,
    }  # fmt: skip
    return write(name, arrays, state, entry)


def trained_case(checkpoints: Path, name: str, source: dict[str, str]) -> dict:
    with np.load(checkpoints / f"{name}_logits.npz", allow_pickle=False) as data:
        arrays = {key: data[key] for key in data}
    entry = {
        "model": name, "config": {}, "weights": "embedded", "images": {"embedded": len(arrays["logits"])},
        "source": source, "versions": OFFICIAL, "why": "trained weights on real images, and the preprocessing before them",
    }  # fmt: skip
    return write(name, arrays, {}, entry)


def main() -> None:
    recordings, checkpoints = map(Path, sys.argv[1:3])
    (TARGET / "cases").mkdir(exist_ok=True)
    entries = [synthetic_case(recordings, case) for case in CASES]
    entries += [trained_case(checkpoints, name, source) for name, source in TRAINED]
    text = json.dumps({"schema": 1, "cases": entries}, indent=1)
    (TARGET / "manifest.json").write_text(text + "\n")
    print(f"{len(entries)} cases, {sum(path.stat().st_size for path in TARGET.rglob('*.safetensors')):,} bytes")


if __name__ == "__main__":
    main()
