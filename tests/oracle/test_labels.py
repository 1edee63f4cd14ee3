"""ImageNet's names as timm has them."""

import pytest
from timm.data import ImageNetInfo, infer_imagenet_subset

from reforg.catalog import labels
from reforg.catalog.names import timm_tags

TAGGED = {entry["num_classes"] for tags in timm_tags().values() for entry in tags.values()}


@pytest.mark.parametrize("number", [1000, 21843])
def test_every_name_is_timms(number):
    subset = infer_imagenet_subset({"num_classes": number})
    assert labels.builtin(number) == tuple(ImageNetInfo(subset).label_descriptions())


@pytest.mark.parametrize("number", sorted(TAGGED))
def test_every_number_of_classes_for_which_timm_has_a_list_has_one_here(number):
    assert (labels.builtin(number) is None) == (infer_imagenet_subset({"num_classes": number}) is None)
