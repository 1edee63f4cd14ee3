"""These tests need timm, torch and transformers, so they run only where they are asked for by their path."""

import sys
from pathlib import Path
from typing import Any

import pytest

HERE = Path(__file__).parent


def pytest_ignore_collect(config: pytest.Config) -> bool | None:
    asked = [Path(config.invocation_params.dir, arg.partition("::")[0]).resolve() for arg in config.args]
    return None if any(path.is_relative_to(HERE) for path in asked) else True


def pytest_terminal_summary(terminalreporter: Any) -> None:
    """How many tensors of other people's modules were compared, and by how much ours were off at worst."""
    hooks = sys.modules.get(f"{__package__}.hooks")  # imported by the tests that ran, never from here: it needs torch
    if hooks is None or not hooks.TALLY.tensors:
        return
    tests, tally = len(terminalreporter.stats.get("passed", ())), hooks.TALLY
    terminalreporter.write_line(
        f"oracle: {tests:,} tests passed, {tally.tensors:,} tensors compared, worst disagreement {tally.worst:.1e} of the largest "
        f"value ({tally.where}); {tally.rounded:,} more against what others compute partly in float32"
    )
