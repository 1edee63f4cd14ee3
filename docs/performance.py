"""Measure what docs/performance.md reports, and write it there: `make performance`.

    python docs/performance.py --kept FILE [MEASUREMENT]...

Measurements are kept in FILE, JSON, as they end; what is there already is not measured again, so that a run that was broken off
goes on. With names only those are measured. The page gets whatever FILE then has.
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
import performance_page

import reforg
from reforg.bench.report import SLOWING
from reforg.files import replacing

PEERS = "torch,onnxruntime,openvino,jax"
RATES = (0.9, 0.8, 0.7, 0.6, 0.5)
DEIT, EVIT = "deit_small_patch16_224", "evit_small_patch16_224"
SUBJECTS: dict[str, tuple[str, ...]] = {
    "DeiT-S": (DEIT,),
    "Shunted-S": ("shunted_s",),
    **{f"EViT-S {rate}": (EVIT, "--set", f"keep_rate={rate}") for rate in RATES},
    "DeiT-B": ("deit_base_patch16_224",),
    "DeiT III-S 384": ("deit3_small_patch16_384",),
    "Shunted-T": ("shunted_t",),
    "Shunted-B": ("shunted_b",),
    **{f"EViT-S {rate}, dropped": (EVIT, "--set", f"keep_rate={rate}", "--set", "fuse_token=false") for rate in RATES},
}
GAINS = {"gains fused": True, "gains dropped": False}
BATCHES = (1, 2, 4, 8, 16, 32, 64, 128, 256)
SIDES = (112, 160, 224, 320, 384, 448, 512, 576)  # pixels: 50 to 1,297 tokens
TURN, TURNS = 0.4, 7  # seconds of a turn in one process, and how many count


def contest(*words: str) -> dict[str, Any]:
    """The JSON of `reforg bench`."""
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "bench.json"
        subprocess.run(
            [sys.executable, "-m", "reforg", "bench", *words, "--json", str(file)],
            check=True,
            stdout=subprocess.DEVNULL,
            env={name: value for name, value in os.environ.items() if name not in SLOWING},
        )
        found: dict[str, Any] = json.loads(file.read_text(encoding="utf-8"))
        return found


def beside_peers(words: tuple[str, ...], peers: str = PEERS, batches: str = "1,8,32") -> dict[str, Any]:
    """One model beside its peers."""
    options = ("--batch", batches, "--ops", "numba,numpy", "--against", peers, "--rounds", "5", "--seconds", "0.6", "--breakdown")
    return contest(*words, *options)


def in_turns(calls: dict[str, Callable[[], int]]) -> dict[str, list[float]]:
    """Images a second of calls that say how many images they computed, in turns: one that nobody counts, then TURNS."""
    found: dict[str, list[float]] = {name: [] for name in calls}
    for turn in range(TURNS + 1):
        for name, call in calls.items():
            images, start = 0, time.perf_counter()
            while (spent := time.perf_counter() - start) < TURN:
                images += call()
            if turn:
                found[name].append(images / spent)
    return found


def caller(model: reforg.Model, batch: int, **settings: Any) -> Callable[[], int]:
    """A call of a model with a batch of its images, of which it says the number."""
    shape = (batch, model.config.in_chans, *model.config.image_shape)
    images = np.random.default_rng(0).standard_normal(shape, np.float32)

    def call() -> int:
        return len(model(images, **settings))

    call()
    return call


def gains(fused: bool) -> dict[str, Any]:
    """How much faster EViT is at each keep rate than at keep rate 1, round by round, at batch 8 and 32."""
    model = reforg.create_model(EVIT, "synthetic", ops="numba", fuse_token=fused)
    result = {}
    for batch in (8, 32):
        speeds = in_turns({str(rate): caller(model, batch, keep_rate=rate) for rate in (1.0, *RATES)})
        result[str(batch)] = {
            rate: median(own / whole for own, whole in zip(of_rate, speeds["1.0"], strict=True)) for rate, of_rate in speeds.items()
        }
    return result


def growth(subjects: dict[str, tuple[reforg.Model, int]]) -> list[dict[str, Any]]:
    """Images a second by the name of each model and batch, measured in turns, and multiply-accumulates of an image."""
    speeds = in_turns({name: caller(model, batch) for name, (model, batch) in subjects.items()})
    return [
        {"at": name, "images_per_second": median(speeds[name]), "macs": reforg.cost(model.config).macs}
        for name, (model, _) in subjects.items()
    ]


def over_batches() -> list[dict[str, Any]]:
    """DeiT-S over the batch size."""
    model = reforg.create_model(DEIT, "synthetic", ops="numba")
    return growth({str(batch): (model, batch) for batch in BATCHES})


def over_tokens() -> list[dict[str, Any]]:
    """DeiT-S over the number of tokens, at batch 8."""
    models = {side: reforg.create_model(DEIT, "synthetic", ops="numba", img_size=side) for side in SIDES}
    return growth({str((side // 16) ** 2 + 1): (model, 8) for side, model in models.items()})


def cold() -> dict[str, float]:
    """Seconds from the start of a process to DeiT-S' first logits, with no kernels kept and then with them kept."""
    program = (
        "import numpy, reforg; reforg.create_model('deit_small_patch16_224', 'synthetic')(numpy.zeros((1, 3, 224, 224), 'f4'))"
    )
    with tempfile.TemporaryDirectory() as folder:
        found = {}
        for state in ("cold", "warm"):
            start = time.perf_counter()
            subprocess.run(
                [sys.executable, "-c", program], check=True, env=os.environ | {"REFORG_CACHE": folder}, stderr=subprocess.DEVNULL
            )
            found[state] = time.perf_counter() - start
    return found


