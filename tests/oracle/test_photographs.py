"""Real photographs through the whole path: timm's own transform and model on one side, `preprocess` and `predict` on the other."""

from functools import cache
from pathlib import Path

import numpy as np
import pytest
import skimage
import timm
import timm.data
import torch
from PIL import Image
from torch import nn

import reforg

from .hooks import disagreement

DEIT, DINOV2 = "deit_small_patch16_224.fb_in1k", "vit_small_patch14_dinov2.lvd142m"
SEED = "synthetic:7"


def photographs() -> list[Path]:
    """What scikit-image brings that is no test chart of transparency or of palettes; those are laid out differently by design."""
    found = []
    for path in sorted((Path(skimage.__file__).parent / "data").iterdir()):
        if path.suffix in (".png", ".jpg"):
            with Image.open(path) as image:
                if image.mode in ("RGB", "L") and "icc_profile" not in image.info and min(image.size) > 100:
                    found.append(path)
    return found


PHOTOGRAPHS = photographs()


@cache
def models(name: str) -> tuple[nn.Module, reforg.Model, reforg.Model]:
    """timm's module in float64, and ours in float64 and float32, all with the same synthetic weights."""
    ours = reforg.create_model(name, weights=SEED, dtype="float64")
    module = timm.create_model(name).double().eval()
    module.load_state_dict({key: torch.from_numpy(np.array(value)) for key, value in ours.weights.items()})
    return module, ours, reforg.create_model(name, weights=SEED)


def as_timm_prepares(module: nn.Module, path: Path) -> torch.Tensor:
    transform = timm.data.create_transform(**timm.data.resolve_data_config({}, model=module))
    with Image.open(path) as image:
        return transform(image.convert("RGB"))


def rms(values: np.ndarray) -> float:
    return float(np.sqrt(np.mean(values**2)))


def test_there_are_photographs() -> None:
    assert len(PHOTOGRAPHS) >= 15


@pytest.mark.parametrize("path", PHOTOGRAPHS, ids=lambda path: path.stem)
@pytest.mark.parametrize("name", [DEIT, DINOV2])
def test_pixels_are_prepared_bit_for_bit(name: str, path: Path) -> None:
    module, ours, _ = models(name)
    np.testing.assert_array_equal(reforg.preprocess(path, ours)[0], as_timm_prepares(module, path).numpy())


@pytest.mark.parametrize(
    ("name", "path"),
    [*((DEIT, path) for path in PHOTOGRAPHS), *((DINOV2, path) for path in PHOTOGRAPHS[:4])],
    ids=lambda value: value.stem if isinstance(value, Path) else value.partition("_patch")[0],
)
def test_answers_agree(name: str, path: Path) -> None:
    """In float64 to 1e-10; in float32 within twice torch's own distance to that truth; and the names that come out are the same."""
    module, double, single = models(name)
    images = as_timm_prepares(module, path)[None]
    with torch.no_grad():
        truth = module(images.double()).numpy()
        near = module.float()(images).numpy()
    module.double()
    pixels = reforg.preprocess(path, name)
    assert not disagreement(double(pixels), truth)
    assert rms(single(pixels) - truth) <= 2 * rms(near - truth)
    if name == DEIT:
        order = np.argsort(-truth[0])[:5]
        shares = np.exp(truth[0] - truth[0].max()) / np.exp(truth[0] - truth[0].max()).sum()
        known = timm.data.ImageNetInfo()
        (answer,) = double.predict(path)
        assert [label for label, _ in answer] == [known.index_to_description(int(number)) for number in order]
        np.testing.assert_allclose([share for _, share in answer], shares[order], rtol=1e-9)
