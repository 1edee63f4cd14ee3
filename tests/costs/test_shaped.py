"""Arrays without values have the shapes that NumPy gives, and any forward pass over them has a cost."""

from dataclasses import astuple, dataclass

import counting
import numpy as np
import pytest

import reforg
from reforg.arrays import namespace
from reforg.config import Config
from reforg.costs.cost import booked
from reforg.costs.ledger import Ledger
from reforg.costs.shaped import Shaped, Standard
from reforg.errors import ShapeError
from reforg.families import FAMILIES, Family
from reforg.ops import REFERENCE, Network, mean, to_tokens, untraced

VIEWS = {
    "slices": lambda xp, x: x[1:, :2, ::-1],
    "numbers and a slice": lambda xp, x: x[:, 0, -3:],
    "a new axis": lambda xp, x: x[:, None, :, None],
    "an ellipsis": lambda xp, x: x[..., 1],
    "an ellipsis in between": lambda xp, x: x[1, ..., None],
    "one number": lambda xp, x: x[0],
    "beyond the end": lambda xp, x: x[5:, :, 1:9],
    "reshape": lambda xp, x: xp.reshape(x, (x.shape[0] * x.shape[1], x.shape[2])),
    "permute_dims": lambda xp, x: xp.permute_dims(x, (2, 0, 1)),
    "matrix_transpose": lambda xp, x: xp.matrix_transpose(x),
    "broadcast_to": lambda xp, x: xp.broadcast_to(x[:, :1, :], (2, 7, 4)),
}
STEPS = {
    "a sum": lambda xp, x: x + x[:, :1, :],
    "numbers around": lambda xp, x: 1.0 - 2.0 * (-x) / 3.0 + x**2,
    "more axes on the right": lambda xp, x: x[0, 0, :] * x,
    "axes on both sides": lambda xp, x: x[0, :, None, :] - x[0, None, :, :],
    "a function": lambda xp, x: xp.tanh(x),
    "a choice": lambda xp, x: xp.where(x, x[:1, :, :], 0.0),
    "a mean": lambda xp, x: xp.mean(x, axis=1),
    "a sum that keeps its axis": lambda xp, x: xp.sum(x, axis=-1, keepdims=True),
    "an extreme over two axes": lambda xp, x: xp.max(x, axis=(0, 2)),
    "an extreme of all": lambda xp, x: xp.min(x),
    "concat": lambda xp, x: xp.concat([x, x[:, 1:, :]], axis=1),
    "concat from behind": lambda xp, x: xp.concat([x, x, x], axis=-1),
}


@pytest.mark.parametrize("case", [*VIEWS, *STEPS])
def test_shapes_are_those_of_numpy(case):
    function, array = (VIEWS | STEPS)[case], np.ones((2, 3, 4))
    ledger = Ledger(8)
    shaped = Shaped(ledger, array.shape, *ledger.step([array.shape], ()))
    assert namespace(shaped) is Standard
    got, wanted = function(Standard, shaped), function(np, array)
    assert got.shape == wanted.shape
    if case in VIEWS:
        assert (got.memory, len(ledger.steps)) == (shaped.memory, 1)
    else:
        assert ledger.sizes[got.memory] == wanted.nbytes


@pytest.mark.parametrize("wrong", [lambda x: x + x[:, :2, :], lambda x: Standard.reshape(x, (5, 5))])
def test_shapes_that_do_not_fit_are_refused(wrong):
    with pytest.raises(ShapeError, match="cost: "):
        wrong(Shaped(Ledger(8), (2, 3, 4), None))


@dataclass(frozen=True)
class MixerConfig(Config):
    """Nothing of this family stands anywhere else."""

    family: str = "mixer"
    img_size: int = 8
    in_chans: int = 3
    num_classes: int = 5
    norm_eps: float = 1e-6


def mixer_shapes(config):
    layers = {"stem": (6, config.in_chans, 4, 4), "mix": (4, 4), "head": (config.num_classes, 6)}
    norm = {"norm.weight": (6,), "norm.bias": (6,)}
    return {f"{name}.weight": shape for name, shape in layers.items()} | {"head.bias": (config.num_classes,)} | norm


