"""`reforg classify` as a user meets it: every image answered once, and nothing lost, whatever ends a run."""

import csv
import io
import json
import os
import pty
import subprocess
import sys
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet
import pytest
import terminal
from classify_run import broken, command, killed, write_images
from PIL import Image
from sentences import says

import reforg
from reforg.classification import outputs
from reforg.classification.journal import open_journal
from reforg.images import inputs
from reforg.models import answers as pipeline
from reforg.models import embedded
from reforg.models.answers import answers

MODEL = ("--model", "evit_fmnist")
JOURNAL = ".out.jsonl.unfinished"


def typed(capsys, *arguments):
    """Exit code, standard output, standard error."""
    return terminal.typed(capsys, "classify", *arguments)


def write_photos(folder, count=10):
    """The first test images, as files."""
    folder.mkdir(parents=True)
    for number, pixels in enumerate(embedded.test_images()[0][:count]):
        Image.fromarray(pixels).save(folder / f"{number:02}.png")


@pytest.fixture
def here(tmp_path, monkeypatch):
    """An empty folder with ten photos in it, in which the command is typed."""
    write_photos(tmp_path / "photos")
    monkeypatch.chdir(tmp_path)
    return tmp_path


def rows_of(path):
    return [json.loads(line) for line in Path(path).read_text(encoding="utf-8").splitlines()]


@pytest.fixture(scope="module")
def model():
    return reforg.create_model("evit_fmnist")


def softmax(logits):
    powers = np.exp(logits.astype(np.float64) - logits.max(axis=1, keepdims=True))
    return powers / powers.sum(axis=1, keepdims=True)


