"""The sink that turns finished reports into Prometheus metrics."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, Metric

import emoguard
from emoguard.records import STATUSES, Alert, LabelScore, Report
from emoguard_prometheus.allowed import OTHER, Allowed, encodable

RANKS = (0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 0.95, 0.99)
SECONDS = (0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0)


class PrometheusExporter:
    """Counts reports, tokens, ranks and faults under `emoguard_…` in `registry`.

    `emotions` and `model` are the label values that get series of their own: the guard's labels and
    the name of the watched model. Everything else is counted as `other`, so that neither traffic
    nor a hostile file name can add series; requests, conversations and texts are never exported.
    `backend`, `probe` and `policy` only describe the process in `emoguard_build_info`. `sinks` are
    the class names of the guard's sinks, whose failures are then told apart. Without a `registry`
    the exporter makes its own.

    Raises:
        ValueError: `registry` already holds these metrics.

    """

    def __init__(
        self,
        registry: CollectorRegistry | None = None,
        *,
        emotions: Sequence[str],
        model: str,
        backend: str = "",
        probe: str = "",
        policy: str = "default",
        sinks: Sequence[str] = ("PrometheusExporter",),
    ) -> None:
        self.registry = CollectorRegistry() if registry is None else registry
        own = CollectorRegistry()
        self._overflow = _counter(own, "label_overflow", "Label values counted as 'other'.")
        self._models = Allowed([model], self._overflow)
        self._statuses = Allowed(STATUSES, self._overflow)
        self._emotions = Allowed(emotions, self._overflow)
        self._parts = Allowed(["reading", *(f"sink:{name}" for name in sinks)], self._overflow)
        _add_build_info(own, backend, model, probe, policy)
        self._add_traffic(own)
        self._add_ranks(own)
        self._add_health(own)
        self.registry.register(_WithoutCreated(own))

    def report(self, report: Report) -> Sequence[Alert]:
        """Count one report; returns no alerts."""
        model = self._models.pick(report.model)
        self._responses[model, self._statuses.pick(report.status)].inc()
        if report.scores:
            phases = report.phases
            self._tokens[model].inc(phases.get("preparation", 0) + phases.get("response", 0))
        for label, score in report.scores.items():
            self._observe_rank(model, label, score)
        for part in report.faults:
            self._errors[self._parts.pick(part)].inc()
        self._overhead.observe(report.overhead_seconds)
        self._last.set(report.created)
        return ()

    def _observe_rank(self, model: str, label: str, score: LabelScore) -> None:
        if score.rank is None:
            return
        # Ranks of an unknown model share one series: their labels are another probe's.
        emotion = self._emotions.pick(label) if model != OTHER else OTHER
        self._ranks[model, emotion].observe(score.rank)

    def _add_traffic(self, own: CollectorRegistry) -> None:
        responses = _counter(own, "responses", "Responses by status.", "model", "status")
        tokens = _counter(
            own,
            "response_tokens",
            "Preparation and response tokens behind the scores of responses.",
            "model",
        )
        models, statuses = self._models.values, self._statuses.values
        self._responses = {(m, s): responses.labels(m, s) for m in models for s in statuses}
        self._tokens = {m: tokens.labels(m) for m in models}

    def _add_ranks(self, own: CollectorRegistry) -> None:
        ranks = Histogram(
            "emoguard_response_rank_ratio",
            "Place of a response's mean score among those of neutral calibration responses.",
            ("model", "emotion"),
            buckets=RANKS,
            registry=own,
        )
        known = [m for m in self._models.values if m != OTHER]
        pairs = [(m, e) for m in known for e in self._emotions.values] + [(OTHER, OTHER)]
        self._ranks = {pair: ranks.labels(*pair) for pair in pairs}

    def _add_health(self, own: CollectorRegistry) -> None:
        errors = _counter(own, "errors", "Failures by the part that failed.", "part")
        self._errors = {part: errors.labels(part) for part in self._parts.values}
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


class _WithoutCreated:
    """The metrics of `own` without their `_created` samples.

    prometheus_client can leave those out only for the whole process, which is not ours to decide.
    """

    def __init__(self, own: CollectorRegistry) -> None:
        self._own = own

    def collect(self) -> Iterable[Metric]:
        for metric in self._own.collect():
            metric.samples = [s for s in metric.samples if not s.name.endswith("_created")]
            yield metric

    # The registry asks this on registration, to refuse a second exporter with the same names.
    describe = collect


def _counter(own: CollectorRegistry, name: str, text: str, *labels: str) -> Counter:
    return Counter(f"emoguard_{name}_total", text, labels, registry=own)


def _add_build_info(
    own: CollectorRegistry, backend: str, model: str, probe: str, policy: str
) -> None:
    names = ("version", "backend", "model", "probe", "policy")
    info = Gauge("emoguard_build_info", "What is running; always 1.", names, registry=own)
    told = (emoguard.__version__, backend, model, probe, policy)
    info.labels(*map(encodable, told)).set(1)
