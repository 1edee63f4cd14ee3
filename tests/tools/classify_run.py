"""`reforg classify` on thousands of images: how fast beside its parts, and what is left where it is killed.

    python tests/tools/classify_run.py --throughput [MODEL [COUNT]]
    python tests/tools/classify_run.py --kill [COUNT]

--throughput: photographs of 500x375 pixels decoded alone, the model alone, and both as the command does them, taking turns
in one process, so that whatever else the machine does falls on all three; exit code 1 where the third is below nine tenths
of the slower of the others.
--kill: for each format, an uninterrupted run of images of which every hundredth is broken; then the same run killed
(SIGKILL) at five random moments and resumed. The files must be the same to the byte, and memory must not grow.
"""

import argparse
import json
import os
import random
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from io import BytesIO
from pathlib import Path

import numpy as np
from PIL import Image

import reforg
from reforg.models.answers import Classifier, labels_of

GOAL = 0.9  # of the slower part's rate
ROUND = 256  # images that each of the three does before the next takes its turn
GROWTH = 8.0  # MB; what a run may take beyond what it had at its 200th image
KILLS = 5


def photograph(number: int, width: int = 500, height: int = 375) -> Image.Image:
    """Soft colours with the noise of a camera, so that it compresses as a photograph does."""
    dice = np.random.default_rng(number)
    colours = Image.fromarray(dice.integers(0, 256, (12, 16, 3), dtype=np.uint8))
    soft = np.asarray(colours.resize((width, height), Image.Resampling.BICUBIC), np.float32)
    return Image.fromarray(np.clip(soft + dice.normal(0, 8, (height, width, 1)), 0, 255).astype(np.uint8))


def encoded(image: Image.Image, kind: str) -> bytes:
    file = BytesIO()
    image.save(file, kind)
    return file.getvalue()


