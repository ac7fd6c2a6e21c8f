"""Estimates and effects as plain JSON data."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from emoguard.study.effects import Effect
    from emoguard.validate.estimate import Estimate


def as_effect(found: Effect) -> dict[str, Any]:
    """Return an effect as a mapping."""
    return {
        "estimate": as_list(found.estimate),
        "p": found.p,
        "items": found.items,
        "discordance": found.discordance,
    }


def as_list(found: Estimate) -> list[float]:
    """Return value, low and high of an estimate."""
    return [found.value, found.low, found.high]


def as_range(values: Sequence[float]) -> list[float] | None:
    """Return the median and the central 95 % of values."""
    if not len(values):
        return None
    return [float(each) for each in np.quantile(values, [0.5, 0.025, 0.975])]
