"""The plane of the labels' directions."""

import numpy as np
import pytest

from emoguard.validate.plane import plane
from tests.emoguard.validate.planted import TASK


def directions(points, layers=3, hidden=16, seed=0):
    """Directions that lie at `points`, (labels, 2), of a plane turned differently at each layer."""
    rng = np.random.default_rng(seed)
    rows = []
    for _ in range(layers):
        axes = np.linalg.qr(rng.normal(size=(hidden, 2)))[0].T
        rows.append(np.asarray(points, float) @ axes)
    return np.array(rows)


SQUARE = [(1.0, 0.4), (1.0, -0.4), (-1.0, 0.4), (-1.0, -0.4)]
"""Happy and calm on one side, sad and angry on the other; within a side they differ little."""


def test_planted_points_come_back_up_to_a_reflection():
    result = plane(TASK, directions(SQUARE))
    for name, (x, y) in zip(TASK.names, SQUARE, strict=True):
        assert result.points[name][0] == pytest.approx(x)
        assert abs(result.points[name][1]) == pytest.approx(abs(y))
    assert sum(result.shares) == pytest.approx(1)
    assert result.shares[0] == pytest.approx(1 / 1.16)


def test_the_first_component_points_to_the_pleasant():
    turned = plane(TASK, directions([(-x, y) for x, y in SQUARE]))
    assert turned.points["happy"][0] > 0 > turned.points["sad"][0]
    assert turned.correlation == pytest.approx(1)


def test_a_component_that_has_nothing_to_do_with_valence_does_not_correlate():
    across = plane(TASK, directions([(1, 0.1), (-1, 0.1), (1, -0.1), (-1, -0.1)]))
    assert across.correlation == pytest.approx(0, abs=1e-9)
    assert 0 < across.chance <= 1


def test_the_plane_is_that_of_the_gram_matrix_whatever_the_layers_are_turned_by():
    one, other = (plane(TASK, directions(SQUARE, seed=seed)) for seed in (1, 2))
    for name in TASK.names:
        np.testing.assert_allclose(np.abs(one.points[name]), np.abs(other.points[name]), atol=1e-9)
