"""Published figures and where weights are: every listed name has an answer, and each figure is the one that was published."""

import json
import re
from importlib import resources

import pytest

import reforg
from reforg.catalog.names import aliases, build_config, timm_tags
from reforg.catalog.published import UNPUBLISHED, Published, accuracy, where

DATA = json.loads((resources.files("reforg") / "data" / "published.json").read_text(encoding="utf-8"))
FIGURES = [(name, figure.get("config", {}), value) for figure in DATA["figures"] for name, value in figure["accuracy"].items()]
PAPERS = {
    "deit_tiny_patch16_224": 72.2,
    "deit_small_patch16_224": 79.8,
    "deit_base_patch16_224": 81.8,
    "deit3_small_patch16_224": 81.4,
    "deit3_medium_patch16_224": 83.0,
    "deit3_base_patch16_224": 83.8,
    "deit3_large_patch16_224": 84.9,
    "deit3_huge_patch14_224": 85.2,
    "deit3_small_patch16_384": 83.4,
    "deit3_base_patch16_384": 85.0,
    "deit3_large_patch16_384": 85.8,
    "shunted_t": 79.8,
    "shunted_s": 82.9,
    "shunted_b": 84.0,
}
EVIT = {  # keep rate -> fused, dropped
    0.9: (79.8, 79.9),
    0.8: (79.8, 79.7),
    0.7: (79.5, 79.4),
    0.6: (78.9, 79.1),
    0.5: (78.5, 78.4),
}
NOT_PUBLISHED = {  # upstream's code makes these, and nobody published weights
    "deit_tiny_patch16_LS", "deit_small_patch16_36", "deit_small_patch16_36_LS", "deit_small_patch16_18x2",
    "deit_small_patch16_18x2_LS", "deit_base_patch16_36x1", "deit_base_patch16_36x1_LS", "deit_base_patch16_18x2",
    "deit_base_patch16_18x2_LS", "deit_huge_patch14_52_LS", "deit_huge_patch14_26x2_LS", "deit_Giant_48x2_patch14_LS",
    "deit_giant_40x2_patch14_LS", "deit_Giant_48_patch14_LS", "deit_giant_40_patch14_LS",
}  # fmt: skip


def percent(name: str, **config) -> float | None:
    found = accuracy(name, **config)
    return found and found.value


class TestAccuracy:
    """Figures belong to a name, its tag and its config."""

    @pytest.mark.parametrize("name", PAPERS)
    def test_of_the_papers(self, name):
        assert percent(name) == PAPERS[name]

    @pytest.mark.parametrize("rate", EVIT)
    def test_of_evit_by_what_it_keeps(self, rate):
        fused, dropped = EVIT[rate]
        assert percent("evit_small_patch16_224", keep_rate=rate) == fused
        assert percent("evit_small_patch16_224", keep_rate=rate, fuse_token=False) == dropped

    def test_evits_own_defaults_and_upstreams(self):
        assert percent("evit_small_patch16_224") == 79.5
        assert percent("deit_small_patch16_shrink_base") == 79.4
        assert percent("deit_small_patch16_224_shrink05") == 78.4

    @pytest.mark.parametrize(("name", "right"), [("evit_fmnist", 8473), ("deit3_fmnist", 8350), ("shunted_fmnist", 8974)])
    def test_of_the_embedded_models_on_their_own_images(self, name, right):
        found = accuracy(name)
        assert round(found.value * 100) == right
        assert found.images == "Fashion-MNIST test"

    def test_a_tag_is_other_weights(self):
        assert percent("deit3_base_patch16_224.fb_in1k") == 83.8
        assert percent("deit3_base_patch16_224.fb_in22k_ft_in1k") == 85.7
        assert percent("vit_base_patch16_224.augreg_in1k") == 79.154

    def test_without_a_tag_timms_default_is_meant_and_said(self):
        assert accuracy("vit_base_patch16_224") == Published(
            85.096,
            "ImageNet-1k validation",
            "timm, results/results-imagenet.csv at commit 0173a13",
            "vit_base_patch16_224.augreg2_in21k_ft_in1k",
        )

    @pytest.mark.parametrize(
        ("name", "config"),
        [
            ("deit_small_patch16_224", {"keep_rate": 0.7}),
            ("deit_small_patch16_224", {"img_size": 384}),
            ("evit_small_patch16_224", {"keep_rate": 0.75}),
            ("evit_small_patch16_224", {"keep_rate": 0.5, "drop_loc": (2, 5, 8)}),
            ("shunted_t", {"num_classes": 10}),
            ("evit_fmnist", {"fuse_token": False}),
        ],
    )
    def test_of_a_changed_config_nothing_is_known(self, name, config):
        assert accuracy(name, **config) is None

    def test_what_a_config_has_anyway_changes_nothing(self):
        assert percent("deit_small_patch16_224", img_size=224, depth=12) == 79.8

    @pytest.mark.parametrize("name", ["vit_base_patch16_224.mae", "vit_tiny_patch16_224.augreg_in21k", "evit_base_patch16_224"])
    def test_of_some_weights_nothing_is_published(self, name):
        assert accuracy(name) is None

    @pytest.mark.parametrize(("name", "config", "value"), FIGURES)
    def test_every_figure_is_found_under_its_name_and_has_a_source(self, name, config, value):
        found = accuracy(name, **config)
        assert (found.value, found.model) == (value, name)
        assert 70 < value < 90
        assert len(found.source) > 20

    def test_mistakes(self):
        with pytest.raises(reforg.ConfigError, match="there is no model 'deit_smal'"):
            accuracy("deit_smal")
        with pytest.raises(reforg.ConfigError, match="has no setting 'keep'"):
            accuracy("deit_small_patch16_224", keep=0.7)
        with pytest.raises(reforg.ConfigError, match="has no tag 'x'"):
            accuracy("deit_small_patch16_224.x")


