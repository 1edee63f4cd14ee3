"""The golden cases, the models and images that they are about, and two measures of how far a value is from the truth."""

import numpy as np

import reforg
import reforg_golden
from reforg.catalog import synthetic
from reforg.models import embedded

CASES = {case.id: case for case in reforg_golden.cases()}
MICRO = [name for name in CASES if "micro" in name]
SYNTHETIC = [name for name, case in CASES.items() if case.entry["weights"] != "embedded"]
TRAINED = [name for name in CASES if name not in SYNTHETIC]
WITH_1000_LOGITS = [name for name in SYNTHETIC if name not in MICRO]


def images_of(case: reforg_golden.Case) -> np.ndarray:
    wanted = case.entry["images"]
    if "synthetic" in wanted:
        return synthetic.images(tuple(wanted["shape"]), wanted["synthetic"])
    pixels, _ = embedded.test_images()
    return embedded.preprocess(pixels[: wanted["embedded"]], case.entry["model"])


def model_of(case: reforg_golden.Case, **settings) -> reforg.Model:
    weights = None if case.entry["weights"] == "embedded" else case.entry["weights"]
    return reforg.create_model(case.entry["model"], weights=weights, **settings, **case.entry["config"])


def in_batches(model: reforg.Model, images: np.ndarray, size: int = 16) -> np.ndarray:
    return np.concatenate([model(images[start : start + size]) for start in range(0, len(images), size)])


def distance(value: np.ndarray, truth: np.ndarray) -> float:
    """Largest difference as a share of the truth's largest value."""
    assert value.shape == truth.shape
    return float(np.abs(value - truth).max() / np.abs(truth).max())


def rms(difference: np.ndarray) -> float:
    return float(np.sqrt(np.mean(np.square(difference, dtype=np.float64))))
