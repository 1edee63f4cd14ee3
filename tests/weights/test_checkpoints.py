"""Checkpoints as torch and NumPy write them: every tensor bit for bit, everything else inert; honest files of unusual makes."""

import json
import subprocess
import sys
from pathlib import Path

import ml_dtypes
import numpy as np
import pytest
from safetensors import safe_open
from safetensors.numpy import load_file, save_file

import reforg
from reforg.errors import WeightsError
from reforg.weights import checkpoints, containers, contents
from reforg.weights.checkpoints import Stub
from reforg.weights.checkpoints.imports import is_data, named

FILES = Path(__file__).parents[1] / "files"
EXPECTED = FILES / "expected.safetensors"
NAMES = sorted(path.stem for path in FILES.glob("*.pth"))


def expected(stem: str) -> dict[str, tuple[str, tuple[int, ...], bytes]]:
    """What torch read from a file: dtype, shape, bytes."""
    found = {}
    with safe_open(EXPECTED, framework="np") as file:
        for key, told in file.metadata().items():
            if key.startswith(f"{stem}/"):
                dtype, shape = json.loads(told)
                found[key.removeprefix(f"{stem}/")] = (dtype, tuple(shape), file.get_tensor(key).tobytes())
    return found


@pytest.mark.parametrize("stem", NAMES)
def test_every_tensor_is_what_torch_reads(stem):
    wanted = expected(stem)
    ours = reforg.load_weights(FILES / f"{stem}.pth")
    assert set(ours) == set(wanted)
    for name, (dtype, shape, data) in wanted.items():
        assert (str(ours[name].dtype), ours[name].shape, ours[name].tobytes()) == (dtype, shape, data), name


def test_there_are_files_of_every_make():
    assert NAMES == ["archive", "archive_protocol4", "before_1_6", "big_endian"]
    dtypes = {dtype for dtype, _, _ in expected("archive").values()}
    assert len(dtypes) == 17, dtypes


@pytest.mark.parametrize("stem", NAMES)
def test_arrays_lie_as_numpy_needs_them_and_can_be_written(stem):
    before = (FILES / f"{stem}.pth").read_bytes()
    for array in reforg.load_weights(FILES / f"{stem}.pth").values():
        assert array.flags.c_contiguous
        assert array.flags.aligned
        assert array.dtype.isnative
        array[...] = 1
    assert (FILES / f"{stem}.pth").read_bytes() == before


def test_tied_tensors_share_their_memory_as_in_torch():
    ours = reforg.load_weights(FILES / "archive.pth")
    assert np.shares_memory(ours["tied"], ours["tied again"])
    assert np.shares_memory(ours["tied"], ours["reshaped"])
    assert not np.shares_memory(ours["tied"], ours["transposed"])


@pytest.mark.parametrize("stem", ["archive", "archive_protocol4", "before_1_6"])
def test_everything_else_is_inert(stem):
    content = checkpoints.open_checkpoint(FILES / f"{stem}.pth").content
    assert content["args"] == Stub("argparse.Namespace")
    assert content["best"].path.endswith("multiarray.scalar")
    assert content["scheduler"] == Stub("torch.optim.lr_scheduler.CosineAnnealingLR")
    assert content["history"] == {"loss": [1.0, 0.5]}
    assert content["shape"] == (1, 2)
    assert content["epoch"] == 3
    found = containers.find(content, "it")
    assert found.container == "model"
    assert "args (an object of argparse.Namespace)" in contents.report(found.aside)
    assert any(text.startswith("optimizer (3 tensors)") for text in contents.report(found.aside))


def test_no_file_needs_torch_and_none_is_imported():
    code = f"""
import sys, reforg
for name in {NAMES!r}:
    reforg.load_weights({str(FILES)!r} + '/' + name + '.pth')
assert not {{'torch', 'pickle', 'argparse'}} & set(sys.modules), sorted(sys.modules)
"""
    # pickle and argparse may come with NumPy or its helpers, so only what was not there before counts
    loaded = "import sys, reforg, reforg.weights.fitting, numpy, ml_dtypes\nbefore = set(sys.modules)"
    code = code.replace("import sys, reforg", loaded)
    code = code.replace("set(sys.modules), sorted", "(set(sys.modules) - before), sorted")
    subprocess.run([sys.executable, "-c", code], check=True)


TENSORS = {"head.weight": np.ones((2, 3)), "head.bias": np.zeros(2)}
ARRAYS = {
    "a/kernel": np.arange(12, dtype=np.float32).reshape(3, 4), "fortran": np.asfortranarray(np.arange(6.0).reshape(2, 3)),
    "half": np.ones(3, np.float16), "whole": np.arange(4), "swapped": np.arange(4, dtype=">i4"), "scalar": np.array(2.5),
    "empty": np.zeros((0, 3)), "truth": np.array([True, False]),
}  # fmt: skip


