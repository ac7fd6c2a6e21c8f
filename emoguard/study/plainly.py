"""Converts estimates and effects to plain JSON data."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from emoguard.study.statistics import benjamini_hochberg

if TYPE_CHECKING:
    from emoguard.study.effects import Effect
    from emoguard.validate.estimate import Estimate


def as_effect(effect: Effect) -> dict[str, Any]:
    """Return an effect as a mapping."""
    return {
        "estimate": as_list(effect.estimate),
        "p": effect.p,
        "items": effect.items,
        "discordance": effect.discordance,
    }


def adjust(effects: Sequence[dict[str, Any]]) -> None:
    """Add p corrected over the effects of one table by Benjamini and Hochberg."""
    adjusted = benjamini_hochberg([each["p"] for each in effects])
    for each, p in zip(effects, adjusted, strict=True):
        each["p, adjusted"] = p


def as_list(estimate: Estimate) -> list[float]:
    """Return value, low and high of an estimate."""
    return [estimate.value, estimate.low, estimate.high]


def as_range(values: Sequence[float]) -> list[float] | None:
    """Return the median and the central 95 % of values."""
    if not len(values):
        return None
    return [float(each) for each in np.quantile(values, [0.5, 0.025, 0.975])]
