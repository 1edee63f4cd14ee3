"""The golden layer: what the official PyTorch code computed, reproduced by the reference on every array library."""

import hashlib
import re
from importlib import resources

import numpy as np
import pytest
from golden_cases import CASES, MICRO, SYNTHETIC, TRAINED, WITH_1000_LOGITS, distance, images_of, in_batches, model_of, rms
from safetensors.numpy import load

import reforg_golden
from reforg import shunted, vit
from reforg.catalog import synthetic
from reforg.catalog.names import build_config
from reforg.config import VitConfig
from reforg.families import shapes
from reforg.models import embedded
from reforg.ops import REFERENCE, Recorder


def run_traced(weights, images, config):
    recorder = Recorder()
    forward = vit.forward if isinstance(config, VitConfig) else shunted.forward
    logits = forward(weights, images, config, REFERENCE, recorder)
    return logits, recorder.values


@pytest.mark.parametrize("name", MICRO)
def test_every_intermediate_of_the_micro_models_is_the_official_one(name, lib):
    case = CASES[name]
    config = build_config(case.entry["model"], **case.entry["config"])
    seed = case.entry["images"]["synthetic"]
    weights = {key: value.astype(np.float64) for key, value in synthetic.weights(shapes(config), seed).items()}
    logits, trace = lib.run(run_traced, weights, images_of(case).astype(np.float64), config=config)
    limit = case.entry["limits"]["float64"]
    assert distance(logits, case.arrays()["logits"]) <= limit
    worst = {path: distance(trace[path], truth) for path, truth in case.taps().items()}
    assert {path: error for path, error in worst.items() if not error <= limit} == {}


ALWAYS = {*MICRO, "evit_small_k07_fuse", "deit3_small", "shunted_t", "timm_vit_tiny_patch16_224"}
"""Of each family one large model at every run, by the reference; in float64 `auto` is that too, in parts of a batch."""


def further(name, ops):
    """Whether a case leaves the others to the longer run."""
    return name not in ALWAYS or (ops == "auto" and name not in MICRO)


@pytest.mark.parametrize(
    ("name", "ops"),
    [
        pytest.param(name, ops, id=f"{name}-{ops}", marks=pytest.mark.full if further(name, ops) else ())
        for name in CASES
        for ops in ("reference", "auto")
    ],
)
def test_float64_logits_are_the_official_ones(name, ops):
    case = CASES[name]
    logits = in_batches(model_of(case, dtype="float64", ops=ops), images_of(case))
    assert distance(logits, case.arrays()["logits"]) <= case.entry["limits"]["float64"]


@pytest.mark.parametrize("name", WITH_1000_LOGITS)
def test_float32_is_as_near_to_the_truth_as_torch_is(name):
    case, recorded = CASES[name], CASES[name].arrays()
    logits = model_of(case, dtype="float32", ops="reference")(images_of(case))
    ours, theirs = rms(logits - recorded["logits"]), rms(recorded["logits_float32"] - recorded["logits"])
    assert ours <= case.entry["limits"]["float32_rms_ratio"] * theirs


@pytest.mark.parametrize("name", [name for name, case in CASES.items() if case.entry["model"].startswith("evit_small")])
def test_the_kept_tokens_are_the_official_ones_in_their_order(name):
    case = CASES[name]
    trace = model_of(case, dtype="float64").trace(images_of(case), "*.kept")
    arrays = case.arrays()
    recorded = [arrays[key] for key in sorted(arrays) if re.fullmatch(r"kept_tokens\.\d", key)]
    assert len(recorded) == len(trace)
    for ours, theirs in zip(trace.values(), recorded, strict=True):
        np.testing.assert_array_equal(ours, theirs)


@pytest.mark.parametrize("name", SYNTHETIC)
def test_the_state_dict_is_the_official_one(name):
    case = CASES[name]
    theirs = {key: shape for key, shape in case.state_dict().items() if not key.endswith("num_batches_tracked")}
    ours = shapes(build_config(case.entry["model"], **case.entry["config"]))
    assert ours == theirs
    assert list(ours) == list(theirs)


