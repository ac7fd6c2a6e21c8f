"""Reads the body of one request once, and watches for its client's disconnect."""

from __future__ import annotations

import asyncio
import logging
from types import TracebackType
from typing import Self

from emoguard_asgi.asgi import Message, Receive
from emoguard_asgi.gate import Gate

log = logging.getLogger("emoguard")

PAUSE_SECONDS = 0.01
"""Pause after a message without a byte: a layer in front may send them without end."""


class LeftError(Exception):
    """The client disconnected before its request was complete."""


class Client:
    """Reads the body, then waits for the disconnect, in a task that ends with the `with` block.

    The server's `receive` has only one reader, so that no message is missed; the inner app gets
    this object's `receive` instead. Layers of others may lie between them whose `receive` returns
    at once, for ever: every loop here yields to the event loop.
    """

    def __init__(self, receive: Receive, gate: Gate) -> None:
        self._receive = receive
        self._gate = gate
        self._held = 0
        self._body: bytes | None = None
        self._left = asyncio.Event()
        self._task: asyncio.Task[None] | None = None

    @property
    def left(self) -> bool:
        """Return whether the client is known to be gone."""
        return self._left.is_set()

    async def read(self) -> bytes:
        """Return the whole body, within the limits of the gate.

        Raises:
            RefusedError: it is too large or too slow, or there is no room; the rest is not read.
            LeftError: the client disconnected before its end.

        """
        # One buffer: a list of parts would hold fifty bytes for each that a client sends alone.
        body = bytearray()
        try:
            async with asyncio.timeout(self._gate.body_seconds):
                while await self._read_into(body):
                    pass
        except TimeoutError:
            raise self._gate.too_slow() from None
        return bytes(body)

    async def _read_into(self, body: bytearray) -> bool:
        """Add one message to the body; return whether more will come."""
        message = await self._receive()
        if message["type"] == "http.disconnect":
            raise LeftError
        part = message.get("body") or b""
        self._gate.take(len(part), self._held)
        self._held += len(part)
        body += part
        more: bool = message.get("more_body", False)
        if more:
            await asyncio.sleep(0 if part else PAUSE_SECONDS)
        return more

    def replay(self, body: bytes) -> None:
        """Set the body for the inner app and start waiting for the disconnect."""
        self._body = body
        self._task = asyncio.create_task(self._watch())

    async def receive(self) -> Message:
        """Return the body; at later calls, wait for the disconnect and return it."""
        if self._body is not None:
            body, self._body = self._body, None
            return {"type": "http.request", "body": body, "more_body": False}
        await self._left.wait()
        return {"type": "http.disconnect"}

    async def _watch(self) -> None:
        """Wait for the disconnect, once.

        After the body nothing else may come. A layer in front that returns anything else returns it
        again and again, and never reports a disconnect.
        """
        try:
            message = await self._receive()
        except Exception:
            log.warning("receive() failed: whether the client leaves is not known", exc_info=True)
            return
        if message["type"] == "http.disconnect":
            self._left.set()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._gate.give_back(self._held)
        if self._task is not None:
            self._task.cancel()
            await asyncio.wait([self._task])
