"""Serves `/metrics` on a port of its own, or as an app to mount in an existing server."""

from __future__ import annotations

import errno
import socket
from collections.abc import Callable, Iterable
from contextlib import suppress
from socket import SOCK_STREAM
from threading import Thread
from types import TracebackType
from typing import TYPE_CHECKING, Any, Protocol, Self

from prometheus_client import CollectorRegistry, make_asgi_app, make_wsgi_app, start_http_server

from emoguard.errors import EmoGuardError
from emoguard.hosts import in_url, is_loopback, is_own

if TYPE_CHECKING:
    from wsgiref.simple_server import WSGIServer
    from wsgiref.types import StartResponse, WSGIApplication, WSGIEnvironment


PATIENCE_SECONDS = 10
"""Seconds that a connection may stay silent: each holds a thread."""


class HasRegistry(Protocol):
    """An exporter whose metrics can be served."""

    registry: CollectorRegistry


class MetricsServer:
    """A running `/metrics` endpoint; `close()` (or leaving its `with` block) stops it."""

    def __init__(self, server: WSGIServer, thread: Thread, host: str) -> None:
        self.port = int(server.server_port)
        self.url = f"http://{in_url(host)}:{self.port}/metrics"
        self._server = server
        self._thread = thread

    def close(self) -> None:
        """Stop serving and free the port. Idempotent."""
        if self._thread.is_alive():
            self._server.shutdown()
            self._thread.join()
        self._server.server_close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()


def serve(exporter: HasRegistry, port: int, host: str = "127.0.0.1") -> MetricsServer:
    """Serve `exporter`'s registry on `host`:`port` from a daemon thread; port 0 takes a free one.

    The default host is reachable from this machine only: the endpoint has no authentication. On
    such a host it refuses (403) what the page of another site could send from a browser here.

    Raises:
        EmoGuardError: the port cannot be had.

    """
    try:
        server, thread = start_http_server(port, host, exporter.registry)
    except (OSError, OverflowError) as error:
        raise _unserved(host, port, error) from error
    server.RequestHandlerClass = _impatient(server.RequestHandlerClass)
    app = server.get_app()
    if is_loopback(host) and app is not None:
        server.set_app(_for_own(app))
    return MetricsServer(server, thread, host)


def _impatient(handler: Any) -> Any:
    """Return a request handler that drops broken connections and those that send no request."""

    class Impatient(handler):  # type: ignore[misc]
        timeout = PATIENCE_SECONDS

        def handle(self) -> None:
            with suppress(TimeoutError, ConnectionError):
                super().handle()

    return Impatient


def check_port(port: int, host: str) -> None:
    """Raise if nothing could be served on `host`:`port`; a taken port passes, it may be our own.

    Raises:
        EmoGuardError: an unknown host or one of another machine, a port that is not allowed.

    """
    try:
        family, kind, protocol, _, address = socket.getaddrinfo(host, port, type=SOCK_STREAM)[0]
        with socket.socket(family, kind, protocol) as probe:
            probe.bind(address)
    except (OSError, OverflowError) as error:
        if getattr(error, "errno", None) != errno.EADDRINUSE:
            raise _unserved(host, port, error) from error


def _unserved(host: str, port: int, error: Exception) -> EmoGuardError:
    foreign = isinstance(error, socket.gaierror) or (
        isinstance(error, OSError) and error.errno == errno.EADDRNOTAVAIL
    )
    return EmoGuardError(
        f"metrics cannot be served on {host} port {port} ({error}): choose another "
        f"{'host' if foreign else 'port'}"
    )


def _for_own(app: WSGIApplication) -> WSGIApplication:
    def answer(environ: WSGIEnvironment, start_response: StartResponse) -> Iterable[bytes]:
        if is_own(environ.get("HTTP_HOST", ""), environ.get("HTTP_ORIGIN")):
            return app(environ, start_response)
        start_response("403 Forbidden", [("Content-Type", "text/plain")])
        return [b"this host or origin is not served here\n"]

    return answer


def asgi_app(exporter: HasRegistry) -> Callable[..., Any]:
    """Return an ASGI app that serves the metrics: mount it at `/metrics` of a server.

    Anyone who reaches the server can then read them: mount it behind the server's protection.
    """
    app: Callable[..., Any] = make_asgi_app(exporter.registry)
    return app


def wsgi_app(exporter: HasRegistry) -> Callable[..., Any]:
    """Return a WSGI app that serves the metrics, to be mounted like the ASGI one."""
    app: Callable[..., Any] = make_wsgi_app(exporter.registry)
    return app
