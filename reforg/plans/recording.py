"""Recording: the forward pass of the reference, called once with symbols, leaves a program.

So the order of blocks, the schedule of tokens and the choice of heads are written once, in the model files.
"""

from collections.abc import Callable, Mapping
from operator import itemgetter
from typing import Any, NoReturn

from reforg.ops import REFERENCE, Ops, bodies, operations
from reforg.plans.matrices import Layout
from reforg.plans.program import Program
from reforg.plans.recorders import shunted, vit
from reforg.plans.recorders.operations import layer_norm
from reforg.plans.steps import COMPUTES
from reforg.plans.symbols import VIEWS, Images, Maps, Symbol, Tokens, UnrecordableError

PIECES = vit.PIECES | shunted.PIECES
RUN_BY_PLANS = (
    *dict.fromkeys(name for names in COMPUTES.values() for name in names if name in operations()),
    *(name for piece, (_, inside) in PIECES.items() for name in (piece, *inside)),
)
"""The operations and pieces of the reference that steps compute."""


def record(
    forward: Callable[[Mapping[str, Any], Any, Ops], Any],
    weights: Mapping[str, Any],
    shape: tuple[int, ...],
    layout: Layout,
    only_logits: bool,
) -> Program:
    """The program of a forward pass of (weights, images, operations) for images of a shape [B, C, H, W].

    only_logits: whether nobody reads anything else of it. Raises UnrecordableError where a step of it is nothing that is recorded.
    """
    program = Program(layout, shape[0], only_logits)
    try:
        result = forward(weights, Images(program, shape), recording_ops())
    except TypeError as error:
        if repr(VIEWS) not in str(error):
            raise
        # It is array-api-compat's own, for a function of arrays that was given a symbol beside an array.
        raise UnrecordableError(str(error)) from error
    several = isinstance(result, tuple | list)
    program.results = [made(value) for value in (result if several else [result])]
    program.kind = getattr(type(result), "_make", type(result)) if several else itemgetter(0)
    return program


def made(value: Any) -> Tokens | Maps:
    """A result of a forward pass, which must be something that steps make, and that is still there in the end."""
    if not isinstance(value, Tokens | Maps):
        raise UnrecordableError(f"a result that is {type(value).__name__}")
    value.check()
    return value


def recording_ops() -> Ops:
    """The operations of the reference, each of which records what it is given symbols for, or refuses them."""
    fine = {name: either(refusing(name), getattr(REFERENCE, name)) for name in operations()}
    pieces = {name: either(PIECES[name][0], body) for name, body in bodies().items() if name in PIECES}
    return REFERENCE.replaced("plan", fine | pieces | {"layer_norm": either(layer_norm, REFERENCE.layer_norm)})


def either(recorder: Callable[..., Any], operation: Callable[..., Any]) -> Callable[..., Any]:
    """`recorder` for symbols, the operation itself for arrays: what depends on weights alone is computed at once."""

    def run(*arguments: Any, **settings: Any) -> Any:
        symbols = [value for value in (*arguments, *settings.values()) if isinstance(value, Symbol)]
        for symbol in symbols:
            symbol.check()
        return (recorder if symbols else operation)(*arguments, **settings)

    return run


def refusing(name: str) -> Callable[..., NoReturn]:
    """What stands for an operation that is recorded only inside of pieces."""

    def refuse(*arguments: Any, **settings: Any) -> NoReturn:
        del arguments, settings
        raise UnrecordableError(f"{name} outside of the pieces that are recorded")

    return refuse
