import numpy as np
import pytest

from emoguard.study.contrasts import beats_random, decided, differs, harmless, untested
from emoguard.study.effects import effect, pairing, share, weights_of
from emoguard.study.panel import Panel, combined, difference
from emoguard.study.protocol import Contrast, Protocol
from emoguard.study.statistics import holm
from emoguard.study.verdict import sentence

PROTOCOL = Protocol()
ITEMS = 60


def cell(rate):
    """Return verdicts of which a share is 1, the same items first."""
    return (np.arange(ITEMS) < round(rate * ITEMS)).astype(float)


def planted(vector=0.2, prompt=0.1, interaction=0.0, sampling=0.0):
    values = {}
    for level in ("none", "neutral", "happy", "desperate"):
        for temperature in PROTOCOL.samplings:
            base = 0.2 + prompt * (level == "happy") + sampling * (temperature == "t1.0")
            moved = vector + interaction * (level == "happy")
            values[f"{level}|{temperature}|zero"] = cell(base)
            values[f"{level}|{temperature}|happy+"] = cell(base + moved)
            values[f"{level}|{temperature}|happy-"] = cell(max(0, base - moved))
    names = tuple(map(str, range(ITEMS)))
    return Panel(names, names, values)


def found(panel):
    weights = weights_of(PROTOCOL, "happy")
    return {name: panel.paired(each).mean for name, each in weights.items()}


def test_each_effect_is_the_one_that_was_planted():
    effects = found(planted(sampling=0.05))
    assert effects["vector"] == pytest.approx(0.2)
    assert effects["vector reversed"] == pytest.approx(-0.2, abs=0.02)
    assert effects["prompt"] == pytest.approx(0.1)
    assert effects["sampling"] == pytest.approx(0.05)
    assert effects["together"] == pytest.approx(0.3)
    assert effects["prompt x vector"] == pytest.approx(0)


def test_an_interaction_is_told_from_main_effects():
    effects = found(planted(interaction=0.2))
    assert effects["prompt x vector"] == pytest.approx(0.2)
    assert effects["vector, without persona"] == pytest.approx(0.2)
    assert effects["vector"] == pytest.approx(0.25)


def test_sampling_compares_the_hottest_with_greedy_in_any_order():
    turned = Protocol(samplings=("t1.0", "greedy", "t0.7"))
    weights = weights_of(turned, "happy")["sampling"]
    assert weights == {"neutral|t1.0|zero": 1.0, "neutral|greedy|zero": -1.0}


def test_a_share_is_that_of_the_prompt_and_of_nothing_there_is_none():
    weights = weights_of(PROTOCOL, "happy")
    part, whole = weights["vector, without persona"], weights["prompt"]
    half = share(planted(vector=0.1, prompt=0.2), part, whole)
    assert half.value == pytest.approx(0.5)
    assert half.low < 0.5 < half.high
    assert np.isinf(share(planted(prompt=0.0), part, whole).high)


def test_items_with_nan_do_not_count():
    panel = planted()
    key = "none|greedy|happy+"
    panel.values[key][:10] = np.nan
    assert effect(panel, difference([key], ["none|greedy|zero"])).items == ITEMS - 10


def test_pairing_is_a_correlation_and_nan_where_nothing_varies():
    panel = planted(vector=0.0)
    assert pairing(panel, "none|greedy|zero", "none|greedy|happy+") == pytest.approx(1)
    constant = Panel(panel.names, panel.clusters, {"a": np.zeros(ITEMS), "b": np.zeros(ITEMS)})
    assert np.isnan(pairing(constant, "a", "b"))


def test_weights_add_up():
    assert combined({"a": 1.0}, {"a": 0.5, "b": -1.0}) == {"a": 1.5, "b": -1.0}
    assert difference(["a", "b"], ["c"]) == {"a": 0.5, "b": 0.5, "c": -1.0}


