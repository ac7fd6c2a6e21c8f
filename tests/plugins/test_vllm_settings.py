"""What additional_config may say."""

from __future__ import annotations

import pytest
from emoguard_vllm.settings import Layout, Settings

from emoguard.errors import EmoGuardError


def test_without_our_part_an_engine_is_not_read() -> None:
    assert Settings.of({}) is None
    assert Settings.of(None) is None
    assert Settings.of({"others": 1}) is None


def test_an_empty_object_is_enough() -> None:
    assert Settings.of({"emoguard": {}}) == Settings()


@pytest.mark.parametrize(
    ("own", "said"),
    [
        ("policy.yaml", "wanted an object"),
        ({"polcy": "policy.yaml"}, "polcy"),
        ({"slots": 0}, "slots"),
        ({"slots": "many"}, "slots"),
        ({"door": "yes please"}, "door"),
        ({"probe": 3}, "probe"),
        ({"page": "yes please"}, "page"),
        ({"hosts": "llm.example"}, "hosts"),
    ],
)
def test_what_is_wrong_is_named(own: object, said: str) -> None:
    with pytest.raises(EmoGuardError, match=said):
        Settings.of({"emoguard": own})


def test_the_layout_goes_to_the_workers_beside_the_settings() -> None:
    settings = Settings(probe="p", slots=3)
    layout = Layout((1, 2), 5, 3, door=False, plugin="1")
    additional = layout.into({"others": 1}, settings)
    assert additional["others"] == 1
    assert Settings.of(additional) == settings
    assert Layout.of(additional) == layout


def test_a_configuration_that_nobody_checked_is_refused() -> None:
    with pytest.raises(EmoGuardError, match="was not checked"):
        Layout.of({"emoguard": {}})
