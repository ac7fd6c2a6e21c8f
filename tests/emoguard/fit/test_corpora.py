import json

import pytest

from emoguard import EmoGuardError
from emoguard.fit import corpora
from emoguard.fit.corpora import Label, Text


def write(path, records):
    path.write_text("\n".join(json.dumps(r) for r in records), encoding="utf-8")
    return path


def test_only_emotions_that_mean_a_label_are_kept(tmp_path):
    path = write(
        tmp_path / "c.jsonl",
        [
            {"emotion": "joyful", "topic": "rain", "text": "a"},
            {"emotion": "bored", "topic": "rain", "text": "b"},
        ],
    )
    found = corpora.read(path, [Label("happy", ("happy", "joyful"), 1)])
    assert found == [Text("happy", "rain", "a")]


def test_without_labels_everything_is_kept(tmp_path):
    path = write(tmp_path / "c.jsonl", [{"text": "a"}, {"emotion": "x", "text": "b"}])
    assert [t.text for t in corpora.read(path)] == ["a", "b"]


@pytest.mark.parametrize("line", ["{", '{"emotion": "happy"}', "[1]", '"x"'])
def test_a_bad_line_is_named(tmp_path, line):
    path = tmp_path / "c.jsonl"
    path.write_text('{"emotion": "happy", "text": "fine"}\n' + line)
    with pytest.raises(EmoGuardError, match=r"c\.jsonl:2"):
        corpora.read(path)


def test_a_missing_corpus_and_one_without_known_emotions_are_refused(tmp_path):
    with pytest.raises(EmoGuardError, match="cannot be read"):
        corpora.read(tmp_path / "none.jsonl")
    path = write(tmp_path / "c.jsonl", [{"emotion": "bored", "text": "b"}])
    with pytest.raises(EmoGuardError, match="happy"):
        corpora.read(path, [Label("happy", ("happy",), 1)])


def test_balanced_spreads_each_label_over_its_topics():
    texts = [
        Text(label, topic, f"{label}{topic}{n}")
        for label in "ab"
        for topic in "xyz"
        for n in range(5)
    ]
    chosen = corpora.balanced(texts, 6)
    for label in "ab":
        topics = [t.topic for t in chosen if t.label == label]
        assert sorted(topics) == list("xxyyzz")
    assert corpora.balanced(texts, 6) == chosen
    assert len(corpora.balanced(texts, 100)) == len(texts)


def test_prompts_are_read_one_per_line_and_once(tmp_path):
    path = tmp_path / "prompts.txt"
    path.write_text("One?\n\n Two? \nOne?\n", encoding="utf-8")
    assert corpora.read_prompts(path) == ["One?", "Two?"]
    path.write_text("\n \n", encoding="utf-8")
    with pytest.raises(EmoGuardError, match="holds none"):
        corpora.read_prompts(path)
    with pytest.raises(EmoGuardError, match="cannot be read"):
        corpora.read_prompts(tmp_path)


def test_neutral_prompts_are_many_and_different_and_some_are_held_out():
    found = corpora.neutral_prompts()
    assert len(found) == len({prompt.casefold() for prompt in found})
    assert all(prompt == prompt.strip() and 10 <= len(prompt) <= 400 for prompt in found)
    assert len(found) - corpora.CALIBRATING >= 1000


def test_default_labels_are_twelve_of_both_signs():
    labels = corpora.default_labels()
    assert len(labels) == 12
    assert {label.valence for label in labels} == {1, -1}
    words = [word for label in labels for word in label.words]
    assert len(words) == len(set(words))
