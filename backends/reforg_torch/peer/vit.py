"""ViT, DeiT, DeiT III and EViT in torch.

Dosovitskiy et al., ICLR 2021; Touvron et al., ICML 2021, ECCV 2022 (DeiT III, and "Three things everyone should know about
Vision Transformers"); Liang et al., ICLR 2022 (EViT). B images, N tokens, C channels, H heads.
"""

import math
from collections.abc import Callable
from typing import Any

import torch
from torch.nn import functional

from reforg.config import VitConfig, per_block

Weights = dict[str, Any]
Forward = Callable[[Any], Any]


def build(config: VitConfig, weights: Weights) -> Forward:
    """A function [B, in_chans, H, W] -> logits [B, num_classes]."""
    blocks = [Block(config, weights, number) for number in range(config.depth)]

    def forward(images: Any) -> Any:
        x = embed(config, weights, images)
        for block in blocks:
            x = block(x)
        return classify(config, weights, x)

    return forward


def layer(weights: Weights, path: str) -> tuple[Any, Any]:
    """A layer's weight and bias; None where it has no bias."""
    return weights[f"{path}.weight"], weights.get(f"{path}.bias")


def norm(weights: Weights, path: str, x: Any, eps: float) -> Any:
    """Layer norm over the channels."""
    return functional.layer_norm(x, x.shape[-1:], *layer(weights, path), eps)


def embed(config: VitConfig, weights: Weights, images: Any) -> Any:
    """[B, in_chans, H, W] -> [B, N, C]: the patches' tokens behind the special ones, with positions."""
    maps = hmlp(weights, images) if config.stem == "hmlp" else patches(config, weights, images)
    x, positions = maps.flatten(2).transpose(1, 2), weights["pos_embed"]
    special = [weights[name].expand(len(images), -1, -1) for name in config.special_tokens]
    if config.no_embed_class:
        return torch.cat([*special, x + positions], dim=1)
    return torch.cat([*special, x], dim=1) + positions


def patches(config: VitConfig, weights: Weights, images: Any) -> Any:
    """[B, in_chans, H, W] -> [B, C, H / P, W / P]."""
    return functional.conv2d(images, *layer(weights, "patch_embed.proj"), stride=config.patch_size)


def hmlp(weights: Weights, images: Any) -> Any:
    """[B, in_chans, H, W] -> [B, C, H / 16, W / 16]: convolutions of 4, 2 and 2 pixels, batch norms, GELU between."""
    x = images
    for position, stride in ((0, 4), (3, 2), (6, 2)):
        x = functional.conv2d(x, *layer(weights, f"patch_embed.proj.{position}"), stride=stride)
        bn = f"patch_embed.proj.{position + 1}"
        x = functional.batch_norm(x, weights[f"{bn}.running_mean"], weights[f"{bn}.running_var"], *layer(weights, bn))
        x = x if position == 6 else functional.gelu(x)
    return x


class Block:
    """One block: the attentions of its branches, reorganization, their MLPs."""

    def __init__(self, config: VitConfig, weights: Weights, number: int) -> None:
        self.config, self.weights, self.path = config, weights, f"blocks.{number}"
        self.rate = config.keep_rates[number]
        self.tokens = per_block(config.tokens, config.depth, "tokens")[number]

    def __call__(self, x: Any) -> Any:
        """[B, N, C] -> [B, N', C]."""
        candidates = x.shape[1] - self.config.num_special
        count = math.ceil(self.rate * candidates) if self.tokens is None else self.tokens
        if count > candidates:
            raise ValueError(f"{self.path}: {count} tokens are to stay of {candidates}")
        chooses = count < candidates
        results = [self.attention(branch, x, chooses) for branch in self.config.branches]
        x = self.add(1, x, [update for update, _ in results])
        if chooses:
            x = self.reorganize(x, sum(scores for _, scores in results) / len(results), count)
        return self.add(2, x, [self.mlp(branch, x) for branch in self.config.branches])

    def add(self, number: int, x: Any, updates: list[Any]) -> Any:
        """The tokens x plus the branches' updates, each through its LayerScale."""
        for branch, update in zip(self.config.branches, updates, strict=True):
            scaled = self.config.init_values is not None
            gain = self.weights[self.config.gain(self.path, number, branch)] if scaled else None
            x = x + update if gain is None else torch.addcmul(x, update, gain)
        return x

    def attention(self, branch: str, x: Any, scored: bool) -> tuple[Any, Any]:
        """[B, N, C] -> [B, N, C], and where `scored` the class token's attention to the patches [B, N - S], averaged over heads."""
        batch, length, width = x.shape
        path, heads = f"{self.path}.attn{branch}", self.config.num_heads
        normed = norm(self.weights, f"{self.path}.norm1{branch}", x, self.config.norm_eps)
        qkv = functional.linear(normed, *layer(self.weights, f"{path}.qkv"))
        q, k, v = qkv.view(batch, length, 3, heads, width // heads).permute(2, 0, 3, 1, 4).unbind(0)
        scores = None
        if scored:
            attended = ((q * q.shape[-1] ** -0.5) @ k.transpose(-2, -1)).softmax(dim=-1)
            scores = attended[:, :, 0, self.config.num_special :].mean(dim=1)
            context = attended @ v
        else:
            context = functional.scaled_dot_product_attention(q, k, v)
        merged = context.transpose(1, 2).reshape(batch, length, width)
        return functional.linear(merged, *layer(self.weights, f"{path}.proj")), scores

    def reorganize(self, x: Any, scores: Any, count: int) -> Any:
        """[B, S + N, C], [B, N] -> [B, S + count (+ 1), C]: the attentive patches, and the others as their weighted sum."""
        special, patches = x[:, : self.config.num_special], x[:, self.config.num_special :]
        order = scores.argsort(dim=1, descending=True, stable=True)
        chosen = order if self.config.fuse_token else order[:, :count]
        ranked = patches.gather(1, chosen.unsqueeze(-1).expand(-1, -1, x.shape[-1]))
        if not self.config.fuse_token:
            return torch.cat([special, ranked], dim=1)
        fused = scores.gather(1, order[:, count:]).unsqueeze(1) @ ranked[:, count:]
        return torch.cat([special, ranked[:, :count], fused], dim=1)

    def mlp(self, branch: str, x: Any) -> Any:
        """[B, N, C] -> [B, N, C]."""
        path = f"{self.path}.mlp{branch}"
        normed = norm(self.weights, f"{self.path}.norm2{branch}", x, self.config.norm_eps)
        hidden = functional.gelu(functional.linear(normed, *layer(self.weights, f"{path}.fc1")))
        return functional.linear(hidden, *layer(self.weights, f"{path}.fc2"))


def classify(config: VitConfig, weights: Weights, x: Any) -> Any:
    """[B, N, C] -> [B, num_classes], or pooled features where there is no head; distilled: the mean of both tokens' answers."""
    if config.global_pool == "avg":
        states = [norm(weights, "fc_norm", x[:, config.num_special :].mean(dim=1), config.norm_eps)]
    else:
        normed = norm(weights, "norm", x[:, : config.num_special], config.norm_eps)
        states = list(normed.unbind(dim=1))
    answers = [functional.linear(s, *layer(weights, head)) for s, head in zip(states, config.heads, strict=False)] or states
    return answers[0] if len(answers) == 1 else (answers[0] + answers[1]) / 2
