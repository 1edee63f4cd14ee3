"""Run `reforg bench` as docs/evidence.md shows it: print its figures as Markdown, draw docs/images/bench.svg.

python docs/bench.py [REFORG BENCH'S OPTIONS]
"""

import json
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

PLOT = Path(__file__).parent / "images" / "bench.svg"
SMALL = 0.01  # share of the time of a batch
OPTIONS = ["--batch", "8", "--seconds", "3", "--against", "torch", "--breakdown"]


def measured(options: list[str]) -> dict[str, Any]:
    """The JSON of a contest; the plot is drawn on the way."""
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "bench.json"
        command = [sys.executable, "-m", "reforg", "bench", *options, "--json", str(file), "--plot", str(PLOT), "--overwrite"]
        subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
        found: dict[str, Any] = json.loads(file.read_text(encoding="utf-8"))
        return found


def row(*cells: Any) -> str:
    return f"| {' | '.join(map(str, cells))} |"


def between(spread: dict[str, float], digits: int) -> str:
    """A median and its quartiles."""
    return f"{spread['median']:.{digits}f} ({spread['low']:.{digits}f} to {spread['high']:.{digits}f})"


def speeds(told: dict[str, Any]) -> list[str]:
    """The table of all cases and contestants."""
    peers = [entrant["label"] for entrant in told["contestants"] if entrant["kind"] == "peer"]
    of_peers = [f"of {label}" for label in peers]
    headings = ["model", "batch", "program", "images/s", *of_peers, "GMAC/s", "peak memory, MB", "start to first logits, s"]
    lines = [row(*headings), row(*["---"] * len(headings))]
    for case in told["cases"]:
        for result in case["results"]:
            speed, ratios = between(result["images_per_second"], 1), [between(result["ratios"][label], 2) for label in peers]
            figures = (f"{result['gmacs_per_second']:.0f}", f"{result['peak_memory_mb']:.0f}", f"{result['start_seconds']:.2f}")
            lines.append(row(case["model"], case["batch"], result["contestant"], speed, *ratios, *figures))
    return lines


def parts(told: dict[str, Any]) -> list[str]:
    """Where the reference's time goes, a column for each model; what takes less than a hundredth everywhere is one row."""
    columns = [
        (case["model"], result["breakdown"])
        for case in told["cases"]
        for result in case["results"]
        if result["contestant"] == "numpy reference"
    ]
    found = {model: {part["operation"]: part for part in breakdown["parts"]} for model, breakdown in columns}
    names = dict.fromkeys(name for parts in found.values() for name, part in parts.items() if part["share"] >= SMALL)
    lines = [row("ms of a batch in", *found), row(*["---"] * (len(columns) + 1))]
    lines += [row(name, *(cell(parts[name]) if name in parts else "" for parts in found.values())) for name in names]
    rest = [
        breakdown["wall_ms"] - sum(parts[name]["ms"] for name in names if name in parts)
        for (_, breakdown), parts in zip(columns, found.values(), strict=True)
    ]
    lines.append(
        row("all else", *(f"{ms:.0f} ({ms / breakdown['wall_ms']:.0%})" for ms, (_, breakdown) in zip(rest, columns, strict=True)))
    )
    lines.append(row("a batch", *(f"{breakdown['wall_ms']:.0f}" for _, breakdown in columns)))
    floors = (f"{breakdown['floor_ms']:.0f}, at {breakdown['peak_gflops']:.0f} GFLOP/s" for _, breakdown in columns)
    return [*lines, row("floor: the multiplications alone, as fast as in one large product", *floors)]


def cell(part: dict[str, Any]) -> str:
    rate = "" if part["gflops"] is None else f", {part['gflops']:.0f} GFLOP/s"
    return f"{part['ms']:.0f} ({part['share']:.0%}{rate})"


def main() -> None:
    options = sys.argv[1:] or OPTIONS
    told = measured(options)
    versions = ", ".join(dict.fromkeys(entrant["version"] for entrant in told["contestants"]))
    print(f"`reforg bench {' '.join(options)}`: {told['machine']}; {versions}; {told['blas']}.")
    print(f"Load average before: {told['load']:.1f}.")
    print(f"Median and quartiles of {told['rounds']} rounds, a turn of {told['seconds']:g} s for each program.\n")
    print("\n".join(speeds(told)))
    print("\n![the same as bars](images/bench.svg)")
    print(f"\nWhere the reference's time goes:\n\n{chr(10).join(parts(told))}")


if __name__ == "__main__":
    main()
