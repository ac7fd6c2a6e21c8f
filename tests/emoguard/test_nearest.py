"""A suggestion is a misspelling or the beginning of one name, or there is none."""

import pytest

from emoguard.nearest import hint, near

KEYS = ("add", "cap", "floor", "layers", "max_dose_ratio", "rate_window", "rate_per_1000_tokens")


@pytest.mark.parametrize(
    ("name", "meant"),
    [
        ("floors", "floor"),
        ("flor", "floor"),
        ("ad", "add"),
        ("Floor", "floor"),
        ("max-dose-ratio", "max_dose_ratio"),
        ("max_dose", "max_dose_ratio"),
        ("foo", None),
        ("cup of tea", None),
        ("rate", None),
        ("", None),
    ],
)
def test_only_a_close_name_is_suggested(name, meant):
    assert near(name, KEYS) == meant


def test_a_name_close_to_nothing_lists_the_known_ones():
    assert hint("foo", KEYS, "keys").startswith("known keys: add, cap")
    assert hint("foo", (), "options") == "known options: none"
