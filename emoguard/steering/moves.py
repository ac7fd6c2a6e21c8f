"""Steers one sequence, residual by residual, and reports each move."""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray

from emoguard.steering.bound import Move, Mover
from emoguard.steering.intervention import Steering
from emoguard.steering.rounding import Rounding

UNSEEN = math.nan, math.nan, math.nan
"""The move of a token at which some layer did not act."""

STILL = Move(None, 0.0, clipped=False, faulted=False)
"""The move of a residual that is left alone."""


class Moves:
    """Moves the residuals of a sequence at each layer that `steering` acts on.

    `take` is called once per token; the last residual moved at each layer is that token's.

    >>> moves = Moves(None, FLOAT32)
    >>> moves(1, np.ones(4, np.float32)), moves.take()
    (None, None)
    """

    def __init__(self, steering: Steering | None, rounding: Rounding) -> None:
        interventions = steering.interventions if steering is not None else ()
        self._movers = {each.layer: Mover(each, rounding) for each in interventions}
        self._last: dict[int, Move] = {}

    def __call__(self, layer: int, h: NDArray[np.float32]) -> NDArray[np.float32] | None:
        """Return a residual (hidden,) moved; None if it stays as it is, to the bit.

        `h` is float32 of the values as stored.
        """
        mover = self._movers.get(layer)
        if mover is None:
            return None
        move = self._last[layer] = mover(h)
        return move.h

    def spare(self, layer: int) -> None:
        """Record that the next token's residual is left alone at a layer: an attention sink."""
        self._last[layer] = STILL

    def forget(self, layer: int | None = None) -> None:
        """Forget the moves since the last token, at one layer or at all."""
        if layer is None:
            self._last.clear()
        else:
            self._last.pop(layer, None)

    def take(self) -> tuple[float, float, float] | None:
        """Return dose, clipped and faulted of the next token's residual, layers added up.

        None without steering; NaN unless every layer acted.
        """
        if not self._movers:
            return None
        moves, self._last = self._last, {}
        if len(moves) < len(self._movers):
            return UNSEEN
        dose = clipped = faulted = 0.0
        for _, each_dose, was_clipped, was_faulted in moves.values():
            dose += each_dose
            clipped += was_clipped
            faulted += was_faulted
        return dose, clipped, faulted