class TestWhere:
    """Hub ids can be given to create_model, addresses to a browser."""

    @pytest.mark.parametrize("name", [*reforg.list_models(), *aliases()])
    def test_every_name_has_an_answer(self, name):
        places = where(name)
        assert len(set(places)) == len(places) > 0
        assert (places == [UNPUBLISHED]) == (name in NOT_PUBLISHED)

    def test_every_place_belongs_to_a_listed_name(self):
        assert set(DATA["weights"]) <= set(reforg.list_models())

    @pytest.mark.parametrize("place", sorted({place for places in DATA["weights"].values() for place in places}))
    def test_a_place_is_a_hub_id_or_an_address(self, place):
        form = r"(hf-hub:[\w-]+/[\w.-]+|https://[\w./?=-]+)( \([^()]+\))?"
        assert place == "comes with reforg" or re.fullmatch(form, place)

    def test_the_usual_weights_come_first(self):
        assert where("vit_base_patch16_224")[0] == "hf-hub:timm/vit_base_patch16_224.augreg2_in21k_ft_in1k"
        assert where("deit_base_distilled_patch16_224") == [
            "hf-hub:timm/deit_base_distilled_patch16_224.fb_in1k",
            "hf-hub:facebook/deit-base-distilled-patch16-224",
            "https://dl.fbaipublicfiles.com/deit/deit_base_distilled_patch16_224-df68dfff.pth",
        ]

    def test_a_tag_has_one_place(self):
        for name, tags in timm_tags().items():
            for tag, entry in tags.items():
                if tag:
                    assert where(f"{name}.{tag}") == ([f"hf-hub:{entry['hub']}"] if entry["hub"] else [UNPUBLISHED])

    def test_evits_weights_are_told_apart(self):
        places = where("deit_small_patch16_shrink_base")
        assert places[0] == "https://github.com/youweiliang/evit"
        assert len(places) == 11
        assert sum("dropped" in place for place in places) == 5

    def test_weights_of_deit_fit_the_evit_of_their_size(self):
        for name in ("evit_tiny_patch16_224", "evit_base_patch16_224", "evit_small_patch16_304"):
            deit = where(name)[0].partition("/")[2].partition(" ")[0]
            assert build_config(name).embed_dim == build_config(deit).embed_dim

    def test_embedded_ones(self):
        assert where("shunted_fmnist") == ["comes with reforg"]

    def test_mistakes(self):
        with pytest.raises(reforg.ConfigError, match="there is no model 'shunted_x'"):
            where("shunted_x")
        with pytest.raises(reforg.ConfigError, match="shunted_t has no tag 'in1k'; it has none"):
            where("shunted_t.in1k")
