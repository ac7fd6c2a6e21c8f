"""Carries finished reports to sinks, off the generation path."""

from __future__ import annotations

import logging
import queue
import threading
from collections import deque
from collections.abc import Iterable
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from emoguard.protocols import Sink
    from emoguard.records import Alert, Report

log = logging.getLogger("emoguard")

BACKLOG = 256
"""Reports a sink may be behind before further ones are dropped."""


class Delivery:
    """One daemon thread and one bounded queue per sink: a sink that blocks delays nobody.

    A report that a sink raises on, or that finds its queue full, is dropped for that sink, counted
    in `faults` and logged the first time.
    """

    def __init__(self, sinks: Iterable[Sink], alerts: deque[Alert]) -> None:
        self._lanes = [_Lane(sink, alerts) for sink in sinks]

    def send(self, report: Report) -> None:
        """Hand one report to every sink and return at once."""
        for lane in self._lanes:
            lane.send(report)

    def faults(self) -> tuple[str, ...]:
        """Return the sinks that failed since the last call, one entry per failure."""
        return tuple(fault for lane in self._lanes for fault in lane.take_faults())

    def flush(self, timeout: float) -> bool:
        """Wait until every sink has seen everything sent so far; False when time ran out."""
        done = [lane.flush(timeout) for lane in self._lanes]
        return all(done)

    def close(self, timeout: float) -> None:
        """Deliver what is queued, within `timeout` seconds per sink, and end the threads."""
        for lane in self._lanes:
            lane.close(timeout)


class _Lane:
    def __init__(self, sink: Sink, alerts: deque[Alert]) -> None:
        self._sink = sink
        self._name = f"sink:{type(sink).__name__}"
        self._alerts = alerts
        self._queue: queue.Queue[Report | threading.Event | None] = queue.Queue(BACKLOG)
        self._faults: deque[str] = deque(maxlen=BACKLOG)
        self._logged = False
        self._thread: threading.Thread | None = None
        self._lock = threading.Lock()

    def send(self, report: Report) -> None:
        self._start()
        try:
            self._queue.put_nowait(report)
        except queue.Full:
            self._fail("it is too slow: a report was dropped")

    def take_faults(self) -> list[str]:
        with self._lock:
            taken = list(self._faults)
            self._faults.clear()
        return taken

    def flush(self, timeout: float) -> bool:
        done = threading.Event()
        if self._thread is None:
            return True
        try:
            self._queue.put(done, timeout=timeout)
        except queue.Full:
            return False
        return done.wait(timeout)

    def close(self, timeout: float) -> None:
        thread, self._thread = self._thread, None
        if thread is None:
            return
        try:
            self._queue.put(None, timeout=timeout)
        except queue.Full:
            return
        thread.join(timeout)

    def _start(self) -> None:
        with self._lock:
            if self._thread is None:
                self._thread = threading.Thread(target=self._run, name=self._name, daemon=True)
                self._thread.start()

    def _run(self) -> None:
        while (item := self._queue.get()) is not None:
            if isinstance(item, threading.Event):
                item.set()
                continue
            try:
                self._alerts.extend(self._sink.report(item))
            except Exception as error:  # noqa: BLE001  (whatever a sink does stays in its lane)
                self._fail(f"{type(error).__name__}: {error}")

    def _fail(self, why: str) -> None:
        with self._lock:
            self._faults.append(self._name)
            first, self._logged = not self._logged, True
        if first:
            log.error("%s failed, its report is dropped (logged once): %s", self._name, why)
