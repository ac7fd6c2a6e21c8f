"""Steers residuals within the bound: the mathematics, as pure functions.

One layer's residual h becomes h' = h + Δ. Δ is the plan's shift plus the smallest step that
satisfies its limits; then it is cut down to the bound, which always wins:

    ‖h' - h‖ ≤ b ‖h‖    for every token and layer, in the stored dtype, without tolerance.

Everything acts along the unit *steer* direction v of a label; the read direction never enters, so
that a plan cannot merely move the needle. This file is the reference in numpy that every runtime's
own version must equal.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from emoguard.steering.intervention import Intervention
from emoguard.steering.limit import Limit, limit
from emoguard.steering.rounding import (
    LONGEST,
    SHORTEST,
    Rounding,
    allowance,
    limit_inset,
    numpy_rounding,
)

if TYPE_CHECKING:
    from numpy.typing import NDArray


class Move(NamedTuple):
    """The move of one residual: `h` as stored, None if it is unchanged to the bit.

    The realised `dose` is ‖h' - h‖/‖h‖. It is `clipped` where the bound cut the step short, or
    limits contradict each other, so that one may not hold; `faulted` where a number was not finite.
    """

    h: NDArray[np.float32] | None
    dose: float
    clipped: bool
    faulted: bool


FAULT = Move(None, 0.0, clipped=False, faulted=True)


class Mover:
    """One intervention on residuals stored in one dtype, one at a time.

    Composed in float32 and rounded once to the dtype that `rounding` describes; lengths are taken
    in float64. A residual that cannot be moved within the bound stays unchanged, `faulted`: a
    residual or a step that is not finite or as long as `LONGEST`, and a result that is not finite
    or, whatever the arithmetic came to, not within the bound.
    """

    def __init__(self, intervention: Intervention, rounding: Rounding) -> None:
        hidden = len(intervention.shift)
        bounds = zip(intervention.low.tolist(), intervention.high.tolist(), strict=True)
        grams = map(tuple, intervention.gram.tolist())
        self._limits = [Limit(*b, gram) for b, gram in zip(bounds, grams, strict=True)]
        self._directions = intervention.directions
        self._shift = intervention.shift
        self._shift_length = _length(intervention.shift)
        self._shift_along = np.dot(intervention.directions, intervention.shift)
        self._inset = limit_inset(hidden, rounding.unit)
        allowed = allowance(hidden, rounding.unit, rounding.tiny)
        self._offset = allowed.offset
        self._slope = allowed.share * (intervention.budget - rounding.unit)
        self._most = allowed.checked * intervention.budget
        self._store = rounding.store

    def __call__(self, h: NDArray[np.float32]) -> Move:
        """Move one residual (hidden,): float32 of the values as stored."""
        length = _length(h)
        if not length < LONGEST:
            return FAULT
        step, size, missed = self._shift, self._shift_length, False
        if self._limits:
            along = (np.dot(self._directions, h) + self._shift_along).tolist()
            steps, missed = limit(along, self._limits, self._inset * length)
            if steps is not None:
                step = step + np.dot(np.array(steps, np.float32), self._directions)
                size = _length(step)
        if not size < LONGEST:
            return FAULT
        most = self._slope * length - self._offset
        if most <= SHORTEST:
            most = 0.0
        clipped = missed or size > most
        if not (size and most):
            return Move(None, 0.0, clipped, faulted=False)
        if size > most:
            step = step * np.float32(most / size)
        moved = self._store(h + step)
        dose = _length(moved.astype(np.float64) - h) / length
        if not dose <= self._most:
            return FAULT
        return Move(moved if dose else None, dose, clipped, faulted=False)


@dataclass(frozen=True, eq=False)
class Moved:
    """The moves of many residuals: `h` (rows, hidden), the rest (rows,) as in `Move`."""

    h: NDArray[np.floating]
    dose: NDArray[np.float32]
    clipped: NDArray[np.bool_]
    faulted: NDArray[np.bool_]


def intervene(h: NDArray[np.floating], intervention: Intervention) -> Moved:
    """Move residuals (rows, hidden) of dtype float16, float32 or float64, one by one."""
    mover = Mover(intervention, numpy_rounding(h.dtype))
    moved = h.copy()
    with np.errstate(over="ignore", invalid="ignore", under="ignore"):
        moves = [mover(row) for row in h.astype(np.float32)]
        for n, each in enumerate(moves):
            if each.h is not None:
                moved[n] = each.h
    return Moved(
        moved,
        np.array([each.dose for each in moves], np.float32),
        np.array([each.clipped for each in moves], np.bool_),
        np.array([each.faulted for each in moves], np.bool_),
    )


def _length(row: NDArray[np.floating]) -> float:
    """Return the length of one row, summed in float64."""
    row = row.astype(np.float64)
    return math.sqrt(float(np.dot(row, row)))
