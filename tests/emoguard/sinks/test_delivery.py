import dataclasses
import logging
import os
import signal
import subprocess
import sys
import threading
import time
from collections import deque

import pytest

from emoguard import Alert, Guard, Request
from emoguard.sinks.delivery import BACKLOG, Delivery
from emoguard.testing import (
    BlockedSink,
    FailingSink,
    FakeResiduals,
    ListSink,
    make_probe,
    make_report,
)

REPORT = make_report()


def named(name):
    return dataclasses.replace(REPORT, id=str(name))


@pytest.fixture
def open_delivery():
    opened = []

    def make(*sinks):
        opened.append(Delivery(takers(sinks), deque(maxlen=16)))
        return opened[-1]

    yield make
    for delivery in opened:
        delivery.close(10)
    assert lanes() == [], "a thread is left after close"


def takers(sinks):
    return [(f"sink:{type(sink).__name__}", sink.report) for sink in sinks]


OTHERS = set()


@pytest.fixture(scope="module", autouse=True)
def others():
    """Note the threads of guards that other files of tests left open."""
    OTHERS.update(threading.enumerate())


def lanes():
    return [t for t in threading.enumerate() if t.name.startswith("sink:") and t not in OTHERS]


def test_reports_arrive_in_order_and_alerts_are_collected():
    alerts, sink = deque(maxlen=5), ListSink(alerting=True)
    delivery = Delivery(takers([sink]), alerts)
    for n in range(100):
        delivery.send(named(n))
    delivery.close(10)
    assert [r.id for r in sink.reports] == [str(n) for n in range(100)]
    assert [a.report_id for a in alerts] == ["95", "96", "97", "98", "99"]
    assert lanes() == []


def test_every_alert_of_a_monitor_is_logged(open_delivery, caplog):
    delivery = open_delivery(ListSink(alerting=True))
    with caplog.at_level(logging.WARNING, "emoguard"):
        delivery.send(REPORT)
        delivery.send(REPORT)
        assert delivery.flush(10)
    assert [r.getMessage() for r in caplog.records] == ["list: happy: a report came"] * 2


def test_a_failing_sink_is_counted_each_time_and_logged_once(open_delivery, caplog):
    delivery = open_delivery(FailingSink())
    with caplog.at_level(logging.ERROR, "emoguard"):
        for n in range(3):
            delivery.send(named(n))
        assert delivery.flush(10)
    assert delivery.faults() == ("sink:FailingSink",) * 3
    assert delivery.faults() == ()
    assert [r.getMessage() for r in caplog.records] == [
        "sink:FailingSink failed, its report is dropped (logged once): RuntimeError: cannot take 0"
    ]


class LeavingSink:
    """Calls sys.exit on the first report, as careless code does."""

    def __init__(self):
        self.seen = 0

    def report(self, report):
        self.seen += 1
        if self.seen == 1:
            sys.exit("enough")
        return ()


def test_a_sink_that_leaves_the_thread_is_a_failing_sink(open_delivery):
    sink = LeavingSink()
    delivery = open_delivery(sink)
    delivery.send(REPORT)
    delivery.send(REPORT)
    assert delivery.flush(10)
    assert sink.seen == 2
    assert delivery.faults() == ("sink:LeavingSink",)


def test_other_sinks_are_served_while_one_fails_and_one_blocks(open_delivery):
    blocked, healthy = BlockedSink(), ListSink()
    delivery = open_delivery(FailingSink(), blocked, healthy)
    try:
        delivery.send(REPORT)
        assert not delivery.flush(0.05)
        assert healthy.reports == [REPORT]
    finally:
        blocked.release.set()
    assert delivery.flush(10)


def test_a_blocked_sink_never_delays_and_its_lost_reports_are_counted(open_delivery):
    blocked = BlockedSink()
    delivery = open_delivery(blocked)
    try:
        delivery.send(REPORT)
        while delivery._lanes[0]._waiting:
            pass  # until the sink holds the first report
        start = time.perf_counter()
        for _ in range(BACKLOG + 7):
            delivery.send(REPORT)
        assert time.perf_counter() - start < 1
        assert delivery.faults() == ("sink:BlockedSink",) * 7
    finally:
        blocked.release.set()


def test_timeouts_hold_over_all_sinks_together(open_delivery):
    sinks = [BlockedSink() for _ in range(5)]
    delivery = open_delivery(*sinks)
    try:
        delivery.send(REPORT)
        delivery.send(REPORT)
        start = time.perf_counter()
        assert not delivery.flush(0.1)
        delivery.close(0.1)
        assert time.perf_counter() - start < 1
        assert delivery.faults() == ("sink:BlockedSink",) * 5  # the one report each still had
    finally:
        for sink in sinks:
            sink.release.set()


