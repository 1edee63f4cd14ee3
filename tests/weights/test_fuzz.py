"""A short run of the fuzz target; `python tests/tools/fuzz.py` is the long one."""

import random

import fuzz
import literal_checkpoint
import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

import reforg

HONEST = fuzz.seeds()


@pytest.mark.parametrize("name", HONEST)
def test_the_second_opinion_knows_every_honest_tensor(name, tmp_path):
    assert fuzz.check(HONEST[name], tmp_path / "w.pth") == "read"
    assert set(literal_checkpoint.read(HONEST[name])) >= set(reforg.load_weights(tmp_path / "w.pth")) - {"cls_token", "head.weight"}


def test_a_wrong_tensor_is_found_out(tmp_path, monkeypatch):
    """The check can fail: here the reader gives one element too much of every value."""
    honest = reforg.load_weights
    monkeypatch.setattr(reforg, "load_weights", lambda path: {name: value + 1 for name, value in honest(path).items()})
    with pytest.raises(AssertionError, match="is not what the file describes"):
        fuzz.check(HONEST["before_1_6"], tmp_path / "w.pth")


@settings(max_examples=300, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(name=st.sampled_from(sorted(HONEST)), seed=st.integers(0, 2**32))
@example(name="archive", seed=0)
def test_mutated_files_are_refused_or_read_right(name, seed, tmp_path):
    fuzz.check(fuzz.variant(HONEST[name], random.Random(seed)), tmp_path / "w.pth")


@settings(max_examples=200, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.binary(max_size=300))
def test_any_bytes_are_refused(tmp_path, content):
    assert fuzz.check(content, tmp_path / "w.pth") == "refused"


@settings(max_examples=200, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.binary(max_size=200))
def test_any_pickle_after_torchs_magic_number_is_refused(tmp_path, content):
    magic = HONEST["before_1_6"][:14]
    assert fuzz.check(magic + b".\x80\x02M\xe9\x03.\x80\x02}." + content, tmp_path / "w.pth") == "refused"
