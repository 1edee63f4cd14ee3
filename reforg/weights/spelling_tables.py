"""The names that other programs give to the same tensors: one table a source.

A table maps our name, which is the official code's, to the source's. "#" is the number of the block; a name without
".weight" or ".bias" stands for both of them. A tuple is queries, keys and values, which lie side by side in our qkv.
"""

from typing import NamedTuple

Name = str | tuple[str, str, str]

# timm, where it differs from the official code: LayerScale, and parallel blocks.
TIMM: dict[str, Name] = {
    "blocks.#.gamma_1": "blocks.#.ls1.gamma",
    "blocks.#.gamma_2": "blocks.#.ls2.gamma",
}
TIMM_PARALLEL: dict[str, Name] = {
    "blocks.#.norm1": "blocks.#.attns.0.norm",
    "blocks.#.norm11": "blocks.#.attns.1.norm",
    "blocks.#.attn.qkv": "blocks.#.attns.0.attn.qkv",
    "blocks.#.attn1.qkv": "blocks.#.attns.1.attn.qkv",
    "blocks.#.attn.proj": "blocks.#.attns.0.attn.proj",
    "blocks.#.attn1.proj": "blocks.#.attns.1.attn.proj",
    "blocks.#.gamma_1": "blocks.#.attns.0.ls.gamma",
    "blocks.#.gamma_1_1": "blocks.#.attns.1.ls.gamma",
    "blocks.#.norm2": "blocks.#.ffns.0.norm",
    "blocks.#.norm21": "blocks.#.ffns.1.norm",
    "blocks.#.mlp.fc1": "blocks.#.ffns.0.mlp.fc1",
    "blocks.#.mlp1.fc1": "blocks.#.ffns.1.mlp.fc1",
    "blocks.#.mlp.fc2": "blocks.#.ffns.0.mlp.fc2",
    "blocks.#.mlp1.fc2": "blocks.#.ffns.1.mlp.fc2",
    "blocks.#.gamma_2": "blocks.#.ffns.0.ls.gamma",
    "blocks.#.gamma_2_1": "blocks.#.ffns.1.ls.gamma",
}

# transformers: what ViT, DeiT and DINOv2 share, then each of them as version 4 names it, which version 5 writes too.
EMBEDDINGS: dict[str, Name] = {
    "cls_token": "embeddings.cls_token",
    "dist_token": "embeddings.distillation_token",
    "pos_embed": "embeddings.position_embeddings",
    "patch_embed.proj": "embeddings.patch_embeddings.projection",
    "norm": "layernorm",
}
TRANSFORMERS_4: dict[str, Name] = EMBEDDINGS | {
    "blocks.#.norm1": "encoder.layer.#.layernorm_before",
    "blocks.#.attn.qkv": (
        "encoder.layer.#.attention.attention.query",
        "encoder.layer.#.attention.attention.key",
        "encoder.layer.#.attention.attention.value",
    ),
    "blocks.#.attn.proj": "encoder.layer.#.attention.output.dense",
    "blocks.#.norm2": "encoder.layer.#.layernorm_after",
    "blocks.#.mlp.fc1": "encoder.layer.#.intermediate.dense",
    "blocks.#.mlp.fc2": "encoder.layer.#.output.dense",
    "head": "classifier",
}
DINOV2_4: dict[str, Name] = EMBEDDINGS | {
    "blocks.#.norm1": "encoder.layer.#.norm1",
    "blocks.#.attn.qkv": TRANSFORMERS_4["blocks.#.attn.qkv"],
    "blocks.#.attn.proj": "encoder.layer.#.attention.output.dense",
    "blocks.#.ls1.gamma": "encoder.layer.#.layer_scale1.lambda1",
    "blocks.#.norm2": "encoder.layer.#.norm2",
    "blocks.#.mlp.fc1": "encoder.layer.#.mlp.fc1",
    "blocks.#.mlp.fc2": "encoder.layer.#.mlp.fc2",
    "blocks.#.ls2.gamma": "encoder.layer.#.layer_scale2.lambda1",
}
# Version 5's own modules.
TRANSFORMERS_5: dict[str, Name] = EMBEDDINGS | {
    "blocks.#.norm1": "layers.#.layernorm_before",
    "blocks.#.attn.qkv": ("layers.#.attention.q_proj", "layers.#.attention.k_proj", "layers.#.attention.v_proj"),
    "blocks.#.attn.proj": "layers.#.attention.o_proj",
    "blocks.#.norm2": "layers.#.layernorm_after",
    "blocks.#.mlp.fc1": "layers.#.mlp.fc1",
    "blocks.#.mlp.fc2": "layers.#.mlp.fc2",
    "head": "classifier",
}
DINOV2_5: dict[str, Name] = DINOV2_4 | {
    "blocks.#.attn.qkv": (
        "encoder.layer.#.attention.q_proj",
        "encoder.layer.#.attention.k_proj",
        "encoder.layer.#.attention.v_proj",
    ),
    "blocks.#.attn.proj": "encoder.layer.#.attention.o_proj",
}
DISTILLED_HEADS: dict[str, Name] = {"head": "cls_classifier", "head_dist": "distillation_classifier"}


