"""Write tests/files: small checkpoints as torch writes them, and what torch itself reads from each.

    python golden/record/checkpoint_files.py        (needs torch, ml_dtypes and safetensors; never imports reforg)

Every file holds the same training checkpoint: tensors of every dtype and layout under "model", and beside them an
optimizer with its state, a scheduler, options, NumPy scalars and arrays. `expected.safetensors` holds the tensors as
torch.load gave them back, each as the bytes of its elements in order; its metadata their dtypes and shapes.
"""

import argparse
import json
import sys
import zipfile
from collections import OrderedDict, defaultdict
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.numpy import save_file
from torch import nn

TARGET = Path(__file__).parents[2] / "tests" / "files"
NEW_ONLY = (torch.uint16, torch.uint32, torch.uint64, torch.float8_e4m3fn, torch.float8_e5m2)
DTYPES = (
    torch.float64, torch.float32, torch.float16, torch.bfloat16, torch.int64, torch.int32, torch.int16, torch.int8,
    torch.uint8, torch.bool, torch.complex64, torch.complex128,
)  # fmt: skip


def model(new: bool) -> dict[str, torch.Tensor]:
    """A tensor of every dtype and every layout."""
    shared = torch.linspace(-1, 1, 24)
    found = {str(dtype).removeprefix("torch."): torch.arange(-3, 9).to(dtype).reshape(3, 4) for dtype in DTYPES}
    if new:
        found |= {str(dtype).removeprefix("torch."): torch.arange(12).to(dtype).reshape(3, 4) for dtype in NEW_ONLY}
    return found | {
        "tied": shared, "tied again": shared, "reshaped": shared.reshape(4, 6), "transposed": shared.reshape(4, 6).T,
        "strided": shared[1::3], "from an offset": shared[5:9], "expanded": shared[:3, None].expand(3, 5),
        "channels last": torch.arange(48.0).reshape(2, 2, 3, 4).to(memory_format=torch.channels_last),
        "of no dimension": torch.tensor(2.5), "empty": torch.zeros(0, 4), "a parameter": nn.Parameter(torch.ones(2, 2)),
        "special numbers": torch.tensor([float("nan"), float("inf"), -0.0, 1e-42]),
    }  # fmt: skip


def checkpoint(new: bool) -> dict[str, Any]:
    """What a training program saves."""
    parameter = nn.Parameter(torch.ones(3))
    parameter.grad = torch.ones(3)
    optimizer = torch.optim.AdamW([parameter])
    optimizer.step()
    scheduler = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, 10)
    options = argparse.Namespace(lr=5e-4, output=Path("runs/1"), best=np.float64(0.5), rates=np.arange(3), kinds={"a"})
    return {
        "model": OrderedDict(model(new)), "optimizer": optimizer.state_dict(), "lr_scheduler": scheduler.state_dict(),
        "epoch": 3, "scaler": {"scale": 65536.0}, "args": options, "scheduler": scheduler, "best": np.float32(0.25),
        "history": defaultdict(list, loss=[1.0, 0.5]), "random": np.random.default_rng(1), "device": torch.device("cpu"),
        "shape": torch.Size([1, 2]), "dtype": torch.float32,
    }  # fmt: skip


def swapped(path: Path, target: Path) -> None:
    """The same archive as a big-endian machine would have written it; torch reads it back the same, which is checked."""
    content = torch.load(path, weights_only=False)["model"]
    plain = OrderedDict((name, value) for name, value in content.items() if value.dtype in (torch.float32, torch.float64))
    torch.save({"model": plain}, target)
    with zipfile.ZipFile(target) as archive:
        records = {name: archive.read(name) for name in archive.namelist()}
    widths = storage_widths(target)
    with zipfile.ZipFile(target, "w") as archive:
        for name, data in records.items():
            key = name.rpartition("/")[2]
            if "/data/" in name:
                data = np.frombuffer(data, f"u{widths[key]}").byteswap().tobytes()  # noqa: PLW2901
            archive.writestr(name, b"big" if name.endswith("/byteorder") else data)
    again = torch.load(target, weights_only=True)["model"]
    assert all(torch.equal(again[name].nan_to_num(), plain[name].nan_to_num()) for name in plain)


def storage_widths(path: Path) -> dict[str, int]:
    """Key of each storage of an archive -> bytes of an element."""
    found: dict[str, int] = {}

    class Reader(torch.serialization.pickle.Unpickler):
        def persistent_load(self, pid: Any) -> Any:
            found[pid[2]] = {"FloatStorage": 4, "DoubleStorage": 8}[pid[1].__name__]
            return torch.storage.TypedStorage(wrap_storage=torch.UntypedStorage(pid[4] * 8), dtype=torch.float64, _internal=True)

    with zipfile.ZipFile(path) as archive, archive.open(next(n for n in archive.namelist() if n.endswith("data.pkl"))) as file:
        Reader(file).load()
    return found


def main() -> None:
    """Write every file, and what torch reads from it."""
    TARGET.mkdir(exist_ok=True)
    torch.manual_seed(0)
    torch.save(checkpoint(new=True), TARGET / "archive.pth")
    torch.save(checkpoint(new=True), TARGET / "archive_protocol4.pth", pickle_protocol=4)
    torch.save(checkpoint(new=False), TARGET / "before_1_6.pth", _use_new_zipfile_serialization=False)
    swapped(TARGET / "archive.pth", TARGET / "big_endian.pth")
    expected, told = {}, {}
    for path in sorted(TARGET.glob("*.pth")):
        for name, value in torch.load(path, weights_only=False)["model"].items():
            plain = value.detach().contiguous()
            bits = plain.view(torch.uint8) if plain.ndim and plain.numel() else plain.reshape(-1).view(torch.uint8)
            expected[f"{path.stem}/{name}"] = bits.numpy().reshape(-1).copy()
            told[f"{path.stem}/{name}"] = json.dumps([str(value.dtype).removeprefix("torch."), list(value.shape)])
    save_file(expected, TARGET / "expected.safetensors", told | {"torch": torch.__version__})
    print(len(expected), "tensors;", {path.name: path.stat().st_size for path in sorted(TARGET.iterdir())}, sys.version_info[:2])


if __name__ == "__main__":
    main()
