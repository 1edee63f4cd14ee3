"""A family is one model file and one entry: a small one, declared here and named nowhere else, does all that the others do."""

from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pytest
from source_files import python_files

import reforg
from reforg import families
from reforg.catalog import synthetic
from reforg.config import Config, Size
from reforg.families import FAMILIES, Family, whole_patches
from reforg.models import model as models
from reforg.ops import REFERENCE, Network, Recorder, mean, merge_heads, split_heads, to_tokens, untraced, within

LINES = 40  # that a family takes at most, blank ones not counted


# The family begins here.
@dataclass(frozen=True)
class PebbleConfig(Config):
    family: str = "pebble"
    img_size: Size = 8
    in_chans: int = 3
    num_classes: int = 5
    norm_eps: float = 1e-6
    patch_size: int = 4
    embed_dim: int = 12
    num_heads: int = 2


def shapes(config):
    width, layers = config.embed_dim, {"embed": (config.embed_dim, config.in_chans, config.patch_size, config.patch_size)}
    layers |= {"norm": (width,), "qkv": (3 * width, width), "proj": (width, width), "last_norm": (width,)}
    layers |= {"head": (config.num_classes, width)} if config.num_classes else {}
    return {f"{path}.{leaf}": shape[:most] for path, shape in layers.items() for leaf, most in (("weight", 4), ("bias", 1))}


def encode(net, images, config):
    x = net.trace("tokens", to_tokens(net.conv2d("embed", images, config.patch_size)))
    queries, keys, values = split_heads(net.linear("qkv", net.layer_norm("norm", x, config.norm_eps)), 3, config.num_heads)
    context, _ = net.ops.attention(queries, keys, values, queries.shape[-1] ** -0.5, within(net.trace, "attn"))
    x = net.trace("attended", x + net.linear("proj", merge_heads(context)))
    return net.layer_norm("last_norm", x, config.norm_eps)


def pooled(net, x, config):
    return mean(x, axis=1)


def classify(net, x, config):
    state = net.gelu("act", pooled(net, x, config))
    return net.trace("logits", net.linear("head", state) if config.num_classes else state)


def features(weights, images, config, ops=REFERENCE, trace=untraced):
    return encode(Network(weights, ops, trace), images, config)


def forward(weights, images, config, ops=REFERENCE, trace=untraced):
    return classify(Network(weights, ops, trace), features(weights, images, config, ops, trace), config)


NAMED = {"pebble": {}, "pebbles": {"img_size": 16}}
PEBBLE = Family(shapes, forward, features, pooled, classify, size_fault=whole_patches, models=NAMED)
# The family ends here.

NAMES = [
    *("embed", "tokens", "norm", "qkv", "attn.scores", "attn.probs", "attn.context", "proj", "attended", "last_norm"),
    *("act", "head", "logits"),
]
every_ops = pytest.mark.parametrize("ops", ["auto", "reference"])


@pytest.fixture(autouse=True)
def _pebble(monkeypatch):
    monkeypatch.setitem(FAMILIES, PebbleConfig, PEBBLE)


def pebble(**settings):
    return reforg.create_model("pebble", weights="synthetic:3", **settings)


def images(count=2, size=8):
    return synthetic.images((count, 3, size, size), 5)


def in_float64(model, given):
    weights = {name: value.astype(np.float64) for name, value in model.weights.items()}
    return forward(weights, given.astype(np.float64), model.config)


def test_it_is_declared_in_few_lines():
    text = Path(__file__).read_text(encoding="utf-8")
    declared = text.partition("# The family begins here.\n")[2].partition("# The family ends here.\n")[0]
    assert 0 < len([line for line in declared.splitlines() if line.strip()]) <= LINES


def test_no_other_file_names_it():
    assert [path for path in python_files() if "pebble" in path.read_text(encoding="utf-8").lower()] == []


def test_it_is_there_while_it_is_in_the_table_and_no_longer(monkeypatch):
    assert reforg.list_models("pebble*") == ["pebble", "pebbles"]
    monkeypatch.delitem(FAMILIES, PebbleConfig)
    assert reforg.list_models("pebble*") == []
    with pytest.raises(reforg.ConfigError, match="there is no model 'pebble'"):
        pebble()


def test_its_config_is_checked_and_changed_as_any_other():
    assert pebble(img_size=[8, 12]).config == PebbleConfig(img_size=(8, 12))
    with pytest.raises(reforg.ConfigError, match=r"pebble has no setting 'patch'; did you mean patch_size\?"):
        pebble(patch=2)
    with pytest.raises(reforg.ConfigError, match="num_classes must be a whole number of at least 0, got -1"):
        pebble(num_classes=-1)


class TestComputing:
    @every_ops
    def test_a_call_answers_with_the_logits_of_its_forward_pass(self, ops):
        model = pebble(ops=ops)
        np.testing.assert_allclose(model(images()), in_float64(model, images()), rtol=0, atol=1e-6)
        assert model.num_params == sum(value.size for value in model.weights.values())

    @every_ops
    def test_features_and_answer(self, ops):
        model = pebble(ops=ops)
        tokens, (state, logits) = model.features(images()), model.answer(images())
        assert tokens.shape == (2, 4, 12)
        np.testing.assert_allclose(state, tokens.mean(axis=1), rtol=0, atol=1e-6)
        np.testing.assert_allclose(logits, model(images()), rtol=0, atol=1e-6)

    def test_trace(self):
        model = pebble()
        found = model.trace(images())
        assert list(found) == NAMES
        np.testing.assert_allclose(found["logits"], model(images()), rtol=0, atol=1e-6)

    def test_another_config_and_any_size_whose_patches_are_whole(self):
        model = pebble()
        assert model(images(size=12)).shape == (2, 5)
        assert model.with_config(num_classes=0)(images()).shape == (2, 12)
        assert model.with_config(img_size=16).config.image_shape == (16, 16)
        with pytest.raises(reforg.ShapeError, match="pebble: image 9x9 does not divide into 4x4 patches"):
            model(images(size=9))

    def test_what_it_does_not_have_is_refused(self):
        with pytest.raises(reforg.ConfigError, match="pebble has no pyramid"):
            pebble().features(images(), pyramid=True)
        for argument in ({"keep_rate": 0.5}, {"tokens": 2}):
            with pytest.raises(reforg.ConfigError, match="pebble keeps all its tokens: keep_rate and tokens are arguments of ViT"):
                pebble()(images(), **argument)


