"""The other end of one request: its body, read once, and whether it is still there."""

from __future__ import annotations

import asyncio
from contextlib import suppress
from types import TracebackType
from typing import Self

from emoguard_asgi.asgi import Message, Receive


class TooLargeError(Exception):
    """The body is larger than it may be."""


class LeftError(Exception):
    """The client went away before its request was complete."""


class Client:
    """Reads the body, then watches for the disconnect, in a task that ends with the `with` block.

    The server's `receive` has one reader only, so that nobody misses the message; the inner app
    gets `receive` of this object instead.
    """

    def __init__(self, receive: Receive) -> None:
        self._receive = receive
        self._body: bytes | None = None
        self._left = asyncio.Event()
        self._task: asyncio.Task[None] | None = None

    @property
    def left(self) -> bool:
        """Return whether the client is known to be gone."""
        return self._left.is_set()

    async def read(self, most: int) -> bytes:
        """Return the whole body.

        Raises:
            TooLargeError: it has more than `most` bytes; the rest is not read.
            LeftError: the client disconnected before its end.

        """
        parts, size, more = [], 0, True
        while more:
            message = await self._receive()
            if message["type"] == "http.disconnect":
                raise LeftError
            parts.append(message.get("body", b""))
            size += len(parts[-1])
            if size > most:
                raise TooLargeError
            more = message.get("more_body", False)
        return b"".join(parts)

    def replay(self, body: bytes) -> None:
        """Give the inner app this body, and start to watch for the disconnect."""
        self._body = body
        self._task = asyncio.create_task(self._watch())

    async def receive(self) -> Message:
        """Return the body, and after it the disconnect, when that comes."""
        if self._body is not None:
            body, self._body = self._body, None
            return {"type": "http.request", "body": body, "more_body": False}
        await self._left.wait()
        return {"type": "http.disconnect"}

    async def _watch(self) -> None:
        while (await self._receive())["type"] != "http.disconnect":
            pass
        self._left.set()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if self._task is not None:
            self._task.cancel()
            with suppress(asyncio.CancelledError):
                await self._task
