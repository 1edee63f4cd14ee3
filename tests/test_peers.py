"""A peer computes what reforg computes, in every family and option, and refuses what it does not know."""

from dataclasses import dataclass

import numpy as np
import pytest

from reforg import create_model
from reforg.config import ShuntedConfig, VitConfig
from reforg.synthetic import images as synthetic_images

pytest.importorskip("torch", reason="the torch peer needs torch")
from reforg_torch import peer

SMALL = {"img_size": 32, "patch_size": 8, "embed_dim": 24, "depth": 3, "num_heads": 2, "num_classes": 5}
HMLP = SMALL | {"stem": "hmlp", "patch_size": 16}
STAGES = {"embed_dims": (8, 16, 24, 32), "num_heads": (2, 2, 4, 4), "mlp_ratios": (2, 2, 2, 2), "num_classes": 5, "img_size": 64}
EVIT = SMALL | {"drop_loc": (0, 1, 2)}
CASES = {  # name, settings
    "vit": ("vit_tiny_patch16_224", SMALL),
    "vit, averaged, no bias": ("vit_tiny_patch16_224", SMALL | {"global_pool": "avg", "qkv_bias": False}),
    "vit, features": ("vit_tiny_patch16_224", SMALL | {"num_classes": 0}),
    "vit, averaged features": ("vit_tiny_patch16_224", SMALL | {"num_classes": 0, "global_pool": "avg"}),
    "vit, wide images, mlp_ratio 2.5, norm_eps": (
        "vit_tiny_patch16_224", SMALL | {"img_size": (24, 40), "mlp_ratio": 2.5, "norm_eps": 1e-3, "in_chans": 2}
    ),
    "deit, distilled": ("deit_tiny_distilled_patch16_224", SMALL),
    "deit, distilled features": ("deit_tiny_distilled_patch16_224", SMALL | {"num_classes": 0}),
    "deit3": ("deit3_small_patch16_224", SMALL),
    "deit3, timm's names": ("deit3_small_patch16_224.fb_in1k", SMALL),
    "deit3, parallel": ("deit_small_patch16_18x2_LS", SMALL),
    "deit3, parallel, timm's names": ("vit_tiny_patch16_224", SMALL | {"parallel": 2, "init_values": 0.1}),
    "deit3, hmlp": ("deit3_small_patch16_224", HMLP),
    "dinov2": ("vit_small_patch14_dinov2", SMALL | {"num_classes": 0}),
    "evit, fused": ("evit_tiny_patch16_224", EVIT),
    "evit, dropping": ("evit_tiny_patch16_224", EVIT | {"keep_rate": 0.5, "fuse_token": False}),
    "evit, a rate each": ("evit_tiny_patch16_224", SMALL | {"keep_rate": (0.9, 1.0, 0.3)}),
    "evit, tokens": ("evit_tiny_patch16_224", EVIT | {"tokens": (None, 7, 3)}),
    "evit, all kept": ("evit_tiny_patch16_224", EVIT | {"keep_rate": 0.99}),
    "evit, distilled": ("deit_tiny_distilled_patch16_224", EVIT | {"keep_rate": 0.6}),
    "evit, distilled, dropping": ("deit_tiny_distilled_patch16_224", EVIT | {"keep_rate": 0.6, "fuse_token": False}),
    "evit on deit3": ("deit3_small_patch16_224", SMALL | {"drop_loc": (0, 2), "keep_rate": 0.6}),
    "evit on deit3, parallel": ("deit_small_patch16_18x2_LS", SMALL | {"drop_loc": (0, 2), "keep_rate": 0.6}),
    "evit, averaged": ("vit_tiny_patch16_224", EVIT | {"keep_rate": 0.6, "global_pool": "avg"}),
    "shunted_t": ("shunted_t", STAGES | {"depths": (1, 2, 1, 1)}),
    "shunted_s": ("shunted_s", STAGES | {"depths": (2, 1, 1, 2)}),
    "shunted_b, no bias, norm_eps": ("shunted_b", STAGES | {"depths": (1,) * 4, "qkv_bias": False, "norm_eps": 1e-3}),
    "shunted, features": ("shunted_t", STAGES | {"depths": (1,) * 4, "num_classes": 0}),
    "shunted, leftover rows": ("shunted_s", STAGES | {"depths": (1,) * 4, "img_size": (77, 90)}),
    "shunted, no reduction": ("shunted_t", STAGES | {"depths": (1,) * 4, "sr_ratios": (1, 2, 4, 1)}),
    "evit_fmnist": ("evit_fmnist", {}),
    "deit3_fmnist": ("deit3_fmnist", {}),
    "shunted_fmnist": ("shunted_fmnist", {}),
}  # fmt: skip


