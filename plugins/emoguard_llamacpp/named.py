"""Names the model in requests without one, for which the server would answer with a file path."""

from __future__ import annotations

import json

from emoguard_asgi.asgi import App, Message, Receive, Scope, Send


class NamedModel:
    """An ASGI layer around the routes: it puts `name` into JSON objects without a `model`.

    It reads whole bodies, which an outer layer must bound.
    """

    def __init__(self, app: App, name: str) -> None:
        self._app = app
        self._name = name

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one connection."""
        if scope["type"] != "http" or scope["method"] != "POST":
            await self._app(scope, receive, send)
            return
        body = bytearray()
        while True:
            message = await receive()
            if message["type"] != "http.request":
                break  # the client left: the routes notice as usual
            body += message.get("body", b"")
            if not message.get("more_body", False):
                message = {**message, "body": self._named(bytes(body))}
                break
        length = b"%d" % len(message.get("body", b""))
        headers = [pair for pair in scope["headers"] if pair[0].lower() != b"content-length"]
        first: list[Message] = [message]

        async def replayed() -> Message:
            return first.pop() if first else await receive()

        named = {**scope, "headers": [*headers, (b"content-length", length)]}
        await self._app(named, replayed, send)

    def _named(self, body: bytes) -> bytes:
        try:
            sent = json.loads(body)
        except (ValueError, RecursionError):  # the routes refuse it in their own words
            return body
        if not isinstance(sent, dict) or sent.get("model") is not None:
            return body
        return json.dumps({**sent, "model": self._name}).encode("ascii")
