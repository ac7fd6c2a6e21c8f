from dataclasses import replace

import numpy as np
import pytest
from emoguard_page import Traffic, operators
from emoguard_rate import RateMonitor

from emoguard import EmoGuardError, Request
from emoguard.records import Alert
from emoguard.testing import check_sink, every_kind_of_report, make_report


def test_it_is_a_sink():
    check_sink(Traffic)


def test_the_last_reports_are_kept_with_their_numbers():
    traffic = Traffic(keep=3)
    reports = [make_report(Request(id=str(n))) for n in range(5)]
    for report in reports:
        traffic.report(report)
    kept = [(number, report.id) for number, report in traffic.since(0)]
    assert kept == [(3, "2"), (4, "3"), (5, "4")]
    assert [number for number, _ in traffic.since(4)] == [5]
    assert traffic.since(5) == traffic.since(99) == []


def test_no_token_of_anybody_is_kept():
    traffic = Traffic()
    traffic.report(make_report(Request(scores="tokens")))
    assert [report.tokens for _, report in traffic.since(0)] == [()]


def test_all_reports_are_counted_also_those_no_longer_kept():
    traffic = Traffic(keep=1)
    kinds = every_kind_of_report()
    for report in kinds:
        traffic.report(replace(report, faults=("sink:AuditLog",)))
    counts = traffic.counts()
    assert sum(counts["status"].values()) == traffic.taken == len(kinds)
    assert counts["fault"] == {"sink:AuditLog": len(kinds)}
    assert counts["notice"] == {"given": 1, "lost": 1}
    assert counts["denied"]["plan"] == sum("plan" in report.denied for report in kinds)


def test_nothing_to_keep_is_refused():
    with pytest.raises(EmoGuardError, match="keep: wanted 1 or more reports to show, got 0"):
        Traffic(keep=0)


@pytest.mark.parametrize("report", every_kind_of_report())
def test_a_row_has_numbers_and_no_conversation(report):
    report = replace(report, conversation="whose it is")
    row = operators.row(7, report, ["sad", "happy", "unknown"], window=16)
    assert row["number"] == 7
    assert len(row["ranks"]) == len(row["crossings"]) == 3
    assert row["ranks"][2] is None
    assert "whose it is" not in str(row)


def test_evidence_is_a_share_of_the_alarm_limit():
    monitor = RateMonitor({"happy": 0.4, "sad": 0.4}, arl_responses=1000)
    traffic = Traffic()
    traffic.join([monitor])
    assert operators.state(traffic, None)["rate"] == {"happy": 0, "sad": 0}
    flagged = make_report(rows=np.full((40, 2), [3, 0], np.float32))
    shares, alerts = [], []
    while not alerts:
        shares.append(operators.state(traffic, None)["rate"]["happy"])
        alerts = monitor.report(flagged)
    assert shares == sorted(shares)
    assert 0 < shares[-1] < 1
    assert operators.state(traffic, None)["rate"]["happy"] == 0  # forgotten with the alarm


@pytest.mark.parametrize(
    ("monitor", "section"),
    [("rate", "EmoGuardRateExceeded"), ("drift", "EmoGuardDriftDetected"), ("own", None)],
)
def test_an_alert_leads_to_its_section_of_the_runbook(monitor, section):
    shown = operators.alert(Alert(monitor, "sad", "warning", "too often", "r1"), 5.0)
    assert (shown["section"], shown["at"], shown["id"]) == (section, 5.0, "r1")
