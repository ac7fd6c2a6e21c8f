"""Collects evidence against a mean score of 0, upwards and downwards, label by label."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from numpy.typing import NDArray


class Bets:
    """Shiryaev-Roberts statistics on scores in [-1, 1], one per side, bet and label.

    `shares` (bets,) in (0, 1) are the parts of its evidence that each bet could lose to one score,
    `tolerances` (bets, labels) >= 0 the mean score up to which it does not gain, and `powers`
    (labels,) in (0, 1] temper what it gains and loses. An upward bet takes a score g as

        R <- (1 + R) (1 + share (g - tolerance) / (1 + tolerance)) ** power

    and a downward one -g. As long as the mean score given the past is within the tolerance, the
    factor has mean <= 1 (Waudby-Smith, Ramdas, "Estimating means of bounded random variables by
    betting", 2024), so that R has mean <= n after n scores (Shin, Ramdas, Rinaldo, "E-detectors",
    2022).
    """

    def __init__(
        self,
        shares: NDArray[np.floating],
        tolerances: NDArray[np.floating],
        powers: NDArray[np.floating],
    ) -> None:
        gains = shares[:, None] / (1 + tolerances)
        self._gains = np.concatenate((gains, -gains))
        self._start = 1 - np.tile(gains * tolerances, (2, 1))
        self._powers = powers
        self._weights = np.full(len(self._gains), 1 / len(self._gains))
        self.evidence = np.zeros(self._gains.shape)
        """Shape (2 bets, labels): first those upwards, then those downwards."""

    def update(self, scores: NDArray[np.floating]) -> None:
        """Take one score of each label (labels,)."""
        factors = self._gains * scores
        factors += self._start
        factors **= self._powers
        self.evidence += 1
        self.evidence *= factors

    def mean(self) -> NDArray[np.float64]:
        """Return the mean evidence of each label, all bets together, (labels,)."""
        return np.asarray(self._weights @ self.evidence)

    def upwards(self) -> NDArray[np.float64]:
        """Return the excess of the upward bets over the downward ones, as part of `mean`."""
        half = len(self._weights) // 2
        return np.asarray(
            self._weights @ self.evidence - 2 * self._weights[half:] @ self.evidence[half:]
        )
