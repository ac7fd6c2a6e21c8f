"""`emoguard runbook`: explains an alert, where to look first, and what to do."""

from __future__ import annotations

import re

import click

from emoguard import nearest
from emoguard.errors import EmoGuardError


@click.command(short_help="Print what to do about an alert.")
@click.argument("alert", required=False)
def runbook(alert: str | None) -> None:
    """Print the runbook's section on ALERT, in upper or lower case; default: all of it."""
    from emoguard_page.files import runbook as shipped

    text = shipped().read_text(encoding="utf-8")
    click.echo(text if alert is None else section(text, alert), nl=False)


def section(text: str, alert: str) -> str:
    """Return one section of a runbook.

    Raises:
        EmoGuardError: the runbook has no such section.

    """
    sections = re.findall(r"^## (\S+)\n(.*?)(?=^## |\Z)", text, re.MULTILINE | re.DOTALL)
    for name, body in sections:
        if name.casefold() == alert.casefold():
            return f"## {name}\n{body.rstrip()}\n"
    hint = nearest.hint(alert, [name for name, _ in sections], "alerts")
    raise EmoGuardError(f"the runbook has no section on {alert:.60}; {hint}")
