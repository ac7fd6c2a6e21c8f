import dataclasses
import doctest
import json
from importlib.metadata import entry_points

import numpy as np
import pytest
from emoguard_drift import DriftMonitor
from emoguard_drift import monitor as monitor_module

from emoguard import EmoGuardError, Policy
from emoguard.records import LabelScore, Receipt
from emoguard.sinks.baseline import Baseline
from emoguard.sinks.policy import DriftPolicy
from emoguard.sinks.protocols import Drift
from emoguard.testing import FAKE_IDENTITY, check_sink, every_kind_of_report, make_report, make_site

USUAL = make_report()
LABELS = ("happy", "sad")
RECEIPT = Receipt({}, None, (1,), 0.1, 0.05, 0.05, 40, 0, 0)


def traffic(count, shift=(0.0, 0.0), seed=0):
    rng = np.random.default_rng(seed)
    for row in rng.normal(shift, 1, (count, 2)).tolist():
        scores = {label: LabelScore(z, None, 0.5) for label, z in zip(LABELS, row, strict=True)}
        yield dataclasses.replace(USUAL, scores=scores)


BASELINE = Baseline.learn(traffic(2500))
OLD = Baseline.learn(traffic(2500), 50)
"""As earlier versions wrote them: fifty means of fifty responses."""

SHIFTED = list(traffic(2500, (0.0, 0.8), seed=1))


def monitor(**options):
    return DriftMonitor(BASELINE, **options)


def alarms(sink, reports):
    return [alert for report in reports for alert in sink.report(report)]


def test_it_is_a_conforming_sink_and_shows_its_evidence():
    check_sink(monitor)
    check_sink(DriftMonitor)
    assert isinstance(monitor(), Drift)


def test_the_entry_point_names_it():
    (point,) = entry_points(group="emoguard.monitors", name="drift")
    assert point.load() is DriftMonitor


def test_the_docstring_example_is_true():
    assert doctest.testmod(monitor_module).failed == 0


def test_unchanged_streams_do_not_alarm():
    assert alarms(monitor(), traffic(20_000, seed=2)) == []


def test_it_does_not_wait_for_a_block_to_end():
    sink = monitor()
    assert any(sink.report(report) for report in traffic(40, (0.0, 2.0), seed=3))


def test_a_shift_is_found_in_the_label_that_moved():
    sink = monitor()
    alerts = alarms(sink, SHIFTED)
    assert {alert.label for alert in alerts} == {"sad"}
    assert "moved up" in alerts[0].message
    assert sink.alarms() == {"happy": 0, "sad": len(alerts)}
    assert alarms(monitor(), traffic(2500, (-0.8, 0), seed=1))[0].label == "happy"


def test_evidence_reaches_one_where_it_alarms():
    sink, before = monitor(), 0.0
    for report in SHIFTED:
        if sink.report(report):
            break
        before = sink.evidence()["sad"]
    assert 0.3 < before < 1
    assert sink.evidence()["sad"] == 0


def test_without_a_baseline_it_is_learning():
    sink = DriftMonitor(None, LABELS)
    assert sink.learning
    assert sink.baseline_created is None
    assert alarms(sink, SHIFTED) == []
    assert sink.evidence() == {"happy": 0, "sad": 0}
    assert not monitor().learning
    assert monitor().baseline_created == BASELINE.created


def test_responses_outside_traffic_never_count():
    sink = monitor()
    sink.report(SHIFTED[0])
    before = sink.evidence()
    for report in [
        dataclasses.replace(SHIFTED[0], receipt=RECEIPT),
        dataclasses.replace(SHIFTED[0], sampled=False),
        dataclasses.replace(SHIFTED[0], identity="another"),
        dataclasses.replace(SHIFTED[0], probe="another"),
        dataclasses.replace(SHIFTED[0], scores={"sad": SHIFTED[0].scores["sad"]}),
        *(r for r in every_kind_of_report() if r.status != "scored"),
    ]:
        sink.report(report)
    assert sink.evidence() == before
    sink.report(SHIFTED[1])
    assert sink.evidence() != before


