"""Certifies alarm levels from the crossings of neutral responses."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import TYPE_CHECKING

import numpy as np

from emoguard.errors import EmoGuardError
from emoguard.probe.crossing import count, rolling_mean, windows

if TYPE_CHECKING:
    from numpy.typing import NDArray

LEVELS = np.linspace(0, 12, 241, dtype=np.float32)
"""Candidate levels, in units of z: fixed beforehand, as a certificate requires."""

ENOUGH_RESPONSES = 600
"""With fewer neutral responses nothing is certified."""

ENOUGH_CROSSINGS = 20
"""Crossings from which on their clustering in responses is estimated."""

MOST_POSITIONS = 10**8
"""Full windows of all responses: a hundred thousand answers of a thousand tokens."""

CONFIDENCE = 0.95


@dataclass(frozen=True)
class Threshold:
    """A level above which a label's crossings are certified to be rare.

    `level` is in units of z; `bound` is the one-sided 95 % upper bound of the crossings per 1,000
    window positions there, `crossings` their count.
    """

    level: float
    bound: float
    crossings: int


@dataclass(frozen=True, eq=False)
class Curve:
    """Crossings of neutral responses at a grid of levels, for one window and hysteresis.

    `levels`, shape (levels,), rises. `counts` and `squares`, shape (levels, labels), are the sums
    over responses of the crossings of one response and of their squares. `positions` is the
    exposure: full windows of all responses together.
    """

    window: int
    hysteresis: float
    positions: int
    responses: int
    levels: NDArray[np.float32]
    counts: NDArray[np.float32]
    squares: NDArray[np.float32]

    @classmethod
    def measure(cls, rows: Sequence[NDArray[np.floating]], window: int, hysteresis: float) -> Curve:
        """Count the crossings of z, one array (tokens, labels) per neutral response."""
        shape = len(LEVELS), rows[0].shape[1]
        counts, squares = np.zeros(shape), np.zeros(shape)
        grid = LEVELS.astype(np.float64)[:, None].repeat(shape[1], axis=1)
        for each in rows:
            if len(each) >= window:
                crossed = count(rolling_mean(each, window), grid, hysteresis)
                counts += crossed
                squares += crossed**2
        return cls(
            window,
            hysteresis,
            sum(windows(len(each), window) for each in rows),
            sum(len(each) >= window for each in rows),
            LEVELS,
            counts.astype(np.float32),
            squares.astype(np.float32),
        )

    def threshold(self, column: int, rate_per_1000: float) -> Threshold | None:
        """Return the lowest level whose crossings are certified at `rate_per_1000`, None if none.

        Levels are tried from the highest down until the bound of one exceeds the rate: with levels
        fixed beforehand, trying many then costs no confidence (fixed-sequence testing; Angelopoulos
        et al., "Learn then Test", 2021). None means that this rate cannot be certified: there are
        fewer than 600 responses, or too few tokens in them.
        """
        if self.responses < ENOUGH_RESPONSES:
            return None
        clusters = self.clusters(column)
        threshold = None
        for n in range(len(self.levels) - 1, -1, -1):
            crossings = int(self.counts[n, column])
            # The bound exceeds the count, and that of a large one takes long.
            if 1000 * crossings > rate_per_1000 * self.positions:
                break
            bound = clusters[n] * upper_bound(math.ceil(crossings / clusters[n]))
            bound *= 1000 / self.positions
            if bound > rate_per_1000:
                break
            threshold = Threshold(float(self.levels[n]), float(bound), crossings)
        return threshold

    def clusters(self, column: int) -> NDArray[np.float64]:
        """Return the clustering of crossings in responses at each level, (levels,), at least 1.

        The ratio of Σc² to Σc over responses: 1 when no response crosses twice, and the factor by
        which the variance of a compound Poisson sum exceeds its mean. A level with too few
        crossings takes the value of the next lower one with enough.
        """
        counts = self.counts[:, column].astype(np.float64)
        ratio = np.divide(
            self.squares[:, column], counts, out=np.ones_like(counts), where=counts > 0
        )
        known = np.flatnonzero(counts >= ENOUGH_CROSSINGS)
        if len(known):
            before = np.searchsorted(known, np.arange(len(counts)), side="right") - 1
            ratio = np.maximum(ratio, ratio[known[np.maximum(before, 0)]])
        return np.asarray(np.maximum(ratio, 1.0))

    def check_fits(self, labels: int) -> None:
        """Refuse a curve that a probe of `labels` cannot use.

        Raises:
            EmoGuardError: wrong shapes, levels that fall, counts that no responses can have.

        """
        shape = len(self.levels), labels
        counts, squares = self.counts.astype(np.float64), self.squares.astype(np.float64)
        if (
            not len(self.levels)
            or counts.shape != shape
            or squares.shape != shape
            or not np.all(np.isfinite(self.levels))
            or np.any(np.diff(self.levels) <= 0)
            or not np.all((counts >= 0) & (counts <= self.positions))
            or not np.all((squares >= counts) & (squares <= counts**2))
            or self.window < 1
            or not self.responses <= self.positions <= MOST_POSITIONS
            or not 0 <= self.hysteresis < math.inf
        ):
            raise EmoGuardError(
                f"calibration crossings must be counts of shape {shape} that responses can have, "
                "at rising levels: use an undamaged copy of the file"
            )


@lru_cache(maxsize=4096)
def upper_bound(events: int) -> float:
    """Return the exact one-sided 95 % upper bound of a Poisson mean after `events` events.

    The mean at which so few events have probability .05 (Garwood, 1936), found by bisection.
    """
    n = np.arange(events + 1)
    factorials = np.concatenate([[0.0], np.cumsum(np.log(np.maximum(n[1:], 1)))])
    low, high = float(events), events + 4 * math.sqrt(events) + 8
    for _ in range(60):
        middle = (low + high) / 2
        chance = np.exp(n * math.log(middle) - middle - factorials).sum() if middle else 1.0
        low, high = (middle, high) if chance > 1 - CONFIDENCE else (low, middle)
    return high