def both(case, dtype="float64", batch=3):
    """Logits of the peer, and reforg's by the reference in float64."""
    name, settings = CASES[case]
    model = create_model(name, "synthetic:3", dtype="float64", ops="reference", **settings)
    config = model.config
    images = synthetic_images((batch, config.in_chans, *config.image_shape), 4)
    weights = create_model(name, "synthetic:3", **settings).weights
    return peer.build(config, weights, dtype, None, None)(images), model(images)


def distance(got, wanted):
    """The largest difference, in units of the largest wanted value."""
    return np.abs(got - wanted).max() / np.abs(wanted).max()


@pytest.mark.parametrize("case", CASES)
def test_the_peer_computes_what_reforg_computes(case):
    got, wanted = both(case)
    assert got.shape == wanted.shape
    assert got.dtype == np.float64
    assert distance(got, wanted) < 1e-10


@pytest.mark.parametrize(("dtype", "limit"), [("float32", 1e-5), ("float16", 2e-2), ("bfloat16", 1e-1)])
@pytest.mark.parametrize("case", ["vit", "deit3", "shunted_t"])
def test_the_peer_has_the_other_dtypes(case, dtype, limit):
    got, wanted = both(case, dtype)
    assert 0 < distance(got, wanted) < limit
    assert got.dtype == (np.float16 if dtype == "float16" else np.float32)


def test_weights_are_left_as_they_are():
    name, settings = CASES["shunted_s"]
    weights = create_model(name, "synthetic:3", **settings).weights
    before = {key: value.copy() for key, value in weights.items()}
    config = create_model(name, "synthetic:3", **settings).config
    run = peer.build(config, weights, "float32", "cpu", None)
    images = synthetic_images((1, 3, 64, 64), 4)
    first = run(images).copy()
    np.testing.assert_array_equal(run(images), first)
    for key, value in weights.items():
        np.testing.assert_array_equal(value, before[key])


def test_another_batch_than_before():
    name, settings = CASES["evit, fused"]
    model = create_model(name, "synthetic:3", **settings)
    run = peer.build(model.config, model.weights, "float32", None, None)
    images = synthetic_images((4, 3, 32, 32), 4)
    np.testing.assert_allclose(run(images)[:1], run(images[:1]), atol=1e-5)


def test_threads_are_those_asked_for():
    import torch

    model = create_model("vit_tiny_patch16_224", "synthetic:3", **SMALL)
    before = torch.get_num_threads()
    try:
        peer.build(model.config, model.weights, "float32", None, 1)
        assert torch.get_num_threads() == 1
    finally:
        torch.set_num_threads(before)


@dataclass(frozen=True)
class Newer(VitConfig):
    """A config of a later reforg."""

    registers: int = 4


def test_a_config_it_does_not_know_is_refused():
    with pytest.raises(ValueError, match=r"^no Newer; torch eager knows"):
        peer.build(Newer(), {}, "float32", None, None)


@pytest.mark.parametrize("kind", [VitConfig, ShuntedConfig])
def test_a_field_it_does_not_know_is_refused(monkeypatch, kind):
    """As when a field is added to the config, and the peer would leave it out in silence."""
    monkeypatch.setitem(peer.KNOWN, kind, peer.KNOWN[kind] - {"norm_eps"})
    with pytest.raises(ValueError, match=r"^no norm_eps; torch eager knows"):
        peer.build(kind(), {}, "float32", None, None)


def test_a_dtype_or_a_device_it_does_not_have_is_refused():
    model = create_model("vit_tiny_patch16_224", "synthetic:3", **SMALL)
    with pytest.raises(ValueError, match="no dtype 'float8'"):
        peer.build(model.config, model.weights, "float8", None, None)
    with pytest.raises(RuntimeError):
        peer.build(model.config, model.weights, "float32", "no such device", None)


def test_more_tokens_than_there_are_is_an_error():
    model = create_model("evit_tiny_patch16_224", "synthetic:3", **EVIT | {"tokens": 99})
    run = peer.build(model.config, model.weights, "float32", None, None)
    with pytest.raises(ValueError, match=r"blocks\.0: 99 tokens are to stay of 16"):
        run(synthetic_images((1, 3, 32, 32), 4))


def test_it_tells_its_name_and_version():
    import torch

    assert peer.name == "torch eager"
    assert peer.version() == f"torch {torch.__version__}"
