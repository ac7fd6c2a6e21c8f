import dataclasses
import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from emoguard import EmoGuardError
from emoguard.probe.certificate import LEVELS, Curve, upper_bound
from emoguard.probe.crossing import count, rolling_mean

# The 95 % points of chi-squared with 2k + 2 degrees of freedom, halved (tables).
GARWOOD = {0: 2.9957, 1: 4.7439, 2: 6.2958, 5: 10.5130, 10: 16.9622, 100: 118.0796}


def chance(events, mean):
    return sum(math.exp(n * math.log(mean) - mean - math.lgamma(n + 1)) for n in range(events + 1))


def neutral(responses, seed=0, *, tokens=80, labels=1, spread=0.0):
    """Rows of responses whose own level varies by `spread`: so crossings cluster in some."""
    rng = np.random.default_rng(seed)
    return [
        rng.normal(size=(tokens, labels)) + spread * rng.normal(size=labels)
        for _ in range(responses)
    ]


def curve(rows):
    return Curve.measure(rows, 16, 0.25)


@pytest.mark.parametrize(("events", "wanted"), GARWOOD.items())
def test_the_bound_is_the_tabled_one(events, wanted):
    assert upper_bound(events) == pytest.approx(wanted, abs=1e-3)


@given(events=st.integers(0, 400))
def test_the_bound_is_where_so_few_events_have_five_percent(events):
    assert chance(events, upper_bound(events)) == pytest.approx(0.05, abs=1e-6)
    assert upper_bound(events) < upper_bound(events + 1)


def test_a_curve_adds_up_the_crossings_of_its_responses():
    rows = [*neutral(30, labels=2), np.ones((5, 2))]
    curve_ = curve(rows)
    assert (curve_.responses, curve_.positions) == (30, 30 * 65)  # the short one is no exposure
    for n in (0, 5, 9):
        each = np.array(
            [count(rolling_mean(r, 16), np.full(2, float(LEVELS[n])), 0.25) for r in rows[:30]]
        )
        assert curve_.counts[n].tolist() == each.sum(axis=0).tolist()
        assert curve_.squares[n].tolist() == (each**2).sum(axis=0).tolist()
    curve_.check_fits(2)


def test_a_threshold_is_the_lowest_level_certified_from_the_top():
    curve_ = curve(neutral(700))
    actual = curve_.threshold(0, 1.0)
    clusters = curve_.clusters(0)
    bounds = [
        1000 / curve_.positions * c * upper_bound(math.ceil(k / c))
        for k, c in zip(curve_.counts[:, 0], clusters, strict=True)
    ]
    n = LEVELS.tolist().index(pytest.approx(actual.level))
    assert actual.bound == pytest.approx(bounds[n])
    assert max(bounds[n:]) <= 1.0 < bounds[n - 1]
    assert actual.crossings == curve_.counts[n, 0]


@pytest.mark.slow
@pytest.mark.parametrize("spread", [0.0, 0.3])
def test_certificates_hold_on_fresh_responses_95_times_in_100(spread):
    """Also where crossings cluster in some responses: the true rate comes from 40,000 of them."""
    fresh = [rolling_mean(r, 16) for r in neutral(40_000, 10**6, spread=spread)]
    fresh = np.concatenate(fresh, axis=1)  # every response a column, crossed at one level
    certified = [curve(neutral(600, seed, spread=spread)).threshold(0, 0.5) for seed in range(60)]
    rates = {
        level: count(fresh, np.full(fresh.shape[1], level), 0.25).sum() / fresh.size * 1000
        for level in {each.level for each in certified}
    }
    broken = sum(rates[each.level] > 0.5 for each in certified)
    assert broken <= 7  # of 60 at 5 %: more has a chance below 2 %


def test_clusters_are_told_apart_from_single_crossings():
    single = Curve(16, 0.25, 10**5, 600, LEVELS[:2], *np.array([[[40], [2]], [[40], [2]]], "f4"))
    assert single.clusters(0).tolist() == [1, 1]
    fours = Curve(16, 0.25, 10**5, 600, LEVELS[:2], *np.array([[[40], [2]], [[160], [2]]], "f4"))
    assert fours.clusters(0).tolist() == [4, 4]  # two crossings alone would say 1
    assert fours.threshold(0, 1).bound > single.threshold(0, 1).bound


def test_too_few_responses_or_tokens_cannot_certify():
    assert curve(neutral(599)).threshold(0, 1.0) is None
    assert curve(neutral(600)).threshold(0, 1.0) is not None
    assert curve(neutral(600)).threshold(0, 0.05) is None  # 3 / 39,000 is the least there is
    assert curve([r + 20 for r in neutral(600)]).threshold(0, 1.0) is None


@pytest.mark.parametrize(
    "change",
    [
        {"levels": LEVELS[:5]},
        {"levels": LEVELS[::-1]},
        {"levels": np.full_like(LEVELS, np.nan)},
        {"levels": LEVELS[:0]},
        {"counts": np.zeros((241, 3), np.float32)},
        {"counts": np.full((241, 2), -1, np.float32)},
        {"counts": np.full((241, 2), np.inf, np.float32)},
        {"squares": np.full((241, 2), np.nan, np.float32)},
        {"squares": np.full((241, 2), 1e9, np.float32)},
        {"positions": -1},
        {"positions": 0},
        {"window": 0},
        {"hysteresis": -1.0},
        {"hysteresis": math.nan},
        {"hysteresis": math.inf},
    ],
    ids=str,
)
def test_a_curve_that_no_responses_can_have_is_refused(change):
    good = curve(neutral(20, labels=2))
    good.check_fits(2)
    with pytest.raises(EmoGuardError, match="crossings must be"):
        dataclasses.replace(good, **change).check_fits(2)


def planted(positions, responses, count=0.0):
    counts = np.full((241, 1), count, np.float32)
    return Curve(16, 0.25, positions, responses, LEVELS, counts, counts)


@pytest.mark.parametrize(("positions", "responses"), [(0, 600), (599, 600), (2**31 - 1, 600)])
def test_an_exposure_that_no_responses_can_have_is_refused(positions, responses):
    planted(600, 600).check_fits(1)
    with pytest.raises(EmoGuardError, match="crossings must be"):
        planted(positions, responses).check_fits(1)


def test_the_bound_of_absurdly_many_crossings_is_not_computed(monkeypatch):
    def broken(_):
        raise AssertionError("it would take hours")

    monkeypatch.setattr("emoguard.probe.certificate.upper_bound", broken)
    assert planted(10**8, 600, 2.0**26).threshold(0, 1.0) is None
