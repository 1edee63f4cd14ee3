"""Recording: every kind of step is known to every engine, and what cannot be recorded is computed by the operations instead."""

import importlib.util
import re
from dataclasses import dataclass
from unittest.mock import patch

import numpy as np
import pytest

from reforg import create_model, evit, vit
from reforg.arrays import namespace
from reforg.config import Config, VitConfig
from reforg.families import FAMILIES, Family
from reforg.models import backend, model
from reforg.ops import REFERENCE, Network, bodies, linear, network, operations, piece, split_heads, to_maps, to_tokens, untraced
from reforg.plans.matrices import Layout
from reforg.plans.recording import RUN_BY_PLANS, record
from reforg.plans.steps import COMPUTES, Product, Step
from reforg.plans.symbols import UnrecordableError
from reforg_numpy.numpy_engine.steps import STEPS

NUMBA = importlib.util.find_spec("numba") is not None
ENGINES = [pytest.param("numba", marks=pytest.mark.skipif(not NUMBA, reason="numba is not installed")), "numpy"]


# kinds of steps


def test_every_kind_of_step_has_a_row_in_the_table_and_in_each_engine_s():
    kinds = {*Step.__subclasses__(), *Product.__subclasses__()} - {Product}
    assert set(COMPUTES) == set(STEPS) == kinds


@pytest.mark.skipif(not NUMBA, reason="numba is not installed")
def test_every_kind_of_step_is_known_to_the_kernels():
    from reforg_numpy.numba_engine.records import KINDS

    assert set(KINDS) == set(COMPUTES)


def test_what_plans_run_are_operations_and_pieces():
    assert set(RUN_BY_PLANS) <= {*operations(), *bodies()}
    assert len(set(RUN_BY_PLANS)) == len(RUN_BY_PLANS)
    named = {name for names in COMPUTES.values() for name in names}
    assert named <= {*RUN_BY_PLANS, "pooled"}


# what cannot be recorded

SMALL = VitConfig(img_size=16, patch_size=8, embed_dim=8, depth=3, num_heads=2, num_classes=5)


def weights():
    settings = {name: getattr(SMALL, name) for name in ("img_size", "patch_size", "embed_dim", "depth", "num_heads", "num_classes")}
    return create_model("vit_tiny_patch16_224", "synthetic:3", dtype="float32", **settings).weights


def streams(net, images):
    """The tokens that each block makes, in a way that is recorded."""
    x, found = vit.embed(net, images, SMALL), []
    for number in range(SMALL.depth):
        x = vit.block(net, f"blocks.{number}", x, SMALL, x.shape[1] - 1)
        found.append(x)
    return found


def tokens(net, images):
    return net.layer_norm("norm", streams(net, images)[-1], 1e-6)


with patch.dict(network._PIECES):  # other tests count those of the models

    @piece
    def unknown(net, x):
        return net.gelu("act", x)


def of_images(function):
    return lambda net, images: function(images)


def of_tokens(function):
    return lambda net, images: function(tokens(net, images))


