"""Counts finished reports as Prometheus metrics, as a sink."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Self

from prometheus_client import REGISTRY, CollectorRegistry, Counter, Gauge

import emoguard
from emoguard.errors import EmoGuardError
from emoguard.policy.annotation import describe
from emoguard.records import Alert, Report
from emoguard.sinks.protocols import Drift, Lines, Notices, Rate
from emoguard_prometheus.allowed import Emotions, encodable
from emoguard_prometheus.created import WithoutCreated
from emoguard_prometheus.health import HealthMetrics
from emoguard_prometheus.notices import NoticeMetrics
from emoguard_prometheus.responses import ResponseMetrics
from emoguard_prometheus.server import MetricsServer, check_port, serve
from emoguard_prometheus.state import StateMetrics
from emoguard_prometheus.steering import SteeringMetrics

if TYPE_CHECKING:
    from emoguard.site import Site


class PrometheusExporter:
    """Counts responses, scores, steering, notices and faults under `emoguard_…` in `registry`.

    `emotions` and `model` are the label values that get series of their own: the guard's labels and
    the name of the watched model. Everything else is counted as `other`, so that neither traffic
    nor a hostile file name can add series; requests, conversations and texts are never exported.
    All series exist from the start. Without a `registry` the exporter makes its own.

    `model_label` is the value of the label `model` instead of the model's name. `backend`, `probe`
    and `policy` only describe the process in `emoguard_build_info`, and `provisional` the probe.
    `targets` are certified crossings per response token by label (`from_policy` takes them from the
    calibration), `calibrated` is when the model was calibrated, in seconds since the epoch.
    `policy_successful` says whether the last reload of the policy went well. `profiles` are the
    notice profiles in force. `sinks` are the class names of the guard's sinks, whose failures are
    then told apart; `join` does the same for sinks at hand.

    Raises:
        EmoGuardError: one text where several names are wanted.
        ValueError: `registry` already holds these metrics.

    """

    def __init__(
        self,
        registry: CollectorRegistry | None = None,
        *,
        emotions: Sequence[str],
        model: str,
        model_label: str | None = None,
        backend: str = "",
        probe: str = "",
        policy: str = "default",
        provisional: bool = False,
        targets: Mapping[str, float] | None = None,
        calibrated: float = 0.0,
        policy_successful: Callable[[], bool] | None = None,
        profiles: Sequence[str] = (),
        sinks: Sequence[str] = ("PrometheusExporter",),
    ) -> None:
        for key, names in (("emotions", emotions), ("profiles", profiles), ("sinks", sinks)):
            if isinstance(names, str):
                raise EmoGuardError(f"{key}: wanted a list of names, got {describe(names)}")
        self.registry = CollectorRegistry() if registry is None else registry
        own = CollectorRegistry()
        overflow = Counter(
            "emoguard_label_overflow_total", "Label values counted as 'other'.", registry=own
        )
        known = Emotions(model, emotions, overflow, model_label)
        self._models = known.models
        _add_build_info(own, backend, known.known, probe, policy)
        Gauge(
            "emoguard_probe_provisional",
            "1 if a quick fit made the probe, which a whole one is to replace; else 0.",
            registry=own,
        ).set(provisional)
        self._responses = ResponseMetrics(own, known, overflow, targets or {})
        self._steering = SteeringMetrics(own, known)
        self._health = HealthMetrics(own, overflow, sinks, calibrated)
        self._state = StateMetrics(known, policy_successful)
        own.register(self._state)
        self.notices = NoticeMetrics(own, known.models, overflow, profiles)
        self._server: MetricsServer | None = None
        self._collector = WithoutCreated(own)
        self.registry.register(self._collector)

    @classmethod
    def from_policy(
        cls,
        site: Site,
        *,
        port: int = 9464,
        host: str = "127.0.0.1",
        process: bool = False,
        model_label: str | None = None,
    ) -> Self:
        """Make an exporter for `site` and serve it on `host`:`port`, until it is closed.

        Port 0 takes a free one. The default host is reachable from this machine only. With
        `process`, no port is opened: the metrics join those that this process exposes already.
        `model_label` keeps series under one name where the model's file is called otherwise.

        Raises:
            EmoGuardError: the port cannot be opened.

        """
        file = site.policy_file
        exporter = cls(
            REGISTRY if process else None,
            emotions=site.labels,
            model=site.identity.name,
            model_label=model_label,
            backend=site.backend,
            probe=site.probe.name,
            policy=file.path.name if file else "default",
            provisional=site.probe.is_provisional,
            # Bounds are per 1,000 window positions, of which a response has fewer than tokens.
            targets={label: t.bound / 1000 for label, t in site.thresholds.items() if t},
            calibrated=site.calibration.created if site.calibration else 0.0,
            policy_successful=(lambda: file.successful) if file else None,
            profiles=[profile.name for profile in site.policy.notices.followed()],
        )
        if not process:
            exporter._server = serve(exporter, port, host)
        return exporter

    @classmethod
    def check_policy(
        cls,
        *,
        port: int = 9464,
        host: str = "127.0.0.1",
        process: bool = False,
        **_labels: str | None,
    ) -> None:
        """Raise if `from_policy` could not serve on this host and port; leaves nothing behind.

        Raises:
            EmoGuardError: with the reason.

        """
        if not process:
            check_port(port, host)

    @property
    def url(self) -> str | None:
        """Return where `from_policy` serves `/metrics`, None when it is served otherwise."""
        return self._server.url if self._server else None

    def join(self, sinks: Iterable[object]) -> None:
        """Also export the guard's other sinks: their names, alarms and the audit log's length."""
        for sink in sinks:
            self._health.add_sink(type(sink).__name__)
            if isinstance(sink, Rate):
                self._state.rate = sink
            if isinstance(sink, Drift):
                self._state.drift = sink
            if isinstance(sink, Lines):
                self._state.audit = sink

    def show_notices(self, notices: Notices) -> None:
        """Also export the number of overdue notices."""
        self.notices.follow(notices)

    def report(self, report: Report) -> Sequence[Alert]:
        """Count one report; returns no alerts."""
        model = self._models.pick(report.model)
        self._responses.count(model, report)
        if report.receipt is not None:
            self._steering.count(model, report.receipt)
        if report.notice is not None:
            self.notices.count(model, report.notice)
        for part in report.denied:
            self.notices.denied(part)
        self._health.count(report)
        return ()

    def close(self) -> None:
        """Stop serving what `from_policy` serves. Idempotent."""
        if self._server is not None:
            self._server.close()
        if self.registry is REGISTRY:
            with contextlib.suppress(KeyError):
                self.registry.unregister(self._collector)


def _add_build_info(
    own: CollectorRegistry, backend: str, model: str, probe: str, policy: str
) -> None:
    names = ("version", "backend", "model", "probe", "policy")
    info = Gauge("emoguard_build_info", "What is running; always 1.", names, registry=own)
    facts = (emoguard.__version__, backend, model, probe, policy)
    info.labels(*map(encodable, facts)).set(1)
