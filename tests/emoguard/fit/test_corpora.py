import json
import re
from collections import Counter, defaultdict
from itertools import chain, product

import numpy as np
import pytest

from emoguard import EmoGuardError
from emoguard.fit import corpora
from emoguard.fit.corpora import Label, Text
from emoguard.fit.duplicates import Duplicates
from emoguard.fit.leaks import named_emotion


def write(path, records):
    path.write_text("\n".join(json.dumps(r) for r in records), encoding="utf-8")
    return path


def test_only_emotions_that_mean_a_label_are_kept(tmp_path):
    path = write(
        tmp_path / "c.jsonl",
        [
            {"emotion": "joyful", "topic": "rain", "text": "a fine day"},
            {"emotion": "bored", "topic": "rain", "text": "b c"},
        ],
    )
    texts = corpora.read(path, [Label("happy", ("happy", "joyful"), 1)])
    assert texts == [Text("happy", "rain", "a fine day")]


def test_without_labels_everything_is_kept(tmp_path):
    path = write(tmp_path / "c.jsonl", [{"text": "a b"}, {"emotion": "x", "text": "b c"}])
    assert [t.text for t in corpora.read(path)] == ["a b", "b c"]


@pytest.mark.parametrize("line", ["{", '{"emotion": "happy"}', "[1]", '"x"'])
def test_a_bad_line_is_named(tmp_path, line):
    path = tmp_path / "c.jsonl"
    path.write_text('{"emotion": "happy", "text": "a fine day"}\n' + line)
    with pytest.raises(EmoGuardError, match=r"c\.jsonl:2"):
        corpora.read(path)


def test_a_missing_corpus_and_one_without_known_emotions_are_refused(tmp_path):
    with pytest.raises(EmoGuardError, match="cannot be read"):
        corpora.read(tmp_path / "none.jsonl")
    path = write(tmp_path / "c.jsonl", [{"emotion": "bored", "text": "b c"}])
    with pytest.raises(EmoGuardError, match="happy"):
        corpora.read(path, [Label("happy", ("happy",), 1)])


def test_a_byte_order_mark_is_no_text_and_only_newlines_end_a_line(tmp_path):
    path = tmp_path / "prompts.txt"
    path.write_bytes("\ufeffHow are you?\r\nOne\u2028prompt\x0b\x1c\n\nHow are you?\n".encode())
    assert corpora.read_prompts(path) == ["How are you?", "One\u2028prompt"]
    path.write_bytes('\ufeff{"text": "one\u2028text"}\r\n{"text": "b c"}\n\n'.encode())
    assert [text.text for text in corpora.read(path)] == ["one\u2028text", "b c"]
    path.write_bytes('\ufeff{"joy": {"words": ["joy"], "valence": 1}}'.encode())
    assert corpora.read_labels(path) == [Label("joy", ("joy",), 1)]


@pytest.mark.parametrize("odd", ["[" * 100_000, '{"text": ' + "[" * 5000, "9" * 5000, "NaN"])
def test_a_line_that_breaks_parsers_is_named(tmp_path, odd):
    path = tmp_path / "c.jsonl"
    path.write_text('{"emotion": "happy", "text": "a fine day"}\n' + odd)
    with pytest.raises(EmoGuardError, match=r"c\.jsonl:2"):
        corpora.read(path)


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
    prompts = corpora.neutral_prompts()
    assert len(prompts) == len({prompt.casefold() for prompt in prompts})
    assert all(prompt == prompt.strip() and 10 <= len(prompt) <= 400 for prompt in prompts)
    assert len(prompts) - corpora.CALIBRATING >= 1000


def test_labels_of_a_file(tmp_path):
    path = tmp_path / "labels.json"
    path.write_text('{"glad": {"words": ["joyful", "happy"], "valence": 1}}', encoding="utf-8")
    assert corpora.read_labels(path) == [corpora.Label("glad", ("joyful", "happy"), 1)]
    assert corpora.read_labels() == corpora.default_labels()


