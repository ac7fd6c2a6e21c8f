"""Sends events to one viewer, who may be slow, gone, or never read at all."""

from __future__ import annotations

import asyncio
from typing import Any

from emoguard_asgi.asgi import Headers, Receive, Send

from emoguard_page.board import encoded

PING_SECONDS = 10.0
"""Seconds of silence after which a comment is sent, to keep proxies and the page connected."""


class Viewer:
    """Sends events; each is written once the connection has taken the one before.

    Nothing is queued: the sender looks at the state when it can send again, so that a viewer that
    never reads costs no memory.
    """

    def __init__(self, send: Send, headers: Headers) -> None:
        self._send = send
        self._headers = list(headers)
        self._last = 0.0

    async def begin(self) -> None:
        """Send the head of the stream."""
        headers = [
            (b"content-type", b"text/event-stream; charset=utf-8"),
            (b"x-accel-buffering", b"no"),  # nginx would hold the events back
            *self._headers,
        ]
        await self._send({"type": "http.response.start", "status": 200, "headers": headers})
        await self._write(b": \n\n")

    async def event(self, name: str, data: Any) -> None:
        """Send one event with JSON data."""
        await self.event_of(name, encoded(data))

    async def event_of(self, name: str, text: str) -> None:
        """Send one event with data that are JSON already, in one line of ASCII."""
        await self._write(f"event: {name}\ndata: {text}\n\n".encode("ascii"))

    async def keep_alive(self) -> None:
        """Send a comment if nothing was sent for a while."""
        if asyncio.get_running_loop().time() - self._last >= PING_SECONDS:
            await self._write(b": still here\n\n")

    async def end(self) -> None:
        """End the stream."""
        await self._send({"type": "http.response.body", "body": b"", "more_body": False})

    async def _write(self, data: bytes) -> None:
        await self._send({"type": "http.response.body", "body": data, "more_body": True})
        self._last = asyncio.get_running_loop().time()


async def gone(receive: Receive) -> None:
    """Return when the viewer has disconnected."""
    message = await receive()
    while message["type"] != "http.disconnect":
        await asyncio.sleep(0.01)  # a layer in front may return at once, for ever
        message = await receive()
