"""Opens audit logs: their files, their key, and the reports that the key verifies."""

from __future__ import annotations

import contextlib
import functools
import importlib
from collections.abc import Iterator, Sequence
from datetime import UTC, datetime
from importlib.metadata import entry_points
from pathlib import Path
from typing import Any

import click

from emoguard import keptfile
from emoguard.cli.screen import say
from emoguard.errors import EmoGuardError
from emoguard.policy.policy import Policy
from emoguard.records import Report
from emoguard.reporttable import printable
from emoguard.sinks import reportlines

KEY_FILE = click.option("--key-file", help="The file with the log's key.")
KEY_ENV = click.option("--key-env", help="The environment variable with the log's key.")
SINCE = click.option(
    "--since",
    type=click.DateTime(["%Y-%m-%d", "%Y-%m-%dT%H:%M:%S"]),
    help="Take responses from this time on (UTC), such as those after a change that is wanted.",
)


class Reports:
    """The reports of audit logs, each with the files rotated away from it, in the order given.

    Lines that `emoguard audit verify` rejects are left out, and `warn` prints a warning. Reports
    before `since`, a time in UTC, are left out, too.

    Raises:
        EmoGuardError: a log does not exist.

    """

    def __init__(self, paths: Sequence[str], key: Any, since: datetime | None = None) -> None:
        self._start = since.replace(tzinfo=UTC).timestamp() if since else 0.0
        self._logs = [_parts(path) for path in _apart(paths)]
        self._key = key
        self._verdicts: list[Any] = []

    def __iter__(self) -> Iterator[Report]:
        log = exporter()
        with readable():
            for files in self._logs:
                self._verdicts.append(log.Verdict())
                for line in log.accepted(files, self._key, self._verdicts[-1]):
                    report = reportlines.read(line.raw, f"{line.file}:{line.row}")
                    if report.created >= self._start:
                        yield report

    def warn(self) -> None:
        """Print the first finding on the lines read so far to stderr, if there is one."""
        finding = self.finding()
        if finding is not None:
            say(f"emoguard: {finding}", err=True)

    def finding(self) -> str | None:
        """Return the first finding on the lines read so far, None if they are sound."""
        wrong = [each for each in self._verdicts if not each.sound]
        if not wrong:
            return None
        first = next(finding for finding in wrong[0].findings if finding.kind != "torn")
        place = printable(f"{first.kind}: {first.file} row {first.row} {first.text}")
        return (
            f"NOT SOUND: {place}. Lines that the key does not vouch for were left out: look at "
            "them with emoguard audit verify."
        )

    def stamp(self) -> list[tuple[str, int, int]]:
        """Return path, size and time of the last change of each file, which show new lines."""
        with readable():
            stats = [(str(file), file.stat()) for files in self._logs for file in files]
        return [(name, stat.st_size, stat.st_mtime_ns) for name, stat in stats]


def _apart(paths: Sequence[str]) -> list[Path]:
    """Return the logs that were not rotated away from another of them."""
    known = list(dict.fromkeys(keptfile.resolved(path) for path in paths))
    rotated = {file for path in known for file in _parts(path) if file != path}
    return [path for path in known if path not in rotated]


def _parts(path: Path) -> list[Path]:
    with readable():
        files: list[Path] = exporter().parts(path)
    if not files:
        raise EmoGuardError(f"there is no audit log {path}")
    return files


def files(logs: Sequence[str]) -> list[Path]:
    """Return the files of one log, those rotated away from it included, or several in their order.

    Raises:
        EmoGuardError: there are no such files, or they cannot be read.

    """
    if len(logs) == 1:
        return _parts(Path(logs[0]))
    with readable():
        return list(exporter().in_order(map(Path, logs)))


def key(file: str | None, variable: str | None, policy: Policy | None = None) -> Any:
    """Return the key of a log: from a file, the environment, or the policy's sink.

    Raises:
        UsageError: no key is given, or two.
        EmoGuardError: the key cannot be read.

    """
    if file is None and variable is None and policy is not None:
        file, variable = _key_of_sink(policy)
    if (file is None) == (variable is None):
        raise click.UsageError(
            "an audit log is read with its key: give --key-file or --key-env, one of them"
            + (", or --policy with the sink jsonl" if policy is not None else "")
        )
    key_type = exporter().Key
    return key_type.load(file) if file else key_type.from_environment(variable)


def _key_of_sink(policy: Policy) -> tuple[Any, Any]:
    sinks = [sink["jsonl"] for sink in policy.sinks if "jsonl" in sink]
    keys = {(sink.get("key_file"), sink.get("key_env")) for sink in sinks}
    return keys.pop() if len(keys) == 1 else (None, None)


@functools.cache
def exporter() -> Any:
    """Return the package of the audit log, found by its entry point."""
    (point,) = entry_points(group="emoguard.exporters", name="jsonl")
    return importlib.import_module(point.module)


@contextlib.contextmanager
def readable() -> Iterator[None]:
    """Raise an EmoGuardError of one sentence if a log cannot be read."""
    try:
        yield
    except OSError as error:
        raise EmoGuardError(f"the audit log cannot be read: {error}") from error
