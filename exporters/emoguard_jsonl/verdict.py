"""Reads a log from end to end and tells what was done to it."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from emoguard_jsonl import line
from emoguard_jsonl.key import Key

Kind = Literal["changed", "missing", "misplaced", "foreign", "cut", "torn"]

LONGEST = 64 * 1024 * 1024
"""Bytes of a line that are looked at; ours have a few thousand."""


@dataclass(frozen=True)
class Finding:
    """Something wrong at one place: row counts the lines of `file` from 1.

    Only `torn` is innocent: the process died while it wrote that line, and the chain shows that
    nothing else is missing.
    """

    kind: Kind
    file: str
    row: int
    text: str


@dataclass
class Verdict:
    """What `verify` found; `last` is the number of the last line and `mac` its MAC."""

    findings: list[Finding] = field(default_factory=list)
    first: int | None = None
    last: int = 0
    mac: str | None = None

    @property
    def sound(self) -> bool:
        """Return whether no line was changed, removed, moved or added."""
        return all(finding.kind == "torn" for finding in self.findings)


def verify(
    files: Iterable[Path],
    key: Key,
    *,
    first: int = 1,
    lines: int | None = None,
    head: tuple[int, str] | None = None,
) -> Verdict:
    """Follow the chain through `files`, oldest first.

    The chain alone cannot show that lines are missing at its end: give how many there should be,
    `lines` (the metric `emoguard_audit_lines_total`), or a line noted before, `head` (number, MAC).
    `first` is the number the log should begin with, where older files are kept elsewhere.

    Raises:
        OSError: a file cannot be read.

    """
    chain = _Chain(key, first, head)
    for path in files:
        for row, raw in _rows(path):
            chain.follow(str(path), row, raw)
    return chain.end(lines)


def _rows(path: Path) -> Iterator[tuple[int, bytes]]:
    """Yield row number and bytes; of a line that is far too long only the beginning."""
    row, begins = 0, True
    with path.open("rb") as file:
        while raw := file.readline(LONGEST):
            if begins:
                row += 1
                yield row, raw
            begins = raw.endswith(b"\n")


class _Chain:
    """Follows the chain line by line; what it holds is the line before."""

    def __init__(self, key: Key, first: int, head: tuple[int, str] | None) -> None:
        self._key = key
        self._number = first - 1
        self._mac: str | None = None
        self._head = head
        self._at = ("", 0)
        self._verdict = Verdict()

    def follow(self, file: str, row: int, raw: bytes) -> None:
        self._at = (file, row)
        if not raw.strip():
            return
        found = line.read(raw, self._key)
        if found is None:
            self._find("torn", f"is not whole: line {self._number + 1} was being written")
        elif not found.sound:
            self._find("changed", f"says it is line {found.number}, and its MAC is wrong")
            self._number, self._mac = self._number + 1, None
        elif found.number <= self._number:
            self._find("misplaced", f"is line {found.number}, after line {self._number}")
        else:
            self._check_link(found)
            self._take(found)

    def _check_link(self, found: line.Line) -> None:
        wanted = self._number + 1
        if found.number > wanted:
            self._find("missing", f"is line {found.number}: {_span(wanted, found.number - 1)} gone")
        elif self._mac is not None and found.prev != self._mac:
            self._find("foreign", f"is a line {found.number}, but of another log")

    def _take(self, found: line.Line) -> None:
        self._number, self._mac = found.number, found.mac
        self._verdict.last, self._verdict.mac = found.number, found.mac
        self._verdict.first = self._verdict.first or found.number
        if self._head is not None and self._head[0] == found.number:
            self._check_head(found.mac)

    def _check_head(self, mac: str) -> None:
        wanted = self._head
        self._head = None
        if wanted is not None and wanted[1] != mac:
            self._find("foreign", f"is a line {wanted[0]}, but not the one that was noted")

    def end(self, lines: int | None) -> Verdict:
        most = max(lines or 0, self._head[0] if self._head else 0)
        if most > self._number:
            self._find("cut", f"is the end: {_span(self._number + 1, most)} gone")
        return self._verdict

    def _find(self, kind: Kind, text: str) -> None:
        self._verdict.findings.append(Finding(kind, *self._at, text))


def _span(first: int, last: int) -> str:
    return f"line {first} is" if first == last else f"lines {first} to {last} are"