def mixer(weights, images, config, ops=REFERENCE, trace=untraced):
    net, xp = Network(weights, ops, trace), namespace(images)
    tokens = to_tokens(net.conv2d("stem", images, 4))
    mixed = net.linear("mix", xp.matrix_transpose(net.layer_norm("norm", tokens, config.norm_eps)))
    return net.linear("head", mean(tokens + xp.matrix_transpose(mixed), axis=1))


def unnamed(weights, images, config, ops=REFERENCE, trace=untraced):
    """The same with an operation of another kind under a name, and one that nothing names."""
    net, xp = Network(weights, ops, trace), namespace(images)
    tokens = to_tokens(ops.conv2d(images, weights["stem.weight"], None, 4))
    tokens = ops.layer_norm(tokens, *net.parameters("norm"), config.norm_eps)
    tokens = trace("mixed", xp.matrix_transpose(ops.linear(xp.matrix_transpose(tokens), weights["mix.weight"])))
    return ops.linear(mean(tokens, axis=1), *net.parameters("head"))


class TestAFamilyThatNobodyKnows:
    @pytest.fixture(autouse=True)
    def known(self, monkeypatch):
        monkeypatch.setitem(FAMILIES, MixerConfig, Family(mixer_shapes, mixer, None, None, None))

    def test_costs_what_its_forward_pass_does(self):
        told = reforg.cost(MixerConfig(), batch=2)
        macs = {"stem": 2 * 4 * 6 * 3 * 16, "norm": 0, "mix": 2 * 6 * 4 * 4, "head": 2 * 6 * 5}
        assert {name: layer.macs for name, layer in told.by_layer.items()} == macs
        assert told.by_block == {name: count for name, count in macs.items() if count}
        assert told.params == sum(np.prod(shape) for shape in mixer_shapes(MixerConfig()).values())
        assert told.tokens == {}
        assert told.peak_bytes == 4 * (2 * 3 * 64 + 2 * 4 * 6)  # the images and what the stem makes of them

    def test_a_counter_and_a_tape_see_the_same(self):
        told = reforg.cost(MixerConfig(), batch=3, dtype="float16")
        seen = counting.run(MixerConfig(), np.zeros((3, 3, 8, 8), np.float16))
        assert seen.layers == {name: counting.Layer(*astuple(layer)) for name, layer in told.by_layer.items()}
        assert told.peak_bytes == counting.taped(MixerConfig(), (8, 8), 3, 2).peak()

    def test_what_has_no_name_counts_all_the_same(self, monkeypatch):
        named = reforg.cost(MixerConfig())
        monkeypatch.setitem(FAMILIES, MixerConfig, Family(mixer_shapes, unnamed, None, None, None))
        told = reforg.cost(MixerConfig())
        assert list(told.by_layer) == ["mixed.conv2d", "mixed.layer_norm", "mixed", "answer"]
        assert (told.macs, told.by_operation, told.weight_bytes) == (named.macs, named.by_operation, named.weight_bytes)

    def test_other_fields_can_be_given(self):
        assert reforg.cost(MixerConfig(), num_classes=7).macs - reforg.cost(MixerConfig()).macs == 6 * 2


def test_a_name_given_twice_adds_up():
    ledger = Ledger(4)
    for macs in (3, 5):
        (memory,) = ledger.step([(2, 3)], ())
        ledger.called("linear", (2, 3), macs, 40)
        ledger.trace("fc", Shaped(ledger, (3, 2), memory))
    (layer,) = ledger.layers.values()
    assert (layer.macs, layer.shape, layer.weight_bytes, layer.activation_bytes) == (8, (3, 2), 80, 48)


def test_a_forward_pass_without_operations_has_no_largest(monkeypatch):
    forward = lambda weights, images, config, ops, trace: images  # noqa: E731
    monkeypatch.setitem(FAMILIES, MixerConfig, Family(mixer_shapes, forward, None, None, None))
    ledger, _ = booked(MixerConfig(), (1, 3, 8, 8), 4)
    assert ledger.largest == ("", 0)
