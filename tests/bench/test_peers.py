"""A peer computes what reforg computes, in every family and option, and refuses what it does not know."""

import gc
import os
import shutil
import subprocess
import sys
import tempfile
import warnings
from dataclasses import dataclass
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import pytest

from reforg import create_model
from reforg.catalog.synthetic import images as synthetic_images
from reforg.config import ShuntedConfig, VitConfig

pytest.importorskip("torch", reason="the torch peer needs torch")
from reforg_torch import peer

SMALL = {"img_size": 32, "patch_size": 8, "embed_dim": 24, "depth": 3, "num_heads": 2, "num_classes": 5}
HMLP = SMALL | {"stem": "hmlp", "patch_size": 16}
STAGES = {"embed_dims": (8, 16, 24, 32), "num_heads": (2, 2, 4, 4), "mlp_ratios": (2, 2, 2, 2), "num_classes": 5, "img_size": 64}
EVIT = SMALL | {"drop_loc": (0, 1, 2)}
CASES = {  # name, settings
    "vit": ("vit_tiny_patch16_224", SMALL),
    "vit, averaged, no bias": ("vit_tiny_patch16_224", SMALL | {"global_pool": "avg", "qkv_bias": False}),
    "vit, features": ("vit_tiny_patch16_224", SMALL | {"num_classes": 0}),
    "vit, averaged features": ("vit_tiny_patch16_224", SMALL | {"num_classes": 0, "global_pool": "avg"}),
    "vit, wide images, mlp_ratio 2.5, norm_eps": (
        "vit_tiny_patch16_224", SMALL | {"img_size": (24, 40), "mlp_ratio": 2.5, "norm_eps": 1e-3, "in_chans": 2}
    ),
    "deit, distilled": ("deit_tiny_distilled_patch16_224", SMALL),
    "deit, distilled features": ("deit_tiny_distilled_patch16_224", SMALL | {"num_classes": 0}),
    "deit3": ("deit3_small_patch16_224", SMALL),
    "deit3, timm's names": ("deit3_small_patch16_224.fb_in1k", SMALL),
    "deit3, parallel": ("deit_small_patch16_18x2_LS", SMALL),
    "deit3, parallel, timm's names": ("vit_tiny_patch16_224", SMALL | {"parallel": 2, "init_values": 0.1}),
    "deit3, hmlp": ("deit3_small_patch16_224", HMLP),
    "dinov2": ("vit_small_patch14_dinov2", SMALL | {"num_classes": 0}),
    "evit, fused": ("evit_tiny_patch16_224", EVIT),
    "evit, dropping": ("evit_tiny_patch16_224", EVIT | {"keep_rate": 0.5, "fuse_token": False}),
    "evit, a rate each": ("evit_tiny_patch16_224", SMALL | {"keep_rate": (0.9, 1.0, 0.3)}),
    "evit, tokens": ("evit_tiny_patch16_224", EVIT | {"tokens": (None, 7, 3)}),
    "evit, all kept": ("evit_tiny_patch16_224", EVIT | {"keep_rate": 0.99}),
    "evit, distilled": ("deit_tiny_distilled_patch16_224", EVIT | {"keep_rate": 0.6}),
    "evit, distilled, dropping": ("deit_tiny_distilled_patch16_224", EVIT | {"keep_rate": 0.6, "fuse_token": False}),
    "evit on deit3": ("deit3_small_patch16_224", SMALL | {"drop_loc": (0, 2), "keep_rate": 0.6}),
    "evit on deit3, parallel": ("deit_small_patch16_18x2_LS", SMALL | {"drop_loc": (0, 2), "keep_rate": 0.6}),
    "evit, averaged": ("vit_tiny_patch16_224", EVIT | {"keep_rate": 0.6, "global_pool": "avg"}),
    "shunted_t": ("shunted_t", STAGES | {"depths": (1, 2, 1, 1)}),
    "shunted_s": ("shunted_s", STAGES | {"depths": (2, 1, 1, 2)}),
    "shunted_b, no bias, norm_eps": ("shunted_b", STAGES | {"depths": (1,) * 4, "qkv_bias": False, "norm_eps": 1e-3}),
    "shunted, features": ("shunted_t", STAGES | {"depths": (1,) * 4, "num_classes": 0}),
    "shunted, leftover rows": ("shunted_s", STAGES | {"depths": (1,) * 4, "img_size": (77, 90)}),
    "shunted, no reduction": ("shunted_t", STAGES | {"depths": (1,) * 4, "sr_ratios": (1, 2, 4, 1)}),
    "evit_fmnist": ("evit_fmnist", {}),
    "deit3_fmnist": ("deit3_fmnist", {}),
    "shunted_fmnist": ("shunted_fmnist", {}),
}  # fmt: skip