def test_labels_of_a_recipe():
    recorded = {"labels": {"glad": {"words": ["happy"], "valence": 1}}}
    assert corpora.recorded_labels(recorded) == [corpora.Label("glad", ("happy",), 1)]
    assert corpora.recorded_labels({}) == corpora.default_labels()
    with pytest.raises(EmoGuardError, match="recipe in the probe file has no labels"):
        corpora.recorded_labels({"labels": ["glad"]})


def test_a_line_ends_where_its_newline_is_whatever_a_text_holds(tmp_path):
    path = tmp_path / "c.jsonl"
    text = "one\u2028two\u0085three"
    line = json.dumps({"emotion": "happy", "topic": "", "text": text}, ensure_ascii=False)
    path.write_text(f"\ufeff{line}\n{line}\n", encoding="utf-8")
    assert [t.text for t in corpora.read(path)] == [text, text]


@pytest.mark.parametrize(
    "record", [{"text": None}, {"text": 5}, {"text": "a b", "emotion": ["happy"]}], ids=str
)
def test_a_text_or_emotion_that_is_no_string_is_refused_by_line(tmp_path, record):
    (tmp_path / "c.jsonl").write_text(json.dumps(record), encoding="utf-8")
    with pytest.raises(
        EmoGuardError, match=r"c\.jsonl:1: wanted a JSON object .* got .* as (text|emotion)"
    ):
        corpora.read(tmp_path / "c.jsonl", corpora.default_labels())


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        ("[1]", "cannot be read"),
        ("{", "cannot be read"),
        ("{}", "it names none"),
        ('{"glad": {"words": "glad", "valence": 1}}', "words must be a list of strings"),
        ('{"glad": {"words": [], "valence": 1}}', "words must be a list of strings"),
        ('{"glad": {"words": ["a"], "valence": 0}}', "valence must be 1 or -1, got 0"),
        (
            '{"a": {"words": ["x"], "valence": 1}, "b": {"words": ["x"], "valence": 1}}',
            "x stands more than once",
        ),
        (
            '{"a": {"words": ["x"], "valence": 1}, "b": {"words": ["y"]}}',
            "b has no valence and others have one: give it to all",
        ),
    ],
)
def test_labels_that_mean_nothing_are_refused(tmp_path, text, sentence):
    (tmp_path / "labels.json").write_text(text, encoding="utf-8")
    with pytest.raises(EmoGuardError, match=sentence):
        corpora.read_labels(tmp_path / "labels.json")


def test_labels_by_name_have_no_sign(tmp_path, monkeypatch):
    assert corpora.read_labels("sarcastic, sincere") == [
        Label("sarcastic", ("sarcastic",), 0),
        Label("sincere", ("sincere",), 0),
    ]
    (tmp_path / "l.json").write_text('{"a": {"words": ["x"]}, "b": {"words": ["y"]}}')
    assert [label.valence for label in corpora.read_labels(tmp_path / "l.json")] == [0, 0]
    many = ",".join(f"label-number-{n}" for n in range(27))  # longer than the name of any file
    assert len(corpora.read_labels(many)) == 27
    for wrong in ("a,a", "a,", ",b"):
        with pytest.raises(EmoGuardError, match="different names between commas"):
            corpora.read_labels(wrong)
    monkeypatch.chdir(tmp_path)
    (tmp_path / "a,b.json").write_text('{"c": {"words": ["x"]}}')
    assert [label.name for label in corpora.read_labels("a,b.json")] == ["c"]


def test_default_labels_are_twelve_of_both_signs():
    labels = corpora.default_labels()
    assert len(labels) == 12
    assert {label.valence for label in labels} == {1, -1}
    words = [word for label in labels for word in label.words]
    assert len(words) == len(set(words))


def records(*paths):
    return [[json.loads(line) for line in p.read_text("utf-8").splitlines()] for p in paths]


def own_stories():
    return records(corpora.own_stories(), corpora.own_neutral())


def own_letters():
    return records(corpora.own_letters(), corpora.own_letters_neutral())


BOTH = pytest.mark.parametrize("own", [own_stories, own_letters])


