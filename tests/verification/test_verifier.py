"""`reforg.verify` on recordings of the official programs, and on those recordings with something done to them."""

import numpy as np
import pytest

import reforg
import reforg_golden
from reforg.catalog import synthetic
from reforg.errors import ConfigError, DtypeError, ShapeError

MICRO = {"img_size": 24, "patch_size": 4, "num_classes": 10, "embed_dim": 24, "num_heads": 3}
MODELS = {
    "evit": ("evit_small_patch16_224", MICRO | {"depth": 6, "drop_loc": (1, 3)}, (2, 3, 24, 24)),
    "deit3": ("deit3_small_patch16_224", MICRO | {"depth": 3}, (2, 3, 24, 24)),
    "shunted": (
        "shunted_t",
        {
            "num_classes": 10, "embed_dims": (64, 32, 48, 64), "num_heads": (2, 2, 4, 4), "mlp_ratios": (1, 2, 2, 2),
            "depths": (1, 1, 2, 1), "sr_ratios": (8, 4, 2, 1), "num_conv": 1,
        },
        (1, 3, 64, 96),
    ),
}  # fmt: skip
INNER = ("scores", "probs", "context", "cls_attention", "kept", "reorganized", "attended", "embedded", "ls1", "ls2")
PRECISIONS = ("float64", "float32", "tf32", "bfloat16", "float16", "autocast-bfloat16", "autocast-float16")


def made(kind, seed=1):
    """A micro model and its images."""
    name, settings, shape = MODELS[kind]
    model = reforg.create_model(name, weights=f"synthetic:{seed}", dtype="float64", **settings)
    return model, synthetic.images(shape, seed).astype(np.float64)


def modules(trace):
    """What hooks on a module would see."""
    return {name: np.array(value) for name, value in trace.items() if name.rpartition(".")[2] not in INNER}


RECORDED = [case for case in reforg_golden.cases() if "micro" in case.id and case.taps()]


class TestHonestPorts:
    @pytest.mark.parametrize("case", RECORDED, ids=lambda case: case.id)
    def test_what_the_official_programs_computed_passes(self, case):
        wanted = case.entry["images"]
        model = reforg.create_model(case.entry["model"], weights=case.entry["weights"], dtype="float64", **case.entry["config"])
        images = synthetic.images(tuple(wanted["shape"]), wanted["synthetic"]).astype(np.float64)
        report = reforg.verify(case.taps(), model, images, "float64")
        assert report.verdict == "equal", str(report)
        assert not report.unknown

    @pytest.mark.parametrize("precision", PRECISIONS)
    @pytest.mark.parametrize("kind", MODELS)
    def test_a_port_of_any_precision_passes(self, kind, precision):
        model, images = made(kind)
        report = reforg.verify(modules(reforg.simulate(model, precision).trace(images)), model, images, precision)
        assert report.passed, str(report)
        assert not report.faults
        assert all(difference.worst <= difference.limit for difference in report.differences)
        assert len(report.differences) > 30

    @pytest.mark.parametrize("kind", MODELS)
    def test_logits_alone_pass(self, kind):
        model, images = made(kind)
        report = reforg.verify({"logits": reforg.simulate(model, "float32")(images)}, model, images)
        assert report.verdict == "equal"
        assert report.unseen
        assert report.notes

    def test_tokens_in_image_order_are_no_fault(self):
        model, images = made("evit")
        trace = model.trace(images)
        order = np.argsort(trace["blocks.3.kept"], axis=1)
        rows = np.concatenate([np.zeros((2, 1), int), order + 1, np.full((2, 1), order.shape[1] + 1)], axis=1)[:, :, None]
        after = [name for name in modules(trace) if name.startswith(("blocks.3.norm2", "blocks.3.mlp", "blocks.4", "blocks.5"))]
        values = modules(trace)
        for name in (*after, "blocks.3", "norm"):
            values[name] = np.take_along_axis(values[name], rows, axis=1)
        report = reforg.verify(values, model, images, "float64")
        assert report.verdict == "equal up to token order"
        assert report.passed


