"""Models the rounding of residuals by their dtype, and the room it leaves a step."""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

if TYPE_CHECKING:
    from numpy.typing import NDArray

SINGLE = 2.0**-24
"""Unit roundoff of float32, in which everything is computed."""

SHORTEST = 1e-12
"""Lengths below have squares whose sum float32 may not hold exactly enough."""

LONGEST = 1e15
"""Lengths beyond have products that float32 may not hold; no residual, and no step, is that long. A
step is scaled by `SHORTEST` over this at least: far from where float32 gets coarse."""


class Rounding(NamedTuple):
    """The rounding of a dtype: its `roundoff`; `store` rounds from float32 and back."""

    unit: float
    tiny: float
    store: Callable[[NDArray[np.float32]], NDArray[np.float32]]


class Allowance(NamedTuple):
    """The longest step allowed.

    Before rounding Δ may be share·(b - u)‖h‖ - offset long, no longer. After it, what float32 says
    of ‖h' - h‖ may come to checked·b‖h‖: then its true length is at most b‖h‖.
    """

    share: float
    offset: float
    checked: float


def allowance(hidden: int, unit: float, tiny: float) -> Allowance:
    """Return the allowance of residuals of length `hidden`, stored with `unit` and `tiny`.

    Rounding h + Δ to the stored dtype moves it by at most u‖h + Δ‖ + √hidden·η (u unit roundoff, η
    half the smallest number), hence ‖h' - h‖ ≤ b‖h‖ wherever ‖Δ‖ ≤ ((b - u)‖h‖ - √hidden·η) /
    (1 + u). Two float32 lengths, whatever the order of their sums, are together wrong by `sums` at
    most, as a share; they hold down to `SHORTEST`, below which nothing is moved. It is taken off
    twice: once for the lengths behind Δ, once for those behind the check of h'.
    """
    sums = (hidden + 16) * SINGLE
    share = (1 - 2 * sums) / (1 + unit)
    return Allowance(share, share * hidden**0.5 * tiny, 1 - sums)


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
"""Stored as computed, as in llama.cpp."""
