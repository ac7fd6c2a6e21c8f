"""Finds the line from which a process continues a log."""

from __future__ import annotations

import secrets
from dataclasses import dataclass
from pathlib import Path

from emoguard import keptfile
from emoguard.errors import EmoGuardError
from emoguard_jsonl.head import Head, read_head
from emoguard_jsonl.key import Key
from emoguard_jsonl.line import Line
from emoguard_jsonl.parts import last_line, torn

LOST = (
    "the audit log %s ends with %s, but line %d was noted as written: it was moved, cut or lost "
    "while nobody wrote it. It goes on with line %d: the chain holds once the missing file is back"
)
OTHER = "the audit log %s has another line %d than the one that was noted: it is not the same log"
NEW = (
    "the audit log %s holds no line and none is noted: a new chain begins with line 1. If it was "
    "written before, its files were moved or lost"
)
UNREADABLE = "the note %s cannot be used and is now %s: %s"


@dataclass(frozen=True)
class Start:
    """The last line of a log, from which a writer continues; 0 before any.

    `torn` is the digest of the unfinished row that the next line follows, if there is one.
    `findings` are faults, each a sentence with its arguments; `is_new` if the log has no line and
    no note.
    """

    last: Head
    torn: str | None
    findings: tuple[tuple[object, ...], ...] = ()
    is_new: bool = False


def find(path: Path, note: Path, key: Key) -> Start:
    """Return the line from which the log at `path` continues; `note` may hold its last line.

    Raises:
        EmoGuardError: its last line was changed, or is not by this key.
        OSError: it cannot be read.

    """
    last = last_line(path, key)
    noted, unreadable = _noted(note)
    if noted is None or (last is not None and last.number > noted.number):
        return Start(_head(last), torn(path, last), unreadable, last is None and not unreadable)
    if last is None or last.number < noted.number:
        end = "no line" if last is None else f"line {last.number}"
        lost = (LOST, path, end, noted.number, noted.number + 1)
        # A row that is not whole was cut from the lines that are gone, and not torn from the next.
        return Start(noted, None, (lost,))
    other = () if last.mac == noted.mac else ((OTHER, path, last.number),)
    return Start(_head(last), torn(path, last), other)


def _head(last: Line | None) -> Head:
    return Head(last.number, last.mac) if last else Head(0, secrets.token_hex(32))


def _noted(note: Path) -> tuple[Head | None, tuple[tuple[object, ...], ...]]:
    try:
        return read_head(note), ()
    except FileNotFoundError:
        return None, ()
    except EmoGuardError as error:
        aside = keptfile.set_aside(note)
        return None, ((UNREADABLE, note, aside.name, error),)
