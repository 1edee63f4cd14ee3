"""From the layers of an ONNX graph to the values around them: what a layer reads, what follows it, what attention makes between."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field

from reforg.verification.candidate.onnx.graph import LAYOUT, Graph, Node, Shape
from reforg.verification.candidate.onnx.layers import PRODUCTS, Layers
from reforg.verification.candidate.onnx.norms import Norm

Tensors = tuple[str, ...]  # of one value, in parts where there are several
POOLS = LAYOUT | {"Gather", "Slice", "Split", "ReduceMean", "GlobalAveragePool"}
PICKS = LAYOUT | {
    "Gather",
    "Slice",
    "ReduceMean",
    "ReduceSum",
    "ReduceMax",
    "Div",
    "Where",
}  # from probabilities to scores of tokens
ACTIVATED = ("FusedConv", "FusedGemm")  # operators whose result is that of the activation after a layer
SUMS = LAYOUT | {"Add", "Sum"}
MASKED = LAYOUT | {"Where", "IsNaN"}  # what exporters put behind a softmax


@dataclass
class Steps:
    """Trace names -> the tensors that hold them, as far as they were found.

    shapes: of every value of the trace, in the run in which the graph's shapes were seen.
    """

    graph: Graph
    layers: Layers
    norms: Sequence[Norm]
    shapes: Mapping[str, Shape]
    found: dict[str, Tensors] = field(default_factory=dict)

    def put(self, name: str, tensors: str | Tensors | None) -> None:
        """Note where a value is, if the trace has it and all of it was computed."""
        tensors = (tensors,) if isinstance(tensors, str) else tensors or ()
        computed = [tensor in self.graph.shapes and tensor not in self.graph.constants for tensor in tensors]
        if name in self.shapes and tensors and all(computed):
            self.found.setdefault(name, tensors)

    def same(self, name: str, other: str) -> None:
        """Note that a module returns what the last one in it does."""
        self.put(name, self.found.get(other))

    def layer(self, path: str, follower: str | None = None) -> None:
        """Note a layer's output; under the follower's name where what follows was folded into the layer."""
        products = self.layers.products.get(path, ())
        name = follower if path in self.layers.folded and follower else path
        *leading, width = self.shapes.get(name, (0,))
        shape = (*leading, width // max(1, len(products)))
        if not any(product.node.kind in ACTIVATED or self._takes_bias(product.output) for product in products):
            self.put(name, tuple(self.graph.fitting(self.graph.relaid(product.output), shape) for product in products))

    def _takes_bias(self, name: str) -> bool:
        """Whether a fused operator adds the bias to a product, which then is not the layer's output."""
        width = self.graph.shapes.get(name, (0,))[-1:]
        readers = (node for node in self.graph.readers(name) if node.domain not in ("", "ai.onnx"))
        return any(self.graph.vector(one, width[0]) for node in readers for one in node.inputs if width)

    def read(self, path: str) -> str | None:
        """What a layer reads."""
        products = self.layers.products.get(path)
        return products[0].read if products else None

    def before(self, name: str, tensor: str | None, kinds: frozenset[str] = LAYOUT) -> str | None:
        """A tensor in the layout that the trace has under the name, or what it was pooled from."""
        if tensor is None or name not in self.shapes:
            return None
        return self.graph.fitting(self.graph.back(tensor, kinds), self.shapes[name], far=True)

    def after(self, name: str, tensor: str | None) -> str | None:
        """A tensor in that layout, where it is brought into it afterwards."""
        if tensor is None or name not in self.shapes:
            return None
        return self.graph.fitting(self.graph.relaid(tensor), self.shapes[name], far=True)

    def normed_by(self, tensor: str | None, kinds: frozenset[str] = LAYOUT) -> str | None:
        """What the norm reads that made a tensor; None where no norm did."""
        by_output = {norm.output: norm.read for norm in self.norms}
        made = () if tensor is None else self.graph.back(tensor, kinds)
        return next((by_output[name] for name in made if name in by_output), None)

    def norm_of(self, tensor: str | None) -> str | None:
        """The output of the norm that reads a tensor."""
        by_read = {norm.read: norm for norm in self.norms if norm.read is not None}
        given = () if tensor is None else self.graph.relaid(tensor)
        return next((by_read[name].output for name in given if name in by_read), None)

    def output(self, name: str) -> str | None:
        """The tensor that holds a value; None where it is not known, or in parts."""
        tensors = self.found.get(name, ())
        return tensors[0] if len(tensors) == 1 else None

    def scaled(self, name: str, tensor: str | None) -> None:
        """Note the product of a tensor and a constant gain."""
        width = self.shapes.get(name, (0,))[-1]
        for given in () if tensor is None else self.graph.relaid(tensor):
            for node in self.graph.readers(given):
                if node.kind == "Mul" and self.graph.vector(node.other(given), width):
                    self.put(name, node.output)

    def total(self, terms: Sequence[str | None]) -> str | None:
        """The first sum that all terms go into."""
        known = [term for term in terms if term is not None]
        if not known or known[-1] != terms[-1]:
            return None
        first, *rest = (list(self.graph.onward([term], lambda node: node.kind in SUMS)) for term in reversed(known))
        sums, others = (name for name in first[1:] if self.graph.makers[name].kind not in LAYOUT), [set(names) for names in rest]
        return next((name for name in sums if all(name in other for other in others)), None)

    def attention(self, path: str, sources: Iterable[str | None]) -> None:
        """Note scores, probabilities and context of the attention that the sources go into."""
        given = [name for name in sources if name is not None]
        reached = list(
            self.graph.onward(given, lambda node: node.kind not in (*PRODUCTS, "Softmax", "Attention") or self._mixes(node))
        )
        for node in (node for name in reached for node in self.graph.readers(name)):
            if node.kind == "Softmax":
                self.put(f"{path}.scores", self.before(f"{path}.scores", node.inputs[0]))
                self.put(f"{path}.probs", self.after(f"{path}.probs", node.output))
                self._context(f"{path}.context", node.output)

    def _mixes(self, node: Node) -> bool:
        """Whether it is a product of two values, neither constant."""
        return node.kind in PRODUCTS and not any(name in self.graph.constants for name in node.inputs)

    def _context(self, name: str, probabilities: str) -> None:
        for given in self.graph.onward([probabilities], lambda node: node.kind in MASKED):
            for node in self.graph.readers(given):
                if node.kind == "Einsum" or self._mixes(node):
                    self.put(name, self.after(name, node.output))

    def class_attention(self, path: str) -> None:
        """Note what of the probabilities ranks the tokens."""
        name = f"{path}.cls_attention"
        probabilities = self.output(f"{path}.probs")
        if probabilities is not None and name in self.shapes:
            made = self.graph.onward([probabilities], lambda node: node.kind in PICKS)
            exact = [tensor for tensor in made if self.graph.shapes.get(tensor) == self.shapes[name]]
            self.put(name, exact[-1] if exact else None)
