"""Pictures in: every format and mode decoded, turned, laid over white and prepared; every mistake one sentence."""

import io
import os
import struct
import warnings
import zlib
from concurrent.futures import ThreadPoolExecutor
from dataclasses import FrozenInstanceError

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image, ImageCms, ImageFile

import reforg
from reforg.images import decode as formats
from reforg.images import prepare as images
from reforg.images.preprocessing import Preprocessing
from reforg.images.transforms import normalised, transformed
from reforg.models import embedded

SUFFIXES = ["jpg", "png", "webp", "tif", "gif", "bmp", "ppm", *(["avif"] if "AVIF" in Image.OPEN else [])]
NAME = "deit_tiny_patch16_224"


def noise(*shape, seed=0, dtype=np.uint8):
    return np.random.default_rng(seed).integers(0, np.iinfo(dtype).max + 1, shape, dtype=dtype)


def smooth(height, width, seed=0):
    return Image.fromarray(noise(4, 5, 3, seed=seed)).resize((width, height), Image.Resampling.BICUBIC)


def stored(image, kind="PNG", **options):
    """The image's file, as bytes."""
    file = io.BytesIO()
    image.save(file, kind, **options)
    return file.getvalue()


@pytest.fixture
def file(tmp_path):
    """Writes bytes (or an image, as a PNG or what is asked for) to a file, and gives its path."""

    def write(content, name="picture", kind="PNG", **options):
        path = tmp_path / name
        path.write_bytes(content if isinstance(content, bytes) else stored(content, kind, **options))
        return path

    return write


def pixels_of(source, colour="RGB"):
    image = images.decoded(source, colour)
    assert image.mode == colour
    return np.asarray(image)


def sentence(source, error=reforg.ImageError):
    with pytest.raises(error) as caught:
        images.decoded(source)
    assert "\n" not in str(caught.value)
    return str(caught.value)


