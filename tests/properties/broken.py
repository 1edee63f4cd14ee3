"""Break what each property is about, in a copy of the source, and see that very property go red.

    python tests/properties/broken.py [WORDS]       prints a table; WORDS choose rows

A row: property, what is broken, file, source, mutant; a source of "" appends the mutant to the file. Exit code 1 where a
property stays green, where a place is no longer there, or where a property has no row. Gradients need torch; without
it their rows say so.
"""

import importlib.util
import os
import re
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

ROOT = Path(__file__).parents[2]
COPIED = ("reforg", "backends", "golden", "tests", "pyproject.toml", "README.md", "LICENSE", "NOTICE")
BASIC, CONV, RESIZE, SELECT, LAYOUT = (f"reforg/ops/{name}.py" for name in ("basic", "conv", "resize", "select", "layout"))
VIT, EVIT, SHUNTED, TOKENS, CONFIG = (f"reforg/{name}.py" for name in ("vit", "evit", "shunted", "tokens", "config"))
NUMPY = "backends/reforg_numpy/__init__.py"


def over(name: str, result: str) -> str:
    """A function of the file replaced by one that returns `result`, where y is what the old one returns for x and `more`."""
    head = f"\n\n_{name} = {name}\n\n\ndef {name}(x, *more, **named):\n    xp, y = namespace(x), _{name}(x, *more, **named)\n"
    return head + f"    return {result}\n"


FIRST = "xp.concat([y[..., :1] * 1.001, y[..., 1:]], axis=-1)"
RAMP = "y + 0.001 * xp.reshape(xp.arange(y.shape[2], dtype=y.dtype), (-1, 1))"
FLIPPED = "_{0}(x, namespace(x).flip(more[0], axis=3), *more[1:], **named)"
SINGLE = "xp.astype(xp.astype(y, xp.float16), y.dtype) if y.dtype == xp.float32 else y"
HALF = "y if y.dtype in (xp.float32, xp.float64) else xp.astype(1.05 * widen(y), y.dtype)"
TANH = "0.5 * x * (1.0 + xp.tanh(0.7978845608028654 * (x + 0.044715 * x**3)))"
BACKEND = """

from reforg.ops import REFERENCE as _REFERENCE

ops = ops.replaced("numpy", {"layer_norm": lambda x, w, b, eps: _REFERENCE.layer_norm(x, w, b, eps + 1e-4)})
"""
FUSE = "xp.sum(widen(tokens) * widen(scores)[:, :, None], axis=1, keepdims=True)"
LOCAL = "return (keys, values, local) if whole else (keys, values + local, None)"
LOGITS = 'return net.trace("logits", mean_of(states))'
GAIN = "x * net.weights[config.gain(path, number, branch)]"
MLP_OUT = 'return net.trace(path, net.linear(f"{path}.fc2", hidden))'
CENTRE = "centre = (index + 0.5) * (source / target) - 0.5"
RANK = "argsort(-scores, axis=-1, stable=True)"
COUNT = "math.ceil(keep_rate * candidates)"
NORM1 = 'normed = net.layer_norm(f"{path}.norm1{branch}", x, config.norm_eps)'

