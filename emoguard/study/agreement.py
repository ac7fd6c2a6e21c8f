"""Measures the agreement of judges with labels by hand, and with each other."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from emoguard.study.labelled import accuracy, premise_accuracy, refusal_accuracy
from emoguard.study.outcomes import PLAIN
from emoguard.study.plainly import as_list
from emoguard.study.statistics import JudgeAccuracy, ac1, kappa

if TYPE_CHECKING:
    from emoguard.study.outcomes import Outcomes


def judged(outcomes: Outcomes) -> dict[str, Any]:
    """Return the agreement of judges with labels by hand and with each other."""
    agreement: dict[str, Any] = {"hand": {}, "between": {}}
    for label in outcomes.protocol.labels:
        agreement["hand"][label] = {
            name: _accuracy(accuracy(judge, label, outcomes.frozen.levels[name][label]))
            for name, judge in outcomes.judges.items()
        }
        agreement["between"][label] = _between(outcomes, label)
    agreement["premise"] = _accuracy(premise_accuracy())
    agreement["refusal"] = _accuracy(refusal_accuracy())
    agreement["premise, written against chosen"] = _written_against_chosen(outcomes)
    return agreement


def _between(outcomes: Outcomes, label: str) -> dict[str, dict[str, float]]:
    names = list(outcomes.judges)
    agreement = {}
    panels = {name: outcomes.expression("expression", name, label) for name in names}
    for n, one in enumerate(names):
        for other in names[n + 1 :]:
            if not len(panels[one]):
                continue
            x, y = (np.concatenate(list(panels[name].values.values())) > 0 for name in (one, other))
            agreement[f"{one}, {other}"] = {"kappa": kappa(x, y), "ac1": ac1(x, y)}
    return agreement


def _written_against_chosen(outcomes: Outcomes) -> dict[str, float]:
    written, chosen = outcomes.written(), outcomes.choices("premise", known=False)
    place = {name.removesuffix("/false"): n for n, name in enumerate(chosen.names)}
    rows = [place[name] for name in written.names if name in place]
    key = PLAIN
    if not rows or key not in written.values:
        return {}
    x = written.values[key] > 0
    y = chosen.values[key][rows] > 0
    return {"kappa": kappa(x, y), "ac1": ac1(x, y), "items": len(rows)}


def _accuracy(accuracy: JudgeAccuracy | None) -> dict[str, Any] | None:
    if accuracy is None:
        return None
    return {
        "sensitivity": as_list(accuracy.sensitivity),
        "specificity": as_list(accuracy.specificity),
        "kappa": accuracy.kappa,
        "ac1": accuracy.ac1,
        "items": accuracy.items,
        "exploratory": not accuracy.confirmatory,
    }
