"""Metrics of the notices that users see."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import product

from prometheus_client import CollectorRegistry, Counter, Gauge

from emoguard_prometheus.allowed import OTHER, Allowed

REASONS = ("start", "interval", "steered", "amplified", "claim", "question")
"""First interaction, a timer, a steered or an amplifying response, a claim to feel or to be human,
a user who asked."""
CHANNELS = ("field", "header", "suffix")


class NoticeMetrics:
    """Notices by profile, reason and channel; those that are due and those that went astray.

    Whatever is not listed in one of them is counted as `other` in all, so that the series stay few.
    """

    def __init__(
        self,
        own: CollectorRegistry,
        models: Allowed,
        overflow: Counter,
        profiles: Sequence[str],
    ) -> None:
        names = ("model", "profile", "reason", "channel")
        notices = Counter("emoguard_notices_total", "Notices given to users.", names, registry=own)
        known = [model for model in models.values if model != OTHER]
        listed = [*product(known, dict.fromkeys(profiles), REASONS, CHANNELS)]
        self._other = notices.labels(*[OTHER] * 4)
        self._notices = {values: notices.labels(*values) for values in listed}
        self._overflow = overflow
        self._overdue = Gauge(
            "emoguard_notices_overdue", "Notices that are due and not yet given.", registry=own
        )
        self._undelivered = Counter(
            "emoguard_notices_undelivered_total",
            "Notices whose response was broken off before they were given.",
            registry=own,
        )

    def given(self, model: str, profile: str, reason: str, channel: str) -> None:
        """Count one notice that reached its response."""
        child = self._notices.get((model, profile, reason, channel))
        if child is None:
            self._overflow.inc()
            child = self._other
        child.inc()

    def undelivered(self) -> None:
        """Count one notice that was lost with its response."""
        self._undelivered.inc()

    def overdue(self, notices: int) -> None:
        """Say how many notices are due and not yet given."""
        self._overdue.set(notices)
