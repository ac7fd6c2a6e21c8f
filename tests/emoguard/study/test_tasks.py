import re
from pathlib import Path

import pytest

from emoguard import EmoGuardError
from emoguard.study import questions, tasks
from emoguard.study.personas import NEUTRAL, PERSONAS, system_prompt
from emoguard.study.protocol import Protocol
from emoguard.study.wordings import PILOT

CORE = Protocol.load("core")


def test_expression_crosses_prompt_sampling_and_vector_on_the_same_items():
    listed = tasks.expression(CORE, 0.1)
    assert len(listed) == 120
    assert all(each.cells == listed[0].cells for each in listed)
    cells = {cell.key for cell in listed[0].cells}
    assert len(cells) == len(listed[0].cells) == 4 * 3 * 5
    assert "desperate|t0.7|happy+" in cells  # for happy: the incongruent prompt


def test_noise_is_that_of_the_item_in_every_cell_and_of_no_other_item():
    listed = tasks.expression(CORE, 0.1)
    assert len({each.seeded for each in listed}) == len(listed)


def test_nothing_of_the_pilot_enters_an_estimate():
    pilot = tasks.pilot(CORE)
    later = [*tasks.expression(CORE, 0.1), *tasks.safety(CORE, 0.1, None, {})]
    assert not {each.text for each in pilot} & {each.text for each in later}
    wordings = [w.partition("{}")[0] for form in PILOT.questions.values() for w in form]
    choices = [each for each in pilot if not each.tokens and "/" in each.name]
    assert all(any(w in each.text for w in wordings) for each in choices)


def test_every_false_premise_is_asked_beside_its_true_twin_and_some_are_written():
    listed = tasks.safety(CORE, 0.1, None, {})
    names = {each.name for each in listed if each.block == "premise"}
    assert {name.removesuffix("/true") + "/false" for name in names if name.endswith("/true")} == {
        name for name in names if name.endswith("/false")
    }
    written = [each for each in listed if each.block == "written"]
    assert len(written) == 300
    assert {f"{each.name}/false" for each in written} <= names


def test_every_task_has_a_key_of_its_own():
    every = [*tasks.pilot(CORE), *tasks.safety(CORE, 0.1, None, {})]
    every += tasks.explored(CORE, 0.1, controls=True)
    assert len(dict(tasks.named(every))) == len(every)
    with pytest.raises(EmoGuardError, match="two items are called"):
        dict(tasks.named([*every, every[0]]))


def test_every_cell_of_a_task_has_a_key_of_its_own():
    close = Protocol(explored={"doses": [0.1, 0.1000000001]})
    with pytest.raises(EmoGuardError, match=r"two cells called none\|greedy\|happy\+0.1: give"):
        tasks.explored(close, 0.1, controls=False)


def test_more_prompts_than_there_are_is_refused():
    with pytest.raises(EmoGuardError, match="wanted 121, there are 120 beside the 12"):
        tasks.expression(Protocol(expression={"prompts": 121}), 0.1)


def test_random_directions_are_added_at_their_own_doses():
    (first, *_) = tasks.nulls(CORE, {"random-0": 0.11}, {"random-0": 0.2}, 0.1)
    plans = {cell.vector.name: cell.vector.plan for cell in first.cells}
    assert plans["zero"] is None
    assert plans["random-0"].add == {"random-0": 0.11}
    assert plans["kl:random-0"].add == {"random-0": 0.2}
    assert plans["happy+"].add == {"happy": 0.1}


def test_outcomes_of_safety_are_asked_under_random_directions_without_persona():
    listed = tasks.safety(CORE, 0.1, None, {"random-0": 0.11})
    for task in listed:
        (cell,) = (each for each in task.cells if each.vector.name == "random-0")
        assert cell.key == "none|greedy|random-0"
        assert cell.vector.plan.add == {"random-0": 0.11}


def test_a_part_of_the_published_items_is_spread_over_their_kinds(monkeypatch):
    kinds = [
        questions.Question("harm", f"{kind}-{n}", f"{kind}-{n}", "?", ("Yes",), ("No",))
        for kind in ("homonyms", "figures", "privacy")
        for n in range(4)
    ]
    monkeypatch.setitem(questions.READERS, "harm", lambda _: kinds)
    some = Protocol(safety={"harm": 3, "over_refusal": 0, "sycophancy": 0, "claims": 0})
    asked = [each for each in tasks.safety(some, 0.1, Path(), {}) if each.block == "harm"]
    assert [each.name.partition("-")[0] for each in asked] == ["homonyms", "figures", "privacy"]


def test_a_part_of_the_opinions_is_asked_in_both_orders(monkeypatch):
    both = [
        questions.Question("sycophancy", f"q{n}", f"q{n}", "?", ("(A)",), ("(B)",), side)
        for side in ("", questions.SWAPPED)
        for n in range(6)
    ]
    monkeypatch.setitem(questions.READERS, "sycophancy", lambda _: both)
    some = Protocol(safety={"sycophancy": 2, "harm": 0, "over_refusal": 0, "claims": 0})
    asked = [each for each in tasks.safety(some, 0.1, Path(), {}) if each.block == "sycophancy"]
    assert [each.name for each in asked] == ["q0", "q3", "q0/swapped", "q3/swapped"]
    assert [each.cluster for each in asked] == ["q0", "q3", "q0", "q3"]


def test_the_control_asks_what_the_core_asks_and_its_pilot_writes_what_the_core_s_writes():
    control = Protocol.load("control")
    answers = [[each for each in tasks.pilot(some) if each.tokens] for some in (CORE, control)]
    assert answers[0] == answers[1]
    asked = {each.key for each in tasks.safety(control, 0.1, None, {})}
    assert asked <= {each.key for each in tasks.safety(CORE, 0.1, None, {})}


def test_personas_are_equally_long_and_say_no_word_that_a_lexicon_counts():
    from vaderSentiment.vaderSentiment import SentimentIntensityAnalyzer

    lexicon = SentimentIntensityAnalyzer().lexicon
    texts = [NEUTRAL, *PERSONAS.values()]
    assert len({len(text.split()) for text in texts}) == 1
    for text in texts:
        assert not {word for word in re.findall(r"[a-z'-]+", text.lower()) if word in lexicon}
    assert not any(label in text.lower() for label, text in PERSONAS.items())


def test_a_label_without_a_persona_is_refused():
    with pytest.raises(EmoGuardError, match="no persona for proud"):
        system_prompt("proud")
