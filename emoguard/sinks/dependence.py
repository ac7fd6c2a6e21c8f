"""Estimates the autocorrelation of rows, and with it the effective length of a series."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from emoguard.probe.crossing import rolling_mean

if TYPE_CHECKING:
    from numpy.typing import NDArray

LONGEST = 10
"""Windows are at most this part of the rows: there are too few longer ones to know their spread."""

STEP = 1.5
"""Ratio of successive window lengths."""

SMALLEST = 1e-9
"""A spread below it is none."""


def dependence(rows: NDArray[np.floating]) -> NDArray[np.float64]:
    """Return the factor by which dependence reduces the rows (rows, labels), >= 1 for each label.

    It is the variance of window means times their length, as a multiple of the variance of single
    rows, at the length where it is largest: about 1 for independent rows, (1 + phi) / (1 - phi) for
    an AR(1) process, more for a cycle that the rows cover (Lahiri, "Resampling methods for
    dependent data", 2003, on windows that overlap). The largest of several noisy estimates is some
    20 % too large on average: the error is on the safe side.

    >>> rng = np.random.default_rng(1)
    >>> noise = rng.normal(size=(10_001, 1))
    >>> independent, moving_average = noise[:-1], noise[1:] + noise[:-1]
    >>> [dependence(rows).round(1).item() for rows in (independent, moving_average)]
    [1.3, 2.7]
    """
    centred = rows - rows.mean(axis=0)
    single = np.maximum(rows.var(axis=0), SMALLEST**2)
    factors = [np.ones(rows.shape[1])]
    size = 2.0
    while size <= len(rows) / LONGEST:
        length = round(size)
        # The mean that was taken away is the rows' own, so that windows vary too little around it.
        lost = 1 - length / len(rows)
        spread = np.square(rolling_mean(centred, length)).mean(axis=0)
        factors.append(length * spread / lost / single)
        size *= STEP
    return np.asarray(np.max(factors, axis=0))
