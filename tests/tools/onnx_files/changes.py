"""Changes to ONNX files: names taken away, graphs optimised, numbers narrowed, and what a hostile hand may do."""

import warnings
from pathlib import Path

import onnx
import onnxruntime
from onnx import TensorProto, helper


def without_names(path: Path) -> Path:
    """The same graph, whose tensors and nodes are called t0, t1, ..., but for inputs and outputs."""
    model = onnx.load(path)
    graph = model.graph
    names = {one.name: one.name for one in (*graph.input, *graph.output)} | {"": ""}
    for one in graph.initializer:
        one.name = names.setdefault(one.name, f"t{len(names)}")
    for node in graph.node:
        node.name = ""
        del node.metadata_props[:]
        for tensors in (node.input, node.output):
            tensors[:] = [names.setdefault(name, f"t{len(names)}") for name in tensors]
    del graph.value_info[:]
    onnx.save(model, path)
    return path


def with_names(path: Path, change: dict[str, str]) -> Path:
    """The same graph, in which parts of what tells modules are others."""
    model = onnx.load(path)
    for node in model.graph.node:
        for old, new in change.items():
            node.name = node.name.replace(old, new)
    onnx.save(model, path)
    return path


def with_fused_biases(path: Path) -> Path:
    """The same graph, in which GELUs add the bias of the layer before them, as onnxruntime's optimiser has it."""
    model = onnx.load(path)
    graph = model.graph
    sums = {node.output[0]: node for node in graph.node if node.op_type == "Add"}
    weights = {one.name for one in graph.initializer}
    for node in [node for node in graph.node if node.op_type == "Gelu"]:
        operands = sorted(sums[node.input[0]].input, key=weights.__contains__)
        graph.node.remove(sums[node.input[0]])
        del node.attribute[:]
        node.op_type, node.domain, node.input[:] = "BiasGelu", "com.microsoft", operands
    model.opset_import.append(helper.make_opsetid("com.microsoft", 1))
    onnx.save(model, path)
    return path


def optimised(path: Path, level: str) -> Path:
    """What onnxruntime makes of the graph."""
    options = onnxruntime.SessionOptions()
    options.graph_optimization_level = getattr(onnxruntime.GraphOptimizationLevel, f"ORT_ENABLE_{level}")
    options.optimized_model_filepath = str(path.with_suffix(".optimised.onnx"))
    options.log_severity_level = 4
    onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
    return Path(options.optimized_model_filepath)


def halved(path: Path) -> Path:
    """The same graph in float16."""
    from onnxruntime.transformers.float16 import convert_float_to_float16

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        onnx.save(convert_float_to_float16(onnx.load(path)), path)
    return path


def beside(path: Path) -> Path:
    """The same graph with its weights in a file beside it."""
    onnx.save(onnx.load(path), path, save_as_external_data=True, location="weights.bin", size_threshold=0)
    return path


def placed(path: Path, **changes: str) -> Path:
    """A graph with its weights beside it, of whose first tensor the place is another."""
    model = onnx.load(beside(path), load_external_data=False)
    entries = model.graph.initializer[0].external_data
    told = {entry.key: entry.value for entry in entries} | changes
    del entries[:]
    entries.extend(onnx.StringStringEntryProto(key=key, value=value) for key, value in told.items())
    path.write_bytes(model.SerializeToString())
    return path


def small(
    path: Path, nodes: list[onnx.NodeProto], shape: tuple = ("batch", 3, 24, 24), kind: int = TensorProto.FLOAT, **parts
) -> Path:
    """A model of a few nodes, from "images" to "logits"."""
    functions, opsets = parts.pop("functions", []), parts.pop("opsets", ["x"])
    inputs = parts.pop("inputs", [helper.make_tensor_value_info("images", kind, shape)])
    outputs = parts.pop("outputs", [helper.make_tensor_value_info("logits", TensorProto.FLOAT, None)])
    graph = helper.make_graph(nodes, "small", inputs, outputs, **parts)
    versions = [helper.make_opsetid("", 18), *(helper.make_opsetid(domain, 1) for domain in opsets)]
    model = helper.make_model(graph, functions=functions, opset_imports=versions, ir_version=10)
    path.write_bytes(model.SerializeToString())
    return path


def identity() -> onnx.NodeProto:
    return helper.make_node("Identity", ["images"], ["logits"])


def filled(size: int) -> list[onnx.NodeProto]:
    """Nodes that make a tensor of that many elements out of nothing."""
    count = helper.make_tensor("count", TensorProto.INT64, [2], [size, 1])
    return [
        helper.make_node("Constant", [], ["shape"], value=count),
        helper.make_node("ConstantOfShape", ["shape"], ["zeros"]),
        helper.make_node("ReduceSum", ["zeros"], ["sum"]),
        helper.make_node("Add", ["images", "sum"], ["logits"]),
    ]