class TestContainers:
    """Where the weights are in a checkpoint."""

    @pytest.mark.parametrize(
        "wrapped",
        [
            lambda w: w,
            lambda w: {"model": w, "epoch": 3},
            lambda w: {"state_dict": w},
            lambda w: {"model_ema": w, "optimizer": {"state": {}}},
            lambda w: {"model": {f"module.{name}": value for name, value in w.items()}},
            lambda w: {"state_dict": {f"model._orig_mod.{name}": value for name, value in w.items()}},
            lambda w: {"model": w, "model_ema": {name: value + 1 for name, value in w.items()}},
            lambda w: {"checkpoint": 1, "model": {"state_dict": w}},
        ],
    )
    def test_they_are_found(self, wrapped):
        found = reforg.load_weights(wrapped(TENSORS))
        assert {name: value.tolist() for name, value in found.items()} == {n: v.tolist() for n, v in TENSORS.items()}

    def test_a_container_can_be_named(self):
        both = {"model": TENSORS, "model_ema": {name: value + 1 for name, value in TENSORS.items()}}
        assert reforg.load_weights(both, container="model_ema")["head.bias"].tolist() == [1, 1]
        with pytest.raises(WeightsError, match="has no container 'model_emma'; did you mean model_ema"):
            reforg.load_weights(both, container="model_emma")

    def test_figures_beside_weights_are_left_aside_and_told(self):
        found = containers.find({**TENSORS, "epoch": 5, "name": "deit"}, "it")
        assert set(found.weights) == set(TENSORS)
        assert contents.report(found.aside) == ("epoch (5)", "name ('deit')")

    @pytest.mark.parametrize(
        ("content", "sentence"),
        [
            ({}, "weights: the mapping holds no weights by name, but an empty mapping"),
            ({"epoch": 3}, "weights: the mapping holds no weights by name, but a mapping of 1: epoch"),
            ({"model": {"a": np.ones(2), "b": 3}}, "weights: the mapping: 'b' is no tensor, but 3"),
            ({"a": np.ones(2), "b": [3]}, "weights: the mapping: 'b' is no tensor, but a list of 1"),
            ({"model": {"a": np.ones(2), 7: np.ones(2)}}, "weights: the mapping: names must be text, got 7"),
        ],
    )
    def test_what_holds_none_is_refused(self, content, sentence):
        with pytest.raises(WeightsError) as caught:
            reforg.load_weights(content)
        assert str(caught.value) == sentence


class TestNumpyArchives:
    """`.npz`, plain and compressed."""

    @pytest.mark.parametrize("save", [np.savez, np.savez_compressed])
    def test_arrays_come_back(self, save, tmp_path):
        save(tmp_path / "a.npz", **ARRAYS)
        found = reforg.load_weights(tmp_path / "a.npz")
        assert set(found) == set(ARRAYS)
        for name, value in ARRAYS.items():
            np.testing.assert_array_equal(found[name], value)
            assert found[name].dtype == value.dtype.newbyteorder("=")
            assert found[name].flags.c_contiguous

    def test_bfloat16_which_numpy_has_no_name_for(self, tmp_path):
        np.savez(tmp_path / "b.npz", x=np.arange(3).astype(ml_dtypes.bfloat16))
        assert reforg.load_weights(tmp_path / "b.npz")["x"].dtype == ml_dtypes.bfloat16


class TestSafetensors:
    """safetensors of every dtype, and headers that other writers make."""

    def test_every_dtype(self, tmp_path):
        names = ("float64", "float32", "float16", "int64", "int32", "int16", "int8", "uint64", "uint32", "uint16", "uint8", "bool")
        arrays = {name: np.arange(4).astype(name) for name in names} | {"bfloat16": np.arange(4).astype(ml_dtypes.bfloat16)}
        save_file(arrays, tmp_path / "a.safetensors")
        found = reforg.load_weights(tmp_path / "a.safetensors")
        assert {name: (value.dtype, value.tolist()) for name, value in found.items()} == {
            name: (value.dtype, value.tolist()) for name, value in arrays.items()
        }

    def test_a_header_of_any_length(self, tmp_path):
        """Files of before safetensors 0.3 are not padded, so their tensors lie at any byte."""
        for padding in range(8):
            header = json.dumps({"x": {"dtype": "F32", "shape": [3], "data_offsets": [0, 12]}}).encode() + b" " * padding
            data = np.arange(3, dtype=np.float32).tobytes()
            (tmp_path / "a.safetensors").write_bytes(len(header).to_bytes(8, "little") + header + data)
            found = reforg.load_weights(tmp_path / "a.safetensors")["x"]
            assert found.tolist() == [0, 1, 2]
            assert found.flags.aligned

    def test_its_kind_is_told_by_its_content(self, tmp_path):
        save_file({"x": np.ones(3)}, tmp_path / "weights.bin")
        assert reforg.load_weights(tmp_path / "weights.bin")["x"].tolist() == [1, 1, 1]
        (tmp_path / "checkpoint.safetensors").write_bytes((FILES / "archive.pth").read_bytes())
        assert "tied" in reforg.load_weights(tmp_path / "checkpoint.safetensors")


