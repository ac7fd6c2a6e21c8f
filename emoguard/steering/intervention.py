"""Holds a plan in numbers: its interventions at each layer of one model file."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from emoguard.steering.plan import Plan

if TYPE_CHECKING:
    from numpy.typing import NDArray


@dataclass(frozen=True, eq=False)
class Intervention:
    """A plan at one layer.

    `shift` (hidden,) is added. `directions` (limits, hidden) are the unit steer directions whose
    h·v is held between `low` and `high` (limits,), infinite where there is no limit; `gram`
    (limits, limits) is their Gram matrix. `budget` is this layer's share b of the bound.
    """

    layer: int
    shift: NDArray[np.float32]
    directions: NDArray[np.float32]
    low: NDArray[np.float32]
    high: NDArray[np.float32]
    gram: NDArray[np.float32]
    budget: float


@dataclass(frozen=True, eq=False)
class Steering:
    """A plan made ready for one model file: one intervention per layer it acts on.

    `asked` is the requested plan if the policy clipped it, else None.
    """

    plan: Plan
    bound: float
    interventions: tuple[Intervention, ...]
    asked: Plan | None = None

    @property
    def layers(self) -> tuple[int, ...]:
        """Return the layers that are acted on."""
        return tuple(intervention.layer for intervention in self.interventions)
