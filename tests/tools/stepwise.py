"""Plans step by step: what each of them makes, read behind it, as the reference's trace has it."""

import importlib
from collections.abc import Iterator, Mapping
from dataclasses import replace
from typing import Any

import numpy as np
import pytest

import reforg
from reforg.plans.steps import Attention
from reforg_numpy import planning


def everything(
    engine: str,
    model: reforg.Model,
    images: np.ndarray,
    trace: Mapping[str, np.ndarray],
    monkeypatch: pytest.MonkeyPatch,
    joined: bool = False,
) -> Iterator[tuple[str, np.ndarray]]:
    """The name of each step that the trace has, and what it made, in the shape that the trace has.

    joined: whether the compiled engine joins all steps that it can, however few their rows, or none.
    """
    if engine == "numba":
        from reforg_numpy.numba_engine import engine as compiled
        from reforg_numpy.numba_engine import records

        if joined:
            monkeypatch.setattr(records, "UNITS", 1)
        else:
            monkeypatch.setattr(compiled, "together", lambda steps, threads: steps)
    monkeypatch.setattr(planning, "threads_allowed", lambda: 1)
    monkeypatch.setattr(importlib.import_module("reforg_numpy.numpy_engine.engine"), "AT_ONCE", 1 << 30)
    model(images)
    ((_, ready),) = model._plans._programs.values()
    made = compiled_steps(model._plans._engine, ready, images) if engine == "numba" else plain_results(ready[0], images)
    for step, rows in made:
        if step.name in trace and trace[step.name].size == rows.size:  # the last block may compute the class token alone
            yield step.name, as_traced(rows, trace[step.name].shape, type(step))


def compiled_steps(engine: Any, ready: Any, images: np.ndarray) -> Iterator[tuple[Any, np.ndarray]]:
    for number, step in enumerate(ready.steps, 1):
        engine.compute(replace(ready, records=ready.records[:number].copy()), images)
        matrix, columns = step.target, np.arange(step.target.columns)
        first = matrix.start + columns // matrix.chunk * matrix.leap + columns % matrix.chunk
        yield step, engine._memory[first + matrix.pitch * np.arange(matrix.rows)[:, None]]


def plain_results(bound: Any, images: np.ndarray) -> Iterator[tuple[Any, np.ndarray]]:
    bound._memory.images[...] = images
    for step, call in zip(bound._program.steps, bound._calls, strict=True):
        call()
        yield step, bound._memory.view(step.target).copy()


def as_traced(rows: np.ndarray, shape: tuple[int, ...], kind: type) -> np.ndarray:
    """Rows of a step's matrix as the reference has them: heads of attention [B, H, N, D], maps [B, C, H, W], tokens [B, N, C]."""
    if len(shape) == 4 and kind is Attention:
        images, heads, count, depth = shape
        return rows.reshape(images, count, heads, depth).swapaxes(1, 2)
    if len(shape) == 4:
        images, channels, height, width = shape
        return np.moveaxis(rows.reshape(images, height, width, channels), -1, 1)
    return rows.reshape(shape)
