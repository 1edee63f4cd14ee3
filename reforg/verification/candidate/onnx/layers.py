"""Which products and convolutions of an ONNX graph are which layers of a model: by module paths, by weights, by order."""

import re
from bisect import bisect_right
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np

from reforg.verification.candidate.module_names import Place, places
from reforg.verification.candidate.onnx.graph import Graph, Node, Values

PRODUCTS = frozenset({"MatMul", "Gemm", "Conv", "FusedMatMul", "FusedGemm", "FusedConv"})
DOMAINS = ("", "ai.onnx", "com.microsoft")  # elsewhere, an operator of the same name wants its tensors in another layout
CLOSE = 0.05  # of the root mean square: weights as far from the model's as rounding to eight bits puts them are still that layer's
SAMPLES = 256  # elements by which most pairs of weights are told apart
NESTED = 4  # components of a module path that a wrapper may have put before it
PARTS = {"qkv": 3, "kv": 2, "kv1": 2, "kv2": 2}  # layers that others have as separate ones: leaf of the path -> how many
WEIGHT = ".weight"


@dataclass(frozen=True)
class Product:
    """A product or convolution with a constant operand: its node, that operand, what it reads, its result with the bias."""

    node: Node
    weight: str
    read: str
    output: str


@dataclass(frozen=True)
class Layers:
    """Layers that were found: path -> its products, several where the layer is in parts.

    folded: paths into whose weights the gain that follows was multiplied, so that their own output is not there. notes: sentences.
    """

    products: dict[str, tuple[Product, ...]]
    folded: frozenset[str]
    notes: tuple[str, ...]


@dataclass
class Search:
    """Layers still to be found, in the order of execution, and what was found of them."""

    weights: Mapping[str, Values]
    found: dict[Place, Product] = field(default_factory=dict)
    folded: set[str] = field(default_factory=set)

    def take(self, place: Place, product: Product) -> None:
        """Put a product in its place, unless something is there."""
        whole = Place(place.name) in self.found
        if not whole and place not in self.found and product not in self.found.values():
            self.found[place] = product

    def missing(self) -> list[str]:
        """Paths of which nothing was found."""
        there = {place.name for place in self.found}
        return [path for path in self.weights if path not in there]


def find(graph: Graph, weights: Mapping[str, Values], order: Sequence[str], gains: Mapping[str, Values]) -> Layers:
    """The products that are the model's layers.

    weights: path -> weight (O, I) or (O, I, kh, kw) of each layer with a matrix. order: trace names in the order of execution.
    gains: path -> the gain (O,) of what follows a layer and may have been folded into it.
    Paths that the exporter put down count, unless weights contradict most of them; then equal weights; then weights equal up
    to the gain; then, where as many layers as products of a shape are left, their order.
    """
    products = _products(graph)
    search = Search({path: weights[path] for path in order if path in weights})
    named, valued = _by_path(products, order, search), _by_weight(graph, products, search)
    notes = []
    # Paths come first, because two layers may have equal weights. Yet an exporter may number its modules in a way of its own: where
    # most paths contradict the weights, the weights are right.
    contrary = [product for product, place in named.items() if valued.get(product, place) != place]
    if 2 * len(contrary) > len(set(named) & set(valued)):
        notes.append(f"module paths in the file are not heeded: {len(contrary)} of them contradict the weights")
        named = {}
    for source in (named, _in_order(valued, order)):
        for product, place in source.items():
            search.take(place, product)
    unlike = {path: gain for path, gain in gains.items() if Place(path) not in valued.values()}
    notes += _by_gain(graph, products, search, unlike)
    notes += _by_order(graph, products, search)
    return Layers(_whole(search), frozenset(search.folded), tuple(notes))


def _products(graph: Graph) -> list[Product]:
    """Every product with one constant operand, with the bias that is added to it where one is."""
    found = []
    for node in graph.nodes:
        fixed = [name for name in node.inputs[:2] if name in graph.constants and graph.constants[name].ndim > 1]
        if node.kind in PRODUCTS and node.domain in DOMAINS and len(fixed) == 1 and len(node.inputs) > 1:
            found.append(Product(node, fixed[0], node.other(fixed[0]), _with_bias(graph, node, fixed[0])))
    return found


