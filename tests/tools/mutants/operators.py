"""All first-order mutants of a source text: each changes one place, and every other byte stays as it is.

What is not a program's doing is left alone: docstrings, annotations and what only annotations use, imports, `__all__`, the
sentences of raised errors (the values in them are mutated). A mutant that does not compile, or that parses to the same program
as the original or as an earlier mutant, is none. Nor is what crashes at once by exchanging a path for an array.
"""

import ast
import re
import warnings
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from itertools import pairwise

Change = tuple[str, int, int, str]
"""The kind, where it begins and ends in the text, and what stands there instead."""
Pair = tuple[ast.AST, ast.AST]

OPERATORS: dict[type[ast.AST], tuple[str, dict[str, type[ast.AST]]]] = {
    ast.Add: (r"\+", {"-": ast.Sub, "*": ast.Mult}),
    ast.Sub: (r"-", {"+": ast.Add}),
    ast.Mult: (r"\*", {"/": ast.Div, "+": ast.Add}),
    ast.Div: (r"/", {"*": ast.Mult}),
    ast.FloorDiv: (r"//", {"/": ast.Div, "*": ast.Mult}),
    ast.Mod: (r"%", {"*": ast.Mult}),
    ast.Pow: (r"\*\*", {"*": ast.Mult}),
    ast.MatMult: (r"@", {"*": ast.Mult}),
    ast.BitAnd: (r"&", {"|": ast.BitOr}),
    ast.BitOr: (r"\|", {"&": ast.BitAnd}),
    ast.Lt: (r"<", {"<=": ast.LtE, ">=": ast.GtE}),
    ast.LtE: (r"<=", {"<": ast.Lt, ">": ast.Gt}),
    ast.Gt: (r">", {">=": ast.GtE, "<=": ast.LtE}),
    ast.GtE: (r">=", {">": ast.Gt, "<": ast.Lt}),
    ast.Eq: (r"==", {"!=": ast.NotEq}),
    ast.NotEq: (r"!=", {"==": ast.Eq}),
    ast.Is: (r"is", {"is not": ast.IsNot}),
    ast.IsNot: (r"is\s+not", {"is": ast.Is}),
    ast.In: (r"in", {"not in": ast.NotIn}),
    ast.NotIn: (r"not\s+in", {"in": ast.In}),
    ast.And: (r"and", {"or": ast.Or}),
    ast.Or: (r"or", {"and": ast.And}),
}
FUNCTIONS = {
    "max": "min", "min": "max", "any": "all", "all": "any", "ceil": "floor", "floor": "ceil", "sum": "mean", "mean": "sum",
    "exp": "expm1", "sqrt": "square", "zeros": "ones", "ones": "zeros", "fullmatch": "match", "argsort": "sort",
}  # fmt: skip
OF_A_NAMESPACE = {"sum", "mean", "exp", "sqrt", "zeros", "ones", "fullmatch", "argsort"}  # their partners are no builtins
SYMMETRIC = {"max", "min", "maximum", "minimum"}  # whose arguments may stand in any order
ATOMS = (
    *(ast.Name, ast.Attribute, ast.Call, ast.Subscript, ast.Constant, ast.JoinedStr),
    *(ast.List, ast.Dict, ast.Set, ast.ListComp, ast.SetComp, ast.DictComp, ast.GeneratorExp),
)


@dataclass(frozen=True)
class Mutant:
    """One change of one file. `before` and `after` are the lines it touches, joined and with single blanks."""

    file: str
    line: int
    column: int
    kind: str
    number: int
    start: int
    end: int
    text: str
    before: str
    after: str

    @property
    def id(self) -> str:
        return f"{self.file}:{self.line}:{self.column}:{self.kind}:{self.number}"

    def apply(self, source: str) -> str:
        """The source with this change."""
        return source[: self.start] + self.text + source[self.end :]

    def diff(self, around: int = 48) -> str:
        """The change on one line, with what stands around it."""
        most = min(len(self.before), len(self.after))
        head = next((k for k in range(most) if self.before[k] != self.after[k]), most)
        tail = next((k for k in range(most - head) if self.before[-1 - k] != self.after[-1 - k]), most - head)
        low, ends = max(head - around, 0), max(tail - around, 0)
        old, new = self.before[low : len(self.before) - ends], self.after[low : len(self.after) - ends]
        return f"{'…' * (low > 0)}{old}{'…' * (ends > 0)} → {new}"


