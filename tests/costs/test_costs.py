"""`reforg.cost` is what a counter sees: layer by layer in actual runs, and in the papers' tables."""

import subprocess
import sys
from dataclasses import asdict, astuple

import counting
import formulas.count
import numpy as np
import published_costs
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import reforg
import reforg.costs.cost
from reforg.catalog.names import build_config
from reforg.config import DTYPES, ITEM_BYTES, VitConfig
from reforg.costs.cost import booked
from reforg.errors import BackendError, ShapeError
from reforg.families import shapes
from reforg.weights.checkpoints.dtypes import dtype_of

VIT = {"img_size": 16, "patch_size": 4, "embed_dim": 8, "depth": 3, "num_heads": 2, "num_classes": 3, "mlp_ratio": 2.5}
HMLP = {"stem": "hmlp", "patch_size": 16, "img_size": 48}
SHUNTED = {
    "embed_dims": (4, 8, 12, 16),
    "depths": (2, 1, 1, 1),
    "num_heads": (2, 2, 2, 4),
    "mlp_ratios": (1, 2, 1, 3),
    "num_classes": 3,
}
SPECIAL = {  # one of each kind, so that none depends on what hypothesis picks
    "plain": ("vit_tiny_patch16_224", VIT, (16, 16)),
    "positions resampled, not square": ("vit_tiny_patch16_224", VIT, (12, 20)),
    "positions resampled, class token without one": ("deit3_small_patch16_224", VIT, (20, 12)),
    "a config that is not square": ("vit_tiny_patch16_224", {**VIT, "img_size": (8, 24)}, (8, 24)),
    "mean over patches": ("vit_tiny_patch16_224", {**VIT, "global_pool": "avg"}, (16, 16)),
    "distilled": ("deit_tiny_distilled_patch16_224", VIT, (16, 16)),
    "distilled, pruned, fused": ("deit_tiny_distilled_patch16_224", {**VIT, "keep_rate": 0.6, "drop_loc": (0, 2)}, (16, 16)),
    "distilled without a head": ("deit_tiny_distilled_patch16_224", {**VIT, "num_classes": 0}, (16, 16)),
    "without a head": ("vit_tiny_patch16_224", {**VIT, "num_classes": 0}, (16, 16)),
    "parallel branches": ("deit_small_patch16_18x2_LS", VIT, (16, 16)),
    "parallel branches, pruned": ("deit_small_patch16_18x2_LS", {**VIT, "keep_rate": (1, 0.5, 0.9)}, (16, 16)),
    "convolutional stem": ("vit_tiny_patch16_224", {**VIT, **HMLP}, (48, 64)),
    "a rate for every block": ("evit_tiny_patch16_224", {**VIT, "keep_rate": (0.9, 0.5, 0.7)}, (16, 16)),
    "dropped tokens": ("evit_tiny_patch16_224", {**VIT, "keep_rate": 0.4, "drop_loc": (1,), "fuse_token": False}, (16, 16)),
    "a number of tokens": ("evit_tiny_patch16_224", {**VIT, "tokens": (None, 9, 3), "drop_loc": ()}, (16, 16)),
    "no bias": ("vit_tiny_patch16_224", {**VIT, "qkv_bias": False}, (16, 16)),
    "shunted": ("shunted_t", SHUNTED, (64, 64)),
    "shunted, stem, not square, rows left over": ("shunted_t", {**SHUNTED, "num_conv": 2}, (66, 93)),
    "shunted without a head": ("shunted_t", {**SHUNTED, "num_classes": 0}, (64, 64)),
    "shunted, reductions of its own": ("shunted_t", {**SHUNTED, "sr_ratios": (1, 2, 1, 4), "qkv_bias": False}, (128, 128)),
}


