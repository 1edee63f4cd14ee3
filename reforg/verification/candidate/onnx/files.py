"""What an ONNX file computes on its way, under the names of a trace: its layers tell which of its tensors is which value."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from reforg.config import BATCH_NORM_EPS, Config
from reforg.errors import ConfigError
from reforg.families import family_of
from reforg.models.model import Model
from reforg.ops import REFERENCE, Recorder
from reforg.verification.candidate.onnx import session as onnx_session
from reforg.verification.candidate.onnx.families import gains, name_values
from reforg.verification.candidate.onnx.graph import Graph, Values, fits
from reforg.verification.candidate.onnx.layers import WEIGHT, find
from reforg.verification.candidate.onnx.norms import norms_of
from reforg.verification.candidate.onnx.session import Session
from reforg.verification.candidate.onnx.steps import Steps, Tensors

PROBE = 2  # images of the run that shows all tensors; with one, a graph may drop the axis of the batch
EXACT = {"float64": 1e-9, "float32": 1e-4, "float16": 1e-2}  # root mean square by which equal values differ after a whole model
APART = 10.0  # how much further off the second nearest value must be


@dataclass(frozen=True)
class Recording:
    """What a file has computed: arrays under names of the trace, in the order of execution, in the layout that they have there.

    matched: name of the trace -> the tensor's name in the file; "a, b, c" where the value was put together from these.
    notes: sentences on what was done to names, images and values.
    """

    values: dict[str, Values]
    matched: dict[str, str]
    notes: tuple[str, ...]


def recorded(path: str, images: Values, model: Model) -> Recording:
    """The values of an ONNX file for images (B, C, H, W).

    The model's weights tell the file's layers, whatever the model runs on. onnxruntime runs the file on the CPU, not optimised.
    Raises BackendError where a package is missing, and ConfigError for a file that cannot be read or run on the images.
    """
    session = onnx_session.open_session(Path(path), images)
    first, tensors = _probed(session, images)
    weights = {name: np.asarray(model.backend.to_numpy(value), np.float64) for name, value in model.weights.items()}
    trace = _reference(weights, model.config, first)
    graph = Graph(session.nodes, session.weights, tensors)
    # The layers are the landmarks: whatever an exporter did, their weights can be known again. The rest is found from them.
    layers = find(graph, _matrices(weights), list(trace), _gains(weights, model.config))
    steps = Steps(graph, layers, norms_of(graph), {name: value.shape for name, value in trace.items()})
    logits = _logits(session, tensors, trace["logits"])
    name_values(steps, model.config, logits)
    # Whatever is left is known by its values alone, and only where no second tensor comes near them.
    steps.found |= _by_value(steps, tensors, trace, logits)
    found = {name: steps.found[name] for name in trace if name in steps.found and _plausible(steps, name, trace[name])}
    values = _values(session, found, images, tensors, len(first))
    return Recording(values, {name: ", ".join(names) for name, names in found.items()}, (*session.notes, *layers.notes))


def _probed(session: Session, images: Values) -> tuple[Values, dict[str, Values]]:
    """As few images as tell shapes, and all tensors of a run on them; some files claim any number and only take one."""
    first = images[: session.batch or PROBE]
    try:
        return first, session.run(first)
    except ConfigError:
        if session.batch is not None or len(first) == len(images):
            raise
        return images, session.run(images)


def _reference(weights: Mapping[str, Values], config: Config, images: Values) -> dict[str, Values]:
    """The trace of the images in float64 on NumPy."""
    recorder = Recorder(None)
    family_of(config).forward(weights, images.astype(np.float64), config, REFERENCE, recorder)
    return {name: np.asarray(value) for name, value in recorder.values.items()}


def _matrices(weights: Mapping[str, Values]) -> dict[str, Values]:
    """Path -> weight of each layer that has a matrix or a kernel."""
    return {name.removesuffix(WEIGHT): value for name, value in weights.items() if name.endswith(WEIGHT) and value.ndim > 1}


def _gains(weights: Mapping[str, Values], config: Config) -> dict[str, Values]:
    """Path of a layer -> the gain (O,) that follows it: that of a batch norm, or LayerScale's."""
    found = {}
    for path in _matrices(weights):
        head, _, leaf = path.rpartition(".")
        norm = f"{head}.{int(leaf) + 1}" if leaf.isdigit() else ""
        if f"{norm}.running_var" in weights:
            found[path] = weights[f"{norm}.weight"] / np.sqrt(weights[f"{norm}.running_var"] + BATCH_NORM_EPS)
    return found | {path: weights[name] for path, name in gains(config).items()}


