"""How an image becomes a model's input, as a frozen record: what a name, timm or transformers says about it."""

from reforg.images.preprocessing.evaluation import of_name
from reforg.images.preprocessing.record import Preprocessing
from reforg.images.preprocessing.timm import of_timm
from reforg.images.preprocessing.transformers import of_transformers

__all__ = ["Preprocessing", "of_name", "of_timm", "of_transformers"]