# Formats and modes ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("suffix", SUFFIXES)
class TestFormats:
    def test_it_is_read_as_pillow_reads_it(self, suffix, tmp_path):
        path = tmp_path / f"a.{suffix}"
        smooth(37, 53).save(path)
        with Image.open(path) as image:
            wanted = np.asarray(image.convert("RGB"))
        np.testing.assert_array_equal(pixels_of(path), wanted)
        np.testing.assert_array_equal(pixels_of(str(path)), wanted)
        np.testing.assert_array_equal(pixels_of(os.fsencode(path)), wanted)

    def test_its_name_does_not_matter(self, suffix, tmp_path):
        smooth(37, 53).save(tmp_path / f"a.{suffix}")
        (tmp_path / f"a.{suffix}").rename(tmp_path / "a.doc")
        assert pixels_of(tmp_path / "a.doc").shape == (37, 53, 3)

    def test_cut_off_anywhere_it_is_an_error_and_never_another_picture(self, suffix, tmp_path):
        path = tmp_path / f"a.{suffix}"
        smooth(37, 53).save(path)
        content, wanted = path.read_bytes(), pixels_of(path)
        for length in range(1, len(content), max(1, len(content) // 60)):
            path.write_bytes(content[:length])
            try:
                found = pixels_of(path)
            except reforg.ImageError as error:
                assert str(path) in str(error)  # noqa: PT017
            else:
                np.testing.assert_array_equal(found, wanted)

    def test_a_damaged_one_is_an_error_or_a_picture_and_nothing_else(self, suffix, tmp_path):
        path = tmp_path / f"a.{suffix}"
        smooth(37, 53).save(path)
        content, random = path.read_bytes(), np.random.default_rng(0)
        for _ in range(60):
            broken = bytearray(content)
            for place in random.integers(0, min(len(content), 400), 3):
                broken[place] = random.integers(0, 256)
            path.write_bytes(broken)
            try:
                assert pixels_of(path).dtype == np.uint8
            except reforg.ImageError as error:
                assert str(error).startswith("images: ")  # noqa: PT017


class TestFrames:
    @pytest.mark.parametrize("kind", ["GIF", "TIFF", "WEBP", "PNG"])
    def test_of_several_frames_the_first_is_taken(self, kind, file):
        frames = [Image.new("RGB", (9, 7), colour) for colour in ("red", "lime", "blue")]
        path = file(frames[0], kind=kind, save_all=True, append_images=frames[1:], **({"lossless": True} if kind == "WEBP" else {}))
        np.testing.assert_array_equal(pixels_of(path), np.broadcast_to([255, 0, 0], (7, 9, 3)))

    def test_a_jpeg_of_several_pictures_too(self, file):
        path = file(smooth(20, 30), kind="MPO", save_all=True, append_images=[smooth(20, 30, seed=1)])
        np.testing.assert_array_equal(pixels_of(path), pixels_of(file(smooth(20, 30), "alone", "JPEG")))


class TestModes:
    def test_transparent_pixels_lie_on_white(self, file):
        pixels = noise(40, 50, 4)
        shares = pixels[..., 3:].astype(float) / 255
        wanted = np.rint(pixels[..., :3] * shares + 255 * (1 - shares))
        np.testing.assert_allclose(pixels_of(file(Image.fromarray(pixels))), wanted, atol=1)
        assert (pixels_of(Image.fromarray(pixels))[pixels[..., 3] == 0] == 255).all()
        opaque = pixels.copy()
        opaque[..., 3] = 255
        np.testing.assert_array_equal(pixels_of(Image.fromarray(opaque)), opaque[..., :3])

    @pytest.mark.parametrize("kind", ["PNG", "TIFF", "WEBP"])
    def test_grey_with_transparency(self, kind, file):
        image = Image.fromarray(np.array([[[0, 255], [0, 0], [100, 255]]], np.uint8))
        options = {"lossless": True, "exact": True} if kind == "WEBP" else {}
        np.testing.assert_array_equal(pixels_of(file(image, kind=kind, **options), "L"), [[0, 255, 100]])

    def test_premultiplied_colours(self):
        image = Image.fromarray(np.array([[[200, 100, 0, 128], [7, 8, 9, 255]]], np.uint8))
        wanted = pixels_of(image)
        np.testing.assert_allclose(pixels_of(image.convert("RGBa")).astype(int), wanted, atol=1)
        grey = Image.fromarray(np.array([[[200, 128], [7, 255]]], np.uint8))
        np.testing.assert_allclose(pixels_of(grey.convert("La"), "L").astype(int), pixels_of(grey, "L"), atol=1)

    @pytest.mark.parametrize("transparency", [1, bytes([255, 0])])
    @pytest.mark.parametrize("kind", ["PNG", "GIF"])
    def test_palettes(self, kind, transparency, file):
        image = Image.fromarray(np.array([[0, 1, 2]], np.uint8))
        image.putpalette([255, 0, 0, 0, 255, 0, 0, 0, 255])
        np.testing.assert_array_equal(pixels_of(file(image, kind=kind)), [[[255, 0, 0], [0, 255, 0], [0, 0, 255]]])
        if kind == "GIF":
            transparency = 1
        path = file(image, kind=kind, transparency=transparency)
        np.testing.assert_array_equal(pixels_of(path), [[[255, 0, 0], [255, 255, 255], [0, 0, 255]]])
        np.testing.assert_array_equal(pixels_of(path, "L"), [[76, 255, 29]])
        with Image.open(path) as lazy:
            np.testing.assert_array_equal(pixels_of(lazy.convert("PA") if kind == "PNG" else lazy), pixels_of(path))

    @pytest.mark.parametrize(
        ("mode", "pixels", "key", "wanted"),
        [
            ("L", np.array([[5, 6]], np.uint8), 5, [[255, 6]]),
            ("RGB", np.array([[[5, 6, 7], [6, 5, 7]]], np.uint8), (5, 6, 7), [[[255] * 3, [6, 5, 7]]]),
            ("L", np.array([[257 * 5, 257 * 5 + 1]], np.uint16), 257 * 5, [[255, 5]]),
            ("L", np.array([[True, False]]), 1, [[255, 0]]),
            ("L", np.array([[True, False]]), 0, [[255, 255]]),
        ],
    )
    def test_one_colour_stands_for_nothing(self, mode, pixels, key, wanted, file):
        path = file(Image.fromarray(pixels), transparency=key)
        np.testing.assert_array_equal(pixels_of(path, mode), wanted)

    def test_that_colour_of_a_picture_of_16_bits(self, file):
        rows = struct.pack(">B6H", 0, 0x1234, 0x5678, 0x9ABC, 0x1334, 0x5678, 0x9ABC)
        content = png((2, 1, 16, 2), rows, tRNS=struct.pack(">3H", 0x1234, 0x5678, 0x9ABC))
        np.testing.assert_array_equal(pixels_of(file(content)), [[[255] * 3, [0x13, 0x56, 0x9A]]])

    @pytest.mark.parametrize("kind", ["PNG", "TIFF", "PPM"])
    def test_grey_of_16_bits_is_scaled_and_not_cut(self, kind, file):
        every = np.arange(65536, dtype=np.uint16).reshape(256, 256)
        wanted = np.rint(every / 257).astype(np.uint8)
        image = Image.fromarray(every.astype(np.int32) if kind == "PPM" else every)
        np.testing.assert_array_equal(pixels_of(file(image, kind=kind), "L"), wanted)
        np.testing.assert_array_equal(pixels_of(every, "L"), wanted)
        np.testing.assert_array_equal(pixels_of(file(image, kind=kind))[..., 1], wanted)

    @pytest.mark.parametrize("mode", ["I;16", "I;16L", "I;16B", "I;16N"])
    def test_every_order_of_the_bytes(self, mode):
        values = np.array([[0, 257, 65535]], ">u2" if mode == "I;16B" else "<u2")
        image = Image.frombytes(mode, (3, 1), values.tobytes())
        np.testing.assert_array_equal(pixels_of(image, "L"), [[0, 1, 255]])

    @pytest.mark.parametrize(
        ("bits", "photometric", "data", "wanted"),
        [
            (16, 1, struct.pack("<3H", 0, 257, 65535), [0, 1, 255]),
            (16, 0, struct.pack("<3H", 0, 257, 65535), [255, 254, 0]),
            (12, 1, b"\x00\x08\x00\xff\xf0", [0, 128, 255]),
        ],
        ids=["black is zero", "white is zero", "12 bits"],
    )
    def test_tiffs_say_what_is_white(self, bits, photometric, data, wanted, file):
        np.testing.assert_array_equal(pixels_of(file(tiff(3, bits, photometric, data)), "L"), [wanted])

    @pytest.mark.parametrize(
        ("values", "wanted"),
        [
            ([0.0, 0.5, 1.0], [0, 128, 255]),
            ([0.25, 0.25, 0.25], [64, 64, 64]),
            ([-1.0, 0.0, 1.0], [0, 128, 255]),
            ([0.0, 500.0, 1000.0], [0, 128, 255]),
            ([7.0, 7.0, 7.0], [0, 0, 0]),
            ([-3e38, 0.0, 3e38], [0, 128, 255]),
        ],
    )
    def test_floating_point_is_of_0_to_1_or_stretched(self, values, wanted, file):
        path = file(Image.fromarray(np.array([values], np.float32)), kind="TIFF")
        np.testing.assert_array_equal(pixels_of(path, "L"), [wanted])

    @pytest.mark.parametrize("bits", [0x7FC00000, 0x7F800001, 0x7F800000, 0xFF800000])  # NaN, one that signals, infinities
    def test_numbers_that_are_none_are_refused(self, bits, file):
        path = file(Image.fromarray(np.array([[0, bits]], np.uint32).view(np.float32)), kind="TIFF")
        assert sentence(path) == f"images: {str(path)!r} cannot be read: its pixels are not all finite numbers"

    @pytest.mark.parametrize(
        ("values", "wanted"),
        [([0, 257, 65535], [0, 1, 255]), ([0, 25700, 65278], [0, 100, 254]), ([-70000, 0, 70000], [0, 128, 255])],
    )
    def test_whole_numbers_of_32_bits_are_of_16_or_stretched(self, values, wanted, file):
        path = file(Image.fromarray(np.array([values], np.int32)), kind="TIFF")
        np.testing.assert_array_equal(pixels_of(path, "L"), [wanted])

    def test_one_bit(self, file):
        image = Image.fromarray(np.array([[True, False]]))
        for kind in ("PNG", "TIFF", "BMP", "PPM"):
            np.testing.assert_array_equal(pixels_of(file(image, kind=kind), "L"), [[255, 0]])

    @pytest.mark.parametrize("mode", ["YCbCr", "HSV", "LAB", "CMYK", "RGBX"])
    def test_other_colour_spaces(self, mode):
        image = smooth(20, 30)
        wanted = np.asarray(image).astype(int)
        if mode == "LAB":
            image = ImageCms.profileToProfile(
                image, ImageCms.createProfile("sRGB"), ImageCms.createProfile("LAB"), outputMode="LAB"
            )
        assert np.abs(pixels_of(image.convert(mode)) - wanted).mean() < 3

    def test_jpegs_of_printers_are_inverted_as_adobe_does(self, file):
        path = file(smooth(20, 30).convert("CMYK"), kind="JPEG", quality=100)
        assert np.abs(pixels_of(path) - np.asarray(smooth(20, 30)).astype(int)).mean() < 3

    def test_grey_is_pillows(self, file):
        np.testing.assert_array_equal(pixels_of(file(smooth(9, 8)), "L"), np.asarray(smooth(9, 8).convert("L")))


def tiff(width, bits, photometric, data):
    """A TIFF of one row of grey."""
    tags = {256: width, 257: 1, 258: bits, 259: 1, 262: photometric, 273: 8 + 2 + 12 * 9 + 4, 277: 1, 278: 1, 279: len(data)}
    entries = b"".join(struct.pack("<HHII", tag, 4, 1, value) for tag, value in tags.items())
    return b"II*\0" + struct.pack("<IH", 8, len(tags)) + entries + bytes(4) + data


def png(header, rows, **chunks):
    """A PNG of (width, height, bits, colour type), its rows, and chunks that come before them."""
    parts = [(b"IHDR", struct.pack(">IIBBBBB", *header, 0, 0, 0)), *((key.encode(), value) for key, value in chunks.items())]
    parts += [(b"IDAT", zlib.compress(rows)), (b"IEND", b"")]
    body = (struct.pack(">I", len(data)) + key + data + struct.pack(">I", zlib.crc32(key + data)) for key, data in parts)
    return b"\x89PNG\r\n\x1a\n" + b"".join(body)


# Profiles -------------------------------------------------------------------------------------------------------------


def fixed(*values):
    return b"".join(struct.pack(">i", round(value * 65536)) for value in values)


def profile(space, **tags):
    """An ICC profile of version 2, with the tags given."""
    table, data = b"", b""
    for key, value in tags.items():
        table += key.encode() + struct.pack(">II", 132 + 12 * len(tags) + len(data), len(value))
        data += value + b"\0" * (-len(value) % 4)
    body = struct.pack(">I", len(tags)) + table + data
    pcs = b"Lab " if "A2B0" in tags else b"XYZ "
    kind = b"prtr" if "A2B0" in tags else b"mntr"
    header = struct.pack(">I4sI4s4s4s", 128 + len(body), b"", 0x02100000, kind, space, pcs) + bytes(12) + b"acsp" + bytes(28)
    return header + fixed(0.9642, 1, 0.8249) + bytes(48) + body


def curve(gamma):
    return b"curv" + struct.pack(">IIH", 0, 1, round(gamma * 256))


D50 = b"XYZ \0\0\0\0" + fixed(0.9642, 1, 0.8249)
PRIMARIES = [
    b"XYZ \0\0\0\0" + fixed(*xyz) for xyz in ((0.4361, 0.2225, 0.0139), (0.3851, 0.7169, 0.0971), (0.1431, 0.0606, 0.7142))
]


def rgb_profile(order, gamma=2.2):
    names = ("rXYZ", "gXYZ", "bXYZ")
    primaries = {name: PRIMARIES[place] for name, place in zip(names, order, strict=True)}
    return profile(b"RGB ", wtpt=D50, **primaries, rTRC=curve(gamma), gTRC=curve(gamma), bTRC=curve(gamma))


def cmyk_profile():
    """Every ink darkens, none colours."""
    corners = np.stack(np.meshgrid(*[[0, 1]] * 4, indexing="ij"), axis=-1).reshape(-1, 4)
    light = np.clip(255 * (1 - corners[:, :3].mean(axis=1)) * (1 - corners[:, 3]), 0, 255).astype(np.uint8)
    grid = np.stack([light, np.full_like(light, 128), np.full_like(light, 128)], axis=1).tobytes()
    steps = bytes(range(256))
    matrix = fixed(1, 0, 0, 0, 1, 0, 0, 0, 1)
    return profile(b"CMYK", wtpt=D50, A2B0=b"mft1\0\0\0\0" + bytes([4, 3, 2, 0]) + matrix + steps * 4 + grid + steps * 3)


class TestProfiles:
    def test_colours_are_brought_to_srgb(self, file):
        image = smooth(20, 30)
        path = file(image, icc_profile=rgb_profile((2, 1, 0)))
        assert np.abs(pixels_of(path).astype(int) - np.asarray(image)[..., ::-1]).max() < 12
        assert np.abs(pixels_of(path).astype(int) - np.asarray(image)).max() > 50

    @pytest.mark.parametrize("kind", ["PNG", "TIFF", "JPEG", "WEBP"])
    def test_srgb_itself_changes_no_bit(self, kind, file):
        official = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
        wanted = pixels_of(file(smooth(20, 30), kind=kind))
        np.testing.assert_array_equal(pixels_of(file(smooth(20, 30), kind=kind, icc_profile=official)), wanted)

    def test_srgb_as_somebody_else_writes_it_changes_no_bit(self, file):
        levels = np.arange(1024) / 1023
        light = np.where(levels <= 0.04045, levels / 12.92, ((levels + 0.055) / 1.055) ** 2.4)
        table = b"curv" + struct.pack(">II", 0, 1024) + np.rint(65535 * light).astype(">u2").tobytes()
        rounded = ((0.43607, 0.22249, 0.01392), (0.38515, 0.71687, 0.09708), (0.14307, 0.06061, 0.71410))  # as most files have it
        primaries = {name: b"XYZ \0\0\0\0" + fixed(*xyz) for name, xyz in zip(("rXYZ", "gXYZ", "bXYZ"), rounded, strict=True)}
        almost = profile(b"RGB ", wtpt=D50, **primaries, rTRC=table, gTRC=table, bTRC=table)
        image = Image.fromarray(np.stack(np.meshgrid(*[np.arange(0, 256, 15, dtype=np.uint8)] * 3), axis=-1).reshape(18, -1, 3))
        followed = ImageCms.profileToProfile(image, ImageCms.ImageCmsProfile(io.BytesIO(almost)), ImageCms.createProfile("sRGB"))
        assert (np.asarray(followed) != np.asarray(image)).any()
        np.testing.assert_array_equal(pixels_of(file(image, icc_profile=almost)), np.asarray(image))

    def test_opacity_stays(self, file):
        pixels = np.concatenate([np.asarray(smooth(20, 30)), noise(20, 30, 1)], axis=2)
        pixels[0, 0, 3] = 0
        found = pixels_of(file(Image.fromarray(pixels), icc_profile=rgb_profile((2, 1, 0))))
        assert found[0, 0].tolist() == [255, 255, 255]
        assert np.abs(found.astype(int) - pixels_of(Image.fromarray(pixels[..., [2, 1, 0, 3]]))).max() < 12

    def test_grey_of_another_curve(self, file):
        grey = Image.fromarray(np.arange(256, dtype=np.uint8)[None])
        found = pixels_of(file(grey, icc_profile=profile(b"GRAY", wtpt=D50, kTRC=curve(1.0))), "L")[0]
        linear = np.arange(256) / 255
        wanted = 255 * np.where(linear <= 0.0031308, 12.92 * linear, 1.055 * linear ** (1 / 2.4) - 0.055)
        np.testing.assert_allclose(found, wanted, atol=1.5)

    def test_inks(self, file):
        image = Image.frombytes("CMYK", (3, 1), bytes([0, 0, 0, 0, 255, 0, 0, 0, 0, 0, 0, 255]))
        found = pixels_of(file(image, kind="TIFF", icc_profile=cmyk_profile()))[0].astype(int)
        assert (np.ptp(found, axis=1) <= 3).all(), "nothing has a colour"
        assert found[0].min() > 250
        assert 120 < found[1].mean() < 200
        assert found[2].max() < 5
        assert pixels_of(file(image, kind="TIFF"))[0, 1].tolist() == [0, 255, 255]

    @pytest.mark.parametrize(
        "broken",
        [b"x", bytes(200), rgb_profile((2, 1, 0))[:150], profile(b"RGB "), cmyk_profile(), b"\xff" * 3000],
        ids=["a letter", "zeros", "cut off", "empty", "of inks", "ones"],
    )
    def test_a_broken_profile_or_one_of_other_colours_is_as_none(self, broken, file):
        path = file(smooth(20, 30), kind="TIFF", icc_profile=broken)
        np.testing.assert_array_equal(pixels_of(path), np.asarray(smooth(20, 30)))


# Orientation ----------------------------------------------------------------------------------------------------------


def turned(pixels, orientation):
    """What EXIF means by a number: where the stored rows and columns come from, and so how to show them."""
    shown = pixels.swapaxes(0, 1) if orientation > 4 else pixels
    mirrored_rows, mirrored_columns = orientation in (3, 4, 7, 8), orientation in (2, 3, 6, 7)
    return shown[:: -1 if mirrored_rows else 1, :: -1 if mirrored_columns else 1]


class TestOrientation:
    @pytest.mark.parametrize("orientation", range(1, 9))
    @pytest.mark.parametrize("kind", ["PNG", "TIFF", "WEBP", "JPEG"])
    def test_all_eight(self, kind, orientation, file):
        exif = Image.Exif()
        exif[274] = orientation
        options = {"lossless": True} if kind == "WEBP" else {}
        plain = pixels_of(file(smooth(16, 24), kind=kind, **options))
        path = file(smooth(16, 24), kind=kind, exif=exif, **options)
        np.testing.assert_array_equal(pixels_of(path), turned(plain, orientation))
        with Image.open(path) as lazy:
            np.testing.assert_array_equal(pixels_of(lazy), turned(plain, orientation))
            np.testing.assert_array_equal(pixels_of(lazy), turned(plain, orientation), "the user's image is not changed")

    @pytest.mark.skipif("avif" not in SUFFIXES, reason="this Pillow has no AVIF")
    def test_avif_is_turned_once(self, file):
        exif = Image.Exif()
        exif[274] = 6
        assert pixels_of(file(smooth(16, 24), kind="AVIF", exif=exif)).shape == (24, 16, 3)

    @pytest.mark.parametrize("exif", [b"Exif\0\0MM\0*\0\0\0\x08\xff\xff", b"Exif\0\0" + b"\xff" * 40, b"Exif\0\0"])
    def test_broken_notes_do_not_matter(self, exif, file):
        for kind in ("JPEG", "WEBP", "PNG"):
            assert pixels_of(file(smooth(16, 24), kind=kind, exif=exif)).shape == (16, 24, 3)

    @pytest.mark.parametrize("orientation", [0, 9, 65535])
    def test_a_number_that_means_nothing_turns_nothing(self, orientation, file):
        exif = Image.Exif()
        exif[274] = orientation
        assert pixels_of(file(smooth(16, 24), exif=exif)).shape == (16, 24, 3)


# Mistakes -------------------------------------------------------------------------------------------------------------


class TestMistakes:
    def test_files_that_are_not_there_or_no_files(self, tmp_path, file):
        assert sentence(tmp_path / "a.jpg") == f"images: there is no file {str(tmp_path / 'a.jpg')!r}"
        assert sentence(tmp_path) == f"images: {str(tmp_path)!r} is a folder"
        assert sentence(file(b"", "e.png")) == f"images: {str(tmp_path / 'e.png')!r} is empty"
        assert sentence("a\0b") == "images: 'a\\x00b' cannot be read: embedded null byte"
        assert sentence(tmp_path / ("x" * 300)).endswith("cannot be read: File name too long")

    @pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="this system has no pipes with names")
    def test_a_pipe_does_not_hang(self, tmp_path):
        os.mkfifo(tmp_path / "pipe")
        assert sentence(tmp_path / "pipe") == f"images: {str(tmp_path / 'pipe')!r} is no regular file"
        assert sentence("/dev/zero") == "images: '/dev/zero' is no regular file"

    def test_permission_denied(self, file, monkeypatch):
        def refuse(*_args, **_kwargs):
            raise PermissionError(13, "Permission denied")

        path = file(smooth(4, 4))
        monkeypatch.setattr(formats.os, "open", refuse)
        assert sentence(path) == f"images: {str(path)!r} cannot be read: Permission denied"

    @pytest.mark.parametrize(
        ("content", "told"),
        [
            (b"%PDF-1.7 ...", "seems to be PDF"),
            (b"<html>", "seems to be a web page or XML"),
            (b"<svg xmlns=", "seems to be SVG"),
            (b"PK\3\4", "seems to be a ZIP archive"),
            (b"\x1f\x8b\x08", "seems to be compressed (gzip)"),
            (b"version https://git-lfs", "seems to be a Git LFS pointer, not the file"),
            (b"\0\0\0\x20ftypheic\0\0\0\0", "seems to be HEIC"),
            (b"\0\0\0\x20ftypisom\0\0\0\0", "seems to be a video"),
            (b"\0\0\0\x0cjP  \r\n\x87\n", "seems to be JPEG 2000"),
            (b"%!PS-Adobe-3.0 EPSF-3.0\n", "seems to be PostScript"),
            (b"8BPS\0\1", "seems to be Photoshop's"),
            (b"SIMPLE  =                    T", "seems to be FITS"),
            ("Grüße an alle, die das lesen".encode(), "seems to be text"),
            (b"\x89PNG\r\n\x1a\nrubbish", "seems to be a damaged PNG"),
            (b"\xff\xd8\xff\xe0\xff\xff", "seems to be a damaged JPEG"),
            (b"RIFF\0\0\0\0WEBP", "seems to be a damaged WebP"),
            (b"\x80\x81\x82", "is of no known format"),
        ],
    )
    def test_what_a_file_that_is_no_image_seems_to_be(self, content, told, file):
        found = sentence(file(content, "x"))
        assert found.endswith((f"is not an image that is read: it {told}", "cannot be read: it is truncated")), found
        assert told in found or "truncated" in found

    def test_formats_that_run_programs_or_have_no_signature_are_not_tried(self, tmp_path):
        for name in ("a.eps", "a.tga", "a.ico", "a.pcx"):
            smooth(8, 8).save(tmp_path / name)
            assert "is not an image that is read" in sentence(tmp_path / name)

    def test_a_bomb_is_refused_before_it_is_decoded(self, file, monkeypatch):
        huge = png((30_000, 30_000, 8, 2), b"")
        assert sentence(file(huge, "a")).endswith(
            "a' has more than 89,478,485 pixels (PIL.Image.MAX_IMAGE_PIXELS raises the limit)"
        )
        assert "has more than 89,478,485 pixels" in sentence(file(png((10_000, 9_000, 8, 2), b""))), "where PIL only warns"
        path = file(smooth(10, 11))
        monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 109)
        assert "has more than 109 pixels" in sentence(path)
        assert "has more than 109 pixels" in sentence(smooth(10, 11))
        monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 110)
        assert pixels_of(path).shape == (10, 11, 3)
        monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 50)
        assert "has more than 50 pixels" in sentence(path), "where PIL refuses by itself"
        monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", None)
        assert pixels_of(path).shape == (10, 11, 3)

    def test_a_file_larger_than_any_image_is_not_read(self, tmp_path):
        with (tmp_path / "a.webp").open("wb") as file:
            file.write(b"RIFF\xff\xff\xff\xffWEBPVP8 ")
            file.truncate(10**12)
        assert "has 1,000,000,000,000 bytes, more than an image of 89,478,485 pixels" in sentence(tmp_path / "a.webp")

    def test_text_that_unpacks_to_gigabytes(self, file):
        text = b"k\0\0" + zlib.compress(bytes(4 * 2**20), 9)
        assert "decompressed data too large" in sentence(file(png((1, 1, 8, 2), bytes(4), zTXt=text))).lower()

    @pytest.mark.parametrize(
        "error",
        [
            struct.error("x"), KeyError("x"), IndexError("x"), OverflowError("x"), zlib.error("x"), SyntaxError("x"),
            RecursionError("x"), TypeError("x"), AttributeError("x"), ZeroDivisionError("x"), AssertionError(), EOFError("x"),
        ],
        ids=repr,
    )  # fmt: skip
    def test_whatever_a_parser_raises_is_one_sentence(self, error, file, monkeypatch):
        def fail(_self):
            raise error

        path = file(smooth(4, 4))
        monkeypatch.setattr(ImageFile.ImageFile, "load", fail)
        told = str(error) or type(error).__name__
        assert sentence(path) == f"images: {str(path)!r} cannot be read: it is damaged ({told})"

    def test_no_memory(self, file, monkeypatch):
        def fail(*_args, **_kwargs):
            raise MemoryError

        path = file(smooth(4, 4))
        with monkeypatch.context() as patch:
            patch.setattr(ImageFile.ImageFile, "load", fail)
            assert sentence(path) == f"images: {str(path)!r} cannot be read: there is not enough memory for it"
        monkeypatch.setattr(images, "transformed", fail)
        with pytest.raises(reforg.ImageError, match="there is not enough memory to prepare it"):
            reforg.preprocess(path, NAME)

    @pytest.mark.parametrize(
        ("pixels", "error", "told"),
        [
            (noise(5), reforg.ShapeError, "pixels must be (H, W) or (H, W, C) with C of 1, 3 or 4, got shape (5,)"),
            (noise(5, 6, 2), reforg.ShapeError, "pixels must be (H, W) or (H, W, C) with C of 1, 3 or 4, got shape (5, 6, 2)"),
            (noise(0, 6), reforg.ShapeError, "an array of shape (0, 6) has no pixels"),
            (np.zeros((5, 6)), reforg.DtypeError, "pixels must be of uint8, uint16 or bool, got float64; of values in [0, 1], "
             "(255 * values).round().astype('uint8') makes such"),
            (np.zeros((5, 6), int), reforg.DtypeError, "pixels must be of uint8, uint16 or bool, got int64; of values in [0, 1], "
             "(255 * values).round().astype('uint8') makes such"),
            (3.5, reforg.ImageError, "float is no path, PIL image or array of pixels"),
            (None, reforg.ImageError, "NoneType is no path, PIL image or array of pixels"),
            (io.BytesIO(), reforg.ImageError, "BytesIO is no path, PIL image or array of pixels"),
            (Image.new("RGB", (0, 3)), reforg.ImageError, "a PIL image has no pixels (3x0)"),
        ],
    )  # fmt: skip
    def test_arrays_and_things(self, pixels, error, told):
        assert sentence(pixels, error) == f"images: {told}"

    def test_an_image_too_narrow_to_be_resized(self):
        with pytest.raises(reforg.ImageError) as caught:
            reforg.preprocess(noise(1, 30_000), NAME, resize="longest")
        assert str(caught.value) == "images: an array: 1x30000 pixels cannot be prepared: resized, that were 0x256"
        with pytest.raises(reforg.ImageError) as caught:
            reforg.preprocess(noise(1, 2_000_000), NAME)
        assert str(caught.value) == (
            "images: an array: 1x2000000 pixels cannot be prepared: resized, that were 256x512000000, and more than 89,478,485 "
            "are not made (PIL.Image.MAX_IMAGE_PIXELS raises the limit)"
        )

    def test_warnings_of_pillow_end_here_and_others_do_not(self, file, recwarn):
        warnings.simplefilter("always")
        palette = Image.fromarray(noise(4, 4)).convert("P")
        images.decoded(file(palette, transparency=bytes(range(100))))
        exif = Image.Exif()
        exif[274] = 1
        content = stored(smooth(16, 16), "TIFF")
        sentence(file(content[:-200], "cut.tif"))
        before = list(warnings.filters)
        images.decoded(smooth(4, 4))
        assert not recwarn.list
        assert warnings.filters == before


