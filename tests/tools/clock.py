"""Time as a machine would have taken it that had nothing else to do. It imports nothing that takes long: imports are timed too."""

import time

SCHEDULED = "/proc/thread-self/schedstat"
"""Of Linux: nanoseconds that this thread ran, and those that it was ready while others had the processors."""


def now() -> float:
    """Seconds of a clock that stands still while this thread waits for a processor, where the system tells."""
    try:
        with open(SCHEDULED, "rb") as told:  # noqa: PTH123  pathlib takes long
            waited = int(told.read().split()[1]) / 1e9
    except FileNotFoundError:
        waited = 0.0
    return time.perf_counter() - waited
