"""Finds the files of a log and their last line, from which a writer continues."""

from __future__ import annotations

import math
import re
from collections.abc import Iterable
from pathlib import Path

from emoguard import keptfile, regularfile
from emoguard.errors import EmoGuardError
from emoguard_jsonl import line, rows
from emoguard_jsonl.key import Key

DIGITS = 12

COMPANIONS = (".lock", ".state")
"""Endings of files beside a log that are not part of it, though a shell pattern matches them."""


def parts(path: str | Path) -> list[Path]:
    """Return the files of the log that `path` leads to, oldest first.

    Those rotated away carry a number.
    """
    path = keptfile.resolved(path)
    rotated = re.compile(rf"{re.escape(path.name)}\.[0-9]{{{DIGITS}}}")
    older = sorted(p for p in path.parent.iterdir() if rotated.fullmatch(p.name))
    return [*older, path] if path.exists() else older


def rotated(path: Path, first: int) -> Path:
    """Return the name under which the file whose first line has number `first` is kept."""
    return path.with_name(f"{path.name}.{first:0{DIGITS}}")


def in_order(files: Iterable[Path]) -> list[Path]:
    """Return files by the number of their first line; those without one come last.

    Other files that lie beside a log are left out.

    Raises:
        OSError: one cannot be read, or is not a regular file.

    """

    def first(path: Path) -> float:
        with regularfile.opened(path) as file:
            match = line.NUMBER.match(file.read(64))
        return int(match[1]) if match else math.inf

    return sorted((f for f in files if not f.name.endswith(COMPANIONS)), key=first)


def last_line(path: Path, key: Key) -> line.Line | None:
    """Return the last whole line of the log at `path`, None if it has none.

    Raises:
        EmoGuardError: it was changed, or is not by this key.
        OSError: the log cannot be read.

    """
    for part in reversed(parts(path)):
        raw = rows.last_line(part)
        last = line.read(raw, key) if raw is not None else None
        if last is not None and not last.sound:
            raise EmoGuardError(
                f"the last line of {part} was changed or written with another key: give the "
                "right key, or move the log away and look at it with emoguard audit verify"
            )
        if last is not None:
            return last
    return None


def torn(path: Path, last: line.Line | None) -> str | None:
    """Return the digest of the line after `last` that the log at `path` ends within, if it does.

    Raises:
        OSError: the log cannot be read.

    """
    raw = rows.unended(parts(path)[-1]) if parts(path) else b""
    number, prev = (last.number + 1, last.mac) if last else (1, None)
    return line.digest(raw) if line.is_beginning(raw, number, prev) else None
