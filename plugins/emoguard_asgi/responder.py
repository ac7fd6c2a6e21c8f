"""Forwards the inner app's answer with the `emoguard` object added."""

from __future__ import annotations

from typing import Literal

from emoguard_asgi import choices, events
from emoguard_asgi.asgi import Message, Send, header, with_header, without_header
from emoguard_asgi.client import Client
from emoguard_asgi.delivery import NoticeDelivery, guarded

HEADER = b"x-emoguard-notice"
VERSION = 1
"""Version of the header's form."""

LARGEST_BODY = 8 * 1024 * 1024
LARGEST_EVENT = 1024 * 1024
"""Bytes held of a JSON body, and of an event, until it is whole. Longer ones are no completions and
pass unchanged."""

Form = Literal["body", "stream", "other"]


class Responder:
    """Forwards the messages of the inner app, one at a time.

    A JSON body is held until it is whole, because its length changes; of a stream, only the event
    that has not ended yet. Everything else passes unchanged except for the header, and so does a
    body or an event that is too long to hold.
    """

    def __init__(self, send: Send, client: Client, delivery: NoticeDelivery) -> None:
        self._send = send
        self._client = client
        self._delivery = delivery
        self._events = events.Events()
        self._form: Form = "other"
        self._start: Message = {}
        self._body = bytearray()
        self.complete = False
        """Whether all of it was sent to a client still connected."""

    async def send(self, message: Message) -> None:
        """Take one message."""
        left = self._client.left  # once all is sent, servers report every client as disconnected
        await self._pass(message)
        if message["type"] == "http.response.body" and not message.get("more_body", False):
            self.complete = not left

    async def _pass(self, message: Message) -> None:
        if message["type"] == "http.response.start":
            await self._begin(message)
        elif self._form == "other":
            await self._send(message)
        elif message["type"] != "http.response.body":
            # A message of an extension: it may send a file instead of a body.
            await self._release()
            await self._send(message)
        elif self._form == "stream":
            await self._follow(message)
        else:
            await self._collect(message)

    async def _begin(self, start: Message) -> None:
        self._form, self._start = _form(start), start
        if self._form == "stream":
            # The answer may become longer.
            open_end = without_header(start["headers"], b"content-length")
            await self._send(marked({**start, "headers": open_end}, self._delivery.standing))
        elif self._form == "other":
            await self._send(marked(start, self._delivery.standing))

    async def _collect(self, message: Message) -> None:
        self._body += message.get("body", b"")
        if message.get("more_body", False):
            if len(self._body) > LARGEST_BODY:
                await self._release()
            return
        whole = bytes(self._body)
        body, kind = guarded(lambda: self._completed(whole), (whole, self._delivery.standing))
        length = with_header(self._start["headers"], b"content-length", str(len(body)))
        left = self._client.left
        await self._send(marked({**self._start, "headers": length}, kind))
        await self._send({**message, "body": body})
        self._delivery.settle(left=left)

    async def _release(self) -> None:
        """Send everything held, and forward the rest unchanged."""
        form, self._form = self._form, "other"
        held = self._events.rest() if form == "stream" else bytes(self._body)
        if form == "body":
            await self._send(marked(self._start, self._delivery.standing))
        if held:
            await self._send({"type": "http.response.body", "body": held, "more_body": True})

    async def _follow(self, message: Message) -> None:
        more = message.get("more_body", False)
        whole = self._events.feed(message.get("body", b""))
        if not more:
            whole.append(self._events.rest())
        out = b"".join(map(self._passed, whole))
        # Forward the app's own empty messages, but send none for the mere beginning of an event.
        if out or not message.get("body") or not more:
            await self._send({**message, "body": out})
        if self._delivery.channel is not None:
            self._delivery.settle(left=self._client.left)
        if self._events.held > LARGEST_EVENT:
            await self._release()

    def _completed(self, body: bytes) -> tuple[bytes, str | None]:
        """Return a body with the object added, and the value of the header."""
        completion = choices.read(body)
        additions = None if completion is None else self._delivery.now()
        if completion is None or additions is None:
            return body, self._delivery.standing
        longer = choices.extended(completion, f"\n\n{additions.words}") if additions.words else None
        body = longer or body
        end = body.rindex(b"}")
        self._delivery.put(suffix=longer is not None)
        return body[:end] + b"," + additions.member + body[
            end:
        ], additions.kind or self._delivery.standing

    def _passed(self, event: bytes) -> bytes:
        """Return an event; one that ends a choice gets the object."""
        if choices.END.search(event) is None:  # true of most events, which pass unchanged
            return event
        return guarded(lambda: self._closed(event), event)

    def _closed(self, event: bytes) -> bytes:
        chunk = choices.read(events.data(event))
        additions = None if chunk is None else self._delivery.now()
        if chunk is None or additions is None:
            return event
        words = choices.closing(chunk, f"\n\n{additions.words}") if additions.words else None
        before = events.make(words, event) if words else b""
        longer = before + events.add_member(event, additions.member)
        self._delivery.put(suffix=words is not None)
        return longer


def marked(start: Message, kind: str | None) -> Message:
    """Return the start of a response with the header of the notice, if there is one."""
    if kind is None:
        return start
    headers = with_header(start.get("headers", ()), HEADER, f"{kind};v={VERSION}")
    return {**start, "headers": headers}


def _form(start: Message) -> Form:
    """Return the form of an answer; nothing can be added to `other`."""
    headers = list(start.get("headers", ()))
    kind = (header(headers, b"content-type") or "").partition(";")[0].strip().lower()
    encoding = header(headers, b"content-encoding") or "identity"
    if start["status"] != 200 or encoding != "identity":
        return "other"
    forms: dict[str, Form] = {"application/json": "body", "text/event-stream": "stream"}
    return forms.get(kind, "other")
