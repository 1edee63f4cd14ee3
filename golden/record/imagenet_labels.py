"""Write reforg/data/imagenet_labels.txt.gz: the names of the classes of ImageNet-1k and ImageNet-21k, as timm describes them.

    python golden/record/imagenet_labels.py        (needs timm; never imports reforg)

One class a line, in the order of WordNet's synsets, which is the order of both lists: the words for it, after "*" where it
is in both lists, " " where it is in Google's ImageNet-21k alone, "+" where it is in ImageNet-1k alone (n04399382, a teddy).
"""

import gzip
from pathlib import Path

from timm.data import ImageNetInfo

TARGET = Path(__file__).parents[2] / "reforg" / "data" / "imagenet_labels.txt.gz"


def main() -> None:
    small, large = (ImageNetInfo(subset).label_descriptions(as_dict=True) for subset in ("imagenet-1k", "imagenet-21k-goog"))
    assert list(small) == sorted(small)
    assert list(large) == sorted(large)
    marks = {synset: "*" if synset in large else "+" for synset in small}
    names = dict(sorted({**large, **small}.items()))
    text = "".join(f"{marks.get(synset, ' ')}{name}\n" for synset, name in names.items())
    TARGET.write_bytes(gzip.compress(text.encode(), compresslevel=9, mtime=0))
    print(f"{TARGET.name}: {len(small)} and {len(large)} names, {TARGET.stat().st_size:,} bytes")


if __name__ == "__main__":
    main()
