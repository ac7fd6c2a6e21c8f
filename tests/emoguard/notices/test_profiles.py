"""Profiles and words are data: sound, and the documentation says what they say."""

import re
from datetime import date
from pathlib import Path

import pytest

from emoguard.notices import profiles, words
from emoguard.notices.words import KINDS

DOCS = (Path(__file__).parents[3] / "docs" / "notices.md").read_text(encoding="utf-8")
SHIPPED = profiles.shipped()
STARTS = {
    "conversation": "each conversation",
    "day": "each interaction, once a day",
    "interaction": "each interaction",
}


@pytest.mark.parametrize("profile", SHIPPED.by_name.values(), ids=lambda p: p.name)
def test_the_documentation_lists_the_demands_of_each_profile(profile):
    (row,) = re.findall(rf"^\| `{profile.name}` \| (.*) \|$", DOCS, re.MULTILINE)
    law, start, repeats, also = row.split(" | ")
    assert f"{profile.in_force:%d %b %Y}".lstrip("0") in law
    assert start.startswith(STARTS[profile.start])
    assert (profile.unused_days is not None) == ("after 7 days unused" in start)
    hours = [
        f"every {each:g} h" for each in (profile.every_hours, profile.minors_every_hours) if each
    ]
    assert re.findall(r"every \d+ h", repeats) == hours
    assert ("minors" in repeats) == (profile.minors_every_hours is not None)
    assert ("break" in repeats) == profile.minors_break_reminder
    assert profile.claim == ("claims" in also)
    assert profile.question == ("asks" in also)


def test_every_profile_has_a_date_and_a_source_and_was_read():
    assert SHIPPED.version == 1
    for profile in SHIPPED.by_name.values():
        assert date(2025, 1, 1) < profile.in_force < date(2028, 1, 1)
        assert len(profile.title) > 10
    assert SHIPPED.read > date(2026, 1, 1)


def test_the_shipped_words_are_those_of_the_documentation():
    for kind, text in words.chosen("en", {}).items():
        assert re.search(rf"^\| `{kind}`.*\| {re.escape(text)} \|$", DOCS, re.MULTILINE), kind


def test_the_words_name_the_software_and_never_say_that_it_feels_or_does_not():
    answer = words.chosen("en", {})
    assert set(answer) == set(KINDS)
    for kind in ("ai", "steered", "amplified"):
        assert "AI system, not a person" in answer[kind]
        assert len(answer[kind]) < 170
    for text in answer.values():
        assert not re.search(r"\bfeel(s|ing)?\b|\bemotionless\b|\bno feelings\b", text)
    for kind in ("steered", "amplified"):
        assert "tone is no sign of feelings, nor that the answer is right" in answer[kind]


def test_shipped_data_is_read_only():
    with pytest.raises(TypeError):
        SHIPPED.by_name["eu_art50"] = None
    with pytest.raises(TypeError):
        words.chosen("en", {})["ai"] = "x"
