"""An ONNX file opened with suspicion and run by onnxruntime, with every floating tensor of its graph for an output."""

import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from importlib import import_module
from math import prod
from pathlib import Path
from typing import Any

import numpy as np

from reforg.errors import BackendError, ConfigError
from reforg.verification.candidate.onnx.graph import Node, Values
from reforg.verification.candidate.onnx.layers import module_path

FLOATS = {"tensor(float)": "float32", "tensor(float16)": "float16", "tensor(double)": "float64"}
PROTOBUF = 2**31 - 1  # bytes of the largest message; what is larger lies in files beside it
LARGEST = 2**34  # bytes of a single tensor that is still computed
NODES = 100_000  # the largest of these models has 10,000
REASON, SCOPES = 250, "pkg.torch.onnx.name_scopes"  # characters of a reason; where torch puts down the paths of modules
FOLDER = "session.model_external_initializers_file_folder_path"
SILENT = 4  # onnxruntime's log level of what is fatal only


@dataclass(frozen=True)
class Session:
    """A file that is ready to run.

    batch: how many images it takes at a time, None for any number. nodes, weights: of its graph. outputs: its own floating ones.
    """

    runner: Any
    label: str
    dtype: str
    batch: int | None
    nodes: tuple[Node, ...]
    weights: dict[str, Values]
    outputs: tuple[str, ...]
    notes: tuple[str, ...]

    def run(self, images: Values, names: Sequence[str] | None = None) -> dict[str, Values]:
        """Images (B, C, H, W) -> the named floating tensors, by default all, by name."""
        floating = [one.name for one in self.runner.get_outputs() if one.type in FLOATS]
        wanted = floating if names is None else list(names)
        given = {self.runner.get_inputs()[0].name: np.ascontiguousarray(images, self.dtype)}
        try:
            return dict(zip(wanted, self.runner.run(wanted, given), strict=True))
        except Exception as error:
            raise ConfigError(f"{self.label} cannot be run on images {images.shape}: {_reason(error)}") from error


def open_session(path: Path, images: Values) -> Session:
    """The file at `path`, for images (B, C, H, W). Raises BackendError for a missing package, ConfigError for anything else."""
    onnx, runtime = _package("onnx"), _package("onnxruntime")
    label = f"candidate {os.fspath(path)!r}"
    model = _inlined(_parsed(onnx, path, label), label)
    _check_nodes(model, label)
    external = _checked_external(model, path, label)
    own = [one.name for one in model.graph.output]
    _expose(onnx, model)
    runner = _session(runtime, model, path, label)
    dtype, batch = _input_of(runner, images, label)
    _check_sizes(runner, label)
    floating = {one.name for one in runner.get_outputs() if one.type in FLOATS}
    outputs = tuple(name for name in own if name in floating)
    if not outputs:
        raise ConfigError(f"{label} has no output of floating numbers")
    notes = ("the file takes one image at a time: the images were run one by one",) if batch == 1 < len(images) else ()
    nodes = tuple(_node(node) for node in model.graph.node)
    return Session(runner, label, dtype, batch, nodes, _weights(onnx, model, external, label), outputs, notes)


def _package(name: str) -> Any:
    try:
        return import_module(name)
    except ImportError as error:
        hint = "pip install 'reforg[onnx]'"
        raise BackendError(f"an ONNX candidate needs the package {name!r}, which is not installed: {hint}") from error


def _reason(error: Exception) -> str:
    """The first line of what a library says, without its prefix."""
    lines = str(error).strip().splitlines() or [type(error).__name__]
    return lines[0].rpartition("[ONNXRuntimeError] : ")[2][:REASON]


def _parsed(onnx: Any, path: Path, label: str) -> Any:
    """The file's model; nothing beside the file is read."""
    content = _content(path, label)
    try:
        model = onnx.load_model_from_string(content)
        whole = all(isinstance(text, str) for text in _texts(model))
    except Exception as error:  # whatever protobuf says of bytes that are no model
        raise ConfigError(f"{label} is no ONNX file: {_reason(error)}") from error
    if not whole:
        raise ConfigError(f"{label} is no ONNX file: a text in it is not UTF-8")
    return model


