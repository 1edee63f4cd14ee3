"""Write reforg/data: the Fashion-MNIST models as safetensors, and the first images of the test set.

    python golden/record/embedded_models.py CHECKPOINTS DATASET        (needs torch and safetensors; never imports reforg)

CHECKPOINTS holds NAME.pth as the official training code saved them; DATASET the two gzipped files of the test set
(Debian package dataset-fashion-mnist, MIT licence, Zalando SE).
"""

import gzip
import hashlib
import json
import sys
from pathlib import Path

import numpy as np
import torch
from safetensors.numpy import save_file

TARGET = Path(__file__).parents[2] / "reforg" / "data"
IMAGES = 500


def convert(path: Path) -> None:
    """The model's tensors alone: optimizer, scheduler and arguments are left behind."""
    checkpoint = torch.load(path, map_location="cpu", weights_only=False)  # written by ourselves
    tensors = {name: value.numpy() for name, value in checkpoint["model"].items() if not name.endswith("num_batches_tracked")}
    metadata = {
        "model": path.stem,
        "source": f"{path.name}, official classes trained on Fashion-MNIST",
        "source_sha256": hashlib.sha256(path.read_bytes()).hexdigest(),
        "training": json.dumps(vars(checkpoint["args"]), sort_keys=True),
    }
    save_file(tensors, TARGET / f"{path.stem}.safetensors", metadata)
    print(path.stem, sum(value.size for value in tensors.values()))


def idx(path: Path, header: int) -> np.ndarray:
    return np.frombuffer(gzip.decompress(path.read_bytes()), np.uint8, offset=header)


def main() -> None:
    checkpoints, dataset = map(Path, sys.argv[1:3])
    TARGET.mkdir(exist_ok=True)
    for name in ("evit_fmnist", "deit3_fmnist", "shunted_fmnist"):
        convert(checkpoints / f"{name}.pth")
    images = idx(dataset / "t10k-images-idx3-ubyte.gz", 16).reshape(-1, 28, 28)[:IMAGES]
    labels = idx(dataset / "t10k-labels-idx1-ubyte.gz", 8)[:IMAGES]
    metadata = {"source": f"Fashion-MNIST, the first {IMAGES} test images", "licence": "MIT, (c) 2017 Zalando SE"}
    save_file({"images": images.copy(), "labels": labels.copy()}, TARGET / "fashion_mnist_test.safetensors", metadata)


if __name__ == "__main__":
    main()
