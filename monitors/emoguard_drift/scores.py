"""Scores a value from -1 to 1 by its rank in a baseline."""

from __future__ import annotations

import math
from bisect import bisect_left, bisect_right
from collections.abc import Callable
from operator import add
from statistics import NormalDist
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from numpy.typing import NDArray

MOST_KNOTS = 1000
"""Order statistics kept per label; more of them would hardly change a score."""

CLIP = 2.5
"""Standard deviations at which a normal score is cut off, so that it can be bet on."""


class Scores:
    """Scores by rank among a baseline (rows, labels), each label among its own column.

    `shape` turns a rank in (0, 1) into a score in [-1, 1]. It must increase and be odd around .5:
    then the mean score is 0 not only for unchanged values but for any symmetric distribution of
    ranks, such as that of values with the same mean and more or less noise. A tie scores the mean
    over the ranks of its equals, so that coarse values have a mean score of 0, too.
    """

    def __init__(self, baseline: NDArray[np.floating], shape: Callable[[float], float]) -> None:
        knots = np.sort(baseline, axis=0)
        if len(knots) > MOST_KNOTS:
            places = (np.arange(MOST_KNOTS) + 0.5) / MOST_KNOTS
            knots = np.quantile(knots, places, axis=0, method="inverted_cdf")
        self._knots: list[list[float]] = knots.T.tolist()
        # By the knots below a value plus those not above it: even between knots, odd on a single.
        ranks = (np.arange(2 * len(knots) + 1) + 1) / (2 * len(knots) + 2)
        plain = np.array([shape(rank) for rank in ranks.tolist()])
        sums = np.concatenate(([0.0], np.cumsum(plain[1::2])))
        tables = np.tile(plain, (len(self._knots), 1))
        for table, own in zip(tables, self._knots, strict=True):
            first, last = np.searchsorted(own, own, "left"), np.searchsorted(own, own, "right")
            table[first + last] = (sums[last] - sums[first]) / (last - first)
        self._table = tables.ravel()
        self._starts = np.arange(len(tables)) * len(plain)

    def of(self, row: NDArray[np.floating]) -> NDArray[np.float64]:
        """Return the scores of one row (labels,)."""
        values = row.tolist()
        # On lists of a thousand, bisect is ten times as fast as numpy.
        below = map(bisect_left, self._knots, values)
        counts = list(map(add, below, map(bisect_right, self._knots, values)))
        return np.asarray(self._table.take(self._starts + counts))

    def of_all(self, rows: NDArray[np.floating]) -> NDArray[np.float64]:
        """Return the scores of many rows (rows, labels)."""
        counts = [
            np.searchsorted(own, column, "left") + np.searchsorted(own, column, "right")
            for own, column in zip(self._knots, rows.T, strict=True)
        ]
        return np.asarray(self._table.take(self._starts + np.array(counts).T))


def tailed(rank: float) -> float:
    """Return the hyperbolic sine of a rank's normal score, cut off and scaled to [-1, 1].

    For normal values it is the odd part of the likelihood ratio for a small share that moved by one
    standard deviation: the tails weigh as much as their evidence for a changed minority.

    >>> [round(tailed(rank), 2) for rank in (0.005, 0.5, 0.8, 0.99)]
    [-1.0, 0.0, 0.16, 0.84]
    """
    score = NormalDist().inv_cdf(rank)
    return math.sinh(max(-CLIP, min(score, CLIP))) / math.sinh(CLIP)


def linear(rank: float) -> float:
    """Return a rank scaled to [-1, 1]."""
    return 2 * rank - 1
