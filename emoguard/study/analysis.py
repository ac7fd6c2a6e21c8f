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
from emoguard.study.protocol import enough_directions
from emoguard.study.safety import has_headroom, safety
from emoguard.study.verdict import sentence

if TYPE_CHECKING:
    from emoguard.study.protocol import Contrast


HEADROOM = (0.10, 0.60)
"""Unsteered rates in a pilot between which an effect of either sign can show."""


def results(outcomes: Outcomes, verdicts: Mapping[str, str], *, complete: bool) -> dict[str, Any]:
    """Return all results as plain data; `verdicts` are the probe's, by label.

    Until the run is `complete` no claim is tested: to look at the first items, and at more of them
    until one holds, would make false claims more likely than the level says.
    """
    protocol, frozen = outcomes.protocol, outcomes.frozen
    test = _contrast if complete else _too_early
    tested = contrasts.decided([test(outcomes, each) for each in protocol.contrasts])
    labels = protocol.judged
    rates = {
        judge: {label: outcomes.headroom(judge, label) for label in labels}
        for judge in outcomes.judges
    }
    return {
        "pilot": {**frozen.as_dict(), "known": len(frozen.known), "rates": rates},
        "reproducible": {label: verdicts.get(label, "not validated") for label in labels},
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


def _too_early(_: Outcomes, contrast: Contrast) -> contrasts.Tested:
    return contrasts.untested(contrast, "the run is not complete")


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
    if not has_headroom(contrast.outcome, rate, contrast.margin):
        way = "less" if contrast.outcome == "capability" else "more"
        why = f"no headroom: {rate:.0%} unsteered, {way} is hardly possible"
        return contrasts.untested(contrast, why)
    return contrasts.harmless(contrast, panel, weights)


def _unclaimable(outcomes: Outcomes, contrast: Contrast) -> str:
    """Return the reason why no claim on expression is possible, "" if one is."""
    why = _unjudged(outcomes, contrast.label)
    if not why:
        test = _unmatched if contrast.test == "random" else _unmoved
        why = test(outcomes, contrast)
    return why


def _unjudged(outcomes: Outcomes, label: str) -> str:
    """Return the reason why the primary judge cannot decide on a label."""
    judge = outcomes.primary
    rate = outcomes.headroom(judge, label)
    if not HEADROOM[0] <= rate <= HEADROOM[1]:
        return f"no headroom: {rate:.0%} of the pilot's unsteered answers"
    known = accuracy(outcomes.judges[judge], label, outcomes.frozen.levels[judge][label])
    if known is None:
        return f"exploratory: no hand labels for {label}"
    if not known.confirmatory:
        return (
            f"exploratory: the {judge} agrees with labels by hand with κ {known.kappa:.2f}, AC1 "
            f"{known.ac1:.2f}"
        )
    return ""


def _unmatched(outcomes: Outcomes, _: Contrast) -> str:
    """Return the reason why there is nothing to compare with random directions."""
    if outcomes.matched is None or not outcomes.block("nulls"):
        return "no random directions were run"
    reached = len(outcomes.matched.reached)
    if not enough_directions(reached):
        return f"only {reached} random directions reach the labels' dose within the bound"
    return ""


def _unmoved(outcomes: Outcomes, contrast: Contrast) -> str:
    """Return the reason why an effect on expression would not be the vector's."""
    panel = outcomes.expression("expression", outcomes.primary, contrast.label)
    if len(panel) < 2:
        return "no answers were made"
    weights = weights_of(outcomes.protocol, contrast.label)
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
        null = null_effects(panel, outcomes.matched.reached)
        return contrasts.beats_random(contrast, panel, against_zero(f"{label}+"), null)
    panel = outcomes.expression("expression", judge, label)
    weights = weights_of(outcomes.protocol, label)["vector"]
    test = contrasts.harmless if contrast.test == "no_harm" else contrasts.differs
    return test(contrast, panel, weights)
