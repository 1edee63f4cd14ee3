"""How many small mistakes in the models and operations the default tests find: a mutation score.

    python tests/tools/mutants [--count 300] [--seed 0] [--jobs 2]     tries a sample, prints the report
    python tests/tools/mutants --page docs/mutants.md                  the same, and writes the report there
    python tests/tools/mutants --list [--files vit.py ...]             every mutant of some files, none of them run
    python tests/tools/mutants --only ID ...                           tries these again, whether in the sample or not

operators.py makes every mutant of one change; this takes a sample, fixed by its seed, from each file in proportion
(ten at least), and tries each in a copy of the project (run.py): the quick tests first, then the rest of the default
tests, to the first red one. Six times a clean run's time counts as red. Left out are the tests of files, pictures and the command
line (run.AROUND), so the score is a lower bound; and those that look at the source's text or at the time of its import:
test_layering, "the code in the pages is the source's" of test_pages, and test_mutants. That no other test is such a one is tried
first: all must be green while the files are written in another layout.

Results are kept in --output, a line each, as long as their file stays as it was; what was tried is not tried again (begin a new
file after a change of tests). reasons.py says which survivors are equivalent to the original (not counted) and which are
accepted. Exit code 1 where a survivor has no reason, where the score is below 95%, or where a test is red without a mutant.
"""

import argparse
import hashlib
import json
import sys
import tempfile
from collections import Counter
from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict
from pathlib import Path
from queue import SimpleQueue

from mutants.operators import Mutant, mutants, required_parameters
from mutants.reasons import REASONS
from mutants.run import Outcome, Stage, copied, fingerprint, measured, tried

ROOT = Path(__file__).parents[3]
MODELS = ("vit.py", "evit.py", "shunted.py", "tokens.py", "arrays.py")
OUTPUT = Path(tempfile.gettempdir()) / "reforg-mutants.jsonl"
LEAST_SCORE = 0.95
LEAST_OF_A_FILE = 10


def texts(root: Path) -> dict[str, str]:
    """The source of the models and operations."""
    paths = [*(root / "reforg" / name for name in MODELS), *sorted((root / "reforg" / "ops").glob("*.py"))]
    return {path.relative_to(root).as_posix(): path.read_text(encoding="utf-8") for path in paths}


def every(sources: dict[str, str]) -> list[Mutant]:
    """All mutants of the sources."""
    required = required_parameters(sources)
    return [mutant for file, text in sources.items() for mutant in mutants(file, text, required)]


def sample(found: list[Mutant], count: int, seed: int) -> list[Mutant]:
    """`count` of them, in their order: from each file in proportion, but ten or all it has.

    Which ones is drawn from the seed and what a mutant changes, so that a line that moves takes its mutants along.
    """
    draws, times = {}, Counter()
    for mutant in found:
        key = (seed, mutant.file, mutant.kind, mutant.before, mutant.after)
        times[key] += 1
        draws[mutant.id] = hashlib.sha256(repr((key, times[key])).encode()).hexdigest()
    shares = _shares(Counter(mutant.file for mutant in found), count)
    chosen = set()
    for file, share in shares.items():
        own = sorted((mutant.id for mutant in found if mutant.file == file), key=draws.__getitem__)
        chosen.update(own[:share])
    return [mutant for mutant in found if mutant.id in chosen]


