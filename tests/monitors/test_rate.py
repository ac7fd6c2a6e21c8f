import dataclasses
import doctest
import json
import time
from importlib.metadata import entry_points

import numpy as np
import pytest
from emoguard_rate import RateDetector, RateMonitor
from emoguard_rate import detector as detector_module
from emoguard_rate import monitor as monitor_module
from hypothesis import given
from hypothesis import strategies as st

from emoguard import EmoGuardError, Guard, Policy
from emoguard.records import LabelScore
from emoguard.sinks.policy import AlarmPolicy
from emoguard.testing import (
    FAKE_IDENTITY,
    FakeResiduals,
    check_sink,
    every_kind_of_report,
    make_calibration,
    make_probe,
    make_report,
    make_site,
)

RATES = {"happy": 0.4, "sad": 0.4}
USUAL = make_report()
PROBE = make_probe(FakeResiduals())


def flagged(label="happy", crossings=1):
    scores = {
        name: LabelScore(0.0, 1.0, 0.5, crossings if name == label else 0)
        for name in ("happy", "sad")
    }
    return dataclasses.replace(USUAL, scores=scores)


def monitor(**options):
    return RateMonitor(RATES, **({"arl_responses": 1000} | options))


def alarms(sink, reports):
    return [alert for report in reports for alert in sink.report(report)]


def test_it_is_a_conforming_sink():
    check_sink(monitor)
    check_sink(lambda: RateMonitor({}))


def test_the_entry_point_names_it():
    (point,) = entry_points(group="emoguard.monitors", name="rate")
    assert point.load() is RateMonitor


@pytest.mark.parametrize("module", [detector_module, monitor_module])
def test_the_docstring_examples_are_true(module):
    assert doctest.testmod(module).failed == 0


@given(
    seed=st.integers(0, 1000),
    rate=st.floats(1e-5, 0.01),
    exposure=st.floats(1, 2000),
    arl=st.floats(1, 1e5),
)
def test_evidence_is_the_mean_of_the_formula_over_bets(seed, rate, exposure, arl):
    rng = np.random.default_rng(seed)
    result, plain = RateDetector([rate], arl), [0.0] * 5
    for hit in rng.random(20) < 0.3:
        alarmed = result.update([0] if hit else [], exposure)
        for n, bet in enumerate(detector_module.BETS):
            plain[n] = (1 + plain[n]) * (1 + bet * hit) * np.exp(-bet * rate * exposure)
        assert alarmed == ((0,) if hit and np.mean(plain) >= arl else ())
        if alarmed:
            plain = [0.0] * 5
        assert np.allclose(result.evidence[:, 0], plain)


@pytest.mark.parametrize("length", [49, 1009])
def test_false_alarms_are_as_rare_as_stated(length):
    """At exactly the certified rate, of responses of either length, 14 labels together."""
    rng = np.random.default_rng(length)
    detector = RateDetector([0.00007] * 14, arl=2000)
    actual = sum(
        bool(detector.update(np.flatnonzero(rng.random(14) < 0.00007 * length).tolist(), length))
        for _ in range(40_000)
    )
    assert actual <= 20


def test_clustered_crossings_of_one_response_count_once():
    sink, other = monitor(), monitor()
    sink.report(flagged(crossings=1))
    other.report(flagged(crossings=50))
    assert np.array_equal(sink._detector.evidence, other._detector.evidence)


def test_a_tenfold_rate_is_found_and_named():
    rng = np.random.default_rng(0)
    sink = monitor(arl_responses=100_000)
    reports = [flagged("sad") if rng.random() < 0.004 * 25 else USUAL for _ in range(400)]
    alerts = alarms(sink, reports)
    assert {alert.label for alert in alerts} == {"sad"}
    assert alerts[0].monitor == "rate"
    assert "certified 0.4 per 1,000 tokens" in alerts[0].message
    assert sink.alarms() == {"happy": 0, "sad": len(alerts)}


def test_unscored_unexposed_and_foreign_responses_do_not_count():
    sink = monitor(identity=FAKE_IDENTITY.digest)
    for report in [
        *(r for r in every_kind_of_report() if r.status != "scored" or r.short),
        dataclasses.replace(flagged(), identity="another"),
        dataclasses.replace(flagged(), sampled=False),
    ]:
        sink.report(report)
    assert not sink._detector.evidence.any()


def test_attention_sinks_are_no_exposure():
    def evidence(report):
        sink = monitor()
        sink.report(report)
        return sink._detector.evidence

    marked = make_report(tokens=40, attention_sinks=10)
    assert np.array_equal(evidence(marked), evidence(make_report(tokens=30)))
    assert not np.array_equal(evidence(marked), evidence(make_report(tokens=40)))


