"""Exports reports as Prometheus metrics."""

from emoguard_prometheus.exporter import PrometheusExporter
from emoguard_prometheus.server import MetricsServer, serve

__all__ = ["MetricsServer", "PrometheusExporter", "serve"]