def _shares(sizes: Counter[str], count: int) -> dict[str, int]:
    """How many of each file; largest remainders get what the proportions leave over."""
    count = min(count, sizes.total())
    shares = {file: min(size, LEAST_OF_A_FILE, count // len(sizes)) for file, size in sizes.items()}
    while (left := count - sum(shares.values())) > 0:
        open_files = [file for file in sizes if shares[file] < sizes[file]]
        open_files.sort(key=lambda file: shares[file] / sizes[file])
        shares[open_files[0]] += 1 if left else 0
    return shares


def read(output: Path, found: Iterable[Mutant], sources: dict[str, str]) -> dict[str, Outcome]:
    """The results kept in `output` that are of the sources as they are now; the last of each mutant."""
    marks = {mutant.id: fingerprint(sources[mutant.file]) for mutant in found}
    lines = output.read_text(encoding="utf-8").splitlines() if output.exists() else []
    outcomes = [Outcome(**json.loads(line)) for line in lines]
    return {outcome.id: outcome for outcome in outcomes if marks.get(outcome.id) == outcome.source}


def run(wanted: list[Mutant], folders: list[Path], stages: list[Stage]) -> Iterator[Outcome]:
    """Try the mutants, one at a time in each folder, in their order as far as the folders get free."""
    free: SimpleQueue[Path] = SimpleQueue()
    for folder in folders:
        free.put(folder)

    def one(mutant: Mutant) -> Outcome:
        folder = free.get()
        try:
            return tried(folder, mutant, stages)
        finally:
            free.put(folder)

    with ThreadPoolExecutor(len(folders)) as workers:
        yield from workers.map(one, wanted)


def try_all(wanted: list[Mutant], sources: dict[str, str], jobs: int, output: Path) -> str | None:
    """Try the mutants in copies and keep each result as it comes; the test that is red without any, if one is."""
    with tempfile.TemporaryDirectory() as name:
        folders = [copied(ROOT, Path(name) / str(number) / "main") for number in range(jobs)]
        if any(texts(folder) != sources for folder in folders):
            return "the source changed while it was copied"
        stages, red = measured(folders[0], list(sources))
        if red:
            return red
        with output.open("a", encoding="utf-8") as kept:
            for mutant, outcome in zip(wanted, run(wanted, folders, stages), strict=True):
                kept.write(json.dumps(asdict(outcome)) + "\n")
                kept.flush()
                verdict = f"{outcome.stage}: {outcome.test}" if outcome.stage else "SURVIVES"
                print(f"{outcome.seconds:6.1f} s  {mutant.id}  {mutant.diff()}  {verdict}", file=sys.stderr, flush=True)
    return None


def stale(found: list[Mutant]) -> list[tuple[str, ...]]:
    """The entries of the table that no mutant has any more, in the files of `found`."""
    keys = {(mutant.file, mutant.kind, mutant.before, mutant.after) for mutant in found}
    return [key for key in REASONS if key not in keys and key[0] in {mutant.file for mutant in found}]


def reason(mutant: Mutant) -> tuple[str, str]:
    """What the table says of a survivor; ("", "") where it says nothing."""
    return REASONS.get((mutant.file, mutant.kind, mutant.before, mutant.after), ("", ""))


class Tally:
    """Counts over some mutants and what became of them."""

    def __init__(self, wanted: Iterable[Mutant], outcomes: dict[str, Outcome]) -> None:
        self.tried = [(mutant, outcomes[mutant.id]) for mutant in wanted if mutant.id in outcomes]
        self.survivors = [mutant for mutant, outcome in self.tried if not outcome.stage]
        self.equivalent = sum(reason(mutant)[0] == "equivalent" for mutant in self.survivors)
        self.timeouts = sum(outcome.timed_out for _, outcome in self.tried)
        self.stages = Counter(outcome.stage for _, outcome in self.tried if not outcome.timed_out)

    @property
    def score(self) -> float:
        """The killed ones' share of those that are not equivalent to the original."""
        counted = len(self.tried) - self.equivalent
        return (len(self.tried) - len(self.survivors)) / counted if counted else 1.0

    @property
    def passed(self) -> bool:
        return self.score >= LEAST_SCORE and all(reason(mutant)[0] for mutant in self.survivors)

    def row(self) -> str:
        numbers = (len(self.tried), self.stages["quick"], self.stages["rest"], self.timeouts, len(self.survivors), self.equivalent)
        return " | ".join([*map(str, numbers), f"{self.score:.1%}"])


def report(found: list[Mutant], chosen: list[Mutant], outcomes: dict[str, Outcome], seed: int) -> str:
    """The page: counts, tables by file and by kind, and each survivor with its reason."""
    tally = Tally(chosen, outcomes)
    lines = [
        *("# Mutants: what the default tests find", ""),
        "`python tests/tools/mutants --page docs/mutants.md` wrote this page. A mutant is one small change of one place: another",
        "operator, another number, arguments exchanged, a call left out and the like. It is killed where a default test goes red.",
        "The score is the killed ones' share; mutants that no program can tell from the original do not count.",
        "",
        f"Models and operations have {len(found)} mutants. Tried: {len(tally.tried)}, from each file in proportion, ten at least",
        f"(seed {seed}). Score: **{tally.score:.1%}**.",
        *("", *_table("file", found, chosen, outcomes, lambda mutant: f"`{mutant.file}`")),
        *("", *_table("change", found, chosen, outcomes, lambda mutant: mutant.kind)),
    ]
    if len(tally.tried) < len(chosen):
        lines[8:8] = ["", f"**Unfinished:** {len(chosen) - len(tally.tried)} mutants of the sample are still to be tried."]
    lines += ["", "## Survivors", "", *(line for mutant in tally.survivors for line in _survivor(mutant))]
    late = [(mutant, outcome) for mutant, outcome in tally.tried if outcome.stage == "rest" or outcome.timed_out]
    lines += ["## Killed after the quick tests, or by time", ""]
    lines += [f"- `{mutant.id}`: `{outcome.test}`\n  `` {mutant.diff()} ``" for mutant, outcome in late]
    return "\n".join(lines).rstrip() + "\n"


def _table(title: str, found: list[Mutant], chosen: list[Mutant], outcomes: dict[str, Outcome], key) -> list[str]:
    sizes = Counter(map(key, found))
    rows = [
        f"| {name} | {size} | {Tally([mutant for mutant in chosen if key(mutant) == name], outcomes).row()} |"
        for name, size in sizes.items()
    ]
    columns = (
        "mutants",
        "tried",
        "killed by the quick tests",
        "by the rest",
        "by time",
        "survived",
        "of these equivalent",
        "score",
    )
    return [
        f"| {title} | {' | '.join(columns)} |",
        "|---|" + "--:|" * len(columns),
        *rows,
        f"| all | {len(found)} | {Tally(chosen, outcomes).row()} |",
    ]


def _survivor(mutant: Mutant) -> list[str]:
    verdict, why = reason(mutant)
    said = f"{verdict}: {why}" if verdict else "**no reason given**"
    return [f"`{mutant.id}` {said}", "", "```diff", f"- {mutant.before}", f"+ {mutant.after}", "```", ""]


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--count", type=int, default=300, help="size of the sample")
    parser.add_argument("--seed", type=int, default=0, help="which sample")
    parser.add_argument("--jobs", type=int, default=2, help="how many at a time")
    parser.add_argument("--files", nargs="+", default=[], metavar="NAME", help="only mutants of files that end so")
    parser.add_argument("--only", nargs="+", default=[], metavar="ID", help="try these, even again")
    parser.add_argument("--list", action="store_true", help="print the mutants and run none")
    parser.add_argument("--output", type=Path, default=OUTPUT, help="file of results (JSON lines)")
    parser.add_argument("--page", type=Path, help="where to write the report")
    return parser.parse_args()


def main() -> int:
    options = arguments()
    sources = texts(ROOT)
    found = [mutant for mutant in every(sources) if not options.files or mutant.file.endswith(tuple(options.files))]
    if options.list:
        print(*(f"{mutant.id}  {mutant.diff()}" for mutant in found), sep="\n")
        return 0
    if unknown := set(options.only) - {mutant.id for mutant in found}:
        print(f"there is no mutant {', '.join(sorted(unknown))}; --list shows all", file=sys.stderr)
        return 1
    chosen = [mutant for mutant in found if mutant.id in options.only] or sample(found, options.count, options.seed)
    done = {} if options.only else read(options.output, chosen, sources)
    wanted = [mutant for mutant in chosen if mutant.id not in done]
    if wanted and (red := try_all(wanted, sources, options.jobs, options.output)):
        print(f"without any mutant: {red}", file=sys.stderr)
        return 1
    outcomes = read(options.output, chosen, sources)
    for key in stale(found):
        print("a reason for what is no mutant any more:", *key, file=sys.stderr)
    page = report(found, chosen, outcomes, options.seed)
    (options.page.write_text(page, encoding="utf-8") if options.page else print(page, end=""))
    return int(not Tally(chosen, outcomes).passed)
