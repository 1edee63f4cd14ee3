"""`reforg trace` as a user types it: every intermediate in a file, from pictures, arrays in files, or synthetic images."""

import json
import os
import subprocess
import sys

import ml_dtypes
import numpy as np
import pytest
import terminal
from PIL import Image
from safetensors import safe_open
from safetensors.numpy import load_file
from sentences import says

import reforg
from reforg.catalog import synthetic
from reforg.models import embedded
from reforg.verification.candidate import image_batch

MODEL = ("--model", "evit_fmnist")
MICRO = (
    *("--model", "evit_small_patch16_224", "--weights", "synthetic:1", "--set", "img_size=24", "--set", "patch_size=4"),
    *("--set", "num_classes=10", "--set", "embed_dim=24", "--set", "depth=4", "--set", "num_heads=3", "--set", "drop_loc=1,2"),
)
MICRO_CONFIG = {
    "img_size": 24, "patch_size": 4, "num_classes": 10, "embed_dim": 24, "depth": 4, "num_heads": 3, "drop_loc": (1, 2),
}  # fmt: skip


def typed(capsys, *arguments):
    """Exit code, standard output, standard error."""
    return terminal.typed(capsys, "trace", *arguments)


@pytest.fixture(scope="module")
def model():
    return reforg.create_model("evit_fmnist")


@pytest.fixture(scope="module")
def images(model):
    return reforg.preprocess(embedded.test_images()[0][:3], model)


@pytest.fixture
def here(tmp_path, monkeypatch, images):
    """An empty folder with three photos in it and the same images as arrays, in which the command is typed."""
    (tmp_path / "photos").mkdir()
    for number, pixels in enumerate(embedded.test_images()[0][:3]):
        Image.fromarray(pixels).save(tmp_path / "photos" / f"{number}.png")
    np.save(tmp_path / "images.npy", images)
    monkeypatch.chdir(tmp_path)
    return tmp_path


def same(found, wanted):
    return set(found) == set(wanted) and all(np.array_equal(found[name], wanted[name]) for name in wanted)


class TestWhatIsInTheFile:
    """Every intermediate, under its name, and the images."""

    def test_everything_in_the_order_of_execution(self, capsys, here, model, images):
        code, out, err = typed(capsys, "photos", *MODEL, "--output", "out.npz")
        wanted = {"images": images, **model.trace(images)}
        size = sum(array.nbytes for array in wanted.values())
        assert (code, out, err) == (0, f"out.npz: {len(wanted)} arrays, {size / 1e6:,.1f} MB\n", "")
        with np.load("out.npz") as found:
            assert list(found) == list(wanted)
            assert same(dict(found), wanted)

    def test_safetensors_tells_in_its_header_what_it_is(self, capsys, here):
        code, _, _ = typed(capsys, "synthetic:5", *MICRO, "--dtype", "float64", "--output", "out.safetensors")
        micro = reforg.create_model("evit_small_patch16_224", weights="synthetic:1", dtype="float64", **MICRO_CONFIG)
        given = synthetic.images((2, 3, 24, 24), 5)
        assert code == 0
        assert same(load_file("out.safetensors"), {"images": given, **micro.trace(given)})
        with safe_open("out.safetensors", framework="np") as file:
            told = file.metadata()
        assert json.loads(told["order"]) == ["images", *micro.trace(given)]
        assert json.loads(told["config"])["drop_loc"] == [1, 2]
        assert (told["model"], told["weights"], told["dtype"]) == ("evit_small_patch16_224", "synthetic:1", "float64")

    def test_of_a_file_of_weights_the_name(self, capsys, here, model):
        (here / "some").mkdir()
        reforg.save_weights(model.weights, "some/weights.npz")
        code, _, _ = typed(capsys, "images.npy", *MODEL, "--weights", "some/weights.npz", "--output", "out.safetensors")
        assert code == 0
        with safe_open("out.safetensors", framework="np") as file:
            assert file.metadata()["weights"] == "weights.npz"

    def test_patterns_choose(self, capsys, here, model, images):
        code, out, _ = typed(capsys, "photos", *MODEL, "--names", "blocks.3.*", "--names", "logits", "--output", "out.safetensors")
        assert code == 0
        assert out.startswith("out.safetensors: ")
        assert same(load_file("out.safetensors"), model.trace(images, ["blocks.3.*", "logits"]))

    def test_bfloat16(self, capsys, here):
        for name in ("out.safetensors", "out.npz"):
            assert typed(capsys, "synthetic:1", *MICRO, "--dtype", "bfloat16", "--names", "norm", "--output", name)[0] == 0
        assert load_file("out.safetensors")["norm"].dtype == ml_dtypes.bfloat16
        assert reforg.load_weights("out.npz")["norm"].dtype == ml_dtypes.bfloat16

    def test_another_backend(self, capsys, here, model, images):
        pytest.importorskip("torch", reason="torch is not installed")
        code, _, _ = typed(capsys, "images.npy", *MODEL, "--backend", "torch", "--names", "logits", "--output", "out.npz")
        assert code == 0
        assert np.allclose(np.load("out.npz")["logits"], model(images), atol=1e-5)

    def test_a_file_that_is_there_is_replaced(self, capsys, here):
        (here / "out.npz").write_bytes(b"old")
        assert typed(capsys, "images.npy", *MODEL, "--names", "logits", "--output", "out.npz")[0] == 0
        assert sorted(path.name for path in here.iterdir()) == ["images.npy", "out.npz", "photos"]
        assert (here / "out.npz").stat().st_mode & 0o777 == (here / "images.npy").stat().st_mode & 0o777


