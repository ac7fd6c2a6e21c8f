from __future__ import annotations

import asyncio
import dataclasses
import gc
import http.client
import math
import socket
import statistics
import subprocess
import time
import urllib.request
from importlib.metadata import entry_points
from typing import ClassVar

import prometheus_client
import psutil
import pytest
from emoguard_prometheus import PrometheusExporter, asgi_app, serve, wsgi_app
from emoguard_prometheus.notices import PARTS
from emoguard_prometheus.server import check_port
from hypothesis import given
from hypothesis import strategies as st
from prometheus_client import CollectorRegistry, generate_latest

import emoguard
from emoguard import EmoGuardError, Guard, Policy, Request
from emoguard.notices.policy import NoticePolicy
from emoguard.policy.reload import PolicyFile
from emoguard.records import STATUSES, Alert, LabelScore, Notice, Receipt
from emoguard.sinks.open import open_sinks
from emoguard.site import Site
from emoguard.testing import (
    FailingSink,
    FakeResiduals,
    check_sink,
    make_calibration,
    make_probe,
    make_reading,
    make_report,
    make_session,
    make_site,
    put_reading,
)
from tests.support import binaries

LABELS = tuple(f"label{n}" for n in range(14))
PROFILES = ("eu_art50", "us_ny_1702", "us_ca_sb243", "us_wa_2225", "us_ut_452", "cn_2026")
METRICS = {
    "build_info": ("gauge", "version backend model probe policy"),
    "probe_provisional": ("gauge", ""),
    "responses": ("counter", "model status"),
    "response_tokens": ("counter", "model"),
    "response_rank_ratio": ("histogram", "model emotion"),
    "crossings": ("counter", "model emotion"),
    "alarm_target_ratio": ("gauge", "model emotion"),
    "steering_tokens": ("counter", "model emotion outcome"),
    "steering_dose_ratio_max": ("gauge", "model"),
    "notices": ("counter", "model profile reason channel"),
    "notices_overdue": ("gauge", ""),
    "notices_undelivered": ("counter", ""),
    "requests_denied": ("counter", "part"),
    "rate_alarms": ("counter", "model emotion"),
    "drift_evidence": ("gauge", "model emotion"),
    "drift_alarms": ("counter", "model emotion"),
    "overhead_seconds": ("histogram", ""),
    "last_response_timestamp_seconds": ("gauge", ""),
    "calibration_timestamp_seconds": ("gauge", ""),
    "baseline_timestamp_seconds": ("gauge", ""),
    "errors": ("counter", "part"),
    "policy_last_reload_successful": ("gauge", ""),
    "label_overflow": ("counter", ""),
    "audit_lines": ("counter", ""),
}


class StuckDrift:
    """A drift monitor that says the same at every scrape."""

    baseline_created = 1_700_000_000.0

    def evidence(self):
        return {"sad": 0.25, "furious": 9.0}

    def alarms(self):
        return {"happy": 2}


class StuckRate:
    """A monitor of rates that says the same at every scrape."""

    rates: ClassVar = {"sad": 0.1}

    def evidence(self):
        return {"sad": 0.5}

    def alarms(self):
        return {"sad": 3}


class CountedLog:
    """An audit log of which only the length is known."""

    lines = 7


def steered(**changes) -> Receipt:
    plan = {"add": {"happy": 0.1}, "cap": {"sad": 0.99, "happy": 0.5}}
    fields = {"plan": plan, "asked": None, "layers": (1,), "bound": 0.2, "dose_median": 0.05}
    counts = {"dose_max": 0.125, "applied": 30, "clipped": 4, "faulted": 1}
    return Receipt(**(fields | counts | changes))


def full(registry: CollectorRegistry | None = None) -> PrometheusExporter:
    """Return an exporter as large as it gets."""
    return exporter(registry, emotions=LABELS, profiles=PROFILES, sinks=("A", "B", "C", "D"))


def busy_report():
    """Return a report with a score, a rank and a crossing for each of fourteen labels."""
    score = LabelScore(mean=0.1, peak=0.9, rank=0.6, crossings=1)
    plan = {"add": dict.fromkeys(LABELS[:2], 0.1)}
    return dataclasses.replace(
        make_report(), scores=dict.fromkeys(LABELS, score), receipt=steered(plan=plan)
    )


