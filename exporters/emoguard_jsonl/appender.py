"""Appends whole lines to a file."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Literal

from emoguard import keptfile, regularfile

State = Literal["here", "moved", "deleted", "cut"]


class Appender:
    """`path` open for appending, made with mode 0600 where it does not exist.

    `size` is where the last whole line ends, in bytes. A line that a killed process left unfinished
    stays as evidence: the next one begins on a line of its own. So does `left`, the part of a line
    that could be neither finished nor taken back; empty otherwise.

    Raises:
        OSError: it cannot be opened, or is not a regular file.

    """

    def __init__(self, path: Path) -> None:
        self._path = path
        is_new = not path.exists()
        self._handle = os.open(path, os.O_RDWR | os.O_CREAT | os.O_APPEND, 0o600)
        try:
            regularfile.check(self._handle)
            if is_new:
                keptfile.sync(path.parent)  # its name, or a power loss takes the lines with it
        except OSError:
            os.close(self._handle)
            raise
        status = os.fstat(self._handle)
        self._place = status.st_dev, status.st_ino
        self.size, self._torn, self.left = 0, False, b""
        self._look_at_end(status.st_size)

    def append(self, data: bytes) -> None:
        """Write one line; where the system takes only a part of it, take the part back.

        Raises:
            OSError: it could not be written.

        """
        whole = b"\n" + data if self._torn else data
        left = memoryview(whole)
        try:
            while left:
                left = left[os.write(self._handle, left) :]
        except OSError:
            self._take_back(whole[: len(whole) - len(left)])
            raise
        self.size += len(whole)
        self._torn, self.left = False, b""

    def look(self) -> State:
        """Return what others did to the file since the last line: `here` if they only appended.

        In a file that was cut or appended to, the next line goes to the present end.
        """
        try:
            status = os.stat(self._path)  # noqa: PTH116  (Path.stat takes twice the time)
        except OSError:
            status = None
        if status is None or (status.st_dev, status.st_ino) != self._place:
            return "moved" if os.fstat(self._handle).st_nlink else "deleted"
        before = self.size + len(self.left)
        if status.st_size == before:
            return "here"
        self._look_at_end(status.st_size)
        self.left = b""
        return "cut" if status.st_size < before else "here"

    def sync(self) -> None:
        """Wait until everything is on disk."""
        os.fsync(self._handle)

    def close(self) -> None:
        """Close the file. Call once."""
        os.close(self._handle)

    def _look_at_end(self, size: int) -> None:
        self.size = size
        self._torn = size > 0 and os.pread(self._handle, 1, size - 1) != b"\n"

    def _take_back(self, part: bytes) -> None:
        try:
            os.ftruncate(self._handle, os.fstat(self._handle).st_size - len(part))
        except OSError:  # the file may be set to append-only: then the part stays, torn
            self.left = part.removeprefix(b"\n")
            self._torn = bool(self.left) or (self._torn and not part)
