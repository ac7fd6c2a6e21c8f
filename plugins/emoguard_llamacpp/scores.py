"""Turns residuals into z, a block of tokens at a time."""

from __future__ import annotations

import threading
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from emoguard.probe.probe import Readout

BLOCK = 16
"""Tokens whose residuals wait for one pass over the directions."""


class Scores:
    """Hands out z rows that are filled in later.

    Every decode sweeps the processor's caches with the model's weights, so that fetching the
    directions costs more than multiplying with them: tokens wait and share the fetch. The numbers
    do not depend on how many waited.
    """

    def __init__(self, readout: Readout) -> None:
        labels = len(readout.labels)
        self.missing = np.full(labels, np.nan, np.float32)
        self._matrix = readout.matrix.transpose(1, 0, 2).reshape(labels, -1).copy()
        self._centre = readout.centre.ravel().copy()
        self._shift = readout.shift.sum(axis=0)
        self._block = np.empty((BLOCK, len(self._centre)), np.float32)
        self._waiting: list[NDArray[np.float32]] = []
        self._lock = threading.Lock()

    def add(self, rows: NDArray[np.float32]) -> NDArray[np.float32]:
        """Return z (labels,) of rows (layers, hidden): NaN until it is settled."""
        z = self.missing.copy()
        with self._lock:
            if len(self._waiting) == BLOCK:
                self._settle()
            self._block[len(self._waiting)] = rows.ravel()
            self._waiting.append(z)
        return z

    def settle(self) -> None:
        """Fill in every z handed out so far. Thread-safe."""
        with self._lock:
            self._settle()

    def _settle(self) -> None:
        for n, z in enumerate(self._waiting):
            np.dot(self._matrix, np.subtract(self._block[n], self._centre), out=z)
            np.add(z, self._shift, out=z)
        self._waiting = []  # last, so that work cut off by an interrupt is done the next time