@pytest.mark.parametrize(("own", "texts", "neutrals"), [(own_stories, 3, 5), (own_letters, 1, 2)])
def test_an_own_corpus_crosses_twelve_labels_with_24_topics(own, texts, neutrals):
    emotional, neutral = own()
    cells = Counter((r["emotion"], r["topic"]) for r in emotional)
    labels = {label.name for label in corpora.default_labels()}
    topics = {r["topic"] for r in emotional}
    assert cells == dict.fromkeys(product(labels, topics), texts)
    assert len(topics) == 24
    assert Counter(r["topic"] for r in neutral) == dict.fromkeys(topics, neutrals)
    assert not any("emotion" in r for r in neutral)


def test_the_own_corpora_share_no_topic_and_have_the_same_keys():
    (stories, neutral), (letters, letters_neutral) = own_stories(), own_letters()
    assert not {r["topic"] for r in stories} & {r["topic"] for r in letters}
    assert {tuple(r) for r in stories} == {tuple(r) for r in letters}
    assert {tuple(r) for r in neutral} == {tuple(r) for r in letters_neutral}


def test_the_own_stories_mix_persons_in_every_cell():
    persons = defaultdict(set)
    for r in own_stories()[0]:
        persons[r["emotion"], r["topic"]].add(r["person"])
    assert all(cell == {"first", "third"} for cell in persons.values())