def same(config, size, batch=2, dtype="float32", model=None):
    """An actual run and a tape of it see what `cost` told."""
    told = reforg.cost(config if model is None else model, img_size=size, batch=batch, dtype=dtype)
    images = np.zeros((batch, config.in_chans, *size), dtype_of(dtype))
    seen = counting.run(config if model is None else model, images)
    assert list(seen.layers) == list(told.by_layer), "names, in the order of execution"
    assert seen.layers == {name: counting.Layer(*astuple(layer)) for name, layer in told.by_layer.items()}
    by_operation = {}
    for call in seen.calls:
        by_operation[call.operation] = by_operation.get(call.operation, 0) + call.macs
    assert told.by_operation == {operation: macs for operation, macs in by_operation.items() if macs}
    assert told.activation_bytes == sum(sum(call.result_bytes) for call in seen.calls)
    assert told.largest_bytes == max(max(call.result_bytes) for call in seen.calls)
    assert told.macs == sum(by_operation.values()) == sum(told.by_block.values())
    tape = counting.taped(config, size, batch, ITEM_BYTES[dtype])
    ledger, _ = booked(config, images.shape, ITEM_BYTES[dtype])
    assert ledger.sizes == tape.sizes
    assert [(set(made), set(reads)) for made, reads in ledger.steps] == tape.steps
    assert told.peak_bytes == tape.peak()
    by_formulas(config, size, batch, dtype, told)
    return told


def by_formulas(config, size, batch, dtype, told):
    """The papers' structure, written down without any model file, gives every figure too, and every step."""
    wanted = formulas.count.cost(config, size, batch, dtype)
    assert asdict(told) == wanted
    assert list(told.by_layer) == list(wanted["by_layer"])
    images = (batch, config.in_chans, *size)
    ours, theirs = (count.booked(config, images, ITEM_BYTES[dtype])[0] for count in (reforg.costs.cost, formulas.count))
    assert (ours.sizes, ours.steps) == (theirs.sizes, theirs.steps)


@pytest.mark.parametrize("case", SPECIAL)
def test_a_counter_in_the_record_sees_the_same(case):
    name, changes, size = SPECIAL[case]
    same(build_config(name, **changes), size)


@st.composite
def vits(draw):
    patch, heads, depth = draw(st.integers(1, 3)), draw(st.integers(1, 3)), draw(st.integers(1, 3))
    stem = draw(st.sampled_from(["patch", "patch", "hmlp"]))
    patch = 16 if stem == "hmlp" else patch
    grid = st.tuples(st.integers(1, 4), st.integers(1, 4)).map(lambda sides: (sides[0] * patch, sides[1] * patch))
    distilled = draw(st.booleans())
    config = VitConfig(
        family=draw(st.sampled_from(["deit", "deit3"])),
        img_size=draw(grid),
        patch_size=patch,
        in_chans=draw(st.integers(1, 3)),
        num_classes=draw(st.integers(0, 3)),
        embed_dim=4 * heads,
        depth=depth,
        num_heads=heads,
        mlp_ratio=draw(st.floats(0.3, 3)),
        qkv_bias=draw(st.booleans()),
        init_values=draw(st.sampled_from([None, 1.0])),
        no_embed_class=draw(st.booleans()),
        distilled=distilled,
        global_pool="token" if distilled else draw(st.sampled_from(["token", "avg"])),
        parallel=draw(st.sampled_from([1, 2])),
        stem=stem,
        keep_rate=draw(st.tuples(*[st.floats(0.05, 1)] * depth)),
        fuse_token=draw(st.booleans()),
        antialias=draw(st.booleans()),
        modules=draw(st.sampled_from(["timm", "official"])),
    )
    return config, draw(grid | st.just(config.image_shape))


@st.composite
def shunteds(draw):
    four = lambda values: st.tuples(*[values] * 4)  # noqa: E731
    ratios = draw(four(st.sampled_from([1, 2, 4])))
    config = build_config(
        "shunted_t",
        embed_dims=draw(four(st.sampled_from([4, 8]))),
        depths=draw(four(st.integers(1, 2))),
        num_heads=draw(four(st.sampled_from([2, 4]))),
        mlp_ratios=draw(four(st.floats(0.3, 2))),
        sr_ratios=ratios,
        num_conv=draw(st.integers(0, 2)),
        in_chans=draw(st.integers(1, 3)),
        num_classes=draw(st.integers(0, 2)),
        qkv_bias=draw(st.booleans()),
    )
    sides = st.integers(max(4 * 2**stage * ratio for stage, ratio in enumerate(ratios)), 140)
    return config, draw(st.tuples(sides, sides))


