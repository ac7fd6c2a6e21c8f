"""Has the mean moved? A sequential two-sided test on ranks among baseline blocks."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from numpy.typing import NDArray

BETS = np.array([0.1, 0.3, 0.6, 0.9, 0.99])
"""Shares of what may be bet before one block could lose everything."""


class DriftDetector:
    """A two-sided Shiryaev-Roberts e-detector per label on the ranks of block means.

    `baseline`, shape (blocks, labels), are held-out block means of the same kind. The rank u in
    [0, 1] of a block among them has mean .5 while nothing changes; shifts of that mean by up to
    `tolerance` are not worth an alarm. Upwards, 1 + b (u - m) has mean <= 1 for every bet b < 1 / m
    with m = .5 + tolerance; downwards the same holds of 1 - u. The evidence of a label is the mean
    over both sides and five bets of R, with R <- (1 + R) times that factor; an alarm is raised when
    it reaches `arl` times the number of labels, and what was seen of that label is forgotten. While
    nothing changes, the mean number of blocks to the first alarm of any label is then at least
    `arl` (Shin, Ramdas, Rinaldo, "E-detectors", 2022; Shekhar, Ramdas, 2024), for independent
    blocks; the tolerance and the blocks make up in practice for dependence.

    >>> rng = np.random.default_rng(1)
    >>> detector = DriftDetector(rng.normal(size=(50, 2)))
    >>> [n for n in range(2000) if detector.update(rng.normal(size=2))]
    []
    >>> for n in range(100):
    ...     alarmed = detector.update(rng.normal([0, 2]))
    ...     if alarmed:
    ...         print(n, alarmed)
    ...         break
    16 (1,)
    """

    def __init__(
        self, baseline: NDArray[np.floating], *, tolerance: float = 0.1, arl: float = 2000
    ) -> None:
        self._sorted = np.sort(baseline, axis=0)
        self._mean = 0.5 + tolerance
        self._bets = (BETS / self._mean)[:, None]
        self.limit = arl * baseline.shape[1]
        self.evidence = np.zeros((2, len(BETS), baseline.shape[1]))

    def update(self, means: NDArray[np.floating]) -> tuple[int, ...]:
        """Take one block's means (labels,); return the positions of labels that alarm."""
        ranks = self.rank(means)
        for side, place in enumerate((ranks, 1 - ranks)):
            factor = 1 + self._bets * (place - self._mean)
            self.evidence[side] = (1 + self.evidence[side]) * factor
        alarmed = np.flatnonzero(self.evidence.mean(axis=(0, 1)) >= self.limit)
        self.evidence[:, :, alarmed] = 0
        return tuple(alarmed.tolist())

    def rank(self, means: NDArray[np.floating]) -> NDArray[np.float64]:
        """Return the places of means (labels,) among the baseline's, in (0, 1); ties in between."""
        below, equal = self._sorted < means, self._sorted == means
        return np.asarray(
            (below.sum(axis=0) + 0.5 * equal.sum(axis=0) + 0.5) / (len(self._sorted) + 1)
        )
