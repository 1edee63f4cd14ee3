"""What may be verified, and how its names become those of a trace: arrays, files, functions and torch's modules."""

import copy
import importlib.util
import subprocess
import sys
import time
import zipfile
from pathlib import Path

import ml_dtypes
import numpy as np
import pytest
from safetensors.numpy import save_file
from sentences import says

import reforg
from reforg.catalog import synthetic
from reforg.verification.candidate import recording as candidates
from reforg.verification.candidate.recording import recorded
from reforg.verification.candidate.renaming import renamed
from reforg.verification.error_model.precision import precision_of

FLOAT32 = precision_of("float32")
KNOWN = (
    *("patch_embed.proj", "patch_embed", "embedded", "blocks.0.norm1", "blocks.0.attn.qkv", "blocks.0.attn.proj"),
    *("blocks.0.attn", "blocks.0.norm2", "blocks.0.mlp.fc1", "blocks.0.mlp.act", "blocks.0.mlp.fc2", "blocks.0.mlp", "blocks.0"),
    *("blocks.1.norm1", "blocks.1.attn.qkv", "blocks.1", "norm", "head", "logits"),
)
SHUNTED = (
    *("block1.0.norm1", "block1.0.attn.q", "block1.0.attn.kv1", "block1.0.attn.kv2", "block1.0.attn.act@0"),
    *("block1.0.attn.act@1", "block4.0.attn.q", "block4.0.attn.kv", "norm1", "logits"),
)
MICRO = {
    "img_size": 24, "patch_size": 4, "num_classes": 10, "embed_dim": 24, "depth": 4, "num_heads": 3, "drop_loc": (1, 2),
}  # fmt: skip
SHUNTED_MICRO = {
    "num_classes": 10, "embed_dims": (64, 32, 48, 64), "num_heads": (2, 2, 4, 4), "mlp_ratios": (1, 2, 2, 2),
    "depths": (1, 1, 2, 1), "sr_ratios": (8, 4, 2, 1), "num_conv": 1,
}  # fmt: skip
ONE = np.ones((2, 5, 3), np.float32)
STARS = "both must be names, with at most one '*' that stands for the same text"


def arrays(*names):
    """A different array for each name."""
    return {name: np.full((2, 5, 3), number, np.float32) for number, name in enumerate(names)}


def refused(call, *arguments, error=reforg.ConfigError):
    with pytest.raises(error) as caught:
        call(*arguments)
    return str(caught.value)


@pytest.fixture(scope="module")
def model():
    return reforg.create_model("evit_small_patch16_224", weights="synthetic:1", dtype="float64", **MICRO)


@pytest.fixture(scope="module")
def images():
    return synthetic.images((2, 3, 24, 24), 1).astype(np.float64)


@pytest.fixture(scope="module")
def trace(model, images):
    return model.trace(images)


@pytest.fixture(scope="module")
def record(model, images, trace):
    """A candidate's recording in float32, or as told."""

    def call(candidate, dtype="float32", rename=None):
        return recorded(candidate, model, images, precision_of(dtype), rename, list(trace))

    return call


