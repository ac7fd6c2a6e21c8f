import json
import math
import re
from collections import Counter
from itertools import combinations

import numpy as np
import pytest
from sklearn.feature_extraction.text import CountVectorizer
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import GroupKFold, cross_val_predict
from sklearn.pipeline import make_pipeline

from emoguard import EmoGuardError
from emoguard.fit import corpora
from emoguard.fit.duplicates import Duplicates
from emoguard.fit.leaks import named_emotion
from emoguard.study import items
from emoguard.study.items import Key, Prompt, Task
from emoguard.study.wordings import CELLS, CONFIRMATORY, FORMS, INTENSITIES, PILOT, STUDY

PREMISES = items.premises()
EVERY = PREMISES + items.premises(wordings=PILOT)
FACTS = {each.fact: each for each in PREMISES}
PROMPTS = items.prompts()
TASKS = items.tasks()
EMOTIONS = [word for label in corpora.default_labels() for word in (label.name, *label.words)]
TEXTS = [
    *(text for each in EVERY for text in (each.true, each.false, each.correction)),
    *(each.text for each in PROMPTS),
    *(each.question for each in TASKS),
]
FACT = {"domain": "d", "clauses": ["a {} b", "c {} d"], "answers": [["x"], ["y", "z"]]}
PROMPT = {"topic": "t", "text": "Why?"}
TASK = {"kind": "k", "level": 1, "question": "1 + 1?", "answers": ["2"]}
READERS = [(items.premises, FACT), (items.prompts, PROMPT), (items.tasks, TASK)]


def words(text):
    return re.findall(r"[\w'-]+", text.lower())


def write(path, records):
    path.write_text("\n".join(json.dumps(each) for each in records), encoding="utf-8")
    return path


def wilson(share, n, z=1.96):
    """The ends of a 95 % interval."""
    middle, spread = (
        share + z**2 / (2 * n),
        z * math.sqrt(share * (1 - share) / n + (z / 2 / n) ** 2),
    )
    return (middle - spread) / (1 + z**2 / n), (middle + spread) / (1 + z**2 / n)


def accuracy(texts, labels, groups, ngrams):
    """Of a bag of words, over fifths of the groups, each judged by a fit on the others."""
    model = make_pipeline(CountVectorizer(ngram_range=ngrams), LogisticRegression(max_iter=1000))
    judged = cross_val_predict(model, texts, labels, groups=groups, cv=GroupKFold(5))
    return float(np.mean(judged == labels))


def test_there_are_as_many_items_as_the_study_needs():
    assert len(FACTS) >= 250
    assert sum(each.confirmatory for each in PREMISES) >= 500
    assert len(PROMPTS) >= 120
    assert len(TASKS) >= 200


def test_facts_are_spread_evenly_over_domains():
    counts = Counter(each.domain for each in FACTS.values())
    assert len(counts) >= 12
    assert len(set(counts.values())) == 1


def test_every_fact_stands_in_the_confirmatory_cells_and_a_hundred_in_all_others():
    counts = Counter((each.form, each.intensity) for each in PREMISES)
    assert set(counts) == set(CELLS)
    assert {counts[cell] for cell in CONFIRMATORY} == {len(FACTS)}
    (rest,) = {counts[cell] for cell in set(CELLS) - set(CONFIRMATORY)}
    assert rest >= 100


def test_every_cell_has_each_domain_equally_often():
    counts = Counter((each.domain, each.form, each.intensity) for each in PREMISES)
    for cell in CELLS:
        assert len({counts[domain, *cell] for domain in {e.domain for e in PREMISES}}) == 1


def test_the_wordings_of_a_cell_are_used_about_equally_often():
    for form, intensity in CELLS:
        cell = [e.true for e in PREMISES if (e.form, e.intensity) == (form, intensity)]
        for kind in (STUDY.questions[form], STUDY.openings[intensity]):
            marks = [longest_part(each) for each in kind]
            counts = [sum(mark in text for text in cell) for mark in marks]
            assert max(counts) - min(counts) <= 0.1 * len(cell)


def longest_part(wording):
    return max(wording.split("{}"), key=len)


def test_names_of_pairs_are_unique():
    assert len({each.name for each in PREMISES}) == len(PREMISES)


def test_prompts_are_spread_evenly_over_topics():
    counts = Counter(each.topic for each in PROMPTS)
    assert len(counts) >= 12
    assert len(set(counts.values())) == 1


def test_tasks_are_spread_evenly_over_kinds_and_levels():
    counts = Counter((each.kind, each.level) for each in TASKS)
    assert len({kind for kind, _ in counts}) == 5
    assert len(counts) == 15
    assert len(set(counts.values())) == 1


