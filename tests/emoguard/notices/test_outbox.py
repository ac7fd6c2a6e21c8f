"""Which reports and alerts reach sinks and callbacks, and when."""

import dataclasses

import numpy as np

from emoguard import Alert, Guard, Plan, Policy, Request
from emoguard.runtime.reading import Steered
from emoguard.steering.prepare import prepare
from emoguard.testing import (
    FailingSink,
    ListSink,
)
from tests.support.guards import CALIBRATION, PROBE, put, report


def test_publish_tells_sinks_and_names_those_that_failed_before():
    sink = ListSink(alerting=True)
    with Guard(PROBE, sinks=[sink, FailingSink()]) as guard:
        first = put(guard, report(guard))
        assert first.faults == ()
        assert guard.flush()
        second = put(guard, report(guard, fault="x"))
        assert second.faults == ("reading", "sink:FailingSink")
        assert guard.flush()
        assert sink.reports == [first, second]
        assert [alert.report_id for alert in guard.alerts] == ["r", "r"]


def test_alerts_are_bounded_by_the_policy():
    with Guard(PROBE, policy=Policy(keep_reports=3), sinks=[ListSink(alerting=True)]) as guard:
        for name in "abcde":
            put(guard, dataclasses.replace(report(guard), id=name))
        assert guard.flush()
        assert [alert.report_id for alert in guard.alerts] == ["c", "d", "e"]


def sampled(policy, reports):
    sink = ListSink()
    with Guard(PROBE, [CALIBRATION], policy, [sink]) as guard:
        for result in reports:
            put(guard, result)
    return sink.reports


def test_sinks_are_told_of_a_sample_of_plain_responses_chosen_by_id():
    reports = [report(request=Request(id=f"r{n}")) for n in range(200)]
    policy = Policy(sample_ratio=0.25)
    seen = sampled(policy, reports)
    assert [r.id for r in seen] == [r.id for r in reports if policy.samples(r.id)]
    assert 25 < len(seen) < 80


def test_sinks_are_told_of_every_response_that_was_steered_halted_or_went_wrong():
    plain = report()
    steered = prepare(Plan(add={"happy": 0.05}), PROBE, CALIBRATION, 0.1)
    moves = np.full(40, 0.01, np.float32), np.zeros(40, bool), np.zeros(40, bool)
    others = [
        report(steered=Steered(steered, *moves)),
        report(finish="halted", halted="why"),
        report(finish="cancelled"),
        report(fault="RuntimeError: broken"),
        report(rows=np.full((40, 2), np.nan, np.float32)),
    ]
    assert len(sampled(Policy(sample_ratio=0.0), [plain, *others])) == len(others)


def test_a_report_says_whether_it_belongs_to_the_sample():
    policy = Policy(sample_ratio=0.25)
    reports = [report(request=Request(id=f"r{n}"), finish="halted") for n in range(50)]
    seen = sampled(policy, reports)
    assert [r.sampled for r in seen] == [policy.samples(r.id) for r in reports]
    assert {r.sampled for r in seen} == {True, False}


def test_a_callback_that_raises_is_counted_and_disturbs_nothing(caplog):
    def broken(_alert):
        raise RuntimeError("injected")

    alert = Alert("crossing", "happy", "warning", "rose", "r")
    with Guard(PROBE, [CALIBRATION], on_alert=broken) as guard:
        guard.outbox.alert(alert)
        guard.flush()
        assert put(guard, report()).faults == ("callback",)
        assert list(guard.alerts) == [alert]
    assert "callback failed" in caplog.text
