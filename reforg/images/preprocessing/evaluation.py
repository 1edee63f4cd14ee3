"""What the evaluation that belongs to a model's name does with an image."""

from reforg.catalog.names import EMBEDDED, resolve, timm_tags
from reforg.config import Config, ShuntedConfig
from reforg.images.preprocessing.record import OFFICIAL_CROP, Preprocessing
from reforg.images.preprocessing.timm import of_timm

# What the official code's evaluation of a family crops, by the family's word; of any other family nobody recorded it.
CROPS = {"vit": OFFICIAL_CROP, "deit": OFFICIAL_CROP, "deit3": 1.0, "evit": OFFICIAL_CROP, "shunted": OFFICIAL_CROP}
BY_TIMM = ("vit",)  # families whose untagged names are timm's too; the others' official code says what its evaluation does
ENLARGED: tuple[type[Config], ...] = (ShuntedConfig,)  # whose models for Fashion-MNIST see its pictures larger than they are
FASHION_SIDE, FASHION_MEAN, FASHION_STD = 28, 0.2860, 0.3530  # of Fashion-MNIST's training pixels


def of_name(name: str, config: Config) -> Preprocessing | None:
    """What the evaluation that belongs to a model's name does, at the config's image size.

    A tagged name's is timm's record of the tag, any other ViT's timm's record of the name; DeiT's, DeiT III's, EViT's and
    Shunted's are the official code's. The models that bring their weights have what they were trained with. None where the
    number of channels is not three, for which nobody recorded a mean, and for families without a row in CROPS. Raises ConfigError
    for an unknown name.
    """
    listed, (base, _, tag) = resolve(name), name.partition(".")
    if listed in EMBEDDED:
        return fashion_mnist(config)
    if config.in_chans != 3 or config.family not in CROPS:
        return None
    record = timm_tags().get(base, {}).get(tag)
    if record is not None and (tag or config.family in BY_TIMM):
        return of_timm({**record, "input_size": (3, *config.image_shape)})
    return Preprocessing(config.image_shape, crop_ratio=CROPS[config.family])


def fashion_mnist(config: Config) -> Preprocessing:
    """Fashion-MNIST's pictures as they are; any other is fitted into 28x28 on black, as that data set was made.

    Shunted Transformers see them enlarged, and in three equal channels.
    """
    return Preprocessing(
        config.image_shape,
        "longest",
        crop_ratio=1.0,
        mean=(FASHION_MEAN,) * config.in_chans,
        std=(FASHION_STD,) * config.in_chans,
        channels=config.in_chans,
        colour="L",
        crop_size=(FASHION_SIDE, FASHION_SIDE) if type(config) in ENLARGED else None,
    )
