"""`reforg verify` as a user types it: a port's values in, the first wrong operation out, and an exit code that scripts can read."""

import json
import os
import subprocess
import sys
import zipfile

import numpy as np
import pytest
import terminal
from PIL import Image
from safetensors.numpy import save_file
from sentences import says

import reforg
from reforg import cli
from reforg.models import embedded
from reforg.verification.error_model.precision import PRECISIONS

MODEL = ("--model", "evit_fmnist")
GIVEN = (*MODEL, "--images", "images.npy")


def typed(capsys, *arguments):
    """Exit code, standard output, standard error."""
    return terminal.typed(capsys, "verify", *arguments)


@pytest.fixture(scope="module")
def images():
    return reforg.preprocess(embedded.test_images()[0][:2], reforg.create_model("evit_fmnist"))


@pytest.fixture(scope="module")
def right(images):
    """What a right port in float32 puts out: what hooks see of its modules, and the logits."""
    trace = reforg.create_model("evit_fmnist").trace(images)
    hooked = ("patch_embed", "norm1", "qkv", "proj", "attn", "norm2", "fc1", "act", "fc2", "mlp", "norm", "head", "logits")
    return {name: value for name, value in trace.items() if name.rpartition(".")[2] in hooked or name[-1].isdigit()}


@pytest.fixture(scope="module")
def wrong(right):
    """The same of a port whose last norm has another epsilon."""
    x, weights = right["blocks.11"], reforg.create_model("evit_fmnist").weights
    centred = x - x.mean(axis=-1, keepdims=True)
    normed = centred / np.sqrt(x.var(axis=-1, keepdims=True) + 1e-3) * weights["norm.weight"] + weights["norm.bias"]
    head = normed[:, 0] @ weights["head.weight"].T + weights["head.bias"]
    return right | {"norm": normed, "head": head, "logits": head}


@pytest.fixture
def here(tmp_path, monkeypatch, images, right, wrong):
    """A folder with both ports' files, the images, and the pictures that they were made of."""
    monkeypatch.chdir(tmp_path)
    np.save("images.npy", images)
    np.savez("right.npz", **right)
    np.savez("wrong.npz", **wrong)
    (tmp_path / "photos").mkdir()
    for number, pixels in enumerate(embedded.test_images()[0][:2]):
        Image.fromarray(pixels).save(tmp_path / "photos" / f"{number}.png")
    return tmp_path