class TestPlans:
    """A plan is made of the pieces that a backend knows; of a forward pass with others none is, and operations run one by one."""

    def steps(self, model, *calls):
        """How many steps of a plan each call runs."""
        found = []
        for call in calls:
            model.plans.watch = lambda *step: found[-1].append(step)
            found.append([])
            call()
        return list(map(len, found))

    def test_of_a_family_with_pieces_of_its_own_there_is_none(self):
        model = pebble()
        assert self.steps(model, lambda: model(images()), lambda: model.features(images())) == [0, 0]

    @pytest.mark.parametrize(
        ("name", "settings"),
        [
            ("vit_tiny_patch16_224", {}),
            ("vit_tiny_patch16_224", {"stem": "hmlp"}),
            ("vit_tiny_patch16_224", {"global_pool": "avg"}),
            ("vit_tiny_patch16_224", {"num_classes": 0}),
            ("deit_tiny_distilled_patch16_224", {}),
            ("deit_small_patch16_18x2_LS", {}),
            ("evit_tiny_patch16_224", {"drop_loc": (1,)}),
        ],
    )
    def test_of_vits_there_is_one(self, name, settings):
        model = reforg.create_model(name, "synthetic:1", img_size=32, depth=2, **settings)
        given = synthetic.images((1, 3, 32, 32), 1)
        assert min(self.steps(model, lambda: model(given), lambda: model.features(given), lambda: model.answer(given))) > 0

    def test_of_shunted_transformers_there_is_one(self):
        model = reforg.create_model("shunted_fmnist")
        given = synthetic.images((1, 3, 64, 64), 1)
        calls = [lambda: model(given), lambda: model.features(given, pyramid=True), lambda: model.answer(given)]
        assert min(self.steps(model, *calls)) > 0


class TestWeights:
    @pytest.mark.parametrize("ending", ["safetensors", "npz"])
    def test_saved_and_loaded(self, tmp_path, ending):
        model, path = pebble(), tmp_path / f"weights.{ending}"
        reforg.save_weights(model.weights, path)
        again = reforg.create_model("pebble", weights=path)
        assert list(again.weights) == list(families.shapes(PebbleConfig()))
        np.testing.assert_array_equal(again(images()), model(images()))
        assert {name: value.shape for name, value in reforg.load_weights(path).items()} == families.shapes(PebbleConfig())

    def test_what_is_amiss_is_told_and_whose_they_are(self):
        weights = pebble().weights
        weights["q"] = weights.pop("qkv.weight")
        with pytest.raises(reforg.WeightsError, match=r"do not fit this pebble config: 1 missing \(qkv.weight.*left over \(q"):
            reforg.create_model("pebble", weights=weights)
        with pytest.raises(reforg.WeightsError, match=r"these are the weights of pebble \(or pebbles\)"):
            reforg.create_model("shunted_t", weights=pebble().weights)


def test_how_its_pictures_are_prepared_is_not_known():
    assert pebble().preprocessing is None


class TestCosts:
    def test_of_a_name_and_of_a_model(self):
        cost = reforg.cost("pebble", batch=2)
        tokens, width = 2 * 4, 12
        products = {"embed": 48 * width, "qkv": 3 * width * width, "proj": width * width}
        assert cost.params == pebble().num_params
        assert cost.macs == tokens * sum(products.values()) + 2 * tokens * 4 * width + 2 * width * 5
        assert reforg.cost(pebble(), batch=2) == cost

    def test_of_another_size(self):
        assert reforg.cost("pebbles") == reforg.cost("pebble", img_size=16) != reforg.cost("pebble")
        assert models.widest(PebbleConfig(), (16, 16), "float32") == reforg.cost("pebbles").largest_bytes


class TestVerification:
    def candidate(self, **faults):
        """A trace in float32, and what becomes of it where some of its values are others."""
        trace = pebble().trace(images())
        return {name: faults[name](value) if name in faults else value for name, value in trace.items()}

    def test_a_float32_copy_passes(self):
        report = reforg.verify(self.candidate(), pebble(), images())
        assert report.passed, str(report)
        assert [difference.name for difference in report.differences] == NAMES

    def test_logits_alone_pass_and_others_do_not(self):
        logits = pebble()(images())
        assert reforg.verify(lambda _: logits, pebble(), images()).passed
        assert not reforg.verify(lambda _: logits + 1e-3, pebble(), images()).passed

    @pytest.mark.parametrize("name", ["embed", "norm", "qkv", "attn.probs", "proj", "attended", "last_norm", "act", "head"])
    def test_a_planted_fault_is_found_where_it_is(self, name):
        report = reforg.verify(self.candidate(**{name: lambda value: value * np.float32(1.01)}), pebble(), images())
        assert not report.passed
        assert report.first.name == name

    def test_a_known_variant_is_recognised(self):
        model = pebble()
        recorder = Recorder()
        forward(model.weights, images(), replace(model.config, norm_eps=1e-3), trace=recorder)
        report = reforg.verify(recorder.values, model, images())
        assert report.first.name == "norm"
        assert report.explanation == "epsilon 1e-3"