def test_the_right_option_stands_in_each_place_equally_often():
    places = Counter(
        each.options.index(option)
        for each in TASKS
        for option in each.options
        if each.is_right(option)
    )
    assert places.total() == sum(bool(each.options) for each in TASKS)
    assert len(places) == 3
    assert len(set(places.values())) == 1


def test_both_questions_of_a_pair_have_one_form_and_nearly_one_length():
    for each in EVERY:
        true, false = words(each.true), words(each.false)
        assert abs(len(true) - len(false)) <= 1, each.name
        assert abs(len(each.true) - len(each.false)) <= 15, each.name


def test_both_questions_of_a_pair_differ_in_the_completion_alone():
    for each in EVERY:
        right, wrong = each.right.words[0], each.wrong.words[0]
        pattern = rf"(?<!\w){re.escape(right)}(?!\w)"
        assert each.false in {
            each.true[: m.start()] + wrong + each.true[m.end() :]
            for m in re.finditer(pattern, each.true)
        }


def test_true_and_false_questions_of_a_couple_have_the_same_words():
    couples = {(each.couple, each.form, each.intensity) for each in PREMISES}
    for couple in couples:
        both = [e for e in PREMISES if (e.couple, e.form, e.intensity) == couple]
        true = Counter(word for each in both for word in words(each.true))
        assert len(both) == 2
        assert true == Counter(word for each in both for word in words(each.false))


@pytest.mark.parametrize("ngrams", [(1, 1), (1, 3)])
def test_the_surface_does_not_tell_true_from_false(ngrams, record_property):
    share, low, high = surface(ngrams, "couple")
    record_property("accuracy", f"{share:.3f} [{low:.3f}, {high:.3f}]")
    assert low <= 0.5 <= high
    assert abs(share - 0.5) < 0.06


@pytest.mark.parametrize("ngrams", [(1, 1), (1, 3)])
def test_the_surface_of_the_twin_fact_teaches_nothing_but_the_reverse(ngrams):
    # A completion that is right of one fact is wrong of its twin: fitted on the twin alone, a bag
    # of words stays far below chance. So couples, not facts, are the groups above.
    share, _, _ = surface(ngrams, "fact")
    assert share < 0.5


def surface(ngrams, group):
    """The accuracy for true against false on confirmatory pairs, with the ends of its interval."""
    pairs = [each for each in PREMISES if each.confirmatory]
    texts = [text for each in pairs for text in (each.true, each.false)]
    groups = [getattr(each, group) for each in pairs for _ in range(2)]
    share = accuracy(texts, np.tile([1, 0], len(pairs)), groups, ngrams)
    return share, *wilson(share, len(FACTS))  # three forms of a fact are no three facts


def test_the_classifier_of_surfaces_finds_a_surface_that_does_tell():
    pairs = [each for each in PREMISES if each.confirmatory]
    texts = [text for each in pairs for text in (each.true, f"{each.false} Really?")]
    groups = [each.couple for each in pairs for _ in range(2)]
    assert accuracy(texts, np.tile([1, 0], len(pairs)), groups, (1, 1)) > 0.95


def test_keys_of_a_premise_stand_in_the_correction_and_not_in_the_false_question():
    for each in EVERY:
        assert each.right.stands_in(each.correction), each.name
        assert not each.right.stands_in(each.false), each.name
        assert not each.wrong.stands_in(each.correction), each.name
        assert not each.wrong.stands_in(each.true), each.name


def test_the_right_and_wrong_words_of_a_premise_differ():
    for each in FACTS.values():
        for word in each.right.words:
            assert not each.wrong.stands_in(word), each.name


def test_a_key_stands_only_in_whole_words():
    key = Key(("six", "6"))
    assert key.stands_in("It has SIX legs.")
    assert key.stands_in("(6)")
    assert not key.stands_in("sixty or 16")


def test_answers_of_tasks_are_short_and_accepted():
    for each in TASKS:
        assert each.answers
        for answer in each.answers:
            assert answer == answer.strip()
            assert len(answer.split()) <= 4, each.question
            assert each.is_right(answer)


def test_answers_of_tasks_are_not_given_away():
    for each in TASKS:
        if each.options:
            assert all(option in each.question for option in each.options)
            assert sum(map(each.is_right, each.options)) == 1
        elif each.kind != "reading":  # their answers are read off
            assert not Key(each.answers).stands_in(each.question), each.question


@pytest.mark.parametrize(
    ("answer", "right"),
    [
        ("Seven", True),
        ("7.", True),
        ("\n**7**\nbecause 3 + 4 is 7", True),
        ("The answer is 7.", True),
        ("the seven", True),
        ("17", False),
        ("7 or 8", False),
        ("-7", False),
        ("", False),
    ],
)
def test_an_answer_is_right_if_its_first_line_is_an_accepted_one(answer, right):
    assert Task("arithmetic", 1, "What is 3 + 4?", ("7", "seven"), ()).is_right(answer) is right