class TestImages:
    """What the arguments may be."""

    @pytest.mark.parametrize("arguments", [("photos",), ("photos/0.png", "photos/1.png", "photos/2.png"), ("photos/*.png",)])
    def test_pictures(self, capsys, here, images, arguments):
        assert typed(capsys, *arguments, *MODEL, "--output", "out.npz")[0] == 0
        assert np.array_equal(np.load("out.npz")["images"], images)

    @pytest.mark.parametrize("name", ["images.npy", "one.npz", "one.safetensors", "IMAGES.NPY", "some.npz", "trace.safetensors"])
    def test_arrays_in_files(self, capsys, here, images, name):
        np.savez("one.npz", x=images)
        np.savez("some.npz", logits=np.ones(3), images=images)
        np.save("IMAGES.NPY.npy", np.asfortranarray(images.astype(">f8")))
        (here / "IMAGES.NPY.npy").rename("IMAGES.NPY")
        for other in ("one.safetensors", "trace.safetensors"):
            chosen = ("--names", "patch_embed.proj") if other == "one.safetensors" else ()
            assert typed(capsys, "photos", *MODEL, *chosen, "--output", other)[0] == 0
        code, _, err = typed(capsys, name, *MODEL, "--output", "out.npz")
        if name == "one.safetensors":  # the only array of a file is taken for the images, and has their shape or has not
            assert (code, err) == (2, "reforg: evit_fmnist: images have 96 channels instead of 1 (shape (3, 96, 7, 7))\n")
        else:
            assert (code, err) == (0, "")
            assert np.array_equal(np.load("out.npz")["images"], images)

    @pytest.mark.parametrize(("asked", "count"), [((), 2), (("--batch", "3"), 3)])
    def test_synthetic(self, capsys, here, asked, count):
        assert typed(capsys, "synthetic:7", *MICRO, *asked, "--output", "out.npz")[0] == 0
        assert np.array_equal(np.load("out.npz")["images"], synthetic.images((count, 3, 24, 24), 7))

    def test_a_list_on_standard_input(self, here):
        command = [sys.executable, "-m", "reforg", "trace", "-", *MODEL, "--names", "logits", "--output", "out.npz"]
        done = subprocess.run(command, input="photos/1.png\nphotos/0.png\n", capture_output=True, text=True, check=False)
        assert (done.returncode, done.stdout, done.stderr) == (0, "out.npz: 1 arrays, 0.0 MB\n", "")
        assert np.load("out.npz")["logits"].shape == (2, 10)

    def test_more_than_memory_holds(self, capsys, here, monkeypatch):
        monkeypatch.setattr(image_batch.os, "sysconf", {"SC_PAGE_SIZE": 4096, "SC_PHYS_PAGES": 1000}.__getitem__)
        code, _, err = typed(capsys, "synthetic:7", *MODEL, "--batch", "20", "--output", "out.npz")
        assert code == 2
        assert says(err, "reforg: images: the intermediates of 20 images take …")
        assert "and this machine has 0 GB: give fewer" in err
        code, _, err = typed(capsys, "synthetic:7", *MODEL, "--batch", "20", "--names", "logits", "--output", "out.npz")
        assert (code, err) == (0, ""), "of one value, what lives at a time is what counts"


