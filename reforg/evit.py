"""EViT: token reorganization between attention and MLP.

Liang et al., "Not All Patches are What You Need: Expediting Vision Transformers via Token Reorganizations",
ICLR 2022; sections and equations below are those of that paper.
"""

import math

from reforg.arrays import Array, namespace, narrow, widen
from reforg.config import VitConfig, checked_rates, per_block
from reforg.errors import ConfigError
from reforg.ops import Network, Ops, mean, mean_of, piece


def class_attention(probabilities: Array, num_special: int) -> Array:
    """[B, H, N, N] -> [B, N - S]: how much the class token attends to each token that is not special.

    The class token's row of the softmaxed attention, averaged over the heads (section 3.2, eq. 1).
    """
    return mean(probabilities[:, :, 0, num_special:], axis=1)


def kept_count(keep_rate: float, candidates: int) -> int:
    """How many of `candidates` tokens stay: ceil(rate * candidates), in double precision as the official code.

    Special tokens are no candidates; a fused token of an earlier block is one.
    """
    return math.ceil(keep_rate * candidates)


def average(net: Network, path: str, scores: list[Array]) -> Array:
    """The mean of the parallel branches' class attention; a single branch's own."""
    return scores[0] if len(scores) == 1 else net.trace(path, mean_of(scores))


def select_attentive(scores: Array, count: int, ops: Ops) -> tuple[Array, Array]:
    """[B, N] -> indices of the `count` attentive tokens [B, count], of the inattentive ones [B, N - count].

    Top-k by class attention (section 3.2, "attentive token identification"), most attentive first in both; equal
    scores keep the lower index.
    """
    order = ops.rank(scores)
    return order[:, :count], order[:, count:]


def fuse_inattentive(tokens: Array, scores: Array) -> Array:
    """[B, M, C], [B, M] -> [B, 1, C]: the sum of the tokens, each times its class attention (section 3.3).

    The sum is not divided by the sum of the attentions.
    """
    xp = namespace(tokens)
    return narrow(xp.sum(widen(tokens) * widen(scores)[:, :, None], axis=1, keepdims=True), tokens)


@piece
def fused_token(net: Network, candidates: Array, scores: Array, inattentive: Array) -> Array:
    """[B, N, C], [B, N], [B, M] -> [B, 1, C]: the candidates of those M indices as one ("inattentive token fusion")."""
    return fuse_inattentive(net.ops.gather(candidates, inattentive), net.ops.gather(scores, inattentive))


@piece
def reorganize(net: Network, path: str, tokens: Array, scores: Array, count: int, config: VitConfig) -> Array:
    """[B, S + N, C], [B, N] -> [B, S + count (+ 1), C]: special tokens, attentive ones by falling score, the fused one.

    Sections 3.2 and 3.3. `count` is below N. Traced: kept (from 0, special tokens not counted), reorganized.
    """
    xp, special = namespace(tokens), config.num_special
    candidates = tokens[:, special:, :]
    attentive, inattentive = select_attentive(scores, count, net.ops)
    net.trace(f"{path}.kept", attentive)
    parts = [tokens[:, :special, :], net.ops.gather(candidates, attentive)]
    if config.fuse_token:
        parts.append(fused_token(net, candidates, scores, inattentive))
    return net.trace(f"{path}.reorganized", xp.concat(parts, axis=1))


class Schedule:
    """How many tokens each block keeps, from the config and the arguments of the call.

    The config decides which blocks reorganize: a rate given at the call replaces the rate of blocks whose own is
    below 1 and no other. `tokens` gives the count itself, and prunes every block it is given for; None leaves a block to
    the config, whose own `tokens` a rate at the call sets aside.
    """

    def __init__(self, config: VitConfig, keep_rate: object = None, tokens: object = None) -> None:
        rates = zip(config.keep_rates, checked_rates(keep_rate, config.depth), strict=True)
        self.rates = tuple(mine if rate is None else (rate if mine < 1 else 1.0) for mine, rate in rates)
        own = per_block(config.tokens if keep_rate is None else None, config.depth, "tokens")
        counts = zip(own, per_block(tokens, config.depth, "tokens"), strict=True)
        self.tokens = tuple(mine if count is None else count for mine, count in counts)

    def count(self, block: int, candidates: int) -> int:
        """How many of the block's `candidates` go on; all of them means that nothing is reorganized."""
        wanted = self.tokens[block]
        if wanted is None:
            return kept_count(self.rates[block], candidates)
        if wanted > candidates:
            raise ConfigError(f"blocks.{block}: tokens={wanted}, but only {candidates} tokens arrive there")
        return int(wanted)
