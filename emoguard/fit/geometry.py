"""Compares the labels' directions within a model and between two models.

Everything here is computed from inner products of label directions, so that any number of layers,
of any width, has one geometry, and a bootstrap keeps small matrices instead of directions.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

from emoguard.fit.directions import unit
from emoguard.validate.estimate import RESAMPLES, cluster_weights
from emoguard.validate.reading import folds

if TYPE_CHECKING:
    from numpy.typing import NDArray

MOST = 2**24
"""Numbers of direction arrays held in memory at a time."""

PERMUTATIONS = 2000

SPLITS = 50
"""Ways to split the topics into halves; results are averaged over them."""

Side = tuple["NDArray[np.floating]", "NDArray[np.str_]"]
"""Residuals of one layer, or other features of texts, (texts, hidden), and labels, (texts,)."""


def all_and_resampled(
    labels: NDArray[np.str_],
    clusters: NDArray[np.str_],
    names: Sequence[str],
    resamples: int = RESAMPLES,
) -> NDArray[np.float32]:
    """Return weights of texts, float32 (1 + resamples, texts): the first row counts each text once.

    The other rows count a text as often as its cluster is drawn. The draws are the same for every
    caller with the same clusters: results computed from them are paired. Resamples that lack a name
    are left out.
    """
    drawn = cluster_weights(clusters, resamples)
    whole = np.all([drawn[:, labels == name].any(axis=1) for name in names], axis=0)
    return np.vstack([np.ones((1, len(labels)), np.float32), drawn[whole]])


def halves(
    labels: NDArray[np.str_], clusters: NDArray[np.str_], names: Sequence[str]
) -> NDArray[np.float32]:
    """Return weights of texts, (splits, texts), 1 in one half and 0 in the other.

    No cluster is in both halves. Splits that leave a half without some name are left out: with few
    clusters per name there may be no split at all.
    """
    drawn = np.array([folds(labels, clusters, 2, seed) for seed in range(20 * SPLITS)], bool)
    each = [drawn[:, labels == name] for name in names]
    whole = np.all([one.any(axis=1) & ~one.all(axis=1) for one in each], axis=0)
    return np.asarray(drawn[whole][:SPLITS], np.float32)


def products(
    sides: Sequence[Side], names: Sequence[str], weights: NDArray[np.floating]
) -> NDArray[np.float64]:
    """Return inner products of label directions, (sides, sides, resamples, names, names).

    A direction is the weighted mean of a label's texts minus the mean over labels, of unit length.
    `weights` has shape (resamples, texts). Both sides must have the same hidden size.
    """
    widest = max(states.shape[1] for states, _ in sides)
    step = max(1, MOST // (len(names) * widest))
    inner = np.empty((len(sides), len(sides), len(weights), len(names), len(names)))
    for start in range(0, len(weights), step):
        rows = slice(start, start + step)
        differences = [unit_differences(x, y, names, weights[rows]) for x, y in sides]
        inner[:, :, rows] = _inner(differences)
    return inner


def half_products(
    side: Side, names: Sequence[str], weights: NDArray[np.floating]
) -> NDArray[np.float64]:
    """Return inner products between the halves of one side, as `products` does for two sides.

    `weights` are those of `halves`.
    """
    return _inner([unit_differences(*side, names, half) for half in (weights, 1 - weights)])


def unit_differences(
    states: NDArray[np.floating],
    labels: NDArray[np.str_],
    names: Sequence[str],
    weights: NDArray[np.floating],
) -> NDArray[np.float64]:
    """Return unit differences of label means from their mean, (resamples, names, hidden)."""
    # Centred first: means lie far out along a few dimensions, and the differences are small.
    centred = states - states.mean(axis=0, dtype=np.float64)
    means = np.empty((len(weights), len(names), states.shape[1]))
    for n, name in enumerate(names):
        mine = labels == name
        drawn = weights[:, mine].astype(np.float64)
        means[:, n] = drawn @ centred[mine] / drawn.sum(axis=1, keepdims=True)
    return unit(means - means.mean(axis=1, keepdims=True))


def cosines(gram: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return per label the cosine of its directions on two sides, (resamples, names)."""
    own = np.sqrt(np.einsum("rkk->rk", gram[0, 0]) * np.einsum("rkk->rk", gram[1, 1]))
    return np.asarray(np.einsum("rkk->rk", gram[0, 1]) / own)