UNRECORDABLE = {
    "an operation of the record": lambda net, images: net.linear("head", tokens(net, images)[:, 0, :]),
    "an operation, of tokens": lambda net, images: net.linear("head", tokens(net, images)),
    "an operation of images": lambda net, images: net.conv2d("patch_embed.proj", images, 8),
    "an operation by itself": lambda net, images: linear(tokens(net, images), net.weights["head.weight"]),
    "a norm of maps": lambda net, images: net.ops.layer_norm(
        to_maps(tokens(net, images), (1, 5)), np.ones(5, np.float32), np.zeros(5, np.float32), 1e-6
    ),
    "a piece of its own": lambda net, images: unknown(net, tokens(net, images)),
    "images as they are": of_images(lambda x: x),
    "a sum": of_tokens(lambda x: x + x),
    "a sum with a number": of_tokens(lambda x: 1.0 + x),
    "a product with an array": of_tokens(lambda x: x * np.ones(8, np.float32)),
    "a product of an array": of_tokens(lambda x: np.ones(8, np.float32) * x),
    "a power": of_tokens(lambda x: x**2),
    "what is negative": of_tokens(lambda x: -x),
    "a comparison": of_tokens(lambda x: (x == 0) * 1.0),
    "a part": of_tokens(lambda x: x[:, 0, :]),
    "one after another": of_tokens(lambda x: np.stack([one.sum(axis=0) for one in x])),
    "a method": of_tokens(lambda x: x.mean(axis=1)),
    "a function of NumPy's": of_tokens(lambda x: np.mean(x, axis=1)),
    "a function of several": of_tokens(lambda x: np.concatenate([np.ones((x.shape[0], 1, 8), np.float32), x], axis=1)),
    "a function of NumPy's on a product": of_tokens(lambda x: np.multiply(np.ones(8, np.float32), x)),
    "an array": of_tokens(lambda x: np.asarray(x)[:, 0]),
    "a function of the namespace": of_tokens(lambda x: split_heads(x, 1, 2)[0]),
    "a transposition of NumPy's": of_tokens(np.matrix_transpose),
    "a transposition": of_tokens(lambda x: namespace(x).matrix_transpose(x)),
    "maps to tokens": of_tokens(lambda x: to_tokens(to_maps(x, (1, 5)))),
    "maps of another grid": of_tokens(lambda x: to_maps(x[:, 1:], (2, 2))),
    "a mean": of_tokens(lambda x: evit.mean(x, 1)),
    "tokens that later blocks overwrite": lambda net, images: streams(net, images)[0],
    "maps that later blocks overwrite": lambda net, images: to_maps(streams(net, images)[1], (1, 5)),
    "norms of tokens that later blocks overwrite": lambda net, images: [
        net.layer_norm("norm", x, 1e-6) for x in streams(net, images)
    ],
    "logits of every block": lambda net, images: [vit.classify(net, x, SMALL) for x in each(net, images)],
}


def each(net, images):
    x = vit.embed(net, images, SMALL)
    for number in range(SMALL.depth):
        x = vit.block(net, f"blocks.{number}", x, SMALL, x.shape[1] - 1)
        yield x


RECORDED = {
    "tokens of every block, each normed at once": lambda net, images: [net.layer_norm("norm", x, 1e-6) for x in each(net, images)],
    "pooled states of every block": lambda net, images: tuple(vit.pooled(net, x, SMALL) for x in each(net, images)),
    "maps": lambda net, images: to_maps(tokens(net, images), (1, 5)),
    "pooled and logits": lambda net, images: [f(net, x, SMALL) for x in [tokens(net, images)] for f in (vit.pooled, vit.classify)],
    "weights computed with": lambda net, images: (vit.mlp(net, "blocks.0.mlp", net.weights["cls_token"]), tokens(net, images))[1],
}


def call(function, asked, key="toy"):
    def forward(weights, images, ops):
        asked.append(images)
        return function(Network(weights, ops), images)

    return backend.Call(forward, key, False, 1 << 10)


def pictures(batch=3):
    return np.random.default_rng(batch).standard_normal((batch, 3, 16, 16)).astype(np.float32)


@pytest.mark.parametrize("engine", ENGINES)
@pytest.mark.parametrize("case", UNRECORDABLE)
def test_what_cannot_be_recorded_has_no_plan_and_is_not_tried_again(case, engine):
    asked, numpy = [], backend.load("numpy")
    plans = numpy.plans(weights(), "float32", engine)
    wanted = call(UNRECORDABLE[case], asked)
    for batch in (3, 3, 2):
        assert plans.run(wanted, pictures(batch)) is None
    assert len(asked) == 1, "remembered"
    UNRECORDABLE[case](Network(weights(), REFERENCE), pictures())  # and it is something that can be computed


