"""Sends reports to the sinks: at once, or when their notice was delivered or lost."""

from __future__ import annotations

import dataclasses
import threading
from collections import OrderedDict, deque
from collections.abc import Callable, Sequence

from emoguard.clock import Moment, elapsed
from emoguard.forked import AFTER_FORK, in_child
from emoguard.notices.ledger import Ledger
from emoguard.policy.policy import Policy
from emoguard.records import Alert, Channel, Report, Request
from emoguard.sinks.delivery import Delivery
from emoguard.sinks.protocols import CountsFaults, ShowsNotices, Sink

MOST_PENDING = 4096
"""Most notices on their way; beyond that, the oldest count as lost."""
MOST_ABANDONED = 256
"""Most abandoned calls remembered, as their generations may still run; older ones are forgotten."""
SLOW_SECONDS = 60.0
"""A notice on its way for longer is overdue."""


class Outbox:
    """Adds the due notice to each report and hands it to the sinks. Thread-safe.

    `alerts` holds the last alerts: of monitors, and of crossings noticed while a response was
    generated; `on_alert` is called with the latter, in a thread of its own.
    """

    def __init__(
        self,
        policy: Callable[[], Policy],
        sinks: Sequence[Sink] = (),
        on_alert: Callable[[Alert], None] | None = None,
        now: Callable[[], Moment] | None = None,
    ) -> None:
        self._policy = policy
        self.alerts: deque[Alert] = deque(maxlen=policy().keep_reports)
        self._ledger = Ledger(lambda: policy().notices, now)
        named = [(_name(sink), sink.report) for sink in sinks]
        self._delivery: Delivery[Report] = Delivery(named, self.alerts)
        calls = [("callback", _returning_nothing(on_alert))] if on_alert is not None else []
        self._calls: Delivery[Alert] = Delivery(calls, self.alerts)
        self._counting = [(_name(each), each) for each in sinks if isinstance(each, CountsFaults)]
        self._lock = threading.Lock()
        self._pending: OrderedDict[int, tuple[Report, Moment]] = OrderedDict()
        self._abandoned: deque[str] = deque(maxlen=MOST_ABANDONED)
        for sink in sinks:
            if isinstance(sink, ShowsNotices):
                sink.show_notices(self)
        in_child(self._after_fork)

    def open(self) -> None:
        """Open the state file of notices, or the first report will. Idempotent.

        Raises:
            EmoGuardError: another process holds that file.

        """
        self._ledger.open()

    def put(self, report: Report, request: Request, decode: Callable[[], str]) -> Report:
        """Take a finished report; return it with its notice and the parts that failed meanwhile.

        `decode` makes the response's text; it is called only if a notice may depend on it. Of plain
        scored responses only the policy's sample goes to the sinks; every report has a flag for the
        sample, because rates use sampled responses only. A report with a notice goes there once the
        notice is settled: at once in this process, where the caller has the report, unless the
        response was broken off; by `deliver` or `lost` from a server.
        """
        report = self._ledger.decide(report, request, decode)
        faults = (*report.faults, *self._faults())
        sampled = self._policy().samples(report.id)
        report = dataclasses.replace(report, faults=faults, sampled=sampled)
        if report.notice is None:
            if sampled or not _is_plain(report):
                self._send(report)
        elif report.finish in ("cancelled", "error") or self._is_abandoned(report.call):
            report = self._settle(report, None)
        elif request.carrier == "process":
            report = self._settle(report, "field")
        else:
            self._hold(report)
        return report

    def deliver(self, report: Report, channel: Channel) -> None:
        """Declare that a server gave the notice of a report to its client. Idempotent.

        Never raises. Does nothing for a report without a notice, or one that was settled before.
        """
        if self._release(report):
            self._settle(report, channel)

    def lost(self, report: Report) -> None:
        """Declare that a report's notice did not reach its client: as `deliver`, and due again."""
        if self._release(report):
            self._settle(report, None)

    def abandon(self, call: str) -> None:
        """Declare that the client of a call is gone: its notices, also later ones, are lost."""
        with self._lock:
            self._abandoned.append(call)
            keys = [key for key, (report, _) in self._pending.items() if report.call == call]
            lost = [self._pending.pop(key)[0] for key in keys]
        for report in lost:
            self._settle(report, None)

    def waiting(self, call: str | None = None) -> list[Report]:
        """Return the reports whose notices are on their way, those of one call if it is named."""
        with self._lock:
            pending = [report for report, _ in self._pending.values()]
        return [report for report in pending if call in (None, report.call)]

    def overdue(self) -> int:
        """Return how many notices are late by more than one response, or stuck on their way."""
        now = self._ledger.now()
        with self._lock:
            began = [moment for _, moment in self._pending.values()]
        stuck = sum(elapsed(moment, now) > SLOW_SECONDS for moment in began)
        return self._ledger.late(now) + stuck

    def alert(self, alert: Alert) -> None:
        """Keep an alert raised while a response is generated, and call `on_alert` with it.

        Its text goes to `on_alert` only.
        """
        self.alerts.append(dataclasses.replace(alert, text=""))
        self._calls.send(alert)

    def flush(self, timeout: float) -> bool:
        """Wait until the sinks have seen every report; False when they need longer."""
        parts = self._delivery, self._calls, self._ledger
        done = [part.flush(timeout) for part in parts]  # each, also after one that needs longer
        return all(done)

    def close(self, timeout: float) -> None:
        """Count notices that are still on their way as lost, flush, and end the sinks' threads."""
        for report in self.waiting():
            self.lost(report)
        for part in (self._delivery, self._calls, self._ledger):
            part.close(timeout)

    def _hold(self, report: Report) -> None:
        """Keep a report until its notice is settled; it is lost at once if its client is gone."""
        now, lost = self._ledger.now(), report
        with self._lock:  # as `abandon`, so that one of the two finds the other
            if report.call not in self._abandoned:
                self._pending[id(report)] = report, now
                if len(self._pending) <= MOST_PENDING:
                    return
                _, (lost, _) = self._pending.popitem(last=False)
        self._settle(lost, None)

    def _release(self, report: Report) -> bool:
        """Return whether a report was held; it no longer is."""
        with self._lock:
            return self._pending.pop(id(report), None) is not None

    def _is_abandoned(self, call: str) -> bool:
        with self._lock:
            return call in self._abandoned

    def _settle(self, report: Report, channel: Channel | None) -> Report:
        settled = self._ledger.settle(report, channel)
        self._send(settled)
        return settled

    def _send(self, report: Report) -> None:
        self._delivery.send(report.without_text())

    def _faults(self) -> tuple[str, ...]:
        """Return the parts that failed since the last call, one entry per failure."""
        parts = self._delivery, self._calls, self._ledger
        faults = [fault for part in parts for fault in part.faults()]
        for name, sink in self._counting:
            faults += [name] * sink.faults()
        return tuple(faults)

    def _after_fork(self) -> None:
        """Leave the sinks to the parent, where they serve, lock and write; keep the notices."""
        self._lock = threading.Lock()
        self._delivery.after_fork(AFTER_FORK)
        self._calls.after_fork()
        self._ledger.after_fork()


def _name(sink: Sink) -> str:
    return f"sink:{type(sink).__name__}"


def _is_plain(report: Report) -> bool:
    went_well = report.status in ("scored", "uncalibrated") and report.finish != "halted"
    return went_well and not (report.steered or report.faults or report.denied)


def _returning_nothing(call: Callable[[Alert], None]) -> Callable[[Alert], tuple[Alert, ...]]:
    def take(alert: Alert) -> tuple[Alert, ...]:
        call(alert)
        return ()

    return take
