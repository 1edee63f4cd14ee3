"""Names of classes: ImageNet's own, and those of a user's file, whatever form it has and whatever is wrong with it."""

import codecs
import gzip
import json
import os
import tracemalloc
from importlib import resources
from pathlib import Path

import pytest

import reforg
from reforg.catalog import labels


@pytest.fixture
def written(tmp_path):
    """A file of the given content, and the beginning of every error about it."""

    def write(content: str | bytes, name: str = "names.txt") -> tuple[str, str]:
        path = tmp_path / name
        path.write_bytes(content if isinstance(content, bytes) else content.encode())
        return str(path), f"labels: '{path}' "

    return write


def refused(path: object) -> str:
    with pytest.raises(reforg.ConfigError) as error:
        labels.read(path)
    return str(error.value)


class TestImageNet:
    """The lists that come with the package."""

    @pytest.mark.parametrize(
        ("number", "name"),
        [
            (0, "tench, Tinca tinca"),
            (1, "goldfish, Carassius auratus"),
            (207, "golden retriever"),
            (281, "tabby, tabby cat"),
            (285, "Egyptian cat"),
            (388, "giant panda, panda, panda bear, coon bear, Ailuropoda melanoleuca"),
            (850, "teddy, teddy bear"),
            (999, "toilet tissue, toilet paper, bathroom tissue"),
        ],
    )
    def test_the_well_known_thousand(self, number, name):
        assert labels.builtin(1000)[number] == name

    def test_two_cranes_are_no_mistake(self):
        thousand = labels.builtin(1000)
        assert [number for number, name in enumerate(thousand) if name == "crane"] == [134, 517]
        assert len(set(thousand)) == 999

    def test_googles_21843(self):
        many = labels.builtin(21843)
        assert len(many) == 21843
        assert (many[0], many[9205], many[15027]) == ("organism, being", "picture, image, icon, ikon", "bleacher")
        assert "teddy, teddy bear" not in many
        assert set(labels.builtin(1000)) - set(many) == {"teddy, teddy bear"}

    @pytest.mark.parametrize("number", [0, 1, 10, 999, 21841, 115217])
    def test_no_other_number_of_classes_has_names(self, number):
        assert labels.builtin(number) is None

    def test_every_line_is_marked_and_fit_to_be_read_as_a_file(self):
        lines = gzip.decompress((resources.files("reforg") / "data" / "imagenet_labels.txt.gz").read_bytes()).decode().splitlines()
        assert {line[0] for line in lines} == set("* +")
        assert all(line[1:].split() == line[1:].split(" ") for line in lines)

    def test_its_room_in_the_wheel_is_bounded(self):
        assert len((resources.files("reforg") / "data" / "imagenet_labels.txt.gz").read_bytes()) < 220_000


SMALL = {"weights": "synthetic", "embed_dim": 24, "depth": 1, "num_heads": 3, "img_size": 32}


class TestModels:
    """A model's labels: the Hub's (tests/weights/test_hub.py), else its own, else ImageNet's."""

    def test_a_thousand_classes_are_imagenets(self):
        assert reforg.create_model("deit_tiny_patch16_224", **SMALL).labels == labels.builtin(1000)

    def test_a_tag_may_bring_21843(self):
        model = reforg.create_model("vit_tiny_patch16_224.augreg_in21k", **SMALL)
        assert model.labels == labels.builtin(21843)

    def test_channels_do_not_matter(self):
        assert reforg.create_model("deit3_small_patch16_224", **SMALL, in_chans=1).labels == labels.builtin(1000)

    @pytest.mark.parametrize("number", [0, 10, 1001])
    def test_of_another_number_nothing_is_known(self, number):
        assert reforg.create_model("vit_tiny_patch16_224", **SMALL, num_classes=number).labels is None

    def test_the_embedded_ones_have_their_own(self):
        assert reforg.create_model("evit_fmnist").labels[9] == "Ankle boot"

    def test_the_embedded_ones_never_have_imagenets(self):
        assert reforg.create_model("shunted_fmnist", weights="synthetic", num_classes=1000).labels is None


class TestFiles:
    """Every form in which people keep names."""

    @pytest.mark.parametrize(
        "content",
        [
            "tench\ngoldfish\ngreat white shark",
            "tench\ngoldfish\ngreat white shark\n",
            "tench\r\ngoldfish\r\ngreat white shark\r\n\r\n  \r\n",
            "tench\rgoldfish\rgreat white shark\r",
            "  tench \ngoldfish\t\ngreat   white\tshark\n\n\n",
            "n01440764 tench\nn01443537 goldfish\nn01484850 great white shark\n",
            "n01440764\ttench\nn01443537\tgoldfish\nn01484850\tgreat white shark\n",
            '["tench", "goldfish", "great white shark"]',
            ' \n{"0": "tench", "2": "great white shark", "1": "goldfish"}\n',
            '{"0": ["n01440764", "tench"], "1": ["n01443537", "goldfish"], "2": ["n01484850", "great white shark"]}',
            '[["n01440764", "tench"], "goldfish", "great white shark"]',
            '{"model_type": "vit", "id2label": {"0": "tench", "1": "goldfish", "2": "great white shark"}, "hidden_size": 768}',
            '{"id2label": ["tench", "goldfish", "great white shark"]}',
        ],
    )
    @pytest.mark.parametrize("mark", [b"", codecs.BOM_UTF8])
    def test_three_names(self, written, content, mark):
        path, _ = written(mark + content.encode())
        assert labels.read(path) == ("tench", "goldfish", "great white shark")

    def test_a_path_object_does_and_any_script(self, tmp_path):
        (tmp_path / "n").write_text("Katze\nHund, Köter\n猫\nhalf\u200cspace\n", encoding="utf-8")
        assert labels.read(tmp_path / "n") == ("Katze", "Hund, Köter", "猫", "half\u200cspace")

    def test_a_name_may_stand_twice(self, written):
        assert labels.read(written("crane\ncrane\n")[0]) == ("crane", "crane")

    def test_synsets_alone_are_the_names(self, written):
        assert labels.read(written("n01440764\nn01443537\n")[0]) == ("n01440764", "n01443537")

    def test_a_synset_before_some_names_only_is_part_of_them(self, written):
        assert labels.read(written("n01440764 tench\ngoldfish\n")[0]) == ("n01440764 tench", "goldfish")

    def test_the_built_in_ones_go_through_a_file(self, written):
        names = labels.builtin(21843)
        assert labels.read(written("\n".join(names))[0]) == names
        assert labels.read(written(json.dumps(dict(enumerate(names))))[0]) == names