def both(case, dtype="float64", batch=3, peer=peer):
    """Logits of the peer, and reforg's by the reference in float64."""
    name, settings = CASES[case]
    model = create_model(name, "synthetic:3", dtype="float64", ops="reference", **settings)
    config = model.config
    images = synthetic_images((batch, config.in_chans, *config.image_shape), 4)
    weights = create_model(name, "synthetic:3", **settings).weights
    return peer.build(config, weights, dtype, None, None)(images), model(images)


def distance(got, wanted):
    """The largest difference, in units of the largest wanted value."""
    return np.abs(got - wanted).max() / np.abs(wanted).max()


@pytest.mark.parametrize("case", CASES)
def test_the_peer_computes_what_reforg_computes(case):
    got, wanted = both(case)
    assert got.shape == wanted.shape
    assert got.dtype == np.float64
    assert distance(got, wanted) < 1e-10


@pytest.mark.parametrize(("dtype", "limit"), [("float32", 1e-5), ("float16", 2e-2), ("bfloat16", 1e-1)])
@pytest.mark.parametrize("case", ["vit", "deit3", "shunted_t"])
def test_the_peer_has_the_other_dtypes(case, dtype, limit):
    got, wanted = both(case, dtype)
    assert 0 < distance(got, wanted) < limit
    assert got.dtype == (np.float16 if dtype == "float16" else np.float32)


def test_weights_are_left_as_they_are():
    name, settings = CASES["shunted_s"]
    weights = create_model(name, "synthetic:3", **settings).weights
    before = {key: value.copy() for key, value in weights.items()}
    config = create_model(name, "synthetic:3", **settings).config
    run = peer.build(config, weights, "float32", "cpu", None)
    images = synthetic_images((1, 3, 64, 64), 4)
    first = run(images).copy()
    np.testing.assert_array_equal(run(images), first)
    for key, value in weights.items():
        np.testing.assert_array_equal(value, before[key])


def test_another_batch_than_before():
    name, settings = CASES["evit, fused"]
    model = create_model(name, "synthetic:3", **settings)
    run = peer.build(model.config, model.weights, "float32", None, None)
    images = synthetic_images((4, 3, 32, 32), 4)
    np.testing.assert_allclose(run(images)[:1], run(images[:1]), atol=1e-5)


def test_threads_are_those_asked_for():
    import torch

    model = create_model("vit_tiny_patch16_224", "synthetic:3", **SMALL)
    before = torch.get_num_threads()
    try:
        peer.build(model.config, model.weights, "float32", None, 1)
        assert torch.get_num_threads() == 1
    finally:
        torch.set_num_threads(before)


@dataclass(frozen=True)
class Newer(VitConfig):
    """A config of a later reforg."""

    registers: int = 4


def test_a_config_it_does_not_know_is_refused():
    with pytest.raises(ValueError, match=r"^no Newer; torch's peers know"):
        peer.build(Newer(), {}, "float32", None, None)


@pytest.mark.parametrize("kind", [VitConfig, ShuntedConfig])
def test_a_field_it_does_not_know_is_refused(monkeypatch, kind):
    """As when a field is added to the config, and the peer would leave it out in silence."""
    monkeypatch.setitem(peer.KNOWN, kind, peer.KNOWN[kind] - {"norm_eps"})
    with pytest.raises(ValueError, match=r"^no norm_eps; torch's peers know"):
        peer.build(kind(), {}, "float32", None, None)


