import dataclasses

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from emoguard import EmoGuardError
from emoguard.probe.calibration import QUANTILES, Calibration
from emoguard.testing import FAKE_IDENTITY, FakeResiduals, make_calibration, make_probe

NORMS = np.ones(2, np.float32)
LIMITS = np.zeros((2, QUANTILES, 3), np.float32)
FLOATS = st.floats(-100, 100, width=32)


def responses(count, seed=0, labels=3):
    rng = np.random.default_rng(seed)
    return [
        rng.normal(1, 3, (rng.integers(1, 30), labels)).astype(np.float32) for _ in range(count)
    ]


def measure(projections):
    return Calibration.measure(FAKE_IDENTITY, projections, NORMS, LIMITS, {"template": "none"})


def test_location_and_scale_are_mean_and_deviation_over_all_tokens():
    given_rows = responses(20)
    calibration = measure(given_rows)
    rows = np.concatenate(given_rows).astype(np.float64)
    assert np.allclose(calibration.location, rows.mean(axis=0), atol=1e-6)
    assert np.allclose(calibration.scale, rows.std(axis=0), atol=1e-6)
    assert (calibration.responses, calibration.tokens) == (20, len(rows))


def test_rank_of_a_neutral_response_is_its_empirical_quantile():
    given_rows = responses(QUANTILES)  # as many responses as quantiles: the grid is the sample
    calibration = measure(given_rows)
    means = np.array(
        [(r.mean(axis=0) - calibration.location) / calibration.scale for r in given_rows]
    )
    places = means.argsort(axis=0).argsort(axis=0) / (len(means) - 1)
    actual = np.array([calibration.rank(m) for m in means])
    assert np.allclose(actual, places, atol=1e-3)


@given(
    seed=st.integers(0, 1000),
    means=hnp.arrays(np.float64, (20,), elements=FLOATS).map(np.sort),
)
def test_rank_is_monotone_and_in_the_unit_interval(seed, means):
    calibration = measure(responses(30, seed, labels=1))
    ranks = np.array([calibration.rank(np.array([m]))[0] for m in means])
    assert np.all((ranks >= 0) & (ranks <= 1))
    assert np.all(np.diff(ranks) >= 0)


def test_rank_of_chosen_columns_uses_the_quantiles_of_those_labels():
    calibration = measure(responses(30))
    means = np.array([0.1, -0.2, 0.3])
    assert np.array_equal(calibration.rank(means[[2, 0]], [2, 0]), calibration.rank(means)[[2, 0]])


@given(seed=st.integers(0, 2**32 - 1), count=st.integers(8, 60))
def test_a_measured_calibration_fits_its_probe(seed, count):
    measure(responses(count, seed)).check_fits(labels=3, layers=2)


def test_few_empty_or_constant_responses_are_refused():
    with pytest.raises(EmoGuardError, match="at least 8 neutral responses, got 7"):
        measure(responses(7))
    with pytest.raises(EmoGuardError, match="has no tokens"):
        measure([*responses(8), np.empty((0, 3), np.float32)])
    with pytest.raises(EmoGuardError, match="do not vary"):
        measure([np.ones((4, 3), np.float32)] * 8)


@pytest.mark.parametrize(
    "change",
    [
        {"location": np.zeros(3, np.float32)},
        {"scale": np.array([1, np.nan], np.float32)},
        {"scale": np.array([1, 0], np.float32)},
        {"scale": np.array([1, -1], np.float32)},
        {"means": np.zeros((100, 2), np.float32)},
        {"means": np.linspace(3, -3, QUANTILES, dtype=np.float32)[:, None].repeat(2, axis=1)},
        {"norms": np.ones(3, np.float32)},
        {"norms": np.array([1, 0], np.float32)},
        {"limits": np.zeros((2, QUANTILES, 3), np.float32)},
        {"limits": -np.arange(2 * QUANTILES * 2, dtype=np.float32).reshape(2, QUANTILES, 2)},
        {"created": float("nan")},
        {"created": -1.0},
    ],
)
def test_a_calibration_that_cannot_be_used_is_refused(change):
    probe = make_probe(FakeResiduals())
    calibration = dataclasses.replace(make_calibration(probe, FAKE_IDENTITY), **change)
    with pytest.raises(EmoGuardError, match="calibrat"):
        calibration.check_fits(2, 2)
