"""Reads the Grafana dashboard that comes with the exporter."""

from __future__ import annotations

from importlib.resources import files


def read() -> str:
    """Return the dashboard as JSON for Grafana 10 and later."""
    path = files("emoguard_prometheus") / "dashboards" / "emoguard.json"
    return path.read_text(encoding="utf-8")