@pytest.mark.parametrize("at", [1, 49, 50, 777])
def test_a_restart_keeps_the_evidence(tmp_path, at):
    path = tmp_path / "drift.json"
    whole, before = monitor(), monitor(state=path)
    wanted = alarms(whole, SHIFTED[:1500])
    alerts = alarms(before, SHIFTED[:at])
    before.close()
    after = monitor(state=path)
    alerts += alarms(after, SHIFTED[at:1500])
    assert wanted
    assert alerts == wanted
    assert after.evidence() == whole.evidence()


def test_killed_it_loses_at_most_fifty_responses(tmp_path):
    path = tmp_path / "drift.json"
    usual = list(traffic(349, seed=4))
    before = monitor(state=path)
    alarms(before, usual)
    del before  # and never closed
    whole = monitor()
    alarms(whole, usual[:300])
    assert monitor(state=path).evidence() == whole.evidence()
    assert [p.name for p in tmp_path.iterdir()] == ["drift.json"]


def test_a_state_that_cannot_be_written_costs_no_alert_and_no_report(tmp_path, caplog):
    sink, plain = monitor(state=tmp_path / "gone" / "drift.json"), monitor()
    alerts = alarms(sink, SHIFTED)
    assert len(alerts) > 1
    assert alerts == alarms(plain, SHIFTED)
    assert sink.faults() > 2
    sink.close()
    assert sum("(logged once)" in record.message for record in caplog.records) == 1


def test_a_state_of_another_baseline_is_not_taken_over(tmp_path):
    path = tmp_path / "drift.json"
    sink = monitor(state=path)
    alarms(sink, SHIFTED[:300])
    sink.close()
    other = DriftMonitor(Baseline.learn(traffic(2500, seed=9)), state=path)
    assert set(other.evidence().values()) == {0}
    assert (tmp_path / "drift.json.aside-1").exists(), "nothing saved is lost"


def test_a_state_of_an_earlier_version_is_set_aside_with_a_sentence(tmp_path, caplog):
    path = tmp_path / "drift.json"
    bound = {
        "baseline": OLD.digest,
        "labels": LABELS,
        "tolerance_rank": 0.1,
        "arl_blocks": 2000,
    }
    state = {"evidence": np.ones((2, 5, 2)).tolist(), "block": [[0.1, 0.2]]}
    path.write_text(json.dumps({"bound": bound, "state": state}))
    sink = DriftMonitor(OLD, state=path)
    assert set(sink.evidence().values()) == {0}
    assert "starting afresh" in caplog.text
    alarms(sink, SHIFTED[:300])
    sink.close()
    assert DriftMonitor(OLD, state=path).evidence() == sink.evidence()


def test_a_baseline_of_an_earlier_version_serves_and_says_it_could_be_quicker(tmp_path, caplog):
    path = tmp_path / "baseline.json"
    OLD.save(path)
    policy = Policy(drift=DriftPolicy(baseline=str(path)))
    sink = DriftMonitor.from_policy(make_site(policy))
    assert "alarms come sooner" in caplog.text
    assert alarms(sink, traffic(10_000, seed=2)) == []
    assert {alert.label for alert in alarms(sink, SHIFTED)} == {"sad"}


@pytest.mark.parametrize("block", [10, 50, 200])
def test_the_run_length_is_in_responses_for_any_baseline_blocks(block):
    limits = [
        DriftMonitor(baseline, block_responses=block, arl_blocks=100)._detector.limit * size
        for baseline, size in ((BASELINE, 1), (OLD, 50))
    ]
    assert limits == [200 * block] * 2


def muted(saved):
    """Return a detector's state in which no label would alarm for very long."""
    return saved["state"]["detector"] | {"resting": [1e9, 1e9]}


