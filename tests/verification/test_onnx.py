"""ONNX files as candidates: which tensor is which value of the trace, what faults they show, and what harm they cannot do."""

import os
import sys
from collections.abc import Callable
from functools import lru_cache
from pathlib import Path
from types import MethodType

import numpy as np
import pytest

import reforg
from reforg.errors import BackendError, ConfigError
from reforg.verification.candidate.onnx import files as onnx_files
from reforg.verification.candidate.onnx import session as onnx_session
from reforg.verification.candidate.onnx.graph import Graph, Node
from reforg.verification.candidate.onnx.layers import module_path
from reforg.verification.candidate.onnx.norms import Norm, norms_of
from reforg.verification.error_model.layouts import fitted

torch = pytest.importorskip("torch", reason="torch exports the files")
onnx = pytest.importorskip("onnx", reason="reads the files")
pytest.importorskip("onnxruntime", reason="runs the files")
pytest.importorskip("onnxscript", reason="torch's newer exporter needs it")

from onnx import TensorProto, helper  # noqa: E402
from onnx_files import changes, export  # noqa: E402  they import what may be missing
from onnx_files.export import EXPORTERS, FAMILIES, Family  # noqa: E402
from torch import nn  # noqa: E402

CLOSE = 2e-5  # of the largest value: the same module in float32 by torch and by onnxruntime


@lru_cache
def model_of(family: str) -> reforg.Model:
    return export.model_of(FAMILIES[family], export.module_of(FAMILIES[family]))


def exported(family: str, path: Path, exporter: str = "torchscript", fault: str | None = None, **options: object) -> Path:
    """The family's module in a file."""
    return written(FAMILIES[family], export.module_of(FAMILIES[family], fault), path, exporter, **options)


def written(family: Family, module: nn.Module, path: Path, exporter: str = "torchscript", **options: object) -> Path:
    return export.export(module, export.images_of(family), path, exporter, **options)


def images(family: str) -> np.ndarray:
    return export.images_of(FAMILIES[family])


def verified(family: str, path: Path, dtype: str = "float32") -> reforg.Report:
    return reforg.verify(path, model_of(family), images(family), dtype=dtype)


def recorded(family: str, path: Path) -> onnx_files.Recording:
    return onnx_files.recorded(os.fspath(path), images(family), model_of(family))


def expected(family: str) -> set[str]:
    """Every name of the trace but indices, attention that nothing ranks by, and convolutions that exporters fold a norm into."""
    trace, without = model_of(family).trace(images(family)), folded(family)
    return {
        name
        for name in trace
        if not name.endswith(".kept") and name not in without and (not name.endswith("cls_attention") or ranked(name, trace))
    }


def folded(family: str) -> set[str]:
    """Paths of the convolutions before batch norms."""
    norms = (name.removesuffix(".running_var") for name in model_of(family).weights if name.endswith(".running_var"))
    return {f"{name.rpartition('.')[0]}.{int(name.rpartition('.')[2]) - 1}" for name in norms}


def ranked(name: str, trace: object) -> bool:
    return f"{name.partition('.attn')[0]}.kept" in trace


def assert_values(family: str, found: onnx_files.Recording) -> None:
    """All values are those of the torch module, hooked."""
    from reforg_torch.recorder import record

    hooked = record(export.module_of(FAMILIES[family]), images(family))
    assert len(found.values.keys() & hooked.keys()) > len(hooked) / 2
    for name in found.values.keys() & hooked.keys():
        got, _ = fitted(found.values[name].astype(np.float64), hooked[name].astype(np.float64))
        assert got.shape == hooked[name].shape, name
        np.testing.assert_allclose(got, hooked[name], rtol=0, atol=CLOSE * np.abs(hooked[name]).max(), err_msg=name)


@pytest.mark.parametrize("exporter", EXPORTERS)
@pytest.mark.parametrize("family", FAMILIES)
def test_every_value_of_a_clean_file_is_found_and_passes(family: str, exporter: str, tmp_path: Path) -> None:
    path = exported(family, tmp_path / "clean.onnx", exporter)
    found = recorded(family, path)
    assert set(found.values) == set(found.matched) == expected(family)
    assert list(found.values) == [name for name in model_of(family).trace(images(family)) if name in found.values]
    assert_values(family, found)
    report = verified(family, path)
    assert report.verdict == "equal", str(report)
    assert not report.unknown


