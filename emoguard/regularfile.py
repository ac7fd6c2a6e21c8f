"""Reads untrusted files: regular files only, of bounded size."""

from __future__ import annotations

import errno
import os
import stat
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO

LARGEST = 64 * 2**20
"""Bytes of a file of texts."""

LONGEST = 2**20
"""Bytes of one of its lines."""

MOST_LINES = 500_000

KINDS = {
    stat.S_IFDIR: "a folder",
    stat.S_IFIFO: "a pipe",
    stat.S_IFSOCK: "a socket",
    stat.S_IFCHR: "a device",
    stat.S_IFBLK: "a device",
}

# Opening a FIFO or a terminal must not wait, nor make it ours. Windows has neither flag.
FLAGS = os.O_RDONLY | sum(getattr(os, f"O_{name}", 0) for name in ("NONBLOCK", "NOCTTY", "BINARY"))


def opened(path: str | Path) -> BinaryIO:
    """Open a regular file for reading, through all links. Never waits for a writer.

    Raises:
        OSError: it cannot be opened, or is something else.

    """
    try:
        handle = os.open(path, FLAGS)
    except ValueError as error:  # a NUL or half a surrogate pair in the path
        raise OSError(errno.EINVAL, f"{error}") from error
    try:
        check(handle)
    except OSError:
        os.close(handle)
        raise
    return os.fdopen(handle, "rb")


def check(handle: int) -> None:
    """Raise if an open file is not a regular one.

    Raises:
        OSError: naming its kind.

    """
    mode = os.fstat(handle).st_mode
    if not stat.S_ISREG(mode):
        raise OSError(errno.EINVAL, f"wanted a regular file, got {kind(mode)}")


def kind(mode: int) -> str:
    """Return the kind of a file by its mode, in words."""
    return KINDS.get(stat.S_IFMT(mode), "another kind")


def read(path: str | Path, largest: int) -> bytes:
    """Return the bytes of a regular file that has at most `largest`, however it may grow.

    Raises:
        OSError: it cannot be read, is something else, or has more.

    """
    with opened(path) as file:
        data = file.read(largest + 1)
    if len(data) > largest:
        raise _too_large(f"at most {largest:,} bytes")
    return data


def lines(path: str | Path) -> Iterator[str]:
    r"""Yield the lines of a text in UTF-8, without their ends and a byte order mark.

    Only `\n` and `\r\n` end a line: texts may hold the other marks. Read line by line and bounded
    in bytes, lines and bytes of a line.

    Raises:
        OSError: it cannot be read, is something else, or has more; it is not UTF-8.

    """
    for number, raw in enumerate(raw_lines(path), 1):
        yield decoded(raw, number)


def raw_lines(path: str | Path) -> Iterator[bytes]:
    """Yield the lines of a file with their ends, without a byte order mark, bounded as `lines`.

    Raises:
        OSError: it cannot be read, is something else, or has more.

    """
    left = LARGEST
    with opened(path) as file:
        for number in range(1, MOST_LINES + 2):
            raw = file.readline(LONGEST + 1)
            if not raw:
                return
            left -= len(raw)
            if len(raw) > LONGEST or left < 0 or number > MOST_LINES:
                raise _too_large(
                    f"at most {LARGEST:,} bytes in {MOST_LINES:,} lines of {LONGEST:,} bytes",
                    f"more in line {number}",
                )
            yield raw.removeprefix(b"\xef\xbb\xbf") if number == 1 else raw


def decoded(raw: bytes, number: int) -> str:
    """Return the text of one line without its end.

    Raises:
        OSError: it is not UTF-8; `number` is named.

    """
    try:
        return raw.removesuffix(b"\n").removesuffix(b"\r").decode()
    except UnicodeDecodeError as error:
        raise OSError(errno.EILSEQ, f"line {number} is not UTF-8") from error


def _too_large(bound: str, came: str = "more") -> OSError:
    return OSError(errno.EFBIG, f"wanted {bound}, got {came}")
