"""Limits that know the data: a closer look never finds less than what an order of summing makes, and no fault hides behind it."""

import gc
import math
import weakref
from itertools import product

import numpy as np
import pytest

import reforg
from reforg.families import family_of
from reforg.models import embedded
from reforg.ops import REFERENCE, Recorder, untraced
from reforg.verification.error_model import comparison, partial_sums, rules
from reforg.verification.error_model.comparison import MOST, compared
from reforg.verification.error_model.precision import precision_of
from reforg.verification.error_model.uncertain import Rounding, Uncertain
from reforg.verification.replay import performing
from reforg.verification.verifier import verify

EMBEDDED = ("evit_fmnist", "deit3_fmnist", "shunted_fmnist")
FLOAT32 = Rounding(precision_of("float32"))
INNER = ("scores", "probs", "context", "cls_attention", "attended", "reorganized", "embedded")


def draw(seed):
    return np.random.default_rng(seed)


# A program of its own: float32, with every sum taken in an order that is named ------------------------------------------------


def one_by_one(terms):
    return np.add.accumulate(terms, axis=-1, dtype=terms.dtype)[..., -1]


def in_blocks(terms, size=64):
    total = np.zeros(terms.shape[:-1], terms.dtype)
    for first in range(0, terms.shape[-1], size):
        total = total + one_by_one(terms[..., first : first + size])
    return total


def in_lanes(terms, lanes=8):
    short = -terms.shape[-1] % lanes
    padded = np.concatenate([terms, np.zeros((*terms.shape[:-1], short), terms.dtype)], axis=-1)
    columns = padded.reshape(*terms.shape[:-1], -1, lanes)
    return one_by_one(np.add.accumulate(columns, axis=-2, dtype=terms.dtype)[..., -1, :])


SUMS = {"one by one": one_by_one, "in blocks": in_blocks, "in lanes": in_lanes}
AXES = {"channels first": (0, 1, 2), "channels last": (1, 2, 0), "rows first": (1, 0, 2)}


class Program:
    """Operations in float32 that add up terms in one of the orders, and start from the bias or end with it."""

    def __init__(self, add, axes, bias_first):
        self.add, self.axes, self.bias_first = add, axes, bias_first

    def total(self, terms, bias):
        if bias is None or not self.bias_first:
            return self.add(terms) if bias is None else self.add(terms) + bias
        start = np.broadcast_to(bias[..., None], (*terms.shape[:-1], 1))
        return self.add(np.concatenate([start, terms], axis=-1))

    def linear(self, x, weight, bias=None):
        rows = x.reshape(-1, x.shape[-1])
        return np.stack([self.total(row * weight, bias) for row in rows]).reshape(*x.shape[:-1], len(weight))

    def windows(self, x, size, stride, padding):
        """[B, C, H, W] -> [B, H', W', C, kh, kw]."""
        padded = np.pad(x, ((0, 0), (0, 0), (padding, padding), (padding, padding)))
        found = np.lib.stride_tricks.sliding_window_view(padded, size, axis=(2, 3))[:, :, ::stride, ::stride]
        return found.transpose(0, 2, 3, 1, 4, 5)

    def conv2d(self, x, weight, bias=None, stride=1, padding=0):
        patches = self.windows(x, weight.shape[2:], stride, padding)
        patches = patches.transpose(0, 1, 2, *(3 + axis for axis in self.axes))
        kernels = weight.transpose(0, *(1 + axis for axis in self.axes)).reshape(len(weight), -1)
        return self.linear(patches.reshape(*patches.shape[:3], -1), kernels, bias).transpose(0, 3, 1, 2)

    def depthwise_conv2d(self, x, weight, bias=None, padding=1):
        terms = self.windows(x, weight.shape[2:], 1, padding) * weight[:, 0]
        return self.total(terms.reshape(*terms.shape[:4], -1), bias).transpose(0, 3, 1, 2)

    def attention(self, queries, keys, values, scale, trace=untraced):
        products = np.stack([self.add(queries[..., row, None, :] * keys) for row in range(queries.shape[-2])], axis=-2)
        scores = trace("scores", products * queries.dtype.type(scale))
        powers = np.exp(scores - scores.max(axis=-1, keepdims=True))
        probs = trace("probs", powers / self.add(powers)[..., None])
        columns = np.matrix_transpose(values)
        context = np.stack([self.add(probs[..., row, None, :] * columns) for row in range(probs.shape[-2])], axis=-2)
        return trace("context", context), probs

    def ops(self):
        names = ("linear", "conv2d", "depthwise_conv2d", "attention")
        return REFERENCE.replaced("program", {name: getattr(self, name) for name in names})