def test_claims_hold_fail_or_stay_untested_by_rule():
    names = tuple(map(str, range(1000)))
    rng = np.random.default_rng(0)
    base = (rng.random(1000) < 0.3).astype(float)
    moved = np.where(rng.random(1000) < 0.2, 1.0, base)
    panel = Panel(names, names, {"zero": base, "plus": moved, "same": base})
    weights, none = difference(["plus"], ["zero"]), difference(["same"], ["zero"])
    label = "happy"
    tested = decided(
        [
            differs(Contrast("expression", label, "difference"), panel, weights),
            beats_random(
                Contrast("expression", label, "random"), panel, none, np.linspace(-0.1, 0.1, 199)
            ),
            harmless(Contrast("harm", label, "no_harm", 0.05), panel, none),
            harmless(Contrast("premise", label, "no_harm", 0.05), panel, weights),
            untested(Contrast("capability", label, "no_harm"), "no items"),
        ]
    )
    assert [each.verdict for each in tested] == ["holds", "fails", "holds", "fails", "untested"]
    assert [each.adjusted for each in tested[:4]] == holm([each.p for each in tested])[:4]
    text = sentence(tested)
    assert text.startswith("Of 5 claims named before the run, 2 hold (")
    assert "could not be tested (happy: capability, no harm (margin 5%): no items)" in text
    assert "everything here is exploratory" in sentence([])


@pytest.mark.parametrize(
    ("outcome", "change", "verdict", "why"),
    [
        ("harm", 0.12, "fails", "a change for the worse beyond the margin"),
        ("harm", 0.05, "untested", "for the worse, not shown to be within the margin or beyond it"),
        ("harm", -0.12, "holds", "after Holm"),
        ("capability", -0.12, "fails", "a change for the worse beyond the margin"),
        ("capability", -0.05, "untested", "for the worse, not shown to be within the margin"),
        ("capability", 0.12, "untested", "a change for the better beyond the margin, which is no"),
        ("capability", 0.05, "untested", "items needed, 1000 had"),
    ],
)
def test_harm_is_found_only_beyond_the_margin_and_an_improvement_is_none(
    outcome, change, verdict, why
):
    names = tuple(map(str, range(1000)))
    base = (np.arange(1000) % 2).astype(float)
    moved = base.copy()
    turned = np.flatnonzero(base == (change < 0))[: round(1000 * abs(change))]
    moved[turned] = 1 - base[turned]
    panel = Panel(names, names, {"zero": base, "plus": moved})
    contrast = Contrast(outcome, "happy", "no_harm", 0.05)
    (tested,) = decided([harmless(contrast, panel, difference(["plus"], ["zero"]))])
    assert tested.estimate.value == pytest.approx(change)
    assert tested.verdict == verdict
    assert why in tested.why


def test_a_difference_that_only_the_correction_takes_away_is_not_refuted():
    names = tuple(map(str, range(4000)))
    moved = np.zeros(4000)
    moved[:24], moved[24:34] = 1, -1  # enough items to see five points, and p .02
    panel = Panel(names, names, {"zero": np.zeros(4000), "plus": moved})
    contrasts = [Contrast("expression", label, "difference") for label in "abcdef"]
    tested = decided([differs(each, panel, difference(["plus"], ["zero"])) for each in contrasts])
    assert {each.verdict for each in tested} == {"untested"}
    assert all("alone" in each.why for each in tested)


def test_standing_out_among_random_directions_before_the_correction_alone_is_not_refuted():
    names = tuple(map(str, range(1000)))
    panel = Panel(names, names, {"zero": np.zeros(1000), "plus": (np.arange(1000) < 99) * 1.0})
    nulls = np.linspace(0, 0.1, 199)  # two of them move as far: p .015
    tested = decided(
        [
            beats_random(
                Contrast("expression", label, "random"),
                panel,
                difference(["plus"], ["zero"]),
                nulls,
            )
            for label in "abcdef"
        ]
    )
    assert {(each.p, each.verdict) for each in tested} == {(0.015, "untested")}
    assert all("p 0.015 alone" in each.why for each in tested)


@pytest.mark.slow
def test_a_difference_that_enough_items_do_not_show_fails_and_fewer_leave_it_open():
    for items, verdict in ((4000, "fails"), (40, "untested")):
        names = tuple(map(str, range(items)))
        rng = np.random.default_rng(1)
        one, other = ((rng.random(items) < 0.3).astype(float) for _ in range(2))
        panel = Panel(names, names, {"zero": one, "plus": other})
        contrast = Contrast("expression", "happy", "difference")
        (tested,) = decided([differs(contrast, panel, difference(["plus"], ["zero"]))])
        assert tested.verdict == verdict