def exporter(registry: CollectorRegistry | None = None, **options) -> PrometheusExporter:
    return PrometheusExporter(
        registry, **({"emotions": ("happy", "sad"), "model": "fake"} | options)
    )


def value(sink: PrometheusExporter, name: str, **labels: str) -> float | None:
    return sink.registry.get_sample_value(f"emoguard_{name}", labels)


def series(sink: PrometheusExporter) -> set[str]:
    return {
        f"{sample.name}{sorted(sample.labels.items())}"
        for metric in sink.registry.collect()
        for sample in metric.samples
    }


def test_it_is_a_conforming_sink():
    check_sink(exporter)


def test_the_entry_point_names_it():
    (point,) = entry_points(group="emoguard.exporters", name="prometheus")
    assert point.load() is PrometheusExporter


@pytest.mark.parametrize("name", ["emotions", "profiles", "sinks"])
def test_one_text_is_not_taken_for_a_list_of_letters(name):
    with pytest.raises(EmoGuardError, match=f'{name}: wanted a list of names, got "happy"'):
        PrometheusExporter(**({"emotions": LABELS, "model": "m"} | {name: "happy"}))


def test_every_series_exists_before_the_first_report():
    sink = exporter()
    before = series(sink)
    for status in STATUSES:
        sink.report(dataclasses.replace(make_report(), status=status, faults=("reading",)))
    assert series(sink) == before
    assert value(sink, "responses_total", model="fake", status="incomplete") == 1
    assert value(sink, "label_overflow_total") == 0


def test_build_info_describes_the_process():
    sink = exporter(backend="llamacpp-native", probe="p@1234")
    assert (
        value(
            sink,
            "build_info",
            version=emoguard.__version__,
            backend="llamacpp-native",
            model="fake",
            probe="p@1234",
            policy="default",
        )
        == 1
    )


@pytest.mark.parametrize("quick", [True, False])
def test_a_provisional_probe_is_marked(quick):
    site = make_site()
    probe = dataclasses.replace(site.probe, recipe={"provisional": quick})
    sink = PrometheusExporter.from_policy(dataclasses.replace(site, probe=probe), port=0)
    try:
        assert value(sink, "probe_provisional") == quick
    finally:
        sink.close()


def test_a_scored_report_is_counted_once_everywhere():
    sink, report = exporter(), make_report(tokens=40, seconds=0.003)
    sink.report(report)
    assert value(sink, "responses_total", model="fake", status="scored") == 1
    assert value(sink, "response_tokens_total", model="fake") == 40
    assert value(sink, "overhead_seconds_sum") == pytest.approx(0.003)
    assert value(sink, "last_response_timestamp_seconds") == report.created
    for label, score in report.scores.items():
        assert value(sink, "response_rank_ratio_sum", model="fake", emotion=label) == pytest.approx(
            score.rank
        )


@pytest.mark.parametrize(("rank", "edge"), [(0.0, "0.1"), (0.5, "0.5"), (0.97, "0.99")])
def test_ranks_fall_into_the_first_bucket_that_holds_them(rank, edge):
    sink = exporter()
    score = LabelScore(mean=0.0, peak=None, rank=rank)
    sink.report(dataclasses.replace(make_report(), scores={"sad": score}))
    buckets = {
        sample.labels["le"]: sample.value
        for metric in sink.registry.collect()
        for sample in metric.samples
        if sample.name == "emoguard_response_rank_ratio_bucket"
        and sample.labels["emotion"] == "sad"
    }
    assert next(le for le, count in buckets.items() if count == 1) == edge


def test_reasoning_tokens_and_unscored_responses_add_no_tokens():
    sink, report = exporter(), make_report()
    phases = {"preparation": 1, "reasoning": 30, "response": 9}
    sink.report(dataclasses.replace(report, phases=phases))
    sink.report(make_report(fault="RuntimeError: broken"))
    assert value(sink, "response_tokens_total", model="fake") == 10
    sink.report(make_report(tokens=40, attention_sinks=3))
    assert value(sink, "response_tokens_total", model="fake") == 47