BROKEN = [
    # softmax, norms, activations, linear maps, convolutions
    ("softmax_is_the_share_of_each", "shares a millionth too large", BASIC, "", over("softmax", "y * 1.000001")),
    ("rows_of_softmax_are_shares", "shares a millionth too large", BASIC, "", over("softmax", "y * 1.000001")),
    ("softmax_ignores_a_shift", "a little of the row's mean added", BASIC, "",
     over("softmax", "y + 0.001 * xp.mean(x, axis=-1, keepdims=True)")),
    ("softmax_follows_a_permutation", "the first favoured", BASIC, "", over("softmax", FIRST)),
    ("softmax_of_small_numbers", "a temperature", BASIC, "", over("softmax", "_softmax(0.001 * x)")),
    ("layer_norm_centres_and_scales", "scaled by 1.00001", BASIC, "", over("layer_norm", "1.00001 * y")),
    ("layer_norm_ignores_a_shift", "not quite centred", BASIC, "",
     over("layer_norm", "y + 0.001 * xp.mean(x, axis=-1, keepdims=True)")),
    ("layer_norm_without_epsilon", "a little of the token added", BASIC, "", over("layer_norm", "y + 0.001 * x")),
    ("layer_norm_follows_a_permutation", "the first channel favoured", BASIC, "", over("layer_norm", FIRST)),
    ("a_layer_norm_without_gains", "scaled by 1.01", BASIC, "", over("layer_norm", "1.01 * y")),
    ("batch_norm_is_one_affine_map", "scaled by 1.01", BASIC, "", over("batch_norm", "1.01 * y")),
    ("gelu_is_x_times", "the tanh form", BASIC, "", over("gelu", TANH)),
    ("gelu_of_x_minus_gelu", "a little of x added", BASIC, "", over("gelu", "y + 0.001 * x")),
    ("relu_is_half_of_x", "leaky", BASIC, "", over("relu", "xp.where(x > 0, y, 0.01 * x)")),
    ("linear_is_a_sum", "scaled by 1.001", BASIC, "", over("linear", "1.001 * y")),
    ("the_mlp_acts_on_each_token", "tokens mixed between its maps", VIT, MLP_OUT,
     "hidden = hidden + 0.01 * mean(hidden, axis=1)[:, None, :]\n    " + MLP_OUT),
    ("a_convolution_sums_over_windows", "the kernel flipped", CONV, "", over("conv2d", FLIPPED.format("conv2d"))),
    ("a_convolution_is_linear", "a little of its square added", CONV, "", over("conv2d", "y + 0.001 * y * y")),
    ("a_convolution_moves_with", "a ramp added", CONV, "", over("conv2d", RAMP)),
    ("a_depthwise_convolution_gives", "the kernel flipped", CONV, "",
     over("depthwise_conv2d", FLIPPED.format("depthwise_conv2d"))),
    ("the_patch_embedding_is_one", "channels in reverse", VIT, 'net.conv2d("patch_embed.proj", images,',
     'net.conv2d("patch_embed.proj", namespace(images).flip(images, axis=1),'),
    ("heads_and_maps_are_rearr", "rows and columns exchanged", LAYOUT, "tokens.shape[2], *grid)", "tokens.shape[2], *grid[::-1])"),
    # resampling
    ("resampling_weighs_the_pixels", "a = -0.5", RESIZE, "_kernel(method, -0.75)", "_kernel(method, -0.5)"),
    ("resampling_to_the_same_size", "scaled by 1.01", RESIZE, "== size:\n        return x", "== size:\n        return 1.01 * x"),
    ("resampling_leaves_constants", "weights not divided by their sum", RESIZE, "[weight / total for", "[weight for"),
    ("resampling_is_linear", "a little of the square added", RESIZE, "total = part if",
     "part = part + 0.001 * part * part\n        total = part if"),
    ("resampling_a_mirrored_image", "corners for centres", RESIZE, CENTRE, "centre = index * (source / target)"),
    ("rows_and_columns_are_resampled_alike", "rows always bilinear", RESIZE, "size[0], method,", 'size[0], "bilinear",'),
    ("rows_and_columns_are_resampled_one_after", "columns antialiased with rows only", RESIZE, "size[1], method, antialias,",
     "size[1], method, antialias and size[0] != x.shape[2],"),
    ("bilinear_enlarging_needs", "the kernel always widened", RESIZE, "stretch = max(scale, 1.0)", "stretch = max(scale, 2.0)"),
    ("positions_are_resampled_over", "special tokens lose theirs", VIT, "table[:, :special, :], to_tokens(maps)",
     "0.0 * table[:, :special, :], to_tokens(maps)"),
    # precision
    ("float32_stays_within_its", "norms in half precision", BASIC, "", over("layer_norm", SINGLE)),
    ("float32_of_shunted_stays", "norms in half precision", BASIC, "", over("layer_norm", SINGLE)),
    ("halves_stay_within_their", "norms five percent off in halves", BASIC, "", over("layer_norm", HALF)),
    ("halves_of_shunted_stay", "norms a quarter off in halves", BASIC, "", over("layer_norm", HALF.replace("1.05", "1.25"))),
    ("the_shorter_the_rounding", "norms rounded to float32", BASIC, "",
     over("layer_norm", "xp.astype(xp.astype(y, xp.float32), y.dtype)")),
    # attention
    ("attention_mixes_the_values", "scaled by 1.001", BASIC, "", over("attention", "(1.001 * y[0], y[1])")),
    ("keys_exchanged_together", "the first value favoured", BASIC, "",
     over("attention", "(y[0] + 0.001 * more[1][..., :1, :], y[1])")),
    ("the_context_follows", "the first query favoured", BASIC, "", over("attention", "(y[0] + 0.001 * x[..., :1, :], y[1])")),
    ("the_context_lies_among", "one half more", BASIC, "", over("attention", "(1.5 * y[0], y[1])")),
    ("a_scale_may_be_put_into", "the root of the scale", BASIC, "",
     over("attention", '_attention(x, *more, **(named | {"scale": named["scale"] ** 0.5}))')),
    ("self_attention_of_vit_is", "scale by the width", VIT, "(x.shape[-1] // num_heads) ** -0.5", "x.shape[-1] ** -0.5"),
    ("heads_exchanged_consistently", "scores of the first head", EVIT, "mean(probabilities[:, :, 0, num_special:], axis=1)",
     "probabilities[:, 0, 0, num_special:]"),
    ("tokens_exchanged_are", "the second token leaks into all", VIT, 'net.linear(f"{path}.qkv", x)',
     'net.linear(f"{path}.qkv", x + 0.1 * x[:, 1:2, :])'),
    ("shunted_attention_is_what", "values not enhanced", SHUNTED, LOCAL, "return keys, values, local if whole else None"),
    ("shunted_attention_without_red", "values enhanced everywhere", SHUNTED, LOCAL,
     "return keys, values + local, local if whole else None"),
    ("rows_and_columns_left_over", "the last pixel added", SHUNTED, "maps, stride=ratio)",
     "maps, stride=ratio) + 0.1 * maps[:, :, -1:, -1:]"),
    ("the_mlp_of_shunted_sees", "without its residual", SHUNTED, "y + detail)", "detail)"),
    # whole models
    ("vit_deit_and_evit_are", "the mean fused", EVIT, FUSE, FUSE.replace("xp.sum", "xp.mean")),
    ("the_kept_tokens_are_those", "smallest attention kept", SELECT, "argsort(-scores", "argsort(scores"),
    ("an_image_of_another_size", "the other family's antialiasing", VIT, "grid, config.antialias,", "grid, not config.antialias,"),
    ("the_hmlp_stem_is", "ReLU for GELU", VIT, 'net.gelu(f"{path}.2", x)', 'net.relu(f"{path}.2", x)'),
    ("shunted_transformer_is", "inner norms with epsilon 1e-6", CONFIG, "SHUNTED_STEM_EPS = 1e-5", "SHUNTED_STEM_EPS = 1e-6"),
    ("the_fast_operations_of_a_backend_compute_the_same_model", "another epsilon", NUMPY, "", BACKEND),
    ("the_fast_operations_of_a_backend_compute_the_same_shunted", "another epsilon", NUMPY, "", BACKEND),
    ("patches_relabelled_together", "the first patch leaks into all", VIT, 'net.trace("patch_embed", to_tokens(maps))',
     'net.trace("patch_embed", to_tokens(maps) + maps[:, :, 0, 0][:, None, :])'),
    ("a_batch_is_its_images", "the first image leaks into all", VIT, "    x = embed(net, images, config)\n",
     "    x = embed(net, images, config)\n    x = x + 0.01 * x[:1, ...]\n"),
    ("a_batch_of_shunted_is", "the first image leaks into all", SHUNTED, "pooled = mean(x, axis=1)",
     "pooled = mean(x, axis=1) + mean(x, axis=1)[:1, :]"),
    ("the_images_of_a_batch", "the first image leaks into all", VIT, "    x = embed(net, images, config)\n",
     "    x = embed(net, images, config)\n    x = x + 0.01 * x[:1, ...]\n"),
    ("classes_may_change_places", "the first class leaks into all", VIT, LOGITS,
     'return net.trace("logits", mean_of(states) + 0.1 * mean_of(states)[:, :1])'),
    ("layer_scale_of_ones_is_none", "one added to the gains", VIT, GAIN, GAIN.replace("x * net", "x + x * net")),
    ("a_block_whose_gains_are_zero", "gains left out", VIT, GAIN, "x"),
    ("a_parallel_block_adds", "branches one after the other", VIT, NORM1, NORM1.replace(", x,", ", sum(updates, x),")),
    ("a_parallel_branch_whose_output", "branches averaged", VIT, "    x = sum(updates, x)\n    if",
     "    x = x + mean_of(updates)\n    if"),
    ("a_distilled_model_is_the_mean", "only the first head read", VIT, LOGITS, 'return net.trace("logits", states[0])'),
    ("two_equal_heads_and_tokens", "both logits added", VIT, LOGITS, 'return net.trace("logits", sum(states[1:], states[0]))'),
    ("without_classes_the_model", "half of the states", VIT, "    if config.heads:\n",
     "    states = states if config.heads else [0.5 * state for state in states]\n    if config.heads:\n"),
    ("a_forward_pass_changes", "a pixel overwritten", VIT, "    maps = embed_patches(net, images, config)\n",
     "    maps = embed_patches(net, images, config)\n    images[0, 0, 0, 0] = 9.0\n"),
    ("a_forward_pass_of_shunted", "a pixel overwritten", SHUNTED, "    maps = images\n",
     "    maps = images\n    images[0, 0, 0, 0] = 9.0\n"),
    # gradients, under torch
    ("the_gradient_is_the_slope", "none through the MLP", VIT, MLP_OUT,
     'hidden = hidden.detach() if hasattr(hidden, "detach") else hidden\n    ' + MLP_OUT),
    ("the_gradient_of_shunted", "none through the local detail", SHUNTED, "y + detail)",
     'y + (detail.detach() if hasattr(detail, "detach") else detail))'),
    # selection
    ("the_kept_count_is_the_ceiling", "the product not rounded to double precision", EVIT, COUNT,
     'math.ceil(__import__("fractions").Fraction(keep_rate) * candidates)'),
    ("every_block_keeps_the_ceiling", "the class token counted", EVIT, COUNT, "math.ceil(keep_rate * (candidates + 1)) - 1"),
    ("attentive_and_inattentive", "one token in both", EVIT, "order[:, count:]", "order[:, count - 1 : -1]"),
    ("equal_scores_keep_the_lower", "equal scores keep the higher", SELECT, f"namespace(scores).{RANK}",
     "namespace(scores).flip(namespace(scores).argsort(scores, axis=-1, stable=True), axis=-1)"),
    ("ranking_follows_a_permutation", "scores compared coarsely", SELECT, RANK,
     "argsort(namespace(scores).astype(-8.0 * scores, namespace(scores).int32), axis=-1, stable=True)"),
    ("gathering_takes_each_images", "from the first image", SELECT, "indices + count * arange", "indices + 0 * arange"),
    ("scores_are_the_class_tokens_row", "the column for the row", EVIT, "[:, :, 0, num_special:]", "[:, :, num_special:, 0]"),
    ("the_fused_token_is_the_att", "the mean fused", EVIT, FUSE, FUSE.replace("xp.sum", "xp.mean")),
    ("fusing_is_linear", "squared scores", EVIT, FUSE, FUSE.replace("None],", "None] ** 2,")),
    ("a_reorganization_keeps", "the fused token before the kept", EVIT, "        parts.append(fuse",
     "        parts.insert(1, fuse"),
    ("the_token_map_composes", "fusions not weighted", TOKENS, "scores * dropped", "dropped"),
    ("every_patch_is_in_exactly", "fused patches owned by nobody", TOKENS, "kept.shape[1] if fuses else -1)", "-1)"),
    ("keeping_every_token_is", "all tokens ranked and an empty one fused", VIT, "if count < x.shape[1] - special:",
     "if count <= x.shape[1] - special:"),
    ("a_rate_given_at_the_call", "every block reorganizes", EVIT, "(rate if mine < 1 else 1.0)", "rate"),
    ("rates_given_for_each_block", "None is a half", EVIT, "mine if rate is None", "min(mine, 0.5) if rate is None"),
    ("tokens_given_at_the_call", "only blocks with a rate below 1", EVIT, "wanted = self.tokens[block]",
     "wanted = self.tokens[block] if self.rates[block] < 1 else None"),
    ("a_number_of_tokens_is", "the config's tokens over the call's rate", EVIT, "config.tokens if keep_rate is None else None",
     "config.tokens"),
]  # fmt: skip


