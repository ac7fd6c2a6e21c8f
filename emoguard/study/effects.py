"""Computes effects of prompt, sampling and vector, alone and together, as marginal differences."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from emoguard.study.panel import Panel, combined, difference
from emoguard.study.statistics import draws, expanded
from emoguard.study.tasks import TEMPERATURES, ZERO
from emoguard.validate.estimate import Estimate

if TYPE_CHECKING:
    from emoguard.study.protocol import Protocol


@dataclass(frozen=True)
class Effect:
    """A difference in points of a rate (or in units of a score), with its interval and p."""

    estimate: Estimate
    p: float
    items: int
    discordance: float
    variance: float
    """That of an item's difference, see `Paired.variance`."""


Weights = Mapping[str, float]


def weights_of(protocol: Protocol, label: str) -> dict[str, dict[str, float]]:
    """Return the cells that each effect on a label compares, by the effect's name.

    `vector` is over all prompts and samplings; `prompt` the persona against the neutral prompt (or
    none, where there is no neutral one), without a vector; `sampling` T 1.0 (or the hottest there
    is) against greedy, without persona and vector. `together`: persona and vector against neither.
    `prompt x vector`: by how much the vector does more under the persona than without.
    """
    other = protocol.opposite(label)
    base = "neutral" if "neutral" in protocol.prompts else "none"
    levels: list[str] = [each for each in ("none", "neutral") if each in protocol.prompts]
    levels += [label] if "emotional" in protocol.prompts else []
    levels += [other] if "incongruent" in protocol.prompts else []
    samplings = protocol.samplings
    plus, minus = f"{label}+", f"{label}-"

    def cells(prompts: Sequence[str], vector: str, some: Sequence[str] = samplings) -> list[str]:
        return [f"{prompt}|{sampling}|{vector}" for prompt in prompts for sampling in some]

    weights = {
        "vector": difference(cells(levels, plus), cells(levels, ZERO)),
        "vector, without persona": difference(cells([base], plus), cells([base], ZERO)),
        "vector reversed": difference(cells(levels, minus), cells(levels, ZERO)),
    }
    if len(samplings) > 1:
        hottest = [max(samplings, key=TEMPERATURES.__getitem__)]
        weights["sampling"] = difference(
            cells([base], ZERO, hottest), cells([base], ZERO, ["greedy"])
        )
    if "emotional" in protocol.prompts:
        weights["prompt"] = difference(cells([label], ZERO), cells([base], ZERO))
        weights["together"] = difference(cells([label], plus), cells([base], ZERO))
        weights["prompt x vector"] = combined(
            difference(cells([label], plus), cells([label], ZERO)),
            difference(cells([base], plus), cells([base], ZERO), -1.0),
        )
    if "incongruent" in protocol.prompts:
        weights["vector against incongruent prompt"] = difference(
            cells([other], plus), cells([other], ZERO)
        )
    return weights


def effect(panel: Panel, weights: Weights) -> Effect:
    """Return one effect on a panel."""
    values = panel.contrast(weights)
    paired = panel.paired(weights)
    finite = values[np.isfinite(values)]
    discordance = float(np.mean(np.abs(finite) > 1e-12)) if len(finite) else 0.0
    return Effect(paired.estimate(), paired.p(), paired.items, discordance, paired.variance)


def share(panel: Panel, part: Weights, whole: Weights) -> Estimate:
    """Return one effect as a share of another, with its bootstrap interval over clusters.

    Unbounded (infinite) if the interval of the whole holds 0: a share of nothing has no size.
    """
    one, other = panel.paired(part), panel.paired(whole)
    bottom = other.estimate()
    value = one.mean / other.mean if other.mean else float("nan")
    if one.clusters < 2 or bottom.low <= 0 <= bottom.high or one.clusters != other.clusters:
        return Estimate(value, float("-inf"), float("inf"))
    weights = draws(one.clusters).astype(np.float64)
    bottoms = weights @ (other.means * other.sizes)
    # A resample in which the whole is 0 makes the share infinite, not undefined.
    drawn = weights @ (one.means * one.sizes) / np.where(bottoms, bottoms, 1e-12)
    low, high = np.quantile(drawn, expanded(one.clusters))
    return Estimate(value, float(low), float(high))


def pairing(panel: Panel, one: str, other: str) -> float:
    """Return the correlation over items of two cells: the gain from common random numbers."""
    x, y = panel.values[one], panel.values[other]
    both = np.isfinite(x) & np.isfinite(y)
    if both.sum() < 3 or not x[both].std() or not y[both].std():
        return float("nan")
    return float(np.corrcoef(x[both], y[both])[0, 1])
