"""Notices a crossing while a response is still being generated, between two forward passes."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

from emoguard.attention import only_token
from emoguard.phases import REASONING, Marker
from emoguard.records import Alert, Request

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from emoguard.guard import Guard
    from emoguard.identity import ModelIdentity
    from emoguard.phases import Thinking


class LiveAlarm:
    """Follows one response where the policy wants more of a crossing than a count in the report.

    `make` gives none where the policy only wants reports, or where no label has a certified
    threshold: then nothing has to be looked at while tokens come.
    """

    def __init__(
        self,
        guard: Guard,
        identity: ModelIdentity,
        request: Request,
        prompt_ids: Sequence[int],
        thinking: Thinking | None,
    ) -> None:
        self._guard = guard
        self._request = request
        self._marker = Marker(prompt_ids, thinking)
        self._only = only_token(prompt_ids)
        self._crossings = guard.crossings(identity)
        self._stops = guard.policy.alarms.on_alert == "stop"

    @classmethod
    def make(
        cls,
        guard: Guard,
        identity: ModelIdentity,
        request: Request,
        prompt_ids: Sequence[int],
        thinking: Thinking | None,
    ) -> LiveAlarm | None:
        """Return what follows a response, None where nobody wants to know."""
        if guard.policy.alarms.on_alert == "report" or not any(guard.thresholds(identity)):
            return None
        return cls(guard, identity, request, prompt_ids, thinking)

    def update(self, token: int, z: NDArray[np.floating]) -> str | None:
        """Take a token and the z (labels,) it was chosen from; return why to stop, if so.

        The guard is told of every crossing. Rows that a report leaves out of its scores are left
        out here: reasoning, attention sinks, and those that are not finite.
        """
        phase, at_sink = self._marker.next(token), self._only is not None
        if token != self._only:
            self._only = None
        if phase == REASONING or at_sink or not np.isfinite(z).all():
            return None
        labels = [self._guard.labels[n] for n in self._crossings.update(z)]
        for label in labels:
            self._guard.alert(
                Alert(
                    "crossing",
                    label,
                    "warning",
                    f"{label} rose over its certified threshold while the response was generated",
                    self._request.id,
                )
            )
        if not (labels and self._stops):
            return None
        return f"{', '.join(labels)} rose over the certified threshold: the policy says stop"