def test_a_dtype_or_a_device_it_does_not_have_is_refused():
    model = create_model("vit_tiny_patch16_224", "synthetic:3", **SMALL)
    with pytest.raises(ValueError, match="no dtype 'float8'"):
        peer.build(model.config, model.weights, "float8", None, None)
    with pytest.raises(RuntimeError):
        peer.build(model.config, model.weights, "float32", "no such device", None)


def test_more_tokens_than_there_are_is_an_error():
    model = create_model("evit_tiny_patch16_224", "synthetic:3", **EVIT | {"tokens": 99})
    run = peer.build(model.config, model.weights, "float32", None, None)
    with pytest.raises(ValueError, match=r"blocks\.0: 99 tokens are to stay of 16"):
        run(synthetic_images((1, 3, 32, 32), 4))


def test_it_tells_its_name_and_version():
    import torch

    assert peer.name == "torch eager"
    assert peer.version() == f"torch {torch.__version__}"


# the other peers

# Entry point -> module, the packages that it needs, the dtype in which it is most exact, and how exact that is. In float32, torch
# eager and NumPy err by 1.1e-5 in the worst of the cases, which is evit_fmnist; onnxruntime errs by 1.0e-5, OpenVINO by 1.3e-5.
OTHERS = {
    "torch.compile": ("reforg_torch.peer.compiled", (), "float64", 1e-10),
    "onnxruntime": ("reforg_onnx.peer.onnxruntime", ("onnxruntime", "onnx", "onnxscript"), "float32", 2e-5),
    "openvino": ("reforg_onnx.peer.openvino", ("openvino", "onnx", "onnxscript"), "float32", 2e-5),
    "jax": ("reforg_jax.peer", ("jax",), "float64", 1e-10),
}
GRAPHS = ("onnxruntime", "openvino")
QUICK = {  # the cases that every run of the tests compiles or exports, which takes seconds each; -m slow has the others
    "torch.compile": ("evit, fused", "shunted_s"),
    "onnxruntime": ("deit, distilled", "evit, fused", "shunted_s"),
    "openvino": ("deit, distilled", "evit, fused", "shunted_s"),
    "jax": ("deit, distilled", "deit3, parallel", "deit3, hmlp", "evit, tokens", "shunted_b, no bias, norm_eps"),
}
pairs = [
    pytest.param(name, case, marks=() if case in QUICK[name] else pytest.mark.slow, id=f"{name}-{case}")
    for name in OTHERS
    for case in CASES
]
each = pytest.mark.parametrize("name", OTHERS)
each_of_graphs = pytest.mark.parametrize("name", GRAPHS)


def other(name):
    """The module of a peer; the test is skipped where a package is missing that it needs."""
    module, packages, *_ = OTHERS[name]
    for package in packages:
        if find_spec(package) is None:  # not by importing it: a peer may have to see to it how that is done
            pytest.skip(f"the peer {name} needs {package}")
    return import_module(module)


@pytest.fixture
def float64_in_jax():
    jax = pytest.importorskip("jax", reason="the peer jax needs jax")
    before = jax.config.read("jax_enable_x64")
    jax.config.update("jax_enable_x64", True)
    yield
    jax.config.update("jax_enable_x64", before)