@pytest.mark.parametrize(
    "change",
    [
        lambda saved: "no json",
        lambda saved: json.dumps(saved | {"state": None}),
        lambda saved: json.dumps(saved | {"state": saved["state"] | {"detector": {}}}),
        lambda saved: json.dumps(saved | {"state": saved["state"] | {"sum": [0]}}),
        lambda saved: json.dumps(saved | {"state": saved["state"] | {"count": "x"}}),
        lambda saved: json.dumps(saved | {"state": saved["state"] | {"count": -(10**9)}}),
        lambda saved: json.dumps(saved | {"state": saved["state"] | {"count": 50}}),
        lambda saved: json.dumps(saved | {"state": saved["state"] | {"detector": muted(saved)}}),
        lambda saved: json.dumps(saved | {"state": saved["state"] | {"recent": ["x", 0]}}),
        lambda saved: json.dumps(saved | {"state": saved["state"] | {"recent": [float("nan"), 0]}}),
    ],
)
def test_a_broken_state_is_set_aside_counted_and_said(tmp_path, change, caplog):
    path = tmp_path / "drift.json"
    monitor(state=path).close()
    broken = change(json.loads(path.read_text()))
    path.write_text(broken)
    sink = monitor(state=path)
    assert set(sink.evidence().values()) == {0}
    assert sink.faults() == 1
    assert "it is now drift.json.aside-1" in caplog.text
    assert (tmp_path / "drift.json.aside-1").read_text() == broken


@pytest.mark.slow
def test_a_state_of_more_than_a_mebibyte_can_be_read_again(tmp_path):
    labels = tuple(f"label{n}" for n in range(5000))
    rows = np.random.default_rng(0).normal(size=(100, 5000))
    whole = Baseline("m", "i", "p", labels, 1, tuple(map(tuple, rows.tolist())), 0.0)
    path = tmp_path / "drift.json"
    sink = DriftMonitor(whole, state=path)
    scores = {label: LabelScore(0.1 + n / 7, None, 0.5) for n, label in enumerate(labels)}
    report = dataclasses.replace(make_report(), scores=scores, identity="i", probe="p")
    alarms(sink, [report] * 3)
    sink.close()
    assert path.stat().st_size > 2**20
    again = DriftMonitor(whole, state=path)
    assert again.faults() == 0
    assert again.evidence() == sink.evidence()


def test_from_a_policy_it_takes_the_baseline_that_is_named(tmp_path):
    path = tmp_path / "baseline.json"
    BASELINE.save(path)
    policy = Policy(drift=DriftPolicy(baseline=str(path), arl_blocks=100))
    site = dataclasses.replace(make_site(policy), labels=("sad",))
    sink = DriftMonitor.from_policy(site, state=str(tmp_path / "state.json"))
    assert sink.labels == ("sad",)
    assert alarms(sink, SHIFTED)
    sink.close()
    assert (tmp_path / "state.json").exists()
    assert not sink.learning
    assert DriftMonitor.from_policy(make_site()).learning
    for changes in (
        {"identity": dataclasses.replace(FAKE_IDENTITY, quantisation="Q2_K")},
        {"probe": dataclasses.replace(site.probe, name="another")},
    ):
        with pytest.raises(EmoGuardError, match="the baseline is for"):
            DriftMonitor.from_policy(dataclasses.replace(site, **changes))
    with pytest.raises(EmoGuardError, match="has no label calm"):
        DriftMonitor.from_policy(dataclasses.replace(site, labels=("calm",)))


def test_it_learns_until_the_baseline_is_there_and_says_so(tmp_path, caplog):
    path = tmp_path / "baseline.json"
    site = make_site(Policy(drift=DriftPolicy(baseline=str(path))))
    with caplog.at_level("WARNING", "emoguard"):
        assert DriftMonitor.from_policy(site).learning
    (record,) = caplog.records
    assert f"no baseline {path} yet" in record.getMessage()
    path.write_text("not a baseline")
    with pytest.raises(EmoGuardError, match="no sound baseline"):
        DriftMonitor.from_policy(site)