class TestMistakes:
    """Each is one sentence that begins with the file."""

    @pytest.mark.parametrize(
        ("content", "what"),
        [
            ("", "names no class"),
            ("\n \r\n\n", "names no class"),
            ("[]", "names no class"),
            ("{}", "names no class"),
            ('{"id2label": {}}', "names no class"),
            ("tench\n\nshark\n", "has no name for class 1: an empty one"),
            ('["tench", " "]', "has no name for class 1: an empty one"),
            ('{"0": "tench", "2": "shark"}', "names 2 classes, but not class 1"),
            ('{"1": "tench", "2": "shark"}', "names 2 classes, but not class 0"),
            ('{"tench": 0, "shark": 1}', "has the key 'tench', wanted the numbers of the classes"),
            ('{"00": "tench"}', "has the key '00', wanted the numbers of the classes"),
            ('{"-1": "tench"}', "has the key '-1', wanted the numbers of the classes"),
            ('{"٣": "tench"}', "has the key '٣', wanted the numbers of the classes"),
            ('{"0": "tench", "0": "shark"}', "has the key '0' twice"),
            ('{"0": 5}', "names class 0 5, wanted text"),
            ('{"0": ["tench", "goldfish"]}', "names class 0 ['tench', 'goldfish'], wanted text"),
            ('["tench", null]', "names class 1 None, wanted text"),
            ('{"id2label": "tench"}', "has 'tench' under 'id2label', wanted an object"),
            ('["tench", "goldfish"', "begins as JSON and is none: Expecting ',' delimiter: line 1 column 21 (char 20)"),
            ("{0: 'tench'}", "begins as JSON and is none: "),
            ("tench\ngold\x1b[31mfish\n", "has a character that cannot be shown, '\\x1b', in the name of class 1"),
            ('["tench\\u0000"]', "has a character that cannot be shown, '\\x00', in the name of class 0"),
            ('["\\ud800"]', "has a character that cannot be shown, '\\ud800', in the name of class 0"),
            (b"tench\ngoldfis\xe9\n", "is not text in UTF-8 (byte 13)"),
            ("tench\n".encode("utf-16"), "is not text in UTF-8 (byte 0)"),
            ("[" * 100_000, "is nested too deeply"),
            ('{"0":' * 100_000, "is nested too deeply"),
            ("[" + "1" * 5000 + "]", "begins as JSON and is none: Exceeds the limit (4300 digits)"),
        ],
    )
    def test_content(self, written, content, what):
        path, where = written(content)
        assert refused(path).startswith(where + what)

    def test_a_file_that_is_not_there(self, tmp_path):
        assert refused(tmp_path / "x.txt") == f"labels: '{tmp_path / 'x.txt'}' does not exist"

    def test_a_folder(self, tmp_path):
        assert refused(tmp_path) == f"labels: '{tmp_path}' is a folder, wanted a file of one name a line, or JSON"

    @pytest.mark.skipif(os.name != "posix" or os.geteuid() == 0, reason="everything is readable to this user")
    def test_a_file_that_may_not_be_read(self, written):
        path, where = written("tench")
        Path(path).chmod(0)
        assert refused(path) == f"{where}cannot be read: Permission denied"

    def test_a_path_that_no_file_can_have(self):
        assert refused("a\0b") == r"labels: 'a\x00b' cannot be read: embedded null byte"
        assert "File name too long" in refused("a" * 300)

    @pytest.mark.parametrize("path", [None, 5, ["a", "b"], b"names.txt"])
    def test_what_is_no_path(self, path):
        assert refused(path) == f"labels: wanted the path of a file, got {path!r}"

    @pytest.mark.skipif(not Path("/dev/zero").exists(), reason="no endless file on this system")
    def test_an_endless_file_costs_no_more_than_the_largest_allowed(self):
        tracemalloc.start()
        assert refused("/dev/zero") == "labels: '/dev/zero' is larger than 4 MB"
        assert tracemalloc.get_traced_memory()[1] < 16 * 2**20
        tracemalloc.stop()

    def test_a_pipe_is_not_waited_for(self, tmp_path):
        os.mkfifo(tmp_path / "pipe")
        with pytest.raises(reforg.ConfigError, match="is a pipe, wanted a file"):
            labels.read(tmp_path / "pipe")

    def test_the_largest_file_is_read_and_no_larger_one(self, written):
        assert labels.read(written("x" * labels.LARGEST)[0]) == ("x" * labels.LARGEST,)
        path, where = written("x" * (labels.LARGEST + 1))
        assert refused(path) == f"{where}is larger than 4 MB"

    def test_more_or_fewer_names_than_classes(self):
        labels.check(("a", "b"), 2, "x.txt")
        with pytest.raises(reforg.ConfigError, match=r"^labels: 'x\.txt' names 10 classes, the model has 1000$"):
            labels.check(("a",) * 10, 1000, "x.txt")