def _jax(block: str, attention: str, mlp: str, norms: tuple[str, str], table: dict[str, Name]) -> dict[str, Name]:
    """Google's names of a ViT, whose versions number a block's modules differently."""
    query, key, value = (f"{block}/{attention}/{part}" for part in ("query", "key", "value"))
    return table | {
        "blocks.#.norm1.weight": f"{block}/{norms[0]}/scale",
        "blocks.#.norm1.bias": f"{block}/{norms[0]}/bias",
        "blocks.#.attn.qkv.weight": (f"{query}/kernel", f"{key}/kernel", f"{value}/kernel"),
        "blocks.#.attn.qkv.bias": (f"{query}/bias", f"{key}/bias", f"{value}/bias"),
        "blocks.#.attn.proj.weight": f"{block}/{attention}/out/kernel",
        "blocks.#.attn.proj.bias": f"{block}/{attention}/out/bias",
        "blocks.#.norm2.weight": f"{block}/{norms[1]}/scale",
        "blocks.#.norm2.bias": f"{block}/{norms[1]}/bias",
        "blocks.#.mlp.fc1.weight": f"{block}/{mlp}/Dense_0/kernel",
        "blocks.#.mlp.fc1.bias": f"{block}/{mlp}/Dense_0/bias",
        "blocks.#.mlp.fc2.weight": f"{block}/{mlp}/Dense_1/kernel",
        "blocks.#.mlp.fc2.bias": f"{block}/{mlp}/Dense_1/bias",
        "patch_embed.proj.weight": "embedding/kernel",
        "patch_embed.proj.bias": "embedding/bias",
        "norm.weight": "Transformer/encoder_norm/scale",
        "norm.bias": "Transformer/encoder_norm/bias",
        "head.weight": "head/kernel",
        "head.bias": "head/bias",
        "cls_token": "cls",
    }


# Google's vision_transformer repository, and its successor big_vision.
JAX = _jax(
    "Transformer/encoderblock_#",
    "MultiHeadDotProductAttention_1",
    "MlpBlock_3",
    ("LayerNorm_0", "LayerNorm_2"),
    {"pos_embed": "Transformer/posembed_input/pos_embedding"},
)
BIG_VISION = _jax(
    "Transformer/encoderblock_#",
    "MultiHeadDotProductAttention_0",
    "MlpBlock_0",
    ("LayerNorm_0", "LayerNorm_1"),
    {"pos_embed": "pos_embedding"},
)


class Source(NamedTuple):
    """A program's names: its tables, the prefixes that its files may put before them, and what no forward pass reads."""

    tables: tuple[dict[str, Name], ...]
    prefixes: tuple[str, ...] = ()
    unread: tuple[str, ...] = ()


OFFICIAL = "official"
HUGGING_FACE = ("vit.", "deit.", "dinov2."), ("embeddings.mask_token", "pooler.dense.weight", "pooler.dense.bias")
SOURCES = {
    OFFICIAL: Source((), (), ("mask_token",)),
    "timm": Source((TIMM, TIMM_PARALLEL)),
    "transformers4": Source((TRANSFORMERS_4, TRANSFORMERS_4 | DISTILLED_HEADS, DINOV2_4), *HUGGING_FACE),
    "transformers5": Source((TRANSFORMERS_5, TRANSFORMERS_5 | DISTILLED_HEADS, DINOV2_5), *HUGGING_FACE),
    "jax": Source((JAX, BIG_VISION), ("opt/target/", "params/img/", "params/")),
}
ALIASES = {"transformers": "transformers4"}  # what save_pretrained writes, whichever version it is of
CLASSIFIERS = ("classifier.", "cls_classifier.", "distillation_classifier.")  # without their model's prefix
