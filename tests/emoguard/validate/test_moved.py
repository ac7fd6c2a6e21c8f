from emoguard.fit.corpora import Label, Text
from emoguard.fit.voiced import Question
from emoguard.validate.moved import moved

LABELS = [Label("happy", ("happy",), 1), Label("sad", ("sad",), -1)]
KNOWN = [
    Text(label, "", f"{word} {n % 3}")
    for label, word in (("happy", "sunshine laughter"), ("sad", "graveyard tears"), ("", "plain"))
    for n in range(12)
]


def answers(words):
    return [
        (Question(label, f"question {n}", 0, ()), f"{word} number {n}")
        for label, word in words.items()
        for n in range(20)
    ]


def test_a_voice_that_the_text_shows_is_seen_and_one_that_it_does_not_show_is_not():
    areas = moved(
        LABELS, KNOWN, answers({"": "a plain thing", "happy": "sunshine", "sad": "a plain thing"})
    )

    assert areas["happy"].low > 0.9
    assert areas["sad"].value == 0.5


def test_a_label_without_answers_is_left_out():
    assert set(moved(LABELS, KNOWN, answers({"": "thing", "sad": "tears"}))) == {"sad"}
    assert moved(LABELS, KNOWN, answers({"sad": "tears"})) == {}