def axis_cosine(gram: NDArray[np.float64], signs: NDArray[np.floating]) -> NDArray[np.float64]:
    """Return the cosine of the axes of two sides, (resamples,).

    An axis points from the mean direction of the negative labels to that of the positive ones.
    """
    up, down = signs > 0, signs < 0
    along = up / up.sum() - down / down.sum()
    inner = np.einsum("ijrkm,k,m->ijr", gram, along, along)
    return np.asarray(inner[0, 1] / np.sqrt(inner[0, 0] * inner[1, 1]))


def principal_cosines(gram: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return cosines of the principal angles between the label subspaces of two sides.

    Shape (resamples, names - 1), descending: labels around their mean span one dimension less than
    there are labels (Björck and Golub 1973, from Gram matrices).
    """
    bases = []
    for n in range(2):
        values, vectors = np.linalg.eigh(_centred(gram[n, n]))
        # The smallest belongs to the mean, which is zero.
        bases.append(vectors[:, :, 1:] / np.sqrt(np.maximum(values[:, None, 1:], 1e-12)))
    between = bases[0].transpose(0, 2, 1) @ _centred(gram[0, 1]) @ bases[1]
    return np.clip(np.linalg.svd(between, compute_uv=False), 0.0, 1.0)


def components(gram: NDArray[np.float64]) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Return the principal components of label directions, most variance first.

    `gram` has shape (resamples, names, names). Returns the coordinates of labels as unit vectors,
    (resamples, names, components), and shares of the variance, (resamples, components); there is
    one component less than labels.
    """
    values, vectors = np.linalg.eigh(_centred(gram))
    values = np.maximum(values[:, :0:-1], 0)
    return vectors[:, :, :0:-1], values / values.sum(axis=1, keepdims=True)


def correlations(
    coordinates: NDArray[np.float64], ratings: NDArray[np.floating]
) -> NDArray[np.float64]:
    """Return |r| of each component with ratings of the labels, (resamples, components)."""
    around = coordinates - coordinates.mean(axis=1, keepdims=True)
    rated = ratings - ratings.mean()
    lengths = np.linalg.norm(around, axis=1) * np.linalg.norm(rated)
    r = np.einsum("rkc,k->rc", around, rated) / np.where(lengths > 0, lengths, 1.0)
    return np.asarray(np.abs(r))


def permuted_correlations(
    coordinates: NDArray[np.float64], ratings: NDArray[np.floating], seed: int = 0
) -> NDArray[np.float64]:
    """Return |r| of components, (names, components), with permuted ratings: the level of chance.

    Shape (permutations, components).
    """
    rng = np.random.default_rng(seed)
    drawn = [rng.permutation(ratings) for _ in range(PERMUTATIONS)]
    return np.concatenate([correlations(coordinates[None], each) for each in drawn])


def stepped_up(agreement: NDArray[np.floating]) -> NDArray[np.float64]:
    """Return the reliability of a whole, 2r / (1 + r), from the agreement r of its halves.

    Spearman (1910) and Brown (1910). A negative agreement counts as 0. For unit directions r is
    their cosine, and the reliability is the share of a direction's squared length beyond noise.
    """
    r = np.maximum(agreement, 0.0)
    return np.asarray(2 * r / (1 + r))


def _inner(differences: Sequence[NDArray[np.float64]]) -> NDArray[np.float64]:
    """Return inner products of directions, each (resamples, names, hidden), between all sides."""
    return np.array(
        [[one @ other.transpose(0, 2, 1) for other in differences] for one in differences]
    )


def _centred(gram: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return inner products of vectors around their mean."""
    return np.asarray(
        gram
        - gram.mean(axis=1, keepdims=True)
        - gram.mean(axis=2, keepdims=True)
        + gram.mean(axis=(1, 2), keepdims=True)
    )