def test_an_uncalibrated_report_has_no_rank():
    sink = exporter()
    score = LabelScore(mean=1.0, peak=None, rank=None)
    sink.report(dataclasses.replace(make_report(), status="uncalibrated", scores={"sad": score}))
    assert value(sink, "response_rank_ratio_count", model="fake", emotion="sad") == 0


def test_outside_the_sample_only_steering_notices_and_faults_are_counted():
    sink = exporter(sinks=())
    receipt = Receipt({"add": {"sad": 0.1}}, None, (1,), 0.1, 0.05, 0.06, 40, 1, 0)
    notice = Notice("steered", ("steered",), (), "Words.", 1, "en", channel="field")
    score = LabelScore(mean=1.0, peak=2.0, rank=0.9, crossings=3)
    outside = dataclasses.replace(
        make_report(),
        sampled=False,
        scores={"sad": score},
        receipt=receipt,
        notice=notice,
        faults=("steering",),
    )
    sink.report(outside)
    at = {"model": "fake", "emotion": "sad"}
    assert value(sink, "response_tokens_total", model="fake") == 0
    assert value(sink, "response_rank_ratio_count", **at) == 0
    assert value(sink, "crossings_total", **at) == 0
    assert value(sink, "responses_total", model="fake", status="scored") == 0
    assert value(sink, "steering_tokens_total", outcome="applied", **at) == 40
    assert value(sink, "errors_total", part="steering") == 1
    argument = {"profile": "none", "reason": "steered", "channel": "field"}
    assert value(sink, "notices_total", model="fake", **argument) == 1
    sink.report(dataclasses.replace(outside, sampled=True))
    assert value(sink, "crossings_total", **at) == 3


def test_faults_are_counted_by_part():
    sink = exporter(sinks=("FailingSink",))
    faults = ("reading", "sink:FailingSink", "sink:FailingSink")
    sink.report(dataclasses.replace(make_report(), faults=faults))
    assert value(sink, "errors_total", part="reading") == 1
    assert value(sink, "errors_total", part="sink:FailingSink") == 2


def test_a_failing_callback_is_counted_under_its_own_name():
    def fail(_alert):
        raise RuntimeError("on purpose")

    probe = make_probe(FakeResiduals())
    sink = exporter()
    with Guard(probe, sinks=[sink], on_alert=fail) as guard:
        guard.outbox.alert(Alert("crossing", "happy", "warning", "rose", "r"))
        assert guard.flush()
        put_reading(guard, make_reading(), Request())
        assert guard.flush()
    assert value(sink, "errors_total", part="callback") == 1
    assert value(sink, "label_overflow_total") == 0


def test_a_failing_neighbour_reaches_the_error_counter():
    door = FakeResiduals()
    probe = make_probe(door)
    sink = exporter(sinks=("FailingSink",))
    calibrations = [make_calibration(probe, door.identity)]
    with Guard(probe, calibrations, sinks=[sink, FailingSink()]) as guard:
        for _ in range(2):
            put_reading(guard, make_reading(), Request())
            assert guard.flush()
    assert value(sink, "responses_total", model="fake", status="scored") == 2
    assert value(sink, "errors_total", part="sink:FailingSink") == 1


@given(name=st.text(max_size=60))
def test_hostile_names_add_no_series(name):
    sink = exporter()
    before = series(sink)
    report = make_report(tokens=3)
    scores = {name: LabelScore(mean=0.0, peak=None, rank=0.5)}
    sink.report(dataclasses.replace(report, model=name, status=name, faults=(name,)))
    sink.report(dataclasses.replace(report, scores=scores, probe=name, backend=name))
    assert series(sink) == before
    generate_latest(sink.registry)


def test_names_that_cannot_be_encoded_do_not_break_the_page():
    sink = exporter(emotions=("\ud800",), model="a\udfff", probe='"\ud800\n')
    sink.report(dataclasses.replace(make_report(), model="a\udfff"))
    page = generate_latest(sink.registry).decode()
    assert 'emoguard_responses_total{model="a?",status="scored"} 1.0' in page