# Records --------------------------------------------------------------------------------------------------------------


def own(name):
    return images.record_of(name)


class TestPreprocess:
    def test_paths_images_and_arrays_are_the_same_picture(self, file):
        image = smooth(50, 60)
        wanted = reforg.preprocess(image, NAME)
        assert (wanted.shape, wanted.dtype) == ((1, 3, 224, 224), np.float32)
        assert wanted.flags.c_contiguous
        path = file(image)
        found = reforg.preprocess([path, str(path), image, np.asarray(image)], NAME)
        np.testing.assert_array_equal(found, np.repeat(wanted, 4, axis=0))
        model = reforg.create_model(NAME, weights="synthetic", depth=1)
        np.testing.assert_array_equal(reforg.preprocess(path, model), wanted)
        np.testing.assert_array_equal(reforg.preprocess(path, model.preprocessing), wanted)

    def test_arrays_of_several_pictures(self):
        assert reforg.preprocess(noise(5, 30, 40), NAME).shape[0] == 5, "grey"
        assert reforg.preprocess(noise(5, 30, 40, 3), NAME).shape[0] == 5
        assert reforg.preprocess(noise(30, 40, 3), NAME).shape[0] == 1, "one of three colours"
        assert reforg.preprocess(noise(30, 40, 1), NAME).shape[0] == 1
        assert reforg.preprocess(noise(30, 40), NAME).shape[0] == 1
        assert reforg.preprocess(memoryview(noise(30, 40)), NAME).shape[0] == 1
        assert reforg.preprocess([], NAME).shape == (0, 3, 224, 224)
        with pytest.raises(reforg.ShapeError, match=r"got shape \(3, 30, 40\)"):
            reforg.preprocess(noise(5, 3, 30, 40), NAME)

    def test_grey_bool_and_16_bits(self):
        grey = noise(30, 40)
        wanted = reforg.preprocess(np.repeat(grey[..., None], 3, axis=2), NAME)
        for same in (grey, grey[..., None], grey.astype(np.uint16) * 257):
            np.testing.assert_array_equal(reforg.preprocess(same, NAME), wanted)
        np.testing.assert_array_equal(reforg.preprocess(grey > 99, NAME), reforg.preprocess(np.uint8(255) * (grey > 99), NAME))

    def test_the_users_things_are_not_changed(self):
        pixels = noise(30, 40, 4)
        image, before = Image.fromarray(pixels.copy()), pixels.copy()
        pixels.flags.writeable = False
        reforg.preprocess([pixels, image], NAME)
        np.testing.assert_array_equal(np.asarray(image), before)

    def test_fields_are_replaced_one_by_one(self):
        image = smooth(300, 400)
        record = own(NAME)
        for fields in ({"crop_ratio": 1.0, "interpolation": "bilinear"}, {"size": (64, 96)}, {"mean": 0.5, "std": 0.5}):
            wanted = images.prepared(image, Preprocessing(**{"size": record.size, **fields}))
            np.testing.assert_array_equal(reforg.preprocess(image, NAME, **fields)[0], wanted)

    @pytest.mark.parametrize("change", [{"size": (160, 160)}, {"crop_ratio": 0.5}, {"crop_size": (64, 64)}])
    def test_what_followed_from_a_field_goes_with_it(self, change):
        record = Preprocessing((224, 224), resize_size=(300, 300))
        assert record.changed(**change).resize_size is None
        assert record.changed(**change, resize_size=250).resize_size == (250, 250)
        assert record.changed(mean=0.5).resize_size == (300, 300)
        assert record.changed(channels=1, mean=0.5, std=0.5).colour == "L"

    def test_a_model_of_another_size_has_its_pictures_so(self):
        model = reforg.create_model(NAME, weights="synthetic", depth=1, img_size=64)
        assert reforg.preprocess(noise(99, 77), model).shape == (1, 3, 64, 64)
        assert reforg.preprocess(noise(99, 77), model.with_config(img_size=(32, 96))).shape == (1, 3, 32, 96)

    @pytest.mark.parametrize(
        ("model", "fields", "told"),
        [
            (NAME, {"crop_pct": 1.0}, "preprocessing has no field 'crop_pct'; did you mean crop_ratio? (known: size, resize"),
            (NAME, {"interpolation": "cubic"}, "preprocessing interpolation must be one of nearest, lanczos"),
            (NAME, {"channels": 1}, "preprocessing mean wants one value for each of 1 channels, got 3"),
            (NAME, {"channels": 2, "mean": 0, "std": 1}, "preprocessing makes 3 channels of RGB, and cannot make 2"),
            (NAME, {"colour": "CMYK"}, "preprocessing colour must be one of RGB, L, got 'CMYK'"),
            (NAME, {"crop_offset": "up"}, "preprocessing crop_offset must be one of rounded, floored, got 'up'"),
            ("deit_tiny_patch16_22", {}, "there is no model 'deit_tiny_patch16_22'; did you mean"),
            (3, {}, "preprocess wants a model, its name or a Preprocessing, got int"),
            ("hf-hub:a/b", {}, "preprocess: 'hf-hub:a/b' is a repository; give preprocess the model that create_model makes of it"),
        ],
    )
    def test_mistakes(self, model, fields, told):
        with pytest.raises(reforg.ConfigError) as caught:
            reforg.preprocess(noise(9, 9), model, **fields)
        assert str(caught.value).startswith(told)

    def test_a_model_whose_pictures_nobody_knows(self):
        model = reforg.create_model(NAME, weights="synthetic", depth=1, in_chans=5)
        assert model.preprocessing is None
        with pytest.raises(
            reforg.ConfigError, match=r"^preprocess: how images of this deit_tiny_patch16_224 are prepared was never "
        ):
            reforg.preprocess(noise(9, 9), model)

    def test_a_record_is_a_value_that_tells_what_it_does(self):
        record = reforg.Preprocessing((224, 224), channels=1, mean=0.5, std=0.5, crop_size=(28, 30))
        assert str(record) == (
            "in grey, resize the shortest edge to 32x34 (bicubic), crop the middle 28x30, resample to 224x224 (bilinear), "
            "mean (0.5), std (0.5)"
        )
        with pytest.raises(FrozenInstanceError):
            record.colour = "RGB"

    def test_without_resize_or_crop_an_image_must_fit(self):
        record = Preprocessing((30, 40), resize="none", crop_mode="none")
        assert reforg.preprocess(noise(30, 40, 3), record).shape == (1, 3, 30, 40)
        with pytest.raises(reforg.ImageError, match="which without a crop is not the 30x40 that is wanted"):
            reforg.preprocess(noise(40, 30, 3), record)

    @pytest.mark.parametrize(
        ("side", "offset", "first"),
        [
            (4, "rounded", 0), (6, "rounded", 2), (8, "rounded", 2), (4, "floored", 0), (6, "floored", 1), (8, "floored", 2),
            (2, "rounded", 0), (2, "floored", -1), (1, "rounded", -1), (1, "floored", -1),
        ],
    )  # fmt: skip
    def test_the_middle_of_an_odd_number_of_pixels(self, side, offset, first):
        """Which pixel of a row of 10, 11, ... comes first of three; below zero: how many black ones do."""
        row = np.arange(10, 10 + side, dtype=np.uint8)[None]
        record = Preprocessing((1, 3), "none", mean=0.0, std=1.0, channels=1, crop_offset=offset)
        found = np.rint(255 * reforg.preprocess(row, record)[0, 0, 0])
        wanted = [10 + place if 0 <= place < side else 0 for place in range(first, first + 3)]
        np.testing.assert_array_equal(found, wanted)

    def test_every_level_is_divided_by_255_and_then_normalised_in_float32(self):
        levels = np.arange(256, dtype=np.uint8).reshape(1, 256, 1).repeat(3, axis=2)
        record = Preprocessing((1, 256), "none")
        wanted = [
            [(np.float32(level) / np.float32(255) - np.float32(mean)) / np.float32(std) for level in range(256)]
            for mean, std in zip(record.mean, record.std, strict=True)
        ]
        np.testing.assert_array_equal(reforg.preprocess(levels, record)[0, :, 0], np.array(wanted, np.float32))

    @pytest.mark.parametrize(
        ("sides", "size", "resize", "wanted"),
        [
            ((333, 500), (224, 224), "shortest", (224, 336)),  # 336.3
            ((301, 200), (224, 224), "shortest", (337, 224)),  # 337.1
            ((100, 199), (224, 224), "shortest", (224, 445)),  # 445.8, of torchvision
            ((100, 199), (224, 220), "shortest", (224, 446)),  # 445.8, of timm
            ((100, 199), (224, 224), "longest", (113, 224)),  # 112.6
            ((100, 199), (50, 224), "longest", (50, 100)),  # 99.5
            ((100, 199), (50, 60), "exact", (50, 60)),
            ((100, 199), (50, 60), "none", (100, 199)),
        ],
    )
    def test_what_an_image_is_resized_to(self, sides, size, resize, wanted, monkeypatch):
        seen = []
        resized = Image.Image.resize
        monkeypatch.setattr(Image.Image, "resize", lambda image, *args: seen.append(args[0][::-1]) or resized(image, *args))
        images.prepared(noise(*sides), Preprocessing(size, resize, crop_ratio=1.0))
        assert seen == ([] if wanted == sides else [wanted])

    def test_black_or_the_mean_around_what_is_smaller(self):
        white = np.full((10, 10, 3), 255, np.uint8)
        plain = {"size": (16, 12), "resize": "none", "mean": 0.5, "std": 0.5}
        black = reforg.preprocess(white, Preprocessing(**plain))[0, 0]
        assert (black[:3] == -1).all()
        assert (black[3:13, 1:11] == 1).all()
        assert (black[13:] == -1).all()
        filled = reforg.preprocess(white, Preprocessing(**plain, crop_mode="border"))[0, 0]
        np.testing.assert_allclose(filled[:3], 1 / 255, atol=1e-6)  # round(127.5) is 128

    @settings(deadline=None, max_examples=60)
    @given(
        st.tuples(st.integers(1, 70), st.integers(1, 70)),
        st.tuples(st.integers(1, 50), st.integers(1, 50)),
        st.floats(0.3, 1.0),
        st.sampled_from(["shortest", "longest", "exact", "none"]),
        st.sampled_from(["center", "border"]),
        st.sampled_from(["nearest", "lanczos", "bilinear", "bicubic", "box", "hamming"]),
        st.sampled_from(["rounded", "floored"]),
        st.sampled_from([1, 3]),
    )
    def test_any_image_comes_out_at_exactly_the_size(self, sides, size, ratio, resize, crop, interpolation, offset, channels):
        record = Preprocessing(size, resize, None, ratio, crop, interpolation, 0.5, 0.5, channels=channels, crop_offset=offset)
        try:
            found = images.prepared(noise(*sides, 3), record)
        except reforg.ImageError as error:
            assert resize in ("longest", "shortest")
            assert "0x" in str(error) or "x0" in str(error)  # noqa: PT017
        else:
            assert (found.shape, found.dtype) == ((channels, *size), np.float32)
            assert np.abs(found).max() <= 1

    def test_threads_see_what_one_sees(self, tmp_path):
        paths = [tmp_path / f"{place}.{suffix}" for place in range(4) for suffix in SUFFIXES]
        for place, path in enumerate(paths):
            smooth(40 + place, 50, seed=place).save(path)
        wanted = [images.prepared(path, own(NAME)) for path in paths]
        before = list(warnings.filters)
        with ThreadPoolExecutor(8) as pool:
            found = list(pool.map(lambda path: images.prepared(path, own(NAME)), paths * 3))
        for place, picture in enumerate(found):
            np.testing.assert_array_equal(picture, wanted[place % len(paths)])
        assert warnings.filters == before