@settings(max_examples=60, deadline=None, derandomize=True)
@given(case=vits(), batch=st.integers(1, 3), dtype=st.sampled_from(DTYPES))
def test_a_counter_sees_the_same_for_any_vit(case, batch, dtype):
    same(*case, batch, dtype)


@settings(max_examples=20, deadline=None, derandomize=True)
@given(case=shunteds(), batch=st.integers(1, 2), dtype=st.sampled_from(["float32", "float64"]))
def test_a_counter_sees_the_same_for_any_shunted_transformer(case, batch, dtype):
    same(*case, batch, dtype)


@pytest.mark.parametrize("name", ["deit_tiny_distilled_patch16_224", "evit_small_patch16_224", "vit_base_patch32_384", "shunted_t"])
def test_a_counter_sees_the_same_at_full_size(name):
    config = build_config(name)
    same(config, config.image_shape, batch=1)


@pytest.mark.parametrize("name", reforg.list_models())
def test_the_peak_is_the_literal_one_for_every_model(name):
    config = build_config(name)
    told = reforg.cost(name, batch=3, dtype="bfloat16")
    assert told.peak_bytes == counting.taped(config, config.image_shape, 3, 2).peak()


@pytest.mark.parametrize("name", reforg.list_models())
def test_formulas_give_the_same_for_every_model(name):
    config = build_config(name)
    height, width = config.image_shape
    by_formulas(config, (height, width), 3, "bfloat16", reforg.cost(name, batch=3, dtype="bfloat16"))
    pruned = {"keep_rate": 0.6, "drop_loc": (1, 4), "fuse_token": len(name) % 2 == 0}
    other = {"num_conv": 1} if config.family == "shunted" else pruned
    changed, size = build_config(name, num_classes=0, **other), (2 * height, width)
    by_formulas(changed, size, 2, "float64", reforg.cost(name, img_size=size, batch=2, dtype="float64", num_classes=0, **other))


@pytest.mark.parametrize(
    ("name", "size"),
    [
        ("deit_small_patch16_224", (225, 224)),
        ("vit_huge_patch14_224", (1, 14)),
        ("shunted_s", (2, 64)),
        ("shunted_t", 20),
        ("shunted_t", 1),
    ],
)
def test_formulas_refuse_the_same_images(name, size):
    height, width = size if isinstance(size, tuple) else (size, size)
    with pytest.raises(ShapeError) as wanted:
        formulas.count.cost(build_config(name), (height, width), 1, "float32")
    with pytest.raises(ShapeError) as told:
        reforg.cost(name, img_size=size)
    assert str(told.value) == str(wanted.value)


@pytest.mark.parametrize(
    ("name", "largest", "floats"),
    [
        (
            "evit_fmnist",
            "blocks.0.mlp.fc1",
            50 * (96 + 2 * 4 * 96),
        ),  # the residual stream, the MLP's hidden layer before and after GELU
        ("shunted_b", "block1.0.mlp.fc1", 56 * 56 * (64 + 3 * 8 * 64)),  # the same, the hidden layer, its detail, and their sum
        (
            "deit3_large_patch16_384",
            "blocks.0.attn.probs",
            577 * (1024 + 3 * 1024 + 1024 + 16 * 577),
        ),  # x, q k v, context, probabilities
    ],
)
def test_the_largest_and_the_peak_by_hand(name, largest, floats):
    told = reforg.cost(name)
    assert (told.largest, told.peak_bytes) == (largest, 4 * floats)


def test_tokens_by_hand():
    assert reforg.cost("shunted_t").tokens == {"stage1": 56 * 56, "stage2": 28 * 28, "stage3": 14 * 14, "stage4": 7 * 7}
    assert reforg.cost("shunted_t", img_size=(66, 93)).tokens == {
        "stage1": 16 * 23,
        "stage2": 8 * 12,
        "stage3": 4 * 6,
        "stage4": 2 * 3,
    }
    distilled = reforg.cost("deit_tiny_distilled_patch16_224", keep_rate=0.5, drop_loc=(1,), depth=3).tokens
    assert distilled == {"blocks.0": 196, "blocks.1": 99, "blocks.2": 99}