class Source:
    """A text and its tree, with the places of the nodes as offsets in the text."""

    def __init__(self, text: str, required: dict[str, set[str]] | None = None) -> None:
        self.text = text
        self.tree = ast.parse(text)
        self.required = required or {}
        self.lines = text.splitlines(keepends=True)
        self.starts = [0]
        for line in self.lines:
            self.starts.append(self.starts[-1] + len(line))
        self.parents = {child: node for node in ast.walk(self.tree) for child in ast.iter_child_nodes(node)}
        self.annotations = {id(part) for node in _annotations(self.tree) for part in ast.walk(node)}

    def offset(self, line: int, column: int) -> int:
        """Where a place of the tree, whose columns are counted in bytes, is in the text."""
        return self.starts[line - 1] + len(self.lines[line - 1].encode()[:column].decode())

    def span(self, node: ast.AST) -> tuple[int, int]:
        return self.offset(node.lineno, node.col_offset), self.offset(node.end_lineno, node.end_col_offset)

    def segment(self, node: ast.AST) -> str:
        start, end = self.span(node)
        return self.text[start:end]

    def atom(self, node: ast.AST) -> str:
        """The node's text, in parentheses where something beside it could take it apart."""
        text = self.segment(node)
        return text if isinstance(node, ATOMS) or (isinstance(node, ast.Tuple) and text[0] == "(") else f"({text})"

    def between(self, left: ast.AST, right: ast.AST) -> tuple[int, str]:
        """Where the text between two neighbours begins, and the text, its comments blanked."""
        start = self.span(left)[1]
        return start, re.sub(r"#[^\n]*", lambda found: " " * len(found[0]), self.text[start : self.span(right)[0]])

    def context(self, node: ast.AST) -> Iterator[tuple[ast.AST, ast.AST]]:
        """Each ancestor within the statement, nearest first, with the child through which it is one."""
        while not isinstance(node, ast.stmt):
            yield self.parents[node], node
            node = self.parents[node]

    def only_annotates(self, node: ast.AST) -> bool:
        """Whether an assignment at the top level gives a name that the file uses in annotations and nowhere else."""
        if not (isinstance(node, ast.Assign) and isinstance(node.targets[0], ast.Name)):
            return False
        name = node.targets[0].id
        uses = [part for part in ast.walk(self.tree) if isinstance(part, ast.Name) and part.id == name]
        uses = [part for part in uses if isinstance(part.ctx, ast.Load)]
        return name == "__all__" or (bool(uses) and all(id(use) in self.annotations for use in uses))

    def nodes(self) -> Iterator[ast.AST]:
        """The nodes that may be mutated, outer before inner."""
        waiting: list[ast.AST] = [self.tree]
        while waiting:
            node = waiting.pop()
            if self._left_alone(node):
                continue
            yield node
            children = list(ast.iter_child_nodes(node))
            if isinstance(node, ast.JoinedStr):
                children = [part.value for part in node.values if isinstance(part, ast.FormattedValue)]
            waiting += reversed(children)

    def _left_alone(self, node: ast.AST) -> bool:
        if id(node) in self.annotations or isinstance(node, ast.Import | ast.ImportFrom):
            return True
        if isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant):
            return True  # a docstring, or the sentence below an assignment
        checks_types = isinstance(node, ast.If) and isinstance(node.test, ast.Name) and node.test.id == "TYPE_CHECKING"
        return checks_types or self.only_annotates(node)


def _annotations(tree: ast.AST) -> Iterator[ast.AST]:
    for node in ast.walk(tree):
        for part in ("annotation", "returns"):
            if getattr(node, part, None) is not None:
                yield getattr(node, part)


def operators(source: Source, node: ast.AST) -> Iterator[Change]:
    """Arithmetic, comparisons, `and` and `or` replaced by their neighbours."""
    if isinstance(node, ast.BinOp):
        yield from _replaced(source, node, "arithmetic", [(node.left, node.right)])
    if isinstance(node, ast.AugAssign):
        yield from _replaced(source, node, "arithmetic", [(node.target, node.value)])
    if isinstance(node, ast.BoolOp):
        yield from _replaced(source, node, "boolean", list(pairwise(node.values)))
    if isinstance(node, ast.Compare):
        for place, pair in enumerate(pairwise([node.left, *node.comparators])):
            yield from _replaced(source, node, "comparison", [pair], place)