def _with_bias(graph: Graph, node: Node, weight: str) -> str:
    """The tensor after the sum of a product and a constant vector; the product where nothing, or something else, is added."""
    shape, out = graph.constants[weight].shape, graph.shapes.get(node.output, ())
    width = shape[0] if "Conv" in node.kind else out[-1] if out else 0
    for name in graph.relaid(node.output):
        for reader in graph.readers(name):
            if reader.kind == "Add" and graph.vector(reader.other(name), width):
                return reader.output
    return node.output


def _by_path(products: Sequence[Product], order: Sequence[str], search: Search) -> dict[Product, Place]:
    """Products whose module's path, or whose weight's own name, is a layer's in any spelling that is known."""
    place = places(order)
    uses = Counter(product.weight for product in products)
    found: dict[Product, Place] = {}
    for product in products:
        own = product.weight.removesuffix(WEIGHT) if uses[product.weight] == 1 else ""
        for path in (product.node.path, own):
            there = next(filter(None, map(place, _without_wrappers(path))), None)
            if there is not None and there.name in search.weights and there not in found.values():
                found[product] = there
                break
    return found


def _without_wrappers(path: str) -> list[str]:
    """A path, and what remains of it without its first components."""
    parts = path.split(".")
    return [".".join(parts[count:]) for count in range(min(len(parts), NESTED + 1))]


def _by_weight(graph: Graph, products: Sequence[Product], search: Search) -> dict[Product, Place]:
    """Products whose weight is, as it stands or transposed, a layer's or one of its parts', the nearest where several are."""
    wanted: list[tuple[Place, Values]] = []
    for path, weight in search.weights.items():
        matrix = weight.reshape(weight.shape[0], -1)
        wanted.append((Place(path), matrix))
        parts = PARTS.get(path.rpartition(".")[2], 1)
        if parts > 1:
            wanted += [(Place(path, part, parts), matrix) for part, matrix in enumerate(np.split(matrix, parts))]
    found: dict[Product, Place] = {}
    for product in products:
        weight = graph.constants[product.weight]
        near = [(off, index) for index, (_, matrix) in enumerate(wanted) if (off := _distance(weight, matrix)) < CLOSE]
        if near:
            found[product] = wanted.pop(min(near)[1])[0]
    return found


def _in_order(valued: Mapping[Product, Place], order: Sequence[str]) -> dict[Product, Place]:
    """Without the fewest whose blocks do not come in the order of execution: the weights of two blocks may be exchanged.

    The longest run of blocks that never fall is found as patience sorting finds it.
    """
    first = {path: index for index, path in reversed(list(enumerate(map(_block, order))))}
    ends: list[int] = []
    lasts: list[Product] = []
    before: dict[Product, Product | None] = {}
    for product, place in valued.items():
        block = first[_block(place.name)]
        pile = bisect_right(ends, block)
        before[product] = lasts[pile - 1] if pile else None
        ends[pile : pile + 1], lasts[pile : pile + 1] = [block], [product]
    kept: set[Product | None] = set()
    last = lasts[-1] if lasts else None
    while last is not None:
        kept.add(last)
        last = before[last]
    return {product: place for product, place in valued.items() if product in kept}


def _block(path: str) -> str:
    """The block that a layer is part of, or else its own path's beginning; two heads have no order."""
    parts = path.removesuffix("_dist").split(".")
    return ".".join(parts[:2]) if parts[0].startswith("block") else parts[0]


def _views(weight: Values, matrix: Values) -> list[Values]:
    """A weight as matrices of the wanted shape (O, I): as it stands, and transposed."""
    if weight.size != matrix.size or not weight.size:
        return []
    rows, columns = matrix.shape
    return [weight.reshape(rows, columns), weight.reshape(columns, rows).T]


