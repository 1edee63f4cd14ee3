"""The command line as a user types it: what comes out, and what a mistake gets."""

import hashlib
import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from safetensors import safe_open
from sentences import says
from terminal import reforg_command, typed

import reforg
from reforg import cli
from reforg.demo import demonstration as demo
from reforg.weights.convert import convert

ARCHIVE = Path(__file__).parents[1] / "files" / "archive.pth"


class TestModels:
    def test_all_names_are_listed_with_sizes_and_costs(self, capsys):
        code, out, _ = typed(capsys, "models")
        assert code == 0
        for name in reforg.list_models():
            assert name in out
        assert " 22.05 " in out

    def test_a_pattern_and_json(self, capsys):
        code, out, _ = typed(capsys, "models", "evit_small*", "--json")
        rows = json.loads(out)
        assert code == 0
        assert [row["name"] for row in rows] == reforg.list_models("evit_small*")
        assert rows[0]["macs"] / 1e9 == pytest.approx(3.0, rel=0.026), "the paper's figure"
        assert {key: value for key, value in rows[0].items() if key != "macs"} == {
            "name": "evit_small_patch16_224",
            "family": "evit",
            "image": 224,
            "params": 22_050_664,
            "accuracy": 79.5,
            "tokens": [196, 139, 99, 71],
        }


