"""Exports reports as Prometheus metrics."""

from emoguard_prometheus.exporter import PrometheusExporter
from emoguard_prometheus.server import MetricsServer, asgi_app, serve, wsgi_app

__all__ = ["MetricsServer", "PrometheusExporter", "asgi_app", "serve", "wsgi_app"]