class TestNames:
    """From the candidate's names to those of the trace, without a word from the user."""

    def names(self, *given, known=KNOWN):
        return renamed(arrays(*given), known, None, "a model")

    def test_the_traces_own_names_stay(self):
        found = self.names(*KNOWN)
        assert (tuple(found.values), found.unknown, found.notes) == (KNOWN, (), ())

    @pytest.mark.parametrize("prefix", ["tap.", "module.", "_orig_mod.", "model.", "backbone.", "module._orig_mod.model.", "net."])
    def test_a_wrappers_prefix_is_taken_off(self, prefix):
        given = [prefix + name for name in KNOWN if name != "logits"]
        found = self.names(*given, "logits", prefix.partition(".")[0])
        assert set(found.values) == set(KNOWN)
        assert found.values["blocks.1"][0, 0, 0] == given.index(f"{prefix}blocks.1")
        assert found.unknown == (), "the wrapper is a container of what was understood"
        assert found.notes == (f"names were read without their prefix {prefix!r}",)

    def test_a_head_beside_the_backbone(self):
        found = self.names("backbone.blocks.0", "head", "logits")
        assert set(found.values) == {"blocks.0", "head", "logits"}

    def test_an_auxiliary_branch_is_no_wrapper(self):
        found = self.names("blocks.0.norm1", "blocks.0", "aux.head")
        assert set(found.values) == {"blocks.0.norm1", "blocks.0"}
        assert found.unknown == ("aux.head",)

    def test_a_path_of_the_trace_is_no_wrapper(self):
        found = self.names("blocks.0.norm", "blocks.1.norm", "logits")
        assert set(found.values) == {"logits"}
        assert found.unknown == ("blocks.0.norm", "blocks.1.norm")

    @pytest.mark.parametrize("prefix", ["", "vit.", "model.vit."])
    @pytest.mark.parametrize(
        ("theirs", "ours"),
        [
            ("embeddings", "embedded"),
            ("embeddings.patch_embeddings.projection", "patch_embed.proj"),
            ("encoder.layer.0.layernorm_before", "blocks.0.norm1"),
            ("encoder.layer.0.attention", "blocks.0.attn"),
            ("encoder.layer.0.attention.output.dense", "blocks.0.attn.proj"),
            ("encoder.layer.0.intermediate.intermediate_act_fn", "blocks.0.mlp.act"),
            ("encoder.layer.0.output.dense", "blocks.0.mlp.fc2"),
            ("encoder.layer.1", "blocks.1"),
            ("layers.0.layernorm_after", "blocks.0.norm2"),
            ("layers.0.attention.o_proj", "blocks.0.attn.proj"),
            ("layers.0.mlp.activation_fn", "blocks.0.mlp.act"),
            ("layers.0.mlp", "blocks.0.mlp"),
            ("layers.1", "blocks.1"),
            ("layernorm", "norm"),
        ],
    )
    def test_transformers(self, theirs, ours, prefix):
        found = self.names(prefix + theirs)
        assert set(found.values) == {ours}
        assert found.notes[-1] == f"1 names were translated, as {prefix + theirs!r} to {ours}"

    @pytest.mark.parametrize(
        ("theirs", "ours"),
        [
            ("blocks.3.attns.1.norm", "blocks.3.norm11"),
            ("blocks.3.attns.0.attn.proj", "blocks.3.attn.proj"),
            ("blocks.3.attns.1.attn", "blocks.3.attn1"),
            ("blocks.3.attns.1.ls", "blocks.3.ls11"),
            ("blocks.3.ffns.0.norm", "blocks.3.norm2"),
            ("blocks.3.ffns.1.mlp.act", "blocks.3.mlp1.act"),
            ("blocks.3.ffns.1.ls", "blocks.3.ls21"),
            ("blocks.3.ls1", "blocks.3.ls1"),
        ],
    )
    def test_timms_parallel_blocks_and_layer_scale(self, theirs, ours):
        every = {
            f"blocks.3.{what}" for what in ("norm1", "norm11", "norm2", "attn.proj", "attn1", "ls1", "ls11", "ls21", "mlp1.act")
        }
        assert set(self.names(theirs, known=sorted(every)).values) == {ours}

    def test_a_module_of_several_calls_is_known_by_its_path(self):
        found = self.names("block1.0.attn.act", "block1.0.attn.act@1", known=SHUNTED)
        assert set(found.values) == {"block1.0.attn.act", "block1.0.attn.act@1"}

    def test_what_remains_is_told_in_the_candidates_words(self):
        found = self.names("module.blocks.0", "module.blocks.1", "module.blocks.0.dropped")
        assert found.unknown == ("module.blocks.0.dropped",)

    def test_none_known(self):
        assert refused(self.names, "a", "b", "c", "d") == (
            "none of the candidate's 4 names is one of a model's trace: it has 'a', 'b', 'c', "
            "the trace 'embedded', 'blocks.0.attn.qkv', 'logits'; rename= says which is which"
        )

    def test_two_of_one_name(self):
        assert refused(self.names, "blocks.0", "layers.0") == (
            "the candidate's 'blocks.0' and 'layers.0' would both be blocks.0; rename= tells them apart"
        )

    def test_hostile_names_take_no_time(self):
        given = {f"{'a.' * 149}{number}": ONE for number in range(20_000)} | {"logits": ONE}
        before = time.process_time()
        assert set(renamed(given, KNOWN, None, "a model").values) == {"logits"}
        assert time.process_time() - before < 5


