"""Every supported architecture passes the checks every plug-in must pass."""

import pytest

from emoguard.testing import check_plugin
from tests.contract.hf_models import ARCHITECTURES, HfHarness, Tokenizer, build


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_plugin_contract(architecture):
    check_plugin(HfHarness(build(architecture), Tokenizer()))
