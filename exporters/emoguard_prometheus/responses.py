"""Counts responses, their tokens and the ranks of their scores."""

from __future__ import annotations

import math
from collections.abc import Mapping

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram

from emoguard.records import STATUSES, LabelScore, Report
from emoguard_prometheus.allowed import Allowed, Emotions

RANKS = (0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 0.95, 0.99)


class ResponseMetrics:
    """Responses by status, their tokens, ranks and crossings, and the certified rate of crossings.

    `targets` are certified crossings per response token by label; a label without one is NaN, for
    which no comparison in an alert holds.
    """

    def __init__(
        self,
        own: CollectorRegistry,
        emotions: Emotions,
        overflow: Counter,
        targets: Mapping[str, float],
    ) -> None:
        self._emotions = emotions
        self._statuses = Allowed(STATUSES, overflow)
        self._add_traffic(own)
        self._add_scores(own)
        self._add_targets(own, targets)

    def count(self, model: str, report: Report) -> None:
        """Count one report on an allowed `model`, if it belongs to the policy's sample.

        Responses outside the sample reach sinks because of their reading or steering, and would
        bias every rate.
        """
        if not report.sampled:
            return
        self._responses[model, self._statuses.pick(report.status)].inc()
        if report.scores:
            self._tokens[model].inc(report.tokens_averaged)
        for label, score in report.scores.items():
            # A label that is reported but not monitored is no series, and no unknown one either.
            if score.verdict in {None, "usable"} or (self._emotions.known, label) in self._ranks:
                self._count_score(self._emotions.pick(model, label), score)

    def _count_score(self, pair: tuple[str, str], score: LabelScore) -> None:
        if score.rank is not None:
            self._ranks[pair].observe(score.rank)
        if score.crossings:
            self._crossings[pair].inc(score.crossings)

    def _add_traffic(self, own: CollectorRegistry) -> None:
        responses = Counter(
            "emoguard_responses_total",
            "Responses of the policy's sample by status.",
            ("model", "status"),
            registry=own,
        )
        tokens = Counter(
            "emoguard_response_tokens_total",
            "Preparation and response tokens behind the scores of responses.",
            ("model",),
            registry=own,
        )
        models, statuses = self._emotions.models.values, self._statuses.values
        self._responses = {(m, s): responses.labels(m, s) for m in models for s in statuses}
        self._tokens = {m: tokens.labels(m) for m in models}

    def _add_scores(self, own: CollectorRegistry) -> None:
        ranks = Histogram(
            "emoguard_response_rank_ratio",
            "Place of a response's mean score among those of neutral calibration responses.",
            ("model", "emotion"),
            buckets=RANKS,
            registry=own,
        )
        crossings = Counter(
            "emoguard_crossings_total",
            "Times the rolling mean of a score rose over its certified threshold.",
            ("model", "emotion"),
            registry=own,
        )
        self._ranks = {pair: ranks.labels(*pair) for pair in self._emotions.pairs}
        self._crossings = {pair: crossings.labels(*pair) for pair in self._emotions.pairs}

    def _add_targets(self, own: CollectorRegistry, targets: Mapping[str, float]) -> None:
        gauge = Gauge(
            "emoguard_alarm_target_ratio",
            "Crossings per response token that neutral responses are certified to stay below;"
            " NaN without a certified threshold.",
            ("model", "emotion"),
            registry=own,
        )
        for pair in self._emotions.pairs:
            gauge.labels(*pair).set(math.nan)
        for label, target in targets.items():
            pair = self._emotions.pick(self._emotions.known, label)
            gauge.labels(*pair).set(target)