def test_unknown_values_become_other_and_are_counted():
    sink = exporter()
    scores = {"furious": LabelScore(mean=0.0, peak=None, rank=0.5)}
    report = make_report()
    sink.report(dataclasses.replace(report, scores=scores, faults=("sink:Unheard",)))
    sink.report(dataclasses.replace(report, model="another"))
    assert value(sink, "response_rank_ratio_count", model="fake", emotion="other") == 1
    assert value(sink, "response_rank_ratio_count", model="other", emotion="other") == 2
    assert value(sink, "responses_total", model="other", status="scored") == 1
    assert value(sink, "errors_total", part="other") == 1
    assert value(sink, "label_overflow_total") == 3


def test_nothing_about_the_caller_is_exported():
    sink = exporter()
    sink.report(dataclasses.replace(make_report(), id="id-4711", conversation="with-alice"))
    text = generate_latest(sink.registry).decode()
    assert "4711" not in text
    assert "alice" not in text


def test_no_created_series_and_the_process_keeps_its_own_setting():
    registry = CollectorRegistry()
    prometheus_client.Counter("theirs_total", "Somebody else's.", registry=registry)
    sink = exporter(registry)
    names = {sample.name for metric in registry.collect() for sample in metric.samples}
    assert {name for name in names if name.endswith("_created")} == {"theirs_created"}
    assert "emoguard_responses_total" in names
    assert sink.registry is registry


def test_the_series_stay_few_for_fourteen_labels_and_all_notice_profiles():
    assert len(series(full())) <= 600


def test_ten_thousand_responses_with_hostile_names_add_no_series():
    sink, report = full(), busy_report()
    before = series(sink)
    for n in range(10_000):
        name = f'{n}"\n{{}}\u2028'
        odd = dataclasses.replace(report, model=name) if n % 2 else report
        scores = {name: LabelScore(mean=0.0, peak=None, rank=0.5, crossings=1)}
        sink.report(dataclasses.replace(odd, scores=scores, status=name, faults=(name,)))
        sink.notices.given(name, name, name, name)
    assert series(sink) == before
    assert value(sink, "crossings_total", model="fake", emotion="other") == 5000
    assert value(sink, "crossings_total", model="other", emotion="other") == 5000


def test_a_page_takes_less_than_fifty_milliseconds():
    sink = full()
    sink.report(busy_report())
    with serve(sink, 0) as server:
        seconds = [timed(lambda: urllib.request.urlopen(server.url).read()) for _ in range(9)]
    assert statistics.median(seconds) < 0.05


def test_a_report_costs_less_than_a_tenth_of_a_millisecond():
    sink, report = full(), busy_report()
    seconds = [timed(lambda: sink.report(report)) for _ in range(500)]
    assert statistics.median(seconds) < 1e-4


def timed(work) -> float:
    began = time.perf_counter()
    work()
    return time.perf_counter() - began


@pytest.mark.slow
def test_memory_does_not_grow_with_responses():
    sink, report = full(), busy_report()
    for _ in range(2_000):
        sink.report(report)
    gc.collect()
    before = psutil.Process().memory_info().rss
    for _ in range(100_000):
        sink.report(report)
    assert psutil.Process().memory_info().rss - before < 2**20


def test_a_second_exporter_in_one_registry_is_refused():
    registry = CollectorRegistry()
    exporter(registry)
    with pytest.raises(ValueError, match="emoguard"):
        exporter(registry)


def test_names_types_and_labels_are_those_of_the_documentation():
    results = {}
    for metric in full().registry.collect():
        (labels,) = {" ".join(k for k in sample.labels if k != "le") for sample in metric.samples}
        results[metric.name.removeprefix("emoguard_")] = (metric.type, labels)
        assert metric.name.startswith("emoguard_")
        assert metric.documentation.endswith(".")
    assert results == METRICS


def test_promtool_finds_nothing_to_say_about_a_live_page():
    promtool, sink = binaries.promtool(), full()
    sink.report(busy_report())
    with serve(sink, 0) as server, urllib.request.urlopen(server.url, timeout=5) as answer:
        page = answer.read()
    checked = subprocess.run(
        [promtool, "check", "metrics"], input=page, capture_output=True, check=False
    )
    assert (checked.returncode, checked.stdout, checked.stderr) == (0, b"", b"")