def test_a_lane_that_was_closed_while_blocked_works_again(open_delivery):
    class Gate(ListSink):
        def __init__(self):
            super().__init__()
            self.open = threading.Event()
            self.inside = 0
            self.most = 0

        def report(self, report):
            self.inside += 1
            self.most = max(self.most, self.inside)
            self.open.wait()
            super().report(report)
            self.inside -= 1
            return ()

    gate = Gate()
    delivery = open_delivery(gate)
    delivery.send(named(1))
    delivery.close(0.05)
    delivery.send(named(2))
    gate.open.set()
    assert delivery.flush(10)
    delivery.send(named(3))
    assert delivery.flush(10)
    assert [r.id for r in gate.reports] == ["1", "2", "3"]
    assert gate.most == 1, "two threads called one sink"


def test_use_after_close_works_and_close_is_idempotent(open_delivery):
    sink = ListSink()
    delivery = open_delivery(sink)
    for n in range(3):
        delivery.send(named(n))
        delivery.close(10)
        delivery.close(10)
        assert lanes() == []
    assert [r.id for r in sink.reports] == ["0", "1", "2"]


def test_nothing_is_lost_when_threads_send_while_another_closes(open_delivery):
    sink = ListSink()
    delivery = open_delivery(sink)
    done = threading.Event()

    def send(start):
        for n in range(start, start + 60):
            delivery.send(named(n))

    def close():
        while not done.is_set():
            delivery.close(10)

    senders = [threading.Thread(target=send, args=(start,)) for start in (0, 60, 120)]
    closer = threading.Thread(target=close)
    for thread in (closer, *senders):
        thread.start()
    for thread in senders:
        thread.join()
    done.set()
    closer.join()
    assert delivery.flush(10)
    assert sorted(int(r.id) for r in sink.reports) == list(range(180))
    assert delivery.faults() == ()


def test_without_reports_there_is_no_thread():
    delivery = Delivery(takers([ListSink()]), deque())
    assert delivery.flush(0)
    delivery.close(0)
    assert lanes() == []


def test_the_last_report_of_a_script_that_does_not_close_arrives():
    code = """
import time
from emoguard import Guard, Request
from emoguard.testing import FakeResiduals, make_probe, make_report
class Slow:
    def report(self, report):
        time.sleep(0.2)
        print("arrived", flush=True)
        return ()
Guard(make_probe(FakeResiduals()), sinks=[Slow()]).outbox.put(make_report(), Request(), str)
"""
    out = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True)
    assert out.stdout == "arrived\n"


def test_a_forked_child_leaves_the_sinks_to_its_parent_and_says_so(caplog):
    sink = ListSink()
    with Guard(make_probe(FakeResiduals()), sinks=[sink]) as guard:
        guard.outbox.put(REPORT, Request(), str)
        assert guard.flush()
        child = os.fork()
        if not child:
            faults = [guard.outbox.put(REPORT, Request(), str).faults for _ in range(2)]
            sound = (
                faults == [(), ("sink:ListSink",)]
                and guard.flush()
                and len(sink.reports) == 1
                and "before this process was forked" in caplog.text
            )
            os._exit(0 if sound else 1)
        assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
        guard.outbox.put(REPORT, Request(), str)
        assert guard.flush()
    assert len(sink.reports) == 2


def test_a_child_forked_while_every_lock_is_held_does_not_wait():
    sink = BlockedSink()
    with Guard(make_probe(FakeResiduals()), sinks=[sink]) as guard:
        guard.outbox.put(REPORT, Request(), str)
        locks = guard.outbox._lock, guard.outbox._ledger._lock, guard.outbox._delivery._lanes[0]
        with locks[0], locks[1], locks[2]._changed:
            child = os.fork()
        if not child:
            signal.alarm(20)
            guard.outbox.put(REPORT, Request(), str)
            guard.outbox.overdue()
            guard.close(1)
            os._exit(0)
        sink.release.set()
        assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0


def test_callbacks_go_on_in_a_forked_child():
    called = []
    with Guard(make_probe(FakeResiduals()), on_alert=called.append) as guard:
        child = os.fork()
        if not child:
            guard.outbox.alert(Alert("a", "sad", "info", "message", "r"))
            os._exit(0 if guard.flush() and called else 1)
        assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
    assert not called
