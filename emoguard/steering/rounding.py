"""What storing a residual in a dtype does to it, and how much room that leaves a step."""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

if TYPE_CHECKING:
    from numpy.typing import NDArray

SINGLE = 2.0**-24
"""Unit roundoff of float32, in which everything is computed."""

SHORTEST = 1e-17
"""Lengths below have squares whose sum float32 no longer holds exactly enough."""

LONGEST = 1e15
"""Lengths beyond have products that float32 may not hold; nothing that long is a residual."""


class Rounding(NamedTuple):
    """What storing in a dtype does: its `roundoff`; `store` is from float32 to that and back."""

    unit: float
    tiny: float
    store: Callable[[NDArray[np.float32]], NDArray[np.float32]]


def allowance(hidden: int, unit: float, tiny: float) -> tuple[float, float]:
    """Return (share, offset): Δ may be share·(b - u)‖h‖ - offset long before rounding, no longer.

    Rounding h + Δ to the stored dtype moves it by at most u‖h + Δ‖ + √hidden·η (u unit roundoff, η
    half the smallest number), hence ‖h' - h‖ ≤ b‖h‖ wherever ‖Δ‖ ≤ ((b - u)‖h‖ - √hidden·η) /
    (1 + u). A further factor covers the float32 sums behind both lengths, in whatever order they
    are taken; they hold down to `SHORTEST`, below which nothing is moved.
    """
    share = (1 - (hidden + 16) * SINGLE) / (1 + unit)
    return share, share * hidden**0.5 * tiny


def limit_inset(hidden: int, unit: float) -> float:
    """Return how far inside a limit to aim, as a share of ‖h‖, so that rounding does not cross."""
    return 1.5 * (unit + hidden * SINGLE)


def roundoff(eps: float, smallest: float) -> tuple[float, float]:
    """Return (u, η) of a dtype that float32 is rounded to: unit roundoff, half the smallest number.

    `eps` is the dtype's relative spacing, `smallest` its smallest subnormal number. The 2 float32
    roundoffs on top are those of h + Δ before it is stored.
    """
    return max(eps / 2, SINGLE) + 2 * SINGLE, smallest / 2


@cache
def numpy_rounding(dtype: np.dtype[np.floating]) -> Rounding:
    """Return the rounding of a dtype of numpy."""
    info = np.finfo(dtype)
    unit, tiny = roundoff(float(info.eps), float(info.smallest_subnormal))
    return Rounding(unit, tiny, lambda moved: moved.astype(dtype).astype(np.float32))


FLOAT32 = Rounding(*roundoff(2 * SINGLE, 2.0**-149), lambda moved: moved)
"""Stored as computed: what llama.cpp does."""
