"""Plans of one model: programs made by its own forward pass, for a number of images of one size, and run by the team.

The forward pass of the reference is called once with stand-ins for images and tokens (`program`), and with pieces that append
steps instead of computing. So the order of blocks, the schedule of tokens and the choice of heads are written once, in reforg.
"""

import importlib.util
from collections import OrderedDict
from collections.abc import Hashable, Mapping
from functools import cache
from operator import itemgetter
from typing import Any
from weakref import WeakValueDictionary

import numpy as np

from reforg.ops import REFERENCE
from reforg_numpy import shunted_steps, vit_steps
from reforg_numpy.batches import threads as threads_allowed
from reforg_numpy.program import Floats, Images, Program
from reforg_numpy.team import TEAM

KEPT = 8  # programs remembered: a few batch sizes, each with what is left over of a batch
WIDEST = 1 << 23  # bytes of the widest intermediate of a part, for each thread: what is made is in the cache when it is read
RUN_BY_PLANS = ("linear", "layer_norm", "gelu", "softmax", "attention", "rank", "gather")


@cache
def numba_is_here() -> bool:
    """Whether numba is installed."""
    return importlib.util.find_spec("numba") is not None


class Plans:
    """The plans of a model whose weights are float32; safe for calls from several threads, which take turns."""

    def __init__(self, weights: Mapping[str, Any]) -> None:
        self._weights = weights
        self._engine: Any = None
        self._programs: OrderedDict[Hashable, Any] = OrderedDict()

    def table(self) -> Mapping[str, str]:
        """What the kernels run."""
        return dict.fromkeys((*RUN_BY_PLANS, *vit_steps.PIECES, *shunted_steps.PIECES), "numba")

    def run(self, call: Any, images: Floats) -> Any:
        """[B, C, H, W] -> what `call.forward` makes of them; None where no plan can be made."""
        batch, *rest = images.shape
        with TEAM.lock:
            threads = threads_allowed()
            parts = -(-batch // max(1, WIDEST * threads // call.bytes_per_image))
            bounds = [batch * part // parts for part in range(parts + 1)] if batch else []
            ready, results = None, []
            for start, end in zip(bounds, bounds[1:], strict=False):
                ready = self._program(call, end - start, tuple(rest), threads)
                if ready is None:
                    return None
                views = self._engine.run(ready, images[start:end])
                results = results or [np.empty((batch, *view.shape[1:]), np.float32) for view in views]
                for result, view in zip(results, views, strict=True):
                    result[start:end] = view
        return None if ready is None else ready.program.kind(results)

    def _program(self, call: Any, batch: int, rest: tuple[int, ...], threads: int) -> Any:
        key = call.key, batch, rest, threads
        if key not in self._programs:
            if self._engine is None:
                from reforg_numpy.compiled import Engine

                self._engine = Engine(self._weights)
            try:
                self._programs[key] = self._made(call, (batch, *rest), threads)
            except self._engine.full:  # of the positions of many image sizes: begin anew
                self._engine = type(self._engine)(self._weights)
                self._programs.clear()
                self._programs[key] = self._made(call, (batch, *rest), threads)
            if len(self._programs) > KEPT:
                self._programs.popitem(last=False)
        self._programs.move_to_end(key)
        return self._programs[key]

    def _made(self, call: Any, shape: tuple[int, ...], threads: int) -> Any:
        program = Program(self._engine.layout, shape[0])
        ops = REFERENCE.replaced("plan", vit_steps.replacements(call.only_logits) | shunted_steps.replacements())
        result = call.forward(self._weights, Images(program, shape), ops)
        if isinstance(result, tuple | list):
            program.results, program.kind = list(result), type(result)
        else:
            program.results, program.kind = [result], itemgetter(0)
        return self._engine.ready(program, threads)


_MADE: "WeakValueDictionary[tuple[tuple[str, int], ...], Plans]" = WeakValueDictionary()


def plans(weights: Mapping[str, Any], dtype: str) -> Plans | None:
    """Plans for float32 where numba is installed; models that share their weights share them, and what is packed for them."""
    if dtype != "float32" or not numba_is_here():
        return None
    key = tuple((name, id(array)) for name, array in weights.items())
    return _MADE.setdefault(key, Plans(weights))
