import numpy as np
import pytest

from emoguard.fit.directions import auroc
from emoguard.validate.estimate import (
    Estimate,
    Sample,
    areas,
    average,
    cluster_weights,
    shares,
    wilson,
)


def test_the_area_is_the_chance_that_a_positive_outranks_a_negative_and_ties_count_half():
    rng = np.random.default_rng(0)
    scores, positive = rng.normal(size=(40, 2)), rng.random((40, 2)) < 0.4
    sample = areas(scores, positive, cluster_weights(np.arange(40).astype(str), 10))
    assert sample.value == pytest.approx([auroc(scores[:, n], positive[:, n]) for n in (0, 1)])
    tied = areas(np.ones((4, 1)), np.array([[1], [0], [1], [0]], bool), np.ones((1, 4), np.float32))
    assert tied.value == [0.5]
    assert tied.resampled.tolist() == [[0.5]]


def test_a_resample_is_the_area_of_the_texts_it_repeats():
    rng = np.random.default_rng(1)
    scores, positive = rng.normal(size=(30, 1)), rng.random((30, 1)) < 0.5
    clusters = np.repeat([f"t{n}" for n in range(10)], 3)
    weights = cluster_weights(clusters, 5)
    sample = areas(scores, positive, weights)
    for drawn, resampled in zip(weights, sample.resampled, strict=True):
        rows = np.repeat(np.arange(30), drawn.astype(int))
        assert len(rows) == 30
        assert resampled[0] == pytest.approx(auroc(scores[rows, 0], positive[rows, 0]), abs=0.03)
        wins = (scores[rows][positive[rows]][:, None] > scores[rows][~positive[rows]]).mean()
        assert resampled[0] == pytest.approx(wins, abs=1e-5)


def test_clusters_are_drawn_whole():
    clusters = np.repeat(["a", "b", "c"], 4)
    weights = cluster_weights(clusters, 50)
    assert np.all(weights.reshape(50, 3, 4).std(axis=2) == 0)
    assert np.all(weights.sum(axis=1) == 12)


@pytest.mark.slow
def test_intervals_over_topics_cover_and_those_over_texts_do_not():
    """The truth is .5; texts of a topic share most of their score."""
    covered = {"topics": 0, "texts": 0}
    rounds, topics, per_topic = 120, 30, 8
    for seed in range(rounds):
        rng = np.random.default_rng(seed)
        topic = np.repeat(np.arange(topics), per_topic)
        scores = rng.normal(size=topics)[topic] + 0.3 * rng.normal(size=len(topic))
        positive = (np.arange(topics) % 2 == 0)[topic]
        for name, clusters in (("topics", topic), ("texts", np.arange(len(topic)))):
            weights = cluster_weights(clusters.astype(str), 400, seed)
            e = areas(scores[:, None], positive[:, None], weights).estimate(0)
            covered[name] += e.low <= 0.5 <= e.high
    assert covered["topics"] / rounds >= 0.88
    assert covered["texts"] / rounds <= 0.65


def test_an_undefined_statistic_is_nan_and_left_out_of_averages():
    scores = np.array([[1.0, np.nan], [2.0, np.nan]])
    positive = np.array([[True, True], [False, False]])
    one = areas(scores, positive, np.ones((2, 2), np.float32))
    assert one.value[0] == 0.0
    assert np.isnan(one.value[1])
    other = Sample(np.array([1.0, 0.6]), np.array([[1.0, 0.5], [1.0, 0.7]]))
    both = average([one, other])
    assert both.value == pytest.approx([0.5, 0.6])
    assert both.estimate(1) == Estimate(0.6, pytest.approx(0.505), pytest.approx(0.695))


def test_differences_are_paired_by_resample():
    rng = np.random.default_rng(2)
    scores, positive = rng.normal(size=(60, 1)), rng.random((60, 1)) < 0.5
    weights = cluster_weights(np.arange(60).astype(str), 100)
    gap = areas(scores, positive, weights) - areas(scores * 3, positive, weights)
    assert gap.estimate(0) == Estimate(0.0, 0.0, 0.0)


def test_shares_are_means_of_hits():
    hits = np.array([True, False, True, True])
    sample = shares(hits, np.array([[1, 1, 1, 1], [4, 0, 0, 0], [0, 4, 0, 0]], np.float32))
    assert sample.value == [0.75]
    assert sample.resampled[:, 0].tolist() == [0.75, 1.0, 0.0]


@pytest.mark.parametrize(
    ("hits", "of", "low", "high"),
    [(0, 10, 0.0, 0.2775), (10, 10, 0.7225, 1.0), (1, 10, 0.0179, 0.4042)],
)
def test_wilson_intervals_are_those_of_the_tables(hits, of, low, high):
    estimate = wilson(hits, of)
    assert (estimate.low, estimate.high) == pytest.approx((low, high), abs=1e-3)


def test_no_trial_says_nothing():
    assert (wilson(0, 0).low, wilson(0, 0).high) == (0.0, 1.0)