def broken() -> list[tuple[str, bytes]]:
    """Twenty files that are no whole image, each in its own way."""
    small = photograph(0, 60, 40)
    jpeg, png, gif, bmp, tiff, webp = (encoded(small, kind) for kind in ("JPEG", "PNG", "GIF", "BMP", "TIFF", "WEBP"))
    flipped = bytearray(png)
    flipped[len(png) // 2] ^= 255
    large = png[:16] + (10**6).to_bytes(4, "big") * 2 + png[24:]
    return [
        ("empty.jpg", b""), ("start.jpg", jpeg[:3]), ("header.jpg", jpeg[:120]), ("text.jpg", b"This is no image.\n"),
        ("zeros.jpg", bytes(4096)), ("cut.png", png[: len(png) // 2]), ("flipped.png", bytes(flipped)), ("large.png", large),
        ("signature.png", png[:8]), ("cut.gif", gif[:20]), ("cut.bmp", bmp[:40]), ("cut.tif", tiff[: len(tiff) // 3]),
        ("cut.webp", webp[:30]), ("page.jpg", b"<!DOCTYPE html><html></html>"), ("pdf.jpg", b"%PDF-1.7\n"),
        ("archive.png", b"PK\3\4" + bytes(30)), ("array.png", b"\x93NUMPY\1\0" + bytes(80)), ("phone.jpg", b"\0\0\0\x18ftypheic"),
        ("pointer.jpg", b"version https://git-lfs.github.com/spec/v1\n"), ("noise.jpg", random.Random(0).randbytes(2000)),
    ]  # fmt: skip


def write_images(folder: Path, count: int, failing: int, kind: str = "PNG") -> None:
    """`count` images in two subfolders, `failing` of them broken and spread among the others."""
    every, bad = count // failing if failing else count + 1, broken()
    for name in ("first", "second"):
        (folder / name).mkdir(parents=True)
    for number in range(count):
        place = folder / ("first" if number < count // 2 else "second")
        if number % every == every - 1:
            name, content = bad[number // every % len(bad)]
            (place / f"{number:05} {name}").write_bytes(content)
        else:
            image = photograph(number % 100, 60, 40) if kind == "PNG" else photograph(number)
            (place / f"{number:05}.{kind.lower()}").write_bytes(encoded(image, kind))


def command(*arguments: str) -> list[str]:
    return [sys.executable, "-m", "reforg", "classify", *arguments]


def rows_in(journal: Path) -> int:
    """How many lines a journal has beyond its header."""
    return max(journal.read_bytes().count(b"\n") - 1, 0) if journal.exists() else 0


def killed(arguments: list[str], cwd: Path, journal: Path, rows: int) -> None:
    """Start a command and kill it as soon as its journal has so many rows."""
    with subprocess.Popen(command(*arguments), cwd=cwd, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) as process:
        while process.poll() is None and rows_in(journal) < rows:
            time.sleep(0.002)
        process.send_signal(signal.SIGKILL)


def throughput(model: str, count: int) -> bool:
    """Whether the command's pipeline comes near the slower of its parts."""
    with tempfile.TemporaryDirectory() as folder:
        write_images(Path(folder), count, 0, "JPEG")
        paths = sorted(map(str, Path(folder).rglob("*.jpeg")))
        net = reforg.create_model(model, None if model.endswith("_fmnist") else "synthetic")
        classifier = Classifier(net, net.preprocessing, labels_of(net))
        shape = classifier.batch_size, net.preprocessing.channels, *net.preprocessing.size
        images = np.random.default_rng(0).standard_normal(shape, dtype=np.float32)

        def decode(some: list[str]) -> None:
            with ThreadPoolExecutor(classifier.threads) as pool:
                for _ in pool.map(classifier._prepared, some):
                    pass

        def compute(some: list[str]) -> None:
            for start in range(0, len(some), classifier.batch_size):
                net.answer(images[: len(some) - start])

        def classify(some: list[str]) -> None:
            for _ in classifier.batches(some):
                pass

        seconds = taking_turns([decode, compute, classify], paths)
    decoding, computing, both = (count / spent for spent in seconds)
    print(f"{model}, {count:,} images, {classifier.threads} threads decode, {os.cpu_count()} cores")
    print(f"decoding alone {decoding:,.1f} images/s, model alone {computing:,.1f}, classify {both:,.1f}")
    print(f"{both / min(decoding, computing):.1%} of the slower, goal {GOAL:.0%}")
    return both >= GOAL * min(decoding, computing)


def taking_turns(works: list[Callable[[list[str]], None]], paths: list[str]) -> list[float]:
    """Seconds that each work takes for all paths."""
    seconds = [0.0] * len(works)
    for work in works:
        work(paths[:ROUND])  # which nobody counts
    for start in range(0, len(paths), ROUND):
        for place, work in enumerate(works):
            before = time.perf_counter()
            work(paths[start : start + ROUND])
            seconds[place] += time.perf_counter() - before
    return seconds


def memory(arguments: list[str], cwd: Path, journal: Path) -> tuple[float, float]:
    """MB that a run has at its 200th image, and at most from there to its last; what writing the format takes then is bounded."""
    with subprocess.Popen(command(*arguments), cwd=cwd, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) as process:
        first = most = 0.0
        while process.poll() is None:
            status = Path(f"/proc/{process.pid}/status").read_text(encoding="ascii")
            now = next((int(line.split()[1]) / 1024 for line in status.splitlines() if line.startswith("VmRSS")), 0.0)
            if rows_in(journal) >= 200 and not journal.with_name(f"{journal.name}.part").exists():
                first, most = first or now, max(most, now)
            time.sleep(0.02)
    return first, most


def kill(count: int) -> bool:
    """Whether killed runs end with the same files as one that was left alone, and memory stays."""
    with tempfile.TemporaryDirectory() as name:
        folder, dice, good = Path(name), random.Random(), True
        write_images(folder / "images", count, count // 100)
        for suffix in ("jsonl", "csv", "parquet"):
            whole, again = folder / f"whole.{suffix}", folder / f"again.{suffix}"
            asked = ["images", "--model", "evit_fmnist", "--features", "--output"]
            first, most = memory([*asked, whole.name], folder, folder / f".{whole.name}.unfinished")
            moments = sorted(dice.randrange(count) for _ in range(KILLS))
            for moment in moments:
                killed([*asked, again.name, "--resume"], folder, folder / f".{again.name}.unfinished", moment)
            last = subprocess.run(command(*asked, again.name, "--resume"), cwd=folder, check=False, capture_output=True, text=True)
            same = whole.read_bytes() == again.read_bytes()
            left = sorted(path.name for path in folder.iterdir() if path.name.startswith("."))
            good &= same and last.returncode == 1 and not left and most <= first + GROWTH
            print(
                f"{suffix}: killed at {moments}: {'the same' if same else 'DIFFERENT'}, exit {last.returncode}, left {left}; "
                f"{first:.0f} MB at 200 images, {most:.0f} MB at most after; {last.stderr.strip()}"
            )
        rows = [json.loads(line) for line in (folder / "whole.jsonl").read_text("utf-8").splitlines()]
        paths = sorted(str(path.relative_to(folder)) for path in (folder / "images").rglob("*.*"))
        good &= [row["path"] for row in rows] == paths and sum(row["error"] is not None for row in rows) == count // 100
        print(f"{len(rows):,} rows, {'every image once, in order' if [row['path'] for row in rows] == paths else 'NOT in order'}")
    return good


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--throughput", nargs="*", metavar="MODEL COUNT")
    parser.add_argument("--kill", nargs="?", type=int, const=2000, metavar="COUNT")
    options = parser.parse_args()
    done = True
    if options.throughput is not None:
        model, count = [*options.throughput, *["deit_tiny_patch16_224", "1024"][len(options.throughput) :]]
        done &= throughput(model, int(count))
    if options.kill is not None:
        done &= kill(options.kill)
    sys.exit(not done)