def test_a_restart_keeps_the_evidence(tmp_path):
    path = tmp_path / "rate.json"
    reports = [flagged() if n % 13 == 0 else USUAL for n in range(120)]
    whole, before = monitor(), monitor(state=path)
    wanted = alarms(whole, reports)
    alerts = alarms(before, reports[:70])
    before.close()
    after = monitor(state=path)
    alerts += alarms(after, reports[70:])
    assert wanted
    assert alerts == wanted
    assert np.array_equal(after._detector.evidence, whole._detector.evidence)


def test_killed_it_loses_at_most_fifty_responses(tmp_path):
    path = tmp_path / "rate.json"
    before, plain = monitor(state=path), monitor()
    for n in range(149):
        before.report(USUAL)
        if n < 100:
            plain.report(USUAL)
    del before  # and never closed
    after = monitor(state=path)
    assert after._responses == 100
    assert np.array_equal(after._detector.evidence, plain._detector.evidence)


def test_a_state_that_cannot_be_written_costs_no_alert_and_no_report(tmp_path, caplog):
    sink, plain = monitor(state=tmp_path / "gone" / "rate.json"), monitor()
    reports = [flagged()] * 20 + [USUAL] * 50
    alerts = alarms(sink, reports)
    assert len(alerts) > 1
    assert alerts == alarms(plain, reports)
    assert sink.faults() > 2
    assert sink.faults() == 0
    sink.close()
    assert sink.faults() == 1
    assert sum("(logged once)" in record.message for record in caplog.records) == 1


def test_a_state_of_other_rates_is_not_taken_over(tmp_path):
    path = tmp_path / "rate.json"
    sink = monitor(state=path)
    sink.report(flagged())
    sink.close()
    other = RateMonitor({"happy": 0.5, "sad": 0.4}, arl_responses=1000, state=path)
    assert not other._detector.evidence.any()


@pytest.mark.parametrize(
    "change",
    [
        lambda saved: "no json",
        lambda saved: json.dumps([]),
        lambda saved: json.dumps(saved | {"state": 3}),
        lambda saved: json.dumps(saved | {"state": {}}),
        lambda saved: json.dumps(saved | {"state": saved["state"] | {"evidence": [[1]]}}),
        lambda saved: json.dumps(saved | {"state": saved["state"] | {"evidence": [[-1, 0]] * 5}}),
        lambda saved: json.dumps(saved | {"state": saved["state"] | {"flagged": {}}}),
    ],
)
def test_a_broken_state_is_set_aside_counted_and_said(tmp_path, change, caplog):
    path = tmp_path / "rate.json"
    monitor(state=path).close()
    broken = change(json.loads(path.read_text()))
    path.write_text(broken)
    sink = monitor(state=path)
    assert not sink._detector.evidence.any()
    assert sink.faults() == 1
    assert "it is now rate.json.aside-1" in caplog.text
    assert (tmp_path / "rate.json.aside-1").read_text() == broken
    sink.close()
    assert monitor(state=path).faults() == 0


@pytest.mark.parametrize("arl", [0, -5, float("nan")])
def test_a_run_length_of_no_response_is_refused(arl):
    for make in (
        lambda: monitor(arl_responses=arl),
        lambda: RateMonitor.from_policy(make_site(), arl_responses=arl),
        lambda: RateMonitor.check_policy(arl_responses=arl),
    ):
        with pytest.raises(EmoGuardError, match=r"arl_responses: wanted .* at least 1, got"):
            make()


def test_from_a_policy_it_watches_labels_at_their_certified_bound():
    guard = Guard(PROBE, [make_calibration(PROBE, FAKE_IDENTITY)])
    site = guard.site(FAKE_IDENTITY)
    sink = RateMonitor.from_policy(site, arl_responses=500)
    assert sink.rates == {label: t.bound for label, t in site.thresholds.items()}
    sink.report(flagged())
    assert sink._detector.evidence.any()
    nothing = Policy(alarms=AlarmPolicy(rate_per_1000_tokens=1e-6))
    site = make_site(nothing, calibrated=True)
    assert RateMonitor.from_policy(site).rates == {}


def test_a_report_costs_microseconds():
    labels = [f"label{n}" for n in range(14)]
    sink = RateMonitor(dict.fromkeys(labels, 0.07))
    scores = {label: LabelScore(0.0, 1.0, 0.5, 0) for label in labels}
    report = dataclasses.replace(USUAL, scores=scores)
    best = min(_seconds(sink, report) for _ in range(5))
    assert best < 100e-6


def _seconds(sink, report):
    start = time.perf_counter()
    for _ in range(200):
        sink.report(report)
    return (time.perf_counter() - start) / 200
