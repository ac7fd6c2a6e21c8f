"""Finds the smallest step that satisfies limits on several directions at once."""

from __future__ import annotations

from collections.abc import Sequence
from operator import mul
from typing import NamedTuple

SWEEPS = 32
"""Passes over the limits: the remaining error is negligible (1e-14 of a standard deviation) for
limits on six labels of a shipped probe, .06 on all thirteen, which are nearly dependent."""

SETTLED = 0.03
"""Share of the inset below which a pass over the limits counts as converged."""


class Limit(NamedTuple):
    """One limited direction: h·v lies between `low` and `high`; `gram` is its row of V Vᵀ."""

    low: float
    high: float
    gram: tuple[float, ...]


def limit(
    along: Sequence[float], limits: Sequence[Limit], inset: float
) -> tuple[list[float] | None, bool]:
    """Return the smallest step that satisfies the limits, and whether it still misses one.

    `along` holds h·v for each limited direction v; the step is Δ = Σ λ v, returned as the λ, or
    None without a step. One direction gives a cap, Δ = min(0, high - h·v) v; a floor, Δ = max(0,
    low - h·v) v; or, with low = high, an ablation. Several are not orthogonal: up to `SWEEPS`
    passes of Hildreth's method (1957) on the dual, each setting one λ to satisfy its own limit
    given the others.

    `inset` is how far inside the limits to aim, where there is room, so that rounding does not
    cross them.
    """
    for at, (low, high, _) in zip(along, limits, strict=True):
        if not low + inset <= at <= high - inset:
            break
    else:
        return None, False
    return _project(along, limits, inset)


def _project(
    along: Sequence[float], limits: Sequence[Limit], inset: float
) -> tuple[list[float] | None, bool]:
    """Return the result of `limit` where some limit is crossed."""
    insides = [min(inset, (high - low) / 2) for low, high, _ in limits]
    aims = [(low + by, high - by) for (low, high, _), by in zip(limits, insides, strict=True)]
    steps = [0.0] * len(limits)

    def at(i: int) -> float:
        return along[i] + sum(map(mul, limits[i].gram, steps), 0.0)

    for _ in range(SWEEPS if len(limits) > 1 else 1):
        largest = 0.0
        for i, (least, most) in enumerate(aims):
            without = at(i) - steps[i]
            wanted = min(max(without, least), most) - without
            largest = max(largest, abs(wanted - steps[i]))
            steps[i] = wanted
        if largest <= SETTLED * inset:
            break
    missed = any(
        not low - (inset - by) <= at(i) <= high + (inset - by)
        for i, ((low, high, _), by) in enumerate(zip(limits, insides, strict=True))
    )
    return steps, missed
