"""Counts the notices that users see."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import product
from typing import TYPE_CHECKING, get_args

from prometheus_client import CollectorRegistry, Counter, Gauge

from emoguard.records import Channel, Reason
from emoguard_prometheus.allowed import OTHER, Allowed

if TYPE_CHECKING:
    from emoguard.records import Notice
    from emoguard.sinks.protocols import Notices

REASONS: tuple[str, ...] = get_args(Reason)
"""First interaction, a timer, a steered or an amplifying response, a prompt that sets the tone, a
claim to feel or to be human, a user who asked, an earlier notice that was lost."""
CHANNELS: tuple[str, ...] = get_args(Channel)
NO_PROFILE = "none"
"""The profile of a notice that no profile demands: steering or amplification is the only reason."""
PARTS = ("plan", "scores", "channel", "conversation")
"""The parts of a request over a server's wire."""


class NoticeMetrics:
    """Notices by profile, reason and channel; those that are overdue and those that were lost.

    A value outside one of these lists is counted as `other` in all of them, so that series stay
    few.
    """

    def __init__(
        self,
        own: CollectorRegistry,
        models: Allowed,
        overflow: Counter,
        profiles: Sequence[str],
    ) -> None:
        names = ("model", "profile", "reason", "channel")
        notices = Counter(
            "emoguard_notices_total",
            "Notices given to users; one counts for each of its profiles and reasons.",
            names,
            registry=own,
        )
        known = [model for model in models.values if model != OTHER]
        followed = dict.fromkeys((*profiles, NO_PROFILE))
        self._other = notices.labels(*[OTHER] * 4)
        self._notices = {
            values: notices.labels(*values)
            for values in product(known, followed, REASONS, CHANNELS)
        }
        self._overflow = overflow
        self._overdue = Gauge(
            "emoguard_notices_overdue",
            "Notices that are late by more than one response, or stuck on their way.",
            registry=own,
        )
        self._undelivered = Counter(
            "emoguard_notices_undelivered_total",
            "Notices whose response was broken off before they were given.",
            registry=own,
        )
        denied = Counter(
            "emoguard_requests_denied_total",
            "Responses to requests that asked for what the policy does not allow, by what it was.",
            ("part",),
            registry=own,
        )
        self._parts = Allowed(PARTS, overflow)
        self._denied = {part: denied.labels(part) for part in self._parts.values}

    def count(self, model: str, notice: Notice) -> None:
        """Count one notice that was given to a user, or lost."""
        if notice.channel is None:
            self.undelivered()
            return
        for profile, reason in product(notice.profiles or (NO_PROFILE,), notice.reasons):
            self.given(model, profile, reason, notice.channel)

    def given(self, model: str, profile: str, reason: str, channel: str) -> None:
        """Count one notice under one profile and for one reason."""
        child = self._notices.get((model, profile, reason, channel))
        if child is None:
            self._overflow.inc()
            child = self._other
        child.inc()

    def undelivered(self) -> None:
        """Count one notice that was lost with its response."""
        self._undelivered.inc()

    def follow(self, notices: Notices) -> None:
        """Read the number of overdue notices from `notices` at each scrape."""
        self._overdue.set_function(notices.overdue)

    def denied(self, part: str) -> None:
        """Count one response to a request that asked for `part` and was not allowed."""
        self._denied[self._parts.pick(part)].inc()
