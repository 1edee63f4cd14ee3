"""Accuracy of the embedded models over all 10,000 test images of Fashion-MNIST, held against the training code's own count.

    python tests/tools/scripts/accuracy.py DATASET        (the folder of the Debian package dataset-fashion-mnist)

Exit code 1 where a count differs. The wanted counts were recorded by the official classes in torch.
"""

import gzip
import sys
from pathlib import Path

import numpy as np

import reforg
from reforg.demo import demonstration as demo
from reforg.models import embedded

WANTED = {"evit_fmnist": 8473, "deit3_fmnist": 8350, "shunted_fmnist": 8974}


def read(path: Path, header: int) -> np.ndarray:
    return np.frombuffer(gzip.decompress(path.read_bytes()), np.uint8, offset=header)


def main() -> int:
    folder = Path(sys.argv[1])
    pixels = read(folder / "t10k-images-idx3-ubyte.gz", 16).reshape(-1, 28, 28)
    labels = read(folder / "t10k-labels-idx1-ubyte.gz", 8)
    wrong = 0
    for name, wanted in WANTED.items():
        logits, seconds = demo.classify(reforg.create_model(name), embedded.preprocess(pixels, name), batch_size=100)
        right = int((logits.argmax(axis=1) == labels).sum())
        wrong += right != wanted
        print(f"{name}: {right} of {len(labels)} right, wanted {wanted}; {len(labels) / seconds:.0f} images/s")
    return int(wrong > 0)


if __name__ == "__main__":
    sys.exit(main())
