"""Computes track C: the effect on expression of moving a direction, and nothing else."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

import numpy as np

from emoguard.study.effects import Weights, effect, pairing, share, weights_of
from emoguard.study.labelled import accuracy
from emoguard.study.outcomes import PLAIN
from emoguard.study.panel import difference
from emoguard.study.plainly import adjust, as_effect, as_list, as_range
from emoguard.study.regimes import read
from emoguard.study.statistics import against, curve
from emoguard.study.tasks import WITHOUT, ZERO, add

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from emoguard.study.outcomes import Outcomes
    from emoguard.study.panel import Panel


LEAST_YOUDEN = 0.2
"""Sensitivity and specificity, together less 1, from which on a judge's rates can be corrected."""


def attribution(outcomes: Outcomes) -> dict[str, Any]:
    """Return the attribution table of each label and judge."""
    effects: dict[str, Any] = {}
    for label in outcomes.protocol.labels:
        weights = weights_of(outcomes.protocol, label)
        effects[label] = {}
        for judge in outcomes.judges:
            panel = outcomes.expression("expression", judge, label)
            only = outcomes.expression("expression", judge, label, failed=np.nan)
            if not len(panel):
                continue
            own = {
                name: {
                    "all": as_effect(effect(panel, each)),
                    "coherent": as_effect(effect(only, each)),
                }
                for name, each in weights.items()
            }
            adjust([each["all"] for each in own.values()])
            effects[label][judge] = {
                "effects": own,
                "corrected": _corrected(outcomes, panel, weights, judge, label),
                "rates": {key: panel.rate(key) for key in panel.values},
                "share of prompt": _share(panel, weights),
                "pairing": _pairing(outcomes, panel, label),
            }
        lengths = outcomes.lengths("expression")
        if len(lengths):
            # A mere effect of length would show here.
            effects[label]["tokens"] = as_effect(effect(lengths, weights["vector"]))
        effects[label]["realised"] = outcomes.realised("expression", (f"{label}+", f"{label}-"))
    return effects


def _corrected(
    outcomes: Outcomes, panel: Panel, weights: Mapping[str, Weights], judge: str, label: str
) -> dict[str, list[float]]:
    """Return effects corrected for a judge's errors; empty if these are unknown.

    A judge hardly better than chance cannot be corrected.
    """
    level = outcomes.frozen.levels[judge][label]
    known = accuracy(outcomes.judges[judge], label, level)
    if known is None or known.youden < LEAST_YOUDEN:
        return {}
    return {
        name: as_list(known.corrected_difference(panel.paired(each).estimate()))
        for name, each in weights.items()
    }


def _share(panel: Panel, weights: Mapping[str, Weights]) -> list[float] | None:
    if "prompt" not in weights:
        return None
    return as_list(share(panel, weights["vector, without persona"], weights["prompt"]))


def _pairing(outcomes: Outcomes, panel: Panel, label: str) -> dict[str, float]:
    """Return correlations of steered with unsteered answers, per sampling."""
    return {
        sampling: pairing(panel, f"none|{sampling}|{ZERO}", f"none|{sampling}|{label}+")
        for sampling in outcomes.protocol.samplings
    }


def nulls(outcomes: Outcomes) -> dict[str, Any]:
    """Return labels among random directions of the same realised dose."""
    if outcomes.matched is None or not outcomes.block("nulls"):
        return {}
    effects: dict[str, Any] = {
        "directions": len(outcomes.matched.doses),
        "reached": len(outcomes.matched.reached),
        "matched": as_range(list(outcomes.matched.realised.values())),
        "realised": outcomes.realised("nulls", [f"{each}+" for each in outcomes.protocol.labels]),
        "realised, random": as_range(
            list(outcomes.realised("nulls", list(outcomes.matched.doses)).values())
        ),
    }
    for label in outcomes.protocol.labels:
        effects[label] = {judge: _null(outcomes, judge, label) for judge in outcomes.judges}
    return effects