@pytest.mark.parametrize("name", TRAINED)
def test_trained_models_answer_as_the_official_ones_do(name):
    case = CASES[name]
    recorded = case.arrays()
    np.testing.assert_array_equal(images_of(case)[0], recorded["first_input"])
    np.testing.assert_array_equal(embedded.test_images()[1][:256], recorded["labels"])
    answers = in_batches(model_of(case), images_of(case)).argmax(axis=1)
    np.testing.assert_array_equal(answers, recorded["logits"].argmax(axis=1))


class TestManifest:
    """The manifest tells everything about a case, and nothing that is not so."""

    KEYS = frozenset(
        {"id", "model", "config", "weights", "images", "source", "versions", "limits", "file", "sha256", "why", "derived"}
    )

    @pytest.mark.parametrize("case", CASES.values(), ids=CASES)
    def test_an_entry_is_complete(self, case):
        entry = case.entry
        assert set(entry) == self.KEYS
        assert set(entry["source"]) == {"repository", "commit"}
        assert "torch" in entry["versions"]
        assert 0 < entry["limits"]["float64"] <= 1e-10
        assert entry["limits"]["float32_rms_ratio"] <= 2
        assert len(entry["why"].split()) >= 5

    @pytest.mark.parametrize("case", CASES.values(), ids=CASES)
    def test_a_file_is_the_recorded_one_and_finite(self, case):
        assert hashlib.sha256(case.content()).hexdigest() == case.entry["sha256"]
        arrays = case.arrays()
        assert {"logits", "logits_float32"} <= set(arrays)
        assert arrays["logits"].dtype == np.float64
        assert all(np.isfinite(value).all() for value in arrays.values())

    @pytest.mark.parametrize("case", CASES.values(), ids=CASES)
    def test_what_is_derived_follows_from_what_stands_before_it(self, case):
        known = set(load(case.content()))
        for name, (how, *sources) in case.entry["derived"].items():
            assert how in {"same", "relu", "tokens", "sum"}
            assert set(sources) <= known
            assert name not in known
            known.add(name)

    def test_each_way_to_derive_is_the_one_that_its_name_says(self):
        arrays = CASES["shunted_micro"].arrays()
        fc2, mlp = arrays["tap.block1.0.mlp.fc2"], arrays["tap.block1.0.mlp"]
        conv, tokens = arrays["tap.block1.0.mlp.dwconv.dwconv"], arrays["tap.block1.0.mlp.dwconv"]
        np.testing.assert_array_equal(mlp, fc2)
        np.testing.assert_array_equal(tokens[0, 25], conv[0, :, 1, 1])  # (B, 16x24 pixels, C), row by row
        np.testing.assert_array_equal(arrays["tap.patch_embed1.conv.2"], arrays["tap.patch_embed1.conv.1"].clip(min=0))
        before, attention = arrays["tap.patch_embed1.norm"], arrays["tap.block1.0.attn.proj"]
        np.testing.assert_array_equal(arrays["tap.block1.0"], (before + attention) + fc2)

    def test_an_unknown_way_to_derive_is_refused(self):
        derived = {"tap.norm": ["product", "logits", "logits"]}
        case = reforg_golden.Case("new", {**CASES["shunted_t"].entry, "derived": derived})
        with pytest.raises(ValueError, match=r"case new: tap\.norm is derived by 'product'; this reader knows same, relu"):
            case.arrays()

    def test_no_file_is_without_an_entry(self):
        files = {f"cases/{entry.name}" for entry in resources.files(reforg_golden).joinpath("cases").iterdir()}
        assert files == {case.entry["file"] for case in CASES.values()}

    def test_a_file_that_was_changed_is_refused(self):
        case = reforg_golden.Case("changed", {**CASES["shunted_t"].entry, "sha256": "0" * 64})
        with pytest.raises(ValueError, match="not the recorded file"):
            case.arrays()