class TestParts:
    """Queries, keys and values that were computed apart."""

    @pytest.mark.parametrize(
        "leaves", [("q", "k", "v"), ("q_proj", "k_proj", "v_proj"), ("query", "key", "value"), ("to_q", "to_k", "to_v")]
    )
    def test_they_are_joined_in_the_order_of_qkv(self, leaves):
        given = arrays(*(f"m.blocks.0.attn.{leaf}" for leaf in (leaves[2], leaves[0], leaves[1])))
        found = renamed(given, KNOWN, None, "a model")
        assert found.values["blocks.0.attn.qkv"].shape == (2, 5, 9)
        assert found.values["blocks.0.attn.qkv"][0, 0].tolist() == [1, 1, 1, 2, 2, 2, 0, 0, 0]
        named = ", ".join(repr(name) for name in given)
        assert found.notes[-1] == f"parts were joined to 1 values, as {named} to blocks.0.attn.qkv"

    def test_transformers_have_them_one_path_deeper(self):
        given = arrays(*(f"vit.encoder.layer.1.attention.attention.{part}" for part in ("query", "key", "value")))
        assert renamed(given, KNOWN, None, "a model").values["blocks.1.attn.qkv"].shape == (2, 5, 9)

    def test_shunteds_keys_and_values(self):
        names = ("q_proj", "k1", "v1", "k2", "v2")
        found = renamed(arrays(*(f"block1.0.attn.{name}" for name in names)), SHUNTED, None, "a model").values
        assert list(found) == ["block1.0.attn.q", "block1.0.attn.kv1", "block1.0.attn.kv2"]
        assert found["block1.0.attn.kv2"][0, 0].tolist() == [3, 3, 3, 4, 4, 4]
        found = renamed(arrays("block4.0.attn.q", "block4.0.attn.k", "block4.0.attn.v"), SHUNTED, None, "a model").values
        assert found["block4.0.attn.kv"][0, 0].tolist() == [1, 1, 1, 2, 2, 2]

    def test_with_the_heads_apart_they_lie_one_after_the_other(self):
        given = {f"blocks.0.attn.{part}": np.ones((2, 3, 5, 8)) for part in "qkv"}
        assert renamed(given, KNOWN, None, "a model").values["blocks.0.attn.qkv"].shape == (3, 2, 3, 5, 8)

    def test_one_is_missing(self):
        found = renamed(arrays("blocks.0.attn.q", "blocks.0.attn.v", "logits"), KNOWN, None, "a model")
        assert list(found.values) == ["logits"]
        assert found.unknown == ("blocks.0.attn.q", "blocks.0.attn.v")
        assert found.notes == (
            "blocks.0.attn.qkv is not compared: of its 3 parts the candidate has 'blocks.0.attn.q', 'blocks.0.attn.v' only",
        )

    def test_the_whole_comes_before_its_parts(self):
        found = renamed(arrays(*(f"blocks.0.attn.{part}" for part in ("q", "k", "v", "qkv"))), KNOWN, None, "a model")
        assert found.values["blocks.0.attn.qkv"][0, 0, 0] == 3

    def test_they_do_not_fit(self):
        given = arrays("blocks.0.attn.q", "blocks.0.attn.k") | {"blocks.0.attn.v": np.ones((2, 4, 3))}
        assert refused(renamed, given, KNOWN, None, "a model") == (
            "the candidate's parts of blocks.0.attn.qkv do not fit together: their shapes are (2, 5, 3), (2, 5, 3), (2, 4, 3)"
        )


