"""Plant every fault and tell what verify finds.

python tests/planted/bench.py [--dtype D] [--family F] [--fault ID] [--pairs]
"""

import argparse
import fnmatch
import importlib
from collections import Counter
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import torch
from planting import Fault, Row, judged

VITS, SHUNTEDS = ("vit_faults", "vit_pairs"), ("shunted_faults",)
DTYPES = ("float32", "bfloat16", "float16")


def known(families: list[str] | None) -> list[Fault]:
    """The faults, and pairs of faults, of every file that is there and may have one of the families."""
    here = Path(__file__).parent
    shunted = [family.startswith("shunted") for family in families or ("evit", "shunted")]
    names = (*(() if all(shunted) else VITS), *(SHUNTEDS if any(shunted) else ()))
    modules = [importlib.import_module(name) for name in names if (here / f"{name}.py").exists()]
    faults = [fault for module in modules for fault in (*getattr(module, "FAULTS", ()), *getattr(module, "PAIRS", ()))]
    return list({(fault.family, fault.id): fault for fault in faults}.values())  # a file of pairs also has the single ones


def chosen(faults: Iterable[Fault], arguments: argparse.Namespace) -> Iterator[Fault]:
    for fault in faults:
        if arguments.pairs != (fault.pair is not None):
            continue
        if arguments.family and fault.family not in arguments.family:
            continue
        if not arguments.fault or any(fnmatch.fnmatch(fault.id, pattern) for pattern in arguments.fault):
            yield fault


def told(row: Row) -> str:
    marks = "".join(
        letter if right else "-"
        for letter, right in (("F", row.found), ("N", row.exact), ("1", len(row.names) == len(row.wanted)), ("E", row.explained))
    )
    state = marks if row.counts else f"({marks})"
    place = "" if row.place is None else row.place
    line = f"{state:6} {row.dtype:8} {row.family:9} {row.id:24} {place!s:10} {row.peak:9.3g} {row.rms:9.3g} {row.seconds:5.1f}s"
    if row.counts and marks != "FN1E":
        line += f"\n       wanted {', '.join(row.wanted)}; got {', '.join(row.names)}: {row.explanation or 'no explanation'}"
    return line


def totals(rows: list[Row]) -> str:
    """Of the faults that are larger than rounding."""
    lines = []
    for dtype in dict.fromkeys(row.dtype for row in rows):
        mine = [row for row in rows if row.dtype == dtype]
        counted = [row for row in mine if row.counts]
        sums = Counter[str]()
        for row in counted:
            sums["found"] += row.found
            sums["exact name"] += row.exact
            sums["no second fault"] += len(row.names) == len(row.wanted)
            sums["explained"] += row.explained
        parts = ", ".join(f"{what} {number}" for what, number in sums.items())
        below = [row for row in mine if not row.counts]
        seen = sum(row.found for row in below)
        lines.append(f"{dtype}: {len(counted)} faults: {parts}; below rounding {len(below)}, of which found {seen}")
    return "\n".join(lines)


def parsed() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--dtype", action="append", choices=("float64", *DTYPES))
    parser.add_argument("--family", action="append")
    parser.add_argument("--fault", action="append", help="an id, or a pattern of ids")
    parser.add_argument("--pairs", action="store_true", help="pairs of faults instead of single ones")
    return parser.parse_args()


def main() -> None:
    torch.set_num_threads(1)
    arguments = parsed()
    rows: list[Row] = []
    for dtype in arguments.dtype or DTYPES:
        for fault in chosen(known(arguments.family), arguments):
            for place in fault.places:
                rows.append(attempted(fault, place, dtype))
                print(told(rows[-1]), flush=True)
    print(totals(rows))


def attempted(fault: Fault, place: Any, dtype: str) -> Row:
    """The row, with the fault's name on whatever goes wrong."""
    try:
        return judged(fault, place, dtype)
    except Exception as error:
        error.add_note(f"{fault.family}: {fault.id} at {place} in {dtype}")
        raise


if __name__ == "__main__":
    main()
