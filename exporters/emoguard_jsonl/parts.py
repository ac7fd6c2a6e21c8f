"""The files a log consists of, and the two lines a writer must know of them: first and last."""

from __future__ import annotations

import math
import mmap
import re
from collections.abc import Iterable, Iterator
from pathlib import Path

from emoguard.errors import EmoGuardError
from emoguard_jsonl import line
from emoguard_jsonl.key import Key

DIGITS = 12


def parts(path: str | Path) -> list[Path]:
    """Return the files of the log at `path`, oldest first; those rotated away carry a number."""
    path = Path(path)
    rotated = re.compile(rf"{re.escape(path.name)}\.[0-9]{{{DIGITS}}}")
    found = sorted(p for p in path.parent.iterdir() if rotated.fullmatch(p.name))
    return [*found, path] if path.exists() else found


def rotated(path: Path, first: int) -> Path:
    """Return the name under which the file whose first line has number `first` is kept."""
    return path.with_name(f"{path.name}.{first:0{DIGITS}}")


def in_order(files: Iterable[Path]) -> list[Path]:
    """Return files by the number of their first line; those without one come last."""

    def first(path: Path) -> float:
        with path.open("rb") as file:
            found = line.NUMBER.match(file.read(64))
        return int(found[1]) if found else math.inf

    return sorted(files, key=first)


def last_line(path: Path, key: Key) -> line.Line | None:
    """Return the last whole line of the log at `path`, None when there is none.

    Raises:
        EmoGuardError: it was changed, or is not by this key.

    """
    for part in reversed(parts(path)):
        for raw in _backwards(part):
            found = line.read(raw, key)
            if found is not None and not found.sound:
                raise EmoGuardError(
                    f"the last line of {part} was changed or written with another key: give the "
                    "right key, or move the log away and look at it with emoguard audit verify"
                )
            if found is not None:
                return found
    return None


def _backwards(path: Path) -> Iterator[bytes]:
    """Yield the lines of a file, last first."""
    with path.open("rb") as file:
        if not path.stat().st_size:
            return
        with mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as data:
            end = len(data)
            while end > 0:
                start = data.rfind(b"\n", 0, end - 1) + 1
                yield data[start:end]
                end = start
