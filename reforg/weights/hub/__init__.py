"""Weights from the Hugging Face Hub: `hf-hub:owner/name`, of timm's repositories and of transformers'.

huggingface_hub fetches and caches, so its environment variables hold (HF_HOME, HF_HUB_CACHE, HF_HUB_OFFLINE, HF_TOKEN,
HF_ENDPOINT). Only config.json, preprocessor_config.json and one file of weights are ever asked for.
May import images, the catalog and what stands below them. Start with `repository`; `timm` and `transformers` read a config each.
"""

from reforg.weights.hub.repository import Repository, fetch

__all__ = ["Repository", "fetch"]