def _texts(message: Any) -> Iterator[Any]:
    """Every text in a message of protobuf, which hands out bytes where they are no UTF-8."""
    for field, value in message.ListFields():
        if field.type == field.TYPE_STRING:
            yield from (value,) if isinstance(value, str | bytes) else value
        elif field.type == field.TYPE_MESSAGE:
            for part in (value,) if hasattr(value, "ListFields") else value:
                yield from _texts(part)


def _content(path: Path, label: str) -> bytes:
    try:
        whole, size = path.is_file(), path.stat().st_size
        content = path.read_bytes() if whole and size <= PROTOBUF else b""
    except (OSError, ValueError) as error:  # ValueError: names that no system takes
        raise ConfigError(f"{label} cannot be read: {getattr(error, 'strerror', None) or error}") from error
    if not whole:
        raise ConfigError(f"{label} is no file")
    if size > PROTOBUF:
        raise ConfigError(f"{label} is larger than an ONNX file can be: its weights must be in a file beside it")
    return content


def _inlined(model: Any, label: str) -> Any:
    """The model with its own functions written out, so that their tensors have names."""
    if not model.functions:
        return model
    calls = {(one.domain, one.name): {(node.domain, node.op_type) for node in one.node} for one in model.functions}
    while ready := [key for key, inside in calls.items() if not inside & calls.keys()]:
        for key in ready:
            del calls[key]
    if calls:
        raise ConfigError(f"{label} is refused: its function {min(calls)[1]!r} calls itself")
    try:
        return import_module("onnx.inliner").inline_local_functions(model)
    except Exception as error:
        raise ConfigError(f"{label} cannot be read: {_reason(error)}") from error


def _check_nodes(model: Any, label: str) -> None:
    if len(model.graph.node) > NODES:
        raise ConfigError(f"{label} is refused: it has {len(model.graph.node):,} nodes, more than any of these models")


def _tensors(graph: Any) -> Iterator[Any]:
    """Every stored tensor of a graph: initializers, and those in attributes of nodes, in graphs within it too."""
    graphs = [graph]
    for one in graphs:
        yield from one.initializer
        for sparse in one.sparse_initializer:
            yield from (sparse.values, sparse.indices)
        for attribute in (attribute for node in one.node for attribute in node.attribute):
            graphs.extend(attribute.graphs)
            yield from attribute.tensors
            if attribute.HasField("t"):
                yield attribute.t
            if attribute.HasField("g"):
                graphs.append(attribute.g)


@dataclass(frozen=True)
class Place:
    """Where a tensor's bytes lie outside of the model's file."""

    path: Path
    offset: int
    length: int


def _checked_external(model: Any, path: Path, label: str) -> dict[str, Place]:
    """Name -> place of every tensor outside of the file, each in a file of the same folder that is long enough."""
    found = {}
    for tensor in _tensors(model.graph):
        if tensor.data_location:
            found[tensor.name] = _place(tensor, path, label)
    return found


def _place(tensor: Any, path: Path, label: str) -> Place:
    told = {entry.key: entry.value for entry in tensor.external_data}
    folder, location = path.parent.resolve(), told.get("location", "")
    where = f"{label} is refused: its tensor {tensor.name!r:.100}"
    try:
        file = (folder / location).resolve()
        inside = bool(location) and file.is_relative_to(folder)
        size = file.stat().st_size if inside and file.is_file() else -1
        offset = int(told.get("offset") or 0)
        length = int(told.get("length") or size - offset)
    except (OSError, ValueError) as error:
        raise ConfigError(f"{where} lies at a place that cannot be: {error!s:.100}") from error
    if not inside:
        raise ConfigError(f"{where} lies outside of the file's folder, in {location!r:.200}")
    if size < 0:
        raise ConfigError(f"{where} is in {location!r:.200}, which is not there")
    if offset < 0 or length < 0 or offset + length > size:
        raise ConfigError(f"{where} ends behind the end of {location!r:.200}")
    return Place(file, offset, length)


