"""Computes the operator's view as plain JSON data, when somebody looks."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from emoguard.probe.crossing import rolling_mean, windows
from emoguard.records import Alert, Notice, Report
from emoguard.runtime.phases import REASONING
from emoguard.runtime.reading import Reading
from emoguard.runtime.watch import Watch
from emoguard_page.traffic import Traffic

MOST_OPEN = 16
"""Responses being generated whose curves are shown."""

LONGEST_CURVE = 64
"""Points of a curve."""

SECTIONS = {
    "rate": "EmoGuardRateExceeded",
    "drift": "EmoGuardDriftDetected",
    "crossing": "EmoGuardCrossingRateHigh",
}
"""Section of the runbook by the monitor that raised an alert."""


def row(number: int, report: Report, labels: Sequence[str], window: int) -> dict[str, Any]:
    """Return one finished response: ranks and crossings by label, and its outcome."""
    scores = [report.scores.get(label) for label in labels]
    return {
        "number": number,
        "at": report.created,
        "id": report.id,
        "status": report.status,
        "finish": report.finish,
        "tokens": report.completion_tokens,
        "windows": windows(report.tokens_averaged, window) if report.scores else 0,
        "ranks": [None if each is None else each.rank for each in scores],
        "crossings": [0 if each is None else each.crossings or 0 for each in scores],
        "steered": report.steered,
        "sampled": report.sampled,
        "notice": None if report.notice is None else _notice(report.notice),
        "faults": list(report.faults),
        "denied": list(report.denied),
        "detail": report.detail if report.status in ("error", "skipped") else None,
    }


def _notice(notice: Notice) -> dict[str, Any]:
    """Return why a notice was due and how it was given, without its words."""
    return {
        "kind": notice.kind,
        "reasons": list(notice.reasons),
        "profiles": list(notice.profiles),
        "channel": notice.channel,
    }


def state(traffic: Traffic, policy_error: str | None) -> dict[str, Any]:
    """Return counts, the evidence of the monitors as shares of their limits, and faults."""
    rate, drift, notices = traffic.rate, traffic.drift, traffic.notices
    return {
        "taken": traffic.taken,
        "counts": traffic.counts(),
        "rate": None if rate is None else _of(rate.evidence()),
        "drift": None if drift is None or drift.baseline_created is None else _of(drift.evidence()),
        "learning": drift is not None and drift.baseline_created is None,
        "baseline": None if drift is None else drift.baseline_created,
        "overdue": None if notices is None else notices.overdue(),
        "policy_error": policy_error,
    }


def alert(alert: Alert, at: float | None) -> dict[str, Any]:
    """Return an alert with the section of the runbook that it leads to."""
    return {
        "monitor": alert.monitor,
        "label": alert.label,
        "severity": alert.severity,
        "message": alert.message,
        "id": alert.report_id,
        "at": at,
        "section": SECTIONS.get(alert.monitor),
    }


def open_responses(watch: Watch, *, curves: bool) -> list[dict[str, Any]]:
    """Return the responses that are being generated: their length, with `curves` also their scores.

    Never their text nor their users.
    """
    sessions = watch.sessions.now()
    if not curves:
        return [{"tokens": len(session.token_ids)} for session in sessions]
    window = watch.site.policy.alarms.window_tokens
    readings = [watch.sessions.read(session) for session in sessions[-MOST_OPEN:]]
    return [
        {"tokens": len(reading.token_ids), "curves": _curves(reading, window)}
        for reading in readings
    ]


def _curves(reading: Reading, window: int) -> list[list[float]]:
    """Return the last rolling means (labels, points) of the tokens that count."""
    fresh = np.isfinite(reading.rows).all(axis=1) & (reading.phases != REASONING)
    fresh[: reading.attention_sinks] = False
    means = rolling_mean(reading.rows[fresh], window)[-LONGEST_CURVE:]
    curves: list[list[float]] = means.T.round(2).tolist()
    return curves


def _of(evidence: Mapping[str, float]) -> dict[str, float]:
    return {label: round(share, 4) for label, share in evidence.items()}
