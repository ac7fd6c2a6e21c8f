"""Computes directions from pooled residuals, one layer at a time."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from numpy.typing import NDArray

NEUTRAL_VARIANCE = 0.5
"""Share of the variance of neutral texts whose components are taken out of every direction."""

SHRINKAGE = 0.5
"""Weight of the diagonal in the covariance that reading directions are whitened with."""


def neutral_components(
    neutral: NDArray[np.floating], share: float = NEUTRAL_VARIANCE
) -> NDArray[np.float64]:
    """Return the leading principal components of neutral residuals, float64 (components, hidden).

    `neutral` has shape (texts, hidden). Enough components are kept to explain `share` of the
    variance: the variation of neutral texts (subject, style, length) is no emotion. A share of 0
    keeps none.
    """
    centred = neutral.astype(np.float64) - neutral.mean(axis=0, dtype=np.float64)
    _, singular, components = np.linalg.svd(centred, full_matrices=False)
    explained = np.cumsum(singular**2) / np.sum(singular**2)
    count = int(np.searchsorted(explained, share)) + 1 if share > 0 else 0
    return np.asarray(components[:count])


def mean_differences(
    pooled: NDArray[np.floating],
    labels: NDArray[np.str_],
    names: Sequence[str],
    components: NDArray[np.float64],
) -> NDArray[np.float64]:
    """Return one unit direction per name, float64 (names, hidden); a name without texts gives 0.

    The direction of a label is the mean of its texts minus the grand mean of all labels, with the
    neutral `components` projected out. `pooled` has shape (texts, hidden), `labels` (texts,).
    """
    hidden = pooled.shape[1]
    means = np.zeros((len(names), hidden))
    present = np.array([bool(np.any(labels == name)) for name in names])
    for index, name in enumerate(names):
        if present[index]:
            means[index] = pooled[labels == name].mean(axis=0, dtype=np.float64)
    differences = means - means[present].mean(axis=0)
    differences[~present] = 0
    differences -= (differences @ components.T) @ components
    return unit(differences)


def within_covariance(
    parts: Sequence[tuple[NDArray[np.floating], NDArray[np.str_]]], shrinkage: float = SHRINKAGE
) -> NDArray[np.float64]:
    """Return the covariance of texts around their label's mean, float64 (hidden, hidden).

    Pooled over corpora, and shrunk towards its own diagonal by `shrinkage`, because there are fewer
    texts than dimensions (Schäfer and Strimmer 2005, target D). The diagonal and not the identity:
    a few dimensions of a residual stream are hundreds of times as wide as the others.
    """
    around = [x[y == name] - x[y == name].mean(axis=0) for x, y in parts for name in np.unique(y)]
    rows = np.concatenate(around).astype(np.float64)
    covariance = rows.T @ rows / len(rows)
    return np.asarray((1 - shrinkage) * covariance + shrinkage * np.diag(np.diag(covariance)))


def whiten(directions: NDArray[np.float64], covariance: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return the unit discriminants of `directions`: the inverse covariance times each.

    They read best (linear discriminant analysis), but are not the directions to steer along.
    """
    return unit(np.linalg.solve(covariance, directions.T).T)


def axis(directions: NDArray[np.float64], signs: NDArray[np.floating]) -> NDArray[np.float64]:
    """Return the mean of the positive directions minus that of the negative ones, (hidden,)."""
    difference = directions[signs > 0].mean(axis=0) - directions[signs < 0].mean(axis=0)
    return np.asarray(difference)


def unit(directions: NDArray[Any]) -> NDArray[np.float64]:
    """Scale the last axis to length 1; zeros stay zero."""
    lengths = np.linalg.norm(directions, axis=-1, keepdims=True)
    return np.asarray(directions / np.where(lengths > 0, lengths, 1.0), np.float64)


def auroc(scores: NDArray[np.floating], positive: NDArray[np.bool_]) -> float:
    """Return the area under the ROC curve: the chance that a positive outranks a negative.

    Ties count one half.
    """
    ordered = np.sort(scores)
    ranks = (np.searchsorted(ordered, scores) + np.searchsorted(ordered, scores, "right") + 1) / 2
    n, m = int(positive.sum()), int((~positive).sum())
    return float((ranks[positive].sum() - n * (n + 1) / 2) / (n * m))