class TestRename:
    """As the user says."""

    def rename(self, rename, *given):
        return renamed(arrays(*given), KNOWN, rename, "a model")

    def test_exact_names(self):
        found = self.rename({"h0": "blocks.0", "h1": "blocks.1"}, "h0", "h1", "other")
        assert list(found.values) == ["blocks.0", "blocks.1"]
        assert found.unknown == ("other",)

    def test_a_star_is_carried_over(self):
        found = self.rename({"h.*.ln": "blocks.*.norm1", "h.*": "blocks.*"}, "h.0.ln", "h.1.ln", "h.1")
        assert list(found.values) == ["blocks.0.norm1", "blocks.1.norm1", "blocks.1"]

    def test_an_exact_name_comes_before_a_pattern(self):
        assert list(self.rename({"h.*": "blocks.*", "h.2": "norm"}, "h.0", "h.2").values) == ["blocks.0", "norm"]

    def test_what_is_not_mentioned_is_understood_as_ever(self):
        found = self.rename({"net.embed": "embedded"}, "net.embed", "net.blocks.0", "net.layers.1", "net.norm")
        assert list(found.values) == ["embedded", "blocks.0", "blocks.1", "norm"]

    def test_a_new_name_may_be_of_another_spelling(self):
        assert list(self.rename({"tf_*": "vit.layers.*"}, "tf_0", "tf_1").values) == ["blocks.0", "blocks.1"]

    def test_a_function(self):
        found = self.rename(
            lambda name: name.replace("stage_", "blocks.") if name != "loss" else None, "stage_0", "stage_9", "loss"
        )
        assert list(found.values) == ["blocks.0"]
        assert found.unknown == ("stage_9",)

    def test_a_functions_own_error_is_passed_on(self):
        assert refused(self.rename, lambda name: {}[name], "blocks.0", error=KeyError) == "'blocks.0'"

    @pytest.mark.parametrize(
        ("rename", "sentence"),
        [
            ({"h.00": "blocks.0"}, "rename: the candidate has no 'h.00'; did you mean h.0?"),
            ({"x*": "blocks.*"}, "rename: the candidate has no 'x*'"),
            ({"h.0": "block.0"}, "rename: 'block.0', for 'h.0', is no name of the trace; did you mean blocks.0?"),
            ({"h.*.*": "blocks.*"}, f"rename: 'h.*.*' to 'blocks.*': {STARS}"),
            ({"h.0": "blocks.*"}, f"rename: 'h.0' to 'blocks.*': {STARS}"),
            ({"h.0": 3}, f"rename: 'h.0' to 3: {STARS}"),
            ("h.0=blocks.0", "rename must be a mapping or a function, got str"),
            (lambda name: 7, "rename: the function must return a name or None, and returned int for 'h.0'"),
            ({"h.*": "norm"}, "the candidate's 'h.0' and 'h.1' would both be norm; rename= tells them apart"),
        ],
    )
    def test_mistakes(self, rename, sentence):
        assert refused(self.rename, rename, "h.0", "h.1") == sentence


class TestMappings:
    """Arrays of any library, by name."""

    def test_numpy(self, record, trace):
        found = record(trace, "float64")
        assert list(found.values) == list(trace)
        assert (found.kind, found.unknown, found.notes) == (f"a trace of {len(trace)} arrays", (), ())

    def test_narrow_dtypes_are_widened(self, record, trace):
        narrow = {"blocks.0": trace["blocks.0"].astype(ml_dtypes.bfloat16), "norm": trace["norm"].astype(np.float16)}
        found = record(narrow, "bfloat16")
        assert [value.dtype.name for value in found.values.values()] == ["float32", "float16"]
        assert np.array_equal(found.values["blocks.0"], narrow["blocks.0"].astype(np.float32))

    @pytest.mark.parametrize("library", ["torch", "jax", "array_api_strict"])
    def test_other_libraries(self, record, library):
        pytest.importorskip(library, reason=f"{library} is not installed")
        if library == "torch":
            import torch

            given = {"norm": torch.ones(2, 3, requires_grad=True) * 3, "head": torch.full((2, 3), 0.1, dtype=torch.bfloat16)}
        elif library == "jax":
            import jax.numpy as jnp

            given = {"norm": jnp.ones((2, 3)) * 3, "head": jnp.full((2, 3), 0.1, jnp.bfloat16)}
        else:
            import array_api_strict as strict

            given = {"norm": strict.ones((2, 3)) * 3, "head": strict.full((2, 3), 0.10009765625, dtype=strict.float32)}
        found = record(given).values
        assert np.array_equal(found["norm"], np.full((2, 3), 3.0))
        assert np.array_equal(found["head"], np.full((2, 3), 0.10009765625, np.float32))

    def test_of_a_tuple_the_first(self, record):
        found = record({"norm": (ONE, 2 * ONE), "blocks.0": [(3 * ONE,), ONE], "blocks.1.kept": np.int64(3)}).values
        assert np.array_equal(found["norm"], ONE)
        assert np.array_equal(found["blocks.0"], 3 * ONE)
        assert found["blocks.1.kept"].shape == ()

    @pytest.mark.parametrize(
        ("value", "sentence"),
        [
            (3.0, "the candidate's 'norm' cannot be read: float is no array"),
            (None, "the candidate's 'norm' cannot be read: NoneType is no array"),
            ((), "the candidate's 'norm' cannot be read: tuple is no array"),
            (np.array(["a"]), "the candidate's 'norm' must be of real numbers, got <U1"),
            (np.array([None]), "the candidate's 'norm' must be of real numbers, got object"),
            (np.ones(3, np.complex64), "the candidate's 'norm' must be of real numbers, got complex64"),
            (np.zeros(2, [("float", "f4")]), "the candidate's 'norm' must be of real numbers, got [('float', '<f4')]"),
        ],
    )
    def test_values_that_are_none(self, record, value, sentence):
        assert refused(record, {"norm": value}) == sentence

    @pytest.mark.parametrize(
        ("given", "sentence"),
        [
            ({3: ONE}, "the candidate's names must be text of at most 300 characters, got '3'"),
            ({"a" * 301: ONE}, f"the candidate's names must be text of at most 300 characters, got '{'a' * 58}"),
            (dict.fromkeys(map(str, range(20_001)), ONE), "the candidate has 20,001 values, more than any trace"),
        ],
        ids=["number", "long", "many"],
    )
    def test_names_that_are_none(self, record, given, sentence):
        assert refused(record, given).startswith(sentence)

    def test_an_empty_mapping(self, record):
        assert refused(record, {}) == "the candidate holds no arrays"

    def test_a_narrower_dtype_than_was_said(self, record, trace):
        narrow = {name: value.astype(np.float32) for name, value in trace.items()}
        assert record(narrow, "float64").notes == ("all values are float32, yet the candidate is said to compute in float64",)
        assert record(narrow, "float32").notes == ()
        assert record(narrow, "autocast-bfloat16").notes == ()
        half = {name: value.astype(np.float16) for name, value in trace.items()}
        assert record(half, "tf32").notes == ("all values are float16, yet the candidate is said to compute in tf32",)

    def test_other_images(self, record, images):
        assert record({"norm": ONE, "images": images.astype(ml_dtypes.bfloat16)}).notes == ()
        sentence = ("the candidate's 'images' are not the images that were given",)
        assert record({"norm": ONE, "images": images[::-1]}).notes == sentence
        assert record({"norm": ONE, "images": images[:1]}).notes == sentence
        assert record({"norm": ONE, "images": images[:1]}).unknown == ()

    def test_of_another_number_of_images(self, record, trace, images):
        fewer = {name: value[:1] for name, value in trace.items()}
        sentence = "the candidate's arrays have 1 on their first axis, and 2 images were given"
        assert refused(record, fewer, error=reforg.ShapeError) == sentence
        assert record(lambda batch: fewer).values["norm"].shape[0] == 1, "of a function, that is a wrong answer"
        turned = {"blocks.0": trace["blocks.0"].swapaxes(0, 1), "norm": trace["norm"].swapaxes(0, 1)}
        assert set(record(turned).values) == set(turned), "the axis of images may be another"