@pytest.fixture(scope="module")
def compiled_here(tmp_path_factory):
    """What inductor writes does not come from another run, and does not stay."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("TORCHINDUCTOR_CACHE_DIR", str(tmp_path_factory.mktemp("inductor")))
        yield


@pytest.fixture
def fresh_compiler(compiled_here):
    """Dynamo knows of no other test, after some of which it would not compile any more."""
    if shutil.which(os.environ.get("CXX", "g++")) is None:
        pytest.skip("torch.compile needs a C++ compiler")
    with warnings.catch_warnings(action="ignore"):  # which torch has for itself
        import torch._dynamo.utils

        torch.compiler.reset()
        torch._dynamo.utils.counters.clear()
        yield torch._dynamo.utils.counters


@pytest.fixture(scope="module")
def graphs(tmp_path_factory):
    """Graphs that were exported already, by config and shape."""
    return tmp_path_factory.mktemp("graphs"), {}


@pytest.fixture
def exported_once(monkeypatch, graphs):
    """What one program has exported, the other finds."""
    for package in ("onnx", "onnxscript"):
        pytest.importorskip(package, reason=f"graphs are exported with {package}")
    import reforg_onnx.peer

    (place, known), export = graphs, reforg_onnx.peer.exported

    def exported(folder, shape):
        key = (folder / "config.json").read_bytes(), shape
        if key not in known:
            known[key] = export(Path(shutil.copytree(folder, place / str(len(known)))), shape)
        return known[key]

    monkeypatch.setattr(reforg_onnx.peer, "exported", exported)


@pytest.mark.parametrize(("name", "case"), pairs)
def test_each_peer_computes_what_reforg_computes(request, name, case):
    if request.node.get_closest_marker("slow") and "slow" not in request.config.option.markexpr:
        pytest.skip("takes minutes with the others: -m slow")
    module, (*_, dtype, limit) = other(name), OTHERS[name]
    request.getfixturevalue({"jax": "float64_in_jax", "torch.compile": "fresh_compiler"}.get(name, "exported_once"))
    got, wanted = both(case, dtype, peer=module)
    assert got.shape == wanted.shape
    assert got.dtype == np.dtype(dtype)
    assert distance(got, wanted) < limit


def small(name, case="vit", dtype="float32", threads=None, **settings):
    """A peer's function for a small model, and images for it."""
    model, own = CASES[case]
    found = create_model(model, "synthetic:3", **own | settings)
    images = synthetic_images((2, found.config.in_chans, *found.config.image_shape), 4)
    return other(name).build(found.config, found.weights, dtype, None, threads), images


def test_torch_compile_makes_one_graph_of_a_whole_forward_pass(fresh_compiler):
    run, images = small("torch.compile", "evit, fused")
    run(images)
    assert fresh_compiler["stats"]["unique_graphs"] == 1
    assert not fresh_compiler["graph_break"]
    run(images)
    assert fresh_compiler["stats"]["unique_graphs"] == 1, "not once more for the same shape"


@pytest.mark.parametrize(("dtype", "limit"), [("float32", 1e-5), ("float16", 2e-2), ("bfloat16", 1e-1)])
def test_jax_has_the_other_dtypes(dtype, limit):
    got, wanted = both("shunted_t", dtype, peer=other("jax"))
    assert 0 < distance(got, wanted) < limit
    assert got.dtype == (np.float16 if dtype == "float16" else np.float32)


def test_jax_has_float64_only_where_that_is_switched_on():
    jax, module = pytest.importorskip("jax", reason="the peer jax needs jax"), other("jax")
    before = jax.config.read("jax_enable_x64")
    jax.config.update("jax_enable_x64", False)
    try:
        with pytest.raises(ValueError, match=r"^set JAX_ENABLE_X64=1"):
            module.build(VitConfig(), {}, "float64", None, None)
    finally:
        jax.config.update("jax_enable_x64", before)


@pytest.mark.parametrize("dtype", ["float64", "float16", "bfloat16", "float8"])
@each_of_graphs
def test_programs_that_run_graphs_have_float32_only(name, dtype):
    with pytest.raises(ValueError, match=rf"^no dtype '{dtype}'; {name} has float32 only$"):
        other(name).build(VitConfig(), {}, dtype, None, None)


@each_of_graphs
def test_programs_that_run_graphs_have_one_device(name):
    with pytest.raises(ValueError, match=rf"^no device 'cuda'; {name} has only 'cpu'$"):
        other(name).build(VitConfig(), {}, "float32", "cuda", None)


@each_of_graphs
def test_another_shape_than_before_is_another_graph(name, exported_once):
    run, images = small(name, "shunted_t")
    both_images = run(images).copy()
    np.testing.assert_allclose(run(images[:1]), both_images[:1], atol=1e-5)
    assert run(images[:, :, :, :48].copy()).shape == both_images.shape