class TestModelsThatBringTheirWeights:
    @pytest.mark.parametrize("name", ["evit_fmnist", "deit3_fmnist", "shunted_fmnist"])
    def test_their_own_pictures_and_photographs(self, name):
        pixels, _ = embedded.test_images()
        wanted = embedded.preprocess(pixels[:40], name)
        found = reforg.preprocess(pixels[:40], name)
        np.testing.assert_array_equal(found.view(np.uint32), wanted.view(np.uint32))
        model = reforg.create_model(name)
        assert reforg.preprocess(smooth(300, 200), model).shape == wanted[:1].shape
        assert model(reforg.preprocess([smooth(300, 200), pixels[0]], model)).shape == (2, 10)

    def test_a_photograph_is_fitted_into_the_middle_on_black(self):
        white = np.full((56, 28), 255, np.uint8)
        found = reforg.preprocess(white, "evit_fmnist")[0, 0]
        black, most = np.float32(-0.2860) / np.float32(0.3530), found.max()
        np.testing.assert_array_equal(found[:, :7], black)
        np.testing.assert_array_equal(found[:, 7:21], most)
        np.testing.assert_array_equal(found[:, 21:], black)

    def test_all_that_is_done_in_floating_point_is_one_function(self):
        pixels, record = noise(3, 28, 28), own("shunted_fmnist")
        one_by_one = np.stack([transformed(Image.fromarray(picture), record) for picture in pixels])
        np.testing.assert_array_equal(normalised(pixels[:, None], record), one_by_one)
