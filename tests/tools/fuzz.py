"""Mutated checkpoints: whatever comes of them is a WeightsError or exactly the tensors that the file describes.

    python tests/tools/fuzz.py --seconds 600        one line a minute, and every finding with the file that makes it

`check` is also what the short version in test_fuzz.py calls.
"""

import argparse
import io
import json
import random
import resource
import tempfile
import time
import warnings
import zipfile
import zlib
from collections import Counter
from pathlib import Path

import literal_checkpoint
import numpy as np
from safetensors.numpy import save

import reforg

FILES = Path(__file__).parents[1] / "files"
EDGES = [0, 1, 0x7F, 0x80, 0xFF, 0x7FFF, 0xFFFF, 0x7FFFFFFF, 0x80000000, 0xFFFFFFFF, 2**63 - 1, 2**63, 2**64 - 1]
PREFIXES = ("module.", "_orig_mod.", "model.")


def seeds() -> dict[str, bytes]:
    """Honest files of every format, small enough to be changed everywhere."""
    found = {path.stem: path.read_bytes() for path in sorted(FILES.glob("*.pth"))}
    arrays = {"cls": np.ones((1, 1, 4), np.float32), "head/kernel": np.arange(12.0).reshape(4, 3), "n": np.array(3)}
    for name, writer in (("plain", np.savez), ("compressed", np.savez_compressed)):
        file = io.BytesIO()
        writer(file, **arrays)
        found[name] = file.getvalue()
    found["safetensors"] = save({"cls_token": arrays["cls"], "x": np.arange(5, dtype=np.float16), "flags": np.ones(4, bool)})
    return found


def mutated(data: bytes, chance: random.Random) -> bytes:
    """The same with a few bytes, lengths or pieces changed."""
    content = bytearray(data)
    for _ in range(chance.choice((1, 1, 1, 2, 3, 8))):
        if not content:
            break
        place, length = chance.randrange(len(content)), chance.choice((1, 1, 2, 4, 8, 40))
        kind = chance.randrange(7)
        if kind == 0:
            content[place] ^= 1 << chance.randrange(8)
        elif kind == 1:
            content[place] = chance.randrange(256)
        elif kind == 2:
            width = chance.choice((1, 2, 4, 8))
            content[place : place + width] = (chance.choice(EDGES) % (1 << 8 * width)).to_bytes(width, "little")
        elif kind == 3:
            del content[place : place + length]
        elif kind == 4:
            other = chance.randrange(len(content))
            content[place:place] = content[other : other + length]
        elif kind == 5:
            other = chance.randrange(len(content))
            content[place : place + length] = content[other : other + length]
        else:
            content[place:] = content[place:][: chance.randrange(1, 200)] if chance.random() < 0.1 else content[place:]
            content[place] = (content[place] + chance.choice((-1, 1))) % 256
    return bytes(content)


def variant(data: bytes, chance: random.Random) -> bytes:
    """A mutated file. Of an archive, mostly one record is changed and the archive written anew, so that checksums are right."""
    if data[:2] != b"PK" or chance.random() < 0.3:
        return mutated(data, chance)
    with zipfile.ZipFile(io.BytesIO(data)) as archive:
        records = [(name, archive.read(name)) for name in archive.namelist()]
    chosen = chance.choice([number for number, (name, _) in enumerate(records) if name.endswith((".pkl", ".npy", "byteorder"))])
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w") as archive:
        for number, (name, content) in enumerate(records):
            archive.writestr(name, mutated(content, chance) if number == chosen else content)
    return file.getvalue()


def check(content: bytes, path: Path) -> str:
    """What came of a file: "refused", "read" or "read, and no second opinion"; AssertionError where a tensor is wrong."""
    path.write_bytes(content)
    try:
        ours = reforg.load_weights(path)
    except reforg.WeightsError as error:
        sentence = str(error)
    else:
        return compared(ours, content)
    assert sentence, "a refusal without a sentence"
    assert "\n" not in sentence, f"a sentence of several lines: {sentence}"
    return "refused"


def compared(ours: dict[str, np.ndarray], content: bytes) -> str:
    """What was read against the second opinion."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            theirs = literal_checkpoint.read(content)
        except Exception:  # the standard library has its own mind about what is broken
            return "read, and no second opinion"
    for name, array in ours.items():
        full = next((long for long in (name, *(prefix + name for prefix in PREFIXES)) if long in theirs), None)
        assert full is not None or "/" in "".join(theirs), f"{name!r} is in no second opinion"
        if full is not None:
            shape, data = theirs[full]
            plain = array != 0 if array.dtype == bool else array
            wanted = bytes(byte != 0 for byte in data) if array.dtype == bool else data
            assert (array.shape, plain.tobytes()) == (shape, wanted), f"{name!r} is not what the file describes"
    return "read"


def main() -> None:
    """Mutate for so long; a finding is kept beside this file and ends the run with exit code 1."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seconds", type=float, default=600)
    parser.add_argument("--seed", type=int, default=int(time.time()))
    options = parser.parse_args()
    chance, honest, outcomes = random.Random(options.seed), seeds(), Counter[str]()
    start = shown = time.monotonic()
    slowest = 0.0
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "w.pth"
        while time.monotonic() - start < options.seconds:
            name = chance.choice(list(honest))
            content = variant(honest[name], chance)
            before = time.monotonic()
            try:
                outcomes[check(content, path)] += 1
            except BaseException as error:
                kept = Path(tempfile.gettempdir()) / f"finding-{zlib.crc32(content):08x}"
                kept.write_bytes(content)
                raise SystemExit(f"{name}: {type(error).__name__}: {error}; the file is kept as {kept}") from error
            slowest = max(slowest, time.monotonic() - before)
            if time.monotonic() - shown > 60:
                shown = time.monotonic()
                print(f"{shown - start:.0f} s: {dict(outcomes)}", flush=True)
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    print(json.dumps({"seed": options.seed, **outcomes, "slowest_s": round(slowest, 3), "peak_MB": peak // 1024}))


if __name__ == "__main__":
    main()