@each_of_graphs
def test_what_torch_refuses_is_told_in_its_words(name):
    run, images = small(name, "evit, tokens", tokens=99)
    with pytest.raises(ValueError, match=r"^blocks\.0: 99 tokens are to stay of 16$"):
        run(images)


def test_an_export_that_dies_is_told(monkeypatch):
    other("onnxruntime")
    monkeypatch.setattr("reforg_onnx.peer.EXPORTER", "reforg_torch.peer.nothing")
    run, images = small("onnxruntime")
    with pytest.raises(ValueError, match=r"No module named reforg_torch\.peer\.nothing$"):
        run(images)


@each_of_graphs
def test_an_export_says_nothing_and_leaves_nothing(name, monkeypatch, tmp_path, capfd):
    own, temporary = tmp_path / "own", tmp_path / "temporary"
    own.mkdir()
    temporary.mkdir()
    monkeypatch.chdir(own)
    monkeypatch.setattr(tempfile, "tempdir", str(temporary))
    run, images = small(name)
    run(images)
    assert [*own.iterdir()] == []
    (folder,) = temporary.iterdir()
    (graph,) = folder.glob("*.onnx")
    assert graph.with_name(f"{graph.name}.data").exists(), "its weights lie beside it, where there may be more than 2 GB of them"
    assert capfd.readouterr() == ("", "")
    del run
    gc.collect()
    assert [*temporary.iterdir()] == []


@each_of_graphs
def test_who_runs_a_graph_has_no_torch_in_memory(name):
    module = other(name).__name__
    code = f"import sys, {module}; print(sorted({{'torch', 'onnx', 'onnxscript'}} & set(sys.modules)))"
    assert subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True).stdout == "[]\n"


def test_openvino_tells_nobody_that_it_is_used(tmp_path):
    """What it would tell Intel is counted in the user's folder, and sent by a process of its own."""
    other("openvino")
    code = "import os; os.register_at_fork(before=lambda: print('forked')); import reforg_onnx.peer.openvino"
    done = subprocess.run([sys.executable, "-c", code], env=os.environ | {"HOME": str(tmp_path)}, check=True, capture_output=True)
    assert (done.stdout, done.stderr) == (b"", b"")
    assert [*tmp_path.iterdir()] == []


@pytest.mark.parametrize(("threads", "wanted"), [(None, 0), (1, 1)])
def test_onnxruntime_has_as_many_threads_as_asked_for(monkeypatch, exported_once, threads, wanted):
    other("onnxruntime")
    import onnxruntime

    seen, session = [], onnxruntime.InferenceSession

    def opened(path, options, **settings):
        seen.append((options.intra_op_num_threads, settings["providers"]))
        return session(path, options, **settings)

    monkeypatch.setattr(onnxruntime, "InferenceSession", opened)
    run, images = small("onnxruntime", threads=threads)
    run(images)
    assert seen == [(wanted, ["CPUExecutionProvider"])]


@pytest.mark.parametrize("threads", [None, 1])
def test_openvino_computes_in_float32_one_batch_after_the_other(monkeypatch, exported_once, threads):
    """Read from the compiled model: the processor may well have bfloat16, which would be OpenVINO's own choice."""
    other("openvino")
    import openvino

    seen, compile_model = [], openvino.Core.compile_model

    def compiled(*arguments):
        seen.append(compile_model(*arguments))
        return seen[0]

    monkeypatch.setattr(openvino.Core, "compile_model", compiled)
    run, images = small("openvino", threads=threads)
    run(images)
    assert str(seen[0].get_property("INFERENCE_PRECISION_HINT").get_type_name()) == "f32"
    assert seen[0].get_property("NUM_STREAMS") == 1
    assert threads is None or seen[0].get_property("INFERENCE_NUM_THREADS") == threads


@each
def test_each_peer_tells_its_name_and_version(name):
    module = other(name)
    package = name.partition(".")[0]
    assert module.name == {"jax": "jax jit"}.get(name, name)
    assert module.version() == f"{package} {import_module(package).__version__.partition('-')[0]}"
