"""The seam: every installed backend gives the reference's results, says what it runs, and can be replaced piece by piece.

The reference here is NumPy in float64 with ops="reference". In float64 a backend may differ from it by 1e-12 of the
largest logit, in float32 by 1e-5: some eighty roundings, for networks of two to four blocks.
"""

import importlib
import importlib.util
import itertools
import sys
from functools import cache

import numpy as np
import pytest

import reforg
from reforg import create_model
from reforg.catalog.synthetic import images as synthetic_images
from reforg.catalog.synthetic import uniform
from reforg.models.backend import Ops, installed, load
from reforg.ops import REFERENCE, pieces
from reforg.ops import network as record

FRAMEWORKS = {"numpy": "numpy", "torch": "torch", "jax": "jax", "cupy": "cupy"}
MARKS = {"cupy": [pytest.mark.gpu]}
BACKENDS = [
    pytest.param(name, marks=MARKS.get(name, [])) for name, module in FRAMEWORKS.items() if importlib.util.find_spec(module)
]
LIMIT = {"float64": 1e-12, "float32": 1e-5}
SMALL = {"img_size": 32, "patch_size": 8, "embed_dim": 24, "depth": 3, "num_heads": 2, "num_classes": 5}
STAGES = {"embed_dims": (8, 16, 24, 32), "depths": (1,) * 4, "num_heads": (2, 2, 4, 4), "mlp_ratios": (2,) * 4, "num_classes": 5}
MODELS = {  # name, settings, side of the images
    "vit": ("vit_tiny_patch16_224", SMALL, 32),
    "vit, averaged": ("vit_tiny_patch16_224", SMALL | {"global_pool": "avg", "qkv_bias": False}, 32),
    "vit, other size": ("vit_tiny_patch16_224", SMALL, 48),
    "deit, distilled": ("deit_tiny_distilled_patch16_224", SMALL, 32),
    "deit, other size": ("deit_tiny_patch16_224", SMALL, 24),
    "deit3": ("deit3_small_patch16_224", SMALL, 32),
    "deit3, parallel hmlp": ("deit_small_patch16_18x2_LS", SMALL | {"depth": 2, "stem": "hmlp", "patch_size": 16}, 32),
    "dinov2": ("vit_small_patch14_dinov2", SMALL | {"num_classes": 0}, 32),
    "evit": ("evit_tiny_patch16_224", SMALL | {"drop_loc": (0, 1, 2)}, 32),
    "evit, dropping": ("evit_tiny_patch16_224", SMALL | {"drop_loc": (1,), "keep_rate": 0.5, "fuse_token": False}, 32),
    "evit on deit3": ("deit3_small_patch16_224", SMALL | {"drop_loc": (0, 2), "keep_rate": 0.6}, 32),
    "shunted": ("shunted_t", STAGES, 64),
    "shunted, leftover rows": ("shunted_s", STAGES, 77),
}


COMPILED = ("vit, other size", "deit, distilled", "deit3, parallel hmlp", "evit", "shunted")


@pytest.fixture(params=BACKENDS)
def backend(request):
    if request.param == "jax":
        import jax

        jax.config.update("jax_enable_x64", True)
    return request.param


def micro(case, **arguments):
    name, settings, _ = MODELS[case]
    return create_model(name, **{"weights": "synthetic:3", **settings, **arguments})


def pictures(case, dtype="float32"):
    side = MODELS[case][2]
    return synthetic_images((2, 3, side, side), 4).astype(dtype)


@cache
def reference(case):
    return micro(case, dtype="float64", ops="reference")(pictures(case))


def host(model, array):
    return np.asarray(model.backend.to_numpy(array)).astype(np.float64)


def compute(model, images):
    """Logits; under jax.jit where the backend is JAX, because compiling operation by operation takes ten times as long."""
    if model.backend.name != "jax":
        return model(images)
    import jax

    array = model.backend.asarray(images, model.backend.dtype(model.dtype), None)
    return jax.jit(model.apply)(dict(model.weights), array)


def distance(got, wanted):
    """The largest difference, in units of the largest wanted value."""
    return np.abs(got - wanted).max() / np.abs(wanted).max()


# the same results


def combinations():
    """Every backend, model, dtype and choice of ops; for JAX, which compiles each one, its own ops on one model a family."""
    for backend, case, dtype, ops in itertools.product(BACKENDS, MODELS, LIMIT, ("auto", "reference")):
        if backend.values != ("jax",) or (ops == "auto" and case in COMPILED):
            yield pytest.param(*backend.values, case, dtype, ops, marks=backend.marks)


