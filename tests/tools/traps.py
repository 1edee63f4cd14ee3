"""Spring every trap in a copy of the source and see which test goes red.

    python tests/tools/traps.py [WORDS]       prints the table of docs/traps.md; WORDS choose rows

Each row changes one place of one file, as a port that fell into the trap would have it, and runs the golden, trap and
operation tests until the first failure. Exit code 1 where a mutant survives or a place is no longer there.
"""

import re
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

ROOT = Path(__file__).parents[2]
QUICK = ["tests/test_traps.py", "tests/golden/test_golden.py", "tests/ops/test_ops.py"]
COPIED = ("reforg", "backends", "golden", "tests", "pyproject.toml", "README.md", "LICENSE", "NOTICE")

MUTATIONS = [  # trap, what the port does instead, file, source, mutant
    ("1", "kept count rounded down", "evit.py", "math.ceil(keep_rate * candidates)", "math.floor(keep_rate * candidates)"),
    ("1", "kept count rounded to the nearest", "evit.py", "math.ceil(keep_rate * candidates)", "round(keep_rate * candidates)"),
    ("1", "the class token counted", "evit.py", "math.ceil(keep_rate * candidates)", "math.ceil(keep_rate * (candidates + 1)) - 1"),
    ("2", "reorganized after the MLP", "vit.py", "    if count < x.shape[1] - config.num_special:\n        x = reorganize(net, path, x, average(net, f\"{path}.cls_attention\", scores), count, config)\n    return net.trace(path, feed_forward(net, path, x, config))", "    x = feed_forward(net, path, x, config)\n    if count < x.shape[1] - config.num_special:\n        x = reorganize(net, path, x, average(net, f\"{path}.cls_attention\", scores), count, config)\n    return net.trace(path, x)"),
    ("2", "reorganized before the residual is added", "vit.py", 'return net.trace(f"{path}.attended", sum(updates, x)), scores', 'return net.trace(f"{path}.attended", sum(updates[1:], updates[0])), scores'),
    ("3", "scores before softmax", "ops/basic.py", 'return trace("context", matmul(probabilities, values)), probabilities', 'return trace("context", matmul(probabilities, values)), scores'),
    ("3", "the column for the row", "evit.py", "probabilities[:, :, 0, num_special:]", "probabilities[:, :, num_special:, 0]"),
    ("3", "the first head instead of the mean", "evit.py", "mean(probabilities[:, :, 0, num_special:], axis=1)", "probabilities[:, 0, 0, num_special:]"),
    ("4", "kept tokens in image order", "evit.py", "return order[:, :count], order[:, count:]", "return namespace(order).sort(order[:, :count], axis=1), order[:, count:]"),
    ("4", "smallest attention kept", "ops/select.py", "argsort(-scores", "argsort(scores"),
    ("4", "the fused token before the kept ones", "evit.py", "        parts.append(fuse", "        parts.insert(1, fuse"),
    ("5", "the fused token divided by the sum of attentions", "evit.py", "    return narrow(xp.sum(widen(tokens) * widen(scores)[:, :, None], axis=1, keepdims=True), tokens)", "    total = xp.sum(widen(tokens) * widen(scores)[:, :, None], axis=1, keepdims=True)\n    return narrow(total / xp.sum(widen(scores), axis=1)[:, None, None], tokens)"),
    ("5", "the plain mean fused", "evit.py", "xp.sum(widen(tokens) * widen(scores)[:, :, None], axis=1, keepdims=True)", "xp.mean(widen(tokens), axis=1, keepdims=True)"),
    ("6", "the fused token never competes", "evit.py", "order = ops.rank(scores)", "order = ops.rank(scores if scores.shape[1] % 2 == 0 else namespace(scores).concat([scores[:, :-1], scores[:, -1:] - 9.0], axis=1))"),
    ("7", "a fused token of nothing is added", "vit.py", "    if count < x.shape[1] - config.num_special:", "    if count <= x.shape[1] - config.num_special:"),
    ("8", "a rate at the call reorganizes every block", "evit.py", "(rate if mine < 1 else 1.0)", "rate"),
    ("8", "tokens given once prune the drop_loc blocks only", "evit.py", "wanted = self.tokens[block]", "wanted = self.tokens[block] if self.rates[block] < 1 else None"),
    ("9", "EViT's positions resampled with antialiasing", "catalog/names.py", '"modules": "official", "antialias": False}', '"modules": "official", "antialias": True}'),
    ("9", "bicubic with a = -0.5", "ops/resize.py", "_kernel(method, -0.75)", "_kernel(method, -0.5)"),
    ("9", "corners aligned", "ops/resize.py", "centre = (index + 0.5) * (source / target) - 0.5", "centre = index * (source - 1) / max(target - 1, 1)"),
    ("10", "the distillation token competes with the patches", "config.py", "return len(self.special_tokens)", "return 1"),
    ("11", "equal scores keep the higher index", "ops/select.py", "namespace(scores).argsort(-scores, axis=-1, stable=True)", "namespace(scores).flip(namespace(scores).argsort(scores, axis=-1, stable=True), axis=-1)"),
    ("13", "DeiT III's positions added after the class token", "catalog/names.py", '"no_embed_class": True}', '"no_embed_class": False}'),
    ("13", "LayerScale left out", "vit.py", "x * net.weights[config.gain(path, number, branch)]", "x"),
    ("13", "LayerScale's gains swapped", "vit.py", "net.weights[config.gain(path, number, branch)]", "net.weights[config.gain(path, 3 - number, branch)]"),
    ("14", "scale missing", "vit.py", "scale = (x.shape[-1] // num_heads) ** -0.5", "scale = 1.0"),
    ("14", "scale by the width", "vit.py", "scale = (x.shape[-1] // num_heads) ** -0.5", "scale = x.shape[-1] ** -0.5"),
    ("15", "only the class token's head is read", "vit.py", "mean_of(states)", "states[0]"),
    ("15", "both logits are added", "vit.py", "mean_of(states)", "sum(states[1:], states[0])"),
    ("16", "parallel branches one after the other", "vit.py", 'normed = net.layer_norm(f"{path}.norm1{branch}", x, config.norm_eps)', 'normed = net.layer_norm(f"{path}.norm1{branch}", sum(updates, x), config.norm_eps)'),
    ("17", "no batch norm at the stem's end", "vit.py", 'x = net.batch_norm(f"{path}.7", net.conv2d(f"{path}.6", net.gelu(f"{path}.5", x), stride=2), BATCH_NORM_EPS)', 'x = net.conv2d(f"{path}.6", net.gelu(f"{path}.5", x), stride=2)'),
    ("17", "ReLU in the stem", "vit.py", 'net.gelu(f"{path}.2", x)', 'net.relu(f"{path}.2", x)'),
    ("19", "inner norms with epsilon 1e-6", "config.py", "SHUNTED_STEM_EPS = 1e-5", "SHUNTED_STEM_EPS = 1e-6"),
    ("19", "block norms with epsilon 1e-5", "config.py", "    norm_eps: float = 1e-6\n\n    def", "    norm_eps: float = 1e-5\n\n    def"),
    ("19", "batch norm with epsilon 1e-6", "config.py", "BATCH_NORM_EPS = 1e-5", "BATCH_NORM_EPS = 1e-6"),
    ("20", "the halves of the heads exchanged", "shunted.py", "branch * group : (branch + 1) * group", "(1 - branch) * group : (2 - branch) * group"),
    ("20", "no norm and GELU at ratio 1", "shunted.py", 'return net.gelu(f"{path}.act@{number - 1}", x)', 'return (x if ratio == 1 else net.gelu(f"{path}.act@{number - 1}", x))'),
    ("21", "the local convolution added to the output everywhere", "shunted.py", "return (keys, values, local) if whole else (keys, values + local, None)", "return keys, values, local if whole else None"),
    ("21", "the local convolution added to V everywhere", "shunted.py", "return (keys, values, local) if whole else (keys, values + local, None)", "return keys, values + local, local if whole else None"),
    ("22", "the MLP without its residual", "shunted.py", "y + detail)", "detail)"),
    ("22", "GELU before the depthwise convolution", "shunted.py", 'to_maps(y, grid))))\n', 'to_maps(net.ops.gelu(y), grid))))\n'),
    ("23", "a bias missing in the stem's last convolution", "shunted.py", "net.conv2d(f\"{path}.conv.{position}\", x, 2))", "net.ops.conv2d(x, net.weights[f\"{path}.conv.{position}.weight\"], None, 2))"),
    ("23", "the first token for the mean", "shunted.py", "return mean(x, axis=1)", "return x[:, 0, :]"),
    ("25", "GELU by tanh", "ops/basic.py", "return narrow(0.5 * wide * (1.0 + erf(wide * 0.7071067811865476)), x)", "return narrow(0.5 * wide * (1.0 + namespace(x).tanh(0.7978845608028654 * (wide + 0.044715 * wide**3))), x)"),
    ("26", "layer norm with epsilon 1e-12", "ops/basic.py", "variance + eps) * widen(weight) + widen(bias), x)", "variance + 1e-12) * widen(weight) + widen(bias), x)"),
    ("26", "unbiased variance", "ops/basic.py", "variance = xp.mean(centred * centred, axis=-1, keepdims=True)", "variance = xp.sum(centred * centred, axis=-1, keepdims=True) / (x.shape[-1] - 1)"),
    ("27", "bilinear with antialiasing for the images", "images/transforms.py", 'taps(images.shape[2], size[0], "bilinear", antialias=False)', 'taps(images.shape[2], size[0], "bilinear", antialias=True)'),
    ("29", "batch norm's output recorded after ReLU", "shunted.py", 'x = net.relu(f"{path}.conv.{position + 2}", net.batch_norm(f"{path}.conv.{position + 1}", x, BATCH_NORM_EPS))', 'x = net.relu(f"{path}.conv.{position + 2}", net.batch_norm(f"{path}.conv.{position + 1}", x, BATCH_NORM_EPS))\n        net.trace(f"{path}.conv.{position + 1}", x)'),
    ("30", "reorganized tokens not left out of the count", "costs/operations.py", "made((*indices.shape, *tokens.shape[2:]), tokens, indices)", "made(tokens.shape, tokens, indices)"),
    ("any", "queries, keys and values exchanged", "vit.py", "queries, keys, values = split_heads", "keys, queries, values = split_heads"),
    ("any", "rows and columns of the feature maps exchanged", "ops/layout.py", "(tokens.shape[0], tokens.shape[2], *grid)", "(tokens.shape[0], tokens.shape[2], *grid[::-1])"),
]  # fmt: skip


