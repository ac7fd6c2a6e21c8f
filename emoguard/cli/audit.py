"""`emoguard audit`: the key, the head and the verification of audit logs."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from emoguard.cli import logs
from emoguard.cli.screen import say
from emoguard.errors import EmoGuardError


@click.group(short_help="Verify audit logs; make their key.")
def audit() -> None:
    """Verify audit logs and make the key they are chained with."""


@audit.command()
@click.argument("path")
def key(path: str) -> None:
    """Write a new key to PATH, readable by its owner only; keep it away from the log."""
    logs.exporter().Key.create(path)
    say(f"wrote {path}: name it in the policy as key_file, and keep a copy elsewhere")


@audit.command()
@click.argument("paths", nargs=-1, required=True, metavar="LOGS...")
@logs.KEY_FILE
@logs.KEY_ENV
@click.option(
    "--lines",
    type=click.IntRange(0),
    help="Expected number of lines: the metric emoguard_audit_lines_total; 0 for an empty log.",
)
@click.option(
    "--head",
    help="A file with a line of the log: LOG.state/head, or the output of `emoguard audit head`.",
)
@click.option(
    "--first",
    type=click.IntRange(1),
    default=1,
    show_default=True,
    help="The number of the log's first line, if older files are kept elsewhere.",
)
@click.pass_context
def verify(
    ctx: click.Context,
    *,
    paths: tuple[str, ...],
    key_file: str | None,
    key_env: str | None,
    lines: int | None,
    head: str | None,
    first: int,
) -> None:
    """Find lines of LOGS that were changed, removed, moved, added or torn; exit 1 if any but torn.

    One LOG includes the files rotated away from it; several may come in any order. A line is torn
    if the process died while writing it and noticed that at its next start. Without --lines or
    --head, lines cut off at the end go unnoticed; a log without any line is sound only with --lines
    0.
    """
    exporter = logs.exporter()
    files = logs.files(paths)
    known = logs.key(key_file, key_env)
    with logs.readable():
        noted = exporter.read_head(head) if head else None
        verdict = exporter.verify(files, known, first=first, lines=lines, head=noted)
    for finding in verdict.findings:
        say(f"{finding.kind}: {finding.file} row {finding.row} {finding.text}")
    if verdict.omitted:
        say(f"… and {verdict.omitted:,} more")
    say(_summary(verdict, len(files), end_known=lines is not None or head is not None))
    if not verdict.sound:
        ctx.exit(1)


@audit.command()
@click.argument("log")
@logs.KEY_FILE
@logs.KEY_ENV
def head(log: str, key_file: str | None, key_env: str | None) -> None:
    """Print number and MAC of LOG's last line, to be kept elsewhere for `verify --head`."""
    exporter = logs.exporter()
    known = logs.key(key_file, key_env)
    with logs.readable():
        last = exporter.last_line(Path(log), known)
    if last is None:
        raise EmoGuardError(f"{log} holds no line")
    click.echo(f"{last.number} {last.mac}")


def _summary(verdict: Any, files: int, *, end_known: bool) -> str:
    span = f"lines {verdict.first} to {verdict.last}" if verdict.first else "no line"
    end = "" if end_known else "; whether lines were cut off at the end was not checked (--lines)"
    word = "sound" if verdict.sound else "NOT SOUND"
    return f"{word}: {span} in {files} file{'s' if files > 1 else ''}{end}"
