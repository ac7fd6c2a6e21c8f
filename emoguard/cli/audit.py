"""`emoguard audit`: the key, the head and the verification of audit logs."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from emoguard.cli import logs
from emoguard.errors import EmoGuardError

KEY_FILE = click.option("--key-file", help="The file with the log's key.")
KEY_ENV = click.option("--key-env", help="The environment variable with the log's key.")


@click.group(short_help="Verify audit logs; make their key.")
def audit() -> None:
    """Verify audit logs and make the key they are chained with."""


@audit.command()
@click.argument("path")
def key(path: str) -> None:
    """Write a new key to PATH, readable by its owner only; keep it away from the log."""
    logs.exporter().Key.create(path)
    click.echo(f"wrote {path}: name it in the policy as key_file, and keep a copy elsewhere")


@audit.command()
@click.argument("paths", nargs=-1, required=True, metavar="LOGS...")
@KEY_FILE
@KEY_ENV
@click.option(
    "--lines",
    type=click.IntRange(0),
    help="How many there should be: the metric emoguard_audit_lines_total.",
)
@click.option("--head", help="A file that `emoguard audit head` wrote before.")
@click.option(
    "--first",
    type=click.IntRange(1),
    default=1,
    show_default=True,
    help="The number the log begins with, where older files are kept elsewhere.",
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
    """Tell which lines of LOGS were changed, removed, moved or torn; exit 1 when any but torn.

    One LOG includes the files rotated away from it; several may come in any order. Without --lines
    or --head nobody can tell whether lines were cut off at the end.
    """
    exporter = logs.exporter()
    files = logs.files(paths)
    known = _key(exporter, key_file, key_env)
    noted = _read_head(head) if head else None
    with logs.readable():
        verdict = exporter.verify(files, known, first=first, lines=lines, head=noted)
    for finding in verdict.findings:
        click.echo(f"{finding.kind}: {finding.file} row {finding.row} {finding.text}")
    click.echo(_summary(verdict, len(files), end_known=lines is not None or head is not None))
    if not verdict.sound:
        ctx.exit(1)


@audit.command()
@click.argument("log")
@KEY_FILE
@KEY_ENV
def head(log: str, key_file: str | None, key_env: str | None) -> None:
    """Print number and MAC of LOG's last line, to be kept elsewhere for `verify --head`."""
    exporter = logs.exporter()
    known = _key(exporter, key_file, key_env)
    with logs.readable():
        last = exporter.last_line(Path(log), known)
    if last is None:
        raise EmoGuardError(f"{log} holds no line")
    click.echo(f"{last.number} {last.mac}")


def _key(exporter: Any, file: str | None, variable: str | None) -> Any:
    if (file is None) == (variable is None):
        raise click.UsageError("give --key-file or --key-env, one of them")
    return exporter.Key.load(file) if file else exporter.Key.from_environment(variable)


def _read_head(path: str) -> tuple[int, str]:
    try:
        number, mac = Path(path).read_text(encoding="ascii").split()
        return int(number), mac
    except (OSError, ValueError) as error:
        raise EmoGuardError(
            f"{path}: wanted the line that emoguard audit head prints, got something else ({error})"
        ) from error


def _summary(verdict: Any, files: int, *, end_known: bool) -> str:
    span = f"lines {verdict.first} to {verdict.last}" if verdict.first else "no line"
    end = "" if end_known else "; whether lines were cut off at the end was not checked (--lines)"
    word = "sound" if verdict.sound else "NOT SOUND"
    return f"{word}: {span} in {files} file{'s' if files > 1 else ''}{end}"
