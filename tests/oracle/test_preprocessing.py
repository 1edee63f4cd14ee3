"""Pictures are prepared bit for bit as the official evaluations, timm and transformers prepare them."""

import json
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import timm.data
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from torchvision import transforms
from transformers import BitImageProcessorPil, CLIPImageProcessorPil, DeiTImageProcessorPil, ViTImageProcessorPil

import reforg
from reforg.catalog.names import build_config, timm_tags
from reforg.images import prepare as images
from reforg.images.preprocessing import of_name, of_timm, of_transformers

IMAGENET = {"mean": (0.485, 0.456, 0.406), "std": (0.229, 0.224, 0.225)}
FILTERS = ("nearest", "lanczos", "bilinear", "bicubic", "box", "hamming")
TAGGED = [(base, tag) for base, tags in timm_tags().items() for tag in tags]
SIDES = [(333, 500), (501, 334), (97, 61), (224, 224), (256, 257), (259, 900), (1, 3)]  # height, width


def noise(height: int, width: int, colour: str = "RGB", seed: int = 0) -> Image.Image:
    shape = (height, width) if colour == "L" else (height, width, 3)
    return Image.fromarray(np.random.default_rng(seed).integers(0, 256, shape, dtype=np.uint8))


def smooth(height: int, width: int, colour: str = "RGB", seed: int = 0) -> Image.Image:
    return noise(5, 4, colour, seed).resize((width, height), Image.Resampling.BICUBIC)


PICTURES = [pytest.param(make(*sides), id=f"{make.__name__}-{sides[0]}x{sides[1]}") for make in (noise, smooth) for sides in SIDES]


def official(size: int, resized: int) -> Callable[[Image.Image], torch.Tensor]:
    """The evaluation of the DeiT and EViT repositories, as their datasets.py composes it."""
    steps = [transforms.Resize(resized, interpolation=transforms.InterpolationMode.BICUBIC), transforms.CenterCrop(size)]
    return transforms.Compose([*steps, transforms.ToTensor(), transforms.Normalize(**IMAGENET)])


def of_timms(cfg: dict[str, Any]) -> Callable[[Image.Image], torch.Tensor]:
    return timm.data.create_transform(**timm.data.resolve_data_config({}, pretrained_cfg=cfg))


def assert_same_bits(got: np.ndarray, wanted: Any) -> None:
    wanted = np.asarray(wanted)
    assert got.dtype == wanted.dtype == np.float32
    assert got.shape == wanted.shape
    np.testing.assert_array_equal(got.view(np.uint32), wanted.view(np.uint32))


