"""The stream that an open page listens to: what it is of, and the operator's view."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

from emoguard_page import operators
from emoguard_page.shown import Shown
from emoguard_page.viewers import Viewer

TICK_SECONDS = 0.5
"""Time between two looks at what is new."""

STATE_TICKS = 10
"""Looks after which the state is taken also if no report came: a notice may be overdue by then."""

PORTION = 100
"""Responses in one event: the first of a page may have to bring a thousand."""


async def follow(viewer: Viewer, shown: Shown, is_open: Callable[[], bool], view: str) -> None:
    """Send what is new until the server closes; `view` is `chat` or `operator`."""
    await viewer.begin()
    known: object = shown  # is no policy, so that the first look sends it
    about: dict[str, Any] = {}
    desk = Desk(shown) if view == "operator" and shown.traffic is not None else None
    while is_open():
        await shown.refresh()
        if shown.about_changes() is not known:
            known, about = shown.about_changes(), shown.about()
            await viewer.event("about", about)
        if desk is not None:
            await desk.send_news(viewer, about)
        await viewer.keep_alive()
        await asyncio.sleep(TICK_SECONDS)
    await viewer.event("bye", {})
    await viewer.end()


class Desk:
    """What one viewer of the operator's view has been sent."""

    def __init__(self, shown: Shown) -> None:
        self._shown = shown
        self._number = -1
        self._ticks = 0
        self._sent: dict[str, Any] = {}

    async def send_news(self, viewer: Viewer, about: dict[str, Any]) -> None:
        """Send the responses that came, and whatever else has changed."""
        labels = [each["name"] for each in about["labels"]]
        traffic = self._shown.traffic
        assert traffic is not None
        if self._number < 0 or traffic.taken < self._number:  # a log may have been cut short
            self._number = 0
            await viewer.event("reset", {})
        came = traffic.taken > self._number
        while news := traffic.since(self._number)[:PORTION]:
            rows = [operators.row(n, report, labels, about["window"]) for n, report in news]
            await viewer.event("responses", rows)
            self._number = news[-1][0]
        if came or self._ticks % STATE_TICKS == 0:
            await self._send_changed(viewer, "state", self._shown.state())
            await self._send_changed(viewer, "alerts", self._shown.alerts())
        self._ticks += 1
        await self._send_changed(viewer, "open", self._shown.open_responses())

    async def _send_changed(self, viewer: Viewer, name: str, data: Any) -> None:
        if self._sent.get(name) != data:
            self._sent[name] = data
            await viewer.event(name, data)
