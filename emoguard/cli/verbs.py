"""Groups the verbs; each is imported on use."""

from __future__ import annotations

import importlib

import click

import emoguard

NAMES = (
    "demo",
    "run",
    "serve",
    "show",
    "corpus",
    "fit",
    "calibrate",
    "validate",
    "compare",
    "export",
    "dose",
    "study",
    "baseline",
    "replay",
    "watch-page",
    "check",
    "rules",
    "dashboard",
    "runbook",
    "audit",
    "doctor",
)
"""Each verb is the click command of this name in the module of this name beside this file."""


class Verbs(click.Group):
    """Finds a verb by importing its module."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        """Return the verbs in the order a newcomer needs them."""
        return list(NAMES)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        """Return a verb, or None for an unknown name."""
        if cmd_name not in NAMES:
            return None
        name = cmd_name.replace("-", "_")
        module = importlib.import_module(f"emoguard.cli.{name}")
        command: click.Command = getattr(module, name)
        return command


@click.command(cls=Verbs, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(emoguard.__version__, prog_name="emoguard")
def verbs() -> None:
    """Read emotion directions in a language model while it answers.

    A direction is not a feeling. Start with `emoguard demo`.
    """