def copied(folder: Path) -> Path:
    """The project's source in `folder`."""
    for part in COPIED:
        copy = shutil.copytree if (ROOT / part).is_dir() else shutil.copy
        copy(ROOT / part, folder / part)
    return folder


def mutated(folder: Path, file: str, source: str, mutant: str) -> bool:
    """Whether the place was there, once, and now holds the mutant."""
    path = folder / "reforg" / file
    text = path.read_text(encoding="utf-8")
    if text.count(source) != 1:
        return False
    path.write_text(text.replace(source, mutant), encoding="utf-8")
    return True


def first_red(folder: Path) -> str | None:
    """The first test that fails there, or None."""
    command = [sys.executable, "-m", "pytest", "-x", "-q", "-p", "no:cacheprovider", "--libraries", "numpy,strict", *QUICK]
    here = {
        "PYTHONPATH": ":".join(str(folder / part) for part in (".", "backends", "golden")),
        "PATH": "/usr/bin:/bin",
        "OPENBLAS_NUM_THREADS": "1",
    }
    done = subprocess.run(command, cwd=folder, env=here, check=False, capture_output=True, text=True)
    if done.returncode not in (0, 1):
        raise RuntimeError(f"pytest could not run: {done.stdout[-2000:]}{done.stderr[-2000:]}")
    found = re.search(r"^FAILED tests/(.+?)(?: - |$)", done.stdout, re.MULTILINE)
    return found[1] if done.returncode and found else None


def main() -> int:
    words = sys.argv[1:]
    survived = 0
    with tempfile.TemporaryDirectory() as name:
        if red := first_red(copied(Path(name))):
            print(f"{red} fails without any mutation", file=sys.stderr)
            return 1
    print("| trap | mutation | first test to go red |\n|---|---|---|")
    for trap, what, file, source, mutant in MUTATIONS:
        if words and not any(word in f"{trap} {what}" for word in words):
            continue
        with tempfile.TemporaryDirectory() as name:
            folder = copied(Path(name))
            there = mutated(folder, file, source, mutant)
            caught = first_red(folder) if there else "(the place is no longer in the source)"
        survived += not there or caught is None
        print(f"| {trap} | {what} | {f'`{caught}`' if caught and there else caught or '**survives**'} |", flush=True)
    return int(survived > 0)


if __name__ == "__main__":
    sys.exit(main())