def assert_told(family: str, fault: str, report: reforg.Report) -> None:
    assert report.first is not None
    assert report.first.name == FAMILIES[family].faults[fault][1], str(report)
    assert len(report.faults) == 1, str(report)


FAULTS = [(family, fault) for family in FAMILIES for fault in FAMILIES[family].faults]


@pytest.mark.parametrize(("family", "fault"), FAULTS)
def test_a_fault_is_reported_where_it_is(family: str, fault: str, tmp_path: Path) -> None:
    assert_told(family, fault, verified(family, exported(family, tmp_path / "faulty.onnx", fault=fault)))


@pytest.mark.slow
@pytest.mark.parametrize(("family", "fault"), FAULTS)
def test_a_fault_is_reported_where_it_is_by_the_newer_exporter(family: str, fault: str, tmp_path: Path) -> None:
    assert_told(family, fault, verified(family, exported(family, tmp_path / "faulty.onnx", "dynamo", fault)))


@pytest.mark.parametrize(("family", "fault"), FAULTS)
def test_a_fault_is_found_without_names_and_with_norms_in_pieces(family: str, fault: str, tmp_path: Path) -> None:
    path = changes.without_names(exported(family, tmp_path / "faulty.onnx", fault=fault, opset_version=14))
    assert_told(family, fault, verified(family, path))