class TestAnswers:
    """0: it computes the model; 1: it does not, and this is where."""

    def test_a_right_port(self, capsys, here, right):
        code, out, err = typed(capsys, "right.npz", *GIVEN)
        assert (code, err) == (0, "")
        assert out.startswith(f"equal: {len(right)} values compared, all within the rounding of float32\n")
        assert f"a trace of {len(right)} arrays from right.npz, in float32" in out
        assert all(line == line.rstrip() and len(line) <= 80 for line in out.splitlines())

    def test_a_wrong_one(self, capsys, here):
        code, out, err = typed(capsys, "wrong.npz", *GIVEN)
        assert (code, err) == (1, "")
        assert out.startswith("diverges: 1 fault, in norm\n")
        assert "epsilon 1e-3" in out

    def test_the_images_may_be_pictures(self, capsys, here):
        assert typed(capsys, "right.npz", *MODEL, "--images", "photos")[0] == 0
        assert typed(capsys, "right.npz", *MODEL, "--images", "photos/0.png", "--images", "photos/1.png")[0] == 0
        assert typed(capsys, "right.npz", *MODEL, "--images", "photos/1.png", "--images", "photos/0.png")[0] == 1

    def test_synthetic_ones(self, capsys, here):
        for count in ("2", "3"):
            assert cli.run(["trace", "synthetic:4", *MODEL, "--batch", count, "--output", "port.safetensors"]) == 0
            capsys.readouterr()
            batch = () if count == "2" else ("--batch", count)
            assert typed(capsys, "port.safetensors", *MODEL, "--images", "synthetic:4", *batch)[0] == 0
            assert typed(capsys, "port.safetensors", *MODEL, "--images", "port.safetensors")[0] == 0, "which holds them"
            assert typed(capsys, "port.safetensors", *MODEL, "--images", "synthetic:5", *batch)[0] == 1

    def test_settings_and_weights_are_the_models(self, capsys, here):
        asked = ("--model", "deit3_fmnist", "--weights", "synthetic:3", "--set", "depth=2", "--set", "num_classes=4")
        assert cli.run(["trace", "images.npy", *asked, "--output", "port.npz"]) == 0
        capsys.readouterr()
        assert typed(capsys, "port.npz", *asked, "--images", "images.npy")[0] == 0
        assert typed(capsys, "port.npz", *asked, "--set", "init_values=0.1", "--images", "images.npy")[0] == 0
        other = [word.replace("synthetic:3", "synthetic:4") for word in asked]
        assert typed(capsys, "port.npz", *other, "--images", "images.npy")[0] == 1

    def test_weights_of_float64_are_not_rounded(self, capsys, here):
        weights = reforg.create_model("deit3_fmnist", depth=1, weights="synthetic:3", dtype="float64").weights
        reforg.save_weights({name: value + 1e-9 for name, value in weights.items()}, "weights.npz")
        asked = ("--model", "deit3_fmnist", "--weights", "weights.npz", "--set", "depth=1")
        assert cli.run(["trace", "images.npy", *asked, "--dtype", "float64", "--output", "port.npz"]) == 0
        capsys.readouterr()
        assert typed(capsys, "port.npz", *asked, "--images", "images.npy", "--dtype", "float64")[0] == 0

    @pytest.mark.parametrize("dtype", PRECISIONS)
    def test_precisions(self, capsys, here, right, dtype):
        """What is right in float32 is right in whatever rounds more, and wrong in float64."""
        np.savez("few.npz", **{name: right[name] for name in ("patch_embed", "blocks.0.norm1", "blocks.0.attn.qkv")})
        code, out, _ = typed(capsys, "few.npz", *GIVEN, "--dtype", dtype)
        assert code == (dtype == "float64")
        assert f"in {dtype}" in out
        assert ("all values are float32, yet" in " ".join(out.split())) == (dtype == "float64")

    @pytest.mark.parametrize("port", ["right", "wrong"])
    def test_the_logits_alone(self, capsys, here, request, port):
        np.savez("port.npz", logits=request.getfixturevalue(port)["logits"])
        code, out, err = typed(capsys, "port.npz", *GIVEN)
        assert (code, err) == (int(port == "wrong"), "")
        assert "logits" in out

    def test_values_that_are_not_finite(self, capsys, here, right):
        spoiled = right["blocks.1.norm2"].copy()
        spoiled[1, 2, 3] = np.nan
        np.savez("port.npz", **(right | {"blocks.1.norm2": spoiled}))
        code, out, err = typed(capsys, "port.npz", *GIVEN)
        assert (code, err) == (1, "")
        assert out.splitlines()[0].endswith("in blocks.1.norm2")

    def test_a_value_of_the_wrong_shape(self, capsys, here, right):
        np.savez("port.npz", **(right | {"blocks.1.norm2": right["blocks.1.norm2"][:, :-1]}))
        code, out, _ = typed(capsys, "port.npz", *GIVEN)
        assert code == 1
        assert out.splitlines()[0].endswith("in blocks.1.norm2")


class TestOptions:
    """Names, files and silence."""

    def test_wrappers_and_other_spellings_need_no_word(self, capsys, here, right):
        np.savez("port.npz", **{f"module.{name}": value for name, value in right.items()})
        code, out, _ = typed(capsys, "port.npz", *GIVEN)
        assert code == 0
        assert "names were read without their prefix 'module.'" in out

    def test_rename(self, capsys, here, right):
        theirs = {name.replace("blocks.", "L").replace(".norm1", ".ln_1"): value for name, value in right.items()}
        save_file({name: np.ascontiguousarray(value) for name, value in theirs.items()}, "port.safetensors")
        asked = ("--rename", "L*.ln_1=blocks.*.norm1", "--rename", "L*=blocks.*")
        code, out, _ = typed(capsys, "port.safetensors", *GIVEN, *asked)
        assert code == 0
        assert f"{len(right)} values compared" in out
        assert "unknown" not in out
        code, out, _ = typed(capsys, "port.safetensors", *GIVEN)
        assert code == 0
        assert "unknown" in out

    def test_reports_in_files(self, capsys, here):
        code, out, _ = typed(capsys, "wrong.npz", *GIVEN, "--json", "report.json", "--html", "report.html")
        assert code == 1
        assert out.endswith("report.json: the whole report\nreport.html: the whole report\n")
        told = json.loads((here / "report.json").read_text(encoding="utf-8"))
        assert told["verdict"] == "diverges"
        assert told["faults"][0]["name"] == "norm"
        assert "diverges" in (here / "report.html").read_text(encoding="utf-8")

    def test_quiet(self, capsys, here):
        assert typed(capsys, "right.npz", *GIVEN, "--quiet") == (0, "", "")
        assert typed(capsys, "wrong.npz", *GIVEN, "--quiet", "--json", "report.json") == (1, "", "")
        assert (here / "report.json").exists()

    def test_a_process_of_its_own(self, here):
        for name, code in (("right.npz", 0), ("wrong.npz", 1), ("nothing.npz", 2)):
            done = subprocess.run(
                [sys.executable, "-m", "reforg", "verify", name, *GIVEN], capture_output=True, text=True, check=False
            )
            assert done.returncode == code
            assert bool(done.stdout) == (code < 2)
            assert bool(done.stderr) == (code == 2)