def _null(outcomes: Outcomes, judge: str, label: str) -> dict[str, Any]:
    panel, matched = outcomes.expression("nulls", judge, label), outcomes.matched
    assert matched is not None  # else `nulls` asks nothing
    ran = {key.split("|")[2] for key in panel.values}
    near = matched.by_divergence(len(matched.doses), outcomes.protocol.bound)
    diverging = null_effects(panel, [f"kl:{name}" for name in near if f"kl:{name}" in ran])
    among = among_random(panel, label, matched.reached)
    return {
        **among,
        "same divergence": as_range(diverging.tolist()),
        "p, same divergence": against(among["observed"][0], diverging) if len(diverging) else None,
    }


def among_random(panel: Panel, label: str, names: Sequence[str]) -> dict[str, Any]:
    """Return a label's effect beside those of random directions, and its p among them."""
    own = effect(panel, against_zero(f"{label}+")).estimate
    random = null_effects(panel, names)
    return {
        "observed": as_list(own),
        "p": against(own.value, random),
        "random": as_range(random.tolist()),
        "effects": random.round(4).tolist(),
    }


def null_effects(panel: Panel, names: Sequence[str]) -> NDArray[np.float64]:
    """Return the effect of each direction, (directions,)."""
    return np.array([panel.paired(against_zero(name)).mean for name in names])


def curves(outcomes: Outcomes) -> dict[str, Any]:
    """Return dose curves of expression and of the form of the text."""
    records = outcomes.block("explored")
    if not records:
        return {}
    curves: dict[str, Any] = {}
    doses = sorted({0.0, *(s * d for d in outcomes.protocol.explored.doses for s in (1, -1))})
    for label in outcomes.protocol.judged:
        keys = [f"none|greedy|{add(label, dose).name}" for dose in doses]
        curves[label] = {
            "doses": doses,
            "realised": list(
                outcomes.realised("explored", [key.split("|")[2] for key in keys]).values()
            ),
            "reading": [_reading(outcomes, key) for key in keys],
            **{judge: _curve(outcomes, judge, label, keys, doses) for judge in outcomes.judges},
        }
    return curves


def _reading(outcomes: Outcomes, key: str) -> dict[str, Any]:
    sides = [
        [
            (r["cells"][each]["text"], r["cells"][each]["surprise"])
            for _, r in outcomes.block("explored")
        ]
        for each in (key, PLAIN)
    ]
    reading = read(sides[0], sides[1])
    return {**asdict(reading), "regime": reading.regime}


def _curve(
    outcomes: Outcomes, judge: str, label: str, keys: Sequence[str], doses: Sequence[float]
) -> dict[str, Any]:
    panel = outcomes.expression("explored", judge, label)
    zero = panel.values[PLAIN]
    changes = np.array([panel.values[key] - zero for key in keys])
    rising = [n for n, dose in enumerate(doses) if dose > 0]
    fit = curve(np.array(doses)[rising], changes[rising])
    return {
        "effects": [as_list(panel.paired(difference([key], [PLAIN])).estimate()) for key in keys],
        "fit": asdict(fit),
    }


def necessity(outcomes: Outcomes) -> dict[str, Any]:
    """Return whether the persona still works where the direction is held, and controls."""
    if not outcomes.block("explored"):
        return {}
    effects: dict[str, Any] = {}
    for label in outcomes.protocol.labels:
        panel = outcomes.expression("explored", outcomes.primary, label)
        own = f"{label}|greedy|{ZERO}"
        pairs = {
            "persona": ([own], [PLAIN]),
            "persona, direction ablated": ([f"{label}|greedy|ablate:{label}"], [own]),
            "persona, direction capped": ([f"{label}|greedy|cap:{label}"], [own]),
            "vector without valence": (
                [f"none|greedy|{label}{WITHOUT}+"], [PLAIN],
            ),
        }  # fmt: skip
        effects[label] = {
            name: as_effect(effect(panel, difference(plus, minus)))
            for name, (plus, minus) in pairs.items()
            if all(key in panel.values for key in (*plus, *minus))
        }
    adjust([each for by in effects.values() for each in by.values()])
    return effects


def against_zero(vector: str) -> dict[str, float]:
    """Return the weights of a vector against none, without persona and greedy."""
    return difference([f"none|greedy|{vector}"], [PLAIN])
