import doctest
import itertools
import json
import math

import numpy as np
import pytest
from emoguard_drift import DriftDetector
from emoguard_drift import detector as detector_module
from emoguard_drift import scores as scores_module
from emoguard_drift.bets import Bets
from emoguard_drift.scores import MOST_KNOTS, Scores, linear, tailed
from hypothesis import given
from hypothesis import strategies as st


def normal(rows, labels=1, seed=0, shift=0.0):
    return np.random.default_rng(seed).normal(shift, 1, (rows, labels))


def run(detector, rows):
    return [(n, moved) for n, row in enumerate(rows) if (moved := detector.update(row))]


@pytest.mark.parametrize("module", [detector_module, scores_module])
def test_the_docstring_examples_are_true(module):
    assert doctest.testmod(module).failed == 0


@given(
    seed=st.integers(0, 1000),
    share=st.floats(0.01, 0.99),
    tolerance=st.floats(0, 1),
    power=st.floats(0.01, 1),
)
def test_bets_follow_the_formula(seed, share, tolerance, power):
    bets = Bets(np.array([share]), np.array([[tolerance]]), np.array([power]))
    plain = [0.0, 0.0]
    for score in np.random.default_rng(seed).uniform(-1, 1, 30).tolist():
        bets.update(np.array([score]))
        for side, signed in enumerate((score, -score)):
            factor = 1 + share * (signed - tolerance) / (1 + tolerance)
            plain[side] = (1 + plain[side]) * factor**power
    assert np.allclose(bets.evidence[:, 0], plain)
    assert bets.mean() == pytest.approx(np.mean(plain))
    assert bets.upwards() == pytest.approx((plain[0] - plain[1]) / 2)
    assert np.all(bets.evidence >= 0)


@given(
    masses=st.lists(st.floats(0.01, 1), min_size=3, max_size=3),
    share=st.floats(0.01, 0.99),
    power=st.floats(0.1, 1),
)
def test_no_factor_has_a_mean_above_one_while_the_mean_score_is_tolerated(masses, share, power):
    points, weights = np.array([-1.0, 0.3, 1.0]), np.array(masses) / sum(masses)
    tolerance = abs(float(points @ weights))
    bets = Bets(np.array([share]), np.array([[tolerance]]), np.array([power]))
    mean = np.zeros(2)
    for point, weight in zip(points, weights, strict=True):
        bets.evidence[:] = 0
        bets.update(np.array([point]))
        mean += weight * bets.evidence[:, 0]
    assert np.all(mean <= 1 + 1e-9)


@pytest.mark.parametrize("shape", [tailed, linear])
def test_scores_are_odd_bounded_and_increasing(shape):
    ranks = np.linspace(0.001, 0.999, 999)
    actual = np.array([shape(rank) for rank in ranks])
    assert np.allclose(actual, -actual[::-1])
    assert np.all(np.diff(actual) >= 0)
    assert np.abs(actual).max() <= 1


@given(seed=st.integers(0, 1000), scale=st.floats(0.1, 10), offset=st.floats(-5, 5))
def test_only_the_order_counts(seed, scale, offset):
    rng = np.random.default_rng(seed)
    baseline, row = rng.normal(size=(100, 2)), rng.normal(size=2)
    plain = Scores(baseline, tailed).of(row)
    assert np.allclose(Scores(baseline * scale + offset, tailed).of(row * scale + offset), plain)
    assert np.allclose(Scores(baseline, tailed).of_all(row[None])[0], plain)


def test_a_tie_is_the_middle_and_a_large_baseline_is_thinned_truly():
    assert Scores(np.zeros((50, 1)), linear).of(np.zeros(1)) == pytest.approx([0])
    baseline, places = normal(5 * MOST_KNOTS), normal(200, seed=1)
    thinned = Scores(baseline, linear).of_all(places)
    exact = 2 * (baseline < places.T).mean(axis=0)[:, None] - 1
    assert np.abs(thinned - exact).max() < 0.005


@given(
    counts=st.lists(st.integers(1, 40), min_size=1, max_size=6),
    shape=st.sampled_from([tailed, linear]),
)
def test_the_mean_score_of_a_baseline_is_zero_however_coarse_it_is(counts, shape):
    baseline = np.repeat(np.arange(len(counts)), counts)[:, None]
    scores = Scores(baseline, shape).of_all(baseline)
    assert abs(scores.mean()) < 1e-9
    assert np.abs(scores).max() <= 1


def test_coarse_values_alarm_only_when_they_change():
    rng = np.random.default_rng(0)
    values = (rng.random((2500 + 5000, 20)) < 0.1).astype(float)
    detector = DriftDetector(values[:2500], arl=30_000)
    assert run(detector, values[2500:]) == []
    assert run(detector, (rng.random((500, 20)) < 0.3).astype(float))


@given(seed=st.integers(0, 1000))
def test_up_and_down_are_treated_alike(seed):
    baseline, rows = normal(500, 3, seed), normal(120, 3, seed + 1, 0.7)
    up, down = DriftDetector(baseline), DriftDetector(-baseline)
    for row in rows:
        moved = up.update(row)
        assert moved == {n: -way for n, way in down.update(-row).items()}
        assert np.allclose(up.evidence(), down.evidence())


@pytest.mark.parametrize(("shift", "way"), [(1.0, 1), (-1.0, -1)])
def test_an_alarm_names_label_and_direction(shift, way):
    detector = DriftDetector(normal(2500, 2))
    rows = normal(200, 2, 1)
    rows[:, 1] += shift
    assert run(detector, rows)[0][1] == {1: way}