class TestAnswers:
    """The library under the command: what a model says about pictures, wherever they come from."""

    def test_they_are_the_softmax_of_the_models_logits(self, model):
        pixels, _ = embedded.test_images()
        wanted = softmax(model(embedded.preprocess(pixels[:20], model)))
        for row, answer in zip(wanted, answers(model, list(pixels[:20]), top_k=10, batch_size=20), strict=True):
            order = np.argsort(-row)
            assert answer.labels == tuple(embedded.LABELS[place] for place in order)
            np.testing.assert_allclose(answer.probabilities, row[order], rtol=1e-12)
            assert answer.features is None

    def test_features_come_from_the_same_pass(self, model):
        pixels, _ = embedded.test_images()
        wanted, _ = model.answer(embedded.preprocess(pixels[:5], model))
        for row, answer in zip(wanted, answers(model, list(pixels[:5]), batch_size=5, features=True), strict=True):
            np.testing.assert_array_equal(answer.features, row)
            assert len(answer.labels) == 5

    def test_paths_pictures_and_arrays_are_the_same_to_it(self, model, here):
        pixels = embedded.test_images()[0][0]
        picture = Image.fromarray(pixels)
        one, two, three = answers(model, ["photos/00.png", picture, pixels])
        assert one.labels == two.labels == three.labels
        for other in (two, three):  # the same within rounding: images of a batch may go through matrix products of other sizes
            np.testing.assert_allclose(other.probabilities, one.probabilities, rtol=1e-5)

    def test_of_equally_likely_classes_the_lower_comes_first(self, model):
        weights = model.weights | {"head.weight": np.zeros((10, 96), np.float32), "head.bias": np.zeros(10, np.float32)}
        flat = reforg.create_model("evit_fmnist", weights=weights)
        (answer,) = answers(flat, [embedded.test_images()[0][0]], top_k=3)
        assert answer.labels == embedded.LABELS[:3]
        assert answer.probabilities == (0.1, 0.1, 0.1)

    def test_what_overflows_is_that_images_error(self, model):
        weights = model.weights | {"head.bias": np.array([np.nan] + [0.0] * 9, np.float32)}
        (answer,) = answers(reforg.create_model("evit_fmnist", weights=weights), [embedded.test_images()[0][0]])
        assert answer.error == "evit_fmnist computed NaN or infinity in float32"
        assert answer.labels == ()

    def test_predict_raises_for_what_cannot_be_read(self, model, here):
        best = [row[0][0] for row in model.predict(["photos/00.png", "photos/02.png"], top_k=2)]
        assert best == ["Ankle boot", "Trouser"]
        with pytest.raises(reforg.ImageError, match="there is no file"):
            model.predict(["photos/00.png", "nothing.png"])

    def test_no_more_is_decoded_than_two_batches_ahead(self, model):
        taken = []

        def sources():
            for number in range(40):
                taken.append(number)
                yield embedded.test_images()[0][0]

        for number, _ in enumerate(answers(model, sources(), batch_size=4)):
            assert len(taken) < 4 * (number // 4 + 1) + 2 * 4

    def test_without_classes_only_features_can_be_asked_for(self):
        bare = reforg.create_model("evit_fmnist", num_classes=0)
        with pytest.raises(reforg.ConfigError, match="has no classes"):
            answers(bare, [])
        (answer,) = answers(bare, [embedded.test_images()[0][0]], features=True)
        assert (answer.labels, answer.features.shape) == ((), (96,))


class TestInputs:
    """Which images are meant."""

    def listed(self, *arguments, stdin=b""):
        return inputs.image_paths(arguments, io.BytesIO(stdin))

    def test_a_folder_stands_for_the_images_in_it(self, here):
        for name in ("b/late.JPG", "b/.hidden.png", ".git/x.png", "a/z.webp", "a/notes.txt", "b/c/deep.tif"):
            (here / "set" / name).parent.mkdir(parents=True, exist_ok=True)
            (here / "set" / name).write_bytes(b"")
        (here / "set" / "b" / "c" / "loop").symlink_to(here / "set")
        assert self.listed("set") == ["set/a/z.webp", "set/b/late.JPG", "set/b/c/deep.tif"]

    def test_a_pattern_stands_for_those_that_match(self, here):
        write_photos(here / "photos" / "more", 2)
        assert self.listed("photos/0[01].png") == ["photos/00.png", "photos/01.png"]
        assert self.listed("*/more/*") == ["photos/more/00.png", "photos/more/01.png"]
        assert len(self.listed("photos/*")) == 10
        assert len(self.listed("photos/**")) == len(self.listed("**/*.png")) == 12

    @pytest.mark.parametrize("separator", [b"\n", b"\r\n", b"\0"])
    def test_a_list_comes_on_standard_input(self, here, separator):
        stdin = separator.join([b"photos/03.png", b"photos/01.png", b""])
        assert self.listed("-", stdin=stdin) == ["photos/03.png", "photos/01.png"]

    def test_each_image_is_listed_once_as_it_was_first_found(self, here):
        found = self.listed("photos/03.png", "./photos", str(here / "photos"), "photos/*.png")
        assert found[:2] == ["photos/03.png", "./photos/00.png"]
        assert len(found) == 10

    def test_a_named_file_counts_whatever_its_suffix_and_even_where_it_is_missing(self, here):
        assert self.listed("photos/00.png", "scan.dat") == ["photos/00.png", "scan.dat"]


class TestRows:
    """The same answers in every format."""

    def test_three_formats_say_the_same(self, capsys, here):
        (here / "photos" / "05.png").write_bytes(b"no image")
        for suffix in ("jsonl", "csv", "parquet"):
            code, out, err = typed(capsys, "photos", *MODEL, "--features", "--top-k", "3", "--output", f"out.{suffix}")
            assert (code, out) == (1, f"out.{suffix}: 10 images\n")
            assert err == "reforg: 1 of 10 images could not be read\n"
        lines = rows_of("out.jsonl")
        table = pa.parquet.read_table("out.parquet")
        assert [str(field.type) for field in table.schema] == [
            "string", "list<element: string>", "list<element: float>", "fixed_size_list<element: float>[96]", "string",
        ]  # fmt: skip
        with Path("out.csv").open(encoding="utf-8", newline="") as file:
            cells = list(csv.DictReader(file))
        for line, row, cell in zip(lines, table.to_pylist(), cells, strict=True):
            assert line["path"] == row["path"] == cell["path"]
            assert line["labels"] == row["labels"] == [cell[f"label_{rank}"] for rank in (1, 2, 3) if cell[f"label_{rank}"]]
            assert line["error"] == row["error"] == (cell["error"] or None)
            if line["error"] is None:
                assert line["probabilities"] == [float(cell[f"probability_{rank}"]) for rank in (1, 2, 3)]
                assert np.float32(line["probabilities"]).tolist() == row["probabilities"]
                assert line["features"] == [float(cell[f"features_{place}"]) for place in range(96)]
                assert np.float32(line["features"]).tolist() == row["features"]
        assert lines[5] == {
            "path": "photos/05.png", "labels": [], "probabilities": [], "features": None,
            "error": "images: 'photos/05.png' is not an image that is read: it seems to be text",
        }  # fmt: skip

    def test_features_come_back_as_they_were(self, capsys, here, model):
        typed(capsys, "photos", *MODEL, "--features", "--output", "out.jsonl")
        written = np.array([row["features"] for row in rows_of("out.jsonl")], np.float32)
        wanted, _ = model.answer(embedded.preprocess(embedded.test_images()[0][:10], model))
        np.testing.assert_array_equal(written, wanted)

    def test_into_a_pipe_go_lines(self, capsys, here):
        code, out, err = typed(capsys, "photos", *MODEL)
        assert (code, err) == (0, "")
        assert [json.loads(line)["path"] for line in out.splitlines()] == [f"photos/{number:02}.png" for number in range(10)]

    @pytest.mark.parametrize("suffix", ["jsonl", "csv", "parquet"])
    def test_a_name_that_is_no_utf8_does_not_end_the_run(self, capsys, here, suffix):
        (here / "photos" / "00.png").rename(os.fsdecode(b"photos/\xff\n.png"))
        code, _, err = typed(capsys, "photos", *MODEL, "--output", f"out.{suffix}")
        assert (code, err) == (0, "")
        paths = sorted(map(str, Path("photos").iterdir()))
        assert outputs.failures(Path(f"out.{suffix}"), paths) == 0
        with pytest.raises(reforg.ConfigError, match="is finished, but of other images"):
            outputs.failures(Path(f"out.{suffix}"), paths[1:])
        assert b"\\udcff" in Path(f"out.{suffix}").read_bytes()
        if suffix == "jsonl":
            assert os.fsencode(rows_of("out.jsonl")[-1]["path"]) == b"photos/\xff\n.png"

    def test_names_of_the_classes_come_from_a_file(self, capsys, here):
        (here / "names.txt").write_text("\n".join(f"kind {number}" for number in range(10)))
        _, out, _ = typed(capsys, "photos/00.png", *MODEL, "--labels", "names.txt")
        assert json.loads(out)["labels"][0] == "kind 9"

    def test_settings_and_preparation_change_the_answer(self, capsys, here):
        _, plain, _ = typed(capsys, "photos/00.png", *MODEL)
        _, kept, _ = typed(capsys, "photos/00.png", *MODEL, "--set", "keep_rate=0.5", "--set", "drop_loc=[2,5]")
        _, shifted, _ = typed(capsys, "photos/00.png", *MODEL, "--preprocess", "mean=0.5")
        assert len({plain, kept, shifted}) == 3


def interrupted_after(monkeypatch, batches, reason=KeyboardInterrupt):
    """From now on, until undone, a run ends after so many batches."""
    whole = pipeline.Classifier._answers

    def ending(self, images):
        nonlocal batches
        batches -= 1
        if batches < 0:
            raise reason
        return whole(self, images)

    monkeypatch.setattr(pipeline.Classifier, "_answers", ending)


class TestUnfinished:
    """What is there after a run ended early, and how it goes on."""

    ASKED = ("photos", *MODEL, "--batch-size", "2", "--output", "out.jsonl")

    @pytest.fixture
    def whole(self, capsys, here):
        """What an uninterrupted run writes; one of the images is broken."""
        (here / "photos" / "03.png").write_bytes(b"")
        typed(capsys, *self.ASKED)
        content = (here / "out.jsonl").read_bytes()
        (here / "out.jsonl").unlink()
        return content

    @pytest.fixture
    def unfinished(self, capsys, here, whole):
        """The journal of a run that was interrupted after six images."""
        with pytest.MonkeyPatch.context() as patch:
            interrupted_after(patch, 3)
            code, out, err = typed(capsys, *self.ASKED)
        assert (code, out) == (130, "")
        assert err == f"reforg: 6 of 10 answers are kept in '{JOURNAL}': --resume goes on\nreforg: interrupted\n"
        assert not (here / "out.jsonl").exists()
        return here / JOURNAL

    def test_it_goes_on_where_it_was(self, capsys, monkeypatch, whole, unfinished):
        done = []
        prepared = pipeline.prepared
        monkeypatch.setattr(pipeline, "prepared", lambda source, record: done.append(source) or prepared(source, record))
        code, out, err = typed(capsys, *self.ASKED, "--resume")
        assert (code, out, err) == (1, "out.jsonl: 10 images\n", "reforg: 1 of 10 images could not be read\n")
        assert Path("out.jsonl").read_bytes() == whole
        assert {source for source in done if isinstance(source, str)} == {f"photos/{number:02}.png" for number in (6, 7, 8, 9)}
        assert not unfinished.exists()

    def test_wherever_the_journal_was_cut(self, capsys, here, whole, unfinished):
        content = unfinished.read_bytes()
        header = content.index(b"\n") + 1
        second = content.index(b"\n", header) + 1
        for end in (0, 1, header - 1, header, header + 1, second, second + 20, len(content) - 1, len(content)):
            unfinished.write_bytes(content[:end])
            assert typed(capsys, *self.ASKED, "--resume", "--overwrite")[0] == 1
            assert Path("out.jsonl").read_bytes() == whole, f"cut at byte {end}"
            assert not unfinished.exists()

    def test_a_damaged_row_is_computed_again(self, capsys, whole, unfinished):
        content = unfinished.read_bytes()
        unfinished.write_bytes(content.replace(b"photos/02.png", b"photos/ 2.png", 1))
        typed(capsys, *self.ASKED, "--resume")
        assert Path("out.jsonl").read_bytes() == whole

    def test_without_a_word_nothing_is_thrown_away(self, capsys, unfinished):
        content = unfinished.read_bytes()
        code, _, err = typed(capsys, *self.ASKED)
        assert code == 2
        assert err == (
            f"reforg: output 'out.jsonl': an unfinished run of it is kept in '{JOURNAL}': --resume goes on, "
            "--overwrite starts anew\n"
        )
        assert unfinished.read_bytes() == content
        assert typed(capsys, *self.ASKED, "--overwrite")[0] == 1

    @pytest.mark.parametrize(
        ("change", "told"),
        [
            (["--top-k", "3"], "--top-k was 5, is 3"),
            (["--dtype", "float64"], "--dtype was 'float32', is 'float64'"),
            (["--batch-size", "3"], "--batch-size was 2, is 3"),
            (["--features"], "--features was False, is True"),
            (["--set", "keep_rate=0.5"], "--set was {}, is {'keep_rate': 0.5}"),
            (["--weights", "synthetic"], "--weights was None, is 'synthetic'"),
            (["--preprocess", "mean=0.5"], "--preprocess was {"),
            (["photos/more.png"], "images was '10 with sha256 "),
        ],
        ids=lambda value: value[0].strip("-") if isinstance(value, list) else "",
    )
    def test_what_was_asked_otherwise_is_told(self, capsys, unfinished, change, told):
        content = unfinished.read_bytes()
        code, _, err = typed(capsys, *self.ASKED, "--resume", *change)
        assert code == 2
        assert err.startswith(f"reforg: output 'out.jsonl': its unfinished run was asked otherwise, {told}")
        assert unfinished.read_bytes() == content

    def test_a_finished_output_is_neither_lost_nor_computed_again(self, capsys, here, whole):
        typed(capsys, *self.ASKED)
        code, out, err = typed(capsys, *self.ASKED)
        assert (code, err) == (2, "reforg: output 'out.jsonl' is there already: --overwrite replaces it\n")
        code, out, err = typed(capsys, *self.ASKED, "--resume")
        assert (code, out) == (1, "out.jsonl: finished, 10 images, nothing to resume\n")
        assert err == "reforg: 1 of 10 images could not be read\n"
        assert Path("out.jsonl").read_bytes() == whole

    def test_one_output_is_written_by_one_process(self, capsys, here):
        with open_journal(Path("out.jsonl")):
            code, _, err = typed(capsys, *self.ASKED, "--resume")
        assert (code, err) == (2, "reforg: output 'out.jsonl' is being written by another process\n")

    def test_a_full_disk_keeps_what_was_finished(self, here, whole):
        limited = ["bash", "-c", 'ulimit -f 2 && exec "$@"', "limited", *command(*self.ASKED)]
        done = subprocess.run(limited, check=False, capture_output=True, text=True)
        assert done.returncode == 2
        assert done.stderr.startswith("reforg: output 'out.jsonl' cannot be written: File too large; ")
        assert done.stderr.endswith(f"of 10 answers are kept in '{JOURNAL}': --resume goes on\n")
        again = subprocess.run(command(*self.ASKED, "--resume"), check=False, capture_output=True, text=True)
        assert again.returncode == 1
        assert Path("out.jsonl").read_bytes() == whole

    def test_a_disk_that_is_full_at_the_end_leaves_no_half_file(self, capsys, monkeypatch, here, whole):
        def full(lines, file, columns):
            file.write(next(lines))
            raise OSError(28, "No space left on device")

        with monkeypatch.context() as patch:
            patch.setitem(outputs.FORMATS, ".jsonl", outputs.Format(full, outputs.FORMATS[".jsonl"].rows))
            code, _, err = typed(capsys, *self.ASKED)
        assert (code, err) == (
            2,
            "reforg: output 'out.jsonl' cannot be written: No space left on device; "
            f"10 of 10 answers are kept in '{JOURNAL}': --resume goes on\n",
        )
        assert sorted(path.name for path in here.iterdir()) == [JOURNAL, "photos"]
        typed(capsys, *self.ASKED, "--resume")
        assert Path("out.jsonl").read_bytes() == whole

    @pytest.mark.parametrize("suffix", [pytest.param("csv", marks=pytest.mark.full), "parquet"])
    def test_a_killed_run_ends_as_one_that_was_left_alone(self, tmp_path, suffix):
        write_images(tmp_path / "images", 200, 20)
        asked = ["images", *MODEL, "--batch-size", "4", "--features", "--output"]
        killed([*asked, f"again.{suffix}"], tmp_path, tmp_path / f".again.{suffix}.unfinished", 60)
        assert not (tmp_path / f"again.{suffix}").exists()
        for name in (f"again.{suffix}", f"whole.{suffix}"):
            done = subprocess.run(command(*asked, name, "--resume"), cwd=tmp_path, check=False, capture_output=True, text=True)
            assert (done.returncode, done.stdout) == (1, f"{name}: 200 images\n")
            assert done.stderr == "reforg: 20 of 200 images could not be read\n"
        assert (tmp_path / f"again.{suffix}").read_bytes() == (tmp_path / f"whole.{suffix}").read_bytes()
        assert sorted(path.name for path in tmp_path.iterdir()) == [f"again.{suffix}", "images", f"whole.{suffix}"]


def test_every_kind_of_broken_file_is_a_row(capsys, here):
    for name, content in broken():
        (here / "photos" / name).write_bytes(content)
    code, out, err = typed(capsys, "photos", *MODEL)
    assert (code, err) == (1, "reforg: 20 of 30 images could not be read\n")
    for row in map(json.loads, out.splitlines()):
        assert (row["error"] is None) == row["path"][7:9].isdigit()
        assert row["error"] is None or row["path"] in row["error"]


class TestTerminal:
    """What a person sees."""

    def shown(self, *arguments, cwd):
        """Exit code and what a terminal of 100 columns shows."""
        ours, theirs = pty.openpty()
        environment = os.environ | {"COLUMNS": "100", "TERM": "xterm", "NO_COLOR": "1"}
        with subprocess.Popen(command(*arguments), cwd=cwd, stdout=theirs, stderr=theirs, env=environment) as process:
            os.close(theirs)
            chunks = []
            while True:
                try:
                    chunks.append(os.read(ours, 65536))
                except OSError:  # the other end is closed
                    break
        os.close(ours)
        return process.returncode, b"".join(chunks).decode()

    def test_a_table_and_a_bar(self, here):
        (here / "photos" / "05.png").write_bytes(b"no image")
        code, text = self.shown("photos", *MODEL, "--top-k", "2", cwd=here)
        assert code == 1
        assert "images/s" in text
        (first,) = [line for line in text.splitlines() if line.startswith("photos/00.png")]
        assert "Ankle boot" in first
        assert "Sneaker" in first
        assert "%" in first
        assert "it seems to be text" in " ".join(text.split())

    def test_features_have_no_room_in_a_table(self, here):
        code, text = self.shown("photos", *MODEL, "--features", cwd=here)
        assert code == 2
        assert text == "reforg: --features needs --output, or a pipe: a table has no room for them\r\n"


MISTAKES = [
    (["photos"], "Missing option '--model'."),
    ([*MODEL], "Missing argument 'IMAGE|FOLDER...'."),
    (["photos", "--model", "evit_fmnst"], "there is no model 'evit_fmnst'; did you mean evit_fmnist?"),
    (
        ["photos", "--model", "deit_tiny_patch16_224"],
        "deit_tiny_patch16_224 comes without weights: give a path, a Hub id or 'synthetic'; `reforg info` tells where they are",
    ),
    (
        ["photos", *MODEL, "--backend", "numpi"],
        "there is no backend 'numpi'; did you mean numpy? (installed: cupy, jax, numpy, torch)",
    ),
    (
        ["photos", *MODEL, "--dtype", "float46"],
        "there is no dtype 'float46'; did you mean float64? (known: float64, float32, float16, bfloat16)",
    ),
    (
        ["photos", *MODEL, "--device", "cuda"],
        "backend 'numpy' cannot compute in float32 on device 'cuda': no device 'cuda'; numpy has only 'cpu'",
    ),
    (["photos", *MODEL, "--weights", "no.pth"], "weights: there is no file 'no.pth'"),
    (["photos", *MODEL, "--set", "keep_rate"], "--set wants KEY=VALUE, as in --set keep_rate=0.5, got 'keep_rate'"),
    (["photos", *MODEL, "--set", "keep_rat=0.5"], "evit_fmnist has no setting 'keep_rat'; did you mean keep_rate?"),
    (["photos", *MODEL, "--set", "keep_rate=1.5"], "keep_rate must lie in (0, 1], got 1.5"),
    (["photos", *MODEL, "--set", "keep_rate=most"], "keep_rate must lie in (0, 1], got 'most'"),
    (["photos", *MODEL, "--set", "backend=numpy"], "evit_fmnist has no setting 'backend'"),
    (
        ["photos", *MODEL, "--preprocess", "crop=1"],
        "preprocessing has no field 'crop'; did you mean crop_size? (known: size, resize, resize_size, crop_ratio, "
        "crop_mode, interpolation, mean, std, channels, colour, crop_size, crop_offset)",
    ),
    (["photos", *MODEL, "--preprocess", "std=0"], "preprocessing std must be positive, got 0.0"),
    (["photos", *MODEL, "--preprocess", "size=30"], "evit_fmnist: image 30x30 does not divide into 4x4 patches"),
    (["photos", *MODEL, "--preprocess", "channels=3"], "evit_fmnist: images have 3 channels instead of 1 (shape (1, 3, 28, 28))"),
    (["photos", *MODEL, "--top-k", "0"], "Invalid value for '--top-k'…"),
    (["photos", *MODEL, "--top-k", "11"], "top_k must lie between 1 and evit_fmnist's 10 classes, got 11"),
    (["photos", *MODEL, "--batch-size", "0"], "Invalid value for '--batch-size'…"),
    (["photos", *MODEL, "--threads", "0"], "Invalid value for '--threads'…"),
    (["photos", *MODEL, "--labels", "no.txt"], "labels: 'no.txt' does not exist"),
    (["photos", *MODEL, "--labels", "three.txt"], "labels: 'three.txt' names 3 classes, the model has 10"),
    (
        ["photos", *MODEL, "--set", "num_classes=0"],
        "evit_fmnist has no classes (num_classes is 0): only its features can be asked for",
    ),
    (["photos", *MODEL, "--output", "out.xlsx"], "output 'out.xlsx' must end in .jsonl, .csv or .parquet"),
    (["photos", *MODEL, "--output", "no/out.csv"], "output 'no/out.csv' cannot be written: there is no folder 'no'"),
    (["photos", *MODEL, "--output", "folder.csv"], "output 'folder.csv' is a folder"),
    (["photos", *MODEL, "--output", f"{'a' * 300}.csv"], f"output '{'a' * 300}.csv' cannot be written: …"),
    (["photos", *MODEL, "--resume"], "--resume and --overwrite are about a file: give --output too"),
    (["fotos", *MODEL], "there is no file or folder 'fotos'"),
    (["fotos/*.png", *MODEL], "no image matches 'fotos/*.png'"),
    (
        ["folder.csv", *MODEL],
        "there is no image in folder 'folder.csv' (known by .jpg, .jpeg, .jpe, .jfif, .png, .webp, .gif, .bmp, .dib, .tif, "
        ".tiff, .avif, .ppm, .pgm, .pbm, .pnm)",
    ),
    (["-", *MODEL], "standard input lists no image"),
    (["photos", *MODEL, "--output", "link.csv"], "output 'link.csv' is a link, a pipe or a device: give the name of a file"),
    (["photos", *MODEL, "--batch-size", "9" * 20], f"batch_size must be at most 16,777,216, got {'9' * 20}"),
    (["photos", *MODEL, "--set", "depth=1000000000"], "depth must be at most 1,024, got 1000000000"),
    (["photos", *MODEL, "--set", f"keep_rate={'[' * 990}"], f"a value nested so deep is no setting: '{'[' * 40}'..."),
    (
        ["photos", *MODEL, "--set", f"keep_rate={'[' * 33}{']' * 33}"],
        f"a value nested so deep is no setting: '{'[' * 33}{']' * 7}'...",
    ),
    (["photos", *MODEL, "--preprocess", "self=1"], "preprocessing has no field 'self'…"),
    (["photos", *MODEL, "--preprocess", "crop=1,2"], "preprocessing has no field 'crop'…"),
    (
        ["photos", *MODEL, "--preprocess", "crop_ratio"],
        "--preprocess wants KEY=VALUE, as in --preprocess crop_ratio=1.0, got 'crop_ratio'",
    ),
    (["photos", *MODEL, "--preprocess", "crop_size=65536"], "preprocessing crop_size 65536x65536 has more than 67,108,864 pixels"),
    (["photos", *MODEL, "--preprocess", "crop_ratio=5e-324"], "preprocessing crop_ratio must lie in (0, 1], got 5e-324"),
    (["photos", *MODEL, "--preprocess", "std=1e-46"], "preprocessing std must be positive, got 1e-46"),
]


@pytest.mark.parametrize(("arguments", "sentence"), MISTAKES, ids=[" ".join(arguments)[:60] for arguments, _ in MISTAKES])
def test_a_mistake_gets_one_sentence_and_nothing_is_written(capsys, monkeypatch, here, arguments, sentence):
    (here / "folder.csv").mkdir()
    (here / "three.txt").write_text("a\nb\nc\n")
    (here / "link.csv").symlink_to("elsewhere.csv")
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO()))
    before = sorted(here.rglob("*"))
    output = [] if "--output" in arguments or "--resume" in arguments else ["--output", "out.jsonl"]
    code, out, err = typed(capsys, *arguments, *output)
    assert (code, out) == (2, "")
    assert says(err, f"reforg: {sentence}"), err
    assert sorted(here.rglob("*")) == before


@pytest.mark.parametrize("closed", [">&-", "2>&-", "| head -c 9 >/dev/null; exit ${PIPESTATUS[0]}"])
def test_a_stream_that_is_closed_is_no_traceback(here, closed):
    """Nobody listens: the answers go nowhere, and the work is done all the same."""
    line = f"{sys.executable} -m reforg classify photos --model evit_fmnist --features {closed}"
    done = subprocess.run(["bash", "-c", line], capture_output=True, text=True, check=False)
    assert "Traceback" not in done.stderr
    assert done.returncode == 0


def test_parquet_without_pyarrow_says_how_to_get_it(capsys, monkeypatch, here):
    monkeypatch.setitem(sys.modules, "pyarrow.parquet", None)
    code, _, err = typed(capsys, "photos", *MODEL, "--output", "out.parquet")
    assert (code, err) == (2, "reforg: a .parquet output needs pyarrow: pip install 'reforg[parquet]'\n")