class TestDamage:
    """An archive keeps checksums, so a file that changed on its way is found out."""

    def test_a_changed_byte_of_a_tensor(self, tmp_path):
        data = bytearray((FILES / "archive.pth").read_bytes())
        place = data.index(expected("archive")["from an offset"][2])
        data[place] ^= 1
        (tmp_path / "a.pth").write_bytes(data)
        with pytest.raises(WeightsError, match=r"its record '\S+/data/\d+' is damaged: its checksum differs"):
            reforg.load_weights(tmp_path / "a.pth")

    def test_a_changed_byte_of_what_is_not_read_is_no_matter(self, tmp_path):
        """The optimizer's state is left where it is: not even its checksum is computed."""
        content = checkpoints.open_checkpoint(FILES / "archive.pth").content
        state = content["optimizer"]["state"][0]["exp_avg"].view()
        data = bytearray((FILES / "archive.pth").read_bytes())
        place = data.index(state.tobytes())
        data[place] ^= 1
        (tmp_path / "a.pth").write_bytes(data)
        assert len(reforg.load_weights(tmp_path / "a.pth")) == len(expected("archive"))

    @pytest.mark.parametrize("stem", NAMES)
    @pytest.mark.parametrize("share", [0.1, 0.5, 0.9, 0.999])
    def test_a_file_that_is_cut_off(self, stem, share, tmp_path):
        data = (FILES / f"{stem}.pth").read_bytes()
        (tmp_path / "a.pth").write_bytes(data[: int(len(data) * share)])
        with pytest.raises(WeightsError):
            reforg.load_weights(tmp_path / "a.pth")


class TestNames:
    """What a pickle may name, and what of it may be called."""

    @pytest.mark.parametrize(
        "path",
        [
            "argparse.Namespace", "collections.OrderedDict", "torch.optim.adamw.AdamW", "timm.utils.model_ema.ModelEma",
            "numpy._core.multiarray.scalar", "numpy.dtype", "numpy.random._pickle.__generator_ctor", "__main__.Config",
            "models.swin.Outer.Inner", "pathlib.PosixPath", "torch.nn.modules.linear.Linear", "easydict.EasyDict",
            "torch.distributed.fsdp._State",
        ],
    )  # fmt: skip
    def test_data(self, path):
        module, _, name = path.rpartition(".")
        assert named(module, name).path == path
        assert is_data(path)

    @pytest.mark.parametrize(
        "path",
        [
            "os.system", "posix.system", "builtins.eval", "subprocess.Popen", "importlib.import_module", "torch.os.system",
            "torch.serialization.os.system", "collections.OrderedDict.__init__", "numpy.core.sys.modules", "commands.getoutput",
            "functools.partial", "operator.attrgetter", "types.FunctionType", "pickle.loads", "torch.__builtins__.eval", "..x",
            "a b.c", "x.y\n",
        ],
    )  # fmt: skip
    def test_what_no_checkpoint_has(self, path):
        module, _, name = path.rpartition(".")
        with pytest.raises(WeightsError):
            named(module, name)

    @pytest.mark.parametrize("path", ["torch.load", "torch.hub.load", "numpy.load", "joblib.load", "pip.main", "a.b.run"])
    def test_functions_can_be_named_but_not_called(self, path):
        module, _, name = path.rpartition(".")
        assert not is_data(named(module, name).path)


def test_a_hub_like_path_is_answered_with_how_to_write_it():
    with pytest.raises(WeightsError, match="written 'hf-hub:timm/vit_small_patch16_224\\.augreg_in21k_ft_in1k'"):
        reforg.load_weights("timm/vit_small_patch16_224.augreg_in21k_ft_in1k")


class TestSave:
    """What is written is whole or not there."""

    def test_safetensors_and_npz_come_back(self, tmp_path):
        weights = reforg.create_model("evit_fmnist").weights
        for name in ("a.safetensors", "a.npz"):
            reforg.save_weights(weights, tmp_path / name)
            again = reforg.load_weights(tmp_path / name)
            assert set(again) == set(weights)
            assert all(np.array_equal(again[key], weights[key]) for key in weights)
        assert sorted(path.name for path in tmp_path.iterdir()) == ["a.npz", "a.safetensors"]
        assert (tmp_path / "a.safetensors").stat().st_mode == (tmp_path / "a.npz").stat().st_mode

    def test_a_transposed_array_is_written_in_order(self, tmp_path):
        reforg.save_weights({"x": np.arange(6.0).reshape(2, 3).T}, tmp_path / "a.safetensors")
        assert load_file(tmp_path / "a.safetensors")["x"].tolist() == [[0, 3], [1, 4], [2, 5]]

    @pytest.mark.parametrize(
        ("path", "spelling", "sentence"),
        [
            ("a.pth", "official", "must end in .safetensors or .npz"),
            ("no/such/a.npz", "official", "cannot be written: there is no folder"),
            ("a.npz", "tim", "there is no spelling 'tim'; did you mean timm?"),
            ("a.npz", "jax", "a width of 96 does not tell their number; give num_heads"),
        ],
    )
    def test_mistakes_leave_nothing(self, path, spelling, sentence, tmp_path):
        with pytest.raises(WeightsError, match=sentence.replace("?", r"\?")):
            reforg.save_weights(reforg.create_model("evit_fmnist").weights, tmp_path / path, spelling=spelling)
        assert list(tmp_path.iterdir()) == []
