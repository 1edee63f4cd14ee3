"""The peer torch.compile: the same forward passes as torch eager's, compiled by inductor as it is by default."""

from collections.abc import Mapping
from functools import partial
from typing import Any

import torch

from reforg.config import Config
from reforg_torch import peer

name = "torch.compile"
version = peer.version


def build(config: Config, weights: Mapping[str, Any], dtype: str, device: Any, threads: int | None) -> peer.Forward:
    """As torch eager's; compiled at the first call, for the shape of its images, and once more for every other shape."""
    return peer.built(config, weights, dtype, device, threads, partial(torch.compile, dynamic=False))
