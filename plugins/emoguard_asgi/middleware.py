"""The middleware: what EmoGuard saw goes out with the answers of an OpenAI-compatible app."""

from __future__ import annotations

import hmac

from emoguard.errors import EmoGuardError
from emoguard.protocols import Watch
from emoguard.records import Request
from emoguard.session import REQUEST
from emoguard_asgi.answer import Answer, marked
from emoguard_asgi.asgi import App, Message, Receive, Scope, Send, header, with_header
from emoguard_asgi.asked import Asked, read
from emoguard_asgi.client import Client, LeftError, TooLargeError
from emoguard_asgi.error import refuse
from emoguard_asgi.told import Told, standing_kind

ROUTES = "/completions"
"""How the paths end whose answers are generated: chat, plain, and a server's aliases of them."""

UNWANTED = (b"accept-encoding", b"transfer-encoding")
"""Headers that the app does not get: an answer that it compressed could not be added to, and the
body is whole by then."""

MIB = 1024 * 1024


class EmoGuardMiddleware:
    """Wraps an ASGI app whose completions are generated, in this process, under `watch`.

    Answers of completion routes carry the `emoguard` object where something is to be told: JSON
    bodies, and the chunks of a stream that end a choice. All answers carry the header
    `x-emoguard-notice` while the policy follows a profile. Nothing else is changed by a byte, and
    no chunk waits for another. What a request asks of EmoGuard is taken out of its body before the
    app sees it, and is granted as far as the policy says.

    Whoever lacks the `api_key` is left to the app to refuse: nothing of theirs is read. Bodies of
    more than `max_body_bytes` are refused. Where `EMOGUARD_DISABLE=1` made the watch an empty one,
    everything passes.
    """

    def __init__(
        self,
        app: App,
        watch: Watch,
        *,
        api_key: str | None = None,
        max_body_bytes: int = 16 * MIB,
    ) -> None:
        self._app = app
        self._watch = watch
        self._api_key = api_key
        self._most = max_body_bytes

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one connection: an HTTP request is looked at, all else passes."""
        if scope["type"] != "http" or self._watch.guard is None:
            await self._app(scope, receive, send)
        elif scope["method"] == "POST" and scope["path"].endswith(ROUTES):
            await self._complete(scope, receive, send)
        else:
            await self._app(scope, receive, self._marking(send))

    async def _complete(self, scope: Scope, receive: Receive, send: Send) -> None:
        refusing = self._marking(send)
        encoding = header(scope["headers"], b"content-encoding") or "identity"
        if encoding != "identity":
            what = f"wanted a plain body, got content-encoding {encoding}: send it uncompressed"
            await refuse(refusing, 415, what, code="unsupported_encoding")
            return
        async with Client(receive) as client:
            try:
                body = await client.read(self._most)
                asked = self._asked(scope, body)
            except LeftError:
                return
            except TooLargeError:
                what = f"wanted a body of at most {self._most} bytes, got more: send less"
                await refuse(refusing, 413, what, code="request_too_large")
            except EmoGuardError as error:
                await refuse(refusing, 400, str(error), param="emoguard", code="invalid_emoguard")
            else:
                client.replay(asked.body)
                await self._answer(scope, client, asked, send)

    def _asked(self, scope: Scope, body: bytes) -> Asked:
        """Return what a request asks for, and is granted.

        Raises:
            EmoGuardError: it is malformed, or a plan that cannot be.

        """
        if not self._knows_key(scope):
            return Asked(Request(carrier="server"), body)
        guard = self._watch.guard
        guard.refresh()
        asked = read(body, scope["headers"], guard.policy)
        if asked.request.plan is not None:
            # Asked here: when the model refuses it, a stream has begun.
            self._watch.check_plan(asked.request.plan)
        return asked

    async def _answer(self, scope: Scope, client: Client, asked: Asked, send: Send) -> None:
        told = Told(self._watch, asked)
        answer = Answer(send, client, told)
        token = REQUEST.set(asked.request)
        try:
            await self._app(_for_server(scope, asked), client.receive, answer.send)
        finally:
            REQUEST.reset(token)
            told.end(complete=answer.complete)

    def _knows_key(self, scope: Scope) -> bool:
        if self._api_key is None:
            return True
        scheme, _, key = (header(scope["headers"], b"authorization") or "").partition(" ")
        same = hmac.compare_digest(key.strip().encode(), self._api_key.encode())
        return scheme.lower() == "bearer" and same

    def _marking(self, send: Send) -> Send:
        async def marking(message: Message) -> None:
            starts = message["type"] == "http.response.start"
            await send(marked(message, standing_kind(self._watch)) if starts else message)

        return marking


def _for_server(scope: Scope, asked: Asked) -> Scope:
    """Return the scope for the app: the length of its body, and an answer that can be read."""
    length = str(len(asked.body))
    headers = [pair for pair in scope["headers"] if pair[0].lower() not in UNWANTED]
    return {**scope, "headers": with_header(headers, b"content-length", length)}
