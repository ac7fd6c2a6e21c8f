"""Geometry of labels from inner products: the same as from the directions themselves."""

import numpy as np
import pytest

from emoguard.fit import geometry

NAMES = ("happy", "calm", "sad", "angry", "afraid")
SIGNS = np.array([1.0, 1, -1, -1, -1])


def texts(per_label=20, hidden=12, seed=0):
    """Residuals of two models, labels and topics; the models hold the labels differently."""
    rng = np.random.default_rng(seed)
    labels = np.repeat(NAMES, per_label)
    topics = np.array([f"t{n % 10}" for n in range(len(labels))])
    places = rng.normal(size=(2, len(NAMES), hidden))
    drawn = [p[np.repeat(np.arange(len(NAMES)), per_label)] for p in places]
    return [d + 0.3 * rng.normal(size=d.shape) for d in drawn], labels, topics


@pytest.fixture
def planted():
    states, labels, topics = texts()
    weights = geometry.all_and_resampled(labels, topics, NAMES, 50)
    sides = [(each, labels) for each in states]
    differences = [geometry.unit_differences(x, y, NAMES, weights) for x, y in sides]
    return geometry.products(sides, NAMES, weights), differences


def test_the_first_row_counts_every_text_once_and_others_whole_topics():
    _, labels, topics = texts()
    weights = geometry.all_and_resampled(labels, topics, NAMES, 50)
    assert weights.shape == (51, 100)
    assert np.all(weights[0] == 1)
    for topic in np.unique(topics):
        assert np.all(np.ptp(weights[:, topics == topic], axis=1) == 0)


def test_resamples_without_a_label_are_left_out():
    _, labels, topics = texts()
    topics = np.where(labels == "sad", "the only one with sad", topics)
    weights = geometry.all_and_resampled(labels, topics, NAMES, 200)
    assert 60 < len(weights) < 180  # a topic of 11 is drawn in 65 % of resamples
    assert weights[:, labels == "sad"].any(axis=1).all()


def test_directions_are_unit_differences_of_weighted_means():
    (states, _), labels, topics = texts()
    weights = geometry.all_and_resampled(labels, topics, NAMES, 3)
    differences = geometry.unit_differences(states, labels, NAMES, weights)
    repeated = np.repeat(np.arange(len(labels)), weights[2].astype(int))
    means = np.array([states[repeated][labels[repeated] == n].mean(axis=0) for n in NAMES])
    wanted = means - means.mean(axis=0)
    wanted /= np.linalg.norm(wanted, axis=1, keepdims=True)
    assert np.allclose(differences[2], wanted)


def test_products_do_not_depend_on_how_many_are_in_memory(planted, monkeypatch):
    states, labels, topics = texts()
    weights = geometry.all_and_resampled(labels, topics, NAMES, 50)
    monkeypatch.setattr(geometry, "MOST", 7 * len(NAMES) * 12)
    again = geometry.products([(each, labels) for each in states], NAMES, weights)
    assert np.allclose(again, planted[0], atol=1e-12)


def test_halves_split_topics_evenly_and_hold_every_label():
    _, labels, topics = texts()
    halves = geometry.halves(labels, topics, NAMES)
    assert halves.shape == (geometry.SPLITS, 100)
    assert set(np.unique(halves)) == {0, 1}
    assert np.all(halves.sum(axis=1) == 50)
    for topic in np.unique(topics):
        assert np.all(np.ptp(halves[:, topics == topic], axis=1) == 0)
    for name in NAMES:
        drawn = halves[:, labels == name].mean(axis=1)
        assert np.all((drawn > 0) & (drawn < 1))


def test_a_label_of_one_topic_cannot_be_halved():
    _, labels, topics = texts()
    topics = np.where(labels == "sad", "the only one with sad", topics)
    assert geometry.halves(labels, topics, NAMES).shape == (0, 100)


