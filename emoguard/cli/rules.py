"""`emoguard rules`: prints recording rules and alerts for Prometheus."""

from __future__ import annotations

import dataclasses
import importlib
from importlib.metadata import entry_points
from types import ModuleType
from typing import Any

import click


class RulesCommand(click.Command):
    """A command with one option for each field of the exporter's rule options, built on use."""

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
@click.option("--recording", "kind", flag_value="recording", help="Only the recording rules.")
@click.option("--alerts", "kind", flag_value="alerts", help="Only the alerts, which need those.")
def rules(kind: str | None, **chosen: Any) -> None:
    """Print recording rules and alerts for Prometheus 2.42 and later, as YAML.

    Alerts use the names of the recording rules: if you print them separately, pass both the same
    options.
    """
    alerting = exporter_module("alerting")
    kinds = alerting.KINDS if kind is None else (kind,)
    click.echo(alerting.render(alerting.RuleOptions(**chosen), kinds), nl=False)


def exporter_module(name: str) -> ModuleType:
    """Return a module of the Prometheus exporter: the core imports no spoke by name."""
    (point,) = entry_points(group="emoguard.exporters", name="prometheus")
    return importlib.import_module(f"{point.module}.{name}")