@pytest.mark.parametrize("family", FAMILIES)
def test_layers_and_what_they_read_tell_every_value(family: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(onnx_files, "_by_value", lambda *_: {})
    path = changes.without_names(exported(family, tmp_path / "nameless.onnx", opset_version=14))
    assert set(recorded(family, path).values) == expected(family)


@pytest.mark.parametrize(("family", "path"), [("vit", "blocks.1.norm1"), ("vit", "blocks.1.norm2"), ("shunted", "block2.0.norm2")])
def test_sums_are_found_where_no_norm_reads_them(family: str, path: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(onnx_files, "_by_value", lambda *_: {})
    module = export.module_of(FAMILIES[family])
    module.set_submodule(path, nn.Identity())
    file = changes.without_names(written(FAMILIES[family], module, tmp_path / "sums.onnx"))
    assert set(recorded(family, file).values) == expected(family)
    report = verified(family, file)
    assert report.first is not None
    assert report.first.name == path


SQUARED = [
    Node("Pow", "", "", ("x", "two"), ("p",)),
    Node("ReduceMean", "", "", ("p",), ("v",)),
    Node("Sqrt", "", "", ("v",), ("s",)),
]
CENTRED = [
    Node("ReduceMean", "", "", ("x",), ("m",)),
    Node("Sub", "", "", ("x", "m"), ("c",)),
    Node("Mul", "", "", ("c", "c"), ("p",)),
    Node("ReduceMean", "", "", ("p",), ("v",)),
    Node("Add", "", "", ("epsilon", "v"), ("e",)),
    Node("Sqrt", "", "", ("e",), ("s",)),
    Node("Div", "", "", ("c", "s"), ("q",)),
]
GAIN, BIAS = Node("Mul", "", "", ("gain", "q"), ("g",)), Node("Add", "", "", ("g", "bias"), ("y",))
SKIPPING = ("x", "residual", "gain", "bias")


@pytest.mark.parametrize(
    ("nodes", "norm"),
    [
        ([Node("LayerNormalization", "", "", ("x", "gain", "bias"), ("y",))], Norm("x", "y")),
        ([Node("SkipLayerNormalization", "com.microsoft", "", SKIPPING, ("y", "", "", "sum"))], Norm("sum", "y")),
        ([Node("SkipLayerNormalization", "com.microsoft", "", SKIPPING, ("y",))], Norm(None, "y")),
        ([*CENTRED, GAIN, BIAS], Norm("x", "y")),
        ([*CENTRED, Node("Transpose", "", "", ("q",), ("t",)), Node("Mul", "", "", ("t", "gain"), ("g",)), BIAS], Norm("x", "y")),
        (CENTRED, Norm("x", "q")),
        ([*CENTRED, GAIN], Norm("x", "g")),
        ([*SQUARED, Node("Div", "", "", ("x", "s"), ("q",)), GAIN, BIAS], Norm("x", "y")),
        ([*SQUARED, Node("Reciprocal", "", "", ("s",), ("r",)), Node("Mul", "", "", ("x", "r"), ("q",)), GAIN], Norm("x", "g")),
        ([Node("ReduceMean", "", "", ("x",), ("y",))], None),
        ([Node("ReduceMean", "", "", ("x",), ("m",)), Node("Sub", "", "", ("x", "m"), ("y",))], None),
    ],
)
def test_norms_in_one_piece_and_in_many(nodes: list[Node], norm: Norm | None) -> None:
    constants = {"gain": np.ones(8), "bias": np.ones(8), "two": np.array(2.0), "epsilon": np.array(1e-6)}
    values = {name: np.ones((2, 5, 8)) for node in nodes for name in (*node.inputs, *node.outputs) if name not in constants}
    assert norms_of(Graph(nodes, constants, values)) == ([norm] if norm else [])


def test_a_norm_folded_into_a_convolution_is_told(tmp_path: Path) -> None:
    clean, faulty = (
        recorded("hmlp", exported("hmlp", tmp_path / "file.onnx", fault=fault)) for fault in (None, "batch norm's epsilon")
    )
    told = "the norm or gain that follows is folded into the weights of patch_embed.proj.0, patch_embed.proj.3, patch_embed.proj.6"
    for found in (clean, faulty):
        assert [note for note in found.notes if note.startswith(told)], found.notes
    assert [note for note in faulty.notes if "patch_embed.proj.0 is not the model's gain" in note]
    assert not [note for note in clean.notes if "not the model's gain" in note]


def with_folded_gains() -> nn.Module:
    """DeiT III, each LayerScale of which is multiplied into the layer before it."""
    module = export.module_of(FAMILIES["deit3"])
    for block in module.blocks:
        for layer, gain in ((block.attn.proj, block.gamma_1), (block.mlp.fc2, block.gamma_2)):
            layer.weight.data *= gain.data[:, None]
            layer.bias.data *= gain.data
        block.scaled = MethodType(export.unscaled, block)
    return module


@pytest.mark.parametrize("named", [True, False])
def test_a_layer_scale_folded_into_its_layer(named: bool, tmp_path: Path) -> None:
    path = written(FAMILIES["deit3"], with_folded_gains(), tmp_path / "folded.onnx")
    report = verified("deit3", path if named else changes.without_names(path))
    assert report.passed, str(report)
    assert {"blocks.1.ls1", "blocks.1.ls2"} <= {difference.name for difference in report.differences}
    assert {"blocks.1.attn.proj", "blocks.1.mlp.fc2"} <= set(report.unseen)


class Apart(nn.Module):
    """Attention with queries, keys and values by layers of their own."""

    def __init__(self, attn: nn.Module) -> None:
        super().__init__()
        self.heads, self.special, self.proj = attn.heads, attn.special, attn.proj
        for name, weight, bias in zip(("query", "key", "value"), attn.qkv.weight.chunk(3), attn.qkv.bias.chunk(3), strict=True):
            layer = nn.Linear(weight.shape[1], weight.shape[0])
            layer.load_state_dict({"weight": weight, "bias": bias})
            self.add_module(name, layer)

    def forward(self, x: "torch.Tensor") -> tuple["torch.Tensor", "torch.Tensor"]:
        heads = (layer(x).unflatten(2, (self.heads, -1)).transpose(1, 2) for layer in (self.query, self.key, self.value))
        context = nn.functional.scaled_dot_product_attention(*heads)
        return self.proj(context.transpose(1, 2).flatten(2)), torch.zeros(x.shape[0], x.shape[1] - 1)


class Flat(nn.Module):
    """A linear layer on tokens that were laid out as one list."""

    def __init__(self, layer: nn.Linear) -> None:
        super().__init__()
        self.layer = layer

    def forward(self, x: "torch.Tensor") -> "torch.Tensor":
        return self.layer(x.reshape(-1, x.shape[-1])).reshape(*x.shape[:-1], -1)


class Halves(nn.Module):
    """A patch embedding by two convolutions, neither of whose weights is the model's."""

    def __init__(self, whole: nn.Conv2d) -> None:
        super().__init__()
        self.parts = nn.ModuleList()
        for weight, bias in zip(whole.weight.chunk(2), whole.bias.chunk(2), strict=True):
            part = nn.Conv2d(weight.shape[1], weight.shape[0], whole.kernel_size, whole.stride)
            part.load_state_dict({"weight": weight, "bias": bias})
            self.parts.append(part)

    def forward(self, x: "torch.Tensor") -> "torch.Tensor":
        return torch.cat([part(x) for part in self.parts], dim=1)


def with_queries_apart(module: nn.Module) -> None:
    for block in module.blocks:
        block.attn = Apart(block.attn)


def with_flat_layers(module: nn.Module) -> None:
    for block in module.blocks:
        block.attn.qkv, block.mlp.fc1, block.mlp.fc2 = Flat(block.attn.qkv), Flat(block.mlp.fc1), Flat(block.mlp.fc2)


def with_halves(module: nn.Module) -> None:
    module.patch_embed.proj = Halves(module.patch_embed.proj)


@pytest.mark.parametrize("exporter", EXPORTERS)
@pytest.mark.parametrize("named", [True, False])
@pytest.mark.parametrize("change", [with_queries_apart, with_flat_layers, with_halves])
def test_other_ways_to_write_the_same_layers(
    change: Callable[[nn.Module], None], named: bool, exporter: str, tmp_path: Path
) -> None:
    module = export.module_of(FAMILIES["vit"])
    change(module)
    path = written(FAMILIES["vit"], module, tmp_path / "other.onnx", exporter)
    path = path if named else changes.without_names(path)
    assert set(recorded("vit", path).values) == expected("vit")
    report = verified("vit", path)
    assert report.verdict == "equal", str(report)


class Pooled(nn.Module):
    """A mean over the patches, normed, in place of the class token; or no head at all."""

    def __init__(self, module: nn.Module, mean: bool) -> None:
        super().__init__()
        self.module, self.fc_norm, self.mean = module, module.norm, mean

    def forward(self, images: "torch.Tensor") -> "torch.Tensor":
        x = self.module.embedded(self.module.embed(images))
        for block in self.module.blocks:
            x = block(x)
        return self.module.head(self.fc_norm(x[:, 1:].mean(1))) if self.mean else self.fc_norm(x)[:, 0]


@pytest.mark.parametrize(("mean", "changed"), [(True, {"global_pool": "avg"}), (False, {"num_classes": 0})])
def test_other_heads(mean: bool, changed: dict[str, object], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(onnx_files, "_by_value", lambda *_: {})
    family = FAMILIES["vit"]
    module = export.module_of(family)
    norm = "fc_norm." if mean else "norm."
    weights = {name.replace("norm.", norm) if name.startswith("norm.") else name: w for name, w in module.state_dict().items()}
    weights = {name: weight.double().numpy() for name, weight in weights.items() if mean or not name.startswith("head")}
    model = reforg.create_model(family.name, weights=weights, dtype="float64", **(family.config | changed))
    path = written(family, Pooled(module, mean), tmp_path / "pooled.onnx")
    found = onnx_files.recorded(os.fspath(path), images("vit"), model)
    wanted = model.trace(images("vit"))
    assert {name for name in wanted if name not in found.values} == {name for name in wanted if name.endswith("cls_attention")}
    assert reforg.verify(path, model, images("vit")).verdict == "equal"


def test_a_wrapper_around_the_module(tmp_path: Path) -> None:
    module = nn.Sequential(export.module_of(FAMILIES["vit"]))
    module[0].blocks[1].mlp.fc1.weight.data.neg_()
    report = verified("vit", written(FAMILIES["vit"], module, tmp_path / "wrapped.onnx", "dynamo"))
    assert report.first is not None
    assert report.first.name == "blocks.1.mlp.fc1"
    assert not [note for note in report.notes if "place in the file" in note], "its name tells, not its place"


@pytest.mark.parametrize("exporter", EXPORTERS)
@pytest.mark.parametrize("named", [True, False])
def test_weights_that_are_not_the_models(named: bool, exporter: str, tmp_path: Path) -> None:
    module = export.module_of(FAMILIES["vit"])
    module.blocks[0].mlp.fc1.weight.data.neg_()
    rows = module.blocks[2].attn.qkv.weight.data
    module.blocks[2].attn.qkv.weight.data = rows.reshape(3, 3, 8, 24).transpose(0, 1).reshape(72, 24).contiguous()
    path = written(FAMILIES["vit"], module, tmp_path / "wrong.onnx", exporter)
    report = verified("vit", path if named else changes.without_names(path))
    assert [fault.name for fault in report.faults] == ["blocks.0.mlp.fc1", "blocks.2.attn.qkv"], str(report)
    told = "weights of blocks.0.mlp.fc1, blocks.2.attn.qkv are not the model's: found by their place in the file"
    assert (told in report.notes) is not named


@pytest.mark.parametrize("named", [True, False])
def test_weights_of_two_blocks_exchanged(named: bool, tmp_path: Path) -> None:
    module = export.module_of(FAMILIES["vit"])
    first, second = module.blocks[0].mlp, module.blocks[1].mlp
    first.fc1, second.fc1 = second.fc1, first.fc1
    path = written(FAMILIES["vit"], module, tmp_path / "exchanged.onnx")
    report = verified("vit", path if named else changes.without_names(path))
    assert [fault.name for fault in report.faults] == ["blocks.0.mlp.fc1", "blocks.1.mlp.fc1"], str(report)


def test_module_paths_that_contradict_the_weights_are_not_heeded(tmp_path: Path) -> None:
    path = exported("vit", tmp_path / "shifted.onnx")
    path = changes.with_names(
        path, {"blocks.0": "blocks.x", "blocks.1": "blocks.0", "blocks.2": "blocks.1", "blocks.x": "blocks.2"}
    )
    report = verified("vit", path)
    assert report.verdict == "equal", str(report)
    assert [note for note in report.notes if note.startswith("module paths in the file are not heeded: ")], report.notes


@pytest.mark.parametrize("version", [14, 20])
@pytest.mark.parametrize("level", ["BASIC", "EXTENDED", "ALL"])
@pytest.mark.parametrize("family", FAMILIES)
def test_optimised_files_are_not_blamed(family: str, level: str, version: int, tmp_path: Path) -> None:
    path = exported(family, tmp_path / "clean.onnx", opset_version=version)
    report = verified(family, changes.optimised(path, level))
    assert report.verdict == "equal", str(report)
    assert level != "BASIC" or set(report.unseen) <= folded(family)


def test_a_layer_whose_bias_another_operator_adds_has_no_value(tmp_path: Path) -> None:
    path = changes.with_fused_biases(exported("evit fused", tmp_path / "fused.onnx", opset_version=20))
    assert set(recorded("evit fused", path).values) == {name for name in expected("evit fused") if not name.endswith(".fc1")}
    assert verified("evit fused", path).verdict == "equal"


def test_as_many_patches_as_channels(tmp_path: Path) -> None:
    """Maps and tokens then have the same shapes, exchanged or not."""
    options = {"depth": 2, "img_size": 20, "embed_dim": 25, "num_heads": 5}
    family = Family(
        "vit_tiny_patch16_224",
        lambda: export.literal.VisionTransformer((5, 5), 4, 3, 10, 25, 5, 100, (1, 1), False),
        (3, 20, 20),
        export.micro(**options),
    )
    module = export.module_of(family)
    path = written(family, module, tmp_path / "square.onnx")
    found = onnx_files.recorded(os.fspath(path), export.images_of(family), export.model_of(family, module))
    for name, wanted in export.model_of(family, module).trace(export.images_of(family)).items():
        if name in found.values and found.values[name].ndim == 3:
            np.testing.assert_allclose(found.values[name], wanted, rtol=0, atol=CLOSE * np.abs(wanted).max(), err_msg=name)
    assert {"patch_embed", "embedded", "blocks.1.mlp.fc2"} <= set(found.values)


def test_two_heads_in_another_order(tmp_path: Path) -> None:
    def forward(module: nn.Module, images: "torch.Tensor") -> "torch.Tensor":
        x = module.embedded(module.embed(images))
        for block in module.blocks:
            x = block(x)
        x = module.norm(x)
        return (module.head_dist(x[:, 1]) + module.head(x[:, 0])) / 2

    module = export.module_of(FAMILIES["distilled"])
    module.forward = MethodType(forward, module)
    report = verified("distilled", changes.without_names(written(FAMILIES["distilled"], module, tmp_path / "heads.onnx")))
    assert report.verdict == "equal", str(report)
    assert not report.notes


@pytest.mark.parametrize(
    ("name", "scopes", "path"),
    [
        ("/blocks.0/attn/qkv/MatMul", "", "blocks.0.attn.qkv"),
        ("/blocks/blocks.0/mlp/fc1/Add", "", "blocks.0.mlp.fc1"),
        ("/patch_embed/proj/proj.0/Conv", "", "patch_embed.proj.0"),
        ("/Add", "", ""),
        ("node_linear", "['', 'blocks.0', 'blocks.0.attn', 'blocks.0.attn.qkv', 'linear']", "blocks.0.attn.qkv"),
        ("node_cat", "['', 'cat']", ""),
        ("node_linear", "", ""),
    ],
)
def test_module_paths(name: str, scopes: str, path: str) -> None:
    assert module_path(name, scopes) == path


@pytest.mark.parametrize("version", [13, 20, 23])
def test_every_version_of_the_operators(version: int, tmp_path: Path) -> None:
    """Norms came as operators in 17, GELU in 20, attention in 23."""
    family, exporter = ("evit fused", "torchscript") if version == 13 else ("vit", "dynamo")
    path = exported(family, tmp_path / "version.onnx", exporter, opset_version=version)
    hidden = {name for name in expected(family) if version == 23 and name.endswith((".scores", ".probs"))}
    assert set(recorded(family, path).values) == expected(family) - hidden
    assert verified(family, path).verdict == "equal"


@pytest.mark.parametrize(("family", "fault"), [("deit3", "no LayerScale"), ("shunted", "no detail")])
def test_float16(family: str, fault: str, tmp_path: Path) -> None:
    clean = verified(family, changes.halved(exported(family, tmp_path / "clean.onnx")), "float16")
    assert clean.verdict == "equal", str(clean)
    faulty = changes.halved(exported(family, tmp_path / "faulty.onnx", fault=fault))
    assert recorded(family, faulty).values["logits"].dtype == np.float16
    assert_told(family, fault, verified(family, faulty, "float16"))


@pytest.mark.parametrize("family", ["evit fused", "shunted"])
def test_a_file_for_one_image_is_run_image_by_image(family: str, tmp_path: Path) -> None:
    one = images(family)[:1]
    path = export.export(export.module_of(FAMILIES[family]), one, tmp_path / "one.onnx", "torchscript", dynamic_axes={})
    found = recorded(family, path)
    assert "the file takes one image at a time: the images were run one by one" in found.notes
    assert set(found.values) == expected(family)
    assert_values(family, found)
    assert found.values["logits"].shape == (export.BATCH, 10)
    assert verified(family, path).verdict == "equal"


def test_a_file_for_another_number_of_images_says_so(tmp_path: Path) -> None:
    path = export.export(
        export.module_of(FAMILIES["vit"]), images("vit")[:2], tmp_path / "two.onnx", "torchscript", dynamic_axes={}
    )
    with pytest.raises(ConfigError, match=r"takes images \(2, 3, 24, 24\), and was given \(3, 3, 24, 24\)$"):
        recorded("vit", path)


def test_a_number_of_images_that_is_fixed_within(tmp_path: Path) -> None:
    """TorchScript keeps the batch that it saw where a module asks for len(images)."""
    module = export.module_of(FAMILIES["vit"])
    path = written(FAMILIES["vit"], module, tmp_path / "fixed.onnx")
    with pytest.raises(ConfigError, match="cannot be run on images"):
        onnx_session.open_session(path, images("vit")).run(images("vit")[:2])
    assert verified("vit", path).verdict == "equal"


def test_a_file_that_computes_something_else_diverges_at_its_output(tmp_path: Path) -> None:
    report = verified("vit", changes.small(tmp_path / "other.onnx", [changes.identity()]))
    assert report.first is not None
    assert (report.first.name, report.first.shape_got) == ("logits", (3, 3, 24, 24))


def test_many_images_are_run_again_for_what_was_found_only(tmp_path: Path) -> None:
    path = exported("vit", tmp_path / "many.onnx", "dynamo")
    found = recorded("vit", path)
    assert {len(value) for value in found.values.values()} == {export.BATCH}
    assert_values("vit", found)


def test_weights_beside_the_file(tmp_path: Path) -> None:
    path = changes.beside(exported("deit3", tmp_path / "beside.onnx"))
    assert set(recorded("deit3", path).values) == expected("deit3")
    assert verified("deit3", path).verdict == "equal"


def test_functions_in_the_file_are_written_out(tmp_path: Path) -> None:
    twice = helper.make_function(
        "x", "twice", ["a"], ["b"], [helper.make_node("Add", ["a", "a"], ["b"])], [helper.make_opsetid("", 18)]
    )
    nodes = [helper.make_node("twice", ["images"], ["logits"], domain="x")]
    session = onnx_session.open_session(changes.small(tmp_path / "function.onnx", nodes, functions=[twice]), images("vit"))
    assert [node.kind for node in session.nodes] == ["Add"]
    np.testing.assert_array_equal(session.run(images("vit"))["logits"], 2 * images("vit"))


def hostile(**parts: object) -> Callable[[Path], Path]:
    nodes = parts.pop("nodes", None) or [changes.identity()]
    return lambda path: changes.small(path, nodes, **parts)


def of_bytes(content: bytes) -> Callable[[Path], Path]:
    def write(path: Path) -> Path:
        path.write_bytes(content)
        return path

    return write


def truncated(path: Path) -> Path:
    content = exported("vit", path).read_bytes()
    path.write_bytes(content[: len(content) // 2])
    return path


def not_utf8(path: Path) -> Path:
    content = exported("vit", path).read_bytes()
    path.write_bytes(content.replace(b"/patch_embed/Reshape_output_0", b"/patch_embed/Resh\xabpe_output_0"))
    return path


def moved(**changed: str) -> Callable[[Path], Path]:
    def change(path: Path) -> Path:
        (path.parent.parent / "outside.bin").write_bytes(bytes(1 << 20))
        (path.parent / "link.bin").symlink_to(path.parent.parent / "outside.bin")
        return changes.placed(exported("vit", path), **changed)

    return change


def folder(path: Path) -> Path:
    path.mkdir()
    return path


CLAIMED = onnx.TensorProto(name="w", data_type=TensorProto.FLOAT, dims=[1 << 40], raw_data=b"1234")
NEGATIVE = onnx.TensorProto(name="w", data_type=TensorProto.FLOAT, dims=[-4], raw_data=b"")
SELF = helper.make_function(
    "x", "again", ["a"], ["b"], [helper.make_node("again", ["a"], ["b"], domain="x")], [helper.make_opsetid("x", 1)]
)
LOOPING = [
    helper.make_node("Add", ["images", "late"], ["early"]),
    helper.make_node("Add", ["early", "early"], ["late"]),
    changes.identity(),
]

HOSTILE: dict[str, tuple[Callable[[Path], Path], str]] = {
    "nothing there": (lambda path: path, "cannot be read: No such file or directory"),
    "a folder": (folder, "is no file"),
    "empty": (of_bytes(b""), "cannot be run: "),
    "text": (of_bytes(b"This is no model." * 50), "is no ONNX file: "),
    "no text": (not_utf8, "is no ONNX file: "),
    "truncated": (truncated, "is no ONNX file: "),
    "no inputs": (
        hostile(nodes=[*changes.filled(3)[:2], helper.make_node("Identity", ["zeros"], ["logits"])], inputs=[]),
        "has 0$",
    ),
    "two inputs": (
        hostile(inputs=[helper.make_tensor_value_info(name, TensorProto.FLOAT, ["b", 3, 24, 24]) for name in ("images", "masks")]),
        "must have one input, the images, and has 2: 'images', 'masks'$",
    ),
    "bytes for images": (
        hostile(kind=TensorProto.UINT8, outputs=[helper.make_tensor_value_info("logits", TensorProto.UINT8, None)]),
        r"must take floating images \(B, C, H, W\), and takes tensor\(uint8\)$",
    ),
    "other images": (hostile(shape=("batch", 3, 32, 32)), r"takes images \('batch', 3, 32, 32\), and was given \(3, 3, 24, 24\)$"),
    "no floating output": (
        hostile(
            nodes=[helper.make_node("Shape", ["images"], ["logits"])],
            outputs=[helper.make_tensor_value_info("logits", TensorProto.INT64, None)],
        ),
        "has no output of floating numbers$",
    ),
    "custom operator": (hostile(nodes=[helper.make_node("Own", ["images"], ["logits"], domain="x")]), "cannot be run: .*Own"),
    "a cycle": (hostile(nodes=LOOPING), "cannot be run: "),
    "a function of itself": (
        hostile(nodes=[helper.make_node("again", ["images"], ["logits"], domain="x")], functions=[SELF]),
        "is refused: its function 'again' calls itself$",
    ),
    "a gigantic weight": (hostile(initializer=[CLAIMED]), "is refused: its tensor 'w' cannot be read: "),
    "a negative weight": (
        hostile(nodes=[helper.make_node("Add", ["images", "w"], ["logits"])], initializer=[NEGATIVE]),
        "cannot be run: ",
    ),
    "a gigantic tensor": (
        hostile(nodes=changes.filled(1 << 34)),
        r"is refused: its tensor 'zeros' would have 17,179,869,184 elements$",
    ),
    "too many nodes": (
        hostile(nodes=[helper.make_node("Neg", ["images"], [f"t{number}"]) for number in range(100_001)]),
        "is refused: it has 100,001 nodes, more than any of these models$",
    ),
    "weights outside": (moved(location="../outside.bin"), r"lies outside of the file's folder, in '../outside.bin'$"),
    "weights at a root": (moved(location="/etc/passwd"), r"lies outside of the file's folder, in '/etc/passwd'$"),
    "weights by a link": (moved(location="link.bin"), r"lies outside of the file's folder, in 'link.bin'$"),
    "weights nowhere": (moved(location="none.bin"), r"is in 'none.bin', which is not there$"),
    "weights behind the end": (moved(offset=str(1 << 40)), r"ends behind the end of 'weights.bin'$"),
    "too many weights": (moved(length=str(1 << 40)), r"ends behind the end of 'weights.bin'$"),
    "weights before the start": (moved(offset="-8"), r"ends behind the end of 'weights.bin'$"),
    "weights at no number": (moved(offset="eight"), r"lies at a place that cannot be: "),
    "too few weights": (moved(length="4"), "cannot be run: "),
}


@pytest.mark.parametrize("name", HOSTILE)
def test_a_file_that_cannot_be_or_means_harm_is_refused_in_one_sentence(
    name: str, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    write, sentence = HOSTILE[name]
    inner = tmp_path / "inner"
    inner.mkdir()
    with pytest.raises(ConfigError, match=sentence) as caught:
        verified("vit", write(inner / "file.onnx"))
    told = str(caught.value)
    assert told.startswith(f"candidate {os.fspath(inner / 'file.onnx')!r} ")
    assert "\n" not in told
    assert len(told) < 700
    assert not [text for text in capfd.readouterr() if "Error" in text], "onnxruntime says nothing on its own"


@pytest.mark.parametrize("package", ["onnx", "onnxruntime"])
def test_a_missing_package_is_named(package: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = changes.small(tmp_path / "small.onnx", [changes.identity()])
    monkeypatch.setitem(sys.modules, package, None)
    with pytest.raises(
        BackendError, match=rf"needs the package '{package}', which is not installed: pip install 'reforg\[onnx\]'$"
    ):
        verified("vit", path)


def test_a_model_in_another_dtype_tells_the_same(tmp_path: Path) -> None:
    path = exported("evit fused", tmp_path / "file.onnx")
    family = FAMILIES["evit fused"]
    narrow = reforg.create_model(family.name, weights=model_of("evit fused").weights, dtype="float16", **family.config)
    assert set(onnx_files.recorded(os.fspath(path), images("evit fused"), narrow).values) == expected("evit fused")