MISTAKES = [
    (["right.npz", *MODEL], "reforg: Missing option '--images'."),
    (["right.npz", "--images", "images.npy"], "reforg: Missing option '--model'."),
    ([*GIVEN], "reforg: Missing argument 'CANDIDATE'."),
    (["nothing.npz", *GIVEN], "reforg: candidate: there is no file 'nothing.npz'"),
    (["photos", *GIVEN], "reforg: candidate: 'photos' is refused: it is a folder"),
    (["images.npy", *GIVEN], "reforg: candidate: 'images.npy' is refused: it is a single array (.npy); …"),
    (["photos/0.png", *GIVEN], "reforg: candidate: 'photos/0.png' is refused: it is neither torch's, NumPy's nor safetensors"),
    (["nobody.npz", *GIVEN], "reforg: candidate: 'nobody.npz' is refused: …"),
    (["pickled.npz", *GIVEN], "reforg: candidate: 'pickled.npz' is refused: its array 'norm.npy' is no plain array of numbers"),
    (["huge.npz", *GIVEN], "reforg: candidate: 'huge.npz' is refused: its array 'norm.npy' has not the bytes that …"),
    (["text.npz", *GIVEN], "reforg: candidate: 'text.npz' is refused: its array 'norm.npy' is of <U1, no numbers"),
    (["complex.npz", *GIVEN], "reforg: the candidate's 'norm' must be of real numbers, got complex64"),
    (
        ["strange.npz", *GIVEN],
        "reforg: none of the candidate's 2 names is one of evit_fmnist's trace: it has 'a', 'b', the trace 'blocks.…",
    ),
    (["one.npz", *GIVEN], "reforg: the candidate's arrays have 1 on their first axis, and 2 images were given"),
    (
        ["right.npz", *GIVEN, "--dtype", "flaot32"],
        "reforg: there is no precision 'flaot32'; did you mean float32? (known: float64, float32, tf32, bfloat16, float16, "
        "autocast-bfloat16, autocast-float16)",
    ),
    (["right.npz", *MODEL, "--images", "nothing.npy", "--dtype", "float"], "reforg: there is no precision 'float'; did you mean …"),
    (["right.npz", "--images", "images.npy", "--model", "evit_fmnis"], "reforg: there is no model 'evit_fmnis'; did you mean …"),
    (["right.npz", *GIVEN, "--weights", "right.npz"], "reforg: these weights do not fit this evit config: …"),
    (["right.npz", *GIVEN, "--set", "dtype=float16"], "reforg: evit_fmnist has no setting 'dtype'"),
    (["right.npz", *GIVEN, "--rename", "a"], "reforg: --rename wants OLD=NEW, as in --rename 'layers.*.ln=…"),
    (["right.npz", *GIVEN, "--rename", "norm="], "reforg: --rename wants OLD=NEW, as in --rename 'layers.*.ln=blocks.*.norm1', …"),
    (["right.npz", *GIVEN, "--rename", "a=b", "--rename", "a=c"], "reforg: --rename 'a' is given twice"),
    (["right.npz", *GIVEN, "--rename", "nrm=norm"], "reforg: rename: the candidate has no 'nrm'; did you mean norm?"),
    (
        ["right.npz", *GIVEN, "--rename", "norm=nrm"],
        "reforg: rename: 'nrm', for 'norm', is no name of the trace; did you mean norm?",
    ),
    (["right.npz", *MODEL, "--images", "nothing.npy"], "reforg: images: 'nothing.npy' cannot be read: No such file or directory"),
    (["right.npz", *MODEL, "--images", "nothing.png"], "reforg: there is no file or folder 'nothing.png'"),
    (["right.npz", *MODEL, "--images", "broken.jpg"], "reforg: images: 'broken.jpg' cannot be read: it is truncated"),
    (["right.npz", *MODEL, "--images", "flat.npy"], "reforg: evit_fmnist: images must be (B, 1, H, W), got shape (2, 784)"),
    (
        ["right.npz", *MODEL, "--images", "colour.npy"],
        "reforg: evit_fmnist: images have 3 channels instead of 1 (shape (2, 3, 28, 28))",
    ),
    (["right.npz", *MODEL, "--images", "pixels.npy"], "reforg: evit_fmnist: images must be of a real floating dtype, got uint8…"),
    (["right.npz", *MODEL, "--images", "synthetic"], "reforg: the candidate's arrays have 2 on their first axis…"),
    (["right.npz", *GIVEN, "--batch", "2"], "reforg: images: --batch is how many synthetic images there are, and …"),
    (["right.npz", *GIVEN, "--json", "report.html"], "reforg: --json 'report.html' must end in .json"),
    (["right.npz", *GIVEN, "--html", "report.json"], "reforg: --html 'report.json' must end in .html"),
    (["right.npz", *GIVEN, "--html", "no/report.html"], "reforg: --html 'no/report.html' cannot be written: …"),
    (["right.npz", *GIVEN, "--json", "folder.json"], "reforg: --json 'folder.json' is a folder"),
]  # fmt: skip