def test_crossings_are_counted_and_held_against_their_target():
    sink = exporter(targets={"sad": 7e-5})
    score = LabelScore(mean=0.0, peak=2.5, rank=0.5, crossings=3)
    uncertified = LabelScore(mean=0.0, peak=2.5, rank=0.5, crossings=None)
    scores = {"sad": score, "happy": uncertified}
    sink.report(dataclasses.replace(make_report(), scores=scores))
    assert value(sink, "crossings_total", model="fake", emotion="sad") == 3
    assert value(sink, "crossings_total", model="fake", emotion="happy") == 0
    assert value(sink, "alarm_target_ratio", model="fake", emotion="sad") == 7e-5
    assert math.isnan(value(sink, "alarm_target_ratio", model="fake", emotion="happy"))


def test_a_receipt_is_counted_for_each_emotion_of_its_plan_once():
    sink = exporter()
    sink.report(dataclasses.replace(make_report(), receipt=steered()))
    sink.report(dataclasses.replace(make_report(), receipt=steered(dose_max=0.0625)))
    for emotion in ("happy", "sad"):
        for outcome, tokens in {"applied": 60, "clipped": 8, "faulted": 2}.items():
            labels = {"model": "fake", "emotion": emotion, "outcome": outcome}
            assert value(sink, "steering_tokens_total", **labels) == tokens
    assert value(sink, "steering_dose_ratio_max", model="fake") == 0.125


def test_a_receipt_without_a_token_or_with_an_unknown_label_is_taken():
    sink = exporter()
    receipt = steered(plan={"ablate": ("furious",)}, dose_max=None, dose_median=None)
    sink.report(dataclasses.replace(make_report(), receipt=receipt))
    labels = {"model": "fake", "emotion": "other", "outcome": "applied"}
    assert value(sink, "steering_tokens_total", **labels) == 30
    assert value(sink, "steering_dose_ratio_max", model="fake") == 0


NOTICE = Notice("ai", ("interval", "claim"), ("cn_2026",), "An AI.", 1, "en", channel="field")


def test_a_notice_is_counted_for_each_of_its_profiles_and_reasons():
    sink = exporter(profiles=["cn_2026"])
    sink.report(dataclasses.replace(make_report(), notice=NOTICE))
    labels = {"model": "fake", "profile": "cn_2026", "reason": "interval", "channel": "field"}
    assert value(sink, "notices_total", **labels) == 1
    assert value(sink, "notices_total", **(labels | {"reason": "claim"})) == 1
    assert value(sink, "notices_total", **(labels | {"reason": "start"})) == 0
    assert value(sink, "notices_undelivered_total") == 0


def test_a_notice_that_no_profile_demands_is_counted_too():
    sink = exporter()
    steered = dataclasses.replace(NOTICE, reasons=("steered",), profiles=())
    sink.report(dataclasses.replace(make_report(), notice=steered))
    labels = {"model": "fake", "profile": "none", "reason": "steered", "channel": "field"}
    assert value(sink, "notices_total", **labels) == 1
    assert value(sink, "label_overflow_total") == 0


def test_a_lost_notice_is_counted_as_undelivered_and_not_as_given():
    sink = exporter(profiles=["cn_2026"])
    lost = dataclasses.replace(NOTICE, channel=None)
    sink.report(dataclasses.replace(make_report(), notice=lost))
    assert value(sink, "notices_undelivered_total") == 1
    labels = {"model": "fake", "profile": "cn_2026", "reason": "interval", "channel": "field"}
    assert value(sink, "notices_total", **labels) == 0


def test_a_notice_of_an_unknown_profile_is_counted_as_other():
    sink = exporter()
    sink.report(dataclasses.replace(make_report(), notice=NOTICE))
    labels = dict.fromkeys(("model", "profile", "reason", "channel"), "other")
    assert value(sink, "notices_total", **labels) == value(sink, "label_overflow_total") == 2


