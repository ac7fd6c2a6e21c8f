"""Serves an operator's view alone, without a model behind it, as an ASGI app."""

from __future__ import annotations

from collections.abc import Callable, Iterable

from emoguard_asgi.asgi import Receive, Scope, Send
from emoguard_asgi.error import RefusedError, refuse
from emoguard_asgi.gate import Keys

from emoguard_page.desk import PREFIX, Desk, is_inside, redirect
from emoguard_page.shown import Shown


class OperatorPage:
    """Serves the operator's view of `shown` under `/emoguard/`; arguments are those of `Page`."""

    def __init__(
        self,
        shown: Shown,
        *,
        api_key: Keys = None,
        hosts: Iterable[str] = (),
        is_open: Callable[[], bool] = lambda: True,
    ) -> None:
        self._desk = Desk(shown, api_key=api_key, hosts=hosts, is_open=is_open)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one connection."""
        if is_inside(scope):
            await self._desk.serve(scope, receive, send)
        elif scope["type"] == "http" and scope["path"] == "/":
            await redirect(send, f"{PREFIX}/")
        elif scope["type"] == "http":
            await refuse(send, RefusedError(404, f"the page is at {PREFIX}/", code="not_found"))
