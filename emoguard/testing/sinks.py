"""Provides sinks that keep, raise or block, and the check that every sink must pass."""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence

from emoguard.records import Alert, Report
from emoguard.sinks.protocols import Sink
from emoguard.testing.reports import every_kind_of_report


class ListSink:
    """Keeps every report; returns one alert per report when asked to."""

    def __init__(self, *, alerting: bool = False) -> None:
        self.reports: list[Report] = []
        self.alerting = alerting

    def report(self, report: Report) -> Sequence[Alert]:
        """Keep the report."""
        self.reports.append(report)
        if not self.alerting:
            return ()
        return [Alert("list", "happy", "info", "a report came", report.id)]


class FailingSink:
    """Raises on every report."""

    def report(self, report: Report) -> Sequence[Alert]:
        """Raise."""
        raise RuntimeError(f"cannot take {report.id}")


class BlockedSink:
    """Blocks on every report until `release` is set."""

    def __init__(self) -> None:
        self.release = threading.Event()

    def report(self, report: Report) -> Sequence[Alert]:
        """Wait."""
        self.release.wait()
        return ()


def check_sink(make: Callable[[], Sink]) -> None:
    """Check that a sink takes every kind of report and answers with alerts that name it."""
    sink = make()
    for report in every_kind_of_report():
        for alert in sink.report(report):
            assert isinstance(alert, Alert), f"wanted alerts, got {alert!r}"
            assert alert.report_id == report.id, "an alert names another report"
