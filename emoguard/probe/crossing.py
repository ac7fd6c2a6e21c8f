"""Counts upward crossings of a threshold by the rolling mean of z, with hysteresis.

A crossing is counted when the mean of the last `window` rows rises above the level while armed; it
is armed at the start, and again once the mean has fallen below level - hysteresis. A response has
one window position per full window, so that a rate per position does not grow with its length.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from numpy.typing import NDArray

WINDOW = 16
"""Tokens in the rolling mean, unless the policy says otherwise."""

HYSTERESIS = 0.25
"""How far below its level the rolling mean re-arms, in units of z, unless the policy says so."""


def windows(tokens: int, window: int) -> int:
    """Return how many full windows `tokens` rows have: the exposure of a response."""
    return max(0, tokens - window + 1)


def rolling_mean(rows: NDArray[np.floating], window: int) -> NDArray[np.float64]:
    """Return the means of all full windows, shape (windows, labels), of rows (tokens, labels)."""
    sums = np.vstack([np.zeros(rows.shape[1]), rows.cumsum(axis=0, dtype=np.float64)])
    return np.asarray((sums[window:] - sums[:-window]) / window)


def count(
    means: NDArray[np.float64], levels: NDArray[np.floating], hysteresis: float
) -> NDArray[np.int64]:
    """Return how often rolling means (windows, labels) crossed `levels`, in the shape of `levels`.

    The last axis of `levels` is that of the labels; axes before it ask for several levels at once.
    An infinite level is never crossed.
    """
    if not len(means):
        return np.zeros(levels.shape, np.int64)
    aligned = means.reshape(len(means), *[1] * (levels.ndim - 1), means.shape[1])
    above, below = aligned > levels, aligned < levels - hysteresis
    # Between the two the state is that of the last window outside them; before any, it is armed.
    place = np.arange(len(means)).reshape(-1, *[1] * levels.ndim)
    last = np.maximum.accumulate(np.where(above | below, place, -1), axis=0)
    high = np.take_along_axis(above, np.maximum(last, 0), axis=0) & (last >= 0)
    return np.asarray(high[0].astype(np.int64) + (high[1:] & ~high[:-1]).sum(axis=0))


class Crossings:
    """Counts the crossings of a response while it is generated, one row at a time.

    >>> live = Crossings(levels=[0.5, 9.0], window=2, hysteresis=0.25)
    >>> [live.update(np.array([z, 0.0])) for z in (1.0, 1.0, 1.0, -1.0, -1.0, 2.0)]
    [(), (0,), (), (), (), ()]
    >>> live.update(np.array([2.0, 0.0]))
    (0,)
    """

    def __init__(
        self, levels: Sequence[float], window: int = WINDOW, hysteresis: float = HYSTERESIS
    ) -> None:
        self._levels = np.asarray(levels, np.float64)
        self._rearm = self._levels - hysteresis
        self._window = window
        self._armed = np.ones(len(self._levels), bool)
        # Sums since the start, as `rolling_mean` takes them: the two agree to the last bit.
        self._sums = deque([np.zeros(len(self._levels))], maxlen=window + 1)

    @property
    def means(self) -> NDArray[np.float64]:
        """Return the mean z (labels,) over the last full window."""
        return np.asarray((self._sums[-1] - self._sums[0]) / self._window)

    def update(self, row: NDArray[np.floating]) -> tuple[int, ...]:
        """Take the z (labels,) of the next token; return the positions of labels that crossed.

        Rows that are not finite, and those of reasoning tokens, are to be left out by the caller,
        as a report leaves them out.
        """
        self._sums.append(self._sums[-1] + row)
        if len(self._sums) <= self._window:
            return ()
        mean = self.means
        crossed = self._armed & (mean > self._levels)
        self._armed = (self._armed & ~crossed) | (mean < self._rearm)
        return tuple(np.flatnonzero(crossed).tolist()) if crossed.any() else ()