def measurements() -> Iterator[tuple[str, Callable[[], Any]]]:
    """All of them by name, the cheap ones first."""
    yield "cold", cold
    for name, fused in GAINS.items():
        yield name, lambda fused=fused: gains(fused)
    yield "over batches", over_batches
    yield "over tokens", over_tokens
    for name, words in SUBJECTS.items():
        yield name, lambda words=words: beside_peers(words)
    yield "DeiT-S, torch.compile", lambda: beside_peers(SUBJECTS["DeiT-S"], "torch.compile", "8")


def kept(file: Path) -> dict[str, Any]:
    """What a file of measurements has: by name, what was found, and the date."""
    found: dict[str, Any] = json.loads(file.read_text(encoding="utf-8")) if file.exists() else {}
    return found


def main() -> None:
    """Measure what is missing, and write the page."""
    parser = argparse.ArgumentParser(description="Measure what docs/performance.md reports.")
    parser.add_argument("names", nargs="*", metavar="MEASUREMENT", help="all where none is named")
    parser.add_argument("--kept", type=Path, required=True, metavar="FILE", help="where measurements are kept")
    chosen = parser.parse_args()
    known = dict(measurements())
    if unknown := [name for name in chosen.names if name not in known]:
        parser.error(f"there is no measurement {unknown[0]!r} (measurements: {', '.join(known)})")
    try:
        done = kept(chosen.kept)
    except (OSError, ValueError) as error:
        parser.error(f"{chosen.kept} has no measurements: {error}")
    for name in chosen.names or known:
        if name not in done:
            print(f"{time.strftime('%H:%M:%S')} {name}", file=sys.stderr, flush=True)
            try:
                done[name] = {"found": known[name](), "date": f"{datetime.now(UTC):%Y-%m-%d}"}
            except subprocess.CalledProcessError as error:  # which has said why
                raise SystemExit(f"{name}: ended with {error.returncode}; what came before is in {chosen.kept}") from error
            with replacing(chosen.kept) as unfinished:
                unfinished.write_text(json.dumps(done), encoding="utf-8")
    told = {name: done[name] for name in known if name in done}
    performance_page.write({name: one["found"] for name, one in told.items()}, sorted(one["date"] for one in told.values()))


if __name__ == "__main__":
    main()
