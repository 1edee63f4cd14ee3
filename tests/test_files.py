"""Where a file can be written, told in one sentence before anything is computed; and written whole or not at all."""

import os
from pathlib import Path

import numpy as np
import pytest

import reforg
from reforg.demo.picture import check_target
from reforg.errors import ConfigError, ImageError, WeightsError
from reforg.files import check_place, replacing

ENDINGS = (".csv", ".json")


@pytest.fixture
def here(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "file.csv").write_text("before")
    (tmp_path / "folder.csv").mkdir()
    (tmp_path / "link.csv").symlink_to("file.csv")
    (tmp_path / "dangling.csv").symlink_to("nowhere")
    os.mkfifo(tmp_path / "pipe.csv")
    return tmp_path


REFUSED = {
    "a.txt": "must end in .csv or .json",
    "a": "must end in .csv or .json",
    "folder.csv": "is a folder",
    "link.csv": "is a link, a pipe or a device: give the name of a file",
    "dangling.csv": "is a link, a pipe or a device: give the name of a file",
    "pipe.csv": "is a link, a pipe or a device: give the name of a file",
    "no/a.csv": "cannot be written: there is no folder 'no'",
    "file.csv/a.csv": "cannot be written: there is no folder 'file.csv'",
    "file.csv": "is there already: --overwrite replaces it",
    f"{'a' * 300}.csv": "cannot be written: File name too long",
}


@pytest.mark.parametrize("name", REFUSED)
def test_no_place_for_a_file(here, name):
    with pytest.raises(ConfigError) as refusal:
        check_place(Path(name), "output", ConfigError, ENDINGS, overwrite=False)
    assert str(refusal.value) == f"output {name!r} {REFUSED[name]}"


@pytest.mark.parametrize("name", ["new.csv", "NEW.JSON", "file.csv"])
def test_a_place_for_a_file(here, name):
    check_place(Path(name), "output", ConfigError, ENDINGS)


def test_a_name_with_a_null_byte_is_one_sentence(here):
    with pytest.raises(ConfigError, match="cannot be written"):
        check_place(Path("a\0.csv"), "output", ConfigError)


def test_a_folder_where_nothing_may_be_written_is_one_sentence(here, monkeypatch):
    monkeypatch.setattr(os, "access", lambda *_: False)
    with pytest.raises(ConfigError, match=r"output 'new.csv' cannot be written: nothing may be written in '\.'"):
        check_place(Path("new.csv"), "output", ConfigError)


def test_weights_and_pictures_are_not_written_over_a_link(here):
    (here / "link.npz").symlink_to("file.csv")
    (here / "link.png").symlink_to("file.csv")
    with pytest.raises(WeightsError, match="is a link"):
        reforg.save_weights({"a": np.zeros(1)}, "link.npz")
    with pytest.raises(ImageError, match="is a link"):
        check_target(Path("link.png"))
    assert (here / "file.csv").read_text() == "before"


def test_an_ending_in_capitals_is_kept(here):
    reforg.save_weights({"cls_token": np.ones((1, 1, 4), np.float32)}, "WEIGHTS.NPZ")
    assert sorted(path.name for path in here.glob("WEIGHTS*")) == ["WEIGHTS.NPZ"]
    assert np.load("WEIGHTS.NPZ")["cls_token"].shape == (1, 1, 4)


def test_what_fails_half_way_leaves_the_file_that_was_there(here):
    with pytest.raises(RuntimeError), replacing(Path("file.csv")) as unfinished:  # noqa: PT012 - two steps are the point
        unfinished.write_text("half")
        raise RuntimeError
    assert (here / "file.csv").read_text() == "before"
    assert sorted(path.name for path in here.iterdir()) == ["dangling.csv", "file.csv", "folder.csv", "link.csv", "pipe.csv"]