def mixed(share, auroc_shift, seed, rows=2000):
    rng = np.random.default_rng(seed)
    return rng.normal(size=(rows, 1)) + auroc_shift * (rng.random((rows, 1)) < share)


@pytest.mark.parametrize(
    ("shift", "share", "limit"),
    [(0.824, 0.5, 154), (0.824, 1.0, 41), (1.19, 0.25, 233), (1.19, 1.0, 20), (1.812, 1.0, 9)],
)
def test_a_changed_share_is_seen_within_thrice_the_least_delay_and_fifty(shift, share, limit):
    delays = []
    for seed in range(15):
        detector = DriftDetector(normal(2500, seed=1000 + seed), arl=1_300_000)
        delays.append(next(iter(run(detector, mixed(share, shift, seed))), (math.inf, {}))[0])
    assert np.median(delays) <= 3 * limit + 50


def autoregressive(rng, rows, labels):
    noise = rng.normal(size=(rows, labels)) * np.sqrt(0.75)
    for n in range(1, rows):
        noise[n] += 0.5 * noise[n - 1]
    return noise


def daily(rng, rows, labels):
    cycle = np.sin(2 * np.pi * (np.arange(rows) / 1000 + rng.uniform()))
    return rng.normal(size=(rows, labels)) + 0.5 * cycle[:, None]


def noisier(rng, rows, labels):
    scale = np.where(np.arange(rows) < rows // 2, 1.0, 1.3)
    return rng.normal(size=(rows, labels)) * scale[:, None]


@pytest.mark.parametrize("kind", [autoregressive, daily, noisier])
@pytest.mark.parametrize("rows", [1000, 2500])
def test_neither_neighbours_nor_cycles_nor_noise_nor_a_short_baseline_alarm(kind, rows):
    values = kind(np.random.default_rng(rows), rows + 6000, 40)
    assert run(DriftDetector(values[:rows], arl=30_000), values[rows:]) == []


def test_a_shift_beyond_a_daily_cycle_is_seen():
    values = daily(np.random.default_rng(0), 2500 + 3000, 20)
    values[2500:] += 0.8
    moved = [
        label for _, actual in run(DriftDetector(values[:2500]), values[2500:]) for label in actual
    ]
    assert len(set(moved)) == 20


def test_a_shift_within_the_tolerance_is_let_be():
    baseline, rows = normal(20_000), normal(20_000, seed=1, shift=0.15)
    assert run(DriftDetector(baseline, tolerance=0.1), rows)
    # .35 of a mean rank of blocks of 50 is a shift of .2 sd
    assert run(DriftDetector(baseline, tolerance=0.35), rows) == []


def test_a_label_rests_after_its_alarm():
    detector = DriftDetector(normal(2500), arl=30_000)
    times = [n for n, _ in run(detector, normal(2000, seed=1, shift=2))]
    assert len(times) > 3
    assert min(b - a for a, b in itertools.pairwise(times)) > 300


def test_the_limit_is_shared_among_labels_and_evidence_is_linear_in_it():
    baseline, rows = normal(2500, 2), normal(20, 2, 1)
    few, many = DriftDetector(baseline, arl=1e5), DriftDetector(baseline, arl=1e5)
    many.limit *= 2
    for row in rows:
        few.update(row)
        many.update(row)
    assert np.allclose(few.evidence(), 2 * many.evidence())
    assert few.limit == 2e5


@pytest.mark.parametrize("rows", [50, 51, 500, 3000])
@pytest.mark.parametrize("block", [1, 50, 5000])
@pytest.mark.parametrize("arl", [1, 1e5])
def test_any_baseline_block_and_run_length_works(rows, block, arl):
    detector = DriftDetector(normal(rows, 2), block=block, arl=arl)
    run(detector, normal(120, 2, 1))
    assert np.all(np.isfinite(detector.evidence()))


def test_values_that_never_change_do_not_alarm():
    detector = DriftDetector(np.zeros((1000, 1)))
    assert run(detector, np.zeros((3000, 1))) == []


@pytest.mark.parametrize("at", [0, 1, 49, 50, 777])
def test_a_restored_state_goes_on_as_if_nothing_had_been(at):
    baseline, rows = normal(2500, 2), normal(1500, 2, 1, 0.2)
    whole, before, after = (DriftDetector(baseline, arl=1000) for _ in range(3))
    wanted = run(whole, rows)
    actual = run(before, rows[:at])
    after.restore(json.loads(json.dumps(before.state())))
    actual += [(n + at, moved) for n, moved in run(after, rows[at:])]
    assert wanted
    assert actual == wanted
    assert np.array_equal(after.evidence(), whole.evidence())


@pytest.mark.parametrize(
    "damage",
    [
        {"rows": []},
        {"rows": None},
        {"blocks": [[-1.0, 0.0]] * 10},
        {"sum": [math.nan, 0.0]},
        {"count": 50},
        {"count": -1},
        {"count": 1.5},
        {"resting": [-1, 0]},
    ],
)
def test_a_damaged_state_is_refused_and_changes_nothing(damage):
    detector = DriftDetector(normal(2500, 2))
    run(detector, normal(60, 2, 1))
    before = detector.state()
    with pytest.raises((ValueError, TypeError)):
        detector.restore(before | damage)
    assert detector.state() == before