@pytest.mark.parametrize(("backend", "case", "dtype", "ops"), list(combinations()), indirect=["backend"])
def test_every_backend_computes_the_reference(backend, case, dtype, ops):
    model = micro(case, backend=backend, dtype=dtype, ops=ops)
    logits = compute(model, pictures(case))
    assert str(logits.dtype).endswith(dtype)
    assert distance(host(model, logits), reference(case)) < LIMIT[dtype]


@pytest.mark.parametrize("case", ["vit", "deit3"])
def test_every_backend_computes_the_features(backend, case):
    fast, plain = (micro(case, backend=b, dtype="float64", ops=o) for b, o in ((backend, "auto"), ("numpy", "reference")))
    assert distance(host(fast, fast.features(pictures(case))), plain.features(pictures(case))) < LIMIT["float64"]


def test_every_backend_computes_the_pyramid(backend):
    fast, plain = (micro("shunted", backend=b, dtype="float64", ops=o) for b, o in ((backend, "auto"), ("numpy", "reference")))
    pyramids = [model.features(pictures("shunted"), pyramid=True) for model in (fast, plain)]
    for mine, wanted in zip(*pyramids, strict=True):
        assert distance(host(fast, mine), wanted) < LIMIT["float64"]


@pytest.mark.parametrize("case", ["evit", "deit3, parallel hmlp", "shunted"])
def test_a_trace_is_the_same_whichever_ops_the_model_runs(backend, case):
    fast, plain = (micro(case, backend=backend, ops=ops).trace(pictures(case)) for ops in ("auto", "reference"))
    assert list(fast) == list(plain)
    for name in fast:
        assert bool((fast[name] == plain[name]).all()), name


HALF = {"float16": 20 * 2.0**-11, "bfloat16": 20 * 2.0**-8}


@pytest.mark.parametrize("dtype", HALF)
@pytest.mark.parametrize("case", ["vit", "deit3", "shunted"])
def test_half_precision_stays_near(backend, case, dtype):
    """Within 20 roundings of the dtype (2^-11, 2^-8): the square root of the some hundred intermediates, doubled.

    No model that drops tokens is here, because a rounded score may choose another token at the cut.
    """
    model = micro(case, backend=backend, dtype=dtype)
    logits = compute(model, pictures(case))
    assert str(logits.dtype).endswith(dtype)
    assert distance(host(model, logits), reference(case)) < HALF[dtype]


@pytest.mark.parametrize("dtype", HALF)
def test_half_precision_drops_and_fuses_the_same_number_of_tokens(backend, dtype):
    model = micro("evit", backend=backend, dtype=dtype)
    tokens = model.features(pictures("evit"))
    assert str(tokens.dtype).endswith(dtype)
    assert tuple(tokens.shape) == (2, 1 + 9, 24)  # ceil(0.7 * 16) + 1 = 13, ceil(0.7 * 13) + 1 = 11, ceil(0.7 * 11) + 1 = 9
    assert np.isfinite(host(model, tokens)).all()


@pytest.mark.parametrize("dtype", HALF)
@pytest.mark.parametrize("case", ["evit", "deit3, parallel hmlp", "shunted"])
def test_every_intermediate_has_the_dtype_of_the_model(backend, case, dtype):
    trace = micro(case, backend=backend, dtype=dtype).trace(pictures(case))
    wide = {name: str(value.dtype) for name, value in trace.items() if not str(value.dtype).endswith((dtype, "int64"))}
    assert wide == {}


def test_products_beyond_float16_are_scaled_before_they_are_rounded(backend):
    """Scores of some ten thousand fit float16; the products before scaling by 1/8 would not."""
    from reforg.ops import attention

    model = micro("vit", backend=backend, dtype="float16")
    vectors = [180 * uniform("q", (1, 1, 3, 64)), 180 * uniform("k", (1, 1, 3, 64)), uniform("v", (1, 1, 3, 64))]
    assert np.abs(vectors[0] @ vectors[1].swapaxes(2, 3)).max() > 65504
    vectors = [model.backend.asarray(vector, model.backend.dtype("float16"), None) for vector in vectors]
    context, _ = model.backend.ops.attention(*vectors, 0.125)
    wanted, _ = attention(*[host(model, vector) for vector in vectors], 0.125)
    assert distance(host(model, context), wanted) < HALF["float16"]


