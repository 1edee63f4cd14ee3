"""Loading a DeiT-S checkpoint beside torch.load(weights_only=True): time and memory, in one run.

    python tests/tools/scripts/loading.py [ROUNDS]        (needs torch; about a minute)

Each measurement is a process of its own; the two programs take turns, and medians are shown. "load": after the program
is imported. "start": the import and the load together, as a user who types a command waits for them; both from bytecode,
as installed packages are. "used": the load, and then every value read once. "private": memory that only this process has
(RssAnon), beyond what the import took.
"""

import json
import os
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path

PROGRAMS = {
    "reforg": ("import reforg.weights.loading", "reforg.load_weights({path!r})", "float(value.max())"),
    "torch": ("import torch", "torch.load({path!r}, weights_only=True)['model']", "float(value.max())"),
}
MEASURE = """
import json, time
begin = time.perf_counter()
{imports}
imported = time.perf_counter()
def memory(key):
    return next(int(line.split()[1]) for line in open("/proc/self/status") if line.startswith(key)) / 1024
anonymous = memory("RssAnon")
before = time.perf_counter()
weights = {load}
loaded = time.perf_counter()
for value in weights.values():
    {use}
used = time.perf_counter()
print(json.dumps({{"load ms": 1e3 * (loaded - before), "start ms": 1e3 * (imported - begin + loaded - before),
    "used ms": 1e3 * (used - before), "private MB": memory("RssAnon") - anonymous, "peak MB": memory("VmHWM")}}))
"""
ENVIRONMENT = {key: value for key, value in os.environ.items() if key != "PYTHONDONTWRITEBYTECODE"}
WRITE = """
import sys, torch
from reforg.catalog.names import build_config
from reforg.families import shapes
model = {name: torch.randn(shape) for name, shape in shapes(build_config("deit_small_patch16_224")).items()}
moments = {number: {"step": torch.tensor(1.0), "exp_avg": value.clone(), "exp_avg_sq": value.clone()}
           for number, value in enumerate(model.values())}
torch.save({"model": model}, sys.argv[1] + "/archive.pth")
torch.save({"model": model}, sys.argv[1] + "/before 1.6.pth", _use_new_zipfile_serialization=False)
torch.save({"model": model, "optimizer": {"state": moments}, "epoch": 1}, sys.argv[1] + "/with optimizer.pth")
"""


def measured(program: str, path: Path) -> dict[str, float]:
    """One process's figures."""
    imports, load, use = PROGRAMS[program]
    code = MEASURE.format(imports=imports, load=load.format(path=str(path)), use=use)
    done = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True, env=ENVIRONMENT)
    found: dict[str, float] = json.loads(done.stdout)
    return found


def main(rounds: int) -> None:
    """Write the files, measure in turns, print medians and ratios."""
    with tempfile.TemporaryDirectory() as folder:
        subprocess.run([sys.executable, "-c", WRITE, folder], check=True)
        for path in sorted(Path(folder).glob("*.pth")):
            runs: dict[str, list[dict[str, float]]] = {program: [] for program in PROGRAMS}
            for number in range(rounds + 1):
                for program in PROGRAMS:
                    result = measured(program, path)
                    if number:  # the first round brings files and programs into memory
                        runs[program].append(result)
            print(f"\n{path.stem}, {path.stat().st_size / 1e6:.0f} MB, median of {rounds} (lowest to highest)")
            for key in runs["torch"][0]:
                ours, theirs = ([run[key] for run in runs[program]] for program in PROGRAMS)
                spreads = [f"{statistics.median(v):7.1f} ({min(v):.1f} to {max(v):.1f})" for v in (ours, theirs)]
                ratio = statistics.median(ours) / statistics.median(theirs)
                print(f"  {key:<11} reforg {spreads[0]:<28} torch {spreads[1]:<28} ratio {ratio:.2f}")


if __name__ == "__main__":
    main(int(sys.argv[1]) if len(sys.argv) > 1 else 7)
