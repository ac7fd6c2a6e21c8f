"""Texts that hold a word of their own label, in any form."""

import dataclasses

import pytest

from emoguard.fit import corpora
from emoguard.fit.corpora import Label, Text
from emoguard.fit.leaks import forms, leak_cautions, leaks

SARCASTIC, SINCERE = Label("sarcastic", ("sarcastic",), 0), Label("sincere", ("sincere",), 0)


@pytest.mark.parametrize(
    ("word", "form"),
    [
        ("sarcastic", "sarcasm"),
        ("sarcastic", "sarcastically"),
        ("sincere", "sincerely"),
        ("sincere", "Sincerity"),
        ("bored", "boredom"),
        ("ironic", "irony"),
        ("shy", "shyness"),
        ("sad", "Saddened"),
        ("guilty", "guilt"),
        ("快乐", "我很快乐。"),
    ],
)
def test_other_forms_of_a_word_are_found(word, form):
    assert forms((word,)).search(f"so {form}, then")


@pytest.mark.parametrize(
    ("word", "other"),
    [("sincere", "since"), ("ironic", "iron"), ("bored", "born"), ("content", "contents")],
)
def test_words_that_only_begin_alike_are_left_alone(word, other):
    assert not forms((word,)).search(f"so {other}, then")


def test_a_text_leaks_the_words_of_its_own_label_alone():
    texts = [
        Text("sarcastic", "", "Oh, what sarcasm!", "a:1"),
        Text("sarcastic", "", "How very sincere of you.", "a:2"),
        Text("sincere", "", "I mean it.", "a:3"),
    ]
    assert leaks(texts, [SARCASTIC, SINCERE]) == {"sarcastic": texts[:1]}
    (sentence,) = leak_cautions([texts[:1], texts[1:]], [SARCASTIC, SINCERE])
    assert "(sarcastic 1 of 2; the first at a:1)" in sentence
    assert leak_cautions([texts[1:]], [SARCASTIC, SINCERE]) == []


def test_one_text_of_twenty_makes_nobody_doubt_the_probe_and_two_do():
    texts = [Text("sarcastic", "", f"Number {n}, well done.", f"a:{n}") for n in range(20)]
    texts[3] = dataclasses.replace(texts[3], text="Oh, what sarcasm!")
    assert leak_cautions([texts], [SARCASTIC]) == []
    texts[5] = dataclasses.replace(texts[5], text="Sarcastic again!")
    (sentence,) = leak_cautions([texts], [SARCASTIC])
    assert "(sarcastic 2 of 20; the first at a:3)" in sentence


def test_the_packages_own_corpora_leak_nothing_and_a_planted_word_is_found():
    labels = corpora.default_labels()
    for path in corpora.own():
        texts = corpora.read(path, labels)
        assert leaks(texts, labels) == {}
        first = next(text for text in texts if text.label == "guilty")
        planted = dataclasses.replace(first, text=f"{first.text} It was my guilt.")
        texts[texts.index(first)] = planted
        assert leaks(texts, labels) == {"guilty": [planted]}
