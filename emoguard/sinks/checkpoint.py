"""Keeps the state of a monitor in a small JSON file across restarts."""

from __future__ import annotations

import json
import logging
import os
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from emoguard import jsontext, keptfile, regularfile
from emoguard.errors import EmoGuardError

log = logging.getLogger("emoguard")

UNUSABLE = (
    EmoGuardError,
    OSError,
    ValueError,
    LookupError,
    TypeError,
    AttributeError,
    ArithmeticError,
)
"""Errors raised by reading an unsound state."""

LARGEST = 8 * 2**20
"""Bytes; the state of a hundred labels has a few kilobytes, that of a thousand some hundred."""

State = dict[str, Any]


class Checkpoint:
    """One file; `bound` is what the state depends on, such as labels and limits; None accepts any.

    Bookkeeping never stops the monitor. An unusable file is set aside, one that cannot be written
    is left unchanged: both are logged once and counted in `faults`. Only a file that another
    process holds and a path that is not a file's (a device, a folder) are refused, on opening.
    Without a path nothing is kept.
    """

    def __init__(
        self, path: str | Path | None, bound: Mapping[str, Any] | None, largest: int = LARGEST
    ) -> None:
        self._path = path
        self._bound = None if bound is None else json.loads(json.dumps(dict(bound)))
        self._largest = largest
        self._lock: keptfile.Lock | None = None
        self._failed = self._counted = 0
        self._logged = False

    def check(self) -> None:
        """Raise if the state could not be saved; leaves nothing behind.

        Raises:
            EmoGuardError: with the reason.

        """
        if self._path is not None:
            keptfile.check_writable(self._path)

    def open(self, take: Callable[[State], None]) -> None:
        """Lock the file, and pass the state that was saved last to `take`, if any.

        A state that `take` raises on, or that is bound to something else, is unsound.

        Raises:
            EmoGuardError: another process holds the file, or its path leads to something else than
                a file.

        """
        if self._path is None:
            return
        try:
            self._check_is_file()
            self._hold()
        except keptfile.HeldError as error:
            raise EmoGuardError(f"the state file {error}") from error
        except OSError as error:
            self._fail("cannot be kept", error)
        self._restore(take)

    def save(self, state: Mapping[str, Any]) -> None:
        """Replace the saved state; the file is whole at every moment."""
        if self._path is None:
            return
        try:
            data = json.dumps({"bound": self._bound, "state": dict(state)}, allow_nan=False)
            if len(data) > self._largest:
                raise ValueError(f"{len(data):,} bytes, at most {self._largest:,} can be read")  # noqa: TRY301
            keptfile.replace(self._hold().path, data)
        except (OSError, ValueError, EmoGuardError) as error:
            self._fail("is not saved", error)

    def close(self, state: Mapping[str, Any]) -> None:
        """Save, and release the file. May be used again afterwards."""
        self.save(state)
        self.release()

    def release(self) -> None:
        """Release the file. May be used again afterwards."""
        if self._lock is not None:
            self._lock.release()
        self._lock = None

    def faults(self) -> int:
        """Return the number of failures since the last call."""
        failed, before = self._failed, self._counted
        self._counted = failed  # never set back: another thread may be counting
        return failed - before

    def _check_is_file(self) -> None:
        """Refuse a folder, a pipe, a device or links in a circle: no file may take their place.

        Raises:
            EmoGuardError: the path leads to one. OSError: no path can have this name.

        """
        assert self._path is not None
        target = keptfile.resolved(self._path)
        if os.path.lexists(target) and not target.is_file():
            raise EmoGuardError(f"the state file {self._path} is no file: name another place")

    def _hold(self) -> keptfile.Lock:
        """Return the lock of the file, taken now if that failed before.

        Raises:
            HeldError, ForkedError: another process has it. OSError: it cannot be taken.

        """
        if self._lock is None:
            assert self._path is not None
            self._lock = keptfile.Lock(keptfile.resolved(self._path))
        self._lock.check()
        return self._lock

    def _restore(self, take: Callable[[State], None]) -> None:
        assert self._path is not None
        try:
            data = regularfile.read(self._path, self._largest)
            saved = jsontext.parse(data, largest=self._largest)
            bound, state = saved["bound"], saved["state"]
            if self._bound not in (None, bound):
                self._set_aside(
                    "was kept under other labels or limits, another baseline or version"
                )
            else:
                take(state)
        except FileNotFoundError:
            return
        except UNUSABLE as error:
            self._failed += 1
            self._set_aside(f"cannot be used ({type(error).__name__}: {error!s:.100})")

    def _set_aside(self, why: str) -> None:
        assert self._path is not None
        try:
            aside = keptfile.set_aside(keptfile.resolved(self._path))
        except OSError as error:
            self._fail("can be neither used nor set aside", error)
        else:
            log.warning("%s %s: it is now %s, starting afresh", self._path, why, aside.name)

    def _fail(self, what: str, error: Exception) -> None:
        self._failed += 1
        if not self._logged:
            self._logged = True
            log.error("the state file %s %s (logged once): %s", self._path, what, error)