def _logits(session: Session, tensors: Mapping[str, Values], wanted: Values) -> str:
    """The output that logits are: the first of their shape, or the first of all."""
    fitting = [name for name in session.outputs if tensors[name].shape == wanted.shape]
    return (fitting or session.outputs)[0]


def _by_value(steps: Steps, tensors: Mapping[str, Values], trace: Mapping[str, Values], logits: str) -> dict[str, Tensors]:
    """Values that no layer leads to, where one tensor alone, which is nothing else, is equal to the reference's."""
    used = {tensor for names in steps.found.values() for tensor in names}
    free = [name for name in tensors if name not in used and name not in steps.graph.constants and name != logits]
    found: dict[str, Tensors] = {}
    for name, wanted in trace.items():
        if name in steps.found or wanted.dtype.kind != "f":
            continue
        alike = [(_distance(tensors[tensor], wanted), tensor) for tensor in free if tensors[tensor].shape == wanted.shape]
        distances = sorted(alike)
        if distances and distances[0][0] <= EXACT.get(tensors[distances[0][1]].dtype.name, 0.0):
            second = next((off for off, _ in distances[1:] if off > distances[0][0]), np.inf)
            if second > APART * distances[0][0]:
                found[name] = (distances[0][1],)
    return found


def _distance(got: Values, wanted: Values) -> float:
    """Root mean square of the difference, of that of the wanted; infinite where it is not finite."""
    off = float(np.linalg.norm(got.astype(np.float64) - wanted)) / max(float(np.linalg.norm(wanted)), np.finfo(np.float64).tiny)
    return off if np.isfinite(off) else np.inf


def _plausible(steps: Steps, name: str, wanted: Values) -> bool:
    """Whether a value can be brought into the trace's layout, or has its rank: another number of tokens is a fault to be shown.

    So is whatever the file gives for logits.
    """
    shapes = [steps.graph.shapes[tensor] for tensor in steps.found[name]]
    if name == "logits" or all(len(shape) == wanted.ndim for shape in shapes):
        return True
    return len(shapes) == 1 and fits(shapes[0], wanted.shape)


def _values(
    session: Session, found: Mapping[str, Tensors], images: Values, tensors: Mapping[str, Values], done: int
) -> dict[str, Values]:
    """The values of all images; those of the first ones are there already."""
    names = list(dict.fromkeys(tensor for parts in found.values() for tensor in parts))
    seen = [{name: tensors[name] for name in names}]
    if done < len(images) and session.batch is None:
        seen = [session.run(images, names)]
    elif done < len(images):
        seen += [session.run(images[start : start + done], names) for start in range(done, len(images), done)]
    whole = {name: _together([values[name] for values in seen]) for name in names}
    return {name: _joined([whole[tensor] for tensor in parts]) for name, parts in found.items()}


def _joined(parts: Sequence[Values]) -> Values:
    """Parts of a value, as queries, keys and values apart, side by side."""
    return parts[0] if len(parts) == 1 else np.concatenate(parts, axis=-1)


def _together(parts: Sequence[Values]) -> Values:
    """Values of images that were run one by one, along their axis of one image, or along a new one where they have none."""
    if len(parts) == 1:
        return parts[0]
    return np.concatenate(parts) if parts[0].shape[:1] == (1,) else np.stack(parts)
