"""The pools of prompts share nothing, controls are matched, and streams are what they say."""

from __future__ import annotations

import math

import numpy as np
import pytest

from benchmarks import lora, turnstreams
from benchmarks.answering import pieces, trained_on
from benchmarks.answertable import Table
from benchmarks.conditions import (
    CONDITIONS,
    HIDDEN,
    ITEMS,
    LABELS,
    NEUTRAL,
    QUESTIONS,
    Item,
    items,
    phrasings,
    questions,
    unasked,
    voices,
)
from benchmarks.owndirections import statistics
from benchmarks.turnstreams import WARM, Detectors


def test_no_question_is_in_two_pools() -> None:
    drawn = [question for pool in QUESTIONS for question in questions(pool)]

    assert len(drawn) == sum(QUESTIONS.values())
    assert len(set(drawn)) == len(drawn)


def test_a_lora_is_trained_on_prompts_that_no_pool_asks() -> None:
    drawn = {question for pool in QUESTIONS for question in questions(pool)}

    assert len(unasked()) == 200
    assert drawn.isdisjoint(unasked())


def test_replies_of_a_lora_come_in_many_combinations_for_each_label() -> None:
    labels = {item.label for item in CONDITIONS["lora"]("final")}

    for label in labels:
        replies = [reply for _, reply in lora.replies(label, unasked())]
        assert len(set(replies)) > 100


def test_every_item_is_in_one_piece_that_one_model_can_answer() -> None:
    found = list(pieces(items()))

    assert sorted(i.key for piece in found for i in piece) == sorted(i.key for i in items())
    assert all(len({trained_on(item) for item in piece}) == 1 for piece in found)
    assert all(len({(i.tokens, i.temperature) for i in piece}) == 1 for piece in found)


def test_no_phrasing_is_in_two_pools() -> None:
    seen: dict[str, str] = {}
    for kind in ("who", "forms"):
        for pool, texts in phrasings()[kind].items():
            assert all(seen.setdefault(text, pool) == pool for text in texts)
    for label, pools in phrasings()["states"].items():
        for pool, texts in pools.items():
            assert all(seen.setdefault(text, pool) == pool for text in texts), label
    for pool, histories in voices().items():
        said = [text for history in histories for texts in history.values() for text in texts]
        assert all(seen.setdefault(text, pool) == pool for text in said)


def test_items_have_keys_of_their_own() -> None:
    keys = [item.key for item in items()]

    assert len(set(keys)) == len(keys)


@pytest.mark.parametrize(
    ("pool", "name"),
    [(p, n) for p in ITEMS for n in CONDITIONS if n not in HIDDEN.get(p, ())],
)
def test_the_control_answers_the_same_prompts_as_every_label(pool: str, name: str) -> None:
    made = list(CONDITIONS[name](pool))
    by_label = {label: [i.cluster for i in made if i.label == label] for label in {*LABELS}}
    control = [item.cluster for item in made if item.label == NEUTRAL]

    assert all(clusters == control for clusters in by_label.values() if clusters)
    assert all(role in {"system", "user", "assistant"} for i in made for role, _ in i.turns)
    assert not any("{" in text for item in made for _, text in item.turns)


def test_statistics_are_the_mean_and_the_highest_rolling_means() -> None:
    z = np.zeros((40, 1))
    z[10:18] = 4.0

    found = statistics(z)

    assert found[0].tolist() == pytest.approx([0.8, 4.0, 2.0, 1.0])
    assert statistics(z[:5]).shape == (1, 4)


def _table(prompts: int, each: int) -> Table:
    made = []
    for condition, label in (("plain", NEUTRAL), ("voice", "sad"), ("voice", NEUTRAL)):
        for n in range(prompts):
            for repeat in range(each):
                turns = (("user", str(n)),)
                made.append(Item("final", condition, label, str(n), turns, repeat=repeat))
    return Table(made, [""] * len(made))


def test_an_area_compares_a_label_with_its_control_and_leaves_out_labels_without_answers() -> None:
    table = _table(8, 2)
    scores = np.zeros((len(table.items), len(LABELS)))
    scores[(table.labels == "sad"), LABELS.index("sad")] = 1

    area = table.area(scores, "final", "voice")

    assert area.value[LABELS.index("sad")] == 1
    assert np.isnan(area.value[LABELS.index("happy")])
    assert np.isnan(table.area(scores, "final", "voice", others=True).value).all()


def test_a_stream_changes_after_its_warm_up_by_the_share_asked_for() -> None:
    table = _table(50, 2)
    plain, sad = table.where("final", "plain"), np.flatnonzero(table.labels == "sad")

    rows = turnstreams.draw(table, plain, [sad, plain[:0]], 0.25, 4300, seed=1)

    changed = np.isin(rows[turnstreams.BASELINE :], sad)
    assert not changed[:WARM].any()
    assert changed[WARM:, 0].mean() == pytest.approx(0.25, abs=0.03)
    assert not changed[:, 1].any()


def test_an_obvious_change_alarms_and_an_unchanged_stream_does_not() -> None:
    table = _table(100, 3)
    rng = np.random.default_rng(2)
    scores = rng.normal(size=(len(table.items), 2))
    sad = np.flatnonzero(table.labels == "sad")
    scores[sad, 1] += 3
    detectors = Detectors("one", scores)
    plain = table.where("final", "plain")
    rows = turnstreams.draw(table, plain, [sad, sad[:0]], 1.0, WARM + 600, seed=3)

    found = turnstreams.delays(detectors, rows)

    assert found[0] < 60
    assert math.isinf(found[1])


def test_the_limit_on_development_streams_keeps_to_its_rate() -> None:
    table = _table(100, 3)
    scores = np.random.default_rng(4).normal(size=(len(table.items), 3))
    plain = table.where("final", "plain")

    at = turnstreams.tuned(table, Detectors("one", scores), plain, 4, 5000)

    nothing = [np.array([], int)] * 4
    rows = turnstreams.draw(table, plain, nothing, 0, 5000, seed=11)
    assert len(turnstreams.alarms(at, rows, first=False)) <= 2
    assert at.arl < turnstreams.ARLS[-1]


def test_a_move_is_compared_with_what_as_many_plain_answers_do_by_chance() -> None:
    table = _table(100, 3)
    scores = np.random.default_rng(5).normal(size=(len(table.items), 3))
    plain, other = table.where("final", "plain"), np.flatnonzero(table.labels == "sad")

    unmoved, chance = turnstreams.moves(scores, plain, other[:60])
    scores[other, 1] += 1
    moved, _ = turnstreams.moves(scores, plain, other[:60])

    assert unmoved < 2 * chance < 0.8
    assert moved > 0.7
