"""Serves `/emoguard/`: files to everybody on this machine, data to holders of the key."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Iterable

from emoguard_asgi.asgi import Headers, Receive, Scope, Send, header
from emoguard_asgi.client import Client, LeftError
from emoguard_asgi.error import RefusedError, refuse
from emoguard_asgi.gate import Gate, Keys

from emoguard.hosts import is_own
from emoguard_page import files
from emoguard_page.board import Board
from emoguard_page.live import follow
from emoguard_page.shown import Shown
from emoguard_page.viewers import Viewer, gone

PREFIX = "/emoguard"
"""Where the page is; its files, its stream and its answers lie below."""

MOST_VIEWERS = 100
"""Streams and answers at one time."""

LARGEST_BODY = 1024 * 1024
BODY_SECONDS = 30

SIBLINGS = (None, "same-origin", "none")
"""Values of `Sec-Fetch-Site` for a request by this page, or for a typed address."""

STREAM: Headers = ((b"cache-control", b"no-store, no-transform"), *files.SECURITY)

Answering = Callable[[Scope, Client, Send], Awaitable[None]]


class Desk:
    """Answers the requests of open pages of one `Shown`.

    `answering` lets a model answer, given a client whose body is not read yet; None without a
    model. Raises EmoGuardError for an empty `api_key`.
    """

    def __init__(
        self,
        shown: Shown,
        *,
        api_key: Keys = None,
        hosts: Iterable[str] = (),
        is_open: Callable[[], bool] = lambda: True,
        answering: Answering | None = None,
    ) -> None:
        self._shown = shown
        self._gate = Gate(api_key, LARGEST_BODY, BODY_SECONDS)
        self._hosts = frozenset(host.lower() for host in hosts)
        self._is_open = is_open
        self._answering = answering
        self._files = files.read()
        self._board = Board(shown)
        self._viewers = 0

    async def serve(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one request whose path is `inside`."""
        name = inside(scope)
        try:
            self._check_own(scope)
            if name in ("live", "answer"):
                await self._stream(str(name), scope, receive, send)
            else:
                await self._send_file(name, scope, send)
        except LeftError:
            return
        except RefusedError as error:
            await refuse(send, error)

    async def _send_file(self, name: str | None, scope: Scope, send: Send) -> None:
        """Send a file of the page, or nothing if the browser has it already."""
        _check_method(scope, "GET", "HEAD")
        if name is None:
            await redirect(send, f"{scope.get('root_path', '')}{PREFIX}/")
            return
        file = self._files.get(name)
        if file is None:
            raise RefusedError(404, f"the page has no {name[:60]}", code="not_found")
        known = (header(scope["headers"], b"if-none-match") or "").encode("latin-1")
        if known == file.tag:
            await _send(send, 304, file.headers, b"")
        else:
            await _send(send, 200, file.headers, b"" if scope["method"] == "HEAD" else file.content)

    async def _stream(self, name: str, scope: Scope, receive: Receive, send: Send) -> None:
        """Send a stream to one more viewer."""
        _check_method(scope, "POST" if name == "answer" else "GET")
        self._gate.check(scope["headers"])
        if name == "answer" and self._answering is None:
            raise RefusedError(404, "there is no model behind this page", code="not_found")
        if self._viewers >= MOST_VIEWERS:
            what = f"{MOST_VIEWERS} pages are open already: close one, and this one comes back"
            raise RefusedError(503, what, code="server_busy", headers=[(b"retry-after", b"5")])
        self._viewers += 1
        try:
            if name == "answer" and self._answering is not None:
                async with Client(receive, self._gate) as client:
                    await self._answering(scope, client, send)
            else:
                await self._follow(scope, receive, send)
        finally:
            self._viewers -= 1

    async def _follow(self, scope: Scope, receive: Receive, send: Send) -> None:
        is_operator = scope.get("query_string", b"") == b"view=operator"
        board = self._board if is_operator and self._shown.traffic is not None else None
        sending = asyncio.create_task(
            follow(Viewer(send, STREAM), self._shown, board, self._is_open)
        )
        await first_of(sending, asyncio.create_task(gone(receive)))

    def _check_own(self, scope: Scope) -> None:
        """Refuse requests that a page of another site could send from a browser of this machine.

        Raises:
            RefusedError: another site may have sent it.

        """
        host, origin, site = (
            header(scope["headers"], name) for name in (b"host", b"origin", b"sec-fetch-site")
        )
        is_page = inside(scope) in ("", None)  # a link from elsewhere may lead here
        if not is_own(host or "", origin, self._hosts) or not (is_page or site in SIBLINGS):
            what = (
                "this host or origin is not served here: open the page by address or localhost, or "
                "name the host with --allow-host"
            )
            raise RefusedError(403, what, code="forbidden")


def inside(scope: Scope) -> str | None:
    """Return the part of a path below `/emoguard/`; None for `/emoguard` itself."""
    path = str(scope["path"]).removeprefix(str(scope.get("root_path", "")))
    return None if path == PREFIX else path.removeprefix(f"{PREFIX}/")


def is_inside(scope: Scope) -> bool:
    """Return whether a connection is for the page."""
    if scope["type"] != "http":
        return False
    path = str(scope["path"]).removeprefix(str(scope.get("root_path", "")))
    return path == PREFIX or path.startswith(f"{PREFIX}/")


async def redirect(send: Send, path: str) -> None:
    """Send a browser to another path of this server."""
    await _send(send, 307, [(b"location", path.encode())], b"")


async def first_of(*tasks: asyncio.Task[None]) -> None:
    """Wait for the first of some tasks and cancel the others, ignoring their exceptions."""
    try:
        await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


def _check_method(scope: Scope, *wanted: str) -> None:
    if scope["method"] not in wanted:
        what = f"wanted {' or '.join(wanted)}, got {str(scope['method'])[:20]}"
        raise RefusedError(405, what, code="not_allowed")


async def _send(send: Send, status: int, headers: Headers, content: bytes) -> None:
    length = (b"content-length", b"%d" % len(content))
    sized = list(headers) if status == 304 else [*headers, length]
    await send({"type": "http.response.start", "status": status, "headers": sized})
    await send({"type": "http.response.body", "body": content})
