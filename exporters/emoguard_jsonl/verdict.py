"""Verifies a log from end to end."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal, NamedTuple

from emoguard_jsonl import line
from emoguard_jsonl.key import Key
from emoguard_jsonl.rows import Row
from emoguard_jsonl.rows import read as read_rows

Kind = Literal["changed", "missing", "misplaced", "foreign", "cut", "torn"]

MOST_FINDINGS = 1000
"""Findings that are kept; more are counted."""


@dataclass(frozen=True)
class Finding:
    """Something wrong at one place: row counts the lines of `file` from 1.

    Only `torn` is innocent: the process died while it wrote that line. Either the next line,
    written and signed by the restarted process, says so, or the log ends within it.
    """

    kind: Kind
    file: str
    row: int
    text: str


@dataclass
class Verdict:
    """The result of `verify`; `last` is the number of the last line and `mac` its MAC.

    `findings` holds the first thousand, `omitted` counts the others; no innocent one is omitted
    without a guilty one being kept.
    """

    findings: list[Finding] = field(default_factory=list)
    omitted: int = 0
    first: int | None = None
    last: int = 0
    mac: str | None = None

    @property
    def sound(self) -> bool:
        """Return whether no line was changed, removed, moved or added."""
        return not self.omitted and all(finding.kind == "torn" for finding in self.findings)

    def add(self, finding: Finding) -> None:
        """Keep a finding, or count it."""
        if len(self.findings) < MOST_FINDINGS:
            self.findings.append(finding)
        else:
            self.omitted += 1


class Accepted(NamedTuple):
    """A line that follows the chain: where it stands, and its bytes without the newline."""

    file: str
    row: int
    raw: bytes


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
    `first` is the number the log should begin with, where older files are kept elsewhere. A log
    without any line is `cut` unless `lines` is 0: nothing in it could be verified.

    Raises:
        OSError: a file cannot be read, or is not a regular file.

    """
    verdict = Verdict()
    chain = _Chain(key, verdict, first, head)
    for _ in chain.follow(files):
        pass
    chain.end(lines)
    return verdict


def accepted(files: Iterable[Path], key: Key, verdict: Verdict) -> Iterator[Accepted]:
    """Yield the lines of `files`, oldest first, that `verify` finds nothing wrong with.

    The log may begin with any number. All others are left out; `verdict` then has why.

    Raises:
        OSError: a file cannot be read, or is not a regular file.

    """
    yield from _Chain(key, verdict, None, None).follow(files)


class _Chain:
    """Follows the chain line by line, remembering the line before."""

    def __init__(
        self, key: Key, verdict: Verdict, first: int | None, head: tuple[int, str] | None
    ) -> None:
        self._key = key
        self._verdict = verdict
        self._number = None if first is None else first - 1
        self._mac: str | None = None
        self._foreign: str | None = None
        self._changed = 0
        self._head = head
        self._at = ("", 0)
        self._others: tuple[str, Row] | None = None

    def follow(self, files: Iterable[Path]) -> Iterator[Accepted]:
        for file in map(str, files):
            self._at = file, 0
            for row in read_rows(file):
                self._at = file, row.number
                if row.line is None:
                    self._hold(file, row)
                elif self._accepts(line.parse(row.line, self._key)):
                    yield Accepted(file, row.number, row.raw)
        self._settle_end()

    def _hold(self, file: str, row: Row) -> None:
        """Keep rows that are no lines until the next line says whether it was torn from them."""
        if self._others is not None and self._others[0] == file:
            first = self._others[1]
            row = row._replace(number=first.number, span=first.span + row.span)
        else:
            self._settle(is_torn=False)
        self._others = file, row

    def _settle(self, *, is_torn: bool) -> None:
        """Judge the rows that were held; only the last of them may be torn."""
        if self._others is None:
            return
        file, row = self._others
        self._others = None
        foreign = row.span - is_torn
        if foreign:
            rows = "is" if foreign == 1 else f"and the {foreign - 1:,} after it are"
            self._verdict.add(Finding("foreign", file, row.number, f"{rows} no line of this log"))
        if is_torn:
            text = f"is not whole: line {self._wanted()} was being written"
            self._verdict.add(Finding("torn", file, row.number + foreign, text))

    def _settle_end(self) -> None:
        """Judge the rows at the end: the last may be a line that is being written right now."""
        last = self._others[1] if self._others else None
        is_torn = (
            last is not None
            and not last.ended
            and line.is_beginning(last.raw, self._wanted(), self._mac)
        )
        self._settle(is_torn=is_torn)

    def _wanted(self) -> int:
        return (self._number or 0) + 1

    def _accepts(self, link: line.Line) -> bool:
        if not link.sound:
            self._settle(is_torn=False)
            self._find("changed", f"says it is line {link.number}, and its MAC is wrong")
            self._changed += 1
            return False
        if self._number is None:
            self._number = link.number - 1
        if self._others is not None:
            self._settle(is_torn=self._tears(link))
        return self._is_next(link)

    def _tears(self, link: line.Line) -> bool:
        """Return whether the line says that the row before it is torn."""
        if self._others is None or link.torn is None:
            return False
        return link.number == self._wanted() and link.torn == line.digest(self._others[1].raw)

    def _is_next(self, link: line.Line) -> bool:
        wanted = self._wanted()
        if link.number < wanted:
            self._find("misplaced", f"is line {link.number}, after line {wanted - 1}")
            return False
        is_linked = link.number > wanted or self._mac in (None, link.prev)
        if not is_linked or link.prev == self._foreign:
            self._find("foreign", f"is a line {link.number}, but of another log")
            self._foreign = link.mac
            return False
        # Of the lines before it, those that were changed are not missing.
        if link.number - wanted > self._changed:
            self._find("missing", f"is line {link.number}: {_span(wanted, link.number - 1)} gone")
        self._take(link)
        return True

    def _take(self, link: line.Line) -> None:
        self._number, self._mac = link.number, link.mac
        self._foreign, self._changed = None, 0
        self._verdict.last, self._verdict.mac = link.number, link.mac
        self._verdict.first = self._verdict.first or link.number
        if self._head is not None and self._head[0] == link.number:
            self._check_head(link.mac)

    def _check_head(self, mac: str) -> None:
        wanted = self._head
        self._head = None
        if wanted is not None and wanted[1] != mac:
            self._find("foreign", f"is a line {wanted[0]}, but not the one that was noted")

    def end(self, lines: int | None) -> None:
        """Judge what is missing at the end of the log."""
        most = max(lines or 0, self._head[0] if self._head else 0)
        if most >= self._wanted() + self._changed:
            self._find("cut", f"is the end: {_span(self._wanted() + self._changed, most)} gone")
        elif self._verdict.first is None and lines is None and self._verdict.sound:
            self._find(
                "cut", "is the end, and there is no line: give --lines 0 if none was written"
            )

    def _find(self, kind: Kind, text: str) -> None:
        self._verdict.add(Finding(kind, *self._at, text))


def _span(first: int, last: int) -> str:
    return f"line {first} is" if first == last else f"lines {first} to {last} are"
