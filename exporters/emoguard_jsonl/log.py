"""The sink that appends one line per report to the audit log."""

from __future__ import annotations

import fcntl
import math
import os
import secrets
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Self

from emoguard import jsontext
from emoguard.clock import Clock, Moment, elapsed
from emoguard.errors import EmoGuardError
from emoguard.records import Alert, Report
from emoguard.writable import check_writable
from emoguard_jsonl import line, rows
from emoguard_jsonl.appender import Appender
from emoguard_jsonl.key import Key
from emoguard_jsonl.parts import last_line, rotated, torn

if TYPE_CHECKING:
    from emoguard.site import Site

MIB = 1024 * 1024


class AuditLog:
    """Appends reports to the file `path`, which only its owner can read.

    A file of `rotate_mib` MiB, or whose first report is older than `rotate_hours`, is renamed to
    `path.<number of its first line>` and the chain goes on in a new one; nothing is ever deleted.
    After the clock was set back a file may be renamed early, never late (`now` tells the moment).
    While reports come in, lines are on disk (fsync) after `fsync_seconds` at the latest: at 0 after
    each, at None when the system pleases. They survive the death of this process in any case. A
    restart continues the chain. One process at a time: it holds `path.lock`. `lines` is the number
    of the last line. POSIX only.

    Raises:
        EmoGuardError: another process writes this log; its last line is not by this key; it cannot
            be written.

    """

    def __init__(
        self,
        path: str | Path,
        key: Key,
        *,
        rotate_mib: float = 64,
        rotate_hours: float | None = None,
        fsync_seconds: float | None = 1,
        now: Callable[[], Moment] | None = None,
    ) -> None:
        _check("rotate_mib", rotate_mib, 0.001)
        _check("rotate_hours", rotate_hours, 0.001)
        _check("fsync_seconds", fsync_seconds, 0)
        self.path = Path(path)
        self._key = key
        self._most_bytes = rotate_mib * MIB
        self._most_seconds = math.inf if rotate_hours is None else rotate_hours * 3600
        self._fsync_seconds = math.inf if fsync_seconds is None else fsync_seconds
        self._mutex = threading.Lock()
        self._owner = os.getpid()
        self._now = now or Clock()
        self._began: tuple[int, Moment] | None = None
        self._synced = 0.0
        try:
            self._lock = _lock(self.path)
            try:
                last = last_line(self.path, key)
                self._torn = torn(self.path, last)
                self._file: Appender | None = self._opened()
            except BaseException:
                os.close(self._lock)
                raise
        except (OSError, ValueError) as error:
            raise EmoGuardError(f"the audit log cannot be written: {error}") from error
        self.lines, self._last = (last.number, last.mac) if last else (0, secrets.token_hex(32))

    @classmethod
    def from_policy(
        cls,
        site: Site,  # noqa: ARG003  (a log is the same everywhere)
        *,
        path: str,
        key_file: str | None = None,
        key_env: str | None = None,
        create_key: bool = False,
        rotate_mib: float = 64,
        rotate_hours: float | None = None,
        fsync_seconds: float | None = 1,
    ) -> Self:
        """Open the log with a key from a file, which `create_key` may make, or the environment."""
        return cls(
            path,
            _key(key_file, key_env, create=create_key),
            rotate_mib=rotate_mib,
            rotate_hours=rotate_hours,
            fsync_seconds=fsync_seconds,
        )

    @classmethod
    def check_policy(
        cls,
        *,
        path: str,
        key_file: str | None = None,
        key_env: str | None = None,
        create_key: bool = False,
        **_numbers: float | None,
    ) -> None:
        """Raise if `from_policy` could not open the log here; leaves nothing behind.

        A log that another process writes passes: that may be the one this policy is for.

        Raises:
            EmoGuardError: saying why.

        """
        check_writable(path)
        if create_key and key_file is not None and not Path(key_file).exists():
            check_writable(key_file)
            return
        try:
            last_line(Path(path), _key(key_file, key_env, create=False))
        except OSError as error:
            raise EmoGuardError(f"the audit log cannot be read: {error}") from error

    def report(self, report: Report) -> Sequence[Alert]:
        """Append one report; returns no alerts.

        Raises:
            EmoGuardError: the log is closed, or was opened before a fork; or a full file could not
                be rotated, and the line went into it all the same.
            OSError: the line could not be written; the next report gets its number.

        """
        with self._mutex:
            self._check_open()
            stuck = self._rotate(report)
            file = self._at_its_path()
            data, mac = line.write(report, self.lines + 1, self._last, self._key, self._torn)
            self._append(file, data)
            self.lines, self._last = self.lines + 1, mac
            self._began = self._began or (self.lines, self._moment(report))
            if time.monotonic() - self._synced >= self._fsync_seconds:
                file.sync()
                self._synced = time.monotonic()
        if stuck is not None:
            raise stuck
        return ()

    def close(self) -> None:
        """Bring everything to disk and let another process write. Idempotent."""
        with self._mutex:
            if self._file is not None:
                self._file.sync()
                self._file.close()
                os.close(self._lock)
            self._file = None

    def _append(self, file: Appender, data: bytes) -> None:
        try:
            file.append(data)
        except OSError:
            self._torn = line.digest(file.left) if file.left else self._torn
            raise
        self._torn = None

    def _check_open(self) -> None:
        if self._file is None:
            raise EmoGuardError(f"the audit log {self.path} is closed")
        if os.getpid() != self._owner:
            raise EmoGuardError(f"the audit log {self.path} belongs to the process before the fork")

    def _rotate(self, report: Report) -> Exception | None:
        """Rename the file if it is full or old; return why it could not be."""
        if self._began is None:
            return None
        first, began = self._began
        full = self._file is not None and self._file.size >= self._most_bytes
        ages = self._most_seconds < math.inf
        if full or (ages and elapsed(began, self._moment(report)) >= self._most_seconds):
            try:
                _keep(self.path, rotated(self.path, first))
            except (OSError, EmoGuardError) as error:
                return error
        return None

    def _moment(self, report: Report) -> Moment:
        """Return when a report was made, on both clocks."""
        return replace(self._now(), wall=report.created)

    def _at_its_path(self) -> Appender:
        """Return the open file, a new one where it was renamed, by us or by somebody else."""
        if self._file is None or not self._file.is_at_its_path():
            old, self._file = self._file, self._opened()
            if old is not None:
                old.sync()
                old.close()
        return self._file

    def _opened(self) -> Appender:
        self._began = _began(self.path, self._key)
        self._synced = time.monotonic()
        return Appender(self.path)


