"""Encodes the operator's view once for all its viewers."""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from typing import Any

from emoguard_page import operators
from emoguard_page.shown import Shown
from emoguard_page.traffic import Traffic

FRESH_SECONDS = 0.4
"""Seconds that a state is reused: fewer than viewers wait between two looks."""

STATE_SECONDS = 5.0
"""The same for what changes with reports, if none came: a notice may be overdue by then."""


class Board:
    """Encodes `shown` when the first viewer asks, and keeps the result for the others.

    Rows of responses are kept as long as their reports are: about 300 bytes each.
    """

    def __init__(self, shown: Shown) -> None:
        self._shown = shown
        self._traffic: Traffic | None = None
        self._labels: tuple[list[str], int] = ([], 1)
        self._rows: dict[int, str] = {}
        self._parts: dict[str, tuple[float, int, str]] = {}

    @property
    def taken(self) -> int:
        """Return the number of the last report."""
        return 0 if self._shown.traffic is None else self._shown.traffic.taken

    def rows(self, number: int, most: int) -> tuple[int, str]:
        """Return at most `most` responses after the `number`-th, as JSON, and the last's number."""
        traffic = self._shown.traffic
        if traffic is None:
            return number, "[]"
        if traffic is not self._traffic:
            about = self._shown.about()
            self._traffic, self._rows = traffic, {}
            self._labels = [each["name"] for each in about["labels"]], about["window"]
        news = traffic.since(number)[:most]
        for n, report in news:
            if n not in self._rows:
                self._rows[n] = encoded(operators.row(n, report, *self._labels))
        while len(self._rows) > traffic.keeps:
            del self._rows[min(self._rows)]
        text = ",".join(self._rows[n] for n, _ in news if n in self._rows)
        return (news[-1][0] if news else number), f"[{text}]"

    def state(self) -> str:
        """Return counts, evidence and faults, as JSON."""
        return self._part("state", self._shown.state, STATE_SECONDS)

    def alerts(self) -> str:
        """Return the last alerts, as JSON."""
        return self._part("alerts", self._shown.alerts, STATE_SECONDS)

    def open_responses(self) -> str:
        """Return the responses that are being generated, as JSON."""
        return self._part("open", self._shown.open_responses, FRESH_SECONDS)

    def _part(self, name: str, make: Callable[[], Any], seconds: float) -> str:
        """Return the result of `make`, renewed at most every 0.4 s and at least every `seconds`."""
        now, taken = time.monotonic(), self.taken
        written, of, text = self._parts.get(name, (-STATE_SECONDS, -1, ""))
        age = now - written
        if age >= seconds or (of != taken and age >= FRESH_SECONDS):
            text = encoded(make())
            self._parts[name] = now, taken, text
        return text


def encoded(data: Any) -> str:
    """Return data as JSON in ASCII, without blanks."""
    return json.dumps(data, allow_nan=False, separators=(",", ":"))