@pytest.mark.parametrize(("small", "large"), [("softmax", "attention"), ("erf", "gelu")])
def test_a_replaced_small_operation_runs_inside_the_large_one(small, large):
    """Softmax inside the reference's attention, erf inside its GELU, and in neither once the large one is replaced too."""
    called = []

    def counted(x):
        called.append(small)
        return getattr(REFERENCE, small)(x)

    ops = REFERENCE.replaced("mine", {small: counted})
    assert ops.table()[small] == "mine"
    vectors = [uniform(name, (1, 1, 3, 4)) for name in "qkv"]
    arguments = (*vectors, 0.5) if large == "attention" else (vectors[0],)
    got, wanted = getattr(ops, large)(*arguments), getattr(REFERENCE, large)(*arguments)
    np.testing.assert_array_equal(got[0], wanted[0])
    assert called == [small]
    getattr(ops.replaced("yours", {large: getattr(REFERENCE, large)}), large)(*arguments)
    assert called == [small]


# inputs of any kind


def test_read_only_images_and_weights_give_the_same_and_stay_as_they_are(backend):
    weights = {name: np.array(value) for name, value in micro("evit").weights.items()}
    frozen = {name: value.copy() for name, value in weights.items()}
    images = pictures("evit")
    for array in (images, *frozen.values()):
        array.flags.writeable = False
    given, open_ = (micro("evit", weights=w, backend=backend) for w in (frozen, weights))
    np.testing.assert_array_equal(host(given, given(images)), host(open_, open_(images.copy())))
    np.testing.assert_array_equal(images, pictures("evit"))
    for name, value in frozen.items():
        np.testing.assert_array_equal(value, weights[name])


@pytest.mark.parametrize("dtype", ["float64", "float16", ">f4"])
def test_images_of_any_floating_dtype_are_cast_to_the_models(backend, dtype):
    model, images = micro("evit", backend=backend), np.round(pictures("evit") * 64) / 64  # exact in float16
    np.testing.assert_array_equal(host(model, model(images.astype(dtype))), host(model, model(images)))


def turned(images):
    return np.ascontiguousarray(images[::-1, :, ::-1, ::-1])[::-1, :, ::-1, ::-1]


def strided(images):
    return np.asfortranarray(images)


def offset(images):
    return np.concatenate([np.zeros_like(images), images], axis=2)[:, :, images.shape[2] :]


@pytest.mark.parametrize("arranged", [turned, strided, offset])
def test_images_may_lie_in_memory_in_any_way(backend, arranged):
    model, images = micro("vit", backend=backend), pictures("vit")
    assert distance(host(model, model(arranged(images))), host(model, model(images))) < LIMIT["float32"]


def test_images_behind_the_buffer_protocol(backend):
    model, images = micro("vit", backend=backend), pictures("vit")
    np.testing.assert_array_equal(host(model, model(memoryview(images))), host(model, model(images)))
    over_a_buffer = np.frombuffer(memoryview(images.tobytes()), np.float32).reshape(images.shape)
    np.testing.assert_array_equal(host(model, model(over_a_buffer)), host(model, model(images)))


@pytest.mark.parametrize("library", ["torch", "jax", "array_api_strict"])
def test_images_of_another_library_come_through_dlpack(backend, library):
    framework = pytest.importorskip(library)
    images = pictures("vit")
    foreign = framework.from_numpy(images) if library == "torch" else getattr(framework, "numpy", framework).asarray(images)
    model = micro("vit", backend=backend)
    result = model(foreign)
    assert type(result) is type(model(images))
    np.testing.assert_array_equal(host(model, result), host(model, model(images)))


def test_weights_of_another_library_are_moved_to_the_backend(backend):
    torch = pytest.importorskip("torch")
    weights = {name: torch.from_numpy(np.array(value)) for name, value in micro("vit").weights.items()}
    given, own = micro("vit", weights=weights, backend=backend), micro("vit", backend=backend)
    np.testing.assert_array_equal(host(given, given(pictures("vit"))), host(own, own(pictures("vit"))))


def test_a_model_takes_its_own_results_apart_and_back(backend):
    module = load(backend)
    array = module.asarray(pictures("vit"), module.dtype("float32"), None)
    np.testing.assert_array_equal(module.to_numpy(array), pictures("vit"))
    assert module.asarray(array, module.dtype("float32"), None) is array or backend == "jax"


# who runs what


