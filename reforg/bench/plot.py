"""The plot of a contest: for each case, bars of images a second with whiskers from quartile to quartile."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from reforg.bench.contest import Outcome, Result
from reforg.bench.report import Figures, figures
from reforg.bench.request import Case
from reforg.errors import ConfigError
from reforg.files import replacing

SHADES, PEER, INK = ("0.45", "0.62", "0.76"), "0.90", "0.15"  # greys, so that paper shows what a screen shows
WIDTH, BAR, HEADING = 8.0, 0.34, 0.75  # inches: of the plot, of a bar with its share of gaps, of a case's title and axis


def need_matplotlib() -> None:
    """ConfigError where there is nothing to draw with."""
    try:
        import matplotlib.figure  # noqa: F401 - at once, before anything is measured
    except ImportError as error:
        raise ConfigError("a plot needs matplotlib: pip install 'reforg[plot]'") from error


def draw(outcome: Outcome, path: Path) -> None:
    """Write the plot, whole or not at all; its kind is its name's ending."""
    from matplotlib import rc_context
    from matplotlib.figure import Figure

    bars = [len(results) for _, results in outcome.cases]
    heights = [HEADING + BAR * count for count in bars]
    with rc_context({"font.size": 9, "svg.fonttype": "none", "hatch.linewidth": 0.5}):
        figure = Figure(figsize=(WIDTH, sum(heights) + 0.9), layout="constrained", facecolor="white")
        axes = figure.subplots(len(bars), 1, squeeze=False, height_ratios=heights)[:, 0]
        for axis, (case, results) in zip(axes, outcome.cases, strict=True):
            _draw_case(axis, case, results, figures(case, results, outcome.yardstick), outcome.yardstick.label)
        axes[-1].set_xlabel("images per second: median of the rounds, whiskers from quartile to quartile")
        figure.suptitle(_heading(outcome), fontsize=9, x=0.01, ha="left", color=INK)
        with replacing(path) as unfinished:
            figure.savefig(unfinished, dpi=150)


def _heading(outcome: Outcome) -> str:
    request = outcome.request
    threads = "" if request.threads is None else f", {request.threads} thread{'s' * (request.threads > 1)}"
    versions = ", ".join(dict.fromkeys(entrant.version for entrant in outcome.entrants))
    return f"reforg bench: {request.rounds} round{'s' * (request.rounds > 1)} of {request.seconds:g} s each{threads}; {versions}"


def _draw_case(axis: Any, case: Case, results: Sequence[Result], found: Sequence[Figures], yardstick: str) -> None:
    """One case: a bar for each contestant, the first on top, its figure and its ratio behind it."""
    shades = iter(SHADES * len(results))
    for row, (result, own) in enumerate(zip(results, found, strict=True)):
        speed, is_peer = own.images_per_second, result.entrant.contestant.kind == "peer"
        whiskers = [[speed.median - speed.low], [speed.high - speed.median]]
        axis.barh(
            row,
            speed.median,
            0.7,
            xerr=whiskers,
            color=PEER if is_peer else next(shades),
            edgecolor=INK,
            linewidth=0.6,
            hatch="////" if is_peer else None,
            error_kw={"elinewidth": 1.1, "capsize": 3, "ecolor": "black"},
        )
        label = f"{speed.median:,.3g}" if speed.median < 100 else f"{speed.median:,.0f}"
        note = label if result.entrant.label == yardstick else f"{label}  ({own.ratio.median:.2f} of {yardstick})"
        axis.annotate(note, (speed.high, row), xytext=(6, 0), textcoords="offset points", va="center", color=INK)
    axis.set_yticks(range(len(results)), [result.entrant.label for result in results])
    axis.invert_yaxis()
    axis.set_xlim(0, 1.45 * max(own.images_per_second.high for own in found))
    axis.set_title(case.title, loc="left", fontsize=10, color=INK)
    axis.spines[["top", "right"]].set_visible(False)
    axis.tick_params(axis="y", length=0)
