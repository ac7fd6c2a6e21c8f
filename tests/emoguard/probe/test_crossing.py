import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from emoguard.probe import crossing
from emoguard.probe.crossing import Crossings, count, rolling_mean, windows


def brute_force(rows, level, window, hysteresis):
    """Count by the sentence that defines a crossing, one label at a time, in plain Python."""
    armed, actual = True, 0
    for t in range(len(rows) - window + 1):
        mean = rows[t : t + window].mean()
        if armed and mean > level:
            armed, actual = False, actual + 1
        elif mean < level - hysteresis:
            armed = True
    return actual


# Eighths are summed without rounding: the brute force and the cumulative sums then agree exactly.
CASES = {
    "seed": st.integers(0, 10_000),
    "tokens": st.integers(0, 80),
    "labels": st.integers(1, 4),
    "window": st.sampled_from([1, 2, 4, 8, 16]),
    "hysteresis": st.sampled_from([0, 0.125, 0.5, 3.0]),
}


def walk(seed, tokens, labels):
    rng = np.random.default_rng(seed)
    return rng.integers(-16, 17, (tokens, labels)) / 8


@given(**CASES)
def test_crossings_equal_their_definition(seed, tokens, labels, window, hysteresis):
    rows = walk(seed, tokens, labels)
    levels = np.linspace(-0.5, 1, labels)
    actual = count(rolling_mean(rows, window), levels, hysteresis)
    wanted = [brute_force(rows[:, n], levels[n], window, hysteresis) for n in range(labels)]
    assert actual.tolist() == wanted


@given(**CASES)
def test_live_crossings_equal_those_of_the_finished_response(
    seed, tokens, labels, window, hysteresis
):
    rng = np.random.default_rng(seed)
    rows = rng.normal(size=(tokens, labels)).astype(np.float32)  # with rounding, to the last bit
    levels = np.linspace(-0.2, 0.4, labels)
    live = Crossings(levels.tolist(), window, hysteresis)
    actual = np.zeros(labels, int)
    for row in rows:
        actual[list(live.update(row))] += 1
    assert actual.tolist() == count(rolling_mean(rows, window), levels, hysteresis).tolist()


@given(**CASES)
def test_a_grid_of_levels_counts_each_level_alone(seed, tokens, labels, window, hysteresis):
    means = rolling_mean(walk(seed, tokens, labels), window)
    grid = np.linspace(-1, 1, 5)[:, None].repeat(labels, axis=1)
    actual = count(means, grid, hysteresis)
    assert actual.tolist() == [count(means, levels, hysteresis).tolist() for levels in grid]


def test_rolling_means_are_those_of_every_window():
    rows = np.random.default_rng(0).normal(size=(30, 2))
    wanted = [rows[n : n + 7].mean(axis=0) for n in range(24)]
    assert np.allclose(rolling_mean(rows, 7), wanted)


def test_windows_are_the_full_ones():
    assert [windows(n, 16) for n in (0, 15, 16, 17, 64)] == [0, 0, 1, 2, 49]
    for tokens in (0, 15, 16, 40):
        assert len(rolling_mean(np.ones((tokens, 2)), 16)) == windows(tokens, 16)


def test_a_mean_that_stays_above_crosses_once_and_one_that_hovers_does_not_cross_again():
    rows = np.array([0, 2, 2, 2, 1.9, 2.1, 1.9, 2.1, 1.0, 2.1])[:, None]
    assert count(rolling_mean(rows, 1), np.array([2.0]), hysteresis=0.5).tolist() == [2]
    assert count(rolling_mean(rows, 1), np.array([2.0]), hysteresis=0.0).tolist() == [3]


def test_short_responses_and_infinite_levels_never_cross():
    rows = np.full((15, 1), 1e9, np.float32)
    assert count(rolling_mean(rows, 16), np.array([0.0]), 0.25).tolist() == [0]
    assert count(rolling_mean(rows, 4), np.array([np.inf]), 0.25).tolist() == [0]


@pytest.mark.parametrize("length", [64, 256, 1024])
def test_the_rate_per_window_does_not_grow_with_length(length):
    rng = np.random.default_rng(length)
    crossings = positions = 0
    for _ in range(60_000 // length):
        means = rolling_mean(rng.normal(size=(length, 8)), 16)
        crossings += count(means, np.full(8, 0.5), 0.25).sum()
        positions += 8 * len(means)
    assert 0.0040 < crossings / positions < 0.0068


def test_the_docstring_example_is_true():
    import doctest

    assert doctest.testmod(crossing).failed == 0
