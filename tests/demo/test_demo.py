"""`reforg demo`: its figures, its table, its picture."""

import json

import numpy as np
import pytest
from PIL import Image
from terminal import reforg_command, typed

import reforg
from reforg import embedded
from reforg.demo import demonstration as demo
from reforg.demo import picture


@pytest.fixture(scope="module")
def demonstration(tmp_path_factory):
    folder = tmp_path_factory.mktemp("demo")
    return reforg_command("demo", "--json", cwd=folder), folder


class TestDemo:
    def test_figures(self, demonstration):
        done, _ = demonstration
        assert (done.returncode, done.stderr) == (0, "")
        figures = json.loads(done.stdout)
        assert figures["images"] == 500
        by_name = {row["name"]: row for row in figures["models"]}
        assert list(by_name) == ["evit_fmnist", "deit3_fmnist", "shunted_fmnist"]
        assert by_name["evit_fmnist"]["tokens"] == [49, 36, 27, 20]
        assert by_name["shunted_fmnist"]["tokens"] == [256, 64, 16, 4]
        assert by_name["evit_fmnist"]["params"] == 1_349_770
        for row in by_name.values():
            assert row["images_per_second"] > 0
            assert row["macs"] == reforg.cost(row["name"]).macs

    def test_accuracy_is_counted_from_the_logits(self, demonstration):
        figures = json.loads(demonstration[0].stdout)
        pixels, labels = embedded.test_images()
        logits = reforg.create_model("deit3_fmnist", ops="reference")(embedded.preprocess(pixels, "deit3_fmnist"))
        (row,) = [row for row in figures["models"] if row["name"] == "deit3_fmnist"]
        assert row["accuracy"] == np.mean(logits.argmax(axis=1) == labels)

    def test_the_picture_shows_the_images_and_what_was_kept(self, demonstration):
        _, folder = demonstration
        assert [path.name for path in folder.iterdir()] == ["reforg-demo.png"]
        with Image.open(folder / "reforg-demo.png") as picture:
            assert picture.width > 1000
            pixels = np.asarray(picture.convert("RGB")).astype(int)
        blue = (pixels[..., 2] - pixels[..., 0] > 80).mean()
        assert 0.01 < blue < 0.3, "share of the picture that is fused patches"

    def test_the_table(self, capsys, tmp_path):
        code, out, err = typed(capsys, "demo", "--output", str(tmp_path / "here.png"))
        assert code == 0
        assert err == ""
        for text in ("accuracy", "images/s", "tokens", "MMACs/image", "49>36>27>20", "87.6%", "92.2%", "here.png"):
            assert text in out
        assert (tmp_path / "here.png").exists()

    def test_stages_are_where_the_number_of_tokens_changes(self):
        assert demo.stages({"a": 4, "b": 4, "c": 2, "d": 4}) == [4, 2, 4]


def nothing_to_draw():
    return np.zeros((0, 28, 28), np.uint8), np.zeros(0, np.uint8), {}, {}


def test_a_full_disk_leaves_no_half_picture(monkeypatch, tmp_path):
    def full(*arguments, **settings):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(Image.Image, "save", full)
    with pytest.raises(reforg.ImageError, match="No space left on device"):
        picture.draw(tmp_path / "demo.png", *nothing_to_draw())
    assert list(tmp_path.iterdir()) == []
