"""`emoguard rules`: recording rules and alerts for Prometheus."""

from __future__ import annotations

import dataclasses
import importlib
from importlib.metadata import entry_points
from types import ModuleType
from typing import Any

import click


class RulesCommand(click.Command):
    """Has one option for each field of the exporter's rule options, asked for when needed."""

    def get_params(self, ctx: click.Context) -> list[click.Parameter]:
        """Return the command's own options and those of the rules."""
        options = exporter_module("alerting").RuleOptions
        return [*super().get_params(ctx), *map(_option, dataclasses.fields(options))]


def _option(field: dataclasses.Field[Any]) -> click.Option:
    return click.Option(
        [f"--{field.name.replace('_', '-')}"],
        type=type(field.default),
        default=field.default,
        show_default=True,
        help=field.metadata["help"],
    )


@click.command(cls=RulesCommand, short_help="Print rules for Prometheus.")
@click.option("--recording", "kind", flag_value="recording", help="Print the recording rules.")
@click.option("--alerts", "kind", flag_value="alerts", help="Print the alerts, which need those.")
def rules(kind: str | None, **chosen: Any) -> None:
    """Print recording rules or alerts for Prometheus 2.42 and later, as YAML.

    Give both the same options: alerts name what the recording rules record.
    """
    if kind is None:
        raise click.UsageError("say --recording or --alerts")
    alerting = exporter_module("alerting")
    click.echo(alerting.render(kind, alerting.RuleOptions(**chosen)), nl=False)


def exporter_module(name: str) -> ModuleType:
    """Return a module of the Prometheus exporter: the core imports no spoke by name."""
    (point,) = entry_points(group="emoguard.exporters", name="prometheus")
    return importlib.import_module(f"{point.module}.{name}")
