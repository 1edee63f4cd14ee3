"""Weights from files and mappings: what is read, what is renamed, and what is refused."""

import subprocess
import sys

import ml_dtypes
import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

import reforg
from reforg.catalog import synthetic
from reforg.models import embedded

VIT = {"img_size": 16, "patch_size": 8, "embed_dim": 8, "depth": 2, "num_heads": 2, "num_classes": 3}
IMAGES = synthetic.images((2, 3, 16, 16), 1)


def deit3(weights, **changed):
    return reforg.create_model("deit3_small_patch16_224", weights=weights, **{**VIT, **changed})


def test_a_file_gives_what_was_saved(tmp_path):
    weights = deit3("synthetic:2").weights
    save_file(weights, tmp_path / "w.safetensors")
    loaded = reforg.load_weights(tmp_path / "w.safetensors")
    assert list(map(type, loaded.values())) == [np.ndarray] * len(weights)
    for name, value in weights.items():
        np.testing.assert_array_equal(loaded[name], value)
    np.testing.assert_array_equal(deit3(str(tmp_path / "w.safetensors"))(IMAGES), deit3("synthetic:2")(IMAGES))


def test_bfloat16_is_read_in_a_fresh_process(tmp_path):
    save_file({"x": np.arange(4, dtype=np.float32).astype(ml_dtypes.bfloat16)}, tmp_path / "b.safetensors")
    code = f"import reforg; x = reforg.load_weights({str(tmp_path / 'b.safetensors')!r})['x']; print(x.dtype, x.tolist())"
    done = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True)
    assert done.stdout == "bfloat16 [0.0, 1.0, 2.0, 3.0]\n"


def test_both_spellings_of_layer_scale_are_understood():
    official = deit3("synthetic:2").weights
    timm = {name.replace("gamma_1", "ls1.gamma").replace("gamma_2", "ls2.gamma"): value for name, value in official.items()}
    assert list(deit3(timm).weights) == list(official)
    tagged = reforg.create_model("deit3_small_patch16_224.fb_in1k", weights=official, **VIT)
    assert set(tagged.weights) == set(timm)
    np.testing.assert_array_equal(tagged(IMAGES), deit3(official)(IMAGES))


@pytest.mark.parametrize(
    ("added", "sentence"),
    [
        ({"blocks.0.ls1.gamma": np.zeros(8)}, "weights: blocks.0.gamma_1 came in both its spellings"),
        ({"head.weight_": np.zeros((3, 8))}, "these weights do not fit this deit3 config: 1 left over (head.weight_)"),
    ],
)
def test_a_name_that_comes_twice_or_mangled_is_refused(added, sentence):
    with pytest.raises(reforg.WeightsError) as caught:
        deit3(deit3("synthetic").weights | added)
    assert str(caught.value) == sentence


def test_without_classes_the_classifier_of_the_weights_is_not_missed():
    model = reforg.create_model("evit_fmnist")
    images = embedded.preprocess(embedded.test_images()[0][:2], "evit_fmnist")
    pooled = reforg.create_model("evit_fmnist", num_classes=0)(images)
    np.testing.assert_array_equal(pooled, model.features(images)[:, 0])
    np.testing.assert_array_equal(model.with_config(num_classes=0)(images), pooled)


def test_positions_are_resampled_once_at_creation_as_at_the_call():
    weights = deit3("synthetic:2").weights
    larger = synthetic.images((1, 3, 32, 24), 3)
    at_call = deit3(weights, dtype="float64")(larger)
    np.testing.assert_allclose(deit3(weights, dtype="float64", img_size=(32, 24))(larger), at_call, rtol=1e-12)


def test_a_saved_trace_is_what_was_traced(tmp_path):
    """Writers of files store an array's memory as it lies, so every entry lies in order."""
    for name, images in (("evit_fmnist", (1, 1, 28, 28)), ("shunted_fmnist", (1, 3, 64, 64))):
        trace = reforg.create_model(name).trace(synthetic.images(images, 1))
        save_file(trace, tmp_path / "trace.safetensors")
        for path, value in load_file(tmp_path / "trace.safetensors").items():
            np.testing.assert_array_equal(value, trace[path], err_msg=path)


class TestTokenMap:
    """Where attention rounds to zero, patches are still fused, not dropped."""

    def test_every_patch_has_an_owner_where_attention_underflows(self):
        sharp = {
            name: value * (30 if "qkv.weight" in name else 1) for name, value in reforg.create_model("evit_fmnist").weights.items()
        }
        images = embedded.preprocess(embedded.test_images()[0][:20], "evit_fmnist")
        maps = reforg.token_map(reforg.create_model("evit_fmnist", weights=sharp).trace(images))
        assert (maps["blocks.9"].weights.sum(axis=1) == 0).any(), "no attention underflows here, so this shows nothing"
        for found in maps.values():
            assert (found.owner >= 0).all()
            assert (found.owner < found.fused.shape[1]).all()

    def test_dropped_patches_have_none(self):
        model = reforg.create_model("evit_fmnist", fuse_token=False)
        images = embedded.preprocess(embedded.test_images()[0][:3], "evit_fmnist")
        maps = reforg.token_map(model.trace(images))
        for found, kept in zip(maps.values(), (35, 25, 18), strict=True):
            assert ((found.owner >= 0).sum(axis=1) == kept).all()
            np.testing.assert_array_equal(found.owner >= 0, found.weights.sum(axis=1) > 0)


class TestApply:
    """The pure function refuses what shapes and names tell, without looking at values."""

    @pytest.mark.parametrize(
        ("change", "error"),
        [
            (lambda w, x: ({}, x), reforg.WeightsError),
            (lambda w, x: (x, w), reforg.WeightsError),
            (lambda w, x: (w, x[:, :, :15]), reforg.ShapeError),
            (lambda w, x: (w, x[:, :2]), reforg.ShapeError),
            (lambda w, x: (w, x.astype(np.int32)), reforg.DtypeError),
        ],
    )
    def test_it_refuses(self, change, error):
        model = deit3("synthetic")
        with pytest.raises(error):
            model.apply(*change(model.weights, IMAGES))

    def test_it_takes_infinities(self):
        model = deit3("synthetic")
        with np.errstate(invalid="ignore"):
            assert np.isnan(model.apply(model.weights, np.full_like(IMAGES, np.inf))).any()


def test_tokens_at_the_call_leave_other_blocks_to_the_config():
    model = reforg.create_model("evit_fmnist", tokens=20, fuse_token=False)
    images = embedded.preprocess(embedded.test_images()[0][:1], "evit_fmnist")
    kept = {name: value.shape[1] for name, value in model.trace(images, "*.kept", tokens=[None, 10] + [10] * 10).items()}
    assert kept == {"blocks.0.kept": 20, "blocks.1.kept": 10}
    rates = {name: value.shape[1] for name, value in model.trace(images, "*.kept", keep_rate=0.5).items()}
    assert rates == {"blocks.3.kept": 25, "blocks.6.kept": 13, "blocks.9.kept": 7}