def test_a_model_names_the_provider_of_each_replaced_operation(backend):
    model = micro("vit", backend=backend)
    module = load(backend)
    replaced = {name for name in record.operations() if getattr(module.ops, name) is not getattr(REFERENCE, name)}
    assert replaced
    planned = set() if model._plans is None else set(model._plans.table())
    assert {name for name, provider in model.ops.items() if provider != "reference"} == replaced | set(module.ops.coarse) | planned
    assert "linear" in model.ops
    assert "vit.mlp" in model.ops


def test_ops_reference_is_the_reference_for_all(backend):
    assert set(micro("vit", backend=backend, ops="reference").ops.values()) == {"reference"}


def test_a_backend_says_its_name_and_version(backend):
    module = load(backend)
    assert module.name == backend
    assert importlib.import_module(FRAMEWORKS[backend]).__version__ in module.version()


def test_every_backend_of_this_package_is_declared():
    assert set(FRAMEWORKS) <= set(installed())


# replacing


class Ears:
    """A step of a model that hears when it is called, and then does what the reference does."""

    def __init__(self, own):
        self.own, self.calls = own, 0

    def __call__(self, *arguments, **settings):
        self.calls += 1
        return self.own(*arguments, **settings)


PIECES = {
    "vit.embed": ("evit", 1),
    "vit.positions": ("evit", 1),
    "vit.embed_patches": ("evit", 1),
    "vit.block": ("evit", 3),
    "vit.attend": ("evit", 3),
    "vit.feed_forward": ("evit", 3),
    "vit.self_attention": ("evit", 3),
    "vit.mlp": ("evit", 3),
    "vit.layer_scale": ("evit", 6),
    "evit.reorganize": ("evit", 3),
    "evit.fused_token": ("evit", 3),
    "vit.pooled": ("evit", 0),  # of answers; see tests/plans/test_plans.py
    "vit.classify": ("evit", 1),
    "shunted.stem": ("shunted", 1),
    "shunted.embed": ("shunted", 3),
    "shunted.block": ("shunted", 4),
    "shunted.shunted_attention": ("shunted", 4),
    "shunted.aggregate_tokens": ("shunted", 3),
    "shunted.keys_and_values": ("shunted", 7),
    "shunted.attend": ("shunted", 7),
    "shunted.merge_groups": ("shunted", 4),
    "shunted.detail_mlp": ("shunted", 4),
    "shunted.pooled": ("shunted", 1),
    "shunted.classify": ("shunted", 1),
}


def body(name):
    module, _, function = name.partition(".")
    return getattr(importlib.import_module(f"reforg.{module}"), function).__wrapped__


def run(case, ops):
    """The forward pass of a micro model with operations of one's own."""
    model = micro(case, dtype="float64")
    family = importlib.import_module("reforg.shunted" if case.startswith("shunted") else "reforg.vit")
    return family.forward(model.weights, pictures(case, "float64"), model.config, ops)


def test_every_piece_is_tried():
    assert set(PIECES) == set(pieces())


@pytest.mark.parametrize("name", PIECES)
def test_a_piece_can_be_replaced_and_is_called_for_every_step(name):
    case, times = PIECES[name]
    heard = Ears(body(name))
    logits = run(case, REFERENCE.replaced("ears", {name: heard}))
    assert heard.calls == times
    np.testing.assert_array_equal(logits, reference(case))


@pytest.mark.parametrize("name", ["vit.mlp", "shunted.detail_mlp"])
def test_what_a_replaced_piece_returns_is_what_goes_on(name):
    case, _ = PIECES[name]
    mute = REFERENCE.replaced("mute", {name: lambda net, path, x, *rest: 0.0 * x})
    assert distance(run(case, mute), reference(case)) > 1e-3


OPERATIONS = {
    "vit": ("linear", "layer_norm", "gelu", "erf", "attention", "softmax", "conv2d"),
    "vit, other size": ("resize",),
    "evit": ("rank", "gather"),
    "shunted": ("relu", "batch_norm", "depthwise_conv2d"),
}


def test_every_operation_of_the_record_is_tried():
    """An operation that no forward pass calls would make `model.ops` name a provider of nothing."""
    assert {name for names in OPERATIONS.values() for name in names} == set(record.operations())