def test_the_parts_are_those_of_the_model():
    stages = [
        part
        for stage, depth in enumerate((1, 1, 3, 1), 1)
        for part in (f"patch_embed{stage}", *(f"block{stage}.{number}" for number in range(depth)))
    ]
    assert list(reforg.cost("shunted_fmnist").by_block) == [*stages, "head"]
    assert list(reforg.cost("deit3_fmnist").by_block) == ["patch_embed", *(f"blocks.{number}" for number in range(8)), "head"]


@pytest.mark.parametrize("name", ["evit_fmnist", "deit3_fmnist", "shunted_fmnist"])
def test_every_name_is_the_traces_and_every_shape_what_it_has_there(name):
    model = reforg.create_model(name, dtype="float64")
    size = model.config.image_shape
    told = same(model.config, size, batch=2, dtype="float64", model=model)
    trace = model.trace(np.zeros((2, model.config.in_chans, *size)))
    assert [found for found in trace if found in told.by_layer] == list(told.by_layer)
    assert {found: layer.shape for found, layer in told.by_layer.items()} == {found: trace[found].shape for found in told.by_layer}
    assert trace[told.largest].nbytes == told.largest_bytes
    assert told.weight_bytes == sum(array.nbytes for array in model.weights.values())
    assert reforg.cost(model).dtype == "float64"


def test_the_counter_counts_what_a_loop_multiplies():
    """Every product of a convolution and of attention, one by one."""
    counter = counting.Counter()
    counter.ops.conv2d(np.zeros((2, 3, 7, 6)), np.zeros((4, 3, 3, 2)), None, 2, 1)
    places = [(y, x) for y in range(-1, 7) for x in range(-1, 7) if (y + 1) % 2 == 0 == (x + 1) % 2 and y + 3 <= 8 and x + 2 <= 7]
    assert counter.calls[-1].macs == sum(1 for _ in range(2 * 4) for _ in places for _ in range(3 * 3 * 2))
    counter.ops.attention(np.zeros((2, 3, 5, 4)), np.zeros((2, 3, 6, 4)), np.zeros((2, 3, 6, 4)), 1.0, lambda name, value: value)
    scores = sum(1 for _ in range(2 * 3) for _query in range(5) for _key in range(6) for _ in range(4))
    assert counter.calls[-1].macs == scores + sum(
        1 for _ in range(2 * 3) for _query in range(5) for _ in range(4) for _key in range(6)
    )


