"""Computes a number with its interval, by the cluster bootstrap."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from numpy.typing import NDArray

RESAMPLES = 1000

Z95 = 1.959964


@dataclass(frozen=True)
class Estimate:
    """A value and its 95 % interval."""

    value: float
    low: float
    high: float

    def __str__(self) -> str:
        return f"{self.value:.2f} [{self.low:.2f}, {self.high:.2f}]"


@dataclass(frozen=True, eq=False)
class Sample:
    """Statistics with their bootstrap distribution.

    `value` has shape (statistics,), `resampled` (resamples, statistics). Resamples of two samples
    drawn with the same weights are paired: their difference is one of resamples.
    """

    value: NDArray[np.float64]
    resampled: NDArray[np.float64]

    def estimate(self, column: int) -> Estimate:
        """Return one statistic with its percentile interval."""
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", RuntimeWarning)  # a statistic that is undefined is NaN
            low, high = np.nanpercentile(self.resampled[:, column], [2.5, 97.5])
        return Estimate(float(self.value[column]), float(low), float(high))

    def mean(self, columns: Sequence[int]) -> Estimate:
        """Return the mean of several statistics with its interval."""
        chosen = list(columns)
        mean = Sample(
            self.value[chosen].mean(keepdims=True),
            self.resampled[:, chosen].mean(axis=1, keepdims=True),
        )
        return mean.estimate(0)

    def __sub__(self, other: Sample) -> Sample:
        return Sample(self.value - other.value, self.resampled - other.resampled)


def average(samples: Sequence[Sample]) -> Sample:
    """Return the mean of samples drawn from different texts; NaN in one is left out of the mean."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", RuntimeWarning)  # all NaN: the mean is NaN, as it should be
        return Sample(
            np.nanmean([each.value for each in samples], axis=0),
            np.nanmean([each.resampled for each in samples], axis=0),
        )


def cluster_weights(
    clusters: NDArray[np.str_], resamples: int = RESAMPLES, seed: int = 0
) -> NDArray[np.float32]:
    """Return the number of times each resample draws each text, float32 (resamples, texts).

    Whole clusters (topics) are drawn with replacement: texts of one topic resemble each other, so
    that texts drawn one by one would give intervals that are too narrow.
    """
    names, inverse = np.unique(clusters, return_inverse=True)
    rng = np.random.default_rng(seed)
    drawn = rng.multinomial(len(names), np.full(len(names), 1 / len(names)), size=resamples)
    return drawn[:, inverse].astype(np.float32)


def areas(
    scores: NDArray[np.floating], positive: NDArray[np.bool_], weights: NDArray[np.float32]
) -> Sample:
    """Return the area under the ROC curve per column, with its resamples.

    `scores` and `positive` have shape (texts, statistics), `weights` (resamples, texts). A column
    without positives or without negatives, or with scores that are not finite, is NaN.
    """
    columns = scores.shape[1]
    value, resampled = np.full(columns, np.nan), np.full((len(weights), columns), np.nan)
    for n in range(columns):
        yes, no = positive[:, n], ~positive[:, n]
        if yes.any() and no.any() and np.isfinite(scores[:, n]).all():
            wins = _wins(scores[yes, n], scores[no, n])
            value[n] = wins.mean()
            drawn_yes, drawn_no = weights[:, yes], weights[:, no]
            pairs = drawn_yes.sum(axis=1) * drawn_no.sum(axis=1)
            won = np.einsum("rn,rn->r", drawn_yes @ wins, drawn_no)
            # A resample without any positive has no AUROC.
            resampled[:, n] = np.where(pairs > 0, won / np.maximum(pairs, 1), np.nan)
    return Sample(value, resampled)


def shares(hits: NDArray[np.bool_], weights: NDArray[np.float32]) -> Sample:
    """Return the share of texts that are hits, (texts,), as a sample of one statistic."""
    drawn = weights @ hits.astype(np.float32) / weights.sum(axis=1)
    return Sample(np.array([hits.mean()]), drawn[:, None].astype(np.float64))


def wilson(hits: int, of: int) -> Estimate:
    """Return a share with Wilson's interval (1927), which holds even for few trials or no hit."""
    if not of:
        return Estimate(float("nan"), 0.0, 1.0)
    share, z2 = hits / of, Z95**2
    middle = (share + z2 / (2 * of)) / (1 + z2 / of)
    half = Z95 / (1 + z2 / of) * np.sqrt(share * (1 - share) / of + z2 / (4 * of**2))
    return Estimate(share, float(max(0.0, middle - half)), float(min(1.0, middle + half)))


def _wins(yes: NDArray[np.floating], no: NDArray[np.floating]) -> NDArray[np.float32]:
    """Return 1 where a positive outranks a negative, 1/2 where they tie, (positives, negatives)."""
    above = yes[:, None] > no[None, :]
    tied = yes[:, None] == no[None, :]
    return np.asarray(above + 0.5 * tied, np.float32)
