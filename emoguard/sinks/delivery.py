"""Carries reports to sinks and alerts to a callback, off the generation path."""

from __future__ import annotations

import atexit
import logging
import threading
import time
from collections import deque
from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING, Generic, TypeVar

if TYPE_CHECKING:
    from emoguard.records import Alert

Item = TypeVar("Item")
Taker = tuple[str, "Callable[[Item], Iterable[Alert]]"]

log = logging.getLogger("emoguard")

BACKLOG = 256
"""Reports a sink may be behind before further ones are dropped."""

EXIT_SECONDS = 2.0
"""How long the end of the process waits for a sink that still has reports to take."""


class Delivery(Generic[Item]):
    """One daemon thread and one bounded queue per taker, so that a blocked one delays no other.

    `takers` are named functions; the alerts they return are logged and go to `alerts`. If a taker
    raises on an item, or its queue is full, the item is dropped for that taker, counted in `faults`
    and logged the first time.
    """

    def __init__(self, takers: Iterable[Taker[Item]], alerts: deque[Alert]) -> None:
        self._lanes = [_Lane(name, take, alerts) for name, take in takers]

    def send(self, item: Item) -> None:
        """Hand one item to every taker and return at once."""
        for lane in self._lanes:
            lane.send(item)

    def faults(self) -> tuple[str, ...]:
        """Return the takers that failed since the last call, one entry per failure."""
        return tuple(fault for lane in self._lanes for fault in lane.take_faults())

    def flush(self, timeout: float) -> bool:
        """Wait until every taker has seen everything sent so far; False when time ran out."""
        end = time.monotonic() + timeout
        done = [lane.flush(max(0.0, end - time.monotonic())) for lane in self._lanes]
        return all(done)

    def after_fork(self, refusal: str | None = None) -> None:
        """Start afresh in a forked child: the parent delivers the queues.

        With a `refusal` the takers belong to the parent: from now on everything fails with it.
        """
        for lane in self._lanes:
            lane.after_fork(refusal)

    def close(self, timeout: float) -> None:
        """Deliver the queues, within `timeout` seconds in all, and end the threads.

        Items still queued then are dropped and counted; a thread blocked by its sink ends when the
        sink returns.
        """
        end = time.monotonic() + timeout
        for lane in self._lanes:
            lane.close(max(0.0, end - time.monotonic()))


class _Lane(Generic[Item]):
    """The queue and the thread of one taker; never more than one thread, so items keep order."""

    def __init__(
        self, name: str, take: Callable[[Item], Iterable[Alert]], alerts: deque[Alert]
    ) -> None:
        self._take = take
        self._name = name
        self._alerts = alerts
        self._faults: deque[str] = deque(maxlen=BACKLOG)
        self._logged = False
        self.after_fork(None)

    def after_fork(self, refusal: str | None) -> None:
        self._refusal = refusal
        self._changed = threading.Condition()
        self._waiting: deque[Item] = deque()
        self._sent = self._done = 0
        self._closing = False
        self._thread: threading.Thread | None = None

    def send(self, item: Item) -> None:
        if self._refusal is not None:
            self._fail(self._refusal)
            return
        try:
            with self._changed:
                full = len(self._waiting) >= BACKLOG
                if not full:
                    self._start()
                    self._waiting.append(item)
                    self._sent += 1
                    self._changed.notify_all()
        except RuntimeError as error:  # the system allows no more threads
            self._fail(str(error))
        else:
            if full:
                self._fail("it is too slow: a report was dropped")

    def take_faults(self) -> list[str]:
        with self._changed:
            taken = list(self._faults)
            self._faults.clear()
        return taken

    def flush(self, timeout: float) -> bool:
        with self._changed:
            target = self._sent
            return self._changed.wait_for(lambda: self._done >= target, timeout)

    def close(self, timeout: float) -> None:
        with self._changed:
            thread, self._closing = self._thread, self._thread is not None
            self._changed.notify_all()
        if thread is None:
            return
        thread.join(timeout)
        if thread.is_alive():
            self._drop_waiting()

    def _drop_waiting(self) -> None:
        with self._changed:
            dropped = len(self._waiting)
            self._waiting.clear()
            self._done += dropped
        for _ in range(dropped):
            self._fail("it did not end in time: a report was dropped")

    def _start(self) -> None:
        if self._thread is None:
            thread = threading.Thread(target=self._run, name=self._name, daemon=True)
            thread.start()
            self._thread = thread
            # Without this the last reports of a script that does not close would be lost.
            atexit.register(self.close, EXIT_SECONDS)

    def _run(self) -> None:
        while (item := self._next()) is not None:
            try:
                for alert in self._take(item):
                    self._alerts.append(alert)
                    log.warning("%s: %s: %s", alert.monitor, alert.label, alert.message)
            except BaseException as error:  # noqa: BLE001  (whatever a sink does stays in its lane)
                self._fail(f"{type(error).__name__}: {error}")
            with self._changed:
                self._done += 1
                self._changed.notify_all()

    def _next(self) -> Item | None:
        """Wait for an item; None, and the end of this lane's thread, when closing and empty."""
        with self._changed:
            self._changed.wait_for(lambda: self._waiting or self._closing)
            if self._waiting:
                return self._waiting.popleft()
            self._thread, self._closing = None, False
            atexit.unregister(self.close)
            return None

    def _fail(self, why: str) -> None:
        with self._changed:
            self._faults.append(self._name)
            first, self._logged = not self._logged, True
        if first:
            log.error("%s failed, its report is dropped (logged once): %s", self._name, why)
