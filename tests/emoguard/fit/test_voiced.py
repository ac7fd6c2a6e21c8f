import pytest

from emoguard import EmoGuardError
from emoguard.fit import corpora
from emoguard.fit.corpora import Label, Text
from emoguard.fit.voiced import EARLIER, voiced

LABELS = [Label("happy", ("happy",), 1), Label("sad", ("sad",), -1)]
VOICES = [Text(label, f"topic {n}", f"{label} {n}") for label in ("happy", "sad") for n in range(5)]
NEUTRAL = [Text("", f"topic {n}", f"plain {n}") for n in range(5)]


def test_each_question_is_answered_in_every_voice_and_in_none():
    questions = voiced(LABELS, VOICES, NEUTRAL, ["Why?", "How?"], 2)

    assert len({each.key for each in questions}) == len(questions) == 2 * 2 * 3
    for question in questions:
        answers = [answer for _, answer in question.earlier]
        assert len(answers) == EARLIER
        assert all(text.startswith(question.label or "plain") for text in answers)
        assert len(set(answers)) == EARLIER


def test_the_same_question_has_other_turns_the_second_time():
    questions = voiced(LABELS, VOICES, NEUTRAL, ["Why?"], 2)

    first, second = (each for each in questions if each.label == "sad")
    assert first.text == second.text
    assert not {*first.earlier} & {*second.earlier}


def test_the_prompt_ends_with_the_question_behind_its_turns():
    (question,) = (q for q in voiced(LABELS, VOICES, NEUTRAL, ["Why?"], 1) if q.label == "sad")

    messages = question.prompt(0).messages

    assert [each["role"] for each in messages] == ["user", "assistant"] * EARLIER + ["user"]
    assert messages[1]["content"] == "sad 0"
    assert messages[-1]["content"] == "Why?"
    assert question.prompt(0).plain.endswith("sad 1\n\nWhy?")


def test_the_control_has_no_emotion_in_a_corpus():
    by_label = {q.label: q.record for q in voiced(LABELS, VOICES, NEUTRAL, ["Why?"], 1)}

    assert by_label[""] == {"topic": "Why?"}
    assert by_label["sad"] == {"emotion": "sad", "topic": "Why?"}


def test_a_label_without_a_voice_is_refused():
    with pytest.raises(EmoGuardError, match=r"bored: wanted at least 2 texts.* got 0.*--voices"):
        voiced([Label("bored", ("bored",), -1)], VOICES, NEUTRAL, ["Why?"], 1)


def test_our_own_corpora_have_a_voice_for_each_of_our_labels():
    labels = corpora.default_labels()
    voices = [text for path in corpora.own() for text in corpora.read(path, labels)]
    neutral = [text for path in corpora.own_neutrals() for text in corpora.read(path)]

    assert len(voiced(labels, voices, neutral, ["Why?"], 3)) == 3 * 13
