"""Examples in the documents work, and watch what can be watched."""

import re
from pathlib import Path

import pytest
import yaml

from emoguard import Policy
from emoguard.cli.probes import open_probe
from emoguard.runtime.attach import shipped_files
from emoguard.sinks.open import check_sinks

ROOT = Path(__file__).parents[1]
MANIFEST = "containers:"
"""Begins an example for Kubernetes, which is no policy."""
POLICIES = [
    block
    for path in (ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md")))
    for block in re.findall(r"```yaml\n(.*?)```", path.read_text(encoding="utf-8"), re.DOTALL)
    if not block.startswith(MANIFEST)
]


def test_there_is_an_example_of_a_policy():
    assert POLICIES


@pytest.mark.parametrize("block", POLICIES)
def test_an_example_of_a_policy_is_one(block):
    check_sinks(Policy.parse(yaml.safe_load(block)))


@pytest.mark.parametrize("name", shipped_files())
@pytest.mark.parametrize("block", POLICIES)
def test_an_example_watches_only_labels_that_are_usable(block, name):
    policy = Policy.parse(yaml.safe_load(block))
    verdicts = open_probe(name)[0].verdicts
    for label in (*policy.labels, *policy.notices.amplifying):
        assert verdicts[label] == "usable"
