"""What a candidate has computed, by name: arrays, a file of them, a function, a framework's module, or an ONNX file."""

import os
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import numpy as np

from reforg.errors import ConfigError, ShapeError
from reforg.host import on_host
from reforg.models import backend
from reforg.models.model import Model
from reforg.verification.candidate import files
from reforg.verification.candidate.renaming import Rename, renamed
from reforg.verification.error_model.precision import FORMATS, Precision
from reforg.verification.findings import counted
from reforg.weights.containers import LONGEST, MOST

Values = np.ndarray[Any, np.dtype[Any]]
GROUP = "reforg.recorders"
OUTPUT = "logits"
AUTOCAST = "autocast-"
REAL = "biuf"  # kinds of dtypes


class Recorder(Protocol):
    """What an entry point of the group "reforg.recorders" names: a module (or object) that runs a framework's models.

    The entry point is called as the framework is imported, and is loaded only where the framework is: whoever holds one
    of its models has imported it.
    """

    def matches(self, candidate: Any) -> bool:
        """Whether the candidate is a model of the framework."""

    def record(self, candidate: Any, images: Values, autocast: str | None) -> dict[str, Any]:
        """Images (B, C, H, W) -> the output of every module that ran, by its path, and "logits".

        autocast: the dtype to which the framework itself is to round products and convolutions; None for none.
        """


@dataclass(frozen=True)
class Recording:
    """What a candidate has computed: arrays under names of the trace, in the order in which they were given.

    kind: what the candidate is, in words. unknown: its names that are no names of the trace. notes: what was done to
    names and values, and what is odd about them, in sentences.
    """

    values: dict[str, Values]
    kind: str
    unknown: tuple[str, ...]
    notes: tuple[str, ...]


@dataclass(frozen=True)
class Given:
    """Values of a candidate under its own names, what it is in words, and sentences on how they came."""

    values: Mapping[str, Any]
    kind: str
    notes: tuple[str, ...] = ()


def recorded(candidate: Any, model: Model, images: Values, precision: Precision, rename: Rename, known: Sequence[str]) -> Recording:
    """A candidate's values for images (B, C, H, W), which are float64 or float32.

    candidate: a mapping of arrays of any library; a path to .safetensors or .npz, or to .onnx; a function of the images,
    which returns logits or a mapping; or a module of a framework that has a recorder. known: the names of the trace.
    rename: see `renamed`. Of a tuple or a list, the first value counts. What the user's own code raises is passed on;
    anything else that is wrong is a ConfigError or a ShapeError.
    """
    given = _given(candidate, model, images, precision)
    if len(given.values) > MOST:
        raise ConfigError(f"the candidate has {len(given.values):,} values, more than any trace")
    arrays = {_name(name): _array(name, value) for name, value in given.values.items()}
    if isinstance(candidate, Mapping | str | os.PathLike):
        _check_batch(arrays, len(images))
    notes = [*given.notes, *_narrower(arrays, precision)]
    # A recording may hold its images. They are no value of the model, but they tell whether both have seen the same ones.
    if files.IMAGES in arrays and files.IMAGES not in known:
        notes += _other_images(arrays.pop(files.IMAGES), images)
    found = renamed({name: _widened(value) for name, value in arrays.items()}, known, rename, model.name)
    return Recording(found.values, given.kind, found.unknown, (*notes, *found.notes))


def _given(candidate: Any, model: Model, images: Values, precision: Precision) -> Given:
    """The candidate's values, computed where they are not there yet."""
    if isinstance(candidate, Mapping):
        return Given(candidate, f"a trace of {counted(len(candidate), 'array')}")
    if isinstance(candidate, str | os.PathLike):
        return _of_file(os.fsdecode(candidate), model, images)
    autocast = precision.name.removeprefix(AUTOCAST) if precision.name.startswith(AUTOCAST) else None
    # A module can be called like a function. But its inside places a fault far more closely than its logits, so it is hooked.
    for name, recorder in _recorders():
        if recorder.matches(candidate):
            return Given(recorder.record(candidate, _typed(images, precision), autocast), f"a {name} module, hooked")
    if not callable(candidate):
        raise ConfigError(f"the candidate must be a mapping, a path, a function or a module, got {type(candidate).__name__}")
    return _of_function(candidate, _typed(images, precision))