class TestFaults:
    def test_one_value_changed_is_one_fault_where_it_is(self):
        model, images = made("evit")
        values = modules(model.trace(images))
        values["blocks.4.mlp.fc1"][0, 3, 5] *= 1.001
        report = reforg.verify(values, model, images, "float64")
        assert report.verdict == "diverges"
        assert report.first.name == "blocks.4.mlp.fc1"
        assert report.first.where == (0, 3, 5)
        # What reads it was not computed from it, so it is wrong too, given that value.
        assert [fault.name for fault in report.faults] == ["blocks.4.mlp.fc1", "blocks.4.mlp.act"]

    @pytest.mark.parametrize("precision", [pytest.param("float64", marks=pytest.mark.full), "float32", "bfloat16"])
    def test_another_kept_set_is_told_from_rounding(self, precision):
        model, images = made("evit")
        other = model.with_config(keep_rate=0.6)
        report = reforg.verify(modules(reforg.simulate(other, precision).trace(images)), model, images, precision)
        assert (report.first.name, report.first.operation) == ("blocks.1.norm2", "blocks.1.reorganized")
        assert report.selections[0].verdict == "diverges"

    def test_missing_layer_scale_is_explained(self):
        model, images = made("deit3")
        weights = model.weights
        weights["blocks.1.gamma_1"] = np.ones_like(weights["blocks.1.gamma_1"])
        port = reforg.create_model("deit3_small_patch16_224", weights=weights, dtype="float64", **MODELS["deit3"][1])
        report = reforg.verify(modules(port.trace(images)), model, images, "float64")
        assert (report.first.name, report.first.operation) == ("blocks.1.norm2", "blocks.1.ls1")
        assert "LayerScale missing" in report.explanation
        assert len(report.faults) == 1

    @pytest.mark.parametrize(("epsilon", "told"), [(1e-5, "1e-5"), (1.1e-5, "1.1e-5"), (1e-3, "1e-3")])
    def test_an_epsilon_is_found_and_named(self, epsilon, told):
        model, images = made("evit")
        port = model.with_config(norm_eps=epsilon)
        report = reforg.verify(modules(port.trace(images)), model, images, "float64")
        assert report.first.name == "blocks.0.norm1"
        assert {fault.operation.rpartition(".")[2] for fault in report.faults} == {"norm1", "norm2", "norm"}
        assert all("epsilon" in fault.explanation for fault in report.faults)
        assert f"epsilon {told}" in {fault.explanation for fault in report.faults}

    def test_nan_is_a_fault_and_no_traceback(self):
        model, images = made("deit3")
        values = modules(model.trace(images))
        values["blocks.1.mlp.fc1"][1, 2, 3] = np.nan
        report = reforg.verify(values, model, images, "float64")
        assert report.first.name == "blocks.1.mlp.fc1"
        assert report.first.worst == np.inf


class TestMistakes:
    def test_of_the_user(self):
        model, images = made("deit3")
        with pytest.raises(ConfigError, match=r"there is no precision 'flaot32'; did you mean float32\?"):
            reforg.verify({"logits": np.zeros((2, 10))}, model, images, "flaot32")
        with pytest.raises(ConfigError, match="verify wants a model"):
            reforg.verify({"logits": np.zeros((2, 10))}, "deit3_small_patch16_224", images)
        with pytest.raises(ShapeError):
            reforg.verify({"logits": np.zeros((2, 10))}, model, images[0])
        with pytest.raises(DtypeError):
            reforg.verify({"logits": np.zeros((2, 10))}, model, images.astype(int))
        with pytest.raises(ConfigError, match="rename="):
            reforg.verify({"nothing.of.ours": np.zeros((2, 10))}, model, images)
        with pytest.raises(ConfigError, match="simulate wants a model"):
            reforg.simulate("deit3_small_patch16_224", "bfloat16")


class TestSimulation:
    def test_every_value_is_one_of_the_format(self):
        model, images = made("evit")
        for value in modules(reforg.simulate(model, "bfloat16").trace(images)).values():
            assert not np.any(np.ascontiguousarray(value).view(np.uint32) & 0xFFFF)

    def test_float32_is_the_reference_in_float32(self):
        model, images = made("shunted")
        name, settings, _ = MODELS["shunted"]
        single = reforg.create_model(name, weights="synthetic:1", dtype="float32", ops="reference", **settings)
        assert np.array_equal(reforg.simulate(model, "float32").trace(images)["logits"], single.trace(images)["logits"])