def test_products_of_halves_are_those_of_their_texts():
    (states, _), labels, topics = texts()
    halves = geometry.halves(labels, topics, NAMES)
    products = geometry.half_products((states, labels), NAMES, halves)
    once = np.ones((1, 50))
    one, other = (
        geometry.unit_differences(states[rows], labels[rows], NAMES, once)[0]
        for rows in (halves[3] == 1, halves[3] == 0)
    )
    assert np.allclose(products[0, 1, 3], one @ other.T)


@pytest.mark.parametrize("noise", [0.5, 1.0, 2.0])
def test_the_agreement_of_halves_stepped_up_is_that_of_two_samples(noise):
    rng = np.random.default_rng(0)
    hidden, truth = 4000, rng.normal(size=4000)
    one, other, new, newer = (truth + noise * rng.normal(size=hidden) for _ in range(4))

    def cosine(a, b):
        return a @ b / np.sqrt((a @ a) * (b @ b))

    reliability = geometry.stepped_up(np.array([cosine(one, other), -0.1]))
    assert reliability[0] == pytest.approx(cosine(one + other, new + newer), abs=0.03)
    assert reliability[1] == 0


def test_cosines_are_those_of_the_directions(planted):
    products, (a, b) = planted
    assert np.allclose(geometry.cosines(products), np.einsum("rkh,rkh->rk", a, b))
    axes = [d[:, :2].mean(axis=1) - d[:, 2:].mean(axis=1) for d in (a, b)]
    lengths = [np.linalg.norm(axis, axis=1) for axis in axes]
    wanted = np.einsum("rh,rh->r", *axes) / (lengths[0] * lengths[1])
    assert np.allclose(geometry.axis_cosine(products, SIGNS), wanted)


def test_principal_angles_are_those_of_the_subspaces(planted):
    products, differences = planted
    bases = []
    for each in differences:
        around = each - each.mean(axis=1, keepdims=True)
        _, _, rows = np.linalg.svd(around, full_matrices=False)
        bases.append(rows[:, : len(NAMES) - 1])
    wanted = np.linalg.svd(bases[0] @ bases[1].transpose(0, 2, 1), compute_uv=False)
    assert np.allclose(geometry.principal_cosines(products), wanted, atol=1e-8)


def test_a_rotation_of_all_residuals_turns_directions_and_keeps_their_components():
    (states, _), labels, topics = texts()
    turn = np.linalg.qr(np.random.default_rng(3).normal(size=(12, 12)))[0]
    weights = geometry.all_and_resampled(labels, topics, NAMES, 20)
    products = geometry.products([(states, labels), (states @ turn, labels)], NAMES, weights)
    assert np.allclose(products[0, 0], products[1, 1])
    assert geometry.cosines(products).max() < 0.9


@pytest.mark.parametrize(("along", "rank"), [(3.0, 1), (0.5, 2)])
def test_the_component_that_carries_valence_is_found_where_it_was_put(along, rank):
    other = np.array([1.0, -1, 1, -1, 0])
    other -= SIGNS * (other @ SIGNS) / (SIGNS @ SIGNS)
    around = SIGNS - SIGNS.mean()
    places = np.stack([along * around / np.linalg.norm(around), other / np.linalg.norm(other)], 1)
    coordinates, shares = geometry.components((places @ places.T)[None])
    correlations = geometry.correlations(coordinates, SIGNS)
    assert correlations[0].argmax() == rank - 1
    assert correlations[0, rank - 1] > 0.99
    assert shares[0, :2].sum() == pytest.approx(1)
    assert shares[0, 0] > shares[0, 1]


def test_permuted_ratings_give_what_chance_gives():
    rng = np.random.default_rng(1)
    coordinates = rng.normal(size=(12, 11))
    null = geometry.permuted_correlations(coordinates, rng.normal(size=12))
    assert null.shape == (geometry.PERMUTATIONS, 11)
    # The 95 % point of |r| of 12 independent pairs is .576.
    assert np.quantile(null[:, 0], 0.95) == pytest.approx(0.576, abs=0.04)