def test_every_label_and_topic_of_the_own_letters_has_a_quarter_in_the_third_person():
    letters, neutral = own_letters()
    for key, texts in (("emotion", 24), ("topic", 12)):
        third = Counter(r[key] for r in letters if r["person"] == "third")
        assert third == dict.fromkeys({r[key] for r in letters}, texts // 4)
    topics = {r["topic"] for r in letters}
    assert {(r["topic"], r["person"]) for r in neutral} == set(product(topics, ("first", "third")))


@BOTH
def test_the_person_of_an_own_text_is_the_one_it_is_written_in(own):
    first = re.compile(r"\b(I|my|me|we|our|us)\b")
    for r in chain(*own()):
        narration = re.sub(r'"[^"]*"', "", r["text"])  # anybody may say I in a dialogue
        assert bool(first.search(narration)) == (r["person"] == "first"), r["text"]


@pytest.mark.parametrize(("own", "least", "most"), [(own_stories, 40, 80), (own_letters, 60, 90)])
def test_own_texts_are_a_paragraph_in_one_line_of_plain_letters(own, least, most):
    for r in chain(*own()):
        assert least <= len(r["text"].split()) <= most, r["text"]
        assert "\n" not in r["text"]
        assert not re.search("[\u201c\u201d\u2018\u2019]", r["text"]), r["text"]


@BOTH
def test_own_texts_of_a_label_are_as_long_as_those_of_another(own):
    """Otherwise length alone would tell labels apart."""
    words = defaultdict(list)
    for r in chain(*own()):
        words[r.get("emotion", "")].append(len(r["text"].split()))
    means = [np.mean(each) for each in words.values()]
    assert max(means) - min(means) < 10


@BOTH
def test_own_texts_never_name_an_emotion(own):
    words = [word for label in corpora.default_labels() for word in label.words]
    for r in chain(*own()):
        assert named_emotion(r["text"], words) is None, r["text"]


def test_no_two_own_texts_are_alike_within_a_corpus_or_across_them():
    known = Duplicates()
    for r in chain(*own_stories(), *own_letters()):
        assert known.of(r["text"]) is None, r["text"]
        known.add(r["text"])


@BOTH
def test_own_texts_do_not_open_alike(own):
    openings = Counter(tuple(r["text"].split()[:3]) for r in chain(*own()))
    assert max(openings.values()) <= 2


def test_own_texts_are_read_like_any_corpus():
    labels = corpora.default_labels()
    texts = corpora.read(corpora.own_stories(), labels)
    assert len(corpora.balanced(texts, 72)) == len(texts) == 864
    assert len(corpora.read(corpora.own_neutral())) == 120
    letters = corpora.read(str(corpora.own_letters()), labels)
    assert len(corpora.balanced(letters, 24)) == len(letters) == 288
    assert len(corpora.read(str(corpora.own_letters_neutral()))) == 48


@pytest.mark.parametrize(
    "text",
    [
        "She was happy.",
        "What JOY!",
        "a calming voice",
        "He hated it",
        "furiously",
        "in despair",
        "no remorse at all",
        "It scared him",
        "my nerves",
        "mixed emotions",
        "Sadder still",
        "lovingly",
    ],
)
def test_words_that_name_an_emotion_are_found(text):
    assert named_emotion(text)


@pytest.mark.parametrize(
    "text",
    [
        "a glove and a clover",
        "the average page",
        "He sang, and the angle was right",
        "a hat, a scarf and a furnace",
        "the saddle was dusty",
        "a terrace in the country",
        "the contents of the box",
    ],
)
def test_other_words_are_left_alone(text):
    assert named_emotion(text) is None


@pytest.mark.parametrize(
    ("record", "sentence"),
    [
        ({"content": "a b", "label": "joy"}, "got one with the keys content, label"),
        ({"text": "a b", "topic": None}, "got None as topic"),
        ({"text": "a b", "topic": ["rain"]}, "as topic"),
        ({"text": "Congratulations!"}, "the text is one word, Congratulations!: wanted a sentence"),
        ({"text": "a " * 10_001}, "has 20,002 characters, wanted at most 20,000"),
    ],
    ids=str,
)
def test_a_line_of_something_else_says_what_came(tmp_path, record, sentence):
    path = write(tmp_path / "c.jsonl", [{"text": "a b"}, record])
    with pytest.raises(EmoGuardError, match=rf"c\.jsonl:2: .*{re.escape(sentence)}"):
        corpora.read(path)


def test_a_sentence_without_spaces_is_more_than_one_word_where_languages_have_none(tmp_path):
    path = write(tmp_path / "c.jsonl", [{"text": "今天我很快乐。"}, {"text": "วันนี้ฉันมีความสุข"}])
    assert len(corpora.read(path)) == 2


def test_a_number_may_be_a_topic(tmp_path):
    path = write(tmp_path / "c.jsonl", [{"text": "a b", "topic": 3}])
    assert corpora.read(path)[0].topic == "3"


def test_a_text_with_two_emotions_is_refused_with_both_places(tmp_path):
    texts = [{"emotion": "joy", "text": "It rains"}, {"emotion": "woe", "text": "it  RAINS"}]
    with pytest.raises(
        EmoGuardError, match=r"c.jsonl:2: .*c.jsonl:1 again, here woe and there joy"
    ):
        corpora.read(write(tmp_path / "c.jsonl", texts))
    again = [{"emotion": "joy", "text": "It rains"}] * 2
    assert len(corpora.read(write(tmp_path / "c.jsonl", again))) == 2


def test_corpora_that_share_a_text_do_not_test_each_other():
    one = [Text("joy", "", "It rains", "a:1"), Text("joy", "", "it rains", "a:2")]
    corpora.check_apart({"a": one, "b": [Text("joy", "", "It pours", "b:1")]})
    with pytest.raises(EmoGuardError, match=r"corpora a and b share texts \(a:1 and b:9\)"):
        corpora.check_apart({"a": one, "b": [Text("joy", "", "It  rains", "b:9")]})


@pytest.mark.parametrize("text", ["", "  ", "\\n\\t"])
def test_an_empty_text_is_refused_with_its_line(tmp_path, text):
    path = tmp_path / "c.jsonl"
    rows = ['{"emotion": "joy", "text": "a b c"}', "", f'{{"emotion": "joy", "text": "{text}"}}']
    path.write_text("\n".join(rows))
    with pytest.raises(EmoGuardError, match=r"c.jsonl:3: the text is empty: take the line out"):
        corpora.read(path)


def test_a_text_knows_its_place(tmp_path):
    path = tmp_path / "c.jsonl"
    path.write_text('\ufeff{"text": "a b"}\n\n{"text": "b\u2028c"}\n')
    assert [(t.text, t.place) for t in corpora.read(path)] == [
        ("a b", f"{path}:1"),
        ("b\u2028c", f"{path}:3"),
    ]
