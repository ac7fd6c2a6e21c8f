"""Counts failures of EmoGuard itself, its overhead and the time of its last response."""

from __future__ import annotations

from collections.abc import Iterable

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram

from emoguard.records import Report
from emoguard_prometheus.allowed import Allowed

SECONDS = (0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0)
PARTS = ("reading", "steering", "notices", "callback")


class HealthMetrics:
    """Failures by part, overhead, and the time of the last response and of the calibration."""

    def __init__(
        self, own: CollectorRegistry, overflow: Counter, sinks: Iterable[str], calibrated: float
    ) -> None:
        self._parts = Allowed(PARTS, overflow)
        self._errors = Counter(
            "emoguard_errors_total", "Failures by the part that failed.", ("part",), registry=own
        )
        self._failed = {part: self._errors.labels(part) for part in self._parts.values}
        for sink in sinks:
            self.add_sink(sink)
        self._overhead = Histogram(
            "emoguard_overhead_seconds",
            "Host time that EmoGuard took from one response.",
            buckets=SECONDS,
            registry=own,
        )
        self._last = Gauge(
            "emoguard_last_response_timestamp_seconds",
            "When the last response was reported, in seconds since the epoch; 0 before any.",
            registry=own,
        )
        Gauge(
            "emoguard_calibration_timestamp_seconds",
            "When the model was calibrated, in seconds since the epoch; 0 when that is not known.",
            registry=own,
        ).set(calibrated)

    def add_sink(self, name: str) -> None:
        """Count the failures of the sink class `name` separately from now on."""
        part = self._parts.add(f"sink:{name}")
        self._failed[part] = self._errors.labels(part)

    def count(self, report: Report) -> None:
        """Count one report."""
        for part in report.faults:
            self._failed[self._parts.pick(part)].inc()
        self._overhead.observe(report.overhead_seconds)
        self._last.set(report.created)