def header(text, data=bytes(16)):
    """An .npy file with that header."""
    told = text.encode().ljust(117) + b"\n"
    return b"\x93NUMPY\1\0" + len(told).to_bytes(2, "little") + told + data


MISTAKES = [
    (["photos"], "reforg: Missing option '--model'."),
    (["photos", *MODEL], "reforg: Missing option '--output'."),
    (["photos", *MODEL, "--output", "out.npy"], "reforg: output 'out.npy' must end in .safetensors or .npz"),
    (["photos", *MODEL, "--output", "no/out.npz"], "reforg: output 'no/out.npz' cannot be written: there is no folder 'no'"),
    (["photos", *MODEL, "--output", "folder.npz"], "reforg: output 'folder.npz' is a folder"),
    (["photos", *MODEL, "--output", "link.npz"], "reforg: output 'link.npz' is a link, a pipe or a device: …"),
    (["photos", "--model", "evit_fmnis"], "reforg: there is no model 'evit_fmnis'; did you mean evit_fmnist?"),
    (["photos", "--model", "deit_tiny_patch16_224"], "reforg: deit_tiny_patch16_224 comes without weights: …"),
    (["photos", *MODEL, "--weights", "no.npz"], "reforg: weights: there is no file 'no.npz'"),
    (
        ["photos", *MODEL, "--dtype", "flaot32"],
        "reforg: there is no dtype 'flaot32'; did you mean float32? (known: float64, float32, float16, bfloat16)",
    ),
    (["photos", *MODEL, "--set", "keep_rat=0.5"], "reforg: evit_fmnist has no setting 'keep_rat'…"),
    (["photos", *MODEL, "--set", "dtype=float64"], "reforg: evit_fmnist has no setting 'dtype'"),
    (["photos", *MODEL, "--set", "half"], "reforg: --set wants KEY=VALUE, as in --set keep_rate=0.5, got 'half'"),
    (
        ["photos", *MODEL, "--names", "blocks.12.*"],
        "reforg: evit_fmnist has no intermediate 'blocks.12.*'…",
    ),
    (["nothing.png", *MODEL], "reforg: there is no file or folder 'nothing.png'"),
    (["broken.jpg", *MODEL], "reforg: images: 'broken.jpg' cannot be read: it is truncated"),
    (["photos/0.png", "broken.jpg", *MODEL], "reforg: images: 'broken.jpg' cannot be read: it is truncated"),
    (["empty", *MODEL], "reforg: there is no image in folder 'empty' (known by …"),
    (["photos/*.jpg", *MODEL], "reforg: no image matches 'photos/*.jpg'"),
    (["nothing.npy", *MODEL], "reforg: images: 'nothing.npy' cannot be read: No such file or directory"),
    (["nothing.npz", *MODEL], "reforg: images: there is no file 'nothing.npz'"),
    (["folder.npz", *MODEL], "reforg: images: 'folder.npz' is refused: it is a folder"),
    (["images.npy", "photos", *MODEL], "reforg: images: 'images.npy' is a whole batch: give nothing beside it"),
    (["synthetic:x", *MODEL], "reforg: images: 'synthetic:x' must be synthetic:SEED, with a seed of at most 19 digits"),
    (
        ["photos", *MODEL, "--batch", "3"],
        "reforg: images: --batch is how many synthetic images there are, and goes with synthetic:SEED",
    ),
    (["synthetic:1", *MODEL, "--batch", "0"], "reforg: Invalid value for '--batch': Input should be greater than or equal to 1"),
    (["flat.npy", *MODEL], "reforg: evit_fmnist: images must be (B, 1, H, W), got shape (28, 28)"),
    (["pixels.npy", *MODEL], "reforg: evit_fmnist: images must be of a real floating dtype, got uint8; …"),
    (["nan.npy", *MODEL], "reforg: evit_fmnist: images hold NaN or infinity (in float32); …"),
    (["objects.npy", *MODEL], "reforg: images: 'objects.npy' is refused: …"),
    (["huge.npy", *MODEL], "reforg: images: 'huge.npy' is refused: …"),
    (["bomb.npy", *MODEL], "reforg: images: 'bomb.npy' is refused: …"),
    (["short.npy", *MODEL], "reforg: images: 'short.npy' is refused: …"),
    (["empty.npy", *MODEL], "reforg: images: 'empty.npy' is no .npy file"),
    (["text.npz", *MODEL], "reforg: images: 'text.npz' is refused: it is neither torch's, NumPy's nor safetensors"),
    (
        ["three.npz", *MODEL],
        "reforg: images: 'three.npz' holds 3 arrays, 'a', 'b', 'c', ..., and none of them is called 'images'",
    ),
]  # fmt: skip