def _distance(weight: Values, matrix: Values) -> float:
    """The root mean square of the difference, of that of the wanted; infinite where most elements already differ in a sample."""
    best = np.inf
    for view in _views(weight, matrix):
        step = np.arange(min(SAMPLES, matrix.size)) * max(1, matrix.size // SAMPLES)
        at = np.unravel_index(step, matrix.shape)
        if _relative(view[at] - matrix[at], matrix[at]) < 4 * CLOSE:
            best = min(best, _relative(view - matrix, matrix))
    return best


def _relative(difference: Values, wanted: Values) -> float:
    size = float(np.linalg.norm(np.asarray(wanted, np.float64)))
    off = float(np.linalg.norm(np.asarray(difference, np.float64)))
    return off / size if size else (np.inf if off else 0.0)


def _by_gain(graph: Graph, products: Sequence[Product], search: Search, gains: Mapping[str, Values]) -> list[str]:
    """Layers of which every row is the model's times a factor: the gain of the norm or the LayerScale that follows."""
    unlike = []
    for path, gain in gains.items():
        wanted = search.weights[path].reshape(len(gain), -1)
        named = search.found.get(Place(path))
        free = [product for product in products if product not in search.found.values()] if named is None else [named]
        for product in free:
            factors = _factors(graph.constants[product.weight], wanted)
            if factors is None:
                continue
            search.found[Place(path)] = product
            search.folded.add(path)
            unlike += [path] if _relative(factors - gain, gain) > CLOSE else []
            break
    return list(_of_folds(sorted(search.folded), unlike))


def _of_folds(folded: Sequence[str], unlike: Sequence[str]) -> Iterator[str]:
    """What was folded, in sentences."""
    if folded:
        yield f"the norm or gain that follows is folded into the weights of {', '.join(folded)}, which have no value of their own"
    if unlike:
        yield f"what is folded into the weights of {', '.join(unlike)} is not the model's gain"


def _factors(weight: Values, matrix: Values) -> Values | None:
    """The factor of each row where all elements of a row have the same one; None where they have not."""
    for view in _views(weight, matrix):
        rows = np.asarray(view, np.float64)
        factors: Values = np.sum(rows * matrix, axis=1) / np.maximum(np.sum(matrix * matrix, axis=1), np.finfo(np.float64).tiny)
        if _relative(rows - factors[:, None] * matrix, rows) < CLOSE:
            return factors
    return None


def _by_order(graph: Graph, products: Sequence[Product], search: Search) -> list[str]:
    """Layers whose weights are not the model's: where as many products of that size are left, one after the other."""
    left: dict[int, list[Product]] = {}
    for product in products:
        if product not in search.found.values():
            left.setdefault(graph.constants[product.weight].size, []).append(product)
    wanted: dict[int, list[str]] = {}
    for path in search.missing():
        wanted.setdefault(search.weights[path].size, []).append(path)
    taken = []
    for size, paths in wanted.items():
        if len(paths) == len(left.get(size, ())):
            for path, product in zip(paths, left[size], strict=True):
                search.take(Place(path), product)
            taken += paths
    return [f"weights of {', '.join(taken)} are not the model's: found by their place in the file"] if taken else []


def _whole(search: Search) -> dict[str, tuple[Product, ...]]:
    """Layers of which every part was found."""
    found: dict[str, tuple[Product, ...]] = {}
    for path in search.weights:
        places_of = sorted((place for place in search.found if place.name == path), key=lambda place: place.part)
        if places_of and len(places_of) == places_of[0].parts:
            found[path] = tuple(search.found[place] for place in places_of)
    return found


def module_path(name: str, scopes: str) -> str:
    """The module's path by what an exporter put down of a node: its name '/blocks.0/attn/qkv/MatMul', or its scopes

    "['', 'blocks.0', 'blocks.0.attn', 'linear']"; "" where neither tells.
    """
    if scopes:
        modules: list[str] = re.findall(r"'([^']*)'", scopes)[:-1]  # the last one is the operation
        return modules[-1] if modules else ""
    path = ""
    for part in name.split("/")[1:-1]:
        inner = path.rpartition(".")[2]
        path = ".".join(filter(None, (path, part.removeprefix(f"{inner}.") if inner else part)))
    return path