class TestWhatIsAskedFor:
    def test_the_dtype_is_the_models_own_or_float32(self):
        assert reforg.cost("evit_fmnist").dtype == "float32"
        assert reforg.cost(reforg.create_model("evit_fmnist", dtype="float16")).dtype == "float16"
        assert reforg.cost(reforg.create_model("evit_fmnist", dtype="float16"), dtype="float64").dtype == "float64"

    def test_bytes_go_with_the_dtype_but_indices_have_their_own(self):
        half, double = (reforg.cost("evit_fmnist", dtype=dtype) for dtype in ("bfloat16", "float64"))
        ranked = sum(layer.activation_bytes for layer in half.by_layer.values() if layer.operation == "rank")
        assert ranked == 8 * (49 + 36 + 27)  # the candidates of the three blocks that reorganize
        assert double.activation_bytes - ranked == 4 * (half.activation_bytes - ranked)
        assert (double.weight_bytes, double.macs) == (4 * half.weight_bytes, half.macs)

    @pytest.mark.parametrize("dtype", ["flaot32", "int8", 4, np.float32])
    def test_a_wrong_dtype_is_refused_as_create_model_refuses_it(self, dtype):
        with pytest.raises(BackendError) as told:
            reforg.cost("evit_fmnist", dtype=dtype)
        with pytest.raises(BackendError) as wanted:
            reforg.create_model("evit_fmnist", dtype=dtype)
        assert str(told.value) == str(wanted.value)

    def test_a_batch_costs_its_images_but_resamples_positions_once(self):
        one, four = (reforg.cost("deit3_fmnist", img_size=32, batch=batch) for batch in (1, 4))
        resampled = one.by_layer["pos_embed"]
        assert resampled == four.by_layer["pos_embed"]
        assert (resampled.operation, resampled.macs, resampled.activation_bytes) == ("resize", 0, 4 * 8 * 8 * 96)
        assert four.macs == 4 * one.macs
        assert four.activation_bytes - resampled.activation_bytes == 4 * (one.activation_bytes - resampled.activation_bytes)

    def test_weights_belong_to_a_layer_or_stand_alone(self):
        config = build_config("deit3_fmnist")
        told = reforg.cost(config)
        alone = [name for name in shapes(config) if name in ("cls_token", "pos_embed") or "gamma" in name]
        size = 4 * sum(int(np.prod(shapes(config)[name])) for name in alone)
        assert told.weight_bytes == sum(layer.weight_bytes for layer in told.by_layer.values()) + size

    def test_running_statistics_are_weights_but_no_parameters(self):
        told = reforg.cost("shunted_b")
        assert told.weight_bytes == 4 * (told.params + 3 * 2 * 64)

    def test_it_needs_no_numpy(self):
        code = "import sys; sys.modules['numpy'] = None; import reforg; print(reforg.cost('shunted_t').macs)"
        done = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True)
        assert int(done.stdout) == reforg.cost("shunted_t").macs


OTHERWISE = {"EViT-S 0.8 dropped", "DeiT III-B", "DeiT III-H", "DeiT III-L at 384", "Shunted-S"}  # rounded to other digits
CUT = {"DeiT III-S at 384": "DeiT III-S", "Shunted-T": "Shunted-T"}  # printed parameters, and whose they are, cut


class TestPublished:
    """The papers' tables. Exact parameters, EViT-B and EViT-S on larger images also stand in tests/test_traps.py."""

    @pytest.mark.parametrize("row", published_costs.ROWS, ids=lambda row: row.label)
    def test_parameters_to_the_published_digit(self, row):
        meant = published_costs.row(CUT.get(row.label, row.label))
        assert published_costs.fits(meant.cost.params / 1e6, row.params, down=row.label in CUT)
        assert published_costs.fits(row.cost.params / 1e6, row.params) == (row.label not in CUT)

    @pytest.mark.parametrize("row", published_costs.COUNTED, ids=lambda row: row.label)
    def test_multiplications_to_the_published_digit_or_near(self, row):
        assert published_costs.OURS.fits(row) == (row.label not in OTHERWISE)
        assert published_costs.OURS.fits(row) or row.cost.macs / 1e9 == pytest.approx(float(row.gmacs), rel=0.026)

    def test_the_rules_of_the_tools_give_the_figures_that_ours_does_not(self):
        given = {row.label for rule in published_costs.RULES for row in published_costs.COUNTED if rule.fits(row)}
        assert given == {row.label for row in published_costs.COUNTED}
        huge, large = published_costs.row("DeiT III-H"), published_costs.row("DeiT III-L at 384")
        counts = [published_costs.counted(published_costs.FVCORE, row) for row in (huge, large)]
        assert [round(count / 1e9, 2) for count in counts] == [167.40, 191.21]

    def test_no_rule_gives_all_and_the_page_says_why(self):
        assert max(sum(map(rule.fits, published_costs.COUNTED)) for rule in published_costs.RULES) == 29
        told = published_costs.findings()  # asserts what it says
        assert "28 of 33 figures" in told
        assert "EViT-S 0.8 dropped (C E L), DeiT III-B (B K), DeiT III-H (C D), DeiT III-L at 384 (C D), Shunted-S (B J)" in told
        assert "wants 54.9 M more than we count, DeiT III-L at 384 83.7 M more; EViT-B 1.0's 17.56 leaves room for 1.17 M" in told
