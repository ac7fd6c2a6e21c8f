"""Keeps the requests of vLLM's other routes from counting as calls of code in this process."""

from __future__ import annotations

from emoguard_asgi.asgi import App, Receive, Scope, Send
from emoguard_asgi.error import RefusedError, refuse

from emoguard.records import Request
from emoguard.runtime.session import REQUEST
from emoguard.runtime.watch import Watch

UNWATCHED = (
    "/v1/responses",
    "/v1/messages",
    "/v1/chat/completions/batch",
    "/v1/systemone",
    "/v1/audio/transcriptions",
    "/v1/audio/translations",
    "/cohere/v2/chat",
    "/generative_scoring",
    "/inference/v1/generate",
    "/invocations",
)
"""Endings of the paths whose answers are generated, but could carry neither notice nor scores."""


class Unwatched:
    """An ASGI layer within `EmoGuardMiddleware`, which sets the request of every completion.

    `UNWATCHED` routes are answered 501. A generation on any other route is a client's: it gets what
    the policy's `requests` allow, and its notices count as lost.
    """

    def __init__(self, app: App, watch: Watch) -> None:
        self._app = app
        self._watch = watch

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one connection."""
        if scope["type"] not in ("http", "websocket") or REQUEST.get() is not None:
            await self._app(scope, receive, send)
        elif scope["type"] == "http" and str(scope["path"]).endswith(UNWATCHED):
            what = "EmoGuard reads completions alone: use /v1/chat/completions or /v1/completions"
            await refuse(send, RefusedError(501, what, code="not_watched"))
        else:
            await self._follow(scope, receive, send)

    async def _follow(self, scope: Scope, receive: Receive, send: Send) -> None:
        request = Request(carrier="server")
        token = REQUEST.set(request)
        try:
            await self._app(scope, receive, send)
        finally:
            REQUEST.reset(token)
            guard = self._watch.guard
            for report in guard.outbox.waiting(request.call):
                guard.lost(report)
