"""Collects the state of monitors, audit log and policy file at a scrape."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping

from prometheus_client import Metric
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily

from emoguard.sinks.protocols import Drift, Lines, Rate
from emoguard_prometheus.allowed import Emotions

PAIR = ("model", "emotion")


class StateMetrics:
    """Values read from their owners at each scrape: no copy to keep in step.

    `rate`, `drift`, `audit` and `policy` are None until something is joined; the series are there
    all the same. Numbers of labels that the exporter does not know are left out.
    """

    def __init__(self, emotions: Emotions, policy: Callable[[], bool] | None) -> None:
        self.rate: Rate | None = None
        self.drift: Drift | None = None
        self.audit: Lines | None = None
        self._policy = policy
        self._emotions = emotions

    def collect(self) -> Iterable[Metric]:
        """Yield the six metrics, every series of each."""
        rate, drift = self.rate, self.drift
        crossings = CounterMetricFamily(
            "emoguard_rate_alarms", "Alarms of the monitor of crossing rates.", labels=PAIR
        )
        evidence = GaugeMetricFamily(
            "emoguard_drift_evidence",
            "Evidence that responses moved away from the baseline; an alarm from 1 on.",
            labels=PAIR,
        )
        alarms = CounterMetricFamily(
            "emoguard_drift_alarms", "Alarms of the drift monitor.", labels=PAIR
        )
        self._fill(crossings, rate.alarms() if rate else {})
        self._fill(evidence, drift.evidence() if drift else {})
        self._fill(alarms, drift.alarms() if drift else {})
        yield crossings
        yield evidence
        yield alarms
        yield GaugeMetricFamily(
            "emoguard_baseline_timestamp_seconds",
            "When the traffic baseline was frozen, in seconds since the epoch; 0 without one.",
            value=(drift.baseline_created if drift else None) or 0.0,
        )
        yield GaugeMetricFamily(
            "emoguard_policy_last_reload_successful",
            "Whether the policy in force is what its file says (1) or an older one (0).",
            value=1.0 if self._policy is None else float(self._policy()),
        )
        yield CounterMetricFamily(
            "emoguard_audit_lines",
            "Lines written to the audit log; a log with fewer was cut off.",
            value=self.audit.lines if self.audit else 0,
        )

    def _fill(
        self, family: GaugeMetricFamily | CounterMetricFamily, values: Mapping[str, float]
    ) -> None:
        for model, emotion in self._emotions.pairs:
            value = values.get(emotion, 0.0) if model == self._emotions.known else 0.0
            family.add_metric((model, emotion), value)
