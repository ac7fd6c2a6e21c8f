"""`emoguard dashboard`: a dashboard for Grafana."""

from __future__ import annotations

import click

from emoguard.cli.rules import exporter_module


@click.command(short_help="Print a dashboard for Grafana.")
def dashboard() -> None:
    """Print a dashboard for Grafana 10 and later, as JSON to import."""
    click.echo(exporter_module("dashboard").read(), nl=False)