class TestFiles:
    """Arrays by name in files, none of which is trusted."""

    @pytest.mark.parametrize("name", ["port.npz", "port.safetensors", "port"])
    def test_formats(self, record, trace, tmp_path, name):
        if name == "port.npz":
            np.savez_compressed(tmp_path / name, **trace)
        else:
            save_file({key: np.ascontiguousarray(value) for key, value in trace.items()}, tmp_path / name)
        found = record(tmp_path / name, "float64")
        assert set(found.values) == set(trace)
        assert all(np.array_equal(value, trace[key]) for key, value in found.values.items())
        assert found.kind == f"a trace of {len(trace)} arrays from {name}"
        assert set(record(str(tmp_path / name), "float64").values) == set(trace)

    def test_what_torch_saves(self, record, tmp_path):
        torch = pytest.importorskip("torch", reason="torch is not installed")
        torch.save({"norm": torch.ones(2, 3), "blocks.0": (torch.zeros(2, 3, dtype=torch.bfloat16), None)}, tmp_path / "port.pt")
        assert set(record(tmp_path / "port.pt").values) == {"norm", "blocks.0"}

    @pytest.mark.parametrize(
        ("content", "sentence"),
        [
            (b"", "is refused: it is empty"),
            (b"text", "is refused: it is neither torch's, NumPy's nor safetensors"),
            (b"\x80\x04N.", "is refused: it is a plain pickle, which only running it could open; …"),
            (b"\x93NUMPY\1\0", "is refused: it is a single array (.npy); save the arrays by name with numpy.savez"),
            (b"<html>", "is refused: it is a web page, not a checkpoint; the download went wrong"),
            (b"\2\0\0\0\0\0\0\0{}", "is refused: it holds no arrays by name, but an empty mapping"),
        ],
    )  # fmt: skip
    def test_what_is_none(self, record, tmp_path, content, sentence):
        path = tmp_path / "port.npz"
        path.write_bytes(content)
        assert says(f"{refused(record, path)}\n", f"candidate: {str(path)!r} {sentence}")

    def test_missing_files_and_folders(self, record, tmp_path):
        assert refused(record, tmp_path / "port.npz") == f"candidate: there is no file {str(tmp_path / 'port.npz')!r}"
        assert refused(record, tmp_path) == f"candidate: {str(tmp_path)!r} is refused: it is a folder"
        assert refused(record, "a\0b").startswith("candidate: 'a\\x00b' cannot be read: ")

    def test_pickles_in_an_npz_are_not_run(self, record, tmp_path):
        np.savez(tmp_path / "port.npz", norm=np.array([print], object))
        assert refused(record, tmp_path / "port.npz").endswith(" is refused: its array 'norm.npy' is no plain array of numbers")

    def test_text_in_an_npz(self, record, tmp_path):
        np.savez(tmp_path / "port.npz", norm=np.array(["a"]))
        assert refused(record, tmp_path / "port.npz").endswith(" is refused: its array 'norm.npy' is of <U1, no numbers")

    def test_claims_that_no_file_keeps(self, record, tmp_path):
        header = b"{'descr': '<f8', 'fortran_order': False, 'shape': (1000000, 1000000), }".ljust(117) + b"\n"
        with zipfile.ZipFile(tmp_path / "port.npz", "w") as archive:
            archive.writestr("norm.npy", b"\x93NUMPY\1\0" + len(header).to_bytes(2, "little") + header + bytes(64))
        assert refused(record, tmp_path / "port.npz").endswith("has not the bytes that (1000000, 1000000) need")
        head = b'{"norm":{"dtype":"F64","shape":[1000000,1000000],"data_offsets":[0,8000000000000]}}'
        (tmp_path / "port.safetensors").write_bytes(len(head).to_bytes(8, "little") + head)
        assert " is refused: it is no safetensors file: " in refused(record, tmp_path / "port.safetensors")