def _began(path: Path, key: Key) -> tuple[int, Moment] | None:
    """Return number and moment of the first report in a file, None when it has none."""
    for row in rows.read(path) if path.exists() else ():
        found = None if row.line is None else line.parse(row.line, key)
        if found is not None and found.sound:
            created = float(jsontext.parse(row.raw, surrogates=True)["created"])
            return found.number, Moment(created)
    return None


def _keep(path: Path, name: Path) -> None:
    """Rename a full file; never over another one."""
    if name.exists():
        raise EmoGuardError(f"{path} is full and {name} is there already: move that one away")
    path.rename(name)


def _lock(path: Path) -> int:
    """Take the right to write the log at `path`; it lasts until the handle is closed."""
    handle = os.open(f"{path}.lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError as error:
        os.close(handle)
        raise EmoGuardError(
            f"another process writes the audit log {path}: give each its own file"
        ) from error
    except BaseException:
        os.close(handle)
        raise
    return handle


def _key(file: str | None, variable: str | None, *, create: bool) -> Key:
    if (file is None) == (variable is None):
        raise EmoGuardError("an audit log needs a key: give key_file or key_env, one of them")
    if file is None:
        return Key.from_environment(str(variable))
    return Key.create(file) if create and not Path(file).exists() else Key.load(file)


def _check(name: str, value: float | None, least: float) -> None:
    if value is not None and not value >= least:
        raise EmoGuardError(f"{name} must be at least {least:g}, got {value:g}")
