import numpy as np
import pytest

from emoguard.fit import directions as d

RNG = np.random.default_rng(0)


def test_a_direction_is_the_unit_mean_difference_without_neutral_components():
    names = ["a", "b", "c"]
    labels = np.array(["a", "b", "c"] * 20)
    pooled = RNG.normal(size=(60, 16)) + 3
    neutral = RNG.normal(size=(40, 16)) * np.array([9, 5] + [1] * 14)
    components = d.neutral_components(neutral)
    directions = d.mean_differences(pooled, labels, names, components)
    assert np.allclose(np.linalg.norm(directions, axis=1), 1)
    assert np.allclose(directions @ components.T, 0, atol=1e-12)
    grand = np.mean([pooled[labels == n].mean(axis=0) for n in names], axis=0)
    wanted = pooled[labels == "b"].mean(axis=0) - grand
    wanted -= components.T @ (components @ wanted)
    assert np.allclose(directions[1], wanted / np.linalg.norm(wanted))


def test_neutral_components_explain_the_share_and_no_more_than_needed():
    neutral = RNG.normal(size=(200, 8)) * np.array([8, 6, 4, 1, 1, 1, 1, 1])
    components = d.neutral_components(neutral, 0.5)
    centred = neutral - neutral.mean(axis=0)
    total = (centred**2).sum()
    explained = ((centred @ components.T) ** 2).sum() / total
    without_last = ((centred @ components[:-1].T) ** 2).sum() / total
    assert explained >= 0.5 > without_last
    assert np.allclose(components @ components.T, np.eye(len(components)))


def test_no_share_is_no_component():
    assert d.neutral_components(RNG.normal(size=(20, 8)), 0.0).shape == (0, 8)


def test_a_name_without_texts_gets_no_direction_and_moves_no_other():
    labels = np.array(["a", "b"] * 10)
    pooled = RNG.normal(size=(20, 8))
    none = np.zeros((0, 8))
    three = d.mean_differences(pooled, labels, ["a", "b", "z"], none)
    assert np.all(three[2] == 0)
    assert np.allclose(three[:2], d.mean_differences(pooled, labels, ["a", "b"], none))


def test_an_axis_points_from_the_negative_to_the_positive():
    directions = np.eye(4)[:3]
    axis = d.axis(directions, np.array([1.0, -1.0, -1.0]))
    assert np.allclose(axis, [1.0, -0.5, -0.5, 0.0])


@pytest.mark.parametrize("seed", range(5))
def test_auroc_is_the_chance_that_a_positive_outranks_a_negative(seed):
    rng = np.random.default_rng(seed)
    scores, positive = rng.normal(size=30), rng.random(30) < 0.4
    pairs = [p > n for p in scores[positive] for n in scores[~positive]]
    assert np.isclose(d.auroc(scores, positive), np.mean(pairs))
    assert d.auroc(np.zeros(30), positive) == 0.5


def test_whitening_is_the_discriminant_of_the_pooled_covariance():
    shape = np.diag([9.0, 1.0, 1.0, 0.25])
    x = RNG.normal(size=(4000, 4)) @ np.sqrt(shape)
    y = np.array(["a", "b"] * 2000)
    covariance = d.within_covariance([(x, y)], shrinkage=0.0)
    assert np.allclose(covariance, shape, atol=0.6)
    whitened = d.whiten(np.array([[1.0, 1.0, 0.0, 0.0]]), shape)
    wanted = np.array([1 / 9, 1.0, 0.0, 0.0])
    assert np.allclose(whitened[0], wanted / np.linalg.norm(wanted))


def test_full_shrinkage_weighs_each_dimension_by_its_own_variance():
    x, y = RNG.normal(size=(30, 8)) * np.arange(1, 9), np.array(["a", "b", "c"] * 10)
    directions = d.unit(RNG.normal(size=(3, 8)))
    covariance = d.within_covariance([(x, y)], shrinkage=1.0)
    assert np.allclose(covariance, np.diag(np.diag(covariance)))
    wanted = d.unit(directions / np.diag(covariance))
    assert np.allclose(d.whiten(directions, covariance), wanted)


def test_what_is_read_does_not_depend_on_the_scale_of_a_dimension():
    """Few massive dimensions dominate raw cosines: whitened scores must not see them."""
    x, y = RNG.normal(size=(60, 8)), np.array(["a", "b", "c"] * 20)
    x[y == "a", 0] += 2
    massive = x * np.array([1, 1, 1, 1, 1, 1, 1, 1000.0])

    def scores(rows):
        plain = d.mean_differences(rows, y, ["a", "b", "c"], np.zeros((0, 8)))
        projections = rows @ d.whiten(plain, d.within_covariance([(rows, y)])).T
        return (projections - projections.mean(0)) / projections.std(0)

    assert np.allclose(scores(x), scores(massive))
