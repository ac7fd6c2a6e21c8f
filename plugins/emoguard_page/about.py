"""Describes a guard to the page: its labels, limits and permissions."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

import emoguard
from emoguard.cautions import cautions
from emoguard.guard import Guard
from emoguard.policy.policy import Policy
from emoguard.probe.calibration import QUANTILES, Calibration
from emoguard.records import Report
from emoguard.runtime.watch import Watch
from emoguard.site import Site

BAND = (0.05, 0.95)
"""Quantiles of neutral answers' means between which an answer's mean is drawn as ordinary."""


def of_watch(watch: Watch) -> dict[str, Any]:
    """Return the description of a watched model as plain JSON data."""
    if not watch.enabled:
        return {"version": emoguard.__version__, "disabled": True, "labels": []}
    guard, site = watch.guard, watch.site
    return of_site(site) | {
        "model": site.identity.name,
        "quantisation": site.identity.quantisation,
        "backend": watch.backend,
        "cautions": cautions(guard, watch.identity),
        "steering": _steering(guard, site),
        "conversation": guard.policy.requests.conversation,
    }


def of_site(site: Site) -> dict[str, Any]:
    """Return labels and limits of a guard on one model file."""
    alarms = site.policy.alarms
    return {
        "version": emoguard.__version__,
        "disabled": False,
        "probe": site.probe.name,
        "calibrated": site.calibration is not None,
        "responses": site.calibration.responses if site.calibration else 0,
        "labels": [_label(site, label, n) for n, label in enumerate(site.read)],
        "colour": next((n for n in site.read if n in site.probe.axes), site.read[0]),
        "window": alarms.window_tokens,
        "hysteresis": alarms.hysteresis_sd,
        "band": BAND,
        "tolerance": site.policy.drift.tolerance_rank,
        "curves": site.policy.page.curves,
    }


def of_report(report: Report, policy: Policy) -> dict[str, Any]:
    """Return the labels of a stored report; their limits are unknown without the probe."""
    verdicts = {label: score.verdict for label, score in report.scores.items()}
    monitored = policy.monitored(verdicts)
    unknown = {"axis": False, "threshold": None, "certified": None, "band": None}
    return {
        "version": emoguard.__version__,
        "disabled": False,
        "probe": report.probe,
        "calibrated": any(score.rank is not None for score in report.scores.values()),
        "responses": 0,
        "labels": [
            {"name": label, "verdict": verdict, "monitored": label in monitored} | unknown
            for label, verdict in verdicts.items()
        ],
        "colour": next(iter(verdicts), None),
        "window": policy.alarms.window_tokens,
        "hysteresis": policy.alarms.hysteresis_sd,
        "band": BAND,
        "tolerance": policy.drift.tolerance_rank,
        "curves": False,
    }


def _label(site: Site, label: str, column: int) -> dict[str, Any]:
    """Return one label: its verdict, its certified threshold, and where neutral answers lie."""
    threshold = site.thresholds.get(label)
    return {
        "name": label,
        "axis": label in site.probe.axes,
        "verdict": site.probe.verdicts.get(label),
        "monitored": label in site.labels,
        "threshold": None if threshold is None else threshold.level,
        "certified": None if threshold is None else threshold.bound,
        "band": _band(site.calibration, site.columns[column]),
    }


def _band(calibration: Calibration | None, column: int) -> list[float] | None:
    if calibration is None:
        return None
    levels = np.linspace(0, 1, QUANTILES)
    return [float(np.interp(at, levels, calibration.means[:, column])) for at in BAND]


def _steering(guard: Guard, site: Site) -> dict[str, Any]:
    """Return whether a request may steer, within which bound, and what is steered already."""
    policy = guard.policy.steering
    why = None
    if not guard.policy.requests.plan:
        why = "the policy does not let requests steer (requests.plan)"
    elif site.calibration is None:
        why = "steering needs a calibration of exactly this model file"
    return {
        "allowed": why is None,
        "why": why,
        "bound": policy.max_dose_ratio,
        "clips": policy.on_excess == "clip",
        "plan": _plain(policy.plan.as_dict()),
    }


def _plain(plan: Mapping[str, Any]) -> dict[str, Any]:
    return {key: dict(each) if isinstance(each, Mapping) else each for key, each in plan.items()}