def properties() -> dict[str, Path]:
    """Name -> file of every property."""
    files = sorted(Path(__file__).parent.glob("test_*.py"))
    texts = {file: file.read_text(encoding="utf-8") for file in files}
    return {name: file for file, text in texts.items() for name in re.findall(r"^def test_(\w+)", text, re.MULTILINE)}


def copied(folder: Path) -> Path:
    """The project's source in `folder`."""
    for part in COPIED:
        copy = shutil.copytree if (ROOT / part).is_dir() else shutil.copy
        copy(ROOT / part, folder / part)
    return folder


def red(folder: Path, test: str, library: str) -> bool:
    """Whether that one property fails in the copy: by its assertion, not because the mutant cannot run."""
    command = [sys.executable, "-m", "pytest", "-x", "-q", "-p", "no:cacheprovider", "--libraries", library, test]
    here = {"PYTHONPATH": ":".join(str(folder / part) for part in (".", "backends", "golden")), "OPENBLAS_NUM_THREADS": "1"}
    done = subprocess.run(command, cwd=folder, env=os.environ | here, check=False, capture_output=True, text=True)
    if done.returncode not in (0, 1):
        raise RuntimeError(f"pytest could not run {test}: {done.stdout[-2000:]}{done.stderr[-2000:]}")
    return done.returncode == 1 and "AssertionError" in done.stdout


