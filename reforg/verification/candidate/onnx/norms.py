"""Layer norms of an ONNX graph: as operators of their own, or as the sums, roots and quotients that exporters make of them."""

from collections.abc import Iterator
from dataclasses import dataclass

from reforg.verification.candidate.onnx.graph import Graph, Node

NORMS = ("LayerNormalization", "SimplifiedLayerNormalization", "RMSNormalization", "BatchNormalization")
WITH_SUM = ("SkipLayerNormalization", "SkipSimplifiedLayerNormalization")  # x + residual, normed; the sum is their fourth result
STEPS = 8  # nodes at most between a mean and the quotient that it belongs to


@dataclass(frozen=True)
class Norm:
    """A norm's input, None where it is a sum that is not there, and its output, gain and bias included."""

    read: str | None
    output: str


def norms_of(graph: Graph) -> list[Norm]:
    """Every norm of a graph, in the order of execution."""
    return list(_norms(graph))


def _norms(graph: Graph) -> Iterator[Norm]:
    for node in graph.nodes:
        if node.kind in NORMS:
            yield Norm(node.inputs[0], node.output)
        elif node.kind in WITH_SUM:
            yield Norm("".join(node.outputs[3:4]) or None, node.output)
        elif node.kind == "ReduceMean":
            found = _decomposed(graph, node)
            if found is not None:
                yield found


def _decomposed(graph: Graph, mean: Node) -> Norm | None:
    """The norm that a mean is the beginning of: (x - mean(x)) / deviation, or x / deviation where the mean is not taken off."""
    x = mean.inputs[0]
    centred = next((node for node in graph.readers(x) if node.kind == "Sub" and node.other(x) == mean.output), None)
    if centred is not None:
        return _scaled(graph, x, centred.output)
    squared = graph.makers.get(x)
    if squared is None or squared.kind not in ("Mul", "Pow") or not _is_square(graph, squared):
        return None
    root = squared.inputs[0]
    return None if _is_centred(graph, root) else _scaled(graph, root, root)


def _is_square(graph: Graph, node: Node) -> bool:
    first, second = node.inputs[:2]
    return first == second or (node.kind == "Pow" and second in graph.constants)


def _is_centred(graph: Graph, name: str) -> bool:
    """Whether a tensor is another less its mean; the variance of such a one belongs to the norm that the mean begins."""
    maker = graph.makers.get(name)
    means = [graph.makers.get(operand) for operand in maker.inputs] if maker is not None and maker.kind == "Sub" else []
    return any(node is not None and node.kind == "ReduceMean" for node in means)


def _scaled(graph: Graph, read: str, centred: str) -> Norm | None:
    """The norm of `read` whose numerator is `centred`: its quotient by what is made of its squares, then gain and bias."""
    roots = set(_unary(graph, centred))
    for node in graph.readers(centred):
        if node.kind in ("Div", "Mul") and node.other(centred) in roots and node.other(centred) != centred:
            return Norm(read, _with_affine(graph, node.output))
    return None


def _unary(graph: Graph, name: str) -> Iterator[str]:
    """What is made of a tensor's squares by a few operators, each with one operand that is not constant."""
    squares = [node.output for node in graph.readers(name) if node.kind in ("Mul", "Pow") and _is_square(graph, node)]
    for _ in range(STEPS):
        yield from squares
        made = [node for square in squares for node in graph.readers(square)]
        squares = [node.output for node in made if all(one in graph.constants for one in node.inputs if one not in squares)]


def _with_affine(graph: Graph, name: str) -> str:
    """The tensor after its gain and its bias, where it has them, whichever axis they lie along."""
    for kind in ("Mul", "Add"):
        found = [
            node.output
            for given in graph.relaid(name)
            for node in graph.readers(given)
            if node.kind == kind and any(graph.vector(node.other(given), size) for size in graph.shapes.get(given, ()) if size > 1)
        ]
        name = found[0] if len(found) == 1 else name
    return name