def _replaced(source: Source, node: ast.AST, kind: str, gaps: list[Pair], place: int | None = None) -> Iterator[Change]:
    """The operator between the pairs of `gaps` replaced in the text; the node written anew where its parts would bind otherwise."""
    old = node.op if place is None else node.ops[place]
    pattern, others = OPERATORS[type(old)]
    span, statement = source.span(node), _top(source, node)
    for token, other in others.items():
        text = _with_token(source, node, gaps, pattern, token)
        _set_operator(node, place, other())
        if not _means(source, statement, (*span, text)):
            text = f"({ast.unparse(node)})"
        _set_operator(node, place, old)
        yield kind, *span, text


def _with_token(source: Source, node: ast.AST, gaps: list[Pair], pattern: str, token: str) -> str:
    """The node's text with `token` where the pattern is, once in each gap."""
    start, text = source.span(node)[0], source.segment(node)
    for left, right in reversed(gaps):
        begin, gap = source.between(left, right)
        found = re.search(pattern, gap)
        text = text[: begin - start + found.start()] + token + text[begin - start + found.end() :]
    return text


def _set_operator(node: ast.AST, place: int | None, operator: ast.AST) -> None:
    if place is None:
        node.op = operator
    else:
        node.ops[place] = operator


def _top(source: Source, node: ast.AST) -> ast.stmt:
    while not isinstance(source.parents[node], ast.Module):
        node = source.parents[node]
    return node


def _extent(source: Source, statement: ast.stmt) -> tuple[int, int]:
    """From the first decorator to the end."""
    first = min([statement.lineno, *(part.lineno for part in getattr(statement, "decorator_list", []))])
    return source.starts[first - 1], source.span(statement)[1]


def _changed(source: Source, statement: ast.stmt, edit: tuple[int, int, str]) -> str:
    """The text of a statement of the top level, after the change of a place in it."""
    low, high = _extent(source, statement)
    start, end, text = edit
    return source.text[low:start] + text + source.text[end:high]


def _means(source: Source, statement: ast.stmt, edit: tuple[int, int, str]) -> bool:
    """Whether the changed text parses to the statement as its tree stands now."""
    try:
        return ast.dump(ast.parse(_changed(source, statement, edit)).body[0]) == ast.dump(statement)
    except SyntaxError:
        return False


def constants(source: Source, node: ast.AST) -> Iterator[Change]:
    """Whole numbers one up and one down, others by a hundredth and doubled, truth turned round, keys and paths misspelt."""
    if isinstance(node, ast.JoinedStr) or (isinstance(node, ast.Constant) and isinstance(node.value, str)):
        yield from _misspelt(source, node)
    if not isinstance(node, ast.Constant):
        return
    start, end = source.span(node)
    value = node.value
    if isinstance(value, bool):
        yield "truth", start, end, str(not value)
    elif isinstance(value, int):
        kind = _place(source, node)
        yield from ((kind, start, end, str(other)) for other in (value + 1, value - 1))
    elif isinstance(value, float):
        others = (value * 1.01, value * 2.0) if value else (0.01, 1.0)
        yield from (("number", start, end, repr(other)) for other in others)


def _place(source: Source, node: ast.AST) -> str:
    """What a whole number is for: an index or the bound of a slice, an axis, or a number."""
    for parent, child in source.context(node):
        if isinstance(parent, ast.Subscript) and child is parent.slice:
            return "index"
        if isinstance(parent, ast.keyword):
            return "axis" if parent.arg == "axis" else "number"
        if isinstance(parent, ast.Call):
            return "number"
    return "number"


def _misspelt(source: Source, node: ast.AST) -> Iterator[Change]:
    if any(isinstance(parent, ast.Raise) for parent, _ in source.context(node)):
        return
    start, _ = source.span(node)
    opening = re.match(r"[a-zA-Z]*(\"\"\"|'''|\"|')", source.text[start:])
    yield "string", start + opening.end(), start + opening.end(), "_"


