"""Computes the results of a study from its records, as plain data for reports and pictures.

Three tracks that are never merged. R: the validation of the directions. C: the effect on expression
of moving a direction, and nothing else. S: side effects.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

from emoguard.study import contrasts
from emoguard.study.agreement import judged
from emoguard.study.causal import (
    against_zero,
    attribution,
    curves,
    necessity,
    null_effects,
    nulls,
)
from emoguard.study.effects import weights_of
from emoguard.study.labelled import accuracy
from emoguard.study.outcomes import PLAIN, Outcomes
from emoguard.study.plainly import as_list
from emoguard.study.safety import safety
from emoguard.study.verdict import sentence

if TYPE_CHECKING:
    from emoguard.study.protocol import Contrast


def results(outcomes: Outcomes, verdicts: Mapping[str, str]) -> dict[str, Any]:
    """Return all results as plain data; `verdicts` are the probe's, by label."""
    protocol, frozen = outcomes.protocol, outcomes.frozen
    tested = contrasts.decided([_contrast(outcomes, each) for each in protocol.contrasts])
    return {
        "pilot": {**frozen.as_dict(), "known": len(frozen.known)},
        "reproducible": {
            label: verdicts.get(label, "not validated")
            for label in (*protocol.labels, *protocol.explored.labels)
        },
        "causal": {
            "primary": outcomes.primary,
            "judges": judged(outcomes),
            "effects": attribution(outcomes),
            "nulls": nulls(outcomes),
            "curves": curves(outcomes),
            "necessity": necessity(outcomes),
        },
        "safety": safety(outcomes),
        "contrasts": [{**asdict(each), "estimate": as_list(each.estimate)} for each in tested],
        "verdict": sentence(tested),
    }


def _contrast(outcomes: Outcomes, contrast: Contrast) -> contrasts.Tested:
    if contrast.outcome == "expression":
        why = _unclaimable(outcomes, contrast)
        return contrasts.untested(contrast, why) if why else _expressed(outcomes, contrast)
    panel = outcomes.choices(contrast.outcome)
    weights = against_zero(f"{contrast.label}+")
    if len(panel) < 2:
        return contrasts.untested(contrast, "no items: its data or its known facts are missing")
    if contrast.test != "no_harm":
        return contrasts.differs(contrast, panel, weights)
    rate = panel.rate(PLAIN)
    if contrast.outcome != "capability" and rate > 1 - contrast.margin:
        why = f"no headroom: {rate:.0%} unsteered, more is hardly possible"
        return contrasts.untested(contrast, why)
    return contrasts.harmless(contrast, panel, weights)


def _unclaimable(outcomes: Outcomes, contrast: Contrast) -> str:
    """Return the reason why no claim on expression is possible, "" if one is."""
    judge, label = outcomes.primary, contrast.label
    if not outcomes.frozen.headroom(judge, label):
        rate = outcomes.frozen.rates[judge][label]
        return f"no headroom: {rate:.0%} of the pilot's unsteered answers"
    known = accuracy(outcomes.judges[judge], label, outcomes.frozen.levels[judge][label])
    if known is not None and not known.confirmatory:
        return (
            f"exploratory: the {judge} agrees with labels by hand with κ {known.kappa:.2f}, AC1 "
            f"{known.ac1:.2f}"
        )
    if contrast.test == "random":
        nothing = outcomes.matched is None or not outcomes.block("nulls")
        return "no random directions were run" if nothing else ""
    panel = outcomes.expression("expression", judge, label)
    if len(panel) < 2:
        return "no answers were made"
    weights = weights_of(outcomes.protocol, label)
    if contrast.test == "difference" and "sampling" in weights:
        vector, sampling = (
            abs(panel.paired(weights[name]).mean) for name in ("vector", "sampling")
        )
        if sampling >= vector:
            return (
                f"sampling alone moves expression by {sampling:.1%}, the vector by {vector:.1%}: "
                "nothing is claimed of the vector"
            )
    return ""


def _expressed(outcomes: Outcomes, contrast: Contrast) -> contrasts.Tested:
    judge, label = outcomes.primary, contrast.label
    if contrast.test == "random":
        assert outcomes.matched is not None
        panel = outcomes.expression("nulls", judge, label)
        null = null_effects(panel, list(outcomes.matched.doses))
        return contrasts.beats_random(contrast, panel, against_zero(f"{label}+"), null)
    panel = outcomes.expression("expression", judge, label)
    weights = weights_of(outcomes.protocol, label)["vector"]
    test = contrasts.harmless if contrast.test == "no_harm" else contrasts.differs
    return test(contrast, panel, weights)
