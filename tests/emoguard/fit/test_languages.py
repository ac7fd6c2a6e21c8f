"""Answers in another language than their prompts are counted, others are not."""

import pytest

from emoguard.fit import corpora
from emoguard.fit.languages import strangers

PROMPTS = corpora.neutral_prompts()[: corpora.CALIBRATING]
ENGLISH = [text.text for text in corpora.read(corpora.own_letters())]
GERMAN = [
    "Der Hund liegt auf dem Sofa und schläft, während die Katze aus dem Fenster zur Straße sieht.",
    "Ein Zug fährt um neun Uhr ab, und wer ihn verpasst, muss zwei Stunden in der Kälte stehen.",
]
NOISE = ["toast heat stone river north piano glass seven orange map lamp carpet violin train"]


def test_texts_in_the_language_of_the_prompts_are_no_strangers():
    assert strangers(PROMPTS, ENGLISH) == 0


@pytest.mark.parametrize("answers", [GERMAN, NOISE])
def test_other_languages_are(answers):
    assert strangers(PROMPTS, answers) == 1
    assert strangers(PROMPTS, [*answers, *ENGLISH[: 3 * len(answers)]]) == 0.25


def test_prompts_in_german_want_answers_in_german():
    prompts = [f"{text} Warum ist das so, und was kann man mit der Zahl {n} tun?" for text in GERMAN
               for n in range(20)]  # fmt: skip
    assert strangers(prompts, GERMAN) == 0
    assert strangers(prompts, ENGLISH[:20]) == 1


@pytest.mark.parametrize(
    ("prompts", "answers"),
    [
        (PROMPTS[:10], ENGLISH),
        (PROMPTS, ["Yes.", ""]),
        ([f"为什么天空是蓝色的{n}" for n in "一二三四五六七八九十" * 3], ENGLISH),
    ],
)
def test_where_it_cannot_be_told_nothing_is(prompts, answers):
    assert strangers(prompts, answers) is None
