"""Values that no module returns, recovered from those that follow: a sum less one of its terms is the other.

The tokens between attention and MLP are read by a norm and by the block's own sum. Where the block's output and its MLP's
are there, so are they; where attention's output is there too, so are the tokens that came into the block.
"""

import numpy as np

from reforg.verification.error_model.layouts import fitted
from reforg.verification.error_model.uncertain import Uncertain, Values
from reforg.verification.replay.session import Session
from reforg.verification.replay.structures import structure_of

CLEAR = 64.0  # squared values in units of their variance; of less, nothing is left but rounding


def after_attention(session: Session, path: str) -> Uncertain | None:
    """[B, N', C]: the output of the block `path` less what its MLP adds to it; None where the candidate lacks one of them."""
    return _less(session, _tokens(session, path), path, "mlp", 2)


def before_attention(session: Session, path: str) -> Uncertain | None:
    """[B, N, C]: what came into a block that drops no tokens; None where the candidate lacks what tells."""
    # What a block that drops tokens read cannot be told from what it returned: there is no sum over tokens that are gone.
    tokens = after_attention(session, path)
    return None if tokens is None else _less(session, tokens, path, "attn", 1)


def _less(session: Session, total: Uncertain | None, path: str, module: str, number: int) -> Uncertain | None:
    """`total` less the updates of all branches; the sum was rounded in the candidate, and so was each update."""
    structure = structure_of(session.config)
    if total is None or structure is None:
        return None
    for branch in structure.branches(session.config):
        update = _update(session, path, module, number, branch)
        if update is None or update.shape != total.shape:
            return None
        rounding = session.rounding
        own = (rounding.squares(total.value) + rounding.squares(update)) * rounding.kind(rounding.stored)
        total = Uncertain(total.value - update, total.spread + own + rounding.kind(rounding.floor), rounding)
    # Where the update was much larger than what it was added to, the difference is the rounding of their sum and little else.
    return total if np.mean(np.square(total.value)) > CLEAR * np.mean(total.spread, dtype=np.float64) else None


def _update(session: Session, path: str, module: str, number: int, branch: str) -> Values | None:
    """What a branch adds, after its LayerScale."""
    scaled = _tokens(session, f"{path}.ls{number}{branch}")
    if scaled is not None:
        return scaled.value
    tokens = _tokens(session, f"{path}.{module}{branch}")
    if tokens is None:  # a module's last layer returns what the module does
        last = {"mlp": "fc2", "attn": "proj"}[module]
        tokens = _tokens(session, f"{path}.{module}{branch}.{last}")
    structure = structure_of(session.config)
    if tokens is None or structure is None:
        return None
    gain = structure.gain(session.config, path, number, branch)
    return tokens.value if gain is None else tokens.value * session.weights[gain].value


def _tokens(session: Session, name: str) -> Uncertain | None:
    """A value of the candidate as finite tokens [B, N, C]; None where it has none, or none of such a shape."""
    value, structure = session.values.get(name), structure_of(session.config)
    if value is None or structure is None:
        return None
    width = structure.width(session.config, name)
    if value.size % (session.batch * width):
        return None
    tokens, _ = fitted(value, np.empty((session.batch, value.size // (session.batch * width), width)))
    if tokens.ndim != 3 or tokens.shape[::2] != (session.batch, width) or not np.all(np.isfinite(tokens)):
        return None
    return session.rounding.exact(tokens)
