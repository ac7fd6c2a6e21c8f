"""Keeps work files of slow commands, so that no record is made twice."""

from __future__ import annotations

import contextlib
import json
import os
from collections.abc import Callable, Mapping
from contextlib import ExitStack
from pathlib import Path
from typing import Any, Generic, TypeVar

from emoguard import jsontext, keptfile, regularfile
from emoguard.errors import EmoGuardError

Record = TypeVar("Record")

LARGEST = 32 * 2**20
"""Bytes of a work file: forty thousand answers of 128 tokens."""

MOST_RECORDS = 500_000

BOUNDS = f"{LARGEST >> 20} MiB and {MOST_RECORDS:,} records"


class WorkFile(Generic[Record]):
    """Records in JSON lines after a head that names their `kind` and the inputs they depend on.

    `bound` holds their dependencies; `parse` makes a record of a line's data, and raises
    `ValueError`, `LookupError` or `TypeError` on anything else. A record is on disk before `append`
    returns; a line that a killed process left half written is dropped. No other object can use the
    file until this one is closed or collected.

    Raises:
        EmoGuardError: the file is malformed, cannot be written, is bound to something else, or
            another command is using it.

    """

    def __init__(
        self,
        path: str | Path,
        kind: str,
        bound: Mapping[str, Any],
        parse: Callable[[Any], Record],
    ) -> None:
        self.path = Path(path)
        self.records: list[Record] = []
        self._kind, self._parse = kind, parse
        try:
            self._file = keptfile.resolved(path)
            with ExitStack() as stack:
                self._lock = keptfile.Lock(self._file)
                stack.callback(self._lock.release)
                self._take_up(dict(bound))
                stack.pop_all()
        except keptfile.HeldError as error:
            raise EmoGuardError(f"the work file {error}") from error
        except OSError as error:
            raise EmoGuardError(f"{self.path} cannot be used: {error.strerror}") from error

    def _take_up(self, bound: dict[str, Any]) -> None:
        """Read the existing file, drop an unfinished line, begin a new file with its head."""
        exists = self._file.exists()
        kept = self._read(bound) if exists else 0
        with self._file.open("r+b" if exists else "w+b") as file:
            file.truncate(kept)
            file.seek(kept)
            if not kept:
                file.write(_line({"emoguard": self._kind, "bound": bound}))
        keptfile.sync(self._file)
        keptfile.sync(self._file.parent)

    def append(self, data: Mapping[str, Any]) -> None:
        """Append one record, given as the data of its line.

        Raises:
            EmoGuardError: the record cannot be written, or would make the file too large, or holds
                a number that is not finite, which no line may.

        """
        try:
            line = _line(dict(data))
        except ValueError as error:
            raise EmoGuardError(
                f"{self.path}: wanted finite numbers in a record, got NaN or infinity: what the "
                "model computed cannot be kept; a half-precision model may overflow, so try it in "
                "bfloat16 or float32"
            ) from error
        try:
            size = self._file.stat().st_size
            if size + len(line) > LARGEST or len(self.records) == MOST_RECORDS:
                raise EmoGuardError(f"{self.path} is full, at {BOUNDS}: ask for fewer")
            self._append(line, size)
        except OSError as error:
            raise EmoGuardError(f"{self.path} cannot be written: {error.strerror}") from error
        self.records.append(self._parse(data))

    def _append(self, line: bytes, size: int) -> None:
        """Write a line after the first `size` bytes, or nothing.

        Raises:
            OSError: the line cannot be written.

        """
        try:
            with self._file.open("ab") as file:
                file.write(line)
            keptfile.sync(self._file)
        except OSError:
            with contextlib.suppress(OSError):
                os.truncate(self._file, size)
            raise

    def close(self) -> None:
        """Release the file for other commands. Idempotent."""
        self._lock.release()

    def _read(self, bound: dict[str, Any]) -> int:
        """Read the records; return the bytes of the whole lines."""
        kept = 0
        with regularfile.opened(self._file) as file:
            while line := file.readline(jsontext.LARGEST + 1):
                if not kept:
                    self._check_head(line, bound)
                # A line counts once its newline is written.
                if not line.endswith(b"\n"):
                    break
                if kept:
                    self._take(line)
                kept += len(line)
                if kept > LARGEST or len(self.records) > MOST_RECORDS:
                    raise EmoGuardError(f"{self.path} is too large, wanted at most {BOUNDS}")
        return kept

    def _check_head(self, line: bytes, bound: dict[str, Any]) -> None:
        head = f'{{"emoguard":"{self._kind}",'.encode()
        if not head.startswith(line[: len(head)]):
            raise self._foreign()
        if not line.endswith(b"\n"):
            return
        try:
            stored = dict(jsontext.parse(line)["bound"])
        except (EmoGuardError, LookupError, TypeError, ValueError) as error:
            raise self._foreign() from error
        if differing := differences(stored, bound):
            raise EmoGuardError(
                f"{self.path} holds {self._kind} of other inputs ({differing} differ): delete it, "
                "or write elsewhere"
            )

    def _take(self, line: bytes) -> None:
        try:
            self.records.append(self._parse(jsontext.parse(line)))
        except (EmoGuardError, ValueError, LookupError, TypeError) as error:
            raise self._foreign() from error

    def _foreign(self) -> EmoGuardError:
        return EmoGuardError(
            f"{self.path} is no file of {self._kind}: delete it, or write elsewhere"
        )


def _line(record: dict[str, Any]) -> bytes:
    return json.dumps(record, separators=(",", ":"), allow_nan=False).encode() + b"\n"


def differences(stored: Mapping[str, Any], bound: Mapping[str, Any]) -> str:
    """Return the names of the dependencies that are not the same, with commas; "" for none."""
    return ", ".join(name for name in {**bound, **stored} if stored.get(name) != bound.get(name))
