"""Serves `/healthz` and `/readyz` to orchestrators and load balancers, not to web pages."""

from __future__ import annotations

from collections.abc import Callable, Iterable

from emoguard.hosts import is_own
from emoguard_asgi.asgi import App, Receive, Scope, Send, header
from emoguard_asgi.error import RefusedError, refuse, send_json


class Health:
    """Answers `/healthz` and `/readyz` in front of an app.

    `/healthz` is 200 while the process serves at all, `/readyz` while `ready()` says so, else 503.
    Both refuse (403) requests that a page of another site could send from a browser of this
    machine; `hosts` are names of this server beside addresses and localhost.
    """

    def __init__(self, app: App, ready: Callable[[], bool], hosts: Iterable[str] = ()) -> None:
        self._app = app
        self._ready = ready
        self._hosts = frozenset(host.lower() for host in hosts)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one connection."""
        if scope["type"] != "http" or scope["path"] not in ("/healthz", "/readyz"):
            await self._app(scope, receive, send)
        elif not self._is_own(scope):
            what = "this host or origin is not served here"
            await refuse(send, RefusedError(403, what, code="forbidden"))
        elif scope["method"] not in ("GET", "HEAD"):
            what = f"wanted GET, got {scope['method']}"
            await refuse(send, RefusedError(405, what, code="not_allowed"))
        elif scope["path"] == "/healthz" or self._ready():
            await send_json(send, 200, {"status": "ok"})
        else:
            await send_json(send, 503, {"status": "not ready"})

    def _is_own(self, scope: Scope) -> bool:
        host, origin = (header(scope["headers"], name) for name in (b"host", b"origin"))
        return is_own(host or "", origin, self._hosts)
