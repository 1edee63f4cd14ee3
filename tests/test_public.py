"""What README and docs import from `reforg` is there, wherever its module lies, and nothing is loaded before it is asked for."""

import importlib
import subprocess
import sys

import pytest

import reforg

MODULES = {"embedded": "reforg.models.embedded", "synthetic": "reforg.catalog.synthetic"}
OF_PAGES = {"Uncertain": "reforg.verification.error_model.uncertain", "variant": "reforg.verification.diagnosis.variants"}


@pytest.mark.parametrize("name", [*reforg.__all__, *OF_PAGES])
def test_a_public_name_is_there(name):
    assert getattr(reforg, name).__name__ == name
    assert name in dir(reforg)


@pytest.mark.parametrize(("name", "module"), MODULES.items())
def test_a_public_module_is_there(name, module):
    assert getattr(reforg, name) is importlib.import_module(module)
    assert name in dir(reforg)


def test_another_name_is_not():
    with pytest.raises(AttributeError, match="module 'reforg' has no attribute 'embeded'"):
        reforg.embeded  # noqa: B018 - asking is what fails


def test_importing_reforg_loads_its_errors_and_version_only():
    code = "import sys, reforg; print(*sorted(name for name in sys.modules if name.startswith('reforg')))"
    loaded = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True).stdout.split()
    assert loaded == ["reforg", "reforg.errors", "reforg.version"]