def test_overdue_notices_are_asked_for_at_each_scrape():
    sink = exporter()
    policy = Policy(notices=NoticePolicy(profiles=("eu_art50",)))
    with Guard(make_probe(FakeResiduals()), policy=policy, sinks=[sink]) as guard:
        results = []
        for _ in range(3):
            results.append(value(sink, "notices_overdue"))
            session = make_session(Request(conversation="c"))
            put_reading(guard, session.reading("cancelled"), session.request, session.text)
        assert [*results, value(sink, "notices_overdue")] == [0, 0, 1, 1]


def test_denied_fields_of_requests_are_counted():
    sink = exporter()
    sink.report(dataclasses.replace(make_report(), denied=("plan", "scores")))
    sink.report(dataclasses.replace(make_report(), denied=("plan", "moon")))
    counted = {part: value(sink, "requests_denied_total", part=part) for part in PARTS}
    assert counted == {"plan": 2, "scores": 1, "channel": 0, "conversation": 0}
    assert value(sink, "requests_denied_total", part="other") == 1


def test_a_scrape_asks_the_sinks_that_were_joined():
    sink = exporter()
    before = series(sink)
    sink.join([sink, StuckRate(), StuckDrift(), CountedLog()])
    assert value(sink, "rate_alarms_total", model="fake", emotion="sad") == 3
    assert value(sink, "drift_evidence", model="fake", emotion="sad") == 0.25
    assert value(sink, "drift_evidence", model="fake", emotion="other") == 0
    assert value(sink, "drift_alarms_total", model="fake", emotion="happy") == 2
    assert value(sink, "baseline_timestamp_seconds") == StuckDrift.baseline_created
    assert value(sink, "audit_lines_total") == 7
    added = {name for name in series(sink) - before if "errors" not in name}
    assert not added


def test_failures_of_joined_sinks_are_told_apart():
    sink = exporter(sinks=())
    sink.join([sink, FailingSink()])
    sink.report(dataclasses.replace(make_report(), faults=("sink:FailingSink", "steering")))
    assert value(sink, "errors_total", part="sink:FailingSink") == 1
    assert value(sink, "errors_total", part="steering") == 1
    assert value(sink, "label_overflow_total") == 0


def test_the_state_of_the_policy_file_is_asked_at_each_scrape():
    state = {"successful": True}
    sink = exporter(policy_successful=lambda: state["successful"])
    assert value(sink, "policy_last_reload_successful") == 1
    state["successful"] = False
    assert value(sink, "policy_last_reload_successful") == 0
    assert value(exporter(), "policy_last_reload_successful") == 1


def site(text: str, tmp_path) -> Site:
    (tmp_path / "policy.yml").write_text(text)
    file, door = PolicyFile(tmp_path / "policy.yml"), FakeResiduals()
    probe = make_probe(door)
    guard = Guard(probe, [make_calibration(probe, door.identity)], file)
    return guard.site(door.identity, "fake")


def test_a_policy_opens_it_with_targets_and_serves_it_until_closed(tmp_path):
    place = site("sinks: [{prometheus: {port: 0}}]", tmp_path)
    with open_sinks(place) as (sink,):
        (target,) = {t.bound / 1000 for t in place.thresholds.values()}
        assert value(sink, "alarm_target_ratio", model="fake", emotion="sad") == target
        assert value(sink, "calibration_timestamp_seconds") == place.calibration.created > 0
        assert value(sink, "policy_last_reload_successful") == 1
        (tmp_path / "policy.yml").write_text("version: 2")
        place.policy_file.refresh()
        url = sink.url
        with urllib.request.urlopen(url, timeout=5) as answer:
            page = answer.read().decode()
        assert "emoguard_policy_last_reload_successful 0.0" in page
        assert 'policy="policy.yml"' in page
    with pytest.raises(OSError):
        urllib.request.urlopen(url, timeout=5)


def test_it_can_be_mounted_in_a_wsgi_server():
    sink, shown = exporter(), []
    app = wsgi_app(sink)
    environ = {"REQUEST_METHOD": "GET", "PATH_INFO": "/", "QUERY_STRING": ""}
    (body,) = app(environ, lambda status, headers: shown.append(status))
    assert shown == ["200 OK"]
    assert b"emoguard_build_info" in body