class TestFunctions:
    """Images in, logits or a mapping out."""

    def test_logits(self, record):
        found = record(lambda images: images.mean(axis=(2, 3)))
        assert list(found.values) == ["logits"]
        assert found.kind == "a function"

    def test_a_tuple(self, record):
        assert record(lambda images: (ONE, 7)).values["logits"] is ONE

    def test_a_mapping(self, record):
        found = record(lambda images: {"model.blocks.0": ONE, "model.norm": ONE, "logits": (ONE, None)})
        assert list(found.values) == ["blocks.0", "norm", "logits"]
        assert found.kind == "a function that returns 3 arrays"

    @pytest.mark.parametrize(
        ("dtype", "given"),
        [("float64", "float64"), ("float32", "float32"), ("tf32", "float32"), ("bfloat16", "float32"), ("float16", "float16"),
         ("autocast-float16", "float32")],
    )  # fmt: skip
    def test_what_it_gets(self, record, images, dtype, given):
        seen = []

        def function(batch):
            seen.append(batch.copy())
            batch[...] = 0
            return ONE

        before = images.copy()
        record(function, dtype)
        assert seen[0].dtype == given
        assert np.array_equal(seen[0], images.astype(given))
        assert np.array_equal(images, before), "the function got images of its own"

    def test_its_own_error_is_passed_on(self, record):
        def function(images):
            raise ZeroDivisionError("mine")

        assert refused(record, function, error=ZeroDivisionError) == "mine"

    def test_nothing(self, record):
        assert refused(record, lambda images: None) == "the candidate's 'logits' cannot be read: NoneType is no array"
        assert refused(record, 3) == "the candidate must be a mapping, a path, a function or a module, got int"
        assert refused(record, [ONE]) == "the candidate must be a mapping, a path, a function or a module, got list"


