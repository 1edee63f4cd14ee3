"""How an image becomes a model's input, as a frozen record (`record`): what a model's name (`evaluation`), a pretrained_cfg of
timm's (`timm`) or a preprocessor_config.json of transformers' (`transformers`) says about it.

May import the catalog and what stands below it. Start with `record`; what carries it out is `reforg.images.transforms`.
"""

from reforg.images.preprocessing.evaluation import of_name
from reforg.images.preprocessing.record import Preprocessing
from reforg.images.preprocessing.timm import of_timm
from reforg.images.preprocessing.transformers import of_transformers

__all__ = ["Preprocessing", "of_name", "of_timm", "of_transformers"]