@pytest.fixture
def files(here):
    """Files that nobody should give, beside those of `here`."""
    (here / "empty").mkdir()
    (here / "folder.npz").mkdir()
    (here / "link.npz").symlink_to("elsewhere.npz")
    (here / "broken.jpg").write_bytes(b"\xff\xd8\xff\xe0 the rest was lost")
    np.save("flat.npy", np.zeros((28, 28)))
    np.save("pixels.npy", np.zeros((1, 1, 28, 28), np.uint8))
    np.save("nan.npy", np.full((1, 1, 28, 28), np.nan))
    np.save("objects.npy", np.array([[[[print]]]], object))
    (here / "huge.npy").write_bytes(header("{'descr': '<f8', 'fortran_order': False, 'shape': (1000000, 1, 1000, 1000)}"))
    (here / "bomb.npy").write_bytes(header("{'descr': '<f8', 'fortran_order': False, 'shape': " + "(" * 30 + "1" + ")" * 29 + "}"))
    (here / "short.npy").write_bytes(b"\x93NUMPY\1\0\xff\xff{")
    (here / "empty.npy").write_bytes(b"")
    (here / "text.npz").write_bytes(b"text")
    np.savez("three.npz", a=np.ones(1), b=np.ones(1), c=np.ones(1))
    return here


@pytest.mark.parametrize(("arguments", "sentence"), MISTAKES, ids=[" ".join(arguments) for arguments, _ in MISTAKES])
def test_a_mistake_gets_one_sentence_and_leaves_no_file(capsys, files, arguments, sentence):
    before = sorted(files.rglob("*"))
    asked = arguments if "--output" in arguments or "Missing" in sentence else [*arguments, "--output", "out.npz"]
    code, out, err = typed(capsys, *asked)
    assert (code, out) == (2, "")
    assert says(err, sentence), err
    assert sorted(files.rglob("*")) == before


def test_a_pipe_is_not_waited_for(here):
    os.mkfifo("images.npz")
    os.mkfifo("pipe.npy")
    for name in ("images.npz", "pipe.npy"):
        command = [sys.executable, "-m", "reforg", "trace", name, *MODEL, "--output", "out.npz"]
        done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=60)
        assert done.returncode == 2
        assert done.stderr.startswith(f"reforg: images: {name!r} is ")


def test_a_full_disk_leaves_no_half_file(capsys, here, monkeypatch):
    def full(*arguments, **arrays):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(np, "savez", full)
    monkeypatch.setattr("safetensors.numpy.save_file", full)
    for name in ("out.npz", "out.safetensors"):
        code, _, err = typed(capsys, "photos", *MODEL, "--names", "logits", "--output", name)
        assert (code, err) == (2, f"reforg: output '{name}' cannot be written: No space left on device\n")
    assert sorted(path.name for path in here.iterdir()) == ["images.npy", "photos"]


@pytest.mark.parametrize(
    ("words", "offered"),
    [("trace --model evit_fm", "evit_fmnist"), ("trace --dtype bf", "bfloat16"), ("trace --backend num", "numpy")],
)
def test_tab_offers_what_there_is(words, offered):
    asked = {"_REFORG_COMPLETE": "complete_bash", "COMP_WORDS": f"reforg {words}", "COMP_CWORD": "3"}
    done = subprocess.run(
        [sys.executable, "-c", "import sys; sys.argv[0] = 'reforg'; from reforg.cli import main; main([])"],
        env=os.environ | asked,
        capture_output=True,
        text=True,
        check=False,
    )
    assert offered in done.stdout.split()