@pytest.mark.parametrize("engine", ENGINES)
@pytest.mark.parametrize("case", RECORDED)
def test_what_can_be_recorded_computes_the_same(case, engine):
    plans = backend.load("numpy").plans(weights(), "float32", engine)
    got = plans.run(call(RECORDED[case], []), pictures())
    wanted = RECORDED[case](Network(weights(), REFERENCE), pictures())
    assert type(got) is type(wanted)
    pairs = zip(got, wanted, strict=True) if isinstance(wanted, list | tuple) else [(got, wanted)]
    for mine, theirs in pairs:
        np.testing.assert_allclose(mine, theirs, rtol=1e-4, atol=1e-5)


def test_another_call_of_the_same_weights_keeps_its_plan():
    plans, asked = backend.load("numpy").plans(weights(), "float32", "numpy"), []
    assert plans.run(call(UNRECORDABLE["a sum"], asked), pictures()) is None
    assert plans.run(call(of_tokens(lambda x: x), asked, "other"), pictures()).shape == (3, 5, 8)


@pytest.mark.parametrize(
    ("case", "sentence"),
    [
        ("an operation, of tokens", "linear outside of the pieces that are recorded"),
        ("a sum", "Tokens.__add__"),
        ("images as they are", "a result that is Images"),
        ("a norm of maps", "layer_norm of Maps"),
        ("an operation by itself", "Multiple namespaces"),
        ("tokens that later blocks overwrite", "tokens that a later block has overwritten"),
    ],
)
def test_an_error_of_recording_says_what_was_met(case, sentence):
    with pytest.raises(UnrecordableError, match=re.escape(sentence)):
        record(lambda w, x, ops: UNRECORDABLE[case](Network(w, ops), x), weights(), (2, 3, 16, 16), Layout(), False)


@pytest.mark.parametrize("error", [TypeError, AttributeError, ValueError])
def test_a_mistake_of_a_forward_pass_is_none_of_recording_s(error):
    def wrong(net, images):
        raise error("no")

    plans = backend.load("numpy").plans(weights(), "float32", "numpy")
    with pytest.raises(error, match="no"):
        plans.run(call(wrong, []), pictures())


# a family that nobody records


@dataclass(frozen=True)
class ToyConfig(Config):
    """Two linear maps over pixels."""

    family: str = "toy"
    img_size: int = 4
    in_chans: int = 1
    num_classes: int = 3
    norm_eps: float = 1e-6


def toy_features(weights, images, config, ops=REFERENCE, trace=untraced):
    net = Network(weights, ops, trace)
    return net.gelu("act", net.linear("first", to_tokens(images)))


def toy_pooled(net, x, config):
    return evit.mean(x, 1)


def toy_classify(net, x, config):
    return net.linear("head", toy_pooled(net, x, config))


def toy_forward(weights, images, config, ops=REFERENCE, trace=untraced):
    x = toy_features(weights, images, config, ops, trace)
    return toy_classify(Network(weights, ops, trace), x, config)


def toy_shapes(config):
    return {"first.weight": (6, 1), "first.bias": (6,), "head.weight": (3, 6), "head.bias": (3,)}


@pytest.mark.parametrize("engine", [*ENGINES, "auto"])
def test_a_family_that_nobody_records_is_computed_by_the_operations(engine, monkeypatch):
    monkeypatch.setitem(FAMILIES, ToyConfig, Family(toy_shapes, toy_forward, toy_features, toy_pooled, toy_classify))
    monkeypatch.setattr(model, "widest", lambda *_: 1 << 10)
    draw = np.random.default_rng(0)
    arrays = {name: draw.standard_normal(shape).astype(np.float32) for name, shape in toy_shapes(None).items()}
    toy, reference = (
        model.Model("toy", ToyConfig(), arrays, backend.load("numpy"), "float32", None, ops, True) for ops in (engine, "reference")
    )
    images = draw.standard_normal((3, 1, 4, 4)).astype(np.float32)
    for _ in range(2):
        np.testing.assert_allclose(toy(images), reference(images), rtol=1e-5, atol=1e-6)
        np.testing.assert_allclose(toy.features(images), reference.features(images), rtol=1e-5, atol=1e-6)
        for got, wanted in zip(toy.answer(images), reference.answer(images), strict=True):
            np.testing.assert_allclose(got, wanted, rtol=1e-5, atol=1e-6)
