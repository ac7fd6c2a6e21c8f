"""Every supported architecture passes the checks every plug-in must pass."""

import pytest

from emoguard.testing import CHECKS, contract_probe
from tests.contract.hf_models import ARCHITECTURES, HfHarness, Tokenizer, build


@pytest.mark.parametrize("architecture", ARCHITECTURES)
@pytest.mark.parametrize("check", CHECKS, ids=lambda check: check.__name__)
def test_plugin_contract(architecture, check, monkeypatch):
    harness = HfHarness(build(architecture), Tokenizer(), monkeypatch)
    check(harness, contract_probe(harness))
