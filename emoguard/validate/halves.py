"""Measures the agreement of directions from two halves of the texts without common topics."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from emoguard.fit.directions import unit
from emoguard.fit.recipe import Recipe, fit_directions
from emoguard.validate.estimate import Estimate

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from emoguard.validate.judged import Task
    from emoguard.validate.reading import Texts

SPLITS = 20
DRAWS = 2000


@dataclass(frozen=True)
class Halves:
    """Cosine between directions from topic-disjoint halves, mean over layers.

    Values are means over splits, intervals the central 95 % of the splits. `random` is the cosine
    of two directions drawn in the covariance of the residuals, central 95 % of the draws: the part
    due to a few dominating dimensions.
    """

    splits: int
    steer: dict[str, Estimate]
    read: dict[str, Estimate]
    random: Estimate


def halves(
    task: Task,
    corpora: Sequence[Texts],
    neutral: NDArray[np.float32],
    layers: Sequence[int],
    recipe: Recipe,
    *,
    splits: int = SPLITS,
) -> Halves:
    """Return the agreement of the recipe with itself at `layers`."""
    steer, read = [], []
    for seed in range(splits):
        sides = [each.folds(2, seed) for each in corpora]
        fitted = [
            fit_directions(
                [c.take(s == half).pooled for c, s in zip(corpora, sides, strict=True)],
                neutral,
                task.names,
                recipe,
                tuple(layers),
            )
            for half in (0, 1)
        ]
        steer.append(_cosines(fitted[0].steer, fitted[1].steer))
        read.append(_cosines(fitted[0].read, fitted[1].read))
    return Halves(
        splits,
        _central(np.array(steer), task.names),
        _central(np.array(read), task.names),
        _random_cosine(corpora, layers),
    )


def _cosines(a: NDArray[np.floating], b: NDArray[np.floating]) -> NDArray[np.float64]:
    """Return the cosine per label, mean over layers, of (layers, labels, hidden).

    NaN for a label without texts, and so without a direction, in one of the halves.
    """
    cosines = np.einsum("lkh,lkh->lk", unit(a), unit(b)).mean(axis=0)
    return np.where(a.any(axis=(0, 2)) & b.any(axis=(0, 2)), cosines, np.nan)


def _central(cosines: NDArray[np.float64], names: Sequence[str]) -> dict[str, Estimate]:
    with warnings.catch_warnings():
        warnings.simplefilter(
            "ignore", RuntimeWarning
        )  # never in both halves: NaN, as it should be
        low, high = np.nanpercentile(cosines, [2.5, 97.5], axis=0)
        means = np.nanmean(cosines, axis=0)
    return {
        name: Estimate(float(means[n]), float(low[n]), float(high[n]))
        for n, name in enumerate(names)
    }


def _random_cosine(corpora: Sequence[Texts], layers: Sequence[int]) -> Estimate:
    rng = np.random.default_rng(0)
    cosines = []
    for layer in layers:
        rows = np.concatenate([c.residuals[:, layer] for c in corpora]).astype(np.float64)
        rows -= rows.mean(axis=0)
        drawn = [unit(rng.normal(size=(DRAWS, len(rows))) @ rows) for _ in range(2)]
        cosines.append(np.einsum("dh,dh->d", *drawn))
    # One layer's worth: layers see the same texts, so their mean would not be any narrower.
    values = np.concatenate(cosines)
    low, high = np.percentile(values, [2.5, 97.5])
    return Estimate(float(np.mean(values)), float(low), float(high))
