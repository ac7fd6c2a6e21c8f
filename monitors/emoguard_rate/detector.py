"""Tests whether a rate is too high: a sequential test with a stated false-alarm rate."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from numpy.typing import NDArray

BETS = np.array([0.5, 1.0, 3.0, 7.0, 15.0])
"""Each bets that the rate exceeds the allowed one by this factor."""

MOST_FACTORS = 4096
"""Lengths of responses whose factors are kept."""


class RateDetector:
    """A Shiryaev-Roberts e-detector per label for responses that were flagged.

    `rates`, shape (labels,), are the highest ordinary rates per unit of exposure. A response of
    exposure E is flagged with probability p <= rate * E as long as nothing changed (however its
    crossings cluster: it counts once), so that (1 + b [flagged]) exp(-b rate E) has mean <= 1 for
    every bet b. The evidence of a label is the mean over bets of R, with R <- (1 + R) times that
    factor; an alarm is raised when it is `arl` times the number of labels or more at a flagged
    response, and the label's evidence is forgotten. While nothing changes, the mean number of
    responses to the first alarm of any label is then at least `arl` (Shin, Ramdas, Rinaldo,
    "E-detectors", 2022).

    >>> rng = np.random.default_rng(1)
    >>> def response(*chances):
    ...     return np.flatnonzero(rng.random(2) < chances).tolist(), 50
    >>> detector = RateDetector([0.0001, 0.0001], arl=10_000)
    >>> [n for n in range(3000) if detector.update(*response(0.005, 0.005))]
    []
    >>> for n in range(100):
    ...     alarmed = detector.update(*response(0.005, 0.05))
    ...     if alarmed:
    ...         print(n, alarmed)
    37 (1,)
    """

    def __init__(self, rates: Sequence[float], arl: float) -> None:
        self._losses = np.outer(BETS, np.asarray(rates, np.float64))
        self._limit = arl * len(rates)
        self._factors: dict[float, NDArray[np.float64]] = {}
        self.evidence = np.zeros((len(BETS), len(rates)))

    def update(self, flagged: Sequence[int], exposure: float) -> tuple[int, ...]:
        """Take the positions of flagged labels of one response; return those that alarm."""
        self.evidence += 1
        self.evidence *= self._factor(exposure)
        if not flagged:
            return ()
        self.evidence[:, flagged] *= 1 + BETS[:, None]
        means = self.evidence.mean(axis=0)
        alarmed = tuple(n for n in flagged if means[n] >= self._limit)
        self.evidence[:, alarmed] = 0
        return alarmed

    def shares(self) -> NDArray[np.float64]:
        """Return the evidence of each label, (labels,); 1 raises an alarm."""
        return np.asarray(self.evidence.mean(axis=0) / max(self._limit, 1))

    def _factor(self, exposure: float) -> NDArray[np.float64]:
        """Return exp(-b rate E); most responses end at the same few lengths."""
        factor = self._factors.get(exposure)
        if factor is None:
            if len(self._factors) >= MOST_FACTORS:
                self._factors.clear()
            factor = self._factors[exposure] = np.exp(-self._losses * exposure)
        return factor