def signs(source: Source, node: ast.AST) -> Iterator[Change]:
    """A minus or a `not` dropped; a minus before the second operand of a product, a quotient or a power."""
    if isinstance(node, ast.UnaryOp) and isinstance(node.op, ast.USub | ast.Not):
        yield "sign" if isinstance(node.op, ast.USub) else "boolean", *source.span(node), source.atom(node.operand)
    if (
        isinstance(node, ast.BinOp)
        and isinstance(node.op, ast.Mult | ast.Div | ast.Pow)
        and not isinstance(node.right, ast.UnaryOp)
    ):
        yield "sign", *source.span(node.right), f"-{source.atom(node.right)}"


def conditions(source: Source, node: ast.AST) -> Iterator[Change]:
    """What decides, decided once and for all: of branches, and of what a comprehension takes in."""
    tests = [node.test] if isinstance(node, ast.If | ast.IfExp | ast.While) else getattr(node, "ifs", [])
    kind = "filter" if isinstance(node, ast.comprehension) else "condition"
    for test in tests:
        yield from ((kind, *source.span(test), truth) for truth in ("True", "False"))


def calls(source: Source, node: ast.AST) -> Iterator[Change]:
    """Neighbouring arguments exchanged, the call left out, a keyword left out, another function called."""
    if not isinstance(node, ast.Call):
        return
    name = _called(node)
    for pair in pairwise(node.args) if name not in SYMMETRIC else ():
        if not any(isinstance(part, ast.Starred) or _crashes(part) for part in pair):
            yield _exchanged(source, "argument", *pair)
    yield from _left_out(source, node)
    yield from _without_keywords(source, node)
    if name in FUNCTIONS and (isinstance(node.func, ast.Attribute) or name not in OF_A_NAMESPACE):
        end = source.span(node.func)[1]
        yield "function", end - len(name), end, FUNCTIONS[name]


def _called(node: ast.Call) -> str:
    return node.func.attr if isinstance(node.func, ast.Attribute) else getattr(node.func, "id", "")


def _crashes(node: ast.AST) -> bool:
    """Whether it is a name, a path or the network, which nobody mistakes for an array and no program goes on with."""
    is_text = isinstance(node, ast.JoinedStr) or (isinstance(node, ast.Constant) and isinstance(node.value, str))
    return is_text or (isinstance(node, ast.Name) and node.id in {"net", "path"})


def _exchanged(source: Source, kind: str, left: ast.AST, right: ast.AST) -> Change:
    start, end = source.span(left)[0], source.span(right)[1]
    gap = source.text[source.span(left)[1] : source.span(right)[0]]
    return kind, start, end, source.segment(right) + gap + source.segment(left)


def _left_out(source: Source, node: ast.Call) -> Iterator[Change]:
    """The first argument in place of the call; without arguments, what the method belongs to."""
    parent = source.parents[node]
    if isinstance(parent, ast.Raise) or node in getattr(parent, "decorator_list", []):
        return
    if node.args and not isinstance(node.args[0], ast.Starred) and not _crashes(node.args[0]):
        yield "call", *source.span(node), source.atom(node.args[0])
    elif not node.args and isinstance(node.func, ast.Attribute):
        yield "call", *source.span(node), source.atom(node.func.value)


def _without_keywords(source: Source, node: ast.Call) -> Iterator[Change]:
    name = _called(node)
    for keyword in node.keywords:
        if keyword.arg is None or keyword.arg in source.required.get(name, ()):
            continue
        start, end = source.span(keyword)
        after = re.match(r"\s*,\s*", source.text[end:])
        before = re.search(r",\s*$", source.text[:start])
        if after:
            end += after.end()
        elif before:
            start = before.start()
        yield "keyword", start, end, ""


def places(source: Source, node: ast.AST) -> Iterator[Change]:
    """Slices opened, their bounds and other indices moved by one, neighbours in an index or a tuple exchanged, ranges moved."""
    if isinstance(node, ast.Slice):
        yield from _opened(source, node)
    if isinstance(node, ast.Subscript):
        inside = node.slice.elts if isinstance(node.slice, ast.Tuple) else [node.slice]
        parts = [part for index in inside for part in ([index.lower, index.upper] if isinstance(index, ast.Slice) else [index])]
        yield from (change for part in parts if _computed(part) for change in _moved(source, "index", part))
    if isinstance(node, ast.Tuple | ast.List) and not all(isinstance(part, ast.Constant) for part in node.elts):
        within = isinstance(source.parents[node], ast.Subscript)
        pairs = [pair for pair in pairwise(node.elts) if isinstance(node.ctx, ast.Load) or not _starred(pair)]
        yield from (_exchanged(source, "index" if within else "order", *pair) for pair in pairs)
    if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id == "range" and _computed(node.args[-1]):
        yield from _moved(source, "range", node.args[-1])