def traced(model, ops, images):
    """The float32 trace of a model's forward pass with other operations."""
    recorder = Recorder(None)
    weights = {name: np.asarray(value, np.float32) for name, value in model.weights.items()}
    family_of(model.config).forward(weights, images.astype(np.float32), model.config, ops, recorder)
    return recorder.values


def trained(name, first, count):
    model = reforg.create_model(name, dtype="float64", ops="reference")
    pixels, _ = embedded.test_images()
    return model, embedded.preprocess(pixels[first : first + count], name)


def in_turn(names, orders):
    """Every name with every order; each order with one of the names at every run."""
    for place, order in enumerate(orders):
        for number, name in enumerate(names):
            yield pytest.param(name, order, marks=() if place % len(names) == number else pytest.mark.full)


class TestTrainedModels:
    @pytest.mark.parametrize(("name", "order"), list(in_turn(EMBEDDED, SUMS)))
    def test_every_order_of_summing_passes(self, name, order):
        model, images = trained(name, 10 * list(SUMS).index(order), 1 if name == "shunted_fmnist" else 2)
        for number, axes in enumerate(AXES):
            values = traced(model, Program(SUMS[order], AXES[axes], bias_first=number == 1).ops(), images)
            shown = {key: value for key, value in values.items() if number or key.rpartition(".")[2] not in INNER}
            report = verify(shown, model, images)
            assert report.passed, f"{order}, {axes}: {report}"

    def test_an_image_that_the_estimate_alone_calls_wrong(self, monkeypatch):
        model, images = trained("shunted_fmnist", 4, 1)
        values = traced(model, Program(one_by_one, AXES["channels last"], bias_first=False).ops(), images)
        assert verify(values, model, images).passed
        monkeypatch.setattr(comparison, "WIDEST", 0.0)
        report = verify(values, model, images)
        assert [fault.name for fault in report.faults] == ["patch_embed1.conv.0"]

    @pytest.mark.parametrize(
        "name", [pytest.param(name, marks=pytest.mark.full if name == "evit_fmnist" else ()) for name in EMBEDDED]
    )
    def test_a_small_fault_in_one_element_is_found(self, name):
        model, images = trained(name, 40, 1)
        values = traced(model, REFERENCE, images)
        layers = [key for key in values if f"{key}.weight" in model.weights]
        for key in layers[:: max(1, len(layers) // 6)]:
            changed = values[key].copy()
            changed.flat[abs(changed).argmax()] *= np.float32(1.0005)
            report = verify(values | {key: changed}, model, images)
            assert report.faults[0].name == key  # what reads it is as wrong


# What the look claims, against what float32 makes -----------------------------------------------------------------------------


def smooth(seed, count, length):
    """Terms as a photograph's pixels make them: neighbours are alike, and their sum is small beside them."""
    steps = np.cumsum(draw(seed).normal(size=(count, length)), axis=1)
    return (steps - steps.mean(axis=1, keepdims=True)).astype(np.float32).astype(np.float64)


def summed_in_float32(terms, start, way):
    terms, start = terms.astype(np.float32), start.astype(np.float32)
    if way == "bias first":
        return one_by_one(np.concatenate([start[:, None], terms], axis=1)).astype(np.float64)
    return SUMS[way](terms).astype(np.float64) + start.astype(np.float64)


class TestPartialSums:
    @pytest.mark.parametrize("way", [*SUMS, "bias first"])
    @pytest.mark.parametrize("length", [27, 147, pytest.param(588, marks=pytest.mark.full), 768])
    @pytest.mark.parametrize("kind", ["smooth", "random", "of one sign"])
    def test_the_claimed_variance_is_never_below_what_the_order_makes(self, kind, length, way):
        terms = {
            "smooth": lambda: smooth(length, 400, length),
            "random": lambda: draw(length).normal(size=(400, length)).astype(np.float32).astype(np.float64),
            "of one sign": lambda: draw(length).uniform(1, 2, size=(400, length)).astype(np.float32).astype(np.float64),
        }[kind]()
        start = draw(1).normal(size=400).astype(np.float32).astype(np.float64) * 30
        errors = summed_in_float32(terms, start, way) - (terms.sum(axis=1) + start)
        estimate = length * (np.sum(terms**2, axis=1) / 2 + terms.sum(axis=1) ** 2 / 3 + start**2)
        claimed = FLOAT32.sums * (estimate + partial_sums.beyond(terms, start))
        assert math.sqrt(np.mean(errors**2 / claimed)) < 1.1
        assert np.all(errors**2 < MOST**2 * claimed)

    def test_the_estimate_alone_would_be_too_small(self):
        terms, start = smooth(0, 400, 588), np.zeros(400)
        errors = summed_in_float32(terms, start, "one by one") - terms.sum(axis=1)
        estimate = FLOAT32.sums * 588 * (np.sum(terms**2, axis=1) / 2 + terms.sum(axis=1) ** 2 / 3)
        assert math.sqrt(np.mean(errors**2 / estimate)) > 2

    def test_every_order_is_counted_by_hand(self):
        terms, start = np.array([[1.0, 2.0, -4.0, 3.0, 5.0]]), np.array([10.0])
        assert partial_sums.one_by_one(terms, start) == 11**2 + 13**2 + 9**2 + 12**2 + 17**2
        blocks = 1 + 3**2 + 13**2 + 4**2 + 1 + 12**2 + 5**2 + 17**2  # each block's own partial sums, and the total behind it
        assert partial_sums.in_blocks(terms, start, 2) == blocks
        lanes = 1 + 2**2 + 3**2 + 5**2 + 2**2 + 5**2 + (2**2 + 7**2)  # both accumulators, and their sum
        assert partial_sums.in_lanes(terms, 2) == lanes

    def test_what_the_estimate_covers_adds_nothing(self):
        terms = np.abs(draw(3).normal(size=(50, 64))) * np.array([1.0, -1.0] * 32)
        assert np.all(partial_sums.beyond(terms, np.zeros(50)) == 0)


# Of which elements terms are taken, by a loop ---------------------------------------------------------------------------------


def largest(terms, start, orders):
    """The variance beyond the estimate, by loops over the orders."""
    terms = np.asarray(terms, np.float64)
    found = [partial_sums.beyond(terms[None, order], np.array([start]))[0] for order in orders]
    return max(found) * FLOAT32.sums


def exact(shape, seed, positive=False):
    value = draw(seed).normal(size=shape)
    return FLOAT32.exact(np.abs(value) if positive else value)


class TestLooks:
    def test_of_a_linear_map(self):
        x, weight, bias = exact((2, 3, 70), 1, positive=True), exact((5, 70), 2), exact((5,), 3)
        flat = np.array([0, 7, 29])
        y = rules.linear(x, weight, bias)
        rows = x.value.reshape(-1, 70)
        wanted = [largest(rows[n // 5] * weight.value[n % 5], bias.value[n % 5], [np.arange(70)]) for n in flat]
        np.testing.assert_allclose(y.closer.more(flat), wanted)

    @pytest.mark.parametrize(("channels", "stride", "padding"), [(3, 1, 1), (3, 2, 0), (32, 2, 1)])
    def test_of_a_convolution(self, channels, stride, padding):
        x, weight, bias = exact((2, channels, 6, 7), 1, positive=True), exact((4, channels, 3, 3), 2), exact((4,), 3)
        y = rules.conv2d(x, weight, bias, stride, padding)
        padded = np.pad(x.value, ((0, 0), (0, 0), (padding, padding), (padding, padding)))
        places = list(product(range(channels), range(3), range(3)))
        keys = [lambda p: p, lambda p: (p[1], p[2], p[0]), lambda p: (p[1], p[0], p[2])]
        keys += [lambda p, size=size: (p[0] // size, p[1], p[2], p[0]) for size in (8, 16) if channels > size]
        orders = [sorted(range(len(places)), key=lambda n, key=key: key(places[n])) for key in keys]
        for flat in (0, y.value.size // 2, y.value.size - 1):
            image, out, row, column = np.unravel_index(flat, y.shape)
            window = padded[image, :, row * stride : row * stride + 3, column * stride : column * stride + 3]
            wanted = largest((window * weight.value[out]).ravel(), bias.value[out], orders)
            np.testing.assert_allclose(y.closer.more(np.array([flat])), wanted)

    def test_of_a_depthwise_convolution(self):
        x, weight, bias = exact((2, 4, 5, 5), 1, positive=True), exact((4, 1, 3, 3), 2), exact((4,), 3)
        y = rules.depthwise_conv2d(x, weight, bias, 1)
        padded = np.pad(x.value, ((0, 0), (0, 0), (1, 1), (1, 1)))
        columns_first = np.arange(9).reshape(3, 3).T.ravel()
        for flat in (0, 63, 199):
            image, out, row, column = np.unravel_index(flat, y.shape)
            terms = (padded[image, out, row : row + 3, column : column + 3] * weight.value[out, 0]).ravel()
            more = y.closer.more(np.array([flat]))
            assert more >= largest(terms, bias.value[out], [np.arange(9)]) * (1 - 1e-12)
            assert more <= largest(terms, bias.value[out], [np.arange(9), columns_first]) * (1 + 1e-12)

    def test_it_goes_with_the_elements_through_moves_sums_and_parts(self):
        x, weight = exact((2, 3, 70), 1, positive=True), exact((5, 70), 2)
        y = rules.linear(x, weight)
        alone = y.closer.more(np.arange(30)).reshape(y.shape)
        xp = y.rounding
        moved = xp.concat([exact((2, 5, 3), 4), xp.matrix_transpose(y)], axis=0)[1:, :, ::2]
        wanted = np.concatenate([np.zeros((2, 5, 3)), np.matrix_transpose(alone)])[1:, :, ::2]
        np.testing.assert_allclose(moved.closer.more(np.arange(moved.value.size)), wanted.ravel())
        gain = exact((5,), 5)
        scaled = (y * gain + exact((2, 3, 5), 6)) / 4
        np.testing.assert_allclose(scaled.closer.more(np.arange(30)), np.ravel(alone * gain.value**2 / 16))

    def test_a_value_that_the_port_holds_has_none(self):
        assert exact((2, 2), 1).closer is None
        assert rules.relu(exact((2, 2), 1)).closer is None

    def test_a_look_does_not_keep_its_result(self):
        gc.disable()
        try:
            x, weight, square = exact((1, 3, 8, 8), 1), exact((4, 3, 2, 2), 2), exact((4, 4), 3)
            maps = rules.conv2d(x, weight, None, 2)
            context, _ = rules.attention(maps, maps, maps, 0.5)
            made = [maps, context, rules.linear(context, square), rules.layer_norm(maps, exact((4,), 1), exact((4,), 2), 1e-6)]
            kept = [weakref.ref(part.value) for part in made]
            del maps, context, made
            assert [part() for part in kept] == [None] * 4
        finally:
            gc.enable()

    def test_a_first_look_without_variances_keeps_nothing(self):
        plain = Rounding(precision_of("float32"), plain=True)
        x, weight = plain.exact(np.ones((3, 8))), plain.exact(np.ones((2, 8)))
        assert rules.linear(x, weight).closer is None


class TestSoftmax:
    """One score decides, and its error is in all channels of a head and in whatever adds these up."""

    def parts(self, seed=0, tokens=20, width=16):
        random = draw(seed)
        queries, keys = (random.normal(size=(1, 1, tokens, width)) for _ in range(2))
        keys[0, 0, :2] = 60 * random.choice([-1, 1], width)
        queries[0, 0] = keys[0, 0, 0] / 8 + random.normal(size=(tokens, width)) * 0.1
        values = random.normal(size=(1, 1, tokens, width)) * 0.01
        values[0, 0, 0], values[0, 0, 1] = 1, -1
        return [FLOAT32.exact(part.astype(np.float32).astype(np.float64)) for part in (queries, keys, values)]

    def errors(self, seed, weight, context):
        """What the errors of rounding every score make of the context and of a sum over its channels, in standard deviations."""
        queries, keys, values = self.parts(seed)
        scores = queries.value @ np.matrix_transpose(keys.value) / 4
        predicted, _ = rules.attention(queries, keys, values, 0.25)
        found = rules.linear(predicted[:, 0], FLOAT32.exact(weight))
        random = draw(seed + 1000)
        deviation = np.sqrt(rules._matmul(queries, FLOAT32.exact(np.matrix_transpose(keys.value))).variance / 16)
        moved = scores + random.normal(size=scores.shape) * deviation
        powers = np.exp(moved - moved.max(axis=-1, keepdims=True))
        port = (powers / powers.sum(axis=-1, keepdims=True)) @ values.value
        x, y = (predicted, port) if context else (found, port[:, 0] @ weight.T)
        flat = np.arange(x.value.size)
        error = np.ravel(y - x.value) ** 2
        return error / np.ravel(x.variance), error / (np.ravel(x.variance) + x.closer.more(flat))

    @pytest.mark.parametrize("context", [True, False], ids=["context", "proj"])
    def test_the_claim_is_not_below_what_errors_of_scores_make(self, context):
        weight = np.ones((3, 16)) + draw(9).normal(size=(3, 16)) * 0.1
        pairs = [self.errors(seed, weight, context) for seed in range(60)]
        before, after = (float(np.sqrt(np.mean([pair[n] for pair in pairs]))) for n in (0, 1))
        assert after < 1.1
        if not context:
            assert before > 2

    def test_scores_whose_queries_are_hidden_may_go_together(self):
        queries, keys, values = self.parts()
        alone, _ = rules.attention(queries, keys, values, 0.25)
        tiny = Uncertain(queries.value, np.full(queries.shape, 1e-30, np.float32), FLOAT32)
        together, _ = rules.attention(tiny, keys, values, 0.25)
        flat = np.arange(alone.value.size)
        assert np.all(together.closer.more(flat) >= alone.closer.more(flat) * (1 - 1e-6))
        (one,), (other,) = alone.closer.shared(flat[:1]), together.closer.shared(flat[:1])
        assert (one.correlated, other.correlated) == (False, True)
        effects = np.array([[3.0, -4.0]])
        assert (one.together(effects)[0], other.together(effects)[0]) == (25, 49)

    def test_scores_that_the_port_holds_bring_no_error(self):
        queries, keys, values = self.parts()
        held = FLOAT32.exact(queries.value @ np.matrix_transpose(keys.value) / 4)
        context, _ = rules.attention(queries, keys, values, 0.25, lambda name, x: held if name == "scores" else x)
        assert context.closer.shared(np.arange(3)) == []


# When it is looked ------------------------------------------------------------------------------------------------------------


class Watched:
    """A prediction that counts what is looked at, and finds enough to explain everything or nothing."""

    def __init__(self, factor, size=1000):
        self.looks, self.factor = [], factor
        self.predicted = Uncertain(np.zeros(size), np.ones(size), FLOAT32)
        self.predicted.closer = rules.looks.Closer(self.more)

    def more(self, flat):
        self.looks.append(len(flat))
        return np.full(len(flat), self.factor)


class TestWhenItIsLooked:
    def test_what_passes_is_not_looked_at(self):
        watched = Watched(1.0)
        found = compared("x", np.full(1000, 1.5), watched.predicted)
        assert (found.passed, found.looked, watched.looks) == (True, False, [])
        assert found.predicted.closer is None

    def test_the_worst_first_and_no_further_than_a_fault(self):
        watched, got = Watched(1.0), np.zeros(1000)
        got[:500] = np.linspace(20, 50, 500)
        assert not compared("x", got, watched.predicted).passed
        assert watched.looks == [1]

    def test_all_that_are_beyond_where_each_is_explained(self):
        watched, got = Watched(30.0), np.zeros(1000)
        got[:600] = 9
        got[600:] = 0.1
        found = compared("x", got, watched.predicted)
        assert watched.looks == [1, 64, 512, 23]
        assert (found.passed, found.looked) == (True, True)
        assert float(found.predicted.variance[0]) == 31.0
        assert float(found.predicted.variance[-1]) == 1.0

    def test_what_is_far_off_is_not_looked_at(self):
        watched, got = Watched(1e9), np.zeros(1000)
        got[0] = 8 * 33
        assert not compared("x", got, watched.predicted).passed
        assert watched.looks == []

    def test_trials_of_variants_do_not_look_again(self, monkeypatch):
        model, images = trained("deit3_fmnist", 0, 1)
        looked = []

        def beyond(terms, start, orders=()):
            looked.append(len(terms))
            return np.full(len(terms), 1e6) * np.max(terms**2)

        values = traced(model, REFERENCE, images)
        limit = next(found for found in verify(values, model, images).differences if found.name == "blocks.0.mlp.fc1").limit
        off = values["blocks.0.mlp.fc1"].copy()
        off.flat[7] += 2 * limit * np.max(np.abs(off))
        wrong = values | {"blocks.0.mlp.fc1": off, "blocks.0.attn.proj": values["blocks.0.attn.proj"] * 3}
        monkeypatch.setattr(rules.looks, "beyond", beyond)
        counts = []
        for kept in (performing.LOOKS, 0):
            monkeypatch.setattr(performing, "LOOKS", kept)
            names = [fault.name for fault in verify(wrong, model, images).faults]
            assert "blocks.0.attn.proj" in names
            assert "blocks.0.mlp.fc1" not in names
            counts.append(len(looked))
            looked.clear()
        assert 0 < 2 * counts[0] < counts[1]