class TestRecorders:
    """Frameworks whose models are recorded, found by their entry point."""

    def test_no_framework_is_imported_for_it(self):
        code = (
            "import sys, numpy, reforg\n"
            "from reforg.verification.candidate.recording import recorded\n"
            "from reforg.verification.error_model.precision import precision_of\n"
            "model = reforg.create_model('evit_fmnist')\n"
            "images = numpy.zeros((1, 1, 28, 28))\n"
            "recorded(lambda images: images, model, images, precision_of('float32'), None, ['logits'])\n"
            "print(sorted({'torch', 'jax', 'onnx', 'onnxruntime', 'reforg_torch'} & set(sys.modules)))"
        )
        done = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True)
        assert done.stdout == "[]\n"

    def test_torchs_is_declared(self):
        assert candidates.backend.installed(candidates.GROUP)["torch"].value == "reforg_torch.recorder"

    def test_another_one(self, record, monkeypatch):
        class Point:
            name = "json"  # of any module that is imported

            def load(self):
                return Other

        class Other:
            @staticmethod
            def matches(candidate):
                return candidate == "mine" or isinstance(candidate, set)

            @staticmethod
            def record(candidate, images, autocast):
                return {
                    "logits": np.float32([images.shape[0], candidate.pop()]),
                    "autocast": np.array([0.0 if autocast is None else 1.0]),
                }

        monkeypatch.setattr(candidates.backend, "installed", lambda group: {"json": Point(), "nothing_of_that_name": None})
        found = record({7}, "autocast-bfloat16", rename={"autocast": "norm"})
        assert found.kind == "a json module, hooked"
        assert (found.values["logits"].tolist(), found.values["norm"].tolist()) == ([2, 7], [1])


@pytest.fixture(scope="module")
def torch():
    return pytest.importorskip("torch", reason="torch is not installed")


@pytest.fixture(scope="module")
def literal(torch):
    """EViT and Shunted as torch modules, independent of reforg."""
    path = Path(__file__).parents[1] / "oracle" / "literal.py"
    spec = importlib.util.spec_from_file_location("literal_for_candidates", path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="module")
def evit(torch, literal, model):
    module = literal.VisionTransformer((6, 6), 4, 3, 10, 24, 3, 96, (1.0, 0.7, 0.7, 1.0), fuse=True).double()
    module.load_state_dict({name: torch.from_numpy(np.array(value)) for name, value in model.weights.items()})
    return module


class Nested:
    """Torch modules that a test plants around or into others; made where torch is there."""

    def __init__(self, torch):
        nn = torch.nn

        class Wrapper(nn.Module):
            def __init__(self, inside, output=lambda found: found):
                super().__init__()
                self.model, self.output = inside, output

            def forward(self, images):
                return self.output(self.model(images))

        class Shared(nn.Module):
            """One GELU for two layers, which calls it once and twice."""

            def __init__(self):
                super().__init__()
                act = nn.GELU()
                self.first, self.second = nn.Sequential(nn.Identity(), act, ScaledIdentity()), Twice(act)
                self.drop = nn.Dropout(0.5)

            def forward(self, x):
                return self.drop(self.second(self.first(x))[0])

        class ScaledIdentity(nn.Module):
            """Not idle, whatever its name says."""

            def __init__(self):
                super().__init__()
                self.gain = nn.Parameter(torch.ones(1))

            def forward(self, x):
                return self.gain * x

        class Twice(nn.Module):
            def __init__(self, act):
                super().__init__()
                self.act = act

            def forward(self, x):
                return self.act(self.act(x)), x

        self.Wrapper, self.Shared = Wrapper, Shared


@pytest.fixture(scope="module")
def nested(torch):
    return Nested(torch)