@pytest.fixture
def files(here, right):
    """Files that nobody should give, beside those of `here`."""
    np.savez("nobody.npz")
    np.savez("pickled.npz", norm=np.array([print], object))
    np.savez("text.npz", norm=np.array(["a"]))
    np.savez("complex.npz", norm=np.ones(2, np.complex64))
    np.savez("strange.npz", a=np.ones(2), b=np.ones(2))
    np.savez("one.npz", **{name: value[:1] for name, value in right.items()})
    header = b"{'descr': '<f8', 'fortran_order': False, 'shape': (1000000, 1000000), }".ljust(117) + b"\n"
    with zipfile.ZipFile("huge.npz", "w") as archive:
        archive.writestr("norm.npy", b"\x93NUMPY\1\0" + len(header).to_bytes(2, "little") + header + bytes(64))
    np.save("flat.npy", np.zeros((2, 784)))
    np.save("colour.npy", np.zeros((2, 3, 28, 28)))
    np.save("pixels.npy", np.zeros((2, 1, 28, 28), np.uint8))
    (here / "broken.jpg").write_bytes(b"\xff\xd8\xff\xe0 the rest was lost")
    (here / "folder.json").mkdir()
    return here


@pytest.mark.parametrize(("arguments", "sentence"), MISTAKES, ids=[" ".join(arguments) for arguments, _ in MISTAKES])
def test_a_mistake_gets_one_sentence_and_leaves_no_file(capsys, files, arguments, sentence):
    before = sorted(files.rglob("*"))
    reports = () if "--json" in arguments or "--html" in arguments else ("--json", "r.json", "--html", "r.html")
    batch = ("--batch", "3") if "synthetic" in arguments else ()
    code, out, err = typed(capsys, *arguments, *reports, *batch)
    assert (code, out) == (2, "")
    assert says(err, sentence), err
    assert sorted(files.rglob("*")) == before


@pytest.mark.parametrize(
    ("words", "offered"), [("verify --dtype auto", "autocast-bfloat16"), ("verify --model evit_fm", "evit_fmnist")]
)
def test_tab_offers_what_there_is(words, offered):
    asked = {"_REFORG_COMPLETE": "complete_bash", "COMP_WORDS": f"reforg {words}", "COMP_CWORD": "3"}
    command = "import sys; sys.argv[0] = 'reforg'; from reforg.cli import main; main([])"
    done = subprocess.run([sys.executable, "-c", command], env=os.environ | asked, capture_output=True, text=True, check=False)
    assert offered in done.stdout.split()