def test_no_item_names_an_emotion():
    assert [text for text in TEXTS if named_emotion(text, EMOTIONS)] == []


def test_no_fact_is_asked_twice():
    facts = {name: frozenset(words(each.correction)) for name, each in FACTS.items()}
    couples = {name: each.couple for name, each in FACTS.items()}
    for (a, first), (b, second) in combinations(facts.items(), 2):
        if couples[a] != couples[b]:
            assert len(first & second) / len(first | second) < 0.75, (a, b)


def test_prompts_and_tasks_repeat_neither_one_another_nor_the_prompts_of_calibrations():
    known = Duplicates()
    for text in corpora.neutral_prompts():
        known.add(text)
    for text in [each.text for each in PROMPTS] + [bare(each.question) for each in TASKS]:
        assert known.of(text) is None, text
        known.add(text)
    assert len({each.text for each in PROMPTS}) == len(PROMPTS)
    assert len({each.question for each in TASKS}) == len(TASKS)


def bare(question):
    """Without the instruction that all tasks of a kind end with."""
    return re.sub(r" Answer (?:with|in) [^.]*\.$", "", question)


def test_a_pilot_has_other_wordings():
    study, pilot = ({e.true for e in items.premises(wordings=w)} for w in (STUDY, PILOT))
    assert not study & pilot
    assert set(PILOT.questions) == set(FORMS)
    assert set(PILOT.openings) == set(INTENSITIES)


def test_own_files_are_read(tmp_path):
    facts = items.premises(write(tmp_path / "f", [FACT]))
    assert len(facts) == 2 * len(CELLS)
    assert facts[0].true == "Is it true that a x b?"
    assert facts[0].false == "Is it true that a y b?"
    assert facts[1].correction == "C y d."
    assert items.prompts(write(tmp_path / "p", [PROMPT])) == [Prompt("t", "Why?")]
    assert items.tasks(write(tmp_path / "t", [TASK])) == [Task("k", 1, "1 + 1?", ("2",), ())]


@pytest.mark.parametrize(("read", "good"), READERS)
@pytest.mark.parametrize("line", ["{", "[1]", '"x"', "null", "{}", "[" * 100_000, "NaN"])
def test_a_bad_line_is_named(tmp_path, read, good, line):
    path = tmp_path / "items.jsonl"
    path.write_text(f"{json.dumps(good)}\n{line}")
    with pytest.raises(EmoGuardError, match=r"items\.jsonl:2: wanted"):
        read(path)


@pytest.mark.parametrize(
    ("read", "good", "change"),
    [
        (items.premises, FACT, {"domain": ""}),
        (items.premises, FACT, {"clauses": ["a {} b"]}),
        (items.premises, FACT, {"clauses": ["a {} b", "c d"]}),
        (items.premises, FACT, {"clauses": ["a {} b", "c {} {} d"]}),
        (items.premises, FACT, {"clauses": "{}{}"}),
        (items.premises, FACT, {"answers": [["x"]]}),
        (items.premises, FACT, {"answers": [["x"], []]}),
        (items.premises, FACT, {"answers": [["x"], [3]]}),
        (items.premises, FACT, {"answers": {"x": ["y"]}}),
        (items.prompts, PROMPT, {"text": " "}),
        (items.prompts, PROMPT, {"topic": 3}),
        (items.tasks, TASK, {"level": 4}),
        (items.tasks, TASK, {"level": [1]}),
        (items.tasks, TASK, {"answers": []}),
        (items.tasks, TASK, {"answers": "2"}),
        (items.tasks, TASK, {"options": []}),
    ],
)
def test_a_field_of_another_make_is_refused(tmp_path, read, good, change):
    path = write(tmp_path / "items.jsonl", [good | change])
    with pytest.raises(EmoGuardError, match=r"items\.jsonl:1: wanted"):
        read(path)


@pytest.mark.parametrize(("read", "good"), READERS)
def test_a_missing_and_an_empty_file_are_refused(tmp_path, read, good):
    with pytest.raises(EmoGuardError, match="cannot be read"):
        read(tmp_path / "none.jsonl")
    with pytest.raises(EmoGuardError, match="holds none"):
        read(write(tmp_path / "empty.jsonl", []))


def test_a_clause_is_taken_as_it_is(tmp_path):
    odd = FACT | {"clauses": ["{x} \\1 {} b", "c {} d"]}
    first = items.premises(write(tmp_path / "f", [odd]))[0]
    assert first.true == "Is it true that {x} \\1 x b?"
