"""Texts that nearly repeat one another."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from emoguard import EmoGuardError
from emoguard.fit import duplicates
from emoguard.fit.duplicates import RUN, SHARED, Duplicates

WORDS = [f"w{n}" for n in range(40)]


def known(*texts):
    memory = Duplicates()
    for text in texts:
        memory.add(text)
    return memory


def test_eight_words_in_a_row_are_a_repetition_and_seven_are_not():
    first = known(" ".join(WORDS))
    shared = RUN + SHARED - 1
    assert first.of("x y " + " ".join(WORDS[10 : 10 + shared]) + " z") == 0
    assert first.of("x y " + " ".join(WORDS[10 : 10 + shared - 1]) + " z") is None


def test_capitals_and_punctuation_make_no_difference():
    assert (
        known("The ferry leaves at nine from the north pier today").of(
            "THE FERRY, leaves at nine! From the north pier (today)"
        )
        == 0
    )


def test_the_first_text_that_is_repeated_is_named():
    text = " ".join(WORDS[:20])
    assert known("quite another text", text, text).of(text) == 1


@given(st.lists(st.sampled_from(WORDS), max_size=7))
def test_a_text_too_short_for_four_runs_repeats_nothing(words):
    assert known(" ".join(words)).of(" ".join(words)) is None


def test_more_words_than_can_be_remembered_are_refused(monkeypatch):
    monkeypatch.setattr(duplicates, "MOST_RUNS", 10)
    memory = known(" ".join(WORDS[:10]))
    with pytest.raises(EmoGuardError, match="among 10 words at most"):
        memory.add(" ".join(WORDS[10:30]))
