"""Is this rate higher than it should be? A sequential test with a stated false-alarm rate."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from numpy.typing import NDArray

BETS = np.array([0.5, 1.0, 3.0, 7.0, 15.0])
"""Each bets that the rate is 1 + this many times as high as allowed."""


class RateDetector:
    """A Shiryaev-Roberts e-detector per label for responses that were flagged.

    `rates`, shape (labels,), are the highest ordinary rates per unit of exposure. A response of
    exposure E is flagged with probability p <= rate * E as long as nothing changed (however its
    crossings cluster: it counts once), so that (1 + b [flagged]) exp(-b rate E) has mean <= 1 for
    every bet b. The evidence of a label is the mean over bets of R, with R <- (1 + R) times that
    factor; an alarm is raised when it reaches `arl` times the number of labels, and what was seen
    of that label is forgotten. While nothing changes, the mean number of responses to the first
    alarm of any label is then at least `arl` (Shin, Ramdas, Rinaldo, "E-detectors", 2022).

    >>> rng = np.random.default_rng(1)
    >>> detector = RateDetector([0.0001, 0.0001], arl=10_000)
    >>> [n for n in range(3000) if detector.update(rng.random(2) < 0.005, exposure=50)]
    []
    >>> for n in range(100):
    ...     alarmed = detector.update(rng.random(2) < [0.005, 0.05], exposure=50)
    ...     if alarmed:
    ...         print(n, alarmed)
    37 (1,)
    """

    def __init__(self, rates: Sequence[float], arl: float) -> None:
        self._rates = np.asarray(rates, np.float64)
        self._limit = arl * len(self._rates)
        self.evidence = np.zeros((len(BETS), len(self._rates)))

    def update(self, flagged: NDArray[np.bool_], exposure: float) -> tuple[int, ...]:
        """Take one response, flagged (labels,); return the positions of labels that alarm."""
        factor = np.exp(-np.outer(BETS, self._rates * exposure))
        factor[:, flagged] *= 1 + BETS[:, None]
        self.evidence = (1 + self.evidence) * factor
        alarmed = np.flatnonzero(self.evidence.mean(axis=0) >= self._limit)
        self.evidence[:, alarmed] = 0
        return tuple(alarmed.tolist())
