"""Serves `/metrics` on a port of its own."""

from __future__ import annotations

from threading import Thread
from types import TracebackType
from typing import TYPE_CHECKING, Self

from prometheus_client import start_http_server

from emoguard.errors import EmoGuardError
from emoguard_prometheus.exporter import PrometheusExporter

if TYPE_CHECKING:
    from wsgiref.simple_server import WSGIServer


class MetricsServer:
    """A running `/metrics` endpoint; `close()` (or leaving its `with` block) stops it."""

    def __init__(self, server: WSGIServer, thread: Thread, host: str) -> None:
        self.port = int(server.server_port)
        self.url = f"http://{host}:{self.port}/metrics"
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


def serve(exporter: PrometheusExporter, port: int, host: str = "127.0.0.1") -> MetricsServer:
    """Serve `exporter`'s registry on `host`:`port` from a daemon thread; port 0 takes a free one.

    The default host is reachable from this machine only: the endpoint has no authentication.

    Raises:
        EmoGuardError: the port cannot be had.

    """
    try:
        server, thread = start_http_server(port, host, exporter.registry)
    except (OSError, OverflowError) as error:
        raise EmoGuardError(
            f"metrics cannot be served on {host} port {port} ({error}): choose another port"
        ) from error
    return MetricsServer(server, thread, host)
