"""`/healthz` and `/readyz`, for whoever restarts and routes; read from a browser by nobody else."""

from __future__ import annotations

import ipaddress
from collections.abc import Callable, Iterable

from emoguard_asgi.asgi import App, Headers, Receive, Scope, Send, header
from emoguard_asgi.error import refuse, send_json


class Health:
    """Answers `/healthz` and `/readyz` in front of an app.

    `/healthz` is 200 while the process serves at all, `/readyz` while `ready()` says so, else 503.
    Both refuse (403) what a web page could send that was opened in a browser of this machine: a
    host name that is not known here (DNS rebinding; addresses and localhost are, `hosts` are more)
    and an `Origin` that is not this server.
    """

    def __init__(self, app: App, ready: Callable[[], bool], hosts: Iterable[str] = ()) -> None:
        self._app = app
        self._ready = ready
        self._hosts = frozenset(host.lower() for host in hosts)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one connection."""
        if scope["type"] != "http" or scope["path"] not in ("/healthz", "/readyz"):
            await self._app(scope, receive, send)
        elif not is_local(scope["headers"], self._hosts):
            await refuse(send, 403, "this host or origin is not served here", code="forbidden")
        elif scope["method"] not in ("GET", "HEAD"):
            await refuse(send, 405, f"wanted GET, got {scope['method']}", code="not_allowed")
        elif scope["path"] == "/healthz" or self._ready():
            await send_json(send, 200, {"status": "ok"})
        else:
            await send_json(send, 503, {"status": "not ready"})


def is_local(headers: Headers, hosts: frozenset[str] = frozenset()) -> bool:
    """Return whether a request names this server and comes from no other site's page.

    A page can make a browser send any path here, but neither choose `Host` nor leave `Origin` out.
    """
    headers = list(headers)
    host, origin = header(headers, b"host") or "", header(headers, b"origin")
    name = host.rpartition(":")[0] if host.rpartition(":")[2].isdigit() else host
    known = name.lower() in hosts or name.lower() == "localhost" or _is_address(name)
    return known and (origin is None or origin.partition("://")[2] == host)


def _is_address(name: str) -> bool:
    try:
        ipaddress.ip_address(name.strip("[]"))
    except ValueError:
        return False
    return True
