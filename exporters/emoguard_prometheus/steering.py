"""Counts steering, from the receipts of responses."""

from __future__ import annotations

from collections.abc import Iterator

from prometheus_client import CollectorRegistry, Counter, Gauge

from emoguard.records import Receipt
from emoguard_prometheus.allowed import Emotions

OUTCOMES = ("applied", "clipped", "faulted")
PARTS = ("add", "cap", "floor", "ablate")
"""Where a receipt's plan names labels."""


class SteeringMetrics:
    """Counts tokens by the effect of steering on them, and the largest dose."""

    def __init__(self, own: CollectorRegistry, emotions: Emotions) -> None:
        self._emotions = emotions
        tokens = Counter(
            "emoguard_steering_tokens_total",
            "Tokens of responses whose plan names an emotion, by outcome as in their receipts:"
            " clipped ones are applied too.",
            ("model", "emotion", "outcome"),
            registry=own,
        )
        dose = Gauge(
            "emoguard_steering_dose_ratio_max",
            "Largest dose of a token since the start: how far it was moved, as a share of its"
            " residual's length.",
            ("model",),
            registry=own,
        )
        self._tokens = {
            pair: {outcome: tokens.labels(*pair, outcome) for outcome in OUTCOMES}
            for pair in emotions.pairs
        }
        self._dose = {model: dose.labels(model) for model in emotions.models.values}
        self._largest = dict.fromkeys(self._dose, 0.0)

    def count(self, model: str, receipt: Receipt) -> None:
        """Count one receipt on an allowed `model`; a token counts for each emotion of its plan."""
        for label in _named(receipt):
            children = self._tokens[self._emotions.pick(model, label)]
            for outcome in OUTCOMES:
                children[outcome].inc(getattr(receipt, outcome))
        if receipt.dose_max is not None and receipt.dose_max > self._largest[model]:
            self._largest[model] = receipt.dose_max
            self._dose[model].set(receipt.dose_max)


def _named(receipt: Receipt) -> Iterator[str]:
    seen: dict[str, None] = {}
    for part in PARTS:
        seen |= dict.fromkeys(receipt.plan.get(part, ()))
    return iter(seen)
