"""Sends the stream that an open page listens to: its subject, and the operator's view."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

from emoguard_page.board import Board
from emoguard_page.shown import Shown
from emoguard_page.viewers import Viewer

TICK_SECONDS = 0.5
"""Seconds between two looks for news."""

PORTION = 100
"""Responses in one event: the first of a page may have to bring a thousand."""


async def follow(
    viewer: Viewer, shown: Shown, board: Board | None, is_open: Callable[[], bool]
) -> None:
    """Send news until the server closes; without a `board` only the page's subject."""
    await viewer.begin()
    known: object = shown  # equals no policy, so that the first look sends it
    news = None if board is None else News(board)
    while is_open():
        await shown.refresh()
        if shown.about_changes() is not known:
            known = shown.about_changes()
            await viewer.event("about", shown.about())
        if news is not None:
            await news.send(viewer)
        await viewer.keep_alive()
        await asyncio.sleep(TICK_SECONDS)
    await viewer.event("bye", {})
    await viewer.end()


class News:
    """The part of the operator's view that one viewer has not been sent yet."""

    def __init__(self, board: Board) -> None:
        self._board = board
        self._number = -1
        self._sent: dict[str, str] = {}

    async def send(self, viewer: Viewer) -> None:
        """Send the new responses and everything else that has changed."""
        board = self._board
        if self._number < 0 or board.taken < self._number:  # a log may have been cut short
            self._number = 0
            await viewer.event("reset", {})
        while board.taken > self._number:
            self._number, rows = board.rows(self._number, PORTION)
            await viewer.event_of("responses", rows)
            await asyncio.sleep(
                0
            )  # other viewers get their turn while a new one is sent a thousand
        await self._send_changed(viewer, "state", board.state())
        await self._send_changed(viewer, "alerts", board.alerts())
        await self._send_changed(viewer, "open", board.open_responses())

    async def _send_changed(self, viewer: Viewer, name: str, text: str) -> None:
        if self._sent.get(name) != text:
            self._sent[name] = text
            await viewer.event_of(name, text)
