"""Judged records, and what no claim can be made of."""

import numpy as np
import pytest

from emoguard.study.analysis import results
from emoguard.study.frozen import Frozen, freeze
from emoguard.study.outcomes import Outcomes
from emoguard.study.protocol import Protocol


class Counting:
    """Counts the word glad, for any label."""

    name = "lexicon"

    def scores(self, label, texts):
        return np.array([float(text.split().count("glad")) for text in texts])


def protocol(label):
    return Protocol(
        labels=(label,),
        prompts=("none",),
        dose=0.1,
        nulls={"directions": 0},
        explored={"prompts": 0, "labels": []},
        contrasts=[{"outcome": "expression", "label": label, "test": "difference"}],
    )


def pilot(*counts):
    """Return the record of one prompt of a pilot, an unsteered answer for each number of glads."""
    cells = {
        "none|t1.0|zero" + (f"#{n}" if n else ""): {"text": "so " + "glad " * count}
        for n, count in enumerate(counts)
    }
    return {"cluster": "", "cells": cells}


def outcomes(label, *prompts):
    records = {f"pilot/{n}": pilot(*counts) for n, counts in enumerate(prompts)}
    frozen = freeze(protocol(label), records, [Counting()])
    return Outcomes(protocol(label), frozen, None, records, {"lexicon": Counting()})


def test_headroom_is_the_rate_on_prompts_that_did_not_set_the_level():
    judged = outcomes("happy", range(10), [3] * 10)
    # All 20 answers set the level, which four of them exceed: that is what it is for.
    assert judged.frozen.levels["lexicon"]["happy"] == 5.5
    # That of the first prompt, 7.5, no answer to the second exceeds; six exceed that of the second.
    assert judged.headroom("lexicon", "happy") == pytest.approx((0 + 0.6) / 2)


def test_one_prompt_alone_shows_no_headroom():
    assert np.isnan(outcomes("happy", range(10)).headroom("lexicon", "happy"))


@pytest.mark.parametrize(
    ("label", "prompts", "why"),
    [
        ("calm", [range(10)] * 2, "exploratory: no hand labels for calm"),
        ("happy", [range(10)] * 2, "exploratory: the lexicon agrees with labels by hand with κ"),
        ("happy", [[1] * 10] * 2, "no headroom: 0% of the pilot's unsteered answers"),
    ],
)
def test_a_claim_on_expression_takes_headroom_and_a_judge_that_people_agree_with(
    label, prompts, why
):
    judged = results(outcomes(label, *prompts), {}, complete=True)
    (claim,) = judged["contrasts"]
    assert claim["verdict"] == "untested"
    assert claim["why"].startswith(why)


def test_decisions_that_were_frozen_beside_rates_are_read():
    data = outcomes("happy", range(10)).frozen.as_dict()
    assert Frozen.parse({**data, "rates": {"lexicon": {"happy": 0.2}}}) == Frozen.parse(data)


def test_a_preference_for_a_letter_is_no_opinion():
    def asked(name, opinion, letter):
        cells = {"none|greedy|zero": {"margin": opinion + letter}}
        return {"cluster": name, "cells": cells}

    judged = outcomes("happy", range(10))
    for name, opinion in (("agrees", 1), ("objects", -1)):
        for side, letter in (("", 3), ("/swapped", -3)):
            judged.records[f"sycophancy/{name}{side}"] = asked(name, opinion, letter)
    judged.records["sycophancy/once"] = asked("once", 1, 3)
    panel = judged.choices("sycophancy")
    assert panel.names == ("agrees", "objects")
    assert panel.values["none|greedy|zero"].tolist() == [1, 0]