def test_it_can_be_mounted_in_an_asgi_server():
    scope = {"type": "http", "method": "GET", "path": "/", "query_string": b"", "headers": []}
    sent = []

    async def receive():
        return {"type": "http.request", "body": b"", "more_body": False}

    async def send(message):
        sent.append(message)

    asyncio.run(asgi_app(exporter())(scope, receive, send))
    assert sent[0]["status"] == 200
    assert b"emoguard_build_info" in sent[1]["body"]


def test_metrics_are_served_on_loopback_until_closed():
    sink = exporter()
    with serve(sink, 0) as server:
        sink.report(make_report())
        with urllib.request.urlopen(server.url, timeout=5) as answer:
            body = answer.read().decode()
        assert server.url == f"http://127.0.0.1:{server.port}/metrics"
        assert 'emoguard_responses_total{model="fake",status="scored"} 1.0' in body
    server.close()
    with socket.socket() as probe:
        assert probe.connect_ex(("127.0.0.1", server.port)) != 0


def test_the_url_of_an_ipv6_address_can_be_opened():
    try:
        server = serve(exporter(), 0, "::1")
    except EmoGuardError:
        pytest.skip("this machine has no IPv6")
    with server, urllib.request.urlopen(server.url, timeout=5) as answer:
        assert answer.status == 200
    assert server.url == f"http://[::1]:{server.port}/metrics"


def test_a_port_in_use_is_one_sentence():
    with serve(exporter(), 0) as server, pytest.raises(EmoGuardError, match="another port"):
        serve(exporter(), server.port)


@pytest.mark.parametrize("host", ["nowhere.invalid", "192.0.2.1"])
def test_a_host_that_is_not_this_machine_is_one_sentence(host):
    for refuse in (lambda: serve(exporter(), 0, host), lambda: check_port(0, host)):
        with pytest.raises(EmoGuardError, match=f"{host} port 0 .*: choose another host"):
            refuse()


@pytest.mark.parametrize(
    ("headers", "status"),
    [
        ({}, 200),
        ({"Host": "localhost:1"}, 200),
        ({"Host": "evil.example"}, 403),
        ({"Origin": "https://evil.example"}, 403),
    ],
)
def test_no_page_of_another_site_reads_the_metrics(headers, status):
    with serve(PrometheusExporter(emotions=["happy"], model="m"), 0) as server:
        connection = http.client.HTTPConnection("127.0.0.1", server.port)
        connection.request("GET", "/metrics", headers=headers)
        assert connection.getresponse().status == status
        connection.close()


def test_a_connection_that_sends_nothing_is_closed(monkeypatch, capfd):
    monkeypatch.setattr("emoguard_prometheus.server.PATIENCE_SECONDS", 0.1)
    with serve(exporter(), 0) as server:
        for sent in (b"", b"GET /metrics HTTP/1.1\r\nhost: localh"):
            with socket.create_connection(("127.0.0.1", server.port), 10) as connection:
                connection.sendall(sent)
                assert connection.recv(1) == b""
        with urllib.request.urlopen(server.url, timeout=5) as answer:
            assert answer.status == 200
    assert capfd.readouterr().err == ""


def test_the_label_of_the_model_can_be_set_and_others_stay_others():
    sink = PrometheusExporter(emotions=["sad"], model="fake.gguf", model_label="chat")
    sink.report(dataclasses.replace(make_report(), model="fake.gguf"))
    sink.report(dataclasses.replace(make_report(), model="another"))
    page = generate_latest(sink.registry).decode()
    assert "fake.gguf" not in page
    assert 'emoguard_responses_total{model="chat",status="scored"} 1.0' in page
    assert 'emoguard_responses_total{model="other",status="scored"} 1.0' in page
    assert 'model="chat"' in next(row for row in page.splitlines() if "build_info{" in row)


def test_the_label_of_the_model_can_be_set_in_a_policy():
    sink = PrometheusExporter.from_policy(make_site(), port=0, model_label="chat")
    try:
        assert 'model="chat"' in generate_latest(sink.registry).decode()
    finally:
        sink.close()
