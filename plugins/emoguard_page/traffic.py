"""Keeps the last reports and counts all of them for the operator's view, as a sink."""

from __future__ import annotations

import threading
from collections import Counter, deque
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from itertools import islice
from typing import TYPE_CHECKING, Any, Self

from emoguard.errors import EmoGuardError
from emoguard.records import Alert, Report
from emoguard.sinks.protocols import Drift, Notices, Rate

if TYPE_CHECKING:
    from emoguard.site import Site

KEEP = 1000
"""Reports that are kept: about 2 MB."""


class Traffic:
    """Keeps the last `keep` reports, without their tokens, and counts all of them.

    A report costs an append and some counts; the view is computed when somebody looks. `rate` and
    `drift` are the guard's monitors, `notices` its overdue notices, each None without.

    >>> from emoguard.testing import make_report
    >>> traffic = Traffic(keep=2)
    >>> for _ in range(3):
    ...     _ = traffic.report(make_report())
    >>> traffic.taken, [number for number, _ in traffic.since(0)]
    (3, [2, 3])

    Raises:
        EmoGuardError: `keep` is not positive.

    """

    def __init__(self, keep: int = KEEP) -> None:
        if keep < 1:
            raise EmoGuardError(f"keep: wanted 1 or more reports to show, got {keep}")
        self.rate: Rate | None = None
        self.drift: Drift | None = None
        self.notices: Notices | None = None
        self.taken = 0
        """Reports taken so far; the last one's number."""
        self._kept: deque[Report] = deque(maxlen=keep)
        self._counts: Counter[tuple[str, str]] = Counter()
        self._lock = threading.Lock()

    @classmethod
    def from_policy(cls, site: Site, *, keep: int = KEEP) -> Self:  # noqa: ARG003
        """Keep the last reports of any site, those that the policy's sample lets through."""
        return cls(keep)

    @property
    def keeps(self) -> int:
        """Return how many reports are kept at most."""
        return self._kept.maxlen or 0

    def join(self, sinks: Iterable[object]) -> None:
        """Also show the state of the guard's monitors."""
        for sink in sinks:
            if isinstance(sink, Rate):
                self.rate = sink
            if isinstance(sink, Drift):
                self.drift = sink

    def show_notices(self, notices: Notices) -> None:
        """Also show the number of overdue notices."""
        self.notices = notices

    def report(self, report: Report) -> Sequence[Alert]:
        """Keep one report; returns no alerts."""
        report = replace(report, tokens=()) if report.tokens else report
        with self._lock:
            self._kept.append(report)
            self.taken += 1
            self._counts.update(_kinds(report))
        return ()

    def since(self, number: int) -> list[tuple[int, Report]]:
        """Return the kept reports after the `number`-th, oldest first, with their numbers."""
        with self._lock:
            first = self.taken - len(self._kept)
            skipped = max(0, number - first)
            reports = list(islice(self._kept, skipped, None))
        return list(enumerate(reports, first + skipped + 1))

    def counts(self) -> Mapping[str, dict[str, int]]:
        """Return counts of all reports taken: by status, by notice, by failed part, and others."""
        with self._lock:
            counted = list(self._counts.items())
        counts: dict[str, dict[str, int]] = {}
        for (group, name), count in counted:
            counts.setdefault(group, {})[name] = count
        return counts


def _kinds(report: Report) -> list[tuple[str, str]]:
    """Return the counters of a report: pairs of a group and a name within it."""
    kinds: list[tuple[Any, ...]] = [("status", report.status)]
    kinds += [("fault", part) for part in report.faults]
    kinds += [("denied", part) for part in report.denied]
    if report.steered:
        kinds.append(("steering", "steered"))
    if report.receipt is not None and report.receipt.faulted:
        kinds.append(("steering", "faulted"))
    if report.notice is not None:
        kinds.append(("notice", "given" if report.notice.channel else "lost"))
        kinds += [("reason", reason) for reason in report.notice.reasons]
    return [(str(group), str(name)) for group, name in kinds]
