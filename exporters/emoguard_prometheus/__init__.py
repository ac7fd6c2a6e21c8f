"""Exports reports as Prometheus metrics."""