class TestTorch:
    """Modules, hooked for the user."""

    def test_every_module_has_the_names_value(self, record, trace, evit):
        found = record(evit, "float64")
        assert found.kind == "a torch module, hooked"
        assert (found.unknown, found.notes) == ((), ())
        assert set(trace) - set(found.values) <= {f"blocks.{number}.attended" for number in range(4)}
        off = {name: abs(value - trace[name]).max() / abs(trace[name]).max() for name, value in found.values.items()}
        assert max(off.values()) < 1e-10
        assert [name for name in found.values if name in ("blocks.0", "blocks.1", "norm")] == ["blocks.0", "blocks.1", "norm"]

    def test_in_place_operations_and_modules_called_twice(self, torch, literal):
        model = reforg.create_model("shunted_t", weights="synthetic:3", dtype="float64", **SHUNTED_MICRO)
        hidden = (64, 64, 96, 128)
        module = literal.ShuntedTransformer(3, 10, (64, 32, 48, 64), (1, 1, 2, 1), (2, 2, 4, 4), hidden, (8, 4, 2, 1), 1, True)
        weights = {name: torch.from_numpy(np.array(value)) for name, value in model.weights.items()}
        module.double().load_state_dict(weights, strict=False)
        images = synthetic.images((1, 3, 64, 96), 3).astype(np.float64)
        trace = model.trace(images)
        found = recorded(module, model, images, precision_of("float64"), None, list(trace)).values
        assert {"patch_embed1.conv.1", "patch_embed1.conv.2", "block1.0.attn.act@0", "block1.0.attn.act@1"} <= set(found)
        assert max(abs(value - trace[name]).max() / abs(trace[name]).max() for name, value in found.items()) < 1e-10

    def test_the_module_is_left_as_it_was(self, record, torch, evit):
        evit.train()
        evit.blocks[1].eval()
        before = {name: part.training for name, part in evit.named_modules()}
        record(evit)
        assert {name: part.training for name, part in evit.named_modules()} == before
        assert not any(part._forward_hooks or part._forward_pre_hooks for part in evit.modules())
        assert all(value.grad is None for value in evit.parameters())
        evit.eval()

    def test_so_it_is_where_it_raises(self, record, torch, evit, monkeypatch):
        def broken(x):
            raise ZeroDivisionError("in the middle")

        evit.train()
        monkeypatch.setattr(evit.norm, "forward", broken)
        assert refused(record, evit, error=ZeroDivisionError) == "in the middle"
        assert all(part.training for part in evit.modules())
        assert not any(part._forward_hooks or part._forward_pre_hooks for part in evit.modules())
        evit.eval()

    def test_dropout_is_off(self, record, torch, nested, evit):
        module = nested.Wrapper(evit, torch.nn.Dropout(0.9)).train()
        assert np.array_equal(record(module).values["logits"], record(evit).values["logits"])

    def test_wrappers(self, record, torch, nested, evit):
        for module in (nested.Wrapper(evit), torch.nn.DataParallel(evit), nested.Wrapper(nested.Wrapper(evit))):
            found = record(module)
            assert set(found.values) == set(record(evit).values)
            assert (found.unknown, len(found.notes)) == ((), 1)

    @pytest.mark.filterwarnings("ignore::DeprecationWarning")  # of torch's own compiler
    def test_of_what_torch_compiles_the_modules_are_recorded(self, record, torch, evit):
        def compiled(graph, inputs):
            raise AssertionError("hooks are nothing that compiled code heeds")

        assert set(record(torch.compile(evit, backend=compiled)).values) == set(record(evit).values)

    def test_nothing_is_kept_for_gradients(self, record, torch, nested, evit):
        seen = []
        record(nested.Wrapper(evit, lambda found: seen.append((torch.is_grad_enabled(), found.requires_grad)) or found))
        assert seen == [(False, False)]

    @pytest.mark.parametrize(
        ("output", "logits"),
        [
            (lambda found: (found, 3), True),
            (lambda found: {"loss": found.sum(), "logits": found}, True),
            (lambda found: [None, found], True),
            (lambda found: {"last_hidden_state": found}, False),
        ],
    )
    def test_what_a_model_may_return(self, record, nested, evit, output, logits):
        found = record(nested.Wrapper(evit, output))
        assert ("logits" in found.values) == logits
        if logits:
            assert found.values["logits"].shape == (2, 10)

    def test_a_module_of_several_paths_has_that_of_its_caller(self, torch, nested):
        from reforg_torch import recorder

        module = nested.Shared().double()
        images = np.linspace(-1, 1, 12).reshape(1, 1, 3, 4)
        found = recorder.record(module, images, None)
        assert list(found) == ["first.1", "first.2", "first", "second.act@0", "second.act@1", "second.act", "second", "logits"]
        gelu = torch.nn.GELU()
        once, twice = gelu(torch.tensor(images)).numpy(), gelu(gelu(torch.tensor(images))).numpy()
        assert np.allclose(found["first.1"], once)
        assert np.allclose(found["second.act@0"], twice)
        assert np.array_equal(found["second.act"], found["second.act@1"])

    def test_dtype_and_autocast(self, record, torch, evit):
        module = copy.deepcopy(evit).to(torch.bfloat16)
        half = record(module, "bfloat16").values
        assert half["blocks.0"].dtype == np.float32
        assert np.array_equal(half["blocks.0"], half["blocks.0"].astype(ml_dtypes.bfloat16).astype(np.float32))
        mixed = record(copy.deepcopy(evit).float(), "autocast-bfloat16").values
        qkv, block = mixed["blocks.0.attn.qkv"], mixed["blocks.0"]
        assert np.array_equal(qkv, qkv.astype(ml_dtypes.bfloat16).astype(np.float32)), "products are rounded"
        assert not np.array_equal(block, block.astype(ml_dtypes.bfloat16).astype(np.float32)), "residuals are not"
        assert not torch.is_autocast_enabled("cpu")