class TestTheOfficialEvaluations:
    @pytest.mark.parametrize("picture", PICTURES)
    @pytest.mark.parametrize(
        ("name", "size", "resized"),
        [
            ("deit_small_patch16_224", 224, 256),
            ("deit_base_distilled_patch16_384", 384, 438),
            ("evit_small_patch16_224", 224, 256),
            ("evit_small_patch16_272", 272, 310),
            ("evit_small_patch16_288", 288, 329),
            ("evit_small_patch16_304", 304, 347),
            ("deit3_base_patch16_224", 224, 224),
            ("deit3_large_patch16_384", 384, 384),
            ("shunted_s", 224, 256),
        ],
    )
    def test_bit_for_bit(self, name: str, size: int, resized: int, picture: Image.Image) -> None:
        assert_same_bits(reforg.preprocess(picture, name)[0], official(size, resized)(picture))

    def test_at_any_size_the_edge_is_what_either_repository_computes(self) -> None:
        for size in range(16, 1025):
            record = of_name("evit_small_patch16_224", build_config("evit_small_patch16_224", img_size=size // 16 * 16))
            side = record.size[0]
            assert record.resized == (int((256 / 224) * side),) * 2 == (int(side / 0.875),) * 2

    def test_a_file_is_read_as_torchvisions_loader_reads_it(self, tmp_path: Any) -> None:
        from torchvision.datasets.folder import default_loader

        for suffix in ("jpg", "png", "webp", "bmp", "tif", "gif", "avif"):
            smooth(301, 402).save(tmp_path / f"picture.{suffix}")
            wanted = official(224, 256)(default_loader(tmp_path / f"picture.{suffix}"))
            assert_same_bits(reforg.preprocess(tmp_path / f"picture.{suffix}", "deit_small_patch16_224")[0], wanted)


class TestTimm:
    @pytest.mark.parametrize(("base", "tag"), TAGGED)
    def test_every_tag(self, base: str, tag: str) -> None:
        name = f"{base}.{tag}" if tag else base
        record = of_timm(timm_tags()[base][tag])
        if tag:
            assert record == of_name(name, build_config(name))
        wanted = of_timms(timm.get_pretrained_cfg(name).to_dict())
        for picture in (noise(333, 500), smooth(97, 61), smooth(256, 257), noise(501, 334)):
            assert_same_bits(images.prepared(picture, record), wanted(picture))

    @pytest.mark.parametrize("picture", PICTURES)
    @pytest.mark.parametrize("mode", ["center", "squash", "border"])
    @pytest.mark.parametrize("size", [(3, 224, 224), (3, 160, 224), (3, 97, 64)], ids=str)
    def test_every_crop_mode(self, mode: str, size: tuple[int, int, int], picture: Image.Image) -> None:
        cfg = {"input_size": size, "crop_mode": mode, "crop_pct": 0.9, "interpolation": "bilinear", **IMAGENET}
        assert_same_bits(images.prepared(picture, of_timm(cfg)), of_timms(cfg)(picture))

    @settings(deadline=None, max_examples=150)
    @given(
        st.tuples(st.integers(1, 90), st.integers(1, 90)),
        st.tuples(st.integers(20, 70), st.integers(20, 70)),
        st.floats(0.5, 1.0),
        st.sampled_from(["center", "squash", "border"]),
        st.sampled_from(FILTERS),
        st.sampled_from(["RGB", "L"]),
        st.lists(st.tuples(st.floats(0, 1), st.floats(0.01, 2)), min_size=3, max_size=3),
    )
    def test_any_config(self, sides, size, crop, mode, interpolation, colour, statistics) -> None:
        channels = 3 if colour == "RGB" else 1
        mean, std = zip(*statistics[:channels], strict=True)
        cfg = {
            "input_size": (channels, *size), "crop_pct": crop, "crop_mode": mode, "interpolation": interpolation, "mean": mean,
            "std": std,
        }  # fmt: skip
        picture = noise(*sides, colour)
        assert_same_bits(images.prepared(picture, of_timm(cfg)), of_timms(cfg)(picture))


class TestTransformers:
    @pytest.mark.parametrize("picture", PICTURES)
    @pytest.mark.parametrize(
        ("make", "settings_"),
        [
            (ViTImageProcessorPil, {}),
            (ViTImageProcessorPil, {"size": {"height": 97, "width": 64}, "resample": 3, "do_normalize": False}),
            (DeiTImageProcessorPil, {}),
            (DeiTImageProcessorPil, {"size": {"height": 57, "width": 90}, "crop_size": {"height": 64, "width": 61}}),
            (BitImageProcessorPil, {"size": {"shortest_edge": 256}, "image_mean": list(IMAGENET["mean"])}),
            (BitImageProcessorPil, {"size": {"shortest_edge": 40}, "crop_size": {"height": 61, "width": 35}, "resample": 1}),
            (CLIPImageProcessorPil, {"size": {"shortest_edge": 99}}),
        ],
    )
    def test_bit_for_bit(self, make: Any, settings_: dict[str, Any], picture: Image.Image) -> None:
        processor = make(**settings_)
        wanted = processor(picture, return_tensors="np")["pixel_values"][0]
        assert_same_bits(images.prepared(picture, of_transformers(json.loads(processor.to_json_string()), 224)), wanted)

    @pytest.mark.parametrize("change", [{"rescale_factor": 1 / 127.5}, {"do_rescale": False}])
    def test_another_scale_is_the_same_up_to_rounding(self, change: dict[str, Any]) -> None:
        processor, picture = ViTImageProcessorPil(**change), noise(333, 500)
        wanted = processor(picture, return_tensors="np")["pixel_values"][0]
        got = images.prepared(picture, of_transformers(json.loads(processor.to_json_string()), 224))
        np.testing.assert_allclose(got, wanted, rtol=1e-6, atol=1e-6 * np.abs(wanted).max())


class TestFashionMnist:
    def test_enlarging_is_torchs(self) -> None:
        pixels = np.random.default_rng(0).integers(0, 256, (20, 28, 28), dtype=np.uint8)
        scaled = torch.from_numpy(pixels[:, None]).float() / 255
        enlarged = torch.nn.functional.interpolate(scaled, (64, 64), mode="bilinear", align_corners=False)
        assert_same_bits(reforg.preprocess(pixels, "shunted_fmnist"), ((enlarged - 0.2860) / 0.3530).expand(-1, 3, -1, -1))

    @pytest.mark.parametrize("name", ["evit_fmnist", "deit3_fmnist"])
    def test_small_pictures_are_as_torchvision_makes_them(self, name: str) -> None:
        picture = noise(28, 28, "L")
        wanted = transforms.Compose([transforms.ToTensor(), transforms.Normalize((0.2860,), (0.3530,))])(picture)
        assert_same_bits(reforg.preprocess(picture, name)[0], wanted)


@pytest.mark.parametrize(
    "change",
    [
        {"crop_offset": "floored"},
        {"interpolation": "bilinear"},
        {"crop_ratio": 0.87},
        {"resize": "exact"},
        {"std": (0.229, 0.224, float(np.nextafter(np.float32(0.225), np.float32(1))))},
    ],
    ids=str,
)
def test_these_tests_see_a_record_that_is_a_little_different(change: dict[str, Any]) -> None:
    record, picture = of_name("deit_small_patch16_224", build_config("deit_small_patch16_224")), noise(333, 504)
    assert_same_bits(images.prepared(picture, record), official(224, 256)(picture))
    with pytest.raises(AssertionError):
        assert_same_bits(images.prepared(picture, record.changed(**change)), official(224, 256)(picture))
