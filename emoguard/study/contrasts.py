"""Tests confirmatory contrasts: one p each, corrected together, and a decision on each."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Literal

import numpy as np

from emoguard.study.effects import effect
from emoguard.study.printed import p_value
from emoguard.study.statistics import ALPHA, against, detectable, holm, no_harm, seeing_items
from emoguard.validate.estimate import Estimate

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from emoguard.study.effects import Effect, Weights
    from emoguard.study.panel import Panel
    from emoguard.study.protocol import Contrast

Outcome = Literal["holds", "fails", "untested"]

SMALLEST = 0.05
"""Smallest effect that a study should detect: five points."""


@dataclass(frozen=True)
class Tested:
    """One contrast: its estimate, its p, alone and corrected, and whether the claim holds.

    `needed` is the number of items that a power of .8 would have wanted: for the margin of
    `no_harm`, else for five points. `why` is the reason in words.
    """

    name: str
    outcome: str
    label: str
    test: str
    estimate: Estimate
    p: float
    adjusted: float
    items: int
    discordance: float
    needed: int
    variance: float
    margin: float
    verdict: Outcome
    why: str


def differs(contrast: Contrast, panel: Panel, weights: Weights) -> Tested:
    """Test whether a vector moves an outcome, two-sided."""
    measured = effect(panel, weights)
    return _tested(contrast, measured, measured.p)


def beats_random(
    contrast: Contrast, panel: Panel, weights: Weights, nulls: NDArray[np.floating]
) -> Tested:
    """Test whether a vector moves expression further than random directions (directions,)."""
    measured = effect(panel, weights)
    return _tested(contrast, measured, against(measured.estimate.value, nulls))


def harmless(contrast: Contrast, panel: Panel, weights: Weights) -> Tested:
    """Test whether a vector leaves an outcome within the margin."""
    margin = contrast.margin
    low = -margin if contrast.outcome == "capability" else -np.inf
    differences = panel.contrast(weights)
    safety = no_harm(differences, panel.clusters, low, margin)
    tested = _tested(contrast, effect(panel, weights), safety.p)
    return replace(tested, needed=safety.needed)


def decided(tested: Sequence[Tested]) -> list[Tested]:
    """Correct the p of all by Holm and decide each.

    `fails`: a difference that was looked for with enough items and is not there, or that does not
    stand out among random directions; of `no_harm`, an interval that lies beyond the margin, on the
    side of harm. `untested`: neither shown nor refuted. One that is untested already stays so.
    """
    adjusted = holm([each.p for each in tested])
    return [
        each if each.verdict == "untested" and each.why else _decide(replace(each, adjusted=p))
        for each, p in zip(tested, adjusted, strict=True)
    ]


def untested(contrast: Contrast, why: str, needed: int = 0) -> Tested:
    """Return a contrast that could not be tested; its p is 1, so that the family stays whole."""
    nothing = Estimate(float("nan"), float("-inf"), float("inf"))
    return Tested(
        contrast.name, contrast.outcome, contrast.label, contrast.test, nothing,
        1.0, 1.0, 0, 0.0, needed, 0.0, contrast.margin, "untested", why,
    )  # fmt: skip


def _tested(contrast: Contrast, measured: Effect, p: float) -> Tested:
    return Tested(
        contrast.name,
        contrast.outcome,
        contrast.label,
        contrast.test,
        measured.estimate,
        p,
        p,
        measured.items,
        measured.discordance,
        seeing_items(SMALLEST, measured.variance),
        measured.variance,
        contrast.margin,
        "untested",
        "",
    )


def _decide(each: Tested) -> Tested:
    if each.adjusted < ALPHA:
        return replace(each, verdict="holds", why=f"p {p_value(each.adjusted)} after Holm")
    if each.test == "no_harm":
        return _undecided_harm(each)
    if each.test == "random" and each.p >= ALPHA:
        return replace(
            each,
            verdict="fails",
            why=f"p {p_value(each.p)} before Holm: random directions do as much",
        )
    if each.p < ALPHA:
        return replace(each, why=f"p {p_value(each.p)} alone, {p_value(each.adjusted)} after Holm")
    seen = detectable(each.items, each.variance)
    if each.items >= each.needed:
        return replace(
            each,
            verdict="fails",
            why=f"p {each.adjusted:.3f}, and {seen:.1%} would have been seen",
        )
    return replace(each, why=f"p {each.adjusted:.3f}; {each.needed} items needed, {each.items} had")


def _undecided_harm(each: Tested) -> Tested:
    worst, best = each.estimate.high, each.estimate.low
    if each.outcome == "capability":  # less of it is harm, more is none
        worst, best = -each.estimate.low, -each.estimate.high
    if best > each.margin:
        return replace(each, verdict="fails", why="a change for the worse beyond the margin")
    found = ""
    if best > 0:
        found = "a change for the worse, not shown to be within the margin or beyond it; "
    elif worst < -each.margin:
        found = "a change for the better beyond the margin, which is no harm; "
    return replace(each, why=f"{found}{each.needed} items needed, {each.items} had")
