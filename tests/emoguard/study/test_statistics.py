import numpy as np
import pytest

from emoguard.study.statistics import (
    Paired,
    ac1,
    against,
    benjamini_hochberg,
    curve,
    detectable,
    detection,
    holm,
    judge_accuracy,
    kappa,
    needed_items,
    no_harm,
    proportion,
)
from emoguard.validate.estimate import Estimate


def names(count):
    return [str(n) for n in range(count)]


def drawn(rng, items, base, change):
    """Paired verdicts whose noise is half the same: (items,) differences."""
    common = rng.random(items)

    def cell(rate):
        noise = np.where(rng.random(items) < 0.5, common, rng.random(items))
        return (noise < rate).astype(float)

    return cell(base + change) - cell(base)


def test_the_mean_is_over_items_and_its_error_over_clusters():
    paired = Paired.of(np.array([1.0, 1.0, 0.0, np.nan]), ["a", "a", "b", "c"])
    assert paired.items == 3
    assert paired.clusters == 2
    assert paired.mean == pytest.approx(2 / 3)
    # The same answers in more clusters are more evidence.
    x = np.tile([1.0, 0.0], 30)
    alone = Paired.of(x, names(60)).error
    together = Paired.of(x, [str(n // 2 % 2 * 100 + n % 2) for n in range(60)]).error
    assert together > alone


@pytest.mark.slow
def test_intervals_cover_the_planted_effect():
    rng = np.random.default_rng(0)
    hits = 0
    for _ in range(300):
        actual = Paired.of(drawn(rng, 120, 0.3, 0.1), names(120)).estimate()
        hits += actual.low <= 0.1 <= actual.high
    assert 0.92 <= hits / 300 <= 0.98


def test_p_of_no_difference_is_uniform_and_that_of_a_large_one_small():
    rng = np.random.default_rng(1)
    results = [Paired.of(drawn(rng, 60, 0.3, 0.0), names(60)).p() for _ in range(200)]
    assert np.mean(np.array(results) <= 0.05) <= 0.09
    assert Paired.of(drawn(rng, 120, 0.2, 0.4), names(120)).p() < 0.001
    assert Paired.of(np.zeros(10), names(10)).p() == 1


def test_no_harm_at_the_margin_is_claimed_in_one_of_twenty_and_without_change_mostly():
    rng = np.random.default_rng(2)
    at, none = (
        [
            no_harm(drawn(rng, 800, 0.05, change), names(800), -np.inf, 0.05).p < 0.05
            for _ in range(300)
        ]
        for change in (0.05, 0.0)
    )
    assert np.mean(at) <= 0.09
    assert np.mean(none) > 0.9


def test_no_harm_both_ways_is_the_worse_of_two_tests():
    rng = np.random.default_rng(3)
    down = drawn(rng, 600, 0.5, -0.2)
    assert no_harm(down, names(600), -np.inf, 0.05).p < 0.05
    assert no_harm(down, names(600), -0.05, 0.05).p > 0.9


def test_no_discordance_among_a_few_items_proves_nothing():
    assert no_harm(np.zeros(20), names(20), -np.inf, 0.05).p > 0.05
    assert no_harm(np.zeros(200), names(200), -np.inf, 0.05).p < 0.05


def test_needed_and_detectable_sizes_are_those_of_the_protocol():
    assert needed_items(0.05, 0.1) == 343
    assert needed_items(0.05, 0.2) == pytest.approx(685, abs=1)
    assert needed_items(0.05, 0.1, both=False) == pytest.approx(247, abs=1)
    sizes = [100, 200, 400, 1000]
    assert [round(100 * detectable(n, 0.2), 1) for n in sizes] == pytest.approx(
        [12.4, 8.8, 6.2, 4.0], abs=0.15
    )


def test_holm_and_benjamini_hochberg_are_those_of_the_papers():
    assert holm([0.01, 0.04, 0.03]) == pytest.approx([0.03, 0.06, 0.06])
    assert holm([0.6, 0.9]) == pytest.approx([1.0, 1.0])
    assert benjamini_hochberg([0.01, 0.02, 0.03, 0.5]) == pytest.approx([0.04, 0.04, 0.04, 0.5])


def test_p_against_random_directions_counts_the_observed_one():
    null = np.linspace(-1, 1, 199)
    assert against(5.0, null) == pytest.approx(1 / 200)
    assert against(-5.0, null) == pytest.approx(1 / 200)
    assert against(0.0, null) == 1
    # Directions that all push to one side are no reason to call a label on that side special.
    assert against(50.0, null + 50) > 0.4
    assert against(0.0, null + 50) == 1  # moves nothing where random ones do
    assert against(12.0, -10 + null / 100) == pytest.approx(1 / 200)
    assert against(8.0, -10 + null / 100) == 1  # they move further, the other way


def test_proportions_at_the_ends_are_those_of_clopper_and_pearson():
    assert proportion(0, 45).high == pytest.approx(0.0787, abs=1e-4)
    assert proportion(45, 45).low == pytest.approx(1 - 0.0787, abs=1e-4)
    inside = proportion(9, 45)
    assert inside.low < 0.2 < inside.high
    assert proportion(0, 0).high == 1


def test_agreeing_with_everything_detects_nothing():
    yes = np.ones(50)
    detected = detection(yes, yes)
    assert detected.d == pytest.approx(0)
    assert detected.c < -2
    assert detection(yes, 1 - yes).d > 4


def test_a_judges_errors_are_measured_and_differences_corrected():
    rng = np.random.default_rng(4)
    truth = rng.random(4000) < 0.3
    actual = np.where(truth, rng.random(4000) < 0.8, rng.random(4000) < 0.1)
    judge = judge_accuracy(actual, truth)
    assert judge.sensitivity.value == pytest.approx(0.8, abs=0.04)
    assert judge.specificity.value == pytest.approx(0.9, abs=0.02)
    assert judge.confirmatory
    wider = judge.corrected_difference(Estimate(0.07, 0.05, 0.09))
    assert wider.value == pytest.approx(0.1, abs=0.01)
    assert wider.high - wider.low > 0.04
    single = judge.corrected_difference(Estimate(0.07, -np.inf, np.inf))
    assert (single.low, single.high) == (-1, 1)


def test_agreement_by_chance_is_not_agreement():
    rng = np.random.default_rng(5)
    one, other = rng.random(2000) < 0.5, rng.random(2000) < 0.5
    assert abs(kappa(one, other)) < 0.06
    assert abs(ac1(one, other)) < 0.06
    assert kappa(one, one) == 1
    # Nearly all verdicts the same: AC1 keeps its meaning, kappa does not.
    rare = np.zeros(200, bool)
    rare[:2] = True
    also = np.zeros(200, bool)
    also[2:4] = True
    assert ac1(rare, also) > 0.95
    assert kappa(rare, also) < 0


def test_a_curve_that_turns_back_is_quadratic_and_a_straight_one_monotone():
    doses = np.array([0.02, 0.05, 0.1, 0.2, 0.35])
    rng = np.random.default_rng(6)
    noise = 0.01 * rng.normal(size=(5, 30))
    up = curve(doses, doses[:, None] + noise)
    turned = curve(doses, (2 * doses - 6 * doses**2)[:, None] + noise)
    assert (up.shape, turned.shape) == ("monotone", "quadratic")
    assert up.slope > 0
    assert up.monotone == pytest.approx(1)
    assert turned.curvature < -3


@pytest.mark.parametrize("count", [2, 3, 4])
def test_a_curve_at_too_few_doses_for_a_parabola_is_undecided(count):
    doses = np.linspace(0.1, 0.4, count)
    turned = 2 * doses - 5 * doses**2
    assert curve(doses, np.stack([turned, turned], axis=1)).shape == "undecided"


def test_a_curve_of_a_single_cluster_has_errors_without_a_bound():
    doses = np.array([0.1, 0.2, 0.4])
    assert curve(doses, doses[:, None]).slope_error == np.inf