class TestConvert:
    """Weights of any format into one file, with where they come from."""

    def test_a_training_checkpoint(self, capsys, tmp_path):
        weights = reforg.create_model("evit_fmnist").weights
        np.savez(tmp_path / "theirs.npz", **{f"module.{name}": value for name, value in weights.items()})
        code, out, err = typed(capsys, "convert", str(tmp_path / "theirs.npz"), str(tmp_path / "ours.safetensors"))
        assert (code, err) == (0, "")
        assert out.splitlines()[:3] == [
            f"{tmp_path / 'ours.safetensors'}: 152 tensors, 1,349,770 values, 5.4 MB",
            "  model       evit_fmnist",
            "  read from   npz, its tensors",
        ]
        again = reforg.create_model("evit_fmnist", weights=tmp_path / "ours.safetensors")
        assert all(np.array_equal(again.weights[name], weights[name]) for name in weights)
        with safe_open(tmp_path / "ours.safetensors", framework="np") as file:
            metadata = file.metadata()
        assert metadata["model"] == "evit_fmnist"
        assert metadata["source"] == "theirs.npz"
        assert metadata["sha256"] == hashlib.sha256((tmp_path / "theirs.npz").read_bytes()).hexdigest()

    def test_what_was_left_aside_is_told(self, capsys, tmp_path):
        code, out, _ = typed(capsys, "convert", str(ARCHIVE), str(tmp_path / "a.npz"), "--json")
        assert code == 0
        told = json.loads(out)
        assert told["container"] == "model"
        assert told["models"] == []
        assert {"optimizer (3 tensors)", "args (an object of argparse.Namespace)", "epoch (3)"} <= set(told["discarded"])
        code, out, _ = typed(capsys, "convert", str(ARCHIVE), str(tmp_path / "a.npz"))
        assert "  model       unknown: no model here has exactly these tensors\n" in out
        assert "  left aside  optimizer (3 tensors)\n              lr_scheduler" in out

    def test_a_fine_tuned_model_is_known(self, capsys, tmp_path):
        weights = reforg.create_model("vit_tiny_patch16_224", weights="synthetic", num_classes=7).weights
        reforg.save_weights(weights, tmp_path / "a.npz", spelling="jax")
        _, out, _ = typed(capsys, "convert", str(tmp_path / "a.npz"), str(tmp_path / "a.safetensors"), "--spelling", "transformers")
        assert "deit_tiny_patch16_224 or evit_tiny_patch16_224 or vit_tiny_patch16_224, num_classes=7" in out
        back = reforg.load_weights(tmp_path / "a.safetensors")
        assert all(np.array_equal(back[name], weights[name]) for name in weights)

    def test_the_source_is_never_overwritten(self, capsys, tmp_path):
        reforg.save_weights(reforg.create_model("evit_fmnist").weights, tmp_path / "a.safetensors")
        before = (tmp_path / "a.safetensors").read_bytes()
        code, _, err = typed(capsys, "convert", str(tmp_path / "a.safetensors"), str(tmp_path / "." / "a.safetensors"))
        assert code == 2
        assert "is the source itself" in err
        assert (tmp_path / "a.safetensors").read_bytes() == before

    def test_a_full_disk_leaves_what_was_there(self, capsys, monkeypatch, tmp_path):
        def full(*arguments, **settings):
            raise OSError(28, "No space left on device")

        (tmp_path / "a.npz").write_bytes(b"what was there")
        monkeypatch.setattr(np, "savez", full)
        code, _, err = typed(capsys, "convert", str(ARCHIVE), str(tmp_path / "a.npz"))
        assert (code, err) == (2, f"reforg: weights: {str(tmp_path / 'a.npz')!r} cannot be written: No space left on device\n")
        assert [path.read_bytes() for path in tmp_path.iterdir()] == [b"what was there"]

    def test_damage_of_a_large_tensor_is_found(self, tmp_path):
        """A conversion reads everything, so it checks everything."""
        np.savez(tmp_path / "a.npz", x=np.arange(1 << 18, dtype=np.float64))
        data = bytearray((tmp_path / "a.npz").read_bytes())
        data[len(data) // 2] ^= 1
        (tmp_path / "a.npz").write_bytes(data)
        with pytest.raises(reforg.WeightsError, match=r"'x\.npy' is damaged"):
            convert(str(tmp_path / "a.npz"), tmp_path / "b.npz")


MISTAKES = [
    (["convert", str(ARCHIVE), "a" * 300 + "/b.npz"], "reforg: weights: '…"),
    (["models", "evut*"], "reforg: no model matches 'evut*'; `reforg models` lists them all"),
    (["models", "evit_small"], "reforg: no model matches 'evit_small'; did you mean 'evit_small*'?"),
    (["demo", "--output", "a" * 300 + ".png"], "reforg: picture: …"),
    (["classfy"], "reforg: No such command 'classfy'.…"),
    (["demo", "--jsn"], "reforg: No such option: --jsn…"),
    (["demo", "extra"], "reforg: Got unexpected extra argument…"),
    (["demo", "--batch-size", "0"], "reforg: Invalid value for '--batch-size': Input should be greater than or equal to 1"),
    (["demo", "--batch-size", "many"], "reforg: Invalid value for '--batch-size': Input should be a valid integer…"),
    (
        ["demo", "--backend", "numpi"],
        "reforg: there is no backend 'numpi'; did you mean numpy? (installed: cupy, jax, numpy, torch)",
    ),
    (
        ["demo", "--dtype", "float46"],
        "reforg: there is no dtype 'float46'; did you mean float64? (known: float64, float32, float16, bfloat16)",
    ),
    (
        ["demo", "--device", "cuda"],
        "reforg: backend 'numpy' cannot compute in float32 on device 'cuda': no device 'cuda'; numpy has only 'cpu'",
    ),
    (["demo", "--output", "picture.txt"], "reforg: picture: 'picture.txt' must end in .png, .jpg, .jpeg or .webp"),
    (["convert"], "reforg: Missing argument 'IN'."),
    (["convert", str(ARCHIVE)], "reforg: Missing argument 'OUT'."),
    (["convert", "nothing.pth", "a.safetensors"], "reforg: weights: there is no file 'nothing.pth'"),
    (
        ["convert", "timm/vit_tiny", "a.npz"],
        "reforg: weights: there is no file 'timm/vit_tiny'; a repository of the Hub is written 'hf-hub:timm/vit_tiny'",
    ),
    (["convert", ".", "a.safetensors"], "reforg: weights: '.' is refused: it is a folder"),
    (["convert", str(ARCHIVE), "a.pth"], "reforg: weights: 'a.pth' must end in .safetensors or .npz"),
    (["convert", str(ARCHIVE), "no/a.npz"], "reforg: weights: 'no/a.npz' cannot be written: there is no folder 'no'"),
    (
        ["convert", str(ARCHIVE), "a.npz", "--spelling", "tim"],
        "reforg: there is no spelling 'tim'; did you mean timm? (known: official, timm, transformers4, transformers5, jax)",
    ),
    (
        ["convert", str(ARCHIVE), "a.npz", "--model", "evit_fmnis"],
        "reforg: there is no model 'evit_fmnis'; did you mean evit_fmnist?",
    ),
    (
        ["convert", str(ARCHIVE), "a.npz", "--container", "modle"],
        f"reforg: weights: {str(ARCHIVE)!r} has no container 'modle'; did you mean model? (there are: 'model')",
    ),
    (["convert", str(ARCHIVE), "a.npz", "--model", "evit_fmnist"], "reforg: these weights do not fit this evit config: …"),
    (
        ["convert", "synthetic:3", "a.npz"],
        "reforg: weights: 'synthetic:3' needs a model, and a seed of at most 19 digits: create_model(name, "
        "weights='synthetic:7')"
    ),
    (["demo", "--output", "no/such.png"], "reforg: picture: 'no/such.png' cannot be written: there is no folder 'no'"),
]  # fmt: skip


@pytest.mark.parametrize(("arguments", "sentence"), MISTAKES, ids=[" ".join(arguments) for arguments, _ in MISTAKES])
def test_a_mistake_gets_one_sentence_and_exit_code_2(capsys, monkeypatch, tmp_path, arguments, sentence):
    monkeypatch.chdir(tmp_path)
    code, out, err = typed(capsys, *arguments)
    assert code == 2
    assert out == ""
    assert says(err, sentence), err
    assert list(tmp_path.iterdir()) == []


def test_debug_shows_the_traceback(capsys):
    with pytest.raises(reforg.ConfigError):
        cli.run(["models", "nothing", "--debug"])


def test_interruption_is_one_line(capsys, monkeypatch):
    def interrupted(*arguments, **settings):
        raise KeyboardInterrupt

    monkeypatch.setattr(demo, "run", interrupted)
    code, out, err = typed(capsys, "demo")
    assert (code, out, err) == (130, "", "reforg: interrupted\n")


def test_without_a_command_the_help_comes_as_it_is(capsys):
    code, out, err = typed(capsys)
    assert (code, err) == (0, "")
    assert out == typed(capsys, "-h")[1]
    assert "--debug" in out
    assert len(out.splitlines()) > 10


@pytest.mark.parametrize("name", ["deit_small_patch16_LS", "deit3_small_patch16_224.fb_in1k"])
def test_aliases_and_tags_are_found_by_their_whole_name(capsys, name):
    code, out, _ = typed(capsys, "models", name)
    assert code == 0
    assert " 22.06 " in out


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs a device that is always full, as Linux has")
def test_a_full_device_is_one_sentence():
    with Path("/dev/full").open("w") as full:
        command = [sys.executable, "-m", "reforg", "models"]
        done = subprocess.run(command, stdout=full, stderr=subprocess.PIPE, text=True, check=False)
    assert done.returncode == 2
    assert done.stderr.startswith("reforg: cannot write: No space left on device")


def test_a_table_in_a_file_is_plain_and_whole(tmp_path):
    done = reforg_command("models", cwd=tmp_path)
    lines = done.stdout.splitlines()
    assert lines[0].startswith("model")
    assert all(line == line.rstrip() and len(line) <= 80 and "…" not in line for line in lines)


def test_version_and_help(capsys, tmp_path):
    assert typed(capsys, "--version")[1].startswith(f"reforg {reforg.__version__}\n")
    helped = reforg_command("--help", cwd=tmp_path)
    assert helped.returncode == 0
    assert "demo" in helped.stdout
    assert "models" in helped.stdout
