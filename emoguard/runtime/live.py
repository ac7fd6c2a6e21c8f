"""Detects a crossing while a response is still being generated, between two forward passes."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Sequence
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from emoguard.records import Alert, Report
from emoguard.runtime.attention import only_token
from emoguard.runtime.phases import REASONING, Marker, Thinking
from emoguard.site import Site

Prompt = Callable[[], tuple[Sequence[int], Thinking | None]]
"""Returns the token ids of a prompt and the marks of reasoning that hold for it."""


class Counted:
    """Decides for each generated token whether a report's scores include its row.

    They leave out reasoning and rows read at an attention sink. Whether reasoning will be closed is
    not known yet: see `alert_late`.
    """

    def __init__(self, prompt_ids: Sequence[int], thinking: Thinking | None) -> None:
        self._marker = Marker(prompt_ids, thinking)
        self._only = only_token(prompt_ids)

    def __call__(self, token: int) -> bool:
        """Return whether the row that the next token was chosen from counts."""
        phase, at_sink = self._marker.next(token), self._only is not None
        if token != self._only:
            self._only = None
        return phase != REASONING and not at_sink


class LiveAlarm:
    """Follows one response if the policy demands more on a crossing than a count in the report.

    `make` returns None if the policy only reports, or if no label has a certified threshold: then
    tokens need not be followed. `raise_alert` is called with every crossing; `report_id` returns
    the id of its report, which gets a number once the batch is known; `decode` makes text of token
    ids.
    """

    def __init__(
        self,
        site: Site,
        raise_alert: Callable[[Alert], None],
        report_id: Callable[[], str],
        prompt: Prompt,
        decode: Callable[[Sequence[int]], str],
    ) -> None:
        self._labels = site.read
        self._raise_alert = raise_alert
        self._report_id = report_id
        self._prompt = prompt
        self._decode = decode
        self._window = deque[int](maxlen=site.policy.alarms.window_tokens)
        self._crossings = site.crossings()
        self._stops = site.policy.alarms.on_alert == "stop"

    @classmethod
    def make(
        cls,
        site: Site,
        raise_alert: Callable[[Alert], None],
        report_id: Callable[[], str],
        prompt: Prompt,
        decode: Callable[[Sequence[int]], str],
    ) -> LiveAlarm | None:
        """Return a follower of one response, or None if the policy only reports."""
        if site.policy.alarms.on_alert == "report" or not any(site.thresholds.values()):
            return None
        return cls(site, raise_alert, report_id, prompt, decode)

    @cached_property
    def _counts(self) -> Counted:
        """The counter of this response, made with its first token, when the prompt is known."""
        return Counted(*self._prompt())

    def update(self, token: int, z: NDArray[np.floating]) -> str | None:
        """Take a token and the z (labels,) it was chosen from; return why to stop, if so."""
        if not (self._counts(token) and np.isfinite(z).all()):
            return None
        self._window.append(token)
        labels = [self._labels[n] for n in self._crossings.update(z)]
        if not labels:
            return None
        where, means = "while the response was generated", self._crossings.means.tolist()
        scores, text = dict(zip(self._labels, means, strict=True)), self._text()
        for label in labels:
            self._raise_alert(_crossing(label, where, self._report_id(), scores, text))
        if not self._stops:
            return None
        return f"{', '.join(labels)} rose over the certified threshold: the policy says stop"

    def _text(self) -> str:
        """Return the window's text, "" if it cannot be decoded."""
        try:
            return self._decode([*self._window])
        except Exception:  # noqa: BLE001  (a stop must not fail with the text of its alert)
            return ""


def alert_late(
    site: Site,
    raise_alert: Callable[[Alert], None],
    report: Report,
    text: Callable[[], str],
) -> None:
    """Raise the alerts of a response whose reasoning was never closed: its end shows them first."""
    crossed = [label for label, score in report.scores.items() if score.crossings]
    if not crossed or report.reasoning != "unclosed" or site.policy.alarms.on_alert == "report":
        return
    where, whole = "in reasoning that was never closed", text()
    peaks = {n: score.peak for n, score in report.scores.items() if score.peak is not None}
    for label in crossed:
        raise_alert(_crossing(label, where, report.id, peaks, whole))


def _crossing(label: str, where: str, report_id: str, scores: dict[str, float], text: str) -> Alert:
    message = f"{label} rose over its certified threshold {where}"
    return Alert("crossing", label, "warning", message, report_id, scores, text)