def tried(folder: Path, test: str, library: str, file: str, source: str, mutant: str) -> str:
    """What comes of one row: "red", or why not. The file is put back afterwards."""
    path = folder / file
    text = path.read_text(encoding="utf-8")
    if source and text.count(source) != 1:
        return "**the place is no longer in the source**"
    path.write_text(text.replace(source, mutant) if source else text + mutant, encoding="utf-8")
    try:
        return "red" if red(folder, test, library) else "**stays green**"
    finally:
        path.write_text(text, encoding="utf-8")


def main() -> int:
    words, known = sys.argv[1:], properties()
    wrong, rows = 0, {}
    for start, *row in BROKEN:
        (name,) = [name for name in known if name.startswith(start)]
        rows[name] = row
    for name in known.keys() - rows.keys():
        print(f"no row breaks {name}", file=sys.stderr)
        wrong += 1
    print("| property | broken | comes out |\n|---|---|---|")
    with tempfile.TemporaryDirectory() as temporary:
        folder = copied(Path(temporary))
        for name, (what, *place) in rows.items():
            if words and not any(word in f"{name} {what}" for word in words):
                continue
            library = "torch" if "gradient" in known[name].stem else "numpy"
            if importlib.util.find_spec(library) is None:
                found = f"not tried: needs {library}"
            else:
                found = tried(folder, f"tests/properties/{known[name].name}::test_{name}", library, *place)
            wrong += "**" in found
            print(f"| {name.replace('_', ' ')} | {what} (`{place[0]}`) | {found} |", flush=True)
    return int(wrong > 0)


if __name__ == "__main__":
    sys.exit(main())
