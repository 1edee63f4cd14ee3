"""How an image becomes a model's input, as a frozen record: what a name, timm or transformers says about it."""

from reforg.preprocessing.evaluation import of_name
from reforg.preprocessing.record import Preprocessing
from reforg.preprocessing.timm import of_timm
from reforg.preprocessing.transformers import of_transformers

__all__ = ["Preprocessing", "of_name", "of_timm", "of_transformers"]
