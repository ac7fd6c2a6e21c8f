"""Appends one line per report to the audit log, as a sink."""

from __future__ import annotations

import logging
import math
import threading
import time
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Self

from emoguard import jsontext, keptfile
from emoguard.clock import Clock, Moment, elapsed
from emoguard.errors import EmoGuardError
from emoguard.records import Alert, Report
from emoguard_jsonl import line, rows, start
from emoguard_jsonl.appender import Appender
from emoguard_jsonl.head import Head
from emoguard_jsonl.key import Key
from emoguard_jsonl.parts import last_line, rotated

if TYPE_CHECKING:
    from emoguard.site import Site

log = logging.getLogger("emoguard")

MIB = 1024 * 1024

MOVED = {
    "moved": "the audit log %s was renamed by somebody else: line %d begins a new file",
    "deleted": "the audit log %s was deleted while it was written: lines before %d are gone",
    "cut": "the audit log %s was cut while it was written, before line %d: lines are gone where "
    "they were not copied (with logrotate give create, not copytruncate)",
}


class AuditLog:
    """Appends reports to the file that `path` leads to, which only its owner can read.

    A file of `rotate_mib` MiB, or whose first report is older than `rotate_hours`, is renamed to
    `path.<number of its first line>` and the chain goes on in a new one; nothing is ever deleted.
    After the clock was set back a file may be renamed early, never late (`now` tells the moment).
    While reports come in, lines are on disk (fsync) after `fsync_seconds` at the latest: at 0 after
    each, at None when the system pleases. They survive the death of this process in any case.
    `lines` is the number of the last line.

    A restart continues the chain. Its last line is noted in `head`, by default `path.state/head`,
    whenever lines are brought to disk. If the log ends before the noted line, this is logged and
    counted, and the chain continues from the note. Only one process writes at a time, holding
    `path.lock`; a forked child does not write. POSIX only.

    Raises:
        EmoGuardError: somebody else writes this log; its last line is not by this key; it cannot
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
        head: str | Path | None = None,
        now: Callable[[], Moment] | None = None,
    ) -> None:
        _check("rotate_mib", rotate_mib, 0.001)
        _check("rotate_hours", rotate_hours, 0.001)
        _check("fsync_seconds", fsync_seconds, 0)
        self._key = key
        self._most_bytes = rotate_mib * MIB
        self._most_seconds = math.inf if rotate_hours is None else rotate_hours * 3600
        self._fsync_seconds = math.inf if fsync_seconds is None else fsync_seconds
        self._mutex = threading.Lock()
        self._failed = self._counted = 0
        self._logged = False
        self._torn: str | None = None
        self._now = now or Clock()
        self._began: tuple[int, Moment] | None = None
        self._synced = time.monotonic()
        try:
            self.path = keptfile.resolved(path)
            # In a folder: tools that rotate logs by a pattern of names leave folders alone.
            self._note = keptfile.resolved(head or f"{self.path}.state/head")
            with ExitStack() as stack:
                self._locks = [keptfile.Lock(self.path)]
                stack.callback(self._locks[0].release)
                if head is not None:  # another log must not note its end in the same file
                    self._locks.append(keptfile.Lock(self._note))
                    stack.callback(self._locks[1].release)
                begin = start.find(self.path, self._note, key)
                self._file: Appender | None = self._opened()
                stack.pop_all()
        except keptfile.HeldError as error:
            raise EmoGuardError(f"the audit log {error}") from error
        except OSError as error:
            raise EmoGuardError(f"the audit log cannot be written: {error}") from error
        self.lines, self._last = begin.last
        self._torn = begin.torn
        self._say(begin)

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
        head_file: str | None = None,
    ) -> Self:
        """Open the log with a key from a file, which `create_key` may make, or the environment.

        `head_file` is where the last line is noted: on another volume it shows that a log was cut
        or lost.
        """
        return cls(
            path,
            _key(key_file, key_env, create=create_key),
            rotate_mib=rotate_mib,
            rotate_hours=rotate_hours,
            fsync_seconds=fsync_seconds,
            head=head_file,
        )

    @classmethod
    def check_policy(
        cls,
        *,
        path: str,
        key_file: str | None = None,
        key_env: str | None = None,
        create_key: bool = False,
        head_file: str | None = None,
        **_numbers: float | None,
    ) -> None:
        """Raise if `from_policy` could not open the log here; leaves nothing behind.

        A log that another process is writing is fine: that may be the process this policy is for.

        Raises:
            EmoGuardError: with the reason.

        """
        keptfile.check_writable(path)
        if head_file is not None:
            keptfile.check_writable(head_file)
        if create_key and key_file is not None and not Path(key_file).exists():
            keptfile.check_writable(key_file)
            return
        try:
            last_line(keptfile.resolved(path), _key(key_file, key_env, create=False))
        except OSError as error:
            raise EmoGuardError(f"the audit log cannot be read: {error}") from error

    def report(self, report: Report) -> Sequence[Alert]:
        """Append one report; returns no alerts.

        Raises:
            EmoGuardError: the log is closed, or was opened before a fork; or a full file could not
                be rotated, and the line went into it all the same.
            OSError: the line could not be written; the next report gets its number.

        """
        for lock in self._locks:
            lock.check()  # first: in a forked child the mutex would never be released
        with self._mutex:
            file = self._at_its_path()
            stuck = self._rotate(report)
            file = self._file or file
            data, mac = line.write(report, self.lines + 1, self._last, self._key, self._torn)
            self._append(file, data)
            self.lines, self._last = self.lines + 1, mac
            self._began = self._began or (self.lines, self._moment(report))
            if time.monotonic() - self._synced >= self._fsync_seconds:
                self._sync(file)
        if stuck is not None:
            raise stuck
        return ()

    def faults(self) -> int:
        """Return how often lines were missing or could not be noted since the last call."""
        failed, before = self._failed, self._counted
        self._counted = failed  # never set back: another thread may be counting
        return failed - before

    def close(self) -> None:
        """Bring everything to disk and let another process write. Idempotent.

        Raises:
            OSError: the last lines may not be on disk; the log is closed all the same.

        """
        if not all(lock.is_mine for lock in self._locks):
            return  # the parent closes its own files
        with self._mutex, ExitStack() as stack:
            file, self._file = self._file, None
            for lock in self._locks:
                stack.callback(lock.release)
            if file is not None:
                stack.callback(file.close)
                self._sync(file)

    def _append(self, file: Appender, data: bytes) -> None:
        try:
            file.append(data)
        except OSError:
            self._torn = line.digest(file.left) if file.left else self._torn
            raise
        self._torn = None

    def _rotate(self, report: Report) -> Exception | None:
        """Continue in a new file if this one is full or old; return the error if that failed."""
        if self._began is None or self._file is None:
            return None
        first, began = self._began
        full = self._file.size >= self._most_bytes
        ages = self._most_seconds < math.inf
        if full or (ages and elapsed(began, self._moment(report)) >= self._most_seconds):
            try:
                _keep(self.path, rotated(self.path, first))
                self._reopen()
            except (OSError, EmoGuardError) as error:
                return error
        return None

    def _moment(self, report: Report) -> Moment:
        """Return when a report was made, on both clocks."""
        return replace(self._now(), wall=report.created)

    def _at_its_path(self) -> Appender:
        """Return the open file, or a new one if the file was moved away."""
        if self._file is None:
            raise EmoGuardError(f"the audit log {self.path} is closed")
        state = self._file.look()
        if state != "here":
            self._failed += state != "moved"
            log.warning(MOVED[state], self.path, self.lines + 1)
            self._reopen()
        return self._file

    def _reopen(self) -> None:
        """Open the file at the path; the one that was open is brought to disk first."""
        old = self._file
        self._file = self._opened()
        if old is not None:
            try:
                self._sync(old)
            finally:
                old.close()

    def _opened(self) -> Appender:
        self._began = _began(self.path, self._key)
        self._synced = time.monotonic()
        return Appender(self.path)

    def _sync(self, file: Appender) -> None:
        """Bring the file to disk, then note its end: the note is never ahead of the lines.

        Raises:
            OSError: it cannot be brought there.

        """
        self._synced = time.monotonic()
        file.sync()
        if not self.lines:
            return
        try:
            Head(self.lines, self._last).write(self._note)
        except OSError as error:
            self._failed += 1
            if not self._logged:
                self._logged = True
                log.error(  # noqa: TRY400  (one sentence says it)
                    "the end of the audit log cannot be noted in %s (logged once): %s",
                    self._note,
                    error,
                )

    def _say(self, start_: start.Start) -> None:
        for sentence, *arguments in start_.findings:
            self._failed += 1
            log.error(sentence, *arguments)
        if start_.is_new:
            log.warning(start.NEW, self.path)


def _began(path: Path, key: Key) -> tuple[int, Moment] | None:
    """Return number and moment of the first report in a file, None when it has none."""
    for row in rows.read(path) if path.exists() else ():
        parsed = None if row.line is None else line.parse(row.line, key)
        if parsed is not None and parsed.sound:
            created = float(jsontext.parse(row.raw, surrogates=True)["created"])
            return parsed.number, Moment(created)
    return None


def _keep(path: Path, name: Path) -> None:
    """Rename a full file; never over another one."""
    try:
        keptfile.move(path, name)
    except FileExistsError as error:
        raise EmoGuardError(
            f"{path} is full and {name} is there already: move that one away"
        ) from error


def _key(file: str | None, variable: str | None, *, create: bool) -> Key:
    if (file is None) == (variable is None):
        raise EmoGuardError("an audit log needs a key: give key_file or key_env, one of them")
    if file is None:
        return Key.from_environment(str(variable))
    return Key.create(file) if create and not Path(file).exists() else Key.load(file)


def _check(name: str, value: float | None, least: float) -> None:
    if value is not None and not value >= least:
        raise EmoGuardError(f"{name} must be at least {least:g}, got {value:g}")