def _computed(node: ast.AST | None) -> bool:
    return isinstance(node, ast.Name | ast.Attribute | ast.Subscript | ast.BinOp | ast.Call)


def _starred(pair: Pair) -> bool:
    return any(isinstance(part, ast.Starred) for part in pair)


def _moved(source: Source, kind: str, node: ast.AST) -> Iterator[Change]:
    text = source.segment(node) if isinstance(node, ast.BinOp) else source.atom(node)
    yield from ((kind, *source.span(node), f"{text} {step} 1") for step in "+-")


def _opened(source: Source, node: ast.Slice) -> Iterator[Change]:
    for bound in (node.lower, node.upper, node.step):
        if bound is not None:
            yield "index", *source.span(bound), ""


def statements(source: Source, node: ast.AST) -> Iterator[Change]:
    """A statement whose value nobody takes, or an update, left out; an argument returned in place of the result."""
    if isinstance(node, ast.Expr | ast.AugAssign):
        yield "statement", *source.span(node), "pass"
    if isinstance(node, ast.Return) and node.value is not None:
        parent = source.parents[node]
        while not isinstance(parent, ast.FunctionDef):
            parent = source.parents[parent]
        given = [entry for entry in (*parent.args.posonlyargs, *parent.args.args) if entry.arg not in ("self", "net")]
        given.sort(key=lambda entry: getattr(entry.annotation, "id", "") != "Array")
        if given:
            yield "return", *source.span(node.value), given[0].arg


ALL: tuple[Callable[[Source, ast.AST], Iterator[Change]], ...] = (
    operators, constants, signs, conditions, calls, places, statements,
)  # fmt: skip


def required_parameters(texts: dict[str, str]) -> dict[str, set[str]]:
    """For each function of the texts the parameters that have no default, whose keywords cannot be left out."""
    found: dict[str, set[str]] = {}
    for text in texts.values():
        for node in ast.walk(ast.parse(text)):
            if isinstance(node, ast.FunctionDef):
                given = [*node.args.posonlyargs, *node.args.args]
                needed = given[: len(given) - len(node.args.defaults)]
                found.setdefault(node.name, set()).update(entry.arg for entry in needed)
    return found


def mutants(file: str, text: str, required: dict[str, set[str]] | None = None) -> list[Mutant]:
    """Every mutant of the text, in its order; `required` as of `required_parameters`."""
    source = Source(text, required)
    seen = {ast.dump(statement) for statement in source.tree.body}
    numbers: Counter[tuple[int, str]] = Counter()
    found = []
    changes = [(node, change) for node in source.nodes() for operator in ALL for change in operator(source, node)]
    for node, (kind, start, end, new) in sorted(changes, key=lambda entry: entry[1][1:3]):
        program = _program(_changed(source, _top(source, node), (start, end, new)))
        if program is not None and program not in seen:
            seen.add(program)
            numbers[start, kind] += 1
            found.append(_mutant(source, file, (kind, start, end, new), numbers[start, kind]))
    return found


def _program(statement: str) -> str | None:
    """What a statement parses to; None where it does not compile, or not without a warning."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("error", SyntaxWarning)
            tree = ast.parse(statement)
            compile(tree, "mutant", "exec")
    except (SyntaxError, ValueError):
        return None
    return ast.dump(tree.body[0]) if len(tree.body) == 1 else None


def _mutant(source: Source, file: str, change: Change, number: int) -> Mutant:
    kind, start, end, new = change
    line = source.text.count("\n", 0, start)
    low, high = source.starts[line], source.starts[source.text.count("\n", 0, end) + 1]
    before, after = source.text[low:high], source.text[low:start] + new + source.text[end:high]
    joined = (" ".join(text.split()) for text in (before, after))
    return Mutant(file, line + 1, start - low + 1, kind, number, start, end, new, *joined)