def _expose(onnx: Any, model: Any) -> None:
    """Make every tensor that a node of the outer graph computes an output; their types are found out by onnxruntime."""
    graph = model.graph
    there = {one.name for one in graph.output}
    for name in dict.fromkeys(name for node in graph.node for name in node.output):
        if name and name not in there:
            graph.output.append(onnx.ValueInfoProto(name=name))


def _session(runtime: Any, model: Any, path: Path, label: str) -> Any:
    options = runtime.SessionOptions()
    options.graph_optimization_level = runtime.GraphOptimizationLevel.ORT_DISABLE_ALL
    options.log_severity_level = SILENT
    options.add_session_config_entry(FOLDER, str(path.parent.resolve()))
    try:
        content, providers = model.SerializeToString(), ["CPUExecutionProvider"]
        return runtime.InferenceSession(content, options, providers=providers, enable_fallback=0)  # which would print
    except Exception as error:
        raise ConfigError(f"{label} cannot be run: {_reason(error)}") from error


def _input_of(runner: Any, images: Values, label: str) -> tuple[str, int | None]:
    """The dtype of the only input, and how many images it takes."""
    inputs = runner.get_inputs()
    if len(inputs) != 1:
        names = ", ".join(repr(one.name) for one in inputs[:3])
        raise ConfigError(f"{label} must have one input, the images, and has {len(inputs)}{': ' * bool(names)}{names:.200}")
    (one,) = inputs
    if one.type not in FLOATS:
        raise ConfigError(f"{label} must take floating images (B, C, H, W), and takes {one.type}")
    sides = [side if isinstance(side, int) and side > 0 else None for side in one.shape]
    batch = sides[0] if sides else None
    fits = len(sides) == 4 and all(side in (None, size) for side, size in zip(sides[1:], images.shape[1:], strict=True))
    if one.shape and not (fits and batch in (None, 1, len(images))):
        raise ConfigError(f"{label} takes images {tuple(one.shape)}, and was given {images.shape}")
    return FLOATS[one.type], batch


def _check_sizes(runner: Any, label: str) -> None:
    """Refuse a graph that claims tensors larger than any model's."""
    for one in runner.get_outputs():
        size = prod(side for side in one.shape or () if isinstance(side, int))
        if one.type in FLOATS and size * np.dtype(FLOATS[one.type]).itemsize > LARGEST:
            raise ConfigError(f"{label} is refused: its tensor {one.name!r:.100} would have {size:,} elements")


def _node(node: Any) -> Node:
    scopes = next((one.value for one in node.metadata_props if one.key == SCOPES), "")
    return Node(node.op_type, node.domain, module_path(node.name, scopes), tuple(node.input), tuple(node.output))


def _weights(onnx: Any, model: Any, external: dict[str, Place], label: str) -> dict[str, Values]:
    """Floating initializers by name."""
    found = {}
    for tensor in model.graph.initializer:
        try:
            values = _stored(onnx, tensor, external.get(tensor.name))
        except (KeyError, TypeError, ValueError) as error:  # onnxruntime passes over what no node reads
            raise ConfigError(f"{label} is refused: its tensor {tensor.name!r:.100} cannot be read: {error!s:.200}") from error
        if "float" in values.dtype.name:
            found[tensor.name] = values
    return found


def _stored(onnx: Any, tensor: Any, place: Place | None) -> Values:
    """A tensor's values; those outside of the file are mapped, not read."""
    if place is None:
        values: Values = onnx.numpy_helper.to_array(tensor)
        return values
    kind = np.dtype(onnx.helper.tensor_dtype_to_np_dtype(tensor.data_type))
    empty = np.empty(0, np.uint8)
    content = np.memmap(place.path, np.uint8, "r", place.offset, (place.length,)) if place.length else empty
    mapped: Values = content.view(kind).reshape(tensor.dims)
    return mapped
