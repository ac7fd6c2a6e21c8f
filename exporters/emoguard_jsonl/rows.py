"""Reads log files row by row, in bounded memory whatever they hold."""

from __future__ import annotations

import os
import re
from collections import deque
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO, NamedTuple

from emoguard import regularfile
from emoguard_jsonl import line

LONGEST = 8 * 2**20
"""Bytes of a row that are kept; our lines have a few thousand."""

CHUNK = 2**20


class Row(NamedTuple):
    """A row of the shape of a line, or a run of `span` rows of any other shape from `number` on.

    `raw` is the last of them without its newline, empty where that is longer than `LONGEST`.
    `ended` says whether there was a newline: only the last row of a file may lack it. `line` is the
    match of a line's shape, None for other rows.
    """

    number: int
    span: int
    raw: bytes
    ended: bool
    line: re.Match[bytes] | None = None


def read(path: str | Path) -> Iterator[Row]:
    """Yield the rows that a file has when it is opened, however it grows.

    Raises:
        OSError: it cannot be read, or is not a regular file.

    """
    number = 1
    for block in _blocks(path):
        for row in _rows(block, number):
            yield row
            number = row.number + row.span


def _blocks(path: str | Path) -> Iterator[bytes]:
    """Yield whole rows, many at a time; only the last block may lack a newline at its end."""
    with regularfile.opened(path) as file:
        left = os.fstat(file.fileno()).st_size
        while block := file.read(min(CHUNK, left)):
            if not block.endswith(b"\n"):
                block += file.readline(min(LONGEST, left - len(block)))
            left -= len(block)
            if left and not block.endswith(b"\n"):
                block = block[: block.rfind(b"\n") + 1] + b"\n"
                left -= _skip_row(file, left)
            yield block


def _skip_row(file: BinaryIO, most: int) -> int:
    """Read on to the end of a row that is too long; return how many bytes that were."""
    skipped = 0
    while part := file.readline(min(CHUNK, most - skipped)):
        skipped += len(part)
        if part.endswith(b"\n"):
            break
    return skipped


def _rows(block: bytes, number: int) -> Iterator[Row]:
    at = 0
    for match in line.SHAPE.finditer(block):
        if match.start() > at:
            others = _others(block[at : match.start()], number)
            yield others
            number += others.span
        ended = match.end() < len(block)
        yield Row(number, 1, match[0], ended, match)
        number, at = number + 1, match.end() + ended
    if at < len(block):
        yield _others(block[at:], number)


def _others(rows: bytes, number: int) -> Row:
    ended = rows.endswith(b"\n")
    last = rows.removesuffix(b"\n").rpartition(b"\n")[2]
    return Row(number, rows.count(b"\n") + (not ended), last, ended)


def last_line(path: str | Path) -> bytes | None:
    """Return the last row of a file that has the shape of a line; None when there is none.

    Raises:
        OSError: it cannot be read, or is not a regular file.

    """
    for block in _backwards(path):
        lines = deque(line.SHAPE.finditer(block), maxlen=1)
        if lines:
            return lines[0][0]
    return None


def unended(path: str | Path) -> bytes:
    """Return the bytes after the last newline of a file.

    Raises:
        OSError: it cannot be read, or is not a regular file.

    """
    return next(_backwards(path), b"").rpartition(b"\n")[2]


def _backwards(path: str | Path) -> Iterator[bytes]:
    """Yield blocks of whole rows, those at the end of the file first."""
    with regularfile.opened(path) as file:
        start, tail = file.seek(0, os.SEEK_END), b""
        while start:
            end, start = start, max(0, start - CHUNK)
            file.seek(start)
            block = file.read(end - start) + tail
            cut = block.find(b"\n") + 1 if start else 0
            if cut or not start:
                yield block[cut:]
                block = block[:cut]
            # Of a row that is too long stays so much that it cannot be taken for a line.
            tail = block if len(block) <= LONGEST else b"\0" + block[-1:]