@pytest.mark.parametrize(("case", "name"), [(case, name) for case, names in OPERATIONS.items() for name in names])
def test_an_operation_can_be_replaced_and_is_called(case, name):
    heard = Ears(getattr(REFERENCE, name))
    logits = run(case, REFERENCE.replaced("ears", {name: heard}))
    assert heard.calls > 0
    np.testing.assert_array_equal(logits, reference(case))


def test_a_record_says_who_replaced_what_and_leaves_the_old_one_alone():
    first = REFERENCE.replaced("one", {"gelu": abs, "vit.mlp": abs})
    second = first.replaced("two", {"gelu": min, "evit.reorganize": abs})
    assert {name: who for name, who in second.table().items() if who != "reference"} == {
        "gelu": "two", "vit.mlp": "one", "evit.reorganize": "two"
    }  # fmt: skip
    assert second.gelu is min
    assert first.gelu is abs
    assert set(REFERENCE.table().values()) == {"reference"}
    assert set(REFERENCE.table()) == {*record.operations(), *pieces()}


def test_who_reads_the_list_of_pieces_cannot_change_it():
    assert isinstance(pieces(), tuple)


def test_a_record_refuses_what_is_no_operation():
    with pytest.raises(KeyError, match=r"mine replaces what is not an operation: gelo, vit\.mpl"):
        REFERENCE.replaced("mine", {"vit.mpl": abs, "gelo": abs, "gelu": abs})


# a backend of one's own

OWN = """
import numpy as np
import array_api_compat.numpy as namespace
from reforg.ops import REFERENCE, basic

name = "abacus"
called = []


def version():
    return "abacus 1"


def dtype(name):
    if name != "float64":
        raise ValueError("an abacus counts in float64")
    return np.float64


def asarray(value, dtype, device):
    return np.asarray(value, dtype)


def to_numpy(array):
    return array


def gelu(x):
    called.append("gelu")
    return basic.gelu(x)


def mlp(net, path, x):
    called.append(path)
    return net.linear(f"{path}.fc2", net.ops.gelu(net.linear(f"{path}.fc1", x)))


ops = REFERENCE.replaced("abacus", {"gelu": gelu, "vit.mlp": mlp})
"""


@pytest.fixture
def abacus(tmp_path, monkeypatch):
    """A package with a backend, as pip would have installed it: a module and its .dist-info."""
    (tmp_path / "abacus_for_reforg.py").write_text(OWN, encoding="utf-8")
    info = tmp_path / "abacus_for_reforg-1.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: abacus-for-reforg\nVersion: 1.0\n", encoding="utf-8")
    (info / "entry_points.txt").write_text("[reforg.backends]\nabacus = abacus_for_reforg\n", encoding="utf-8")
    monkeypatch.syspath_prepend(tmp_path)
    yield lambda: sys.modules["abacus_for_reforg"].called
    sys.modules.pop("abacus_for_reforg", None)


def test_a_backend_that_anybody_installs_is_found_and_used(abacus):
    assert "abacus" in installed()
    model = micro("evit", backend="abacus", dtype="float64")
    assert {name: who for name, who in model.ops.items() if who != "reference"} == {"gelu": "abacus", "vit.mlp": "abacus"}
    np.testing.assert_array_equal(model(pictures("evit")), reference("evit"))
    assert abacus() == ["blocks.0.mlp", "gelu", "blocks.1.mlp", "gelu", "blocks.2.mlp", "gelu"]


def test_a_trace_never_calls_a_replacement(abacus):
    traced = micro("evit", backend="abacus", dtype="float64").trace(pictures("evit"))
    assert abacus() == []
    assert list(traced) == list(micro("evit", dtype="float64").trace(pictures("evit")))


def test_a_dtype_that_a_backend_lacks_is_its_own_sentence(abacus):
    with pytest.raises(reforg.BackendError, match=r"an abacus counts in float64$"):
        micro("evit", backend="abacus", dtype="float32")


def test_arrays_of_another_library_are_computed_by_the_reference():
    xp = pytest.importorskip("array_api_strict")
    model = micro("shunted", dtype="float64")
    weights = {name: xp.asarray(value) for name, value in model.weights.items()}
    logits = model.apply(weights, xp.asarray(pictures("shunted", "float64")))
    np.testing.assert_allclose(np.from_dlpack(logits), reference("shunted"), rtol=1e-13)


def test_the_record_is_frozen():
    with pytest.raises(AttributeError):
        REFERENCE.gelu = abs
    with pytest.raises(TypeError):
        REFERENCE.coarse["vit.mlp"] = abs
    assert Ops().table() == REFERENCE.table()