def _of_file(path: str, model: Model, images: Values) -> Given:
    if path.lower().endswith(".onnx"):
        from reforg.verification.candidate.onnx import files as onnx_files

        found = onnx_files.recorded(path, images, model)
        return Given(found.values, "an ONNX file", found.notes)
    values = files.arrays(path)
    return Given(values, f"a trace of {counted(len(values), 'array')} from {Path(path).name}")


def _of_function(function: Callable[[Values], Any], images: Values) -> Given:
    result = function(images)
    if isinstance(result, Mapping):
        return Given(result, f"a function that returns {len(result):,} arrays")
    return Given({OUTPUT: result}, "a function")


def _recorders() -> list[tuple[str, Recorder]]:
    """Recorders of the frameworks that are imported."""
    points = backend.installed(GROUP)
    return [(name, backend.imported("recorder", name, points)) for name in points if name in sys.modules]


def _typed(images: Values, precision: Precision) -> Values:
    """A copy of the images in the dtype that the candidate computes in; float32 where NumPy has none such."""
    return np.array(images, precision.stored if precision.stored in ("float64", "float16") else "float32")


def _name(name: Any) -> str:
    if not isinstance(name, str) or len(name) > LONGEST:
        raise ConfigError(f"the candidate's names must be text of at most {LONGEST} characters, got {str(name)!r:.60}")
    return name


def _array(name: str, value: Any) -> Values:
    """A value as a NumPy array of real numbers, in its own dtype."""
    while isinstance(value, list | tuple) and value:
        value = value[0]
    if hasattr(value, "detach"):  # tensors that take part in a gradient export nothing
        value = value.detach()
    try:
        array = np.asarray(value) if isinstance(value, np.generic) else on_host(value)
    except ValueError as error:
        raise ConfigError(f"the candidate's {name!r} cannot be read: {error}") from error
    if array.dtype.kind not in REAL and not _is_narrow(array):
        raise ConfigError(f"the candidate's {name!r} must be of real numbers, got {array.dtype}")
    return array


def _is_narrow(array: Values) -> bool:
    """Whether it is of a floating dtype that NumPy lacks, as bfloat16."""
    return array.dtype.kind == "V" and "float" in array.dtype.name


def _widened(array: Values) -> Values:
    """Such an array in float32; any other as it is."""
    return array.astype(np.float32) if _is_narrow(array) else array


def _check_batch(arrays: Mapping[str, Values], batch: int) -> None:
    """ShapeError where the arrays are clearly of another number of images; of one image, they may have no axis for it."""
    shapes = [array.shape for array in arrays.values() if array.ndim > 1]
    firsts = {shape[0] for shape in shapes}
    if batch > 1 and len(firsts) == 1 and not any(batch in shape for shape in shapes):
        raise ShapeError(f"the candidate's arrays have {firsts.pop():,} on their first axis, and {batch:,} images were given")


def _narrower(arrays: Mapping[str, Values], precision: Precision) -> list[str]:
    """A sentence where every value is of a narrower dtype than the candidate was said to compute in."""
    names = {array.dtype.name for array in arrays.values() if array.dtype.name in FORMATS}
    widest = max(names, key=lambda name: FORMATS[name][0], default=precision.stored)
    if FORMATS[widest][0] >= FORMATS[precision.stored][0]:
        return []
    return [f"all values are {widest}, yet the candidate is said to compute in {precision.name}"]


def _other_images(theirs: Values, ours: Values) -> list[str]:
    """A sentence where the candidate's own images are not those that were given."""
    rounding = 0.01 * float(np.abs(ours).max(initial=0))  # theirs may be of bfloat16
    same = theirs.shape == ours.shape and np.allclose(_widened(theirs), ours, rtol=0, atol=rounding)
    return [] if same else ["the candidate's 'images' are not the images that were given"]
